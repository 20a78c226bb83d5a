//! Write amplification of the real filesystem under uniform random overwrites, beside what theory says.

use crate::overwriting::Overwriting;
use crate::report::{Report, Row};
use crate::rig::Rig;
use anyhow::Result;
use harness::bytes::GIB;

/// Fills to `utilization` of the space and overwrites blocks at random: some passes to settle, then those that count.
pub fn run(quick: bool, utilization: f64, policy: &str, report: &mut Report) -> Result<()> {
    let (format, settle, measure) = if quick { ("--size 512M --zone-size 1M", 3, 1) } else { ("--size 1G --zone-size 1M", 5, 3) };
    let rig = Rig::new(2 * GIB)?;
    let mut load = Overwriting::new(&rig, format, policy, utilization, settle + measure)?;
    load.pass(settle, |_| {})?;
    let before = load.volume.status()?;
    load.pass(measure, |_| {})?;
    let after = load.volume.status()?;
    let user = after.since(&before, "io/user_written")? as f64;
    let relocated = after.since(&before, "gc/relocated")? as f64;
    let used = before.number("space/used")? as f64 / load.total as f64;
    let found = 1.0 + relocated / user;
    let analytic = gc::sim::analytic_greedy(utilization);
    let simulated = after.simulated();
    let what = format!("write amplification, uniform 4 KiB at {:.0} %, {policy}", utilization * 100.0);
    let row = Row::new(what, found, "").simulated(simulated);
    report.add(row.beside("analytic greedy", analytic).goal("within 10 %", (found / analytic - 1.0).abs() <= 0.1));
    report.add(Row::new("  space used of the total meanwhile", used * 100.0, "%"));
    let host = after.since(&before, "gc/host_read")? + after.since(&before, "gc/host_written")?;
    report.add(Row::new("  payload bytes of relocation through the host", host as f64, "bytes").simulated(simulated));
    let metadata = after.since(&before, "gc/meta_written")? as f64;
    report.add(Row::new("  metadata of cleaning per user byte", metadata / user * 100.0, "%"));
    let sent = after.since(&before, "io/device_written")? as f64;
    report.add(Row::new("  sent to the device by the host per user byte", sent / user, ""));
    Ok(())
}
