//! The drive as its owner and as its host see it.

use super::media::{State, Zone};
use super::still::{Shape, Still};
use super::tape::{Reel, Tape};
use super::{CutPoint, Fault, FaultPlan, POWER_LOSS_STATUS, SimConfig, SimOp, SimStats, Survival, Violation};
use crate::buffer::AlignedBuf;
use crate::device::{Completions, Io, IoClass, Ticket, ZonedDevice};
use crate::error::{DeviceError, Result};
use crate::geometry::Geometry;
use crate::native_copy::{CopyFailure, CopyLimits, CopySource, NativeCopy, NvmeStatus};
use crate::units::{Blocks, Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The hardware. Clones share one drive; [`SimDrive::fork`] makes another.
#[derive(Clone, Debug)]
pub struct SimDrive {
    state: Arc<Mutex<State>>,
}

impl SimDrive {
    /// A drive whose zones are all empty.
    pub fn new(config: SimConfig) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(config))) }
    }

    /// A handle. On a conventional drive the software write pointers start unknown (all zones full) with each handle that is
    /// opened.
    pub fn open(&self) -> Arc<SimDevice> {
        let mut state = self.state.lock();
        if state.config.conventional {
            state.forget_pointers();
        }
        Arc::new(SimDevice {
            drive: self.clone(),
            geometry: state.geometry.clone(),
            limits: state.config.copy,
            label: format!("sim-{:x}", state.config.seed),
            tickets: Mutex::default(),
            next_ticket: AtomicU64::new(0),
        })
    }

    /// Another drive in the same state (cache included): cheap, the content is shared until it is written.
    pub fn fork(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.reel = None;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn holding(config: SimConfig, zones: Vec<Zone>) -> Self {
        Self { state: Arc::new(Mutex::new(State::holding(config, zones))) }
    }

    /// What is done from here on is recorded, as device `device`. Forks are not recorded.
    pub(super) fn record(&self, tape: &Arc<Tape>, device: u8) {
        self.state.lock().reel = Some(Reel { tape: tape.clone(), device });
    }

    /// All that it holds, cache included.
    pub(super) fn still(&self) -> Still {
        let state = self.state.lock();
        Still { shape: Shape::Drive(Arc::new(state.config.clone())), zones: state.zones.clone() }
    }

    /// Chance from here on follows another seed: forks with different seeds come to different ends.
    pub fn reseed(&self, seed: u64) {
        self.state.lock().config.seed = seed;
    }

    /// The number that the next operation gets.
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// Power goes when operation `op` begins, or half-way in it, as the seed says. An operation in the past: at the next one.
    pub fn cut_power_at(&self, op: u64) {
        self.state.lock().cut_at = Some(op);
    }

    /// Power goes now.
    pub fn cut_power(&self) {
        self.state.lock().powered = false;
    }

    /// What the planned cut struck, the last time: which kind of operation, in which zone.
    pub fn cut_point(&self) -> Option<CutPoint> {
        self.state.lock().cut_point
    }

    /// Is there power?
    pub fn powered(&self) -> bool {
        self.state.lock().powered
    }

    /// Power comes back (it goes first, if it is on); the seed decides what is left of the volatile cache.
    pub fn power_cycle(&self) {
        self.power_cycle_with(Survival::Random);
    }

    /// As [`SimDrive::power_cycle`], with a say in what is left.
    pub fn power_cycle_with(&self, survival: Survival) {
        self.state.lock().power_cycle(survival);
    }

    /// Adds a fault to the plan: it strikes the first operation numbered `op` or later that it fits.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.state.lock().config.faults.at.push((op, fault));
    }

    /// Replaces the plan of faults.
    pub fn set_faults(&self, faults: FaultPlan) {
        self.state.lock().config.faults = faults;
    }

    /// From now on every read of this block fails.
    pub fn add_bad_block(&self, lba: Lba) {
        self.state.lock().bad_blocks.insert(lba.0);
    }

    /// The zone becomes read-only or offline now, for good. Other states are ignored.
    pub fn wear_out(&self, zone: ZoneId, state: ZoneState) {
        if matches!(state, ZoneState::ReadOnly | ZoneState::Offline) {
            self.state.lock().wear(zone.0, state);
        }
    }

    /// Puts the write pointer of a sequential zone somewhere else, as a drive does that was repaired, or a copy of one: what lies behind it then is gone,
    /// and what it was moved over reads as zeros.
    pub fn move_write_pointer(&self, zone: ZoneId, written: Blocks) {
        self.state.lock().move_write_pointer(zone.0, written.0);
    }

    /// Flips one bit of a block, on the media and in the cache. Outside the device: nothing happens.
    pub fn flip_bit(&self, lba: Lba, byte: usize, bit: u8) {
        let mut block = self.peek(lba, Blocks(1));
        if let Some(byte) = block.get_mut(byte) {
            *byte ^= 1 << (bit % 8);
            self.poke(lba, &block);
        }
    }

    /// Content of `blocks` blocks from `lba` on, within one zone, without an operation. Outside the device: empty.
    pub fn peek(&self, lba: Lba, blocks: Blocks) -> Vec<u8> {
        let state = self.state.lock();
        let Some((zone, offset)) = locate(&state, lba, blocks.0) else { return Vec::new() };
        let mut out = vec![0; blocks.0 as usize * state.block()];
        state.zones[zone as usize].bytes.read(offset, &mut out);
        out
    }

    /// Replaces content (whole blocks, within one zone) on the media and in the cache, without an operation and past all rules.
    pub fn poke(&self, lba: Lba, bytes: &[u8]) {
        let mut state = self.state.lock();
        if let Some((zone, offset)) = locate(&state, lba, (bytes.len() / state.block()) as u64) {
            state.poke(zone, offset, bytes);
        }
    }

    /// The shape of the drive.
    pub fn geometry(&self) -> Geometry {
        self.state.lock().geometry.clone()
    }

    /// State of a zone, without an operation.
    pub fn zone(&self, zone: ZoneId) -> ZoneInfo {
        self.state.lock().info(zone.0)
    }

    /// Counters.
    pub fn stats(&self) -> SimStats {
        self.state.lock().stats
    }

    /// Rules that the host broke, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.state.lock().violations.clone()
    }
}

/// Zone and byte offset of a range that lies in one zone.
fn locate(state: &State, lba: Lba, blocks: u64) -> Option<(u32, usize)> {
    let size = state.config.zone_size.0;
    let (zone, offset) = (lba.0 / size, lba.0 % size);
    (zone < u64::from(state.config.zones) && offset + blocks <= size).then(|| (zone as u32, offset as usize * state.block()))
}

/// A batch that was carried out, and the zones it wrote to.
struct Batch {
    completions: Completions,
    zones: Vec<u32>,
}

/// Zones that something is in flight into. Where the operation panics that does not arrive, it has landed.
struct InFlight<'a> {
    device: &'a SimDevice,
    zones: Vec<u32>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.device.landed(&self.zones);
    }
}

/// A handle on a [`SimDrive`]. Operations are carried out when they are submitted, in the order of submission.
pub struct SimDevice {
    drive: SimDrive,
    geometry: Geometry,
    limits: Option<CopyLimits>,
    label: String,
    tickets: Mutex<HashMap<u64, Batch>>,
    next_ticket: AtomicU64,
}

impl SimDevice {
    /// The drive behind this handle.
    pub fn drive(&self) -> &SimDrive {
        &self.drive
    }

    fn zone_index(&self, lba: Lba) -> u32 {
        u32::try_from(lba.0 / self.geometry.zone_size.0).unwrap_or(u32::MAX)
    }

    fn carry_out(&self, io: Io, zones: &mut Vec<u32>) -> Result<Option<AlignedBuf>> {
        let mut state = self.drive.state.lock();
        match io {
            Io::Read { lba, mut buf } => state.read(lba, &mut buf).map(|()| Some(buf)),
            Io::Write { lba, data } => {
                let bytes = data.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
                let zone = self.zone_index(lba);
                let writers = state.in_flight.entry(zone).or_default();
                let others = *writers > 0;
                *writers += 1;
                zones.push(zone);
                state.write(lba, &bytes, others).map(|()| None)
            }
        }
    }

    fn landed(&self, zones: &[u32]) {
        let mut state = self.drive.state.lock();
        for zone in zones {
            if let Some(writers) = state.in_flight.get_mut(zone) {
                *writers = writers.saturating_sub(1);
            }
        }
    }
}

impl ZonedDevice for SimDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        self.drive.state.lock().report(zones)
    }

    fn submit(&self, batch: Vec<Io>, _class: IoClass) -> Result<Ticket> {
        let mut flying = InFlight { device: self, zones: Vec::new() };
        let completions = batch.into_iter().map(|io| self.carry_out(io, &mut flying.zones)).collect();
        let zones = std::mem::take(&mut flying.zones);
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.tickets.lock().insert(ticket, Batch { completions, zones });
        Ok(Ticket(ticket))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        let Some(batch) = self.tickets.lock().remove(&ticket.0) else { return Vec::new() };
        self.landed(&batch.zones);
        batch.completions
    }

    fn manage(&self, zone: ZoneId, action: ZoneAction) -> Result<()> {
        self.drive.state.lock().manage(zone, action)
    }

    fn flush(&self) -> Result<()> {
        self.drive.state.lock().flush()
    }

    fn adopt(&self, zones: &[ZoneInfo]) -> Result<()> {
        let mut state = self.drive.state.lock();
        if !state.powered {
            return Err(DeviceError::PowerLost);
        }
        if !state.config.conventional {
            return Ok(());
        }
        if zones.iter().any(|zone| zone.id.0 >= self.geometry.zones || zone.written.0 > self.geometry.zone_capacity.0) {
            return Err(DeviceError::BadRange { lba: Lba(0), blocks: 0, reason: "there is no such zone or write pointer" });
        }
        for zone in zones.iter().filter(|zone| !matches!(zone.state, ZoneState::ReadOnly | ZoneState::Offline)) {
            if !state.worn.contains_key(&zone.id.0) {
                state.set_state(zone.id.0, zone.state);
                state.zones[zone.id.0 as usize].written = zone.written.0;
            }
        }
        Ok(())
    }

    fn native_copy(&self) -> Option<&dyn NativeCopy> {
        self.limits.is_some().then_some(self)
    }

    fn label(&self) -> String {
        self.label.clone()
    }
}

impl NativeCopy for SimDevice {
    fn limits(&self) -> CopyLimits {
        self.limits.unwrap_or(CopyLimits { mssrl: 0, mcl: 0, ranges: 0 })
    }

    fn simulated(&self) -> bool {
        true
    }

    /// Takes the drive range by range, so that Copies into several zones run side by side as they do in a device.
    fn copy(&self, sources: &[CopySource], target: Lba) -> std::result::Result<(), CopyFailure> {
        let failure = |status: NvmeStatus, first_failed: usize| CopyFailure {
            status,
            first_failed: first_failed as u32,
            do_not_retry: matches!(status, NvmeStatus::INVALID_OPCODE | NvmeStatus::INVALID_FIELD | NvmeStatus::SIZE_LIMIT),
        };
        let zone = self.zone_index(target);
        let mut op = {
            let mut state = self.drive.state.lock();
            let op = state.copy_start(sources, target).map_err(|status| failure(status, 0))?;
            state.enter_copy(op, zone);
            op
        };
        let _flying = InFlight { device: self, zones: vec![zone] };
        let mut rest: u64 = sources.iter().map(|source| source.blocks.0).sum();
        let mut at = target;
        let mut outcome = Ok(());
        for (index, source) in sources.iter().enumerate() {
            let mut state = self.drive.state.lock();
            rest -= source.blocks.0;
            let done = (|| {
                if index > 0 {
                    op = state.start(SimOp::Copy, Some(zone)).map_err(|_| POWER_LOSS_STATUS)?;
                }
                state.copy_range(op, *source, at, rest)
            })();
            if let Err(status) = done {
                outcome = Err(failure(status, index));
                break;
            }
            at = at + source.blocks;
        }
        outcome
    }
}
