//! `ferrycopy caps`: every road between devices, and which devices reach which.

use super::arguments::CapsArguments;
use super::devices::{are_same, open};
use super::status;
use crate::engine::{CopyEngine, EngineConfig};
use crate::route::RouteLimits;
use crate::size::show_size;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use zns::{DeviceId, DeviceKind, ZonedDevice};

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Report {
    devices: Vec<Device>,
    pairs: Vec<PairRoads>,
    /// Groups of devices that copy among each other without the host, in every direction; who reaches nobody stands alone.
    domains: Vec<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Device {
    path: String,
    kind: DeviceKind,
    size: u64,
    block_size: u32,
    /// Only where the device has zones.
    #[serde(skip_serializing_if = "Option::is_none")]
    zones: Option<Zones>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Zones {
    count: u32,
    size: u64,
    capacity: u64,
    max_open: u32,
    max_active: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PairRoads {
    from: String,
    to: String,
    /// The road that a copy takes now.
    road: &'static str,
    simulated: bool,
    roads: Vec<RoadState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct RoadState {
    road: &'static str,
    open: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<RouteLimits>,
    simulated: bool,
    /// Why it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) fn caps(arguments: &CapsArguments) -> Result<ExitCode> {
    let mut devices = Vec::new();
    for (index, path) in arguments.devices.iter().enumerate() {
        if !arguments.devices[..index].iter().any(|earlier| are_same(earlier, path)) {
            devices.push(look_at(path)?);
        }
    }
    let engine =
        CopyEngine::for_devices(devices.clone(), EngineConfig { offload_below: arguments.offload_below, ..EngineConfig::default() });
    let report = survey(&engine, devices.iter().map(|device| describe(&**device)).collect());
    let text = if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(status::DONE))
}

/// Opens a device to look at it, which disturbs nobody who uses it. A road may want to know that it could write.
fn look_at(path: &Path) -> Result<Arc<dyn ZonedDevice>> {
    let image = matches!(zns::open::detect(path), Ok(zns::open::Detected::Image));
    let readable = || open(path, true, true);
    if image { readable() } else { open(path, false, true).or_else(|_| readable()) }
}

fn describe(device: &dyn ZonedDevice) -> Device {
    let geometry = device.geometry();
    let zones = device.has_write_pointer(zns::ZoneId(geometry.zones - 1)).then(|| Zones {
        count: geometry.zones,
        size: geometry.zone_size_bytes(),
        capacity: geometry.zone_capacity_bytes(),
        max_open: geometry.max_open,
        max_active: geometry.max_active,
    });
    Device { path: device.label(), kind: geometry.kind, size: device.size_bytes(), block_size: geometry.block_size, zones }
}

fn survey(engine: &CopyEngine, devices: Vec<Device>) -> Report {
    let ids: Vec<DeviceId> = (0..devices.len() as u8).map(DeviceId).collect();
    let mut pairs = Vec::new();
    let mut offload = Vec::new();
    for &from in &ids {
        for &to in &ids {
            let roads: Vec<RoadState> = engine
                .survey(from, to)
                .into_iter()
                .map(|(road, caps)| match caps {
                    Ok(caps) => {
                        RoadState { road: road.name(), open: true, limits: Some((&caps).into()), simulated: caps.simulated, reason: None }
                    }
                    Err(no) => RoadState { road: road.name(), open: false, limits: None, simulated: false, reason: Some(no.reason) },
                })
                .collect();
            let route = engine.route(from, to);
            if route.road.is_offload() {
                offload.push((from, to));
            }
            let name = |id: DeviceId| devices[usize::from(id.0)].path.clone();
            pairs.push(PairRoads { from: name(from), to: name(to), road: route.road.name(), simulated: route.simulated, roads });
        }
    }
    let domains = domains(&ids, &offload).into_iter();
    let domains = domains.map(|domain| domain.into_iter().map(|id| devices[usize::from(id.0)].path.clone()).collect()).collect();
    Report { devices, pairs, domains }
}

/// Devices of which each reaches each other.
fn domains(ids: &[DeviceId], offload: &[(DeviceId, DeviceId)]) -> Vec<Vec<DeviceId>> {
    let reach = |a, b| offload.contains(&(a, b)) && offload.contains(&(b, a));
    let mut domains: Vec<Vec<DeviceId>> = Vec::new();
    for &id in ids {
        match domains.iter_mut().find(|domain| domain.iter().all(|&other| reach(id, other))) {
            Some(domain) => domain.push(id),
            None => domains.push(vec![id]),
        }
    }
    domains
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for device in &self.devices {
            let kind = serde_json::to_value(device.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
            let _ = write!(text, "{}: {kind}, {}, blocks of {} bytes", device.path, show_size(device.size), device.block_size);
            if let Some(zones) = &device.zones {
                let limit = |limit: u32| if limit == 0 { "any number".to_owned() } else { limit.to_string() };
                let _ = write!(
                    text,
                    ", {} zones of {} (capacity {}), {} open and {} active at once",
                    zones.count,
                    show_size(zones.size),
                    show_size(zones.capacity),
                    limit(zones.max_open),
                    limit(zones.max_active)
                );
            }
            text.push('\n');
        }
        for pair in &self.pairs {
            let simulated = if pair.simulated { " (simulated)" } else { "" };
            let _ = writeln!(text, "\nfrom {} to {}: {}{simulated}", pair.from, pair.to, pair.road);
            for road in &pair.roads {
                let state = match (&road.limits, &road.reason) {
                    (Some(limits), _) => format!(
                        "open: up to {} in a command, {} in a range, {} ranges",
                        show_size(limits.max_command_bytes),
                        show_size(limits.max_range_bytes),
                        limits.max_ranges
                    ),
                    (None, reason) => format!("closed: {}", reason.as_deref().unwrap_or("no reason is known")),
                };
                let _ = writeln!(text, "  {:<11} {state}", road.road);
            }
        }
        let domains: Vec<String> = self.domains.iter().map(|domain| format!("{{ {} }}", domain.join(", "))).collect();
        let _ = writeln!(text, "\ncopy domains (devices that copy among each other without the host): {}", domains.join(" "));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_whole() {
        let ids: Vec<DeviceId> = (0..4).map(DeviceId).collect();
        let road = |a, b| (DeviceId(a), DeviceId(b));
        // 0 and 1 reach each other, 2 reaches 0 one way, 3 nobody.
        let offload = [road(0, 0), road(0, 1), road(1, 0), road(1, 1), road(2, 0)];
        let found = domains(&ids, &offload);
        assert_eq!(found, [vec![DeviceId(0), DeviceId(1)], vec![DeviceId(2)], vec![DeviceId(3)]]);
    }
}
