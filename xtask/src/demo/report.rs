//! What the demonstration prints in the end.

use super::Tree;
use anyhow::Result;
use harness::Status;
use harness::bytes::human;
use std::collections::BTreeMap;
use std::time::Duration;

/// Counters of all mounts together: status counts from one mount to the next.
#[derive(Clone, Default)]
pub struct Counters {
    sums: BTreeMap<&'static str, u64>,
    routes: Vec<String>,
    policy: String,
    /// Copies were carried out by our own process.
    pub simulated: bool,
}

const SUMMED: &[&str] = &[
    "io/user_written",
    "io/device_written",
    "gc/relocated",
    "gc/offloaded",
    "gc/host_read",
    "gc/host_written",
    "gc/commands",
    "gc/zones_reclaimed",
    "gc/meta_written",
    "copy_file_range/bytes",
    "copy_file_range/offloaded",
    "checks/checksum_errors",
];

impl Counters {
    /// Adds a mount's counters; called once per mount, at its end.
    pub fn add(&mut self, status: &Status) -> Result<()> {
        for path in SUMMED {
            *self.sums.entry(path).or_default() += status.number(path)?;
        }
        self.policy = format!("{}, placement {}", status.text("gc/policy")?, status.text("gc/placement")?);
        self.routes = status.devices().filter_map(|d| d["route"].as_str().map(str::to_owned)).collect();
        Ok(())
    }

    fn of(&self, path: &str) -> u64 {
        self.sums.get(path).copied().unwrap_or(0)
    }
}

/// Everything worth telling.
#[derive(Default)]
pub struct Report {
    pub formatted: Duration,
    pub remounted: Duration,
    pub recovered: Duration,
    pub fsck: f64,
    pub compared: u64,
    pub program: &'static str,
    pub write_amplification: f64,
    pub zones_reclaimed: u64,
    /// Time, calls, bytes by the device, bytes through the host.
    pub copy: Option<(Duration, u32, u64, u64)>,
    pub counters: Counters,
    unpacked: Vec<(&'static str, usize, u64, Duration)>,
}

impl Report {
    /// Notes a tree that was unpacked.
    pub fn unpacked(&mut self, what: &'static str, tree: &Tree, time: Duration) {
        self.unpacked.push((what, tree.files(), tree.bytes(), time));
    }

    /// Prints it.
    pub fn print(&self, total: Duration) {
        let c = &self.counters;
        let row = |name: &str, text: String| println!("  {name:<22} {text}");
        println!("\nFerryFS demonstration: everything held");
        for (what, files, bytes, time) in &self.unpacked {
            row(what, format!("{files} files, {} in {:.1} s", human(*bytes), time.as_secs_f64()));
        }
        row("program inside", format!("built with {}, and run", self.program));
        row("compared", format!("{}, every byte equal, {} checksum errors", human(self.compared), c.of("checks/checksum_errors")));
        let routes = c.routes.join(", ");
        let note = if c.simulated { " (simulated: our own process plays the drive)" } else { "" };
        row("copy road", format!("{routes}{note}"));
        row(
            "cleaner",
            format!(
                "{}: {} relocated in {} commands, {} zones reclaimed",
                c.policy,
                human(c.of("gc/relocated")),
                c.of("gc/commands"),
                c.of("gc/zones_reclaimed")
            ),
        );
        let host = c.of("gc/host_read") + c.of("gc/host_written");
        row("  moved by the device", human(c.of("gc/offloaded")));
        row("  through the host", format!("{} ({} bytes) of payload", human(host), host));
        row("  metadata for it", human(c.of("gc/meta_written")));
        row("write amplification", format!("{:.2} while overwriting at 85 % full", self.write_amplification));
        row(
            "written",
            format!("{} by programs, {} sent to the device by the host", human(c.of("io/user_written")), human(c.of("io/device_written"))),
        );
        if let Some((time, calls, offloaded, host)) = self.copy {
            let offload = format!("{} by the device, {} bytes through the host", human(offloaded), host);
            row("copy_file_range", format!("512 MiB in {:.2} s, {calls} calls: {offload}", time.as_secs_f64()));
        }
        row("format, mount", format!("{:.2} s, {:.2} s", self.formatted.as_secs_f64(), self.remounted.as_secs_f64()));
        row("mount after kill -9", format!("{:.2} s; nothing that was acknowledged is missing", self.recovered.as_secs_f64()));
        row("fsck.ferryfs -n", format!("clean, {:.1} s for two runs", self.fsck));
        row("time in all", format!("{} min {} s after the build", total.as_secs() / 60, total.as_secs() % 60));
    }
}
