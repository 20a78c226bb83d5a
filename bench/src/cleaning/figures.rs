//! From counters to figures: what one run came to, the medians of several with their spread, side by side as a table and as JSON.

use super::workload::Measured;
use crate::pauses::at_share;
use crate::report::median;
use anyhow::Result;
use harness::Status;
use harness::bytes::{GIB, KIB, MIB};
use serde::Serialize;
use std::collections::BTreeMap;

/// Figures that there are: name in JSON, what it is, unit. In the order of the table.
pub const FIGURES: [(&str, &str, &str); 34] = [
    ("throughput", "throughput of users' writes", "MiB/s"),
    ("writes_per_second", "writes", "1/s"),
    ("write_us_p50", "one write, p50", "us"),
    ("write_us_p99", "one write, p99", "us"),
    ("write_us_p999", "one write, p99.9", "us"),
    ("write_us_p9999", "one write, p99.99", "us"),
    ("write_us_max", "one write, longest", "us"),
    ("fsync_us_p50", "one fsync, p50", "us"),
    ("fsync_us_p99", "one fsync, p99", "us"),
    ("fsync_us_max", "one fsync, longest", "us"),
    ("pause_us_max", "longest pause for cleaning since the mount", "us"),
    ("write_amplification", "write amplification", ""),
    ("user_written", "over the link: users' data", "MiB"),
    ("relocation_read", "over the link: relocation, read", "MiB"),
    ("relocation_written", "over the link: relocation, written", "MiB"),
    ("user_metadata_read", "over the link: metadata of users, read", "MiB"),
    ("user_metadata_written", "over the link: metadata of users, written", "MiB"),
    ("cleaning_metadata_read", "over the link: metadata of cleaning, read", "MiB"),
    ("cleaning_metadata_written", "over the link: metadata of cleaning, written", "MiB"),
    ("link_read", "over the link: all that was read", "MiB"),
    ("link_written", "over the link: all that was written", "MiB"),
    ("link_per_user_byte", "over the link for each byte of users", ""),
    ("relocated", "relocated", "MiB"),
    ("copied_by_device", "of it by the device itself", "MiB"),
    ("copy_commands", "copy commands", ""),
    ("copy_command_size", "bytes of a command, mean", "KiB"),
    ("copy_command_us_max", "slowest copy command of cleaning since the mount", "us"),
    ("zones_reclaimed", "zones reclaimed", ""),
    ("cpu_user", "processor time of the daemon, user", "s"),
    ("cpu_kernel", "processor time of the daemon, kernel", "s"),
    ("cpu_user_per_gib_relocated", "  for each GiB relocated, user, beyond what writing costs", "s"),
    ("cpu_kernel_per_gib_relocated", "  for each GiB relocated, kernel, beyond what writing costs", "s"),
    ("cleaning_cpu_user_per_gib", "cleaning with nobody writing: user, for each GiB", "s"),
    ("cleaning_cpu_kernel_per_gib", "cleaning with nobody writing: kernel, for each GiB", "s"),
];

/// What a run came to, by the names in [`FIGURES`].
pub type Run = BTreeMap<&'static str, f64>;

/// Processor seconds of a daemon: user, kernel.
pub type Cpu = (f64, f64);

/// What users saw.
pub fn of_load(measured: &Measured) -> Run {
    let mut run = Run::new();
    run.insert("throughput", measured.bytes as f64 / MIB as f64 / measured.seconds);
    run.insert("writes_per_second", measured.writes.len() as f64 / measured.seconds);
    let times = measured.sorted();
    let parts =
        [("write_us_p50", 0.5), ("write_us_p99", 0.99), ("write_us_p999", 0.999), ("write_us_p9999", 0.9999), ("write_us_max", 1.0)];
    run.extend(parts.map(|(name, share)| (name, at_share(&times, share))));
    if !measured.fsyncs.is_empty() {
        let parts = [("fsync_us_p50", 0.5), ("fsync_us_p99", 0.99), ("fsync_us_max", 1.0)];
        run.extend(parts.map(|(name, share)| (name, at_share(&measured.fsyncs, share))));
    }
    run
}

/// What the volume says of the time between two reports, and the processor time of its daemon.
pub fn of_volume(before: &Status, after: &Status, cpu: Cpu) -> Result<Run> {
    let since = |path: &str| after.since(before, path);
    let (user, read) = (since("io/user_written")?, since("io/user_read")?);
    let (moved_in, moved_out) = (since("gc/host_read")?, since("gc/host_written")?);
    let (meta_in, meta_out) = (since("gc/meta_read")?, since("gc/meta_written")?);
    let (link_in, link_out) = (since("io/device_read")?, since("io/device_written")?);
    let (relocated, commands) = (since("gc/relocated")?, since("gc/commands")?);
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let mut run = Run::from([
        ("pause_us_max", after.number("gc/pause_us/max")? as f64),
        ("user_written", mib(user)),
        ("relocation_read", mib(moved_in)),
        ("relocation_written", mib(moved_out)),
        ("user_metadata_read", mib(link_in.saturating_sub(read + moved_in + meta_in))),
        ("user_metadata_written", mib(link_out.saturating_sub(user + moved_out + meta_out))),
        ("cleaning_metadata_read", mib(meta_in)),
        ("cleaning_metadata_written", mib(meta_out)),
        ("link_read", mib(link_in)),
        ("link_written", mib(link_out)),
        ("relocated", mib(relocated)),
        ("copied_by_device", mib(since("gc/offloaded")?)),
        ("copy_commands", commands as f64),
        ("zones_reclaimed", since("gc/zones_reclaimed")? as f64),
        ("cpu_user", cpu.0),
        ("cpu_kernel", cpu.1),
    ]);
    if user > 0 {
        run.insert("write_amplification", (user + relocated) as f64 / user as f64);
        run.insert("link_per_user_byte", (link_in + link_out) as f64 / user as f64);
    }
    if commands > 0 {
        run.insert("copy_command_us_max", after.number("gc/slowest_command_us")? as f64);
        run.insert("copy_command_size", relocated as f64 / commands as f64 / KIB as f64);
    }
    Ok(run)
}

/// What cleaning cost the daemon while nobody wrote.
pub fn of_cleaning(before: &Status, after: &Status, cpu: Cpu) -> Result<Run> {
    let relocated = after.since(before, "gc/relocated")?;
    // Too little for the clock of processor times, which has ticks of 10 ms.
    if relocated < 32 * MIB {
        return Ok(Run::new());
    }
    let gib = relocated as f64 / GIB as f64;
    Ok(Run::from([("cleaning_cpu_user_per_gib", cpu.0 / gib), ("cleaning_cpu_kernel_per_gib", cpu.1 / gib)]))
}

/// Adds what relocation cost beyond what the same writes cost without it, from the medians of the control.
pub fn charge_relocation(run: &mut Run, control: &Side) {
    let of = |name: &str| control.figures.get(name).map(|figure| figure.median);
    let number = |run: &Run, name: &str| run.get(name).copied();
    for (cpu, each) in [("cpu_user", "cpu_user_per_gib_relocated"), ("cpu_kernel", "cpu_kernel_per_gib_relocated")] {
        let (Some(idle), Some(wrote)) = (of(cpu), of("user_written").filter(|mib| *mib > 0.0)) else { continue };
        let (Some(spent), Some(user), Some(relocated)) = (number(run, cpu), number(run, "user_written"), number(run, "relocated")) else {
            continue;
        };
        if relocated >= 32.0 {
            run.insert(each, (spent - idle / wrote * user).max(0.0) / (relocated / 1024.0));
        }
    }
}

/// A figure of several runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub unit: &'static str,
}

/// A column of the table: one road, the control, or another filesystem.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub name: String,
    /// Whether copies are carried out by our own process, which plays the drive.
    pub simulated: bool,
    /// The times that an image plays; `none` for one that takes what it takes, and for real devices.
    pub device_model: String,
    pub rounds: usize,
    /// Live share of the space that was filled.
    pub fill: f64,
    pub figures: BTreeMap<&'static str, Figure>,
    /// Why there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

impl Side {
    /// Medians of runs.
    pub fn of(name: &str, runs: &[Run]) -> Side {
        let mut figures = BTreeMap::new();
        for (key, _, unit) in FIGURES {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.get(key).copied()).collect();
            if !values.is_empty() {
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                figures.insert(key, Figure { median: median(&values), low, high, unit });
            }
        }
        let model = "none".to_owned();
        Side { name: name.to_owned(), simulated: false, device_model: model, rounds: runs.len(), fill: f64::NAN, figures, missing: None }
    }

    /// A median.
    pub fn median(&self, key: &str) -> Option<f64> {
        self.figures.get(key).map(|figure| figure.median)
    }
}

/// The sides beside one another: a line for each figure that any of them has.
pub fn table(sides: &[&Side]) -> String {
    let shown = |figure: &Figure| match figure.low == figure.high {
        true => number(figure.median),
        false => format!("{} ({}..{})", number(figure.median), number(figure.low), number(figure.high)),
    };
    let mut rows = vec![std::iter::once(String::new()).chain(sides.iter().map(|side| side.name.clone())).collect::<Vec<String>>()];
    for (key, what, unit) in FIGURES {
        if sides.iter().any(|side| side.figures.contains_key(key)) {
            let head = if unit.is_empty() { what.to_owned() } else { format!("{what}, {unit}") };
            let cells = sides.iter().map(|side| side.figures.get(key).map_or("-".into(), shown));
            rows.push(std::iter::once(head).chain(cells).collect());
        }
    }
    let widths: Vec<usize> =
        (0..=sides.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).skip(1).map(|(cell, width)| format!("{cell:>width$}"));
        let text = std::iter::once(format!("{:<1$}", row[0], widths[0])).chain(cells).collect::<Vec<_>>().join("  ");
        format!("  {}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn status(scale: u64) -> Status {
        let mib = MIB * scale;
        Status(json!({
            "io": { "user_written": 10 * mib, "user_read": 0, "device_read": 25 * mib, "device_written": 40 * mib },
            "gc": { "host_read": 20 * mib, "host_written": 20 * mib, "meta_read": 2 * mib, "meta_written": 4 * mib, "relocated": 20 * mib, "offloaded": 0,
                    "commands": 5 * scale, "slowest_command_us": 900, "zones_reclaimed": 3 * scale, "pause_us": { "max": 7 } }
        }))
    }

    #[test]
    fn traffic_is_split_by_purpose_and_adds_up() {
        let run = of_volume(&status(1), &status(2), (1.0, 2.0)).unwrap();
        let of = |name: &str| run[name];
        assert_eq!([of("user_metadata_read"), of("user_metadata_written")], [3.0, 6.0]);
        let read = of("relocation_read") + of("user_metadata_read") + of("cleaning_metadata_read");
        let written = of("user_written") + of("relocation_written") + of("user_metadata_written") + of("cleaning_metadata_written");
        assert_eq!([read, written], [of("link_read"), of("link_written")]);
        assert_eq!([of("write_amplification"), of("link_per_user_byte"), of("copy_command_size")], [3.0, 6.5, 4096.0]);
        assert!(run.keys().all(|key| FIGURES.iter().any(|(known, ..)| known == key)));
    }

    #[test]
    fn relocation_is_charged_what_writing_alone_does_not_cost() {
        let control = Side::of("control", &[Run::from([("cpu_user", 1.0), ("user_written", 100.0)])]);
        let mut run = Run::from([("cpu_user", 5.0), ("user_written", 200.0), ("relocated", 512.0)]);
        charge_relocation(&mut run, &control);
        assert_eq!(run["cpu_user_per_gib_relocated"], 6.0);
        assert!(!run.contains_key("cpu_kernel_per_gib_relocated"));
    }

    #[test]
    fn medians_have_their_spread_and_the_table_every_side() {
        let measured = Measured { bytes: 8 * MIB, seconds: 2.0, writes: Vec::new(), fsyncs: vec![Duration::from_micros(5)] };
        let mut slow = of_load(&measured);
        assert_eq!((slow["throughput"], slow["fsync_us_p99"]), (4.0, 5.0));
        let fast = slow.clone();
        slow.insert("throughput", 2.0);
        let side = Side::of("offload", &[slow, fast]);
        let figure = side.figures["throughput"];
        assert_eq!((figure.median, figure.low, figure.high), (3.0, 2.0, 4.0));
        let text = table(&[&side, &Side::of("host", &[])]);
        assert!(text.contains("offload") && text.contains("3.00 (2.00..4.00)") && text.lines().nth(1).unwrap().ends_with('-'), "{text}");
    }
}
