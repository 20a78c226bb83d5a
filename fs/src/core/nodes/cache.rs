//! The resident blocks: slots by id, and which of them to let go.
//!
//! Replacement is 2Q: leaves enter a FIFO where accesses count for nothing, so that a scan passes through without displacing
//! anything; what is wanted again after it left (a bounded list of ghosts remembers) enters a CLOCK. Inner nodes and map pages
//! enter the CLOCK at once: they are the way to everything else.

use crate::addr::Addr;
use crate::core::page::Page;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory that one resident block costs: the page, its reference counts, its slot and its place in a queue.
pub const SLOT_BYTES: usize = crate::BLOCK + 16 + size_of::<Slot>() + 64;

/// The latest blocks to arrive stay for a while even in a cache that is over its limit, so that whoever wanted them can use them.
pub const GRACE: u32 = 32;

/// Hasher of small integers (packed block ids).
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u64(&mut self, word: u64) {
        // Fibonacci hashing; the fold brings the well-mixed upper half down to where the table takes its bits from.
        let product = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

/// Map keyed by packed block ids.
pub type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;
/// Set of packed block ids.
pub type IdSet = HashSet<u64, BuildHasherDefault<IdHasher>>;

/// A resident block.
#[derive(Debug)]
pub struct Slot {
    /// Its content; shared with a checkpoint that is being written.
    pub page: Arc<Page>,
    /// Where the running state says it lies; none if it was never placed.
    pub addr: Addr,
    /// Distinguishes this residency from earlier ones of the same id.
    pub ticket: u32,
    /// Changed since the last cut.
    pub dirty: bool,
    /// Part of the cut that is being written.
    pub writing: bool,
    hot: bool,
    referenced: AtomicBool,
}

impl Slot {
    fn stays(&self, next_ticket: u32) -> bool {
        self.dirty || self.writing || next_ticket.wrapping_sub(self.ticket) <= GRACE
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Page({} level {} items {})", self.id(), self.level(), self.count())
    }
}

/// The resident blocks.
#[derive(Debug, Default)]
pub struct Cache {
    slots: IdMap<Slot>,
    probation: VecDeque<(u64, u32)>,
    clock: VecDeque<(u64, u32)>,
    on_probation: usize,
    ghosts: VecDeque<u64>,
    ghost_set: IdSet,
    next_ticket: u32,
    /// When a call of `shrink` last found nothing to let go.
    futile_at: Option<u32>,
}

impl Cache {
    /// Resident blocks.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
    /// Is nothing resident?
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// The slot of a block, not counted as an access.
    pub fn peek(&self, id: u64) -> Option<&Slot> {
        self.slots.get(&id)
    }
    /// The slot of a block.
    pub fn get(&self, id: u64) -> Option<&Slot> {
        let slot = self.slots.get(&id)?;
        if !slot.referenced.load(Ordering::Relaxed) {
            slot.referenced.store(true, Ordering::Relaxed);
        }
        Some(slot)
    }
    /// The slot of a block, to be changed.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(&id)?;
        *slot.referenced.get_mut() = true;
        Some(slot)
    }
    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.slots.iter().map(|(id, slot)| (*id, slot))
    }
    /// Make a block resident; `index` blocks (inner nodes, map pages) are worth more than leaves. Returns its ticket.
    pub fn insert(&mut self, id: u64, page: Arc<Page>, addr: Addr, dirty: bool, index: bool) -> u32 {
        let hot = index || self.ghost_set.remove(&id);
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let slot = Slot { page, addr, ticket, dirty, writing: false, hot, referenced: AtomicBool::new(true) };
        let old = self.slots.insert(id, slot);
        debug_assert!(old.is_none(), "block {id:#x} was resident");
        if hot {
            self.clock.push_back((id, ticket));
        } else {
            self.probation.push_back((id, ticket));
            self.on_probation += 1;
        }
        ticket
    }
    /// Forget a block.
    pub fn remove(&mut self, id: u64) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        self.on_probation -= usize::from(!slot.hot);
        // Entries of gone blocks stay in the queues until the hand meets them; never let them outnumber the living.
        if self.probation.len() > 2 * self.on_probation + 64 {
            let slots = &self.slots;
            self.probation.retain(|(id, ticket)| slots.get(id).is_some_and(|s| s.ticket == *ticket));
        }
        if self.clock.len() > 2 * (self.slots.len() - self.on_probation) + 64 {
            let slots = &self.slots;
            self.clock.retain(|(id, ticket)| slots.get(id).is_some_and(|s| s.ticket == *ticket));
        }
        Some(slot)
    }

    /// Blocks have become clean: the next `shrink` may find something again.
    pub fn cleaned(&mut self) {
        self.futile_at = None;
    }
    /// Let go of clean blocks until at most `limit` are resident or none can go. `pinned` ones stay. The work of one call is
    /// bounded; the hands stay where they stopped. After a call in vain there is no further search until [`GRACE`] blocks arrived.
    pub fn shrink(&mut self, limit: usize, pinned: impl Fn(u64) -> bool) {
        let before = self.len();
        if before <= limit || self.futile_at.is_some_and(|at| self.next_ticket.wrapping_sub(at) < GRACE) {
            return;
        }
        self.evict(limit, pinned);
        self.futile_at = (self.len() == before).then_some(self.next_ticket);
        while self.ghosts.len() > limit / 2 + 64 {
            let ghost = self.ghosts.pop_front().expect("it is longer than that");
            self.ghost_set.remove(&ghost);
        }
    }
    fn evict(&mut self, limit: usize, pinned: impl Fn(u64) -> bool) {
        let mut visits = (8 * (self.len() - limit)).clamp(1024, 16 * 1024);
        let (mut probation_idle, mut clock_idle) = (0, 0);
        while self.len() > limit && visits > 0 {
            visits -= 1;
            let probation_left = probation_idle < self.probation.len();
            let clock_left = clock_idle < 2 * self.clock.len();
            if !probation_left && !clock_left {
                break;
            }
            if probation_left && (self.on_probation > limit / 4 || !clock_left) {
                let evicted = self.visit_probation(&pinned);
                probation_idle = if evicted { 0 } else { probation_idle + 1 };
            } else if clock_left {
                let evicted = self.visit_clock(&pinned);
                clock_idle = if evicted { 0 } else { clock_idle + 1 };
            } else {
                // The clock has nothing more to give although leaves are few: take those.
                probation_idle += usize::from(!self.visit_probation(&pinned));
            }
        }
    }
    /// Look at the oldest leaf on probation; true if that made the queue shorter.
    fn visit_probation(&mut self, pinned: &impl Fn(u64) -> bool) -> bool {
        let Some((id, ticket)) = self.probation.pop_front() else { return false };
        match self.slots.get(&id) {
            Some(slot) if slot.ticket == ticket => {
                if slot.stays(self.next_ticket) || pinned(id) {
                    self.probation.push_back((id, ticket));
                    return false;
                }
                self.slots.remove(&id);
                self.on_probation -= 1;
                if self.ghost_set.insert(id) {
                    self.ghosts.push_back(id);
                }
                true
            }
            _ => true,
        }
    }
    /// Move the hand of the clock by one; true if that made the queue shorter.
    fn visit_clock(&mut self, pinned: &impl Fn(u64) -> bool) -> bool {
        let Some((id, ticket)) = self.clock.pop_front() else { return false };
        match self.slots.get_mut(&id) {
            Some(slot) if slot.ticket == ticket => {
                if std::mem::take(slot.referenced.get_mut()) || slot.stays(self.next_ticket) || pinned(id) {
                    self.clock.push_back((id, ticket));
                    return false;
                }
                self.slots.remove(&id);
                true
            }
            _ => true,
        }
    }

    /// Check the bookkeeping against the slots.
    pub fn self_check(&self) -> Result<(), String> {
        let probation = self.slots.values().filter(|s| !s.hot).count();
        if probation != self.on_probation {
            return Err(format!("{probation} leaves on probation, counted {}", self.on_probation));
        }
        let live = |queue: &VecDeque<(u64, u32)>, hot: bool| {
            queue.iter().filter(|(id, t)| self.slots.get(id).is_some_and(|s| s.ticket == *t && s.hot == hot)).count()
        };
        if live(&self.probation, false) != probation || live(&self.clock, true) != self.slots.len() - probation {
            return Err("a resident block is missing from its queue".into());
        }
        Ok(())
    }
}
