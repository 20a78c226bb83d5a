//! Copies within a device, whatever it is made of, held against all of its bytes; and what `ferrycopy` says of its roads.

use crate::raw::{copies, fill, open};
use crate::tool::{by_device, report};
use serde_json::Value;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// The road that `ferrycopy caps` says a copy takes within a device, and why each closed road is closed.
pub fn road(device: &Path, below: &str) -> (String, Vec<(String, String)>) {
    let report = report(&["caps", "--json", "--offload-below", below, device.to_str().unwrap()]);
    let pair = &report["pairs"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let closed = pair["roads"].as_array().unwrap().iter().filter(|road| road["open"] == false);
    (text(&pair["road"]), closed.map(|road| (text(&road["road"]), text(&road["reason"]))).collect())
}

/// Copies scattered ranges of a device without write pointers, of `size` bytes, at least 32 MiB, within it by `road`.
#[track_caller]
pub fn copy_within(device: &Path, size: u64, below: &str, road: &str) -> Value {
    // The last one spans the middle, where devices of two parts are joined.
    let ranges = [(3 * MIB + 4096, MIB + 12288), (size - MIB, 4096), (size / 2 - 2 * MIB - 8192, 4 * MIB)];
    let total: u64 = ranges.iter().map(|(_, length)| length).sum();
    let said = copies(device, &ranges, device, size / 4 + 20480, &["--offload-below", below]);
    if road == "host" {
        assert_eq!((said["bytes"].as_u64(), said["offloaded"].as_u64()), (Some(total), Some(0)), "{said}");
        assert_eq!(said["host_written"].as_u64(), Some(total), "{said}");
    } else {
        by_device(&said, total, road);
    }
    said
}

/// Fills two zones of a drive whose zones are all empty, the second one by half, and has the drive copy from both to a third.
#[track_caller]
pub fn copy_within_zones(device: &Path) -> Value {
    let opened = open(device);
    let geometry = opened.geometry().clone();
    drop(opened);
    let (block, zone) = (u64::from(geometry.block_size), geometry.zone_size_bytes());
    let capacity = geometry.zone_capacity.0 * block;
    fill(device, 1, 0, capacity);
    fill(device, 2, zone, capacity / 2);
    let ranges = [(block, capacity / 2 - 12 * block), (zone + 5 * block, block), (capacity - 8 * block, 8 * block)];
    let said = copies(device, &ranges, device, 6 * zone, &["--route", "offload"]);
    by_device(&said, ranges.iter().map(|(_, length)| length).sum(), "nvme");
    said
}
