//! Raw devices, zoned or not, as bytes: what is on all of a device before and after a copy.

use crate::tool::{ferrycopy, report};
use harness::{Outcome, Pattern};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use zns::raw::{RawOptions, open_raw};
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZonedDevice};

const MIB: u64 = 1 << 20;

/// Opens a device for one who writes it.
pub fn open(path: &Path) -> Arc<dyn ZonedDevice> {
    open_raw(path, &RawOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes the pattern of a place: what lies at byte `n` says where it belongs.
pub fn fill(path: &Path, seed: u64, offset: u64, length: u64) {
    let device = open(path);
    let block = u64::from(device.geometry().block_size);
    for at in (offset..offset + length).step_by(MIB as usize) {
        let mut buf = AlignedBuf::zeroed((offset + length - at).min(MIB) as usize);
        Pattern(seed).fill(at, &mut buf);
        device.write(Lba(at / block), vec![BufSlice::whole(buf)], IoClass::Copy).unwrap();
    }
    device.flush().unwrap();
}

/// The bytes of a range.
pub fn content(path: &Path, offset: u64, length: u64) -> Vec<u8> {
    let device = open_raw(path, &RawOptions { read_only: true, shared: true }).unwrap();
    let block = u64::from(device.geometry().block_size);
    let mut held = Vec::with_capacity(length as usize);
    for at in (offset..offset + length).step_by(MIB as usize) {
        let buf = AlignedBuf::zeroed((offset + length - at).min(MIB) as usize);
        held.extend_from_slice(&device.read(Lba(at / block), buf, IoClass::Copy).unwrap());
    }
    held
}

/// All that a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// What is written of each zone; of a device without write pointers, everything.
    zones: Vec<Vec<u8>>,
    zone_size: u64,
}

impl Holdings {
    /// Reads the whole device.
    pub fn of(path: &Path) -> Holdings {
        let device = open_raw(path, &RawOptions { read_only: true, shared: true }).unwrap();
        let (geometry, size) = (device.geometry(), device.size_bytes());
        let (block, zone_size) = (u64::from(geometry.block_size), geometry.zone_size_bytes());
        let zones = device.report(0..geometry.zones).unwrap().into_iter().map(|zone| {
            let start = zone.start.0 * block;
            let length = (zone.written.0 * block).min(size - start);
            content(path, start, length)
        });
        Holdings { zones: zones.collect(), zone_size }
    }

    /// The bytes of a range, which lies in one zone.
    pub fn bytes(&self, offset: u64, length: u64) -> &[u8] {
        let (zone, from) = ((offset / self.zone_size) as usize, (offset % self.zone_size) as usize);
        &self.zones[zone][from..from + length as usize]
    }

    /// The bytes of ranges, one behind the other.
    pub fn gathered(&self, ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(offset, length) in ranges {
            let mut at = offset;
            while at < offset + length {
                let piece = (self.zone_size - at % self.zone_size).min(offset + length - at);
                bytes.extend_from_slice(self.bytes(at, piece));
                at += piece;
            }
        }
        bytes
    }

    /// The same with `bytes` written at `offset`.
    pub fn with(mut self, offset: u64, bytes: &[u8]) -> Holdings {
        let mut at = 0;
        while at < bytes.len() {
            let (zone, from) = ((offset as usize + at) / self.zone_size as usize, (offset as usize + at) % self.zone_size as usize);
            let piece = (self.zone_size as usize - from).min(bytes.len() - at);
            let held = &mut self.zones[zone];
            held.resize(held.len().max(from + piece), 0);
            held[from..from + piece].copy_from_slice(&bytes[at..at + piece]);
            at += piece;
        }
        self
    }
}

/// The words in which `ferrycopy` is told of ranges.
pub fn source(path: &Path, ranges: &[(u64, u64)]) -> String {
    let words: Vec<String> = ranges.iter().map(|(offset, length)| format!("{offset}:{length}")).collect();
    format!("{}:{}", path.display(), words.join(","))
}

/// Has `ferrycopy` copy, and holds all of both devices against what has to come of it.
#[track_caller]
pub fn copies(from: &Path, ranges: &[(u64, u64)], to: &Path, target: u64, options: &[&str]) -> Value {
    let (source_before, before) = (Holdings::of(from), Holdings::of(to));
    let destination = format!("{}:{target}", to.display());
    let said = report(&[&["copy", "--json"], options, &[&source(from, ranges), &destination]].concat());
    assert!(Holdings::of(to) == before.with(target, &source_before.gathered(ranges)), "{destination} holds something else: {said}");
    assert!(from == to || Holdings::of(from) == source_before, "the source changed");
    said
}

/// Has `ferrycopy` copy what cannot be copied whole; gives how it ended and its report.
#[track_caller]
pub fn fails(from: &Path, ranges: &[(u64, u64)], to: &Path, target: u64, options: &[&str]) -> (Outcome, Value) {
    let destination = format!("{}:{target}", to.display());
    let outcome = ferrycopy([&["copy", "--json"], options, &[&source(from, ranges), &destination]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let said = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    (outcome, said)
}
