//! What a process takes: resident memory and processor time, from /proc.

use anyhow::{Context, Result};

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is not a number")?;
    Ok(kib * 1024)
}

/// User and system time of a process so far, in seconds.
pub fn seconds(pid: u32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and brackets: fields are counted from the last bracket.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("short stat line");
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11)? / per_second, ticks(12)? / per_second))
}
