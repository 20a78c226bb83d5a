//! `ferrycopy` in a guest.

use harness::{Outcome, run};
use serde_json::Value;
use std::time::Duration;
use tests::mounted::programs;

const LIMIT: Duration = Duration::from_secs(300);

/// Runs the tool.
pub fn ferrycopy<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Outcome {
    run(programs().command("ferrycopy").unwrap().args(arguments), LIMIT).unwrap()
}

/// Runs the tool, which has to succeed, for its report.
#[track_caller]
pub fn report(arguments: &[&str]) -> Value {
    let outcome = ferrycopy(arguments);
    assert!(outcome.success(), "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Everything by the device, nothing through the host.
#[track_caller]
pub fn by_device(report: &Value, bytes: u64, road: &str) {
    assert_eq!((report["bytes"].as_u64(), report["offloaded"].as_u64()), (Some(bytes), Some(bytes)), "{report}");
    assert_eq!((report["host_read"].as_u64(), report["host_written"].as_u64()), (Some(0), Some(0)), "{report}");
    assert_eq!((report["route"].as_str(), report["simulated"].as_bool()), (Some(road), Some(false)), "{report}");
}
