//! The zone state machine in software: states, write pointers, open and active resources.
//!
//! The image and the conventional device keep their zones here. One atomic word per zone holds state and
//! write pointer together, so that readers and reports never wait and never see half a transition. States
//! change only under the short `resources` lock, which keeps the open and active counts exact and is never
//! held across I/O; a writer holds its zone's own lock across I/O, so that zones run in parallel.

use crate::error::{DeviceError, Result};
use crate::geometry::Geometry;
use crate::native_copy::NvmeStatus;
use crate::units::{Blocks, Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// State and written blocks of a zone, as one consistent pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The state.
    pub state: ZoneState,
    /// Blocks that hold data. A zone finished early is full with fewer than its capacity.
    pub written: u64,
}

const STATE_SHIFT: u32 = 56;
const WRITTEN_MASK: u64 = (1 << STATE_SHIFT) - 1;

const STATES: [ZoneState; 7] = [
    ZoneState::Empty,
    ZoneState::ImplicitOpen,
    ZoneState::ExplicitOpen,
    ZoneState::Closed,
    ZoneState::Full,
    ZoneState::ReadOnly,
    ZoneState::Offline,
];

/// The number that stands for a state in words and on media.
pub(crate) fn state_number(state: ZoneState) -> u8 {
    state as u8
}

/// The state that a number stands for.
pub(crate) fn state_from_number(number: u8) -> Option<ZoneState> {
    STATES.get(usize::from(number)).copied()
}

impl Snapshot {
    fn pack(self) -> u64 {
        (u64::from(state_number(self.state)) << STATE_SHIFT) | (self.written & WRITTEN_MASK)
    }
    fn unpack(word: u64) -> Self {
        let state = state_from_number((word >> STATE_SHIFT) as u8).expect("only `pack` makes words");
        Self { state, written: word & WRITTEN_MASK }
    }
}

#[derive(Debug)]
struct Cell {
    word: AtomicU64,
    writer: Mutex<()>,
}

/// What the open and active limits count.
#[derive(Debug, Default)]
struct Resources {
    open: u32,
    active: u32,
    /// Implicitly open zones, oldest first; kept only where `max_open` can force one of them shut.
    implicit: VecDeque<u32>,
}

/// The right to write to one zone: holds its writer lock.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    zone: ZoneId,
    _lock: MutexGuard<'a, ()>,
}

impl Writer<'_> {
    /// The zone that is locked.
    pub(crate) fn zone(&self) -> ZoneId {
        self.zone
    }
}

/// All zones of one device.
#[derive(Debug)]
pub(crate) struct ZoneMachine {
    zones: u32,
    zone_size: u64,
    capacity: u64,
    max_open: u32,
    max_active: u32,
    cells: Box<[Cell]>,
    resources: Mutex<Resources>,
}

impl ZoneMachine {
    /// A machine whose zones start as `initial` says. Zones that were open are closed, as after a power cycle.
    pub(crate) fn new(geometry: &Geometry, initial: impl Iterator<Item = Snapshot>) -> Self {
        let cells: Box<[Cell]> =
            initial.map(|zone| Cell { word: AtomicU64::new(after_power_cycle(zone).pack()), writer: Mutex::new(()) }).collect();
        assert_eq!(cells.len(), geometry.zones as usize, "one initial state per zone");
        let machine = Self {
            zones: geometry.zones,
            zone_size: geometry.zone_size.0,
            capacity: geometry.zone_capacity.0,
            max_open: geometry.max_open,
            max_active: geometry.max_active,
            cells,
            resources: Mutex::new(Resources::default()),
        };
        machine.resources.lock().active = machine.count(ZoneState::is_active);
        machine
    }

    fn count(&self, wanted: impl Fn(ZoneState) -> bool) -> u32 {
        (0..self.zones).filter(|&zone| wanted(self.snapshot(ZoneId(zone)).state)).count() as u32
    }

    fn cell(&self, zone: ZoneId) -> &Cell {
        &self.cells[zone.0 as usize]
    }

    fn start(&self, zone: ZoneId) -> Lba {
        Lba(u64::from(zone.0) * self.zone_size)
    }

    /// State and written blocks of `zone`, which must exist.
    pub(crate) fn snapshot(&self, zone: ZoneId) -> Snapshot {
        Snapshot::unpack(self.cell(zone).word.load(Ordering::Acquire))
    }

    /// Replaces the pair by what `change` makes of it; the other half of a concurrent change is never lost.
    fn update(&self, zone: ZoneId, change: impl Fn(Snapshot) -> Snapshot) {
        let word = &self.cell(zone).word;
        let outcome = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(change(Snapshot::unpack(old)).pack()));
        debug_assert!(outcome.is_ok());
    }

    /// One line of a zone report.
    pub(crate) fn info(&self, zone: ZoneId) -> ZoneInfo {
        let Snapshot { state, written } = self.snapshot(zone);
        let written = if state == ZoneState::Full { self.capacity } else { written };
        ZoneInfo { id: zone, state, start: self.start(zone), capacity: Blocks(self.capacity), written: Blocks(written) }
    }

    /// A zone report.
    pub(crate) fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        if zones.start > zones.end || zones.end > self.zones {
            let blocks = u64::from(zones.end.saturating_sub(zones.start)) * self.zone_size;
            let lba = self.start(ZoneId(zones.start));
            return Err(DeviceError::BadRange { lba, blocks, reason: "the zones reported on must exist" });
        }
        Ok(zones.map(|zone| self.info(ZoneId(zone))).collect())
    }

    /// The zone that holds `lba`, if the device reaches that far.
    pub(crate) fn zone_at(&self, lba: Lba) -> Option<ZoneId> {
        let zone = lba.0 / self.zone_size;
        (zone < u64::from(self.zones)).then_some(ZoneId(zone as u32))
    }

    /// Checks that a read lies within one zone that can be read; gives the zone.
    pub(crate) fn check_read(&self, lba: Lba, blocks: u64) -> Result<ZoneId> {
        let bad = |reason| DeviceError::BadRange { lba, blocks, reason };
        let zone = self.zone_at(lba).ok_or_else(|| bad("it lies outside the device"))?;
        if blocks == 0 || blocks > self.zone_size - (lba.0 - self.start(zone).0) {
            return Err(bad("a read takes at least one block and stays within one zone"));
        }
        match self.snapshot(zone).state {
            ZoneState::Offline => Err(DeviceError::Zone { zone, status: NvmeStatus::ZONE_OFFLINE }),
            _ => Ok(zone),
        }
    }

    /// Waits until nobody else writes to `zone`.
    pub(crate) fn writer(&self, zone: ZoneId) -> Writer<'_> {
        Writer { zone, _lock: self.cell(zone).writer.lock() }
    }

    /// Checks a write and opens its zone implicitly. In the order of the specification's table: state, pointer, boundary, resources.
    pub(crate) fn begin_write(&self, writer: &Writer<'_>, lba: Lba, blocks: u64) -> Result<()> {
        let zone = writer.zone;
        let refuse = |status| Err(DeviceError::Zone { zone, status });
        let Snapshot { state, written } = self.snapshot(zone);
        if let Some(status) = refusal_of_writes(state) {
            return refuse(status);
        }
        let write_pointer = self.start(zone) + Blocks(written);
        if lba != write_pointer {
            return Err(DeviceError::NotAtWritePointer { zone, lba, write_pointer });
        }
        if blocks > self.capacity - written {
            return refuse(NvmeStatus::ZONE_BOUNDARY);
        }
        self.open_implicitly(writer)
    }

    /// Opens the zone for a write, if it is not open yet.
    pub(crate) fn open_implicitly(&self, writer: &Writer<'_>) -> Result<()> {
        let zone = writer.zone;
        let mut resources = self.resources.lock();
        let state = self.snapshot(zone).state;
        if let Some(status) = refusal_of_writes(state) {
            return Err(DeviceError::Zone { zone, status });
        }
        if state.is_open() {
            return Ok(());
        }
        self.take_open_slot(&mut resources, zone, state)?;
        self.set_state(&mut resources, zone, ZoneState::ImplicitOpen);
        Ok(())
    }

    /// Makes sure that `zone`, now `state`, can become open: active limit first, then the open limit, for which an
    /// implicitly open zone is closed where there is one, as drives do.
    fn take_open_slot(&self, resources: &mut Resources, zone: ZoneId, state: ZoneState) -> Result<()> {
        let refuse = |status| Err(DeviceError::Zone { zone, status });
        if !state.is_active() && self.max_active != 0 && resources.active >= self.max_active {
            return refuse(NvmeStatus::TOO_MANY_ACTIVE);
        }
        if self.max_open != 0 && resources.open >= self.max_open {
            let Some(&oldest) = resources.implicit.front() else { return refuse(NvmeStatus::TOO_MANY_OPEN) };
            self.set_state(resources, ZoneId(oldest), ZoneState::Closed);
        }
        Ok(())
    }

    fn set_state(&self, resources: &mut Resources, zone: ZoneId, new: ZoneState) {
        self.set(resources, zone, new, None);
    }

    /// The one place where a state changes: keeps the counts.
    fn set(&self, resources: &mut Resources, zone: ZoneId, new: ZoneState, written: Option<u64>) {
        let old = self.snapshot(zone).state;
        resources.open = resources.open + u32::from(new.is_open()) - u32::from(old.is_open());
        resources.active = resources.active + u32::from(new.is_active()) - u32::from(old.is_active());
        if self.max_open != 0 {
            if old == ZoneState::ImplicitOpen {
                resources.implicit.retain(|&other| other != zone.0);
            }
            if new == ZoneState::ImplicitOpen {
                resources.implicit.push_back(zone.0);
            }
        }
        self.update(zone, |pair| Snapshot { state: new, written: written.unwrap_or(pair.written) });
    }

    /// Moves the write pointer over `blocks` that were written; the zone becomes full at its capacity.
    pub(crate) fn advance(&self, writer: &Writer<'_>, blocks: u64) {
        let zone = writer.zone;
        // Only the writer moves the pointer.
        let written = (self.snapshot(zone).written + blocks).min(self.capacity);
        if written < self.capacity {
            self.update(zone, |pair| Snapshot { written, ..pair });
            return;
        }
        // Both at once: an active zone without room is in no table of zones that may be read. It may have been closed for want of open slots while its
        // last blocks were on their way.
        let mut resources = self.resources.lock();
        let state = self.snapshot(zone).state;
        let state = if state.is_active() { ZoneState::Full } else { state };
        self.set(&mut resources, zone, state, Some(written));
    }

    /// Takes the write pointer back to `written` where it is beyond: the write that moved it there failed.
    pub(crate) fn retreat(&self, writer: &Writer<'_>, written: u64) {
        let zone = writer.zone;
        let mut resources = self.resources.lock();
        let pair = self.snapshot(zone);
        if pair.written <= written || !matches!(pair.state, ZoneState::Full) && !pair.state.is_active() {
            return;
        }
        let state = if pair.state == ZoneState::Full { ZoneState::Closed } else { pair.state };
        self.set(&mut resources, zone, state, Some(written));
    }

    /// Checks an action without carrying it out: does it change anything?
    pub(crate) fn check_action(&self, zone: ZoneId, action: ZoneAction) -> Result<bool> {
        use ZoneState::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen, Offline, ReadOnly};
        let refuse = || Err(DeviceError::Zone { zone, status: NvmeStatus::INVALID_TRANSITION });
        match (action, self.snapshot(zone).state) {
            (_, ReadOnly | Offline) => refuse(),
            (ZoneAction::Open, Full) | (ZoneAction::Close, Full | Empty) => refuse(),
            (ZoneAction::Open, ExplicitOpen) | (ZoneAction::Close, Closed) => Ok(false),
            (ZoneAction::Finish, Full) | (ZoneAction::Reset, Empty) => Ok(false),
            (ZoneAction::Open, Empty | ImplicitOpen | Closed) | (ZoneAction::Close, ImplicitOpen | ExplicitOpen) => Ok(true),
            (ZoneAction::Finish | ZoneAction::Reset, _) => Ok(true),
        }
    }

    /// Carries an action out. For a reset the caller has dealt with the data before. Gives whether anything changed.
    pub(crate) fn act(&self, writer: &Writer<'_>, action: ZoneAction) -> Result<bool> {
        let zone = writer.zone;
        let mut resources = self.resources.lock();
        if !self.check_action(zone, action)? {
            return Ok(false);
        }
        let state = self.snapshot(zone).state;
        match action {
            ZoneAction::Open => {
                if !state.is_open() {
                    self.take_open_slot(&mut resources, zone, state)?;
                }
                self.set_state(&mut resources, zone, ZoneState::ExplicitOpen);
            }
            ZoneAction::Close => self.set_state(&mut resources, zone, ZoneState::Closed),
            ZoneAction::Finish => self.set_state(&mut resources, zone, ZoneState::Full),
            ZoneAction::Reset => self.set(&mut resources, zone, ZoneState::Empty, Some(0)),
        }
        Ok(true)
    }

    /// Replaces what is known of a zone, limits or not: a tale told from outside, or a zone that died. A pair that cannot be
    /// becomes the nearest that can.
    pub(crate) fn force(&self, writer: &Writer<'_>, pair: Snapshot) {
        let (state, written) = match (pair.state, pair.written.min(self.capacity)) {
            (ZoneState::Empty, _) => (ZoneState::Empty, 0),
            (state, written) if state.is_active() && written == self.capacity => (ZoneState::Full, written),
            other => other,
        };
        self.set(&mut self.resources.lock(), writer.zone, state, Some(written));
    }

    /// Do the counts match the states?
    #[cfg(test)]
    pub(crate) fn self_check(&self) {
        let resources = self.resources.lock();
        assert_eq!(resources.open, self.count(ZoneState::is_open), "open zones");
        assert_eq!(resources.active, self.count(ZoneState::is_active), "active zones");
        if self.max_open != 0 {
            assert_eq!(resources.implicit.len() as u32, self.count(|state| state == ZoneState::ImplicitOpen));
            assert!(resources.open <= self.max_open);
        }
        for zone in 0..self.zones {
            let pair = self.snapshot(ZoneId(zone));
            assert!(pair.written <= self.capacity);
            assert!(pair.state != ZoneState::Empty || pair.written == 0);
            assert!(!pair.state.is_active() || pair.written < self.capacity);
        }
    }
}

/// Open zones do not survive a power cycle as open: those with data are closed, the others empty.
fn after_power_cycle(zone: Snapshot) -> Snapshot {
    let state = match zone.state {
        ZoneState::ImplicitOpen | ZoneState::ExplicitOpen | ZoneState::Closed if zone.written == 0 => ZoneState::Empty,
        ZoneState::ImplicitOpen | ZoneState::ExplicitOpen => ZoneState::Closed,
        other => other,
    };
    Snapshot { state, ..zone }
}

/// The status with which a zone in this state refuses writes.
pub(crate) fn refusal_of_writes(state: ZoneState) -> Option<NvmeStatus> {
    match state {
        ZoneState::Full => Some(NvmeStatus::ZONE_FULL),
        ZoneState::ReadOnly => Some(NvmeStatus::ZONE_READ_ONLY),
        ZoneState::Offline => Some(NvmeStatus::ZONE_OFFLINE),
        ZoneState::Empty | ZoneState::ImplicitOpen | ZoneState::ExplicitOpen | ZoneState::Closed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DeviceKind;
    use proptest::prelude::*;

    fn machine(max_open: u32, max_active: u32) -> ZoneMachine {
        let geometry = Geometry {
            kind: DeviceKind::Image,
            block_size: 4096,
            zones: 8,
            zone_size: Blocks(16),
            zone_capacity: Blocks(10),
            max_open,
            max_active,
            max_io_bytes: 4096,
            software_zones: false,
        };
        ZoneMachine::new(&geometry, (0..8).map(|_| Snapshot { state: ZoneState::Empty, written: 0 }))
    }

    #[test]
    fn numbers_of_states_are_part_of_the_image_format() {
        for (number, state) in STATES.into_iter().enumerate() {
            assert_eq!(usize::from(state_number(state)), number);
            assert_eq!(state_from_number(number as u8), Some(state));
        }
        assert_eq!(state_from_number(7), None);
        assert_eq!(state_number(ZoneState::Full), 4);
    }

    #[test]
    fn a_failed_write_retreats_out_of_the_full_state() {
        let machine = machine(0, 0);
        let writer = machine.writer(ZoneId(2));
        machine.begin_write(&writer, Lba(32), 10).unwrap();
        machine.advance(&writer, 10);
        assert_eq!(machine.snapshot(ZoneId(2)).state, ZoneState::Full);
        machine.retreat(&writer, 3);
        assert_eq!(machine.snapshot(ZoneId(2)), Snapshot { state: ZoneState::Closed, written: 3 });
        machine.retreat(&writer, 7);
        assert_eq!(machine.snapshot(ZoneId(2)).written, 3);
        machine.self_check();
    }

    proptest! {
        /// Counts and states stay consistent whatever is done, also through the back doors.
        #[test]
        fn the_books_always_balance(
            limits in (0..4_u32, 0..6_u32),
            steps in prop::collection::vec((0..8_u32, 0..9_u8, 0..12_u64), 0..80),
        ) {
            let machine = machine(limits.0, limits.1);
            for (zone, step, number) in steps {
                let writer = machine.writer(ZoneId(zone));
                let pointer = Lba(u64::from(zone) * 16 + machine.snapshot(ZoneId(zone)).written);
                match step {
                    0..3 => if machine.begin_write(&writer, pointer, number).is_ok() {
                        machine.advance(&writer, number);
                    },
                    3 => drop(machine.act(&writer, ZoneAction::Open)),
                    4 => drop(machine.act(&writer, ZoneAction::Close)),
                    5 => drop(machine.act(&writer, ZoneAction::Finish)),
                    6 => drop(machine.act(&writer, ZoneAction::Reset)),
                    7 => machine.retreat(&writer, number),
                    _ => {
                        // Only states that take no resource: limits are not checked on this way in.
                        let state = [ZoneState::Empty, ZoneState::Full, ZoneState::ReadOnly, ZoneState::Offline][number as usize % 4];
                        machine.force(&writer, Snapshot { state, written: number });
                    }
                }
                machine.self_check();
            }
        }
    }
}
