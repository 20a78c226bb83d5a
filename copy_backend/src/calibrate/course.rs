//! Where the copies of a calibration lie: sources with known content, and targets that are used again and again.
//!
//! In a sequential zone a copy lands at the write pointer, and a full zone is reset. A zone that receives copies by a device receives no writes of the host's until it is
//! reset, so each series begins with zones that were. With a single zone its first quarter holds the sources.

use super::CalibrateError;
use super::scratch::{Ground, Scratch};
use crate::backend::{CopyCommand, SourceRange, Target};
use crate::plan::UNIT;
use zns::{Blocks, DeviceId, IoClass, Lba, ZoneId};

type Result<T> = std::result::Result<T, CalibrateError>;

/// Most bytes of sources.
const MOST_SOURCE: u64 = 32 << 20;

/// Sources and targets of one pair of devices.
pub(super) struct Course<'a> {
    from: (DeviceId, &'a Scratch),
    to: (DeviceId, &'a Scratch),
    /// First byte of the sources.
    source: u64,
    content: Vec<u8>,
    lanes: Vec<Lane>,
}

/// Targets one behind the other.
struct Lane {
    zone: Option<ZoneId>,
    /// First byte for targets, and the one behind the last.
    begin: u64,
    end: u64,
    at: u64,
    /// It was written since its reset.
    used: bool,
    /// The sources lie in the same zone.
    shared: bool,
}

/// Different in every block.
fn pattern(bytes: u64) -> Vec<u8> {
    let word = |index: u64| (index ^ 0x5eed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..bytes / 8).flat_map(word).collect()
}

impl<'a> Course<'a> {
    /// Writes the sources.
    pub fn lay_out(from: (DeviceId, &'a Scratch), to: (DeviceId, &'a Scratch)) -> Result<Self> {
        let one = from.0 == to.0;
        let capacity = |scratch: &Scratch| scratch.device.geometry().zone_capacity_bytes();
        let zone_size = to.1.device.geometry().zone_size_bytes();
        let lane = |zone: ZoneId, skip: u64| {
            let start = u64::from(zone.0) * zone_size;
            let end = start + capacity(to.1) / UNIT * UNIT;
            Lane { zone: Some(zone), begin: start + skip, end, at: start + skip, used: false, shared: skip > 0 }
        };
        let free = |begin: u64, end: u64| vec![Lane { zone: None, begin, end, at: begin, used: false, shared: false }];
        let whole = |bytes: u64| (bytes / UNIT * UNIT).min(MOST_SOURCE);
        let (bytes, lanes) = match (&from.1.ground, &to.1.ground) {
            (Ground::Zones(zones), _) if one && zones.len() == 1 => {
                let bytes = whole(capacity(from.1) / 4);
                (bytes, vec![lane(zones[0], bytes)])
            }
            (Ground::Zones(zones), _) if one => (whole(capacity(from.1)), zones[1..].iter().map(|zone| lane(*zone, 0)).collect()),
            (Ground::Anywhere, _) if one => {
                let bytes = whole(from.1.length / 2);
                (bytes, free(from.1.offset + bytes, from.1.end()))
            }
            (source, target) => {
                let bytes = match source {
                    Ground::Zones(_) => whole(capacity(from.1)),
                    Ground::Anywhere => whole(from.1.length),
                };
                let lanes = match target {
                    Ground::Zones(zones) => zones.iter().map(|zone| lane(*zone, 0)).collect(),
                    Ground::Anywhere => free(to.1.offset, to.1.end()),
                };
                (bytes, lanes)
            }
        };
        // What another pair left there.
        for scratch in [from.1, to.1] {
            if let Ground::Zones(zones) = &scratch.ground {
                zones.iter().try_for_each(|zone| scratch.reset(*zone))?;
            }
        }
        let course = Self { from, to, source: from.1.offset, content: pattern(bytes), lanes };
        course.write_sources()?;
        Ok(course)
    }

    fn write_sources(&self) -> Result<()> {
        if let Ground::Zones(zones) = &self.from.1.ground {
            self.from.1.reset(zones[0])?;
        }
        self.from.1.write(self.source, &self.content)?;
        self.from.1.device.flush()?;
        Ok(self.from.1.device.settle()?)
    }

    /// Most bytes of a command.
    pub fn most_bytes(&self) -> u64 {
        let lane = self.lanes.iter().map(|lane| lane.end - lane.begin).min().unwrap_or(0);
        lane.min(self.content.len() as u64)
    }

    /// Most commands of so many bytes at once.
    pub fn most_in_flight(&self, bytes: u64) -> u32 {
        let lanes = self.lanes.len() as u64;
        let room = if self.lanes.iter().any(|lane| lane.zone.is_some()) {
            lanes
        } else {
            (self.lanes[0].end - self.lanes[0].begin) / bytes.max(1)
        };
        let zones = match self.to.1.device.geometry().active_limit() {
            // One may hold the sources, and one is somebody else's.
            limit if self.lanes[0].zone.is_some() => u64::from(limit.saturating_sub(2).max(1)),
            _ => u64::MAX,
        };
        room.min(zones).min(u64::from(u32::MAX)) as u32
    }

    /// Begins anew: targets that were used are free again.
    pub fn begin(&mut self) -> Result<()> {
        for index in 0..self.lanes.len() {
            self.renew(index)?;
        }
        Ok(())
    }

    fn renew(&mut self, index: usize) -> Result<()> {
        let lane = &mut self.lanes[index];
        lane.at = lane.begin;
        if !std::mem::take(&mut lane.used) {
            return Ok(());
        }
        match (lane.zone, lane.shared) {
            (Some(_), true) => self.write_sources(),
            (Some(zone), false) => self.to.1.reset(zone),
            (None, _) => Ok(()),
        }
    }

    /// A command into lane `lane` (or wherever there is room): `ranges` ranges of `bytes` bytes in all, side by side or with gaps. With its sources' place in the
    /// content, for comparison, and the byte where it lands.
    pub fn command(&mut self, lane: usize, ranges: u32, bytes: u64, gaps: bool) -> Result<(CopyCommand, Expected)> {
        let index = lane % self.lanes.len();
        if self.lanes[index].end - self.lanes[index].at < bytes {
            self.renew(index)?;
        }
        let lane = &mut self.lanes[index];
        let at = lane.at;
        lane.at += bytes;
        lane.used = true;
        let (device, block) = (self.from.0, u64::from(self.from.1.device.geometry().block_size));
        let each = (bytes / u64::from(ranges)).next_multiple_of(UNIT);
        let (mut sources, mut parts, mut left, mut begin) = (Vec::new(), Vec::new(), bytes, 0);
        while left > 0 {
            let take = each.min(left);
            // Behind the last one it begins anew: no byte is a source twice in a command, since there are as many as the command has.
            if begin + take > self.content.len() as u64 {
                begin = if gaps { UNIT } else { 0 };
            }
            let lba = Lba((self.source + begin) / block);
            sources.push(SourceRange { device, lba, blocks: Blocks(take / block) });
            parts.push((begin, take));
            begin += take * if gaps { 2 } else { 1 };
            left -= take;
        }
        let target = Target { device: self.to.0, lba: self.to.1.lba(at) };
        Ok((CopyCommand { sources, target, class: IoClass::Copy }, Expected { at, parts }))
    }

    /// Does the target hold what was copied?
    pub fn is_right(&self, expected: &Expected) -> Result<bool> {
        let mut at = expected.at;
        for &(begin, bytes) in &expected.parts {
            if self.to.1.read(at, bytes)? != self.content[begin as usize..(begin + bytes) as usize] {
                return Ok(false);
            }
            at += bytes;
        }
        Ok(true)
    }
}

/// Where a command lands, and what.
pub(super) struct Expected {
    at: u64,
    parts: Vec<(u64, u64)>,
}
