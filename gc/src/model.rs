//! A naive filesystem in memory for the tests: blocks with owners, zones, overwrites that race with the cleaner, and a copy engine that
//! fails on command.

use crate::mover::{Carrier, Carrying, Load, Mover};
use crate::placement::Estimate;
use crate::{
    CleanError, Committed, LiveExtent, LiveRun, LogSpace, Move, Owner, Reservation, Result, Room, SegmentId, SegmentInfo, Seq, Stream,
};
use copy_backend::{CopyError, CopyResult, FailureKind, Road};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use zns::{DeviceId, Lba, ZoneId};

/// Logical blocks from here on are metadata.
pub const METADATA: u64 = 1 << 40;
/// Logical blocks per file.
pub const FILE: u64 = 40;
pub const DEVICE: DeviceId = DeviceId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Open(Stream),
    Closed(Stream),
}

#[derive(Clone, Debug)]
struct Zone {
    state: State,
    filled: u32,
    written_at: Seq,
    pinned: bool,
}

/// What the relocator had done, and for which zone of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Begun(u32),
    Published(u32),
}

/// Something that happens during a copy.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    Fine,
    /// Users overwrite these logical blocks meanwhile.
    Race(Vec<u64>),
    /// The copy fails after this many sources; the zone must be ended or not.
    Fail(FailureKind, usize, bool),
    /// The engine refuses with an error.
    Refuse(CopyError),
}

#[derive(Debug)]
pub struct Inner {
    zones: Vec<Zone>,
    capacity: u32,
    per_block: u32,
    media: Vec<Option<u64>>,
    owners: Vec<Option<u64>>,
    map: BTreeMap<u64, u32>,
    expected: BTreeMap<u64, u64>,
    /// By stream and number.
    heads: BTreeMap<(Stream, usize), usize>,
    dirty: BTreeSet<u64>,
    /// Not copied into yet: id, zone, blocks.
    reserved: Vec<(u64, usize, u32)>,
    /// Copied and not published: id, zone, blocks.
    unpublished: Vec<(u64, usize, u32)>,
    reservations: u64,
    now: Seq,
    value: u64,
    gc_reserve: usize,
    pub grant: u32,
    pub bad: BTreeSet<u32>,
    /// The zone that the placement wants cleaned first.
    pub preferred: Option<u32>,
    pub faults: VecDeque<Fault>,
    pub device_offloads: bool,
    host_next: bool,
    pub requests: Vec<(Carrier, usize)>,
    pub with_checksums: bool,
    /// No user waits for the devices; somebody waits for the cleaner.
    pub calm: bool,
    pub awaited: bool,
    /// Heads of each kind of relocation.
    pub relocation_heads: usize,
    pub events: Vec<Happened>,
    flying: usize,
    pub most_flying: usize,
    /// Calls after which one panics.
    pub panics_after: Option<u32>,
}

/// The filesystem and its engine.
#[derive(Clone)]
pub struct Model(Arc<Mutex<Inner>>);

impl Model {
    pub fn new(zones: usize, capacity: u32, per_block: u32, gc_reserve: usize) -> Self {
        let zone = Zone { state: State::Empty, filled: 0, written_at: 0, pinned: false };
        Self(Arc::new(Mutex::new(Inner {
            zones: vec![zone; zones],
            capacity,
            per_block,
            media: vec![None; zones * capacity as usize],
            owners: vec![None; zones * capacity as usize],
            map: BTreeMap::new(),
            expected: BTreeMap::new(),
            heads: BTreeMap::new(),
            dirty: BTreeSet::new(),
            reserved: Vec::new(),
            unpublished: Vec::new(),
            reservations: 0,
            now: 0,
            value: 0,
            gc_reserve,
            grant: u32::MAX,
            bad: BTreeSet::new(),
            preferred: None,
            faults: VecDeque::new(),
            device_offloads: true,
            host_next: false,
            requests: Vec::new(),
            with_checksums: true,
            calm: false,
            awaited: false,
            relocation_heads: 1,
            events: Vec::new(),
            flying: 0,
            most_flying: 0,
            panics_after: None,
        })))
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock())
    }

    /// A user writes a block; false: no space without cleaning.
    pub fn write(&self, block: u64) -> bool {
        self.0.lock().write(block)
    }

    pub fn delete(&self, block: u64) {
        let mut s = self.0.lock();
        s.expected.remove(&block);
        if let Some(at) = s.map.remove(&block) {
            s.owners[at as usize] = None;
        }
    }

    /// Writes dirty metadata elsewhere and frees dead zones; returns how many.
    pub fn checkpoint(&self) -> u32 {
        self.0.lock().checkpoint()
    }

    pub fn free_zones(&self) -> u32 {
        self.0.lock().free()
    }

    /// The room of empty zones, the reserve included.
    pub fn room(&self) -> Room {
        let s = self.0.lock();
        Room::of(i64::from(s.free()) * i64::from(s.capacity))
    }

    /// Which zones are empty.
    pub fn empty_zones(&self) -> BTreeSet<u32> {
        let s = self.0.lock();
        (0..).zip(&s.zones).filter(|(_, z)| z.state == State::Empty).map(|(zone, _)| zone).collect()
    }

    /// Every physical block that holds something, with what it holds, in the order of their addresses.
    pub fn written(&self) -> Vec<(Lba, u64)> {
        let s = self.0.lock();
        (0..).zip(&s.media).filter_map(|(at, value)| value.map(|v| (s.lba(at), v))).collect()
    }

    /// Where every logical block is and what it must hold.
    pub fn expected(&self) -> Vec<(Lba, u64)> {
        let s = self.0.lock();
        s.map.iter().map(|(block, at)| (s.lba(*at), s.expected[block])).collect()
    }

    /// A real engine has copied this.
    pub fn note_copy(&self, from: Lba, device_blocks: u64, to: Lba) {
        let mut s = self.0.lock();
        let (from, to) = (s.block_at(from) as usize, s.block_at(to) as usize);
        let blocks = (device_blocks / u64::from(s.per_block)) as usize;
        s.media.copy_within(from..from + blocks, to);
    }

    /// Every block reads back as it was written; live counts add up (I4).
    pub fn self_check(&self) {
        let s = self.0.lock();
        assert_eq!(s.map.keys().collect::<Vec<_>>(), s.expected.keys().collect::<Vec<_>>());
        for (block, at) in &s.map {
            assert_eq!(s.media[*at as usize], s.expected.get(block).copied(), "block {block} at {at}");
            assert_eq!(s.owners[*at as usize], Some(*block));
            assert_ne!(s.zones[(at / s.capacity) as usize].state, State::Empty, "block {block} lies in an empty zone");
        }
        assert_eq!(s.owners.iter().flatten().count(), s.map.len());
        assert!(s.reserved.is_empty() && s.flying == 0 && s.unpublished.is_empty(), "a reservation was left behind");
    }

    pub fn live(&self, id: SegmentId) -> u32 {
        self.0.lock().live(id.zone.0 as usize)
    }

    pub fn pinned(&self) -> usize {
        self.0.lock().zones.iter().filter(|z| z.pinned).count()
    }
}

impl Inner {
    /// The last live block of a zone.
    pub fn live_in(&self, zone: usize) -> u32 {
        let blocks = zone as u32 * self.capacity..(zone as u32 + 1) * self.capacity;
        blocks.rev().find(|at| self.owners[*at as usize].is_some()).expect("it has one")
    }

    fn may_panic(&mut self, what: &str) {
        self.panics_after = match self.panics_after {
            Some(0) => panic!("{what} panics, as was asked for"),
            left => left.map(|left| left - 1),
        };
    }

    fn free(&self) -> u32 {
        self.zones.iter().filter(|z| z.state == State::Empty).count() as u32
    }

    pub fn live(&self, zone: usize) -> u32 {
        let first = zone * self.capacity as usize;
        self.owners[first..first + self.capacity as usize].iter().flatten().count() as u32
    }

    fn head(&mut self, stream: Stream, least_free: usize) -> Option<usize> {
        self.head_at((stream, 0), least_free)
    }

    fn head_at(&mut self, head: (Stream, usize), least_free: usize) -> Option<usize> {
        if let Some(zone) = self.heads.get(&head) {
            return Some(*zone);
        }
        if (self.free() as usize) <= least_free {
            return None;
        }
        let zone = self.zones.iter().position(|z| z.state == State::Empty)?;
        self.zones[zone].state = State::Open(head.0);
        self.heads.insert(head, zone);
        Some(zone)
    }

    fn filled(&mut self, zone: usize, blocks: u32, end: bool) {
        let z = &mut self.zones[zone];
        z.filled += blocks;
        z.written_at = self.now;
        if let State::Open(stream) = z.state
            && (end || z.filled == self.capacity)
        {
            z.state = State::Closed(stream);
            self.heads.retain(|_, at| *at != zone);
        }
    }

    fn write(&mut self, block: u64) -> bool {
        let (stream, least) = if block >= METADATA { (Stream::Metadata, 0) } else { (Stream::User, self.gc_reserve) };
        let Some(zone) = self.head(stream, least) else { return false };
        self.now += 1;
        self.value += 1;
        let at = zone as u32 * self.capacity + self.zones[zone].filled;
        assert!(self.media[at as usize].is_none(), "written twice");
        self.media[at as usize] = Some(self.value);
        self.expected.insert(block, self.value);
        if let Some(old) = self.map.insert(block, at) {
            self.owners[old as usize] = None;
        }
        self.owners[at as usize] = Some(block);
        self.filled(zone, 1, false);
        true
    }

    fn checkpoint(&mut self) -> u32 {
        for block in std::mem::take(&mut self.dirty) {
            if self.map.contains_key(&block) {
                assert!(self.write(block), "the reserve of checkpoints is exhausted");
            }
        }
        let mut freed = 0;
        for zone in 0..self.zones.len() {
            let pinned = self.zones[zone].pinned || self.unpublished.iter().any(|(_, at, _)| *at == zone);
            let dead = matches!(self.zones[zone].state, State::Closed(_)) && !pinned && self.live(zone) == 0;
            if dead {
                self.zones[zone] = Zone { state: State::Empty, filled: 0, written_at: 0, pinned: false };
                let first = zone * self.capacity as usize;
                self.media[first..first + self.capacity as usize].fill(None);
                freed += 1;
            }
        }
        freed
    }

    fn victim(&self, id: SegmentId) -> Result<usize> {
        let zone = id.zone.0 as usize;
        let closed = self.zones.get(zone).is_some_and(|z| matches!(z.state, State::Closed(_)));
        if id.device == DEVICE && closed { Ok(zone) } else { Err(CleanError::NotAVictim) }
    }

    fn lba(&self, at: u32) -> Lba {
        Lba(u64::from(at) * u64::from(self.per_block))
    }

    fn block_at(&self, lba: Lba) -> u32 {
        assert_eq!(lba.0 % u64::from(self.per_block), 0);
        (lba.0 / u64::from(self.per_block)) as u32
    }
}

impl LogSpace for Model {
    fn segments(&self) -> Vec<SegmentInfo> {
        let s = self.0.lock();
        let info = |(zone, z): (usize, &Zone)| match z.state {
            State::Closed(stream) if !z.pinned && s.live(zone) > 0 => Some(SegmentInfo {
                id: SegmentId { device: DEVICE, zone: ZoneId(zone as u32) },
                stream,
                live: s.live(zone),
                capacity: s.capacity,
                written_at: z.written_at,
                expected: 0,
            }),
            _ => None,
        };
        s.zones.iter().enumerate().filter_map(info).collect()
    }

    fn preferred(&self, candidates: &[SegmentInfo]) -> Option<Vec<SegmentInfo>> {
        let zone = self.0.lock().preferred?;
        Some(candidates.iter().filter(|info| info.id.zone.0 == zone).copied().collect())
    }

    fn now(&self) -> Seq {
        self.0.lock().now
    }

    fn device_blocks_per_block(&self, _device: DeviceId) -> u32 {
        self.0.lock().per_block
    }

    fn pin(&self, victim: SegmentId) -> Result<()> {
        let mut s = self.0.lock();
        let zone = s.victim(victim)?;
        assert!(!s.zones[zone].pinned);
        s.zones[zone].pinned = true;
        Ok(())
    }

    fn release(&self, victim: SegmentId) {
        let mut s = self.0.lock();
        assert!(std::mem::replace(&mut s.zones[victim.zone.0 as usize].pinned, false));
    }

    fn is_given_back(&self, emptied: SegmentId) -> bool {
        !matches!(self.0.lock().zones[emptied.zone.0 as usize].state, State::Closed(_))
    }

    fn is_calm(&self) -> bool {
        self.0.lock().calm
    }

    fn is_awaited(&self) -> bool {
        self.0.lock().awaited
    }

    fn live(&self, victim: SegmentId, from: u32, max: u32) -> Result<LiveRun> {
        let mut s = self.0.lock();
        s.may_panic("looking up");
        let zone = s.victim(victim)?;
        assert!(s.zones[zone].pinned);
        let mut run = LiveRun::default();
        let mut found = 0;
        for i in from..s.capacity {
            if found >= max {
                run.next = Some(i);
                return Ok(run);
            }
            let at = zone as u32 * s.capacity + i;
            let Some(block) = s.owners[at as usize] else { continue };
            found += 1;
            let (owner, sum) = (Owner(block / FILE, block % FILE), crc(s.media[at as usize]));
            match run.extents.last_mut() {
                Some(last) if last.owner.after(last.blocks) == owner && s.block_at(last.lba) + last.blocks == at => {
                    last.blocks += 1;
                    if s.with_checksums {
                        last.checksums.push(sum);
                    }
                }
                _ => {
                    let checksums = if s.with_checksums { vec![sum] } else { Vec::new() };
                    run.extents.push(LiveExtent {
                        device: DEVICE,
                        lba: s.lba(at),
                        blocks: 1,
                        owner,
                        estimate: Estimate::UNKNOWN,
                        checksums,
                    });
                }
            }
        }
        Ok(run)
    }

    fn evacuate_metadata(&self, victim: SegmentId, from: u32, max: u32) -> Result<Option<u32>> {
        let mut s = self.0.lock();
        let zone = s.victim(victim)?;
        let end = (from + max).min(s.capacity);
        for i in from..end {
            if let Some(block) = s.owners[(zone as u32 * s.capacity + i) as usize] {
                assert!(block >= METADATA);
                s.dirty.insert(block);
            }
        }
        Ok((end < s.capacity).then_some(end))
    }

    fn reserve(&self, stream: Stream, _victim: SegmentId, blocks: u32) -> Result<Option<Reservation>> {
        let mut s = self.0.lock();
        assert!(blocks > 0);
        let is_held = |s: &Inner, head| s.heads.get(&(stream, head)).is_some_and(|zone| s.reserved.iter().any(|(_, at, _)| at == zone));
        // Only the first takes of what cleaning itself needs.
        let to_spare = s.free() as usize > s.gc_reserve;
        let may_be = |s: &Inner, head| head == 0 || to_spare || s.heads.contains_key(&(stream, head));
        let Some(head) = (0..s.relocation_heads).find(|head| !is_held(&s, *head) && may_be(&s, *head)) else { return Ok(None) };
        let zone = s.head_at((stream, head), 1).ok_or(CleanError::NoSpace)?;
        let filled = s.zones[zone].filled;
        let blocks = blocks.min(s.capacity - filled).min(s.grant);
        s.reservations += 1;
        let id = s.reservations;
        s.reserved.push((id, zone, blocks));
        let lba = s.lba(zone as u32 * s.capacity + filled);
        Ok(Some(Reservation { id, device: DEVICE, lba, blocks }))
    }

    fn copied(&self, reservation: &Reservation, used: u32, end_zone: bool) {
        let mut s = self.0.lock();
        let at = s.reserved.iter().position(|(id, ..)| *id == reservation.id).expect("a reservation");
        let (id, zone, granted) = s.reserved.swap_remove(at);
        assert_eq!(granted, reservation.blocks);
        assert!(used <= granted);
        s.unpublished.push((id, zone, used));
        s.filled(zone, used, end_zone);
    }

    fn publish(&self, moves: &[Move], reservation: Reservation) -> Result<Committed> {
        let mut s = self.0.lock();
        let at = s.unpublished.iter().position(|(id, ..)| *id == reservation.id).expect("copied");
        let (_, _, used) = s.unpublished.swap_remove(at);
        if moves.is_empty() {
            return Ok(Committed::default());
        }
        s.may_panic("publishing");
        assert_eq!(used, moves.iter().map(|m| m.from.blocks).sum::<u32>());
        if let Some(first) = moves.first() {
            let zone = s.block_at(first.from.lba) / s.capacity;
            s.events.push(Happened::Published(zone));
        }
        let mut committed = Committed::default();
        let mut to = s.block_at(reservation.lba);
        for one in moves {
            assert_eq!(s.block_at(one.to), to);
            for i in 0..one.from.blocks {
                let block = one.from.owner.0 * FILE + one.from.owner.1 + u64::from(i);
                let from = s.block_at(one.from.lba) + i;
                if s.map.get(&block) == Some(&from) {
                    s.map.insert(block, to);
                    s.owners[from as usize] = None;
                    s.owners[to as usize] = Some(block);
                    committed.moved += 1;
                } else {
                    committed.lost += 1;
                }
                to += 1;
            }
        }
        Ok(committed)
    }
}

fn crc(value: Option<u64>) -> u32 {
    value.unwrap_or(u64::MAX) as u32
}

/// A copy in flight, until this is dropped.
struct Flying<'a>(&'a Model);

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.0.lock().flying -= 1;
    }
}

impl Mover for Model {
    fn carrier(&self, _from: DeviceId, _to: DeviceId) -> copy_backend::Result<Carrier> {
        let s = self.0.lock();
        Ok(if s.device_offloads && !s.host_next { Carrier::Device } else { Carrier::Host })
    }

    fn carry(&self, load: Load) -> copy_backend::Result<CopyResult> {
        let mut s = self.0.lock();
        s.may_panic("copying");
        let blocks: u64 = load.sources.iter().map(|x| x.blocks.0 / u64::from(s.per_block)).sum();
        s.requests.push((load.carrier, load.sources.len()));
        let (mut failure, mut unreadable) = (None, None);
        if load.carrier == Carrier::Host {
            s.host_next = false;
        }
        let (mut stop, mut end_zone) = (load.sources.len(), false);
        match s.faults.pop_front() {
            Some(Fault::Race(writes)) => writes.into_iter().for_each(|block| {
                if s.expected.contains_key(&block) {
                    s.write(block);
                }
            }),
            Some(Fault::Fail(kind, after, end)) => {
                // As the engine does: a road that is refused is closed, one that stumbles is left for one request.
                s.device_offloads &= !matches!(kind, FailureKind::Unsupported | FailureKind::WrongData);
                s.host_next |= kind == FailureKind::Transient && load.carrier == Carrier::Device;
                (stop, end_zone, failure) = (after.min(load.sources.len().saturating_sub(1)), end, Some(kind));
            }
            Some(Fault::Refuse(error)) => return Err(error),
            Some(Fault::Fine) | None => {}
        }
        let mut to = s.block_at(load.target.lba);
        let zone = (to / s.capacity) as usize;
        let stream = if load.carrier == Carrier::Device { Stream::RelocatedByDevice } else { Stream::RelocatedByHost };
        assert_eq!(s.zones[zone].state, State::Open(stream), "the wrong kind of zone");
        assert_eq!(to % s.capacity, s.zones[zone].filled, "not at the write pointer");
        let mut sums = load.checksums.iter();
        let (mut done, mut bytes) = (0usize, 0);
        for source in load.sources.iter().take(stop) {
            let n = (source.blocks.0 / u64::from(s.per_block)) as u32;
            let from = s.block_at(source.lba);
            if (from..from + n).any(|at| s.bad.contains(&at)) {
                failure = Some(FailureKind::SourceMedia);
                unreadable = Some(done);
                end_zone = load.carrier == Carrier::Device;
                break;
            }
            for at in from..from + n {
                if s.with_checksums {
                    assert_eq!(sums.next().copied(), Some(crc(s.media[at as usize])));
                }
                assert!(s.media[to as usize].is_none(), "copied over something");
                s.media[to as usize] = s.media[at as usize];
                to += 1;
            }
            done += 1;
            bytes += u64::from(n) * 4096;
        }
        let device = load.carrier == Carrier::Device;
        assert!(failure.is_some() || bytes == blocks * 4096);
        let road = if device { Road::Image } else { Road::Host };
        let offloaded = if device { bytes } else { 0 };
        Ok(CopyResult {
            sources_done: done,
            bytes_done: bytes,
            offloaded,
            road,
            end_zone,
            failure,
            unreadable,
            write_pointer: None,
            for_host: 0,
        })
    }

    fn start(&self, load: Load) -> Carrying<'_> {
        let mut s = self.0.lock();
        s.may_panic("beginning");
        let zone = s.block_at(load.sources[0].lba) / s.capacity;
        s.events.push(Happened::Begun(zone));
        s.flying += 1;
        s.most_flying = s.most_flying.max(s.flying);
        drop(s);
        let flying = Flying(self);
        Box::new(move || {
            drop(flying);
            self.carry(load)
        })
    }

    fn commands(&self) -> u64 {
        self.0.lock().requests.len() as u64
    }
}
