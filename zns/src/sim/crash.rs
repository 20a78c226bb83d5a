//! Flush, loss of power, and what is left afterwards.

use super::fault::Asking;
use super::media::{Event, State, Zone};
use super::store::ZoneBytes;
use super::tape::Deed;
use super::{SimOp, Survival};
use crate::error::{DeviceError, Result};
use crate::units::Lba;
use crate::zone::ZoneState;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

impl State {
    pub fn flush(&mut self) -> Result<()> {
        let op = self.start(SimOp::Flush, None)?;
        if op.torn {
            if self.rng(op.number, 30).random() {
                self.make_durable();
            }
            return Err(DeviceError::PowerLost);
        }
        if self.fault(op, Asking::Flush).is_some() {
            self.flushes_in_vain |= self.config.faults.flush_failure_lasts;
            return Err(DeviceError::Io { lba: Lba(0), errno: libc::EIO });
        }
        self.stats.flushes += 1;
        self.make_durable();
        Ok(())
    }

    fn make_durable(&mut self) {
        if self.flushes_in_vain {
            return;
        }
        if let Some(reel) = &self.reel {
            reel.record(Deed::Flush);
        }
        let overwritten = std::mem::take(&mut self.overwrites).into_iter().map(|write| write.zone);
        for zone in std::mem::take(&mut self.pending).into_keys().chain(overwritten) {
            self.durable[zone as usize] = self.zones[zone as usize].clone();
        }
    }

    /// Power goes, if it had not gone already, and comes back. The seed and the number of power cycles decide the outcome.
    pub fn power_cycle(&mut self, survival: Survival) {
        self.stats.power_cycles += 1;
        let mut rng = self.rng(self.ops, 31 + (self.stats.power_cycles << 8));
        let in_use: Vec<u32> =
            (0..self.config.zones).filter(|zone| self.zones[*zone as usize].state.is_active() || self.pending.contains_key(zone)).collect();
        if self.config.conventional {
            self.settle_overwrites(survival, &mut rng);
        } else {
            self.settle_zones(survival, &mut rng);
            self.surprise(&in_use, &mut rng);
            self.keep_active_limit(&in_use);
        }
        for zone in 0..self.config.zones {
            let z = &mut self.durable[zone as usize];
            z.state = match (self.worn.get(&zone), z.state) {
                (Some(worn), _) => *worn,
                (None, ZoneState::Full) => ZoneState::Full,
                _ if z.written == 0 => ZoneState::Empty,
                _ => ZoneState::Closed,
            };
            let next = z.clone();
            self.set_state(zone, next.state);
            self.zones[zone as usize] = next;
        }
        if self.config.conventional {
            self.forget_pointers();
        }
        self.in_flight.clear();
        self.flushes_in_vain = false;
        self.powered = true;
        self.cut_point = None;
        self.cut_at = None;
    }

    /// Each zone keeps a prefix of what was done to it.
    fn settle_zones(&mut self, survival: Survival, rng: &mut ChaCha8Rng) {
        let tear = self.config.tear_blocks && self.config.block_size > 512;
        let units_per_block = if tear { u64::from(self.config.block_size / 512) } else { 1 };
        for (zone, events) in std::mem::take(&mut self.pending) {
            let weight = |event: &Event| match event {
                Event::Write { from, to } => (to - from) * units_per_block,
                Event::Reset { .. } | Event::Finish => 1,
            };
            let total: u64 = events.iter().map(weight).sum();
            let keep = match (survival, rng.random_range(0..4u8)) {
                (Survival::KeepAll, _) | (Survival::Random, 0) => total,
                (Survival::LoseAll, _) | (Survival::Random, 1) => 0,
                (Survival::Random, _) => rng.random_range(0..=total),
            };
            let current = &self.zones[zone as usize].bytes;
            let result = prefix(&self.durable[zone as usize], current, &events, keep, weight, &self.config);
            self.durable[zone as usize] = result;
        }
    }

    /// A drive that lost the reset or finish of one zone cannot have opened another in its place beyond its own limit:
    /// such resets and finishes happened.
    fn keep_active_limit(&mut self, in_use: &[u32]) {
        let limit = match self.config.max_active {
            0 => return,
            limit => limit as usize,
        };
        let active = |zone: &Zone| zone.written > 0 && zone.state != ZoneState::Full;
        let mut count = in_use.iter().filter(|zone| active(&self.durable[**zone as usize])).count();
        for zone in in_use {
            let now = &self.zones[*zone as usize];
            if count > limit && active(&self.durable[*zone as usize]) && !active(now) {
                self.durable[*zone as usize] = now.clone();
                count -= 1;
            }
        }
    }

    /// Conventional drives keep any subset of the writes, torn anywhere between device blocks.
    fn settle_overwrites(&mut self, survival: Survival, rng: &mut ChaCha8Rng) {
        let unit = if self.config.tear_blocks { 512 } else { self.block() };
        for write in std::mem::take(&mut self.overwrites) {
            let bytes = Arc::make_mut(&mut self.durable[write.zone as usize].bytes);
            let units = write.data.len() / unit;
            let mut put = |index: usize, count: usize| {
                bytes.write(write.offset + index * unit, &write.data[index * unit..(index + count) * unit]);
            };
            match (survival, rng.random_range(0..6u8)) {
                (Survival::KeepAll, _) | (Survival::Random, 0 | 1) => put(0, units),
                (Survival::LoseAll, _) | (Survival::Random, 2 | 3) => {}
                (Survival::Random, 4) => put(0, rng.random_range(0..=units)),
                (Survival::Random, _) => (0..units).filter(|_| rng.random()).for_each(|index| put(index, 1)),
            }
        }
    }

    /// Moves write pointers ahead over garbage, if the plan says so.
    fn surprise(&mut self, in_use: &[u32], rng: &mut ChaCha8Rng) {
        let chance = self.config.faults.write_pointer_surprise.clamp(0.0, 1.0);
        for zone in in_use {
            if chance == 0.0 || !rng.random_bool(chance) {
                continue;
            }
            let block = self.block();
            let z = &mut self.durable[*zone as usize];
            let room = self.config.zone_capacity.0.saturating_sub(z.written).min(64);
            if room == 0 {
                continue;
            }
            let ahead = rng.random_range(1..=room);
            let mut garbage = vec![0; ahead as usize * block];
            if rng.random() {
                rng.fill(&mut garbage[..]);
            }
            Arc::make_mut(&mut z.bytes).write(z.written as usize * block, &garbage);
            z.written += ahead;
            if z.written == self.config.zone_capacity.0 {
                z.state = ZoneState::Full;
            }
            self.stats.faults += 1;
        }
    }
}

/// The zone after the first `keep` units of `events`.
fn prefix(
    durable: &Zone,
    current: &Arc<ZoneBytes>,
    events: &[Event],
    keep: u64,
    weight: impl Fn(&Event) -> u64,
    config: &super::SimConfig,
) -> Zone {
    let block = u64::from(config.block_size);
    let mut left = keep;
    let mut zone = durable.clone();
    // Bytes of real content below the write pointer: less than the pointer says after a finish or a torn block.
    let mut content = durable_content(durable, events, block);
    let mut undone = events.len();
    for (index, event) in events.iter().enumerate() {
        let size = weight(event);
        let done = left.min(size);
        left -= done;
        match event {
            _ if done == 0 => {}
            Event::Write { from, to } => {
                content = from * block + (to - from) * block * done / size;
                zone.written = content.div_ceil(block);
                zone.state = if zone.written == config.zone_capacity.0 { ZoneState::Full } else { ZoneState::ImplicitOpen };
            }
            Event::Reset { .. } => {
                content = 0;
                zone.written = 0;
                zone.state = ZoneState::Empty;
            }
            Event::Finish => {
                zone.written = config.zone_capacity.0;
                zone.state = ZoneState::Full;
            }
        }
        if done < size {
            undone = index;
            break;
        }
    }
    // The bytes of that moment are what the next reset, which did not happen, found; else they are the zone's own.
    let next_reset = events[undone..].iter().find_map(|event| match event {
        Event::Reset { before } => Some(before),
        _ => None,
    });
    zone.bytes = next_reset.unwrap_or(current).clone();
    Arc::make_mut(&mut zone.bytes).truncate(content as usize);
    zone
}

/// How many bytes of a durable zone are content, when the events since then begin like this.
fn durable_content(durable: &Zone, events: &[Event], block: u64) -> u64 {
    match events.first() {
        Some(Event::Write { from, .. }) => from * block,
        _ => durable.written * block,
    }
}
