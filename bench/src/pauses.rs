//! How long one write takes while the cleaner works: overwrites at random on a volume that is mostly full, with small zones and with large.

use crate::overwriting::Overwriting;
use crate::report::{Report, Row};
use crate::rig::Rig;
use anyhow::Result;
use harness::bytes::GIB;
use std::time::Duration;

/// Overwrites blocks of a volume of which `utilization` is used, one after another, and reports how long single writes took.
pub fn run(quick: bool, utilization: f64, policy: &str, report: &mut Report) -> Result<()> {
    let formats = if quick {
        [("1 MiB zones", "--size 256M --zone-size 1M"), ("16 MiB zones", "--size 1G --zone-size 16M")]
    } else {
        [("1 MiB zones", "--size 1G --zone-size 1M"), ("16 MiB zones", "--size 2G --zone-size 16M")]
    };
    for (name, format) in formats {
        let rig = Rig::new(3 * GIB)?;
        let mut load = Overwriting::new(&rig, format, policy, utilization, 2)?;
        load.pass(1, |_| {})?;
        let before = load.volume.status()?;
        let mut times = Vec::new();
        load.pass(1, |took| times.push(took))?;
        let after = load.volume.status()?;
        times.sort_unstable();
        let user = after.since(&before, "io/user_written")? as f64;
        let relocated = after.since(&before, "gc/relocated")? as f64;
        let seconds = times.iter().sum::<Duration>().as_secs_f64();
        let simulated = after.simulated();
        let what = format!("4 KiB overwrites at {:.0} %, {name}, {policy}", utilization * 100.0);
        report.add(Row::new(what, times.len() as f64 / seconds, "writes/s").simulated(simulated));
        for (part, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            report.add(Row::new(format!("  one write, {part}"), at(&times, permille), "us").simulated(simulated));
        }
        // Since the mount: the whole history, ageing included.
        for part in ["p50", "p99", "p999", "max"] {
            let waited = after.number(&format!("gc/pause_us/{part}"))? as f64;
            report.add(Row::new(format!("  waits for cleaning since the mount, {part}"), waited, "us").simulated(simulated));
        }
        let row = Row::new("  write amplification meanwhile", 1.0 + relocated / user, "").simulated(simulated);
        report.add(row.beside("analytic greedy", gc::sim::analytic_greedy(utilization)));
        let checkpoints = after.since(&before, "log/checkpoints")? as f64;
        report.add(Row::new("  user bytes per checkpoint", user / checkpoints.max(1.0) / f64::from(1 << 20), "MiB"));
    }
    Ok(())
}

/// Microseconds that so many thousandths of the sorted times do not exceed.
pub fn at(sorted: &[Duration], permille: usize) -> f64 {
    at_share(sorted, permille as f64 / 1000.0)
}

/// Microseconds that such a share of the sorted times does not exceed.
pub fn at_share(sorted: &[Duration], share: f64) -> f64 {
    // A share is no exact fraction: a rank that is whole but for that must not become the next one.
    let rank = ((sorted.len() as f64 * share - 1e-6).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        let times: Vec<Duration> = (1..=1000).map(Duration::from_micros).collect();
        assert_eq!([at(&times, 500), at(&times, 999), at(&times, 1000)].map(f64::round), [500.0, 999.0, 1000.0]);
        assert_eq!([at_share(&times, 0.99), at_share(&times, 0.9999)].map(f64::round), [990.0, 1000.0]);
        assert!(at(&[], 500).is_nan());
    }
}
