//! The drive's inside: zones, the rules of the zone state machine, and single operations with their faults.

use super::fault::{Asking, Fault, REFUSALS};
use super::store::ZoneBytes;
use super::tape::{By, Deed, Reel};
use super::{Breach, CutPoint, POWER_LOSS_STATUS, SimConfig, SimOp, SimStats, Violation};
use crate::error::{DeviceError, Result};
use crate::geometry::Geometry;
use crate::native_copy::{CopySource, NvmeStatus};
use crate::units::{Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One zone. Sequential zones read as zeros from `written` on.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub state: ZoneState,
    /// Device blocks below the write pointer.
    pub written: u64,
    pub bytes: Arc<ZoneBytes>,
}

/// Something done to a sequential zone since the last flush.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Blocks `from..to` of the zone were written. Their bytes are in the next reset's `before`, or in the zone itself.
    Write { from: u64, to: u64 },
    /// Reset; `before` is what the zone held.
    Reset { before: Arc<ZoneBytes> },
    /// Finished.
    Finish,
}

/// A write to a conventional zone since the last flush.
#[derive(Clone, Debug)]
pub(super) struct Overwrite {
    pub zone: u32,
    pub offset: usize,
    pub data: Arc<[u8]>,
}

/// An operation that has begun. `torn`: power goes during it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub number: u64,
    pub torn: bool,
}

/// A checked range: zone, first block in it, number of blocks.
#[derive(Clone, Copy, Debug)]
struct Span {
    zone: u32,
    offset: u64,
    blocks: u64,
}

/// All state of a drive.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub config: SimConfig,
    pub geometry: Geometry,
    pub powered: bool,
    pub cut_at: Option<u64>,
    /// What the power was cut in, the last time.
    pub cut_point: Option<CutPoint>,
    pub ops: u64,
    /// As the host sees it.
    pub zones: Vec<Zone>,
    /// As of the last successful flush.
    pub durable: Vec<Zone>,
    pub pending: BTreeMap<u32, Vec<Event>>,
    pub overwrites: Vec<Overwrite>,
    /// Zones that are read-only or offline for good.
    pub worn: BTreeMap<u32, ZoneState>,
    pub bad_blocks: BTreeSet<u64>,
    pub stats: SimStats,
    pub violations: Vec<Violation>,
    /// A flush failed, and with it all later ones (see [`super::FaultPlan::flush_failure_lasts`]).
    pub flushes_in_vain: bool,
    /// Writes and copies in flight per zone.
    pub in_flight: BTreeMap<u32, u32>,
    /// Where it is recorded what is done.
    pub reel: Option<Reel>,
    open: usize,
    active: usize,
    implicit: BTreeSet<u32>,
}

impl State {
    pub fn new(config: SimConfig) -> Self {
        let zone = Zone { state: ZoneState::Empty, written: 0, bytes: Arc::default() };
        let zones = vec![zone; config.zones as usize];
        Self {
            geometry: config.geometry(),
            config,
            powered: true,
            cut_at: None,
            cut_point: None,
            ops: 0,
            durable: zones.clone(),
            zones,
            pending: BTreeMap::new(),
            overwrites: Vec::new(),
            worn: BTreeMap::new(),
            bad_blocks: BTreeSet::new(),
            stats: SimStats::default(),
            violations: Vec::new(),
            flushes_in_vain: false,
            in_flight: BTreeMap::new(),
            reel: None,
            open: 0,
            active: 0,
            implicit: BTreeSet::new(),
        }
    }

    /// A drive that was off, with this on its media.
    pub fn holding(config: SimConfig, zones: Vec<Zone>) -> Self {
        let mut state = Self::new(config);
        for (zone, held) in (0..).zip(zones) {
            let idle = match held.state {
                worn @ (ZoneState::ReadOnly | ZoneState::Offline) => worn,
                ZoneState::Full => ZoneState::Full,
                _ if held.written == 0 => ZoneState::Empty,
                _ => ZoneState::Closed,
            };
            if matches!(idle, ZoneState::ReadOnly | ZoneState::Offline) {
                state.worn.insert(zone, idle);
            }
            state.set_state(zone, idle);
            let held = Zone { state: idle, ..held };
            state.zones[zone as usize] = held.clone();
            state.durable[zone as usize] = held;
        }
        state
    }

    fn record(&self, deed: impl FnOnce() -> Deed) {
        if let Some(reel) = &self.reel {
            reel.record(deed());
        }
    }

    pub fn block(&self) -> usize {
        self.config.block_size as usize
    }

    /// Chance for one purpose in one operation: independent of everything else, so that runs repeat.
    pub fn rng(&self, op: u64, purpose: u64) -> ChaCha8Rng {
        let mixed = self.config.seed ^ op.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        ChaCha8Rng::seed_from_u64(mixed)
    }

    /// Numbers an operation. `Err`: there is no power (any more).
    pub fn start(&mut self, what: SimOp, zone: Option<u32>) -> Result<Op> {
        if !self.powered {
            return Err(DeviceError::PowerLost);
        }
        let number = self.ops;
        self.ops += 1;
        if self.cut_at.is_none_or(|cut| number < cut) {
            return Ok(Op { number, torn: false });
        }
        self.powered = false;
        let torn = self.rng(number, 1).random();
        self.cut_point = Some(CutPoint { what, zone: zone.map(ZoneId), torn });
        if torn { Ok(Op { number, torn }) } else { Err(DeviceError::PowerLost) }
    }

    pub fn fault(&mut self, op: Op, asking: Asking) -> Option<Fault> {
        if op.torn {
            return None;
        }
        loop {
            let fault = self.config.faults.take_explicit(op.number, asking).or_else(|| {
                let mut rng = self.rng(op.number, 2 + asking as u64);
                match self.config.faults.by_chance(asking, |p| rng.random_bool(p.clamp(0.0, 1.0)))? {
                    Fault::CopyRefused(_) => Some(Fault::CopyRefused(REFUSALS[rng.random_range(0..REFUSALS.len())])),
                    fault => Some(fault),
                }
            })?;
            self.stats.faults += 1;
            match fault {
                Fault::ZoneReadOnly(zone) => self.wear(zone.0, ZoneState::ReadOnly),
                Fault::ZoneOffline(zone) => self.wear(zone.0, ZoneState::Offline),
                Fault::Panic => panic!("a panic that the test wants"),
                other => return Some(other),
            }
        }
    }

    /// A zone goes read-only or offline, for good.
    pub fn wear(&mut self, zone: u32, state: ZoneState) {
        if (zone as usize) < self.zones.len() {
            self.set_state(zone, state);
            self.worn.insert(zone, state);
        }
    }

    fn breach(&mut self, op: Op, breach: Breach) {
        self.violations.push(Violation { op: op.number, breach });
    }

    fn refuse(&mut self, op: Op, error: DeviceError) -> DeviceError {
        self.breach(op, Breach::Refused(error.clone()));
        error
    }

    /// A Copy into `zone` is in flight from here on.
    pub fn enter_copy(&mut self, op: Op, zone: u32) {
        let writers = self.in_flight.entry(zone).or_default();
        *writers += 1;
        if *writers > 1 {
            self.breach(op, Breach::TwoWritersInFlight(ZoneId(zone)));
        }
    }

    // ---- zone states -------------------------------------------------------------------------------------------

    /// Changes a zone's state and keeps the counts of open and active zones.
    pub fn set_state(&mut self, zone: u32, state: ZoneState) {
        let old = std::mem::replace(&mut self.zones[zone as usize].state, state);
        self.open = self.open + usize::from(state.is_open()) - usize::from(old.is_open());
        self.active = self.active + usize::from(state.is_active()) - usize::from(old.is_active());
        if state == ZoneState::ImplicitOpen {
            self.implicit.insert(zone);
        } else {
            self.implicit.remove(&zone);
        }
    }

    fn idle_state(&self, zone: u32) -> ZoneState {
        if self.zones[zone as usize].written == 0 { ZoneState::Empty } else { ZoneState::Closed }
    }

    fn open_zone(&mut self, zone: u32, state: ZoneState) -> std::result::Result<(), NvmeStatus> {
        let old = self.zones[zone as usize].state;
        let full = |limit: u32, count: usize| limit != 0 && count >= limit as usize;
        if !old.is_active() && full(self.config.max_active, self.active) {
            return Err(NvmeStatus::TOO_MANY_ACTIVE);
        }
        if !old.is_open() && full(self.config.max_open, self.open) {
            // The drive closes a zone that it opened by itself; zones opened by command are the host's.
            let Some(other) = self.implicit.first().copied() else { return Err(NvmeStatus::TOO_MANY_OPEN) };
            self.set_state(other, self.idle_state(other));
        }
        if old != ZoneState::ExplicitOpen {
            self.set_state(zone, state);
        }
        Ok(())
    }

    /// May `blocks` blocks be written at block `offset` of the zone? Opens it.
    fn admit(&mut self, span: Span) -> std::result::Result<(), NvmeStatus> {
        let Zone { state, written, .. } = self.zones[span.zone as usize];
        let free = self.config.overwrites;
        match state {
            ZoneState::ReadOnly => return Err(NvmeStatus::ZONE_READ_ONLY),
            ZoneState::Offline => return Err(NvmeStatus::ZONE_OFFLINE),
            ZoneState::Full if !free => return Err(NvmeStatus::ZONE_FULL),
            _ if span.offset != written && !free => return Err(NvmeStatus::ZONE_INVALID_WRITE),
            _ if span.offset + span.blocks > self.config.zone_capacity.0 => return Err(NvmeStatus::ZONE_BOUNDARY),
            _ if free => return Ok(()),
            _ => {}
        }
        self.open_zone(span.zone, ZoneState::ImplicitOpen)
    }

    /// Puts bytes into the cache and moves the write pointer. `data: None`: the place keeps what it had (misdirected).
    fn put(&mut self, zone: u32, offset: u64, blocks: u64, data: Option<&[u8]>, by: By) {
        if blocks == 0 {
            return;
        }
        let at = offset as usize * self.block();
        if let Some(data) = data {
            self.record(|| Deed::Write { zone, offset: at, data: data.into(), by });
        }
        let z = &mut self.zones[zone as usize];
        if let Some(data) = data {
            Arc::make_mut(&mut z.bytes).write(at, data);
        }
        self.stats.overwrites += u64::from(offset != z.written);
        z.written = if self.config.overwrites { z.written.max(offset + blocks) } else { offset + blocks };
        let full = z.written == self.config.zone_capacity.0;
        if self.config.conventional {
            if let Some(data) = data {
                self.overwrites.push(Overwrite { zone, offset: at, data: data.into() });
            }
        } else {
            let events = self.pending.entry(zone).or_default();
            match events.last_mut() {
                Some(Event::Write { to, .. }) if *to == offset => *to = offset + blocks,
                _ => events.push(Event::Write { from: offset, to: offset + blocks }),
            }
        }
        if full {
            self.set_state(zone, ZoneState::Full);
        } else if self.config.overwrites {
            self.set_state(zone, ZoneState::ImplicitOpen);
        }
    }

    // ---- operations --------------------------------------------------------------------------------------------

    pub fn zone_of(&self, lba: Lba) -> Option<u32> {
        u32::try_from(lba.0 / self.config.zone_size.0).ok()
    }

    fn span(&self, lba: Lba, bytes: usize) -> Result<Span> {
        let blocks = (bytes / self.block()) as u64;
        let bad = |reason| Err(DeviceError::BadRange { lba, blocks, reason });
        if bytes == 0 || !bytes.is_multiple_of(self.block()) {
            return bad("its length is not a positive multiple of the device block");
        }
        if bytes > self.config.max_io_bytes as usize {
            return bad("it is larger than the device takes at once");
        }
        let size = u64::from(self.config.zones) * self.config.zone_size.0;
        if lba.0.checked_add(blocks).is_none_or(|end| end > size) {
            return bad("it lies outside the device");
        }
        let (zone, offset) = (lba.0 / self.config.zone_size.0, lba.0 % self.config.zone_size.0);
        if offset + blocks > self.config.zone_size.0 {
            return bad("it crosses the end of a zone");
        }
        Ok(Span { zone: zone as u32, offset, blocks })
    }

    fn has_bad_block(&self, lba: Lba, blocks: u64) -> bool {
        self.bad_blocks.range(lba.0..lba.0 + blocks).next().is_some()
    }

    pub fn read(&mut self, lba: Lba, out: &mut [u8]) -> Result<()> {
        let op = self.start(SimOp::Read, self.zone_of(lba))?;
        if op.torn {
            return Err(DeviceError::PowerLost);
        }
        let span = self.span(lba, out.len()).map_err(|error| self.refuse(op, error))?;
        let fault = self.fault(op, Asking::Read);
        if self.zones[span.zone as usize].state == ZoneState::Offline {
            return Err(DeviceError::Zone { zone: ZoneId(span.zone), status: NvmeStatus::ZONE_OFFLINE });
        }
        if fault.is_some() || self.has_bad_block(lba, span.blocks) {
            return Err(DeviceError::Io { lba, errno: libc::EIO });
        }
        self.stats.reads += 1;
        self.stats.bytes_read += out.len() as u64;
        self.zones[span.zone as usize].bytes.read(span.offset as usize * self.block(), out);
        Ok(())
    }

    pub fn write(&mut self, lba: Lba, data: &[u8], others_in_flight: bool) -> Result<()> {
        let op = self.start(SimOp::Write, self.zone_of(lba))?;
        let span = self.span(lba, data.len()).map_err(|error| self.refuse(op, error))?;
        let fault = self.fault(op, Asking::Write);
        let zone = ZoneId(span.zone);
        if others_in_flight {
            self.breach(op, Breach::TwoWritersInFlight(zone));
        }
        if let Err(status) = self.admit(span) {
            let error = match status {
                NvmeStatus::ZONE_INVALID_WRITE => {
                    let write_pointer = Lba(lba.0 - span.offset + self.zones[span.zone as usize].written);
                    DeviceError::NotAtWritePointer { zone, lba, write_pointer }
                }
                status => DeviceError::Zone { zone, status },
            };
            return Err(if self.worn.contains_key(&zone.0) { error } else { self.refuse(op, error) });
        }
        if fault == Some(Fault::NoSpace) {
            return Err(DeviceError::Io { lba, errno: libc::ENOSPC });
        }
        self.stats.writes += 1;
        let cut_short = op.torn || fault == Some(Fault::WriteError);
        let blocks = if cut_short { self.rng(op.number, 20).random_range(0..=span.blocks) } else { span.blocks };
        let data = &data[..blocks as usize * self.block()];
        self.stats.bytes_written += data.len() as u64;
        if fault == Some(Fault::MisdirectedWrite) {
            self.misdirect(op, data);
            self.put(span.zone, span.offset, blocks, None, By::Host);
        } else {
            self.put(span.zone, span.offset, blocks, Some(data), By::Host);
        }
        match (op.torn, fault) {
            (true, _) => Err(DeviceError::PowerLost),
            (false, Some(Fault::WriteError)) => Err(DeviceError::Io { lba, errno: libc::EIO }),
            _ => Ok(()),
        }
    }

    /// Overwrites a block somewhere else with the first block of `data`.
    fn misdirect(&mut self, op: Op, data: &[u8]) {
        let mut rng = self.rng(op.number, 21);
        let candidates: Vec<u32> = (0..self.config.zones).filter(|zone| self.zones[*zone as usize].written > 0).collect();
        if candidates.is_empty() || data.is_empty() {
            return;
        }
        let zone = candidates[rng.random_range(0..candidates.len())];
        let offset = rng.random_range(0..self.zones[zone as usize].written);
        self.poke(zone, offset as usize * self.block(), &data[..self.block()]);
    }

    /// Changes bytes on the media and in the cache, past all rules.
    pub fn poke(&mut self, zone: u32, at: usize, bytes: &[u8]) {
        Arc::make_mut(&mut self.zones[zone as usize].bytes).write(at, bytes);
        let durable = &mut self.durable[zone as usize];
        // Beyond a durable write pointer there is nothing to damage.
        if self.config.conventional || (at + bytes.len()) as u64 <= durable.written * u64::from(self.config.block_size) {
            Arc::make_mut(&mut durable.bytes).write(at, bytes);
        }
    }

    /// The write pointer of a zone goes elsewhere, on the media and in the cache.
    pub fn move_write_pointer(&mut self, zone: u32, written: u64) {
        let capacity = self.config.zone_capacity.0;
        if zone >= self.config.zones || self.config.conventional || self.worn.contains_key(&zone) {
            return;
        }
        let written = written.min(capacity);
        let state = match written {
            0 => ZoneState::Empty,
            n if n == capacity => ZoneState::Full,
            _ => ZoneState::Closed,
        };
        self.pending.remove(&zone);
        self.set_state(zone, state);
        let end = written as usize * self.block();
        let z = &mut self.zones[zone as usize];
        (z.written, z.state) = (written, state);
        Arc::make_mut(&mut z.bytes).truncate(end);
        self.durable[zone as usize] = z.clone();
    }

    pub fn manage(&mut self, zone: ZoneId, action: ZoneAction) -> Result<()> {
        let what = match action {
            ZoneAction::Reset => SimOp::Reset,
            ZoneAction::Finish => SimOp::Finish,
            ZoneAction::Open | ZoneAction::Close => SimOp::Other,
        };
        let op = self.start(what, Some(zone.0))?;
        // A command that power interrupts happened or not; the host cannot tell.
        let lost = op.torn && self.rng(op.number, 22).random();
        if lost {
            return Err(DeviceError::PowerLost);
        }
        if zone.0 >= self.config.zones {
            let error = DeviceError::BadRange { lba: Lba(0), blocks: 0, reason: "there is no such zone" };
            return Err(self.refuse(op, error));
        }
        let asking = if action == ZoneAction::Reset { Asking::Reset } else { Asking::Other };
        if self.fault(op, asking).is_some() {
            return Err(DeviceError::Io { lba: self.geometry.zone_start(zone), errno: libc::EIO });
        }
        if let Err(status) = self.transition(zone.0, action) {
            let error = DeviceError::Zone { zone, status };
            return Err(if self.worn.contains_key(&zone.0) { error } else { self.refuse(op, error) });
        }
        if op.torn { Err(DeviceError::PowerLost) } else { Ok(()) }
    }

    fn transition(&mut self, zone: u32, action: ZoneAction) -> std::result::Result<(), NvmeStatus> {
        use ZoneState as S;
        let state = self.zones[zone as usize].state;
        if matches!(state, S::ReadOnly | S::Offline) {
            return Err(NvmeStatus::INVALID_TRANSITION);
        }
        match action {
            ZoneAction::Open if state == S::Full => return Err(NvmeStatus::INVALID_TRANSITION),
            ZoneAction::Open => self.open_zone(zone, S::ExplicitOpen)?,
            ZoneAction::Close if matches!(state, S::Empty | S::Full) => return Err(NvmeStatus::INVALID_TRANSITION),
            ZoneAction::Close => self.set_state(zone, self.idle_state(zone)),
            ZoneAction::Finish => {
                self.stats.finishes += 1;
                self.note(zone, Event::Finish, state != S::Full);
                self.zones[zone as usize].written = self.config.zone_capacity.0;
                self.set_state(zone, S::Full);
            }
            ZoneAction::Reset => {
                self.stats.resets += 1;
                let before = self.zones[zone as usize].bytes.clone();
                self.note(zone, Event::Reset { before }, state != S::Empty);
                self.set_state(zone, S::Empty);
                let z = &mut self.zones[zone as usize];
                z.written = 0;
                if !self.config.conventional {
                    z.bytes = Arc::default();
                }
            }
        }
        Ok(())
    }

    /// What the host does not know of a plain disk, it must take as full.
    pub fn forget_pointers(&mut self) {
        for zone in 0..self.config.zones {
            if !self.worn.contains_key(&zone) {
                self.set_state(zone, ZoneState::Full);
                self.zones[zone as usize].written = self.config.zone_capacity.0;
            }
        }
    }

    fn note(&mut self, zone: u32, event: Event, happened: bool) {
        if happened && !self.config.conventional {
            self.record(|| match event {
                Event::Finish => Deed::Finish { zone },
                _ => Deed::Reset { zone },
            });
            self.pending.entry(zone).or_default().push(event);
        }
    }

    pub fn report(&mut self, zones: std::ops::Range<u32>) -> Result<Vec<ZoneInfo>> {
        let op = self.start(SimOp::Other, None)?;
        if op.torn {
            return Err(DeviceError::PowerLost);
        }
        if zones.start > zones.end || zones.end > self.config.zones {
            let error = DeviceError::BadRange { lba: Lba(0), blocks: 0, reason: "there are no such zones" };
            return Err(self.refuse(op, error));
        }
        if self.fault(op, Asking::Report).is_some() {
            return Err(DeviceError::Io { lba: Lba(0), errno: libc::EIO });
        }
        self.stats.reports += 1;
        Ok(zones.map(|zone| self.info(zone)).collect())
    }

    pub fn info(&self, zone: u32) -> ZoneInfo {
        let z = &self.zones[zone as usize];
        ZoneInfo {
            id: ZoneId(zone),
            state: z.state,
            start: self.geometry.zone_start(ZoneId(zone)),
            capacity: self.config.zone_capacity,
            written: crate::units::Blocks(z.written),
        }
    }

    // ---- Copy --------------------------------------------------------------------------------------------------

    /// Checks a Copy as a whole. Counts as the beginning of its first range.
    pub fn copy_start(&mut self, sources: &[CopySource], target: Lba) -> std::result::Result<Op, NvmeStatus> {
        let op = self.start(SimOp::Copy, self.zone_of(target)).map_err(|_| POWER_LOSS_STATUS)?;
        self.stats.copies += 1;
        if let Some(Fault::CopyRefused(status)) = self.fault(op, Asking::CopyStart) {
            return Err(status);
        }
        self.check_copy(sources, target).map(|()| op).inspect_err(|&status| {
            let worn = matches!(status, NvmeStatus::ZONE_OFFLINE | NvmeStatus::ZONE_READ_ONLY);
            if !worn {
                self.breach(op, Breach::CopyRefused(status));
            }
        })
    }

    fn check_copy(&mut self, sources: &[CopySource], target: Lba) -> std::result::Result<(), NvmeStatus> {
        let limits = self.config.copy.filter(|l| l.mssrl > 0 && l.mcl > 0 && l.ranges > 0).ok_or(NvmeStatus::INVALID_OPCODE)?;
        if sources.is_empty() {
            return Err(NvmeStatus::INVALID_FIELD);
        }
        let too_long = sources.iter().any(|source| source.blocks.0 > u64::from(limits.mssrl));
        let total = sources.iter().fold(0u64, |sum, source| sum.saturating_add(source.blocks.0));
        if sources.len() > limits.ranges as usize || too_long || total > u64::from(limits.mcl) {
            return Err(NvmeStatus::SIZE_LIMIT);
        }
        for source in sources {
            let span = self.copy_span(source.lba, source.blocks.0)?;
            if self.zones[span.zone as usize].state == ZoneState::Offline {
                return Err(NvmeStatus::ZONE_OFFLINE);
            }
        }
        let span = self.copy_span(target, total)?;
        self.admit(span)
    }

    fn copy_span(&self, lba: Lba, blocks: u64) -> std::result::Result<Span, NvmeStatus> {
        let size = u64::from(self.config.zones) * self.config.zone_size.0;
        if blocks == 0 {
            return Err(NvmeStatus::INVALID_FIELD);
        }
        if lba.0.checked_add(blocks).is_none_or(|end| end > size) {
            return Err(NvmeStatus::LBA_OUT_OF_RANGE);
        }
        let offset = lba.0 % self.config.zone_size.0;
        if offset + blocks > self.config.zone_size.0 {
            return Err(NvmeStatus::ZONE_BOUNDARY);
        }
        Ok(Span { zone: (lba.0 / self.config.zone_size.0) as u32, offset, blocks })
    }

    /// Copies one range to `target`. `rest`: how many blocks of the command follow this range.
    pub fn copy_range(&mut self, op: Op, source: CopySource, target: Lba, rest: u64) -> std::result::Result<(), NvmeStatus> {
        let from = self.copy_span(source.lba, source.blocks.0)?;
        let to = self.copy_span(target, source.blocks.0)?;
        let fault = self.fault(op, Asking::CopyRange);
        if self.has_bad_block(source.lba, source.blocks.0) || fault == Some(Fault::ReadError) {
            return Err(NvmeStatus::READ_ERROR);
        }
        if self.zones[from.zone as usize].state == ZoneState::Offline {
            return Err(NvmeStatus::ZONE_OFFLINE);
        }
        self.admit(to)?;
        let block = self.block();
        let mut data = vec![0; source.blocks.0 as usize * block];
        self.zones[from.zone as usize].bytes.read(from.offset as usize * block, &mut data);
        let mut rng = self.rng(op.number, 23);
        match fault {
            _ if op.torn => {
                let blocks = rng.random_range(0..=source.blocks.0);
                self.put(to.zone, to.offset, blocks, Some(&data[..blocks as usize * block]), By::Copy);
                return Err(POWER_LOSS_STATUS);
            }
            Some(Fault::WriteError) => {
                let blocks = rng.random_range(0..source.blocks.0);
                self.put(to.zone, to.offset, blocks, Some(&data[..blocks as usize * block]), By::Copy);
                return Err(NvmeStatus::WRITE_FAULT);
            }
            Some(Fault::CopyPartial) => {
                // Ranges from this one on are copied in part: some of them as garbage, with the write pointer anywhere.
                let blocks = rng.random_range(0..=source.blocks.0 + rest);
                let mut garbage = vec![0; blocks as usize * block];
                rng.fill(&mut garbage[..]);
                let real = (rng.random_range(0..=blocks) as usize * block).min(data.len());
                garbage[..real].copy_from_slice(&data[..real]);
                self.put(to.zone, to.offset, blocks, Some(&garbage), By::Copy);
                return Err(NvmeStatus(0x006));
            }
            Some(Fault::CopyWrong) => {
                let wrong = rng.random_range(0..source.blocks.0) as usize * block;
                let bit = rng.random_range(0..block * 8);
                if rng.random() {
                    data[wrong..wrong + block].fill(0xa5);
                }
                data[wrong + bit / 8] ^= 1 << (bit % 8);
            }
            _ => {}
        }
        self.put(to.zone, to.offset, source.blocks.0, Some(&data), By::Copy);
        self.stats.copy_ranges += 1;
        self.stats.bytes_copied += data.len() as u64;
        Ok(())
    }
}
