//! `ferrycopy caps --calibrate`: measures every road between the devices, prints what it found, and writes the profile that the engine chooses
//! sizes from.

use super::arguments::CapsArguments;
use super::devices::{are_same, open};
use super::{interrupt, status};
use crate::calibrate::{Doing, RoadMeasurement, ScratchRange, calibrate};
use crate::device_name::DeviceName;
use crate::engine::{CopyEngine, EngineConfig};
use crate::profile::{Profile, RoadProfile};
use crate::size::show_size;
use crate::sizes::{self, Measured, Sample, Sizes};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use zns::{DeviceId, ZonedDevice};

/// The whole report.
#[derive(Clone, Debug, Serialize)]
struct Report {
    devices: Vec<Device>,
    roads: Vec<Road>,
    /// Where the profile was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
struct Device {
    path: String,
    #[serde(flatten)]
    name: DeviceName,
}

#[derive(Clone, Debug, Serialize)]
struct Road {
    from: String,
    to: String,
    road: &'static str,
    simulated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    /// What the engine makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sizes: Option<Sizes>,
    /// Why it is closed, or was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) fn run(arguments: &CapsArguments) -> Result<ExitCode> {
    // Before anything is measured: a profile that cannot be added to is not replaced.
    let mut profile = match arguments.profile.as_deref() {
        Some(path) if path.exists() => {
            Profile::load(path).context("the new measurements would be added to it: move it away, or name another file")?
        }
        _ => Profile::default(),
    };
    let mut paths: Vec<&Path> = Vec::new();
    for path in &arguments.devices {
        if !paths.iter().any(|earlier| are_same(earlier, path)) {
            paths.push(path);
        }
    }
    let scratches = scratch_ranges(arguments, &paths)?;
    let devices = paths.iter().map(|path| open(path, false, false)).collect::<Result<Vec<_>>>()?;
    let names: Vec<DeviceName> = devices.iter().map(|device| DeviceName::of(&**device)).collect();
    let config = EngineConfig { offload_below: arguments.offload_below, ..EngineConfig::default() };
    let engine = CopyEngine::for_devices(devices.clone(), config);
    interrupt::watch();
    let bar = bar();
    let found = calibrate(&engine, &scratches, &mut |doing| {
        show(&bar, &devices, doing);
        !interrupt::asked()
    });
    bar.finish_and_clear();
    let found = match found {
        Ok(found) => found,
        Err(crate::calibrate::CalibrateError::Interrupted) => {
            eprintln!("ferrycopy: {}", crate::calibrate::CalibrateError::Interrupted);
            return Ok(ExitCode::from(status::INTERRUPTED));
        }
        Err(error) => return Err(error.into()),
    };
    for entry in found.iter().filter_map(|found| entry(found, &names)) {
        profile.put(entry);
    }
    if let Some(path) = &arguments.profile {
        profile.save(path).with_context(|| format!("cannot write the profile to {}", path.display()))?;
    }
    let report = report(&found, &devices, names, arguments.profile.clone());
    let text = if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(status::DONE))
}

/// The scratch range of each device, as the command line names them.
fn scratch_ranges(arguments: &CapsArguments, paths: &[&Path]) -> Result<Vec<ScratchRange>> {
    let mut ranges: Vec<ScratchRange> = Vec::new();
    for scratch in &arguments.scratch {
        let path = scratch.path.display();
        let index = paths.iter().position(|known| are_same(known, &scratch.path));
        let index = index.ok_or_else(|| anyhow!("the scratch range is on {path}, which is none of the devices to be measured"))?;
        let device = DeviceId(index as u8);
        let [(offset, length)] = scratch.ranges[..] else { bail!("{path}: name one scratch range, as {path}:OFFSET:LENGTH") };
        if ranges.iter().any(|range| range.device == device) {
            bail!("{path}: two scratch ranges are named for it, and one is needed");
        }
        ranges.push(ScratchRange { device, offset, length });
    }
    let missing = (0..paths.len()).find(|index| !ranges.iter().any(|range| usize::from(range.device.0) == *index));
    match missing {
        None => Ok(ranges),
        Some(index) => Err(crate::calibrate::CalibrateError::NoScratch { device: paths[index].display().to_string() }.into()),
    }
}

/// Hidden where standard error is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} road {pos} of {len}: {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, devices: &[Arc<dyn ZonedDevice>], doing: &Doing) {
    let label = |id: DeviceId| devices.get(usize::from(id.0)).map_or_else(String::new, |device| device.label());
    bar.set_length(doing.roads.1 as u64);
    bar.set_position(doing.roads.0 as u64 + 1);
    bar.set_message(format!("{} from {} to {}: {}", doing.road, label(doing.from), label(doing.to), doing.what));
}

fn entry(found: &RoadMeasurement, names: &[DeviceName]) -> Option<RoadProfile> {
    let (caps, measured) = found.outcome.as_ref().ok()?;
    let name = |id: DeviceId| names.get(usize::from(id.0)).cloned();
    let (from, to) = (name(found.from)?, name(found.to)?);
    Some(RoadProfile { from, to, road: found.road, simulated: caps.simulated, measured: measured.clone() })
}

fn report(found: &[RoadMeasurement], devices: &[Arc<dyn ZonedDevice>], names: Vec<DeviceName>, profile: Option<PathBuf>) -> Report {
    let label = |id: DeviceId| devices.get(usize::from(id.0)).map_or_else(String::new, |device| device.label());
    let road = |one: &RoadMeasurement| {
        let host = found.iter().find(|other| (other.from, other.to, other.road) == (one.from, one.to, crate::backend::Road::Host));
        let host = host.and_then(|host| host.outcome.as_ref().ok()).map(|(_, measured)| measured);
        let (from, to, road) = (label(one.from), label(one.to), one.road.name());
        match &one.outcome {
            Ok((caps, measured)) => {
                let sizes = Some(sizes::choose(caps, Some(measured), host));
                Road { from, to, road, simulated: caps.simulated, measured: Some(measured.clone()), sizes, reason: None }
            }
            Err(reason) => Road { from, to, road, simulated: false, measured: None, sizes: None, reason: Some(reason.clone()) },
        }
    };
    let device = |(device, name): (&Arc<dyn ZonedDevice>, DeviceName)| Device { path: device.label(), name };
    Report { devices: devices.iter().zip(names).map(device).collect(), roads: found.iter().map(road).collect(), profile }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for device in &self.devices {
            let _ = writeln!(text, "{}: {}", device.path, device.name);
        }
        for road in &self.roads {
            road.say(&mut text);
        }
        if let Some(path) = &self.profile {
            let _ = writeln!(text, "\nwritten to {}", path.display());
        }
        text
    }
}

fn table(text: &mut String, head: &str, samples: &[Sample], shape: impl Fn(&Sample) -> String) {
    let _ = writeln!(text, "  {head:<26} {:>12} {:>16}", "latency", "throughput");
    for sample in samples {
        let rate = format!("{}/s", show_size(sample.bytes_per_second as u64));
        let _ = writeln!(text, "    {:<24} {:>9.1} us {rate:>16}", shape(sample), sample.latency_us);
    }
}

impl Road {
    fn say(&self, text: &mut String) {
        let simulated = if self.simulated { " (simulated)" } else { "" };
        let _ = write!(text, "\nfrom {} to {} by {}{simulated}", self.from, self.to, self.road);
        let (Some(measured), Some(sizes)) = (&self.measured, &self.sizes) else {
            let _ = writeln!(text, ": closed: {}", self.reason.as_deref().unwrap_or("no reason is known"));
            return;
        };
        text.push('\n');
        let each = measured.by_in_flight.first().map_or(0, |sample| sample.bytes);
        let by_bytes = |sample: &Sample| format!("{} in {} ranges", show_size(sample.bytes), sample.ranges);
        table(text, "one command of", &measured.by_bytes, by_bytes);
        table(text, "ranges of 4 KiB", &measured.by_ranges, |sample| sample.ranges.to_string());
        let head = format!("in flight, {} each", show_size(each));
        table(text, &head, &measured.by_in_flight, |sample| sample.in_flight.to_string());
        let _ = write!(
            text,
            "  chosen: up to {} in {} ranges a command, {} in flight; while users read {}, one by one",
            show_size(sizes.command_bytes),
            sizes.ranges,
            sizes.in_flight,
            show_size(sizes.busy_command_bytes)
        );
        let _ = match sizes.offload_from {
            0 => writeln!(text),
            from => writeln!(text, "; copies below {} go through the host", show_size(from)),
        };
    }
}
