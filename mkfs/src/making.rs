//! The whole of mkfs: check everything, make the devices, format, say what came of it.

use crate::arguments::Arguments;
use crate::target::{MadeFiles, Target};
use anyhow::{Context, Result, ensure};
use fs::cli::devices::{Access, open_devices};
use fs::cli::size::show_size;
use fs::volume::{Clock, FormatOptions, MountOptions, Volume};
use std::fmt::Write;
use zns::claim::is_same_storage;
use zns::{DeviceKind, ZonedDevice};

/// Formats, and returns what to tell the user.
///
/// # Errors
/// Whatever is in the way, in a sentence; nothing that existed has been touched unless the devices themselves failed.
pub fn make(arguments: &Arguments) -> Result<String> {
    ensure!(arguments.label.len() <= 64, "the label is {} bytes long, 64 are possible", arguments.label.len());
    for (i, path) in arguments.devices.iter().enumerate() {
        let is_same = |other: &std::path::PathBuf| other == path || is_same_storage(other, path);
        if let Some(other) = arguments.devices[..i].iter().find(|other| is_same(other)) {
            ensure!(other != path, "{} is named twice", path.display());
            anyhow::bail!("{} and {} are the same storage", other.display(), path.display());
        }
    }
    let targets: Vec<Target> = arguments.devices.iter().map(|path| Target::examine(path, arguments)).collect::<Result<_>>()?;
    let mut made = MadeFiles::default();
    let devices = targets.iter().map(|target| target.open(&mut made)).collect::<Result<Vec<_>>>()?;
    let mut summary = String::new();
    for device in &devices {
        describe(&mut summary, &**device);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("get random bytes from the system")?;
    let uuid = arguments.uuid.unwrap_or_else(uuid::Uuid::new_v4);
    let options = FormatOptions {
        label: arguments.label.clone(),
        uuid: *uuid.as_bytes(),
        created: Clock::system().now(),
        secret,
        // Whoever makes a volume may write in it.
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let names = || arguments.devices.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    Volume::format(devices, &options).with_context(|| format!("write to {}", names()))?;
    let space = read_back(arguments)?;
    made.keep();
    let label = if arguments.label.is_empty() { String::new() } else { format!(" \"{}\"", arguments.label) };
    let _ = writeln!(summary, "FerryFS volume{label} {uuid}: {} for files, {} in reserve", show_size(space.0), show_size(space.1));
    Ok(summary)
}

/// Opens what was made as a mount would, and returns the space for users and the reserve.
fn read_back(arguments: &Arguments) -> Result<(u64, u64)> {
    let devices = open_devices(&arguments.devices, Access::read_only())?;
    let volume =
        Volume::open(devices, MountOptions { read_only: true, ..MountOptions::default() }).context("the new volume cannot be opened")?;
    let space = volume.status().space;
    volume.shutdown()?;
    Ok((space.total, space.reserved))
}

fn describe(out: &mut String, device: &dyn ZonedDevice) {
    let geometry = device.geometry();
    let kind = match geometry.kind {
        DeviceKind::Zns => "ZNS drive",
        DeviceKind::Zoned => "zoned device",
        DeviceKind::Conventional => "conventional, zones in software",
        DeviceKind::Image => "drive in a file (simulated)",
    };
    let mut zones = format!("{} zones of {}", geometry.zones, show_size(geometry.zone_size_bytes()));
    if geometry.zone_capacity != geometry.zone_size {
        let _ = write!(zones, " with a capacity of {}", show_size(geometry.zone_capacity_bytes()));
    }
    let limit = match geometry.active_limit() {
        u32::MAX => "no limit of active zones".to_owned(),
        limit => format!("{limit} active at once"),
    };
    let road = match device.native_copy().map(|copy| copy.limits()) {
        Some(limits) if limits.mssrl > 0 && limits.mcl > 0 => {
            let block = u64::from(geometry.block_size);
            let (range, command) = (u64::from(limits.mssrl) * block, u64::from(limits.mcl) * block);
            format!("its own Copy command ({} a range, {} and {} ranges a command)", show_size(range), show_size(command), limits.ranges)
        }
        _ => "the road that the mount finds (ferryfs status)".to_owned(),
    };
    let _ = writeln!(out, "{}: {kind}, {zones}, blocks of {}, {limit}; copies by {road}", device.label(), geometry.block_size);
}
