//! `fsck`: walks everything that a volume holds and checks every invariant and every checksum. It never writes.
//!
//! The volume is opened by the steps of a mount, the log rolled forward in memory, and what results is checked in passes, each over
//! one kind of structure: superblocks, node map, tree, names, contents, blocks (twice owned, summaries, checksums, data), zones and totals.
//! Damage costs what it hits and no more: a node that is lost makes one finding, and what it may have held is not missed elsewhere.
//!
//! Memory: the metadata cache, a fixed number of bytes per inode and extent of a window (larger volumes take more passes),
//! and 16 bytes per directory and metadata node.

mod blocks;
mod contents;
mod finding;
mod names;
mod nodemap;
mod paths;
pub mod repair;
mod report;
mod rings;
mod scan;
#[cfg(test)]
mod tests;
mod zones;

pub use finding::{Finding, Severity};
pub use report::{CheckReport, Counts, Found, MAX_FINDINGS};

use crate::addr::Addr;
use crate::core::key::Key;
use crate::error::Result;
use crate::volume::Volume;
use crate::volume::inspect::Inspected;
use blocks::Live;
use gc::placement::Population;
use nodemap::Metadata;
use scan::Scanner;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::Discriminant;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zns::ZonedDevice;

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being looked at.
    pub what: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, where that is known.
    pub total: Option<u64>,
}

/// How to check.
pub struct CheckOptions {
    /// Read all data and compare it with its checksums.
    pub read_data: bool,
    /// Bytes of metadata kept in memory.
    pub cache_size: u64,
    /// Inodes, and extents, looked at in one pass.
    pub window: usize,
    /// Findings of each kind that one pass of a repair mends.
    pub at_once: u64,
    /// Is told how far the check has come.
    pub progress: Option<Box<dyn FnMut(Progress)>>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { read_data: true, cache_size: 128 << 20, window: 1 << 20, at_once: MAX_FINDINGS as u64, progress: None }
    }
}

/// A check under way.
struct Checker<'a> {
    volume: &'a Volume,
    scan: Rc<Scanner<'a>>,
    report: CheckReport,
    options: CheckOptions,
    /// Nothing that depends on the zone table can be said.
    zones_unknown: bool,
    /// The items that findings are about, by the number of the finding: for a repair.
    keys: HashMap<usize, Key>,
    /// Which findings are listed, where that is a repair's to say.
    turn: Option<Turn>,
    /// Live blocks of each estimate, as they are found.
    population: Population,
}

/// A part of all findings, in which those of one kind never take the place of another's: damage of one kind is mended before what may follow from it, so that
/// the first kind must be seen, however much there is of others.
struct Turn {
    /// Of each kind so many are left out, and so many behind them listed.
    skip: u64,
    take: u64,
    seen: HashMap<Discriminant<Finding>, u64>,
}

impl Turn {
    fn new(skip: u64, take: u64) -> Self {
        Self { skip, take, seen: HashMap::new() }
    }

    /// Is it this one's turn? `None`: it comes later.
    fn takes(&mut self, finding: &Finding) -> Option<bool> {
        let seen = self.seen.entry(std::mem::discriminant(finding)).or_default();
        *seen += 1;
        (*seen <= self.skip.saturating_add(self.take)).then_some(*seen > self.skip)
    }
}

impl<'a> Checker<'a> {
    fn new(volume: &'a Volume, report: CheckReport, options: CheckOptions) -> Self {
        Self {
            volume,
            scan: Rc::new(Scanner::new(volume)),
            report,
            options,
            zones_unknown: false,
            keys: HashMap::new(),
            turn: None,
            population: Population::default(),
        }
    }
}

impl Checker<'_> {
    fn add(&mut self, finding: Finding) {
        match self.turn.as_mut().map(|turn| turn.takes(&finding)) {
            None => self.report.add(finding),
            Some(Some(true)) => self.report.push(finding),
            Some(Some(false)) => {}
            Some(None) => self.report.suppressed += 1,
        }
    }

    /// A finding about one item.
    fn add_at(&mut self, key: Key, finding: Finding) {
        let number = self.report.findings.len();
        self.add(finding);
        if self.report.findings.len() > number {
            self.keys.insert(number, key);
        }
    }

    fn undecodable(&mut self, key: Key) {
        self.add_at(key, Finding::Item { key: show(&key) });
    }

    fn progress(&mut self, what: &'static str, done: u64, total: Option<u64>) {
        if let Some(progress) = &mut self.options.progress {
            progress(Progress { what, done, total });
        }
    }
}

/// Checks the volume on `devices`.
///
/// # Errors
/// When there is no volume to be checked: [`crate::FsError::Volume`] with the reason, or a superblock that leads nowhere. Everything else is in
/// the report.
pub fn check(devices: Vec<Arc<dyn ZonedDevice>>, options: CheckOptions) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let rings = rings::read(&devices);
    let Inspected { volume, newer_lost, bad_zone_pages, replay } = Volume::inspect(devices, options.cache_size, true)?;
    let identity = volume.identity();
    report.label = identity.label.clone();
    report.uuid = uuid::Uuid::from_bytes(identity.uuid).to_string();
    report.generation = identity.generation;
    report.unmounted_cleanly = identity.clean;
    rings::judge(&rings, identity.generation, &mut report);
    if let Some(reason) = newer_lost {
        report.add(Finding::CheckpointLost { reason });
    }
    let zones_unknown = !bad_zone_pages.is_empty();
    let mut checker = Checker { zones_unknown, ..Checker::new(&volume, report, options) };
    for (page, error) in bad_zone_pages {
        checker.add(Finding::SegmentPage { page, reason: error.to_string() });
    }
    match replay {
        Some(Ok(replay)) => {
            if let Some(reason) = replay.damage {
                checker.add(Finding::LogDamaged { reason });
            }
            let unapplied = volume.state.lock().lost.unapplied();
            if let Some(reason) = unapplied {
                checker.add(Finding::NotReplayed { reason });
            }
        }
        Some(Err(error)) => checker.add(Finding::NotReplayed { reason: error.to_string() }),
        None => checker.add(Finding::NotReplayed { reason: "the segment table is damaged".into() }),
    }
    checker.report.replayed = volume.counters().replayed.load(Ordering::Relaxed);
    checker.report.released = volume.counters().replayed_releases.load(Ordering::Relaxed);
    checker.all();
    let Checker { mut report, .. } = checker;
    report.clean = report.suppressed == 0 && report.findings.iter().all(|found| found.severity == Severity::Info);
    report.counts.bytes_read = volume.members().read.load(Ordering::Relaxed);
    Ok(report)
}

impl Checker<'_> {
    fn all(&mut self) {
        self.progress("tree", 0, None);
        let reached = self.check_tree();
        self.progress("node map", 0, None);
        let metadata = self.check_map(&reached);
        drop(reached);
        let contents = self.check_inodes();
        let live = self.check_blocks(&contents, &metadata);
        self.check_zones(&live, metadata.complete);
        self.check_totals();
        self.name_findings();
    }

    /// The passes over what a volume holds in memory, changed or not: without what only the media can tell.
    fn all_in_memory(&mut self) -> Recount {
        let reached = self.check_tree();
        let metadata = Metadata { live: self.places_of(&reached).into_iter().map(|(addr, _)| addr).collect(), complete: true };
        let contents = self.check_inodes();
        let live = self.check_blocks(&contents, &metadata);
        self.check_counts(&live);
        self.check_totals();
        Recount { metadata: metadata.live.iter().map(|addr| addr.zone_base()).collect(), live, population: self.population.clone() }
    }
}

/// What is live, by count.
struct Recount {
    /// Zones with metadata.
    metadata: BTreeSet<Addr>,
    /// Live blocks of each zone.
    live: BTreeMap<Addr, Live>,
    /// Live blocks of each estimate.
    population: Population,
}

/// A total that there is for each estimate.
const ESTIMATES: &str = "blocks of one of the estimates";

/// A key in words.
pub(crate) fn show(key: &Key) -> String {
    key.to_string()
}
