//! Tests that run in a virtual machine, on real drivers. A test is one function: on the host [`in_guest`] boots a guest that runs this very test program for
//! this one test, and in the guest it calls the body.

pub mod fabrics;
pub mod nfs;
pub mod restrict;
pub mod rpc;
pub mod stacks;
pub mod targets;
pub mod tcmu;

use crate::skip::{has_program, skip};
use guest::Machine;
use std::ffi::OsString;

/// Runs `body` in a guest. `programs` are what it calls there besides what every Debian has; a guest sees those of the host.
///
/// # Panics
/// The body panicked, or the guest died.
pub fn in_guest<F: FnOnce()>(machine: Machine, programs: &[&str], body: F) {
    if guest::inside() {
        return body();
    }
    if !programs.iter().all(|program| has_program(program)) {
        return;
    }
    if let Err(error) = guest::prepare(&[machine.kernel()], &|doing| eprintln!("{doing}")) {
        return skip(&format!("no guest can be started: {error:#}"));
    }
    let name = test_name::<F>();
    let own = std::env::current_exe().expect("where this program is");
    let arguments = ["--exact", &name, "--include-ignored", "--nocapture", "--test-threads=1"].map(OsString::from);
    let command: Vec<OsString> = std::iter::once(own.into()).chain(arguments).collect();
    let mut machine = machine.variable("FERRYFS_BIN_DIR", crate::mounted::programs().directory()).variable("RUST_BACKTRACE", "1");
    for name in ["FERRYFS_QUICK", "FERRYFS_SEED", "RUST_LOG"] {
        if let Some(value) = std::env::var_os(name) {
            machine = machine.variable(name, value);
        }
    }
    let run = machine.run(&command).unwrap_or_else(|error| panic!("{error:#}"));
    eprint!("{}", run.outcome.stderr);
    // A name that fits no test is a success of none.
    let passed = run.outcome.success() && run.outcome.stdout.contains("test result: ok. 1 passed");
    assert!(passed, "in the guest: {}\n--- the guest's console\n{}", run.outcome, run.console_tail());
}

/// The name by which the test runner knows the test that `F` was written in: its path without the crate.
fn test_name<F>() -> String {
    let path = std::any::type_name::<F>();
    let function = path.split("::{{closure}}").next().unwrap_or(path);
    function.split_once("::").map_or(function, |(_, name)| name).to_owned()
}

/// Which boot of this guest it is, from 1 on.
///
/// # Panics
/// Outside a guest.
pub fn boot() -> u32 {
    let value = std::env::var(guest::program::INSIDE).expect("in a guest");
    value.parse().expect("the number of the boot")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of<F: FnOnce()>(_: F) -> String {
        test_name::<F>()
    }

    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(name_of(|| ()), "guest::tests::a_test_knows_its_name");
    }
}
