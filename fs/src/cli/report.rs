//! `ferryfs status|zones|map|gc`: asks the daemon, or opens a volume that is not mounted, and prints.

use super::client::Client;
use super::devices::{Access, mount_of, open_devices};
use super::failure::{CommandResult, FAILED, Failure, OrFail, USAGE};
use super::size::show_size;
use crate::fuse::control::{Hello, Request};
use crate::fuse::mountpoint::{self, MountLine};
use crate::volume::{MapEntry, MountOptions, Status, Volume, ZoneView};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whom to ask.
enum Target {
    /// The daemon of a mount.
    Mount(PathBuf),
    /// Nobody: the volume on these devices is not mounted.
    Devices(Vec<PathBuf>),
}

/// A directory is a mount; a device or an image is a volume, which may be mounted somewhere.
fn target(paths: &[PathBuf]) -> CommandResult<Target> {
    let Some(first) = paths.first() else { return Err(Failure::new(USAGE, "name a mount point or a device")) };
    let metadata = std::fs::metadata(first).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Failure::new(FAILED, format!("{}: no such file or directory", first.display())),
        Some(libc::ENOTCONN) => Failure::new(FAILED, super::client::ClientError::Dead(first.clone())),
        _ => Failure::new(FAILED, format!("{}: {error}", first.display())),
    })?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        if paths.len() > 1 {
            return Err(Failure::new(USAGE, "name one mount point, or the devices of one volume"));
        }
        return Ok(Target::Mount(first.clone()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Failure::new(FAILED, format!("{} is not a directory, a block device or a regular file", first.display())));
    }
    Ok(mount_of(first).map_or_else(|| Target::Devices(paths.to_vec()), |mounted| Target::Mount(mounted.at)))
}

fn ask(path: &Path, request: Request) -> CommandResult<serde_json::Value> {
    Client::open(path).and_then(|client| client.ask(request)).or_fail(FAILED)
}

/// Opens a volume to look at it. A volume that crashed is replayed in memory; nothing is written.
fn look(paths: &[PathBuf]) -> CommandResult<Arc<Volume>> {
    let devices = open_devices(paths, Access::read_only()).or_fail(FAILED)?;
    Volume::open(devices, MountOptions { read_only: true, ..MountOptions::default() }).or_fail(FAILED)
}

fn understand<T: DeserializeOwned>(value: serde_json::Value) -> CommandResult<T> {
    serde_json::from_value(value).map_err(|error| Failure::new(FAILED, format!("the daemon is of another version: {error}")))
}

/// Prints, unless whoever reads has gone away.
fn print(text: &str) -> CommandResult {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(FAILED, error)),
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> CommandResult {
    let mut text = serde_json::to_string_pretty(value).or_fail(FAILED)?;
    text.push('\n');
    print(&text)
}

fn to_json(value: impl serde::Serialize) -> CommandResult<serde_json::Value> {
    serde_json::to_value(value).or_fail(FAILED)
}

/// `ferryfs status`.
///
/// # Errors
/// Nobody to ask, or no volume.
pub fn status(paths: &[PathBuf], json: bool) -> CommandResult {
    let (mut value, mount) = match target(paths)? {
        Target::Mount(path) => (ask(&path, Request::Status)?, mount_line(&path)?),
        Target::Devices(paths) => (to_json(look(&paths)?.status())?, None),
    };
    if json {
        if let Some((mount, daemon)) = mount {
            value["mount"] = serde_json::json!({
                "mountpoint": mount.path, "type": mount.kind, "transport": daemon.transport, "synced_by_sync": daemon.synced,
            });
        }
        return print_json(&value);
    }
    let status: Status = understand(value)?;
    print(&show_status(&status))?;
    if let Some((_, daemon)) = &mount {
        print(&format!("{:<12} {}\n", "transport", daemon.transport))?;
    }
    match mount {
        Some((mount, daemon)) if !daemon.synced && !status.volume.mounted_read_only => {
            print(&format!("{:<12} type {}: sync(1) and syncfs(2) make nothing durable here; fsync does\n", "mount", mount.kind))
        }
        _ => Ok(()),
    }
}

/// The mount that `path` lies in, and what its daemon says of itself.
fn mount_line(path: &Path) -> CommandResult<Option<(MountLine, Hello)>> {
    let daemon = Client::open(path).and_then(|client| client.hello()).or_fail(FAILED)?;
    let device = mountpoint::identity(path).ok().map(|identity| identity.device());
    let line = mountpoint::mounts().ok().and_then(|lines| lines.into_iter().rfind(|line| Some(&line.device) == device.as_ref()));
    Ok(line.map(|line| (line, daemon)))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn show_status(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<12} {text}");
    };
    let (volume, space, io, gc) = (&status.volume, &status.space, &status.io, &status.gc);
    line("volume", format!("{} {}", volume.uuid, if volume.label.is_empty() { "(no label)" } else { &volume.label }));
    if volume.mounted_read_only {
        line("", format!("read-only{}", volume.read_only_reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))));
    }
    for device in &volume.devices {
        let simulated = if device.simulated { ", simulated" } else { "" };
        let played = if device.kind == "image" { format!(", device model: {}", device.device_model) } else { String::new() };
        line("device", format!("{}: {}, {} zones of {}{played}", device.path, device.kind, device.zones, show_size(device.zone_size)));
        let limits = match device.copy_limits.max_command_bytes {
            0 => String::new(),
            most => format!(", up to {} and {} ranges a command", show_size(most), device.copy_limits.max_ranges),
        };
        let reason = if device.route_reason.is_empty() { String::new() } else { format!(" ({})", device.route_reason) };
        line("  copies by", format!("{}{simulated}{limits}{reason}", device.route));
        if let Some(file) = &device.copy_profile.file {
            let state = device.copy_profile.reason.as_ref().map_or("in use".to_owned(), |reason| format!("not in use: {reason}"));
            line("  profile", format!("{}: {state}", file.display()));
        }
        for way in &device.others {
            let to = volume.devices.get(way.device as usize).map_or("another device", |device| &device.path);
            line("  to others", format!("{to}: by {} ({})", way.route, way.route_reason));
        }
    }
    line(
        "space",
        format!(
            "{} used of {} ({:.1} %), {} available, {} reclaimable, {} in reserve",
            show_size(space.used),
            show_size(space.total),
            share(space.used, space.total),
            show_size(space.available),
            show_size(space.reclaimable),
            show_size(space.reserved)
        ),
    );
    let zones = &status.zones;
    let bad = match zones.read_only + zones.offline {
        0 => String::new(),
        _ => format!(", {} read-only, {} offline", zones.read_only, zones.offline),
    };
    line("zones", format!("{} empty, {} open, {} closed, {} full{bad}", zones.empty, zones.open, zones.closed, zones.full));
    line("users", format!("{} written, {} read", show_size(io.user_written), show_size(io.user_read)));
    line("devices", format!("{} written, {} read, {} flushes", show_size(io.device_written), show_size(io.device_read), io.flushes));
    line(
        "cleaning",
        format!(
            "{} zones reclaimed, {} moved: {} by offload, {} through the host; write amplification {:.2} ({} victims, {} placement)",
            gc.zones_reclaimed,
            show_size(gc.relocated),
            show_size(gc.offloaded),
            show_size(gc.host_written),
            gc.write_amplification,
            gc.policy,
            gc.placement
        ),
    );
    line("  metadata", format!("{} read, {} written", show_size(gc.meta_read), show_size(gc.meta_written)));
    if gc.commands > 0 {
        line("  commands", format!("{}, {} us at most", gc.commands, gc.slowest_command_us));
    }
    if gc.pause_us.max > 0 {
        line("  pauses", format!("{} us p99, {} us p99.9, {} us at most", gc.pause_us.p99, gc.pause_us.p999, gc.pause_us.max));
    }
    for (reason, count) in &gc.fallbacks {
        line("  fallback", format!("{count} times: {reason}"));
    }
    let copy = &status.copy_file_range;
    line(
        "copies",
        format!(
            "{} calls, {}: {} by offload, {} through the host",
            copy.calls,
            show_size(copy.bytes),
            show_size(copy.offloaded),
            show_size(copy.host_written)
        ),
    );
    let checks = &status.checks;
    line(
        "checks",
        format!(
            "{} checksum errors; {} copies verified, {} rejected",
            checks.checksum_errors, checks.copies_verified, checks.copies_rejected
        ),
    );
    let log = &status.log;
    line(
        "log",
        format!(
            "{} appends, {}; {} checkpoints, {}; zones given back without one {} times; {} replayed by the mount",
            log.appends,
            show_size(log.bytes),
            log.checkpoints,
            show_size(log.checkpoint_bytes),
            log.releases,
            log.replayed
        ),
    );
    line("cache", format!("{} of {} of metadata in memory", show_size(status.cache.resident), show_size(status.cache.limit)));
    out
}

/// `ferryfs zones`.
///
/// # Errors
/// As [`status`].
pub fn zones(paths: &[PathBuf], json: bool) -> CommandResult {
    let value = match target(paths)? {
        Target::Mount(path) => ask(&path, Request::Zones)?,
        Target::Devices(paths) => to_json(look(&paths)?.zones())?,
    };
    if json {
        return print_json(&value);
    }
    print(&show_zones(&understand::<Vec<ZoneView>>(value)?))
}

fn show_zones(zones: &[ZoneView]) -> String {
    let mut rows = vec![["device", "zone", "state", "role", "written", "capacity", "live", "live %", "age", "resets"].map(String::from)];
    for z in zones {
        rows.push([
            z.device.to_string(),
            z.zone.to_string(),
            z.state.clone(),
            z.role.clone(),
            show_size(z.write_pointer),
            show_size(z.capacity),
            show_size(z.live),
            format!("{:.1}", z.live_share * 100.0),
            show_size(z.age),
            z.resets.to_string(),
        ]);
    }
    table(&rows, &[2, 3])
}

/// `ferryfs map`.
///
/// # Errors
/// A file that is not one of a mounted FerryFS.
pub fn map(file: &Path, json: bool) -> CommandResult {
    let metadata = std::fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(FAILED, format!("{} does not exist", file.display())),
        _ => Failure::new(FAILED, format!("{}: {error}", file.display())),
    })?;
    if !metadata.is_file() {
        return Err(Failure::new(FAILED, format!("{} is not a regular file", file.display())));
    }
    let value = ask(file, Request::Map)?;
    if json {
        return print_json(&value);
    }
    print(&show_map(&understand::<Vec<MapEntry>>(value)?))
}

fn show_map(entries: &[MapEntry]) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut rows = vec![["offset", "length", "kind", "device", "zone", "offset in zone", "role", "checksums"].map(String::from)];
    for entry in entries {
        rows.push([
            entry.file_offset.to_string(),
            entry.length.to_string(),
            entry.kind.clone(),
            number(entry.device.map(u64::from)),
            number(entry.zone.map(u64::from)),
            number(entry.zone_offset),
            entry.role.clone().unwrap_or_else(|| "-".into()),
            if entry.checksummed { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table(&rows, &[2, 6, 7])
}

/// Rows in columns as wide as they need to be; numbers to the right, the columns `words` to the left.
fn table<const N: usize>(rows: &[[String; N]], words: &[usize]) -> String {
    let widths: Vec<usize> = (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = (0..N)
            .map(|c| if words.contains(&c) { format!("{:<1$}", row[c], widths[c]) } else { format!("{:>1$}", row[c], widths[c]) })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// `ferryfs gc`.
///
/// # Errors
/// No mount, no right, or a cleaning that failed.
pub fn gc(mountpoint: &Path, until_clean: bool, json: bool) -> CommandResult {
    let value = ask(mountpoint, Request::Gc { until_clean })?;
    if json {
        return print_json(&value);
    }
    let report: BTreeMap<String, serde_json::Value> = understand(value)?;
    let number = |name: &str| report.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let mut text = match number("victims") {
        0 => "nothing was worth cleaning\n".to_owned(),
        1 => "1 zone cleaned".to_owned(),
        n => format!("{n} zones cleaned"),
    };
    if number("victims") > 0 {
        let _ = writeln!(
            text,
            ", {} moved: {} by offload, {} through the host, in {} commands; {} zones freed",
            show_size(number("moved")),
            show_size(number("offloaded")),
            show_size(number("by_host")),
            number("commands"),
            number("zones_freed")
        );
    }
    for (name, what) in [("unmovable", "hold something that the media cannot read"), ("failed", "were given up after failures")] {
        if number(name) > 0 {
            let _ = writeln!(text, "{} zones {what}", number(name));
        }
    }
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_nothing_can_be_shown() {
        let text = show_status(&Status::default());
        assert!(text.lines().all(|line| !line.contains("NaN")), "{text}");
        assert!(text.contains("(no label)"));
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "b"], ["10", "long"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows, &[1]), " a  b\n10  long\n");
    }

    #[test]
    fn wrong_targets_are_refused() {
        let text = |path: &str| status(&[PathBuf::from(path)], false).unwrap_err().text;
        assert!(text("/no/such/path").contains("no such file"));
        assert!(text("/dev/null").contains("is not a directory, a block device"));
        assert!(text("/").contains("no FerryFS is mounted here"));
        assert!(map(Path::new("/"), false).unwrap_err().text.contains("not a regular file"));
    }
}
