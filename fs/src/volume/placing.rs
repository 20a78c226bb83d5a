//! Placement by what is expected of blocks (`placement=adaptive`, the default): which class of head takes what users write and what is relocated.
//!
//! How often a block is expected to be written ([`gc::placement::BlockEstimates`]) is a byte in its extent; how long it has been where it is follows from the times
//! between which its zone was filled. A run of dirty blocks goes to one class whole and gets one estimate, so classes cut no file into more pieces than there would
//! be without. What is expected of a zone, of which victims are judged and by which they go to one class whole, is in the segment table ([`gc::placement::Temperature`]).

use crate::addr::Addr;
use crate::core::extents::{Relocation, extent_parts};
use crate::core::halt::{Halt, Planned};
use crate::core::key::Key;
use crate::core::ops::WriteHint;
use crate::core::zones::ZoneTable;
use crate::format::item::{Extent, Inode};
use crate::format::segment::{Phase, Role, SegmentEntry};
use crate::ids::{FileBlock, Ino};
use crate::volume::options::MountOptions;
use crate::volume::state::State;
use gc::PlacementKind;
use gc::placement::{BlockEstimates, ByZone, Estimate, Filled, Goes, Lot, MidasZones, Population, Shape, Stay, ZONE_CLASSES};
use gc::{SegmentInfo, Stream};

/// Extents of a run that are looked at: the rest of it is taken to be like these.
const PARTS: usize = 64;

/// Open zones that a class takes: what users write and what is relocated cannot share one.
const OPEN: f64 = 2.0;

/// What a run of blocks is expected to do, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heat {
    /// For its extent; unknown: nobody estimates.
    pub estimate: Estimate,
    /// The class of its head.
    pub class: u8,
    /// What is to be noted of its zone, where that does not follow from the estimate.
    pub noted: Option<f64>,
}

impl Heat {
    const NONE: Self = Self { estimate: Estimate::UNKNOWN, class: 0, noted: None };
}

/// Chance that depends on nothing but where something lies and when it is asked for.
fn lot(place: u64, now: u64) -> Lot {
    Lot::new(place.rotate_left(32) ^ now)
}

/// What the placement of a mount goes by: one of these, or nothing.
#[derive(Default)]
pub(super) struct Placing {
    pub estimates: Option<BlockEstimates>,
    pub by_zone: Option<ByZone>,
    pub midas: Option<MidasZones>,
}

impl Placing {
    /// The zone table is told how many classes there are.
    pub(super) fn of(options: &MountOptions, zones: &mut ZoneTable) -> Self {
        let kind: PlacementKind = options.placement.parse().unwrap_or_default();
        let blocks = |(addr, _): (Addr, &SegmentEntry)| u64::from(zones.capacity(addr.device()));
        let space = zones.iter().map(blocks).sum();
        let segment = zones.iter().map(|(addr, _)| zones.capacity(addr.device())).max().unwrap_or(1);
        if let Some(by_zone) = ByZone::of(kind, space) {
            zones.set_classes(Some(by_zone.classes()), false);
            return Self { by_zone: Some(by_zone), ..Self::default() };
        }
        match kind {
            // With heads for one class there is nothing to choose.
            PlacementKind::Midas if zones.most_classes() > 1 => {
                zones.set_classes(Some(zones.most_classes()), false);
                // It sizes its groups by the space that users have.
                let shape = Shape { space: zones.total(), segment, heads: zones.classes(), charged: true };
                Self { midas: Some(MidasZones::in_volume(shape)), ..Self::default() }
            }
            PlacementKind::Adaptive => {
                zones.set_classes(Some(zones.most_classes()), true);
                let shape = Shape { space, segment, heads: zones.classes(), charged: true };
                Self { estimates: Some(BlockEstimates::new(shape)), ..Self::default() }
            }
            _ => Self::default(),
        }
    }
}

/// What MiDAS calls a block of a file: numbers that are spread over all there are (the finalizer of splitmix64).
fn name_of(ino: Ino, block: u64) -> u64 {
    let mut mixed = ino.0.rotate_left(40) ^ block;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn names_of(ino: Ino, block: FileBlock, blocks: u32) -> impl Iterator<Item = u64> {
    (block.0..block.0.saturating_add(blocks.into())).map(move |block| name_of(ino, block))
}

/// Who filled a zone, as MiDAS asks for it. What users copied is new to it.
fn filled(entry: &SegmentEntry) -> Filled {
    match entry.role {
        Role::RelocatedByDevice | Role::RelocatedByHost => Filled::Moved(entry.class),
        Role::User => Filled::Users(entry.class),
        _ => Filled::Users(1),
    }
}

impl State {
    /// Cuts classes anew when it is time.
    pub(super) fn plan_classes(&mut self) {
        let unplaced = self.unplaced();
        if let Some(by_zone) = &mut self.by_zone {
            self.zones.take_lives().for_each(|life| by_zone.reclaimed(life));
            self.zones.set_active_classes(by_zone.classes(), unplaced);
        }
        if self.midas.is_some() {
            self.zones.set_active_classes(ZONE_CLASSES, unplaced);
        }
        let Some(estimates) = &mut self.estimates else { return };
        let now = self.zones.clock();
        if estimates.is_plan_due(now) {
            estimates.plan(now, self.zones.population(), OPEN);
        }
        self.zones.set_active_classes(estimates.active(), unplaced);
    }

    /// What blocks of a file that are written now are expected to do, by what was expected of them and how long they lay where they did. What they are
    /// written over is added to `over`.
    ///
    /// # Errors
    /// [`Halt::Need`] for a block that is not resident, which mapping them needs, too. What is damaged says nothing of them.
    pub(super) fn heat(&self, ino: Ino, block: FileBlock, blocks: u32, over: &mut Population) -> Planned<Heat> {
        if let Some(midas) = &self.midas {
            // Of a long run some are asked.
            let step = (blocks as usize / PARTS).max(1);
            return Ok(Heat { class: midas.class_of_run(names_of(ino, block, blocks).step_by(step)), ..Heat::NONE });
        }
        if self.estimates.is_none() && self.by_zone.is_none() {
            return Ok(Heat::NONE);
        }
        let end = FileBlock(block.0.saturating_add(blocks.into()));
        let (parts, next) = match extent_parts(&self.tree, ino, block, end, PARTS) {
            Ok(found) => found,
            Err(Halt::Need(id)) => return Err(Halt::Need(id)),
            Err(Halt::Fail(_)) => (Vec::new(), None),
        };
        let Some(estimates) = &self.estimates else { return Ok(self.heat_by_zone(block, next.unwrap_or(end), &parts)) };
        // Each part stands for its share of what was not looked at, too.
        let looked_at = next.map_or(blocks.into(), |next| next.0 - block.0);
        let stretched = |at: FileBlock| (at.0 - block.0) * u64::from(blocks) / looked_at.max(1);
        let now = self.zones.clock();
        let mut lot = lot(ino.0.rotate_left(20) ^ block.0, now);
        let mut rewritten = |part: &Extent| {
            let lived = self.zones.placed_at(part.addr).map(|placed| now.saturating_sub(placed));
            over.add(part.estimate, stretched(part.end()) - stretched(part.block));
            estimates.rewritten(part.estimate, lived, &mut lot)
        };
        let estimate = match parts[..] {
            // Mostly one extent, and this is asked for each block that is written at random.
            [ref part] if !part.is_unwritten() && part.blocks == blocks => rewritten(part),
            _ => {
                let written = parts.iter().filter(|part| !part.is_unwritten());
                let expected: Vec<(Estimate, u32)> = written.map(|part| (rewritten(part), part.blocks)).collect();
                let old: u64 = expected.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
                // The block in which a file ended says nothing of the many that are appended: what most of the run is decides.
                match 2 * old < looked_at || expected.is_empty() {
                    true => estimates.fresh(self.hint(ino).map_or(1.0, WriteHint::factor)),
                    false => estimates.together(&expected, &mut lot),
                }
            }
        };
        Ok(Heat { estimate, class: estimates.class(estimate).0, noted: None })
    }

    /// The same by what is known of the zones in which `parts` of the blocks from `block` to `end` lie.
    fn heat_by_zone(&self, block: FileBlock, end: FileBlock, parts: &[Extent]) -> Heat {
        let Some(by_zone) = &self.by_zone else { return Heat::NONE };
        let written = parts.iter().filter(|part| !part.is_unwritten());
        let old: Vec<(Stay, u32)> = written.filter_map(|part| Some((self.stay(part.addr)?, part.blocks))).collect();
        let known: u64 = old.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let new = u32::try_from((end.0 - block.0).saturating_sub(known)).unwrap_or(u32::MAX);
        let goes = by_zone.user(&old, new);
        Heat { estimate: Estimate::UNKNOWN, class: goes.class, noted: Some(goes.interval) }
    }

    /// Users wrote so many blocks.
    pub(super) fn note_run(&mut self, ino: Ino, block: FileBlock, blocks: u32) {
        let (now, live) = (self.zones.clock(), self.zones.live_data());
        if let Some(midas) = &mut self.midas {
            names_of(ino, block, blocks).for_each(|name| midas.wrote(name, now, live));
        }
    }

    /// Of the candidates for the cleaner those of the group that gives a victim, or the oldest of them.
    pub(super) fn preferred(&self, candidates: &[SegmentInfo]) -> Option<Vec<SegmentInfo>> {
        let midas = self.midas.as_ref().filter(|_| self.zones.classes_in_use() > 1)?;
        let is_data = |role: Role| matches!(role, Role::User | Role::RelocatedByDevice | Role::RelocatedByHost | Role::CopiedByDevice);
        let closed = self.zones.iter().map(|(_, e)| e).filter(|e| e.phase == Phase::Closed && is_data(e.role));
        let may = midas.may_give(closed.map(filled));
        let is_of_group = |info: &&SegmentInfo| {
            let entry = self.zones.entry(Addr::new(info.id.device, info.id.zone, 0));
            // What gives next to nothing costs more than any layout gains.
            let gives = info.capacity - info.live.min(info.capacity) > info.capacity / 32;
            gives && entry.is_some_and(|e| is_data(e.role) && may.zone(filled(e)))
        };
        let group = candidates.iter().filter(is_of_group).copied();
        match may.oldest {
            true => group.min_by_key(|info| info.written_at).map(|info| vec![info]),
            // Metadata is of no group.
            false => Some(candidates.iter().filter(|info| info.stream == Stream::Metadata || is_of_group(info)).copied().collect()),
        }
    }

    /// What is known of the block at `addr` by its zone.
    fn stay(&self, addr: Addr) -> Option<Stay> {
        let entry = self.zones.entry(addr)?;
        let moved = matches!(entry.role, Role::RelocatedByDevice | Role::RelocatedByHost);
        Some(Stay { moved, class: entry.class, noted: entry.temperature.interval(), lived: self.lived_at(addr) })
    }

    /// Where everything goes that lives in the zone of `victim`.
    fn goes_on(&self, victim: Addr) -> Option<Goes> {
        let middle = victim.zone_base().plus(self.zones.capacity(victim.device()) / 2);
        Some(self.by_zone.as_ref()?.relocated(&self.stay(middle)?))
    }

    /// So many blocks of each estimate were written over.
    pub(super) fn note_over(&mut self, over: &Population) {
        let Some(estimates) = &mut self.estimates else { return };
        (0..=u8::MAX)
            .zip(over.counts())
            .filter(|(_, blocks)| **blocks > 0)
            .for_each(|(byte, blocks)| estimates.note_write(Estimate(byte), *blocks));
    }

    /// What was said of a file. No block is loaded for that.
    fn hint(&self, ino: Ino) -> Option<WriteHint> {
        let value = self.tree.get(&Key::inode(ino)).ok()??;
        WriteHint::of(&Inode::decode(ino, value)?)
    }

    /// The class that everything goes to that is alive in a victim.
    pub(super) fn class_of_victim(&self, victim: Addr) -> u8 {
        if let (Some(midas), Some(entry)) = (&self.midas, self.zones.entry(victim)) {
            return midas.class_of_survivors(filled(entry));
        }
        let Some(estimates) = &self.estimates else { return self.goes_on(victim).map_or(0, |goes| goes.class) };
        let middle = victim.zone_base().plus(self.zones.capacity(victim.device()) / 2);
        let interval = estimates.survivors(self.zones.expected(victim), self.lived_at(middle));
        estimates.class_of(interval).0
    }

    /// How long the block at `addr` has been there, about.
    fn lived_at(&self, addr: Addr) -> u64 {
        self.zones.placed_at(addr).map_or(0, |placed| self.zones.clock().saturating_sub(placed))
    }

    /// What blocks are expected to do that the cleaner found alive at `addr` and moves.
    pub(super) fn moved_on(&self, estimate: Estimate, addr: Addr) -> Estimate {
        let Some(estimates) = &self.estimates else { return estimate };
        estimates.survived(estimate, self.lived_at(addr), &mut lot(addr.0, self.zones.clock()))
    }

    /// The cleaner moved so many blocks of what it had found.
    pub(super) fn note_moved(&mut self, moved: &Relocation, blocks: u32) {
        let now = self.zones.clock();
        if let (Some(midas), Some(entry)) = (&mut self.midas, self.zones.entry(moved.from)) {
            names_of(moved.ino, moved.block, blocks).for_each(|name| midas.moved(name, filled(entry), now));
        }
        match self.goes_on(moved.from) {
            Some(goes) => self.zones.note_put(moved.to, blocks, goes.interval),
            None => self.note_placed(moved.to, blocks, moved.estimate),
        }
    }

    /// Blocks of which this is expected were put at `addr`. Those of which nothing is (a copy, or the log of a mount that did not estimate) say nothing of their zone.
    pub(super) fn note_placed(&mut self, addr: Addr, blocks: u32, estimate: Estimate) {
        let Some(estimates) = self.estimates.as_ref().filter(|_| estimate != Estimate::UNKNOWN) else { return };
        self.zones.note_put(addr, blocks, estimates.interval(estimate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;
    use crate::check::{CheckOptions, check};
    use crate::volume::{Volume, WriteOptions, rig};
    use zns::sim::{SimConfig, SimDrive, Survival};

    const BLOCKS: u64 = 5000;
    const HOT: u64 = 50;

    fn write(volume: &Volume, file: Ino, blocks: impl Iterator<Item = u64>) {
        for block in blocks {
            let written = volume.write(file, block * BLOCK as u64, &[block as u8; BLOCK], &WriteOptions::default());
            assert_eq!(written.expect("written"), BLOCK);
        }
        volume.sync().expect("synced");
    }

    /// What is expected of each block of a file.
    fn estimates_of(volume: &Volume, file: Ino) -> Vec<Estimate> {
        let parts = volume.ask(|state| extent_parts(&state.tree, file, FileBlock(0), FileBlock(BLOCKS), usize::MAX)).expect("read").0;
        parts.iter().flat_map(|part| std::iter::repeat_n(part.estimate, part.blocks as usize)).collect()
    }

    /// A file of which one block in a hundred was written fifty times, and the rest once.
    fn skewed() -> (SimDrive, std::sync::Arc<Volume>, Ino) {
        let drive = SimDrive::new(SimConfig { max_open: 14, max_active: 14, ..SimConfig::zoned(64, 1) });
        let volume = rig::formatted(&drive);
        let file = rig::make(&volume, "file");
        write(&volume, file, 0..BLOCKS);
        // Not one behind the other, or they were one run.
        (0..50).for_each(|_| write(&volume, file, (0..HOT).map(|n| n * (BLOCKS / HOT))));
        (drive, volume, file)
    }

    fn is_hot(block: usize) -> bool {
        (block as u64).is_multiple_of(BLOCKS / HOT)
    }

    #[test]
    fn blocks_that_are_written_often_are_expected_to_be_and_others_are_not() {
        let (_, volume, file) = skewed();
        let state = volume.state.lock();
        let estimates = state.estimates.clone().expect("the default estimates");
        drop(state);
        let found = estimates_of(&volume, file);
        assert_eq!(found.len() as u64, BLOCKS);
        let interval = |hot: bool| -> Vec<f64> {
            let of_kind = found.iter().enumerate().filter(|(block, _)| is_hot(*block) == hot);
            of_kind.map(|(_, estimate)| estimates.interval(*estimate)).collect()
        };
        let (hot, cold) = (interval(true), interval(false));
        let (hottest, coldest) = (hot.iter().fold(0.0, |a: f64, b| a.max(*b)), cold.iter().fold(f64::INFINITY, |a: f64, b| a.min(*b)));
        assert!(hottest * 8.0 < coldest, "{hottest} and {coldest}");
    }

    /// The block in which a file ended is written over with each append that is not aligned: it says nothing of those behind it.
    #[test]
    fn of_new_blocks_behind_one_that_is_written_over_is_expected_what_is_of_any_that_are_new() {
        let volume = rig::formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let file = rig::make(&volume, "log");
        let append =
            |n: u64| volume.write(file, n * (20 * BLOCK as u64 + 100), &[1; 20 * BLOCK + 100], &WriteOptions::default()).expect("written");
        (0..8).for_each(|n| {
            append(n);
            volume.sync().expect("synced");
        });
        append(8);
        let (heat, fresh) = {
            let state = volume.state.lock();
            let heat = state.heat(file, FileBlock(160), 21, &mut Population::default());
            (heat.ok().map(|heat| heat.estimate), state.estimates.as_ref().map(|estimates| estimates.fresh(1.0)))
        };
        assert!(heat.is_some() && heat == fresh, "{heat:?}, not {fresh:?}");
    }

    #[test]
    fn all_blocks_of_a_run_that_is_written_over_are_counted_however_many_extents_it_has() {
        let (_, volume, file) = skewed();
        let mut over = Population::default();
        let heat = volume.state.lock().heat(file, FileBlock(0), BLOCKS as u32, &mut over);
        assert!(heat.is_ok(), "all is resident");
        assert_eq!(over.counts().iter().sum::<u64>(), BLOCKS);
    }

    #[test]
    fn what_is_expected_of_blocks_is_there_again_after_a_crash_and_so_is_how_many_there_are() {
        let (drive, volume, file) = skewed();
        volume.checkpoint().expect("a checkpoint");
        // What comes after it is in the log alone: users' writes, and what cleaning moves.
        write(&volume, file, (0..HOT).map(|n| n * (BLOCKS / HOT)));
        volume.gc(false).expect("cleaned");
        volume.sync().expect("synced");
        let (before, population) = (estimates_of(&volume, file), volume.state.lock().zones.population().clone());
        let counted = population.counts().iter().sum::<u64>();
        assert_eq!(counted, BLOCKS);
        drive.cut_power();
        drive.power_cycle_with(Survival::LoseAll);
        drop(volume);
        let report = check(vec![drive.open()], CheckOptions::default()).expect("a volume");
        assert!(report.clean && report.replayed > 0, "{report}");
        let again = rig::open(&drive);
        assert!(estimates_of(&again, file) == before, "other estimates after the crash");
        assert_eq!(*again.state.lock().zones.population(), population);
        let classes = |volume: &Volume| {
            let mut state = volume.state.lock();
            state.plan_classes();
            state.estimates.as_ref().map(BlockEstimates::active)
        };
        assert!(classes(&again) > Some(1), "what was there before the mount is a part of the first plan");
    }

    #[test]
    fn what_was_copied_says_nothing_of_its_zone_before_a_crash_and_after_it() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = rig::formatted(&drive);
        let (file, copy) = (rig::make(&volume, "file"), rig::make(&volume, "copy"));
        write(&volume, file, 0..100);
        volume.checkpoint().expect("a checkpoint");
        assert_eq!(volume.copy_file_range(file, 0, copy, 0, 100 * BLOCK as u64).expect("copied"), 100 * BLOCK as u64);
        volume.sync().expect("synced");
        let zone = volume.ask(|state| extent_parts(&state.tree, copy, FileBlock(0), FileBlock(1), 1)).expect("read").0[0].addr;
        let expected = |volume: &Volume| volume.state.lock().zones.expected(zone);
        assert_eq!(expected(&volume), None);
        drive.cut_power();
        drive.power_cycle_with(Survival::LoseAll);
        drop(volume);
        assert_eq!(expected(&rig::open(&drive)), None);
    }

    /// For each block of a file: was it moved to its zone, and of which class is that?
    fn heads_of(volume: &Volume, file: Ino) -> Vec<(bool, u8)> {
        let state = volume.state.lock();
        let parts = extent_parts(&state.tree, file, FileBlock(0), FileBlock(BLOCKS), usize::MAX).expect("resident").0;
        let head = |part: &Extent| state.stay(part.addr).map_or((false, 0), |stay| (stay.moved, stay.class));
        parts.iter().flat_map(|part| std::iter::repeat_n(head(part), part.blocks as usize)).collect()
    }

    /// The published placements know blocks by their zones, and zones are known over mounts and power cuts.
    #[test]
    fn published_placements_part_what_is_written_often_from_what_is_not() {
        for (name, hot, cold, once_more) in [("hot-warm-cold", 0, 1, 0), ("dac", 0, 2, 1), ("sepbit", 0, 1, 0)] {
            let open = |drive: &SimDrive| {
                let options = MountOptions { placement: name.into(), ..rig::options() };
                Volume::open(vec![drive.open() as std::sync::Arc<dyn zns::ZonedDevice>], options).expect("mounts")
            };
            let drive = SimDrive::new(SimConfig { max_open: 20, max_active: 20, ..SimConfig::zoned(64, 1) });
            drop(rig::formatted(&drive));
            let volume = open(&drive);
            let file = rig::make(&volume, "file");
            write(&volume, file, 0..BLOCKS);
            (0..10).for_each(|_| write(&volume, file, (0..HOT).map(|n| n * (BLOCKS / HOT))));
            volume.checkpoint().expect("a checkpoint");
            let heads = heads_of(&volume, file);
            (0..BLOCKS as usize)
                .for_each(|block| assert_eq!(heads[block], (false, if is_hot(block) { hot } else { cold }), "{name}: block {block}"));
            drive.cut_power();
            drive.power_cycle_with(Survival::LoseAll);
            drop(volume);
            let volume = open(&drive);
            write(&volume, file, [0, 2, 4].into_iter());
            let heads = heads_of(&volume, file);
            assert_eq!([heads[0], heads[2], heads[4]], [(false, hot), (false, once_more), (false, once_more)], "{name}: after a mount");
            assert!(volume.zones().iter().all(|zone| zone.expected.is_none()), "{name}: what is noted is no expectation");
            volume.gc(true).expect("cleaned");
            volume.shutdown().expect("ends");
            let report = check(vec![drive.open()], CheckOptions::default()).expect("a volume");
            assert!(report.clean, "{name}: {report}");
        }
    }

    #[test]
    fn what_is_moved_sinks_and_what_lives_is_learned_from_zones_that_were_given_back() {
        let drive = SimDrive::new(SimConfig { max_open: 20, max_active: 20, ..SimConfig::zoned(64, 1) });
        drop(rig::formatted(&drive));
        let options = MountOptions { placement: "sepbit".into(), ..rig::options() };
        let volume = Volume::open(vec![drive.open() as std::sync::Arc<dyn zns::ZonedDevice>], options).expect("mounts");
        let file = rig::make(&volume, "file");
        // All of it over and over: no life is short any more when the mean of sixteen is known, for each is as long as that.
        (0..2).for_each(|_| write(&volume, file, 0..BLOCKS));
        assert!(heads_of(&volume, file).iter().all(|head| *head == (false, 0)), "at the start every life is short");
        let mut state = volume.state.lock();
        let zone = extent_parts(&state.tree, file, FileBlock(0), FileBlock(1), 1).expect("resident").0[0].addr;
        assert_eq!(state.goes_on(zone).map(|goes| goes.class), Some(0), "out of the first class");
        let lived = state.lived_at(zone);
        let by_zone = state.by_zone.as_mut().expect("it is one of them");
        (0..16).for_each(|_| by_zone.reclaimed(lived / 10));
        drop(state);
        write(&volume, file, 0..100);
        assert!(heads_of(&volume, file)[..100].iter().all(|head| *head == (false, 1)), "it had lived for longer than the mean");
    }

    #[test]
    fn who_estimates_nothing_keeps_what_others_estimated() {
        let (drive, volume, file) = skewed();
        let before = estimates_of(&volume, file);
        volume.checkpoint().expect("a checkpoint");
        drop(volume);
        let options = MountOptions { placement: "separate".into(), ..rig::options() };
        let volume = Volume::open(vec![drive.open()], options).expect("mounts");
        volume.gc(true).expect("cleaned");
        assert!(estimates_of(&volume, file) == before, "moved blocks keep what was expected of them");
        write(&volume, file, 0..1);
        assert_eq!(estimates_of(&volume, file)[0], Estimate::UNKNOWN);
    }
}
