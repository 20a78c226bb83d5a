//! Published placements as volumes have them: by what is known of the zone in which a block lies, with no memory for blocks.
//!
//! A volume differs from what the papers assume in three ways. Users' writes and what is relocated never share a zone, so each has heads of its own
//! for each class ([`ZONE_CLASSES`] of both kinds at most). A victim goes to one class whole. And what was known of a block is what is known of its zone: whether it was
//! moved there, the interval that was noted of the zone ([`super::Temperature`]), and since when it has been there. So
//!
//! * *hot, warm, cold*: what is written over is hot if it has not been moved since its last write, that is if it lies in a zone that users filled; else warm. What is
//!   moved is cold.
//! * *DAC*: the level is noted of the zone, as an interval four times as long for each level colder; [`ZONE_CLASSES`] levels instead of six.
//! * *SepBIT*: the time of the last write of a user is that of the zone, if users filled it; of a zone of moved blocks their mean age (the harmonic mean) when they came there is noted.
//!
//! The simulator has the same by the names `hot-warm-cold-zones`, `dac-zones` and `sepbit-zones`.

use super::adaptive::ZONE_CLASSES;
use super::learned::{PerBlock, SepBit};
use super::{Class, Placement, PlacementKind, ReclaimedSegment, RelocatedBlock, UserWrite};
use crate::segment::Seq;

/// The level of what is new, as if it had been written over at the coldest.
const NEW: u8 = ZONE_CLASSES - 2;

/// What is known of a block by the zone it lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stay {
    /// It was moved there; else users wrote it there.
    pub moved: bool,
    /// The class of the head that filled the zone.
    pub class: u8,
    /// The interval that was noted of the zone, if any was.
    pub noted: Option<f64>,
    /// For how many blocks of users it has been there, about.
    pub lived: Seq,
}

/// Where a block goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goes {
    /// The class of the head, of those for users or of those for what is moved.
    pub class: u8,
    /// To be noted of the zone.
    pub interval: f64,
}

/// One of the published placements.
#[derive(Clone, Debug)]
enum Published {
    HotWarmCold,
    Dac,
    SepBit(SepBit),
}

/// A published placement of a volume.
#[derive(Clone, Debug)]
pub struct ByZone {
    which: Published,
    /// The interval that is noted for class 0. Where a volume is mounted with another placement later that takes it for a time: a sixteenth of the space.
    hottest: f64,
}

impl ByZone {
    /// If a volume of so many blocks has this one so.
    pub fn of(kind: PlacementKind, space: u64) -> Option<Self> {
        let which = match kind {
            PlacementKind::HotWarmCold | PlacementKind::HotWarmColdZones => Published::HotWarmCold,
            PlacementKind::Dac | PlacementKind::DacZones => Published::Dac,
            PlacementKind::SepBit | PlacementKind::SepBitZones => Published::SepBit(SepBit::default()),
            _ => return None,
        };
        Some(Self { which, hottest: (space as f64 / 16.0).max(1.0) })
    }

    /// The interval that is noted for a class.
    fn interval_of(&self, class: u8) -> f64 {
        self.hottest * 4f64.powi(class.into())
    }

    /// The class for which an interval was noted.
    fn class_of(&self, noted: Option<f64>) -> u8 {
        let class = noted.map_or(f64::from(ZONE_CLASSES), |interval| (interval / self.hottest).max(1.0).log2() / 2.0);
        class.round().min(f64::from(ZONE_CLASSES - 1)) as u8
    }

    /// Classes that it uses.
    pub fn classes(&self) -> u8 {
        match self.which {
            Published::HotWarmCold => 2,
            Published::Dac | Published::SepBit(_) => ZONE_CLASSES,
        }
    }

    /// Where a run goes that users write: over so many blocks of each of `old`, and so many new ones. Most of its blocks decide.
    pub fn user(&self, old: &[(Stay, u32)], new: u32) -> Goes {
        let all = old.iter().map(|(_, blocks)| u64::from(*blocks)).sum::<u64>() + u64::from(new);
        let most = |of: &dyn Fn(&Stay) -> bool| {
            let those = old.iter().filter(|(stay, _)| of(stay)).map(|(_, blocks)| u64::from(*blocks)).sum::<u64>();
            u8::from(2 * those <= all)
        };
        let class = match &self.which {
            Published::HotWarmCold => most(&|stay| !stay.moved),
            Published::Dac => {
                let hotter = |stay: &Stay| u64::from(self.class_of(stay.noted).saturating_sub(1));
                let sum = old.iter().map(|(stay, blocks)| hotter(stay) * u64::from(*blocks)).sum::<u64>() + u64::from(NEW) * u64::from(new);
                ((sum + all / 2) / all.max(1)) as u8
            }
            Published::SepBit(sepbit) => most(&|stay| sepbit.is_below(age(stay), 1.0)),
        };
        Goes { class, interval: self.interval_of(class) }
    }

    /// Where everything goes that lives in a victim.
    pub fn relocated(&self, victim: &Stay) -> Goes {
        match &self.which {
            Published::HotWarmCold => Goes { class: 0, interval: self.interval_of(ZONE_CLASSES - 1) },
            Published::Dac => {
                let class = (self.class_of(victim.noted) + 1).min(ZONE_CLASSES - 1);
                Goes { class, interval: self.interval_of(class) }
            }
            Published::SepBit(sepbit) => {
                let Class(class) = sepbit.moved(!victim.moved && victim.class == 0, age(victim));
                // Of its own classes the first two are for what users write.
                Goes { class: class - 2, interval: age(victim).max(1) as f64 }
            }
        }
    }

    /// A zone of class 0 that users filled was given back, so many blocks of users after it was opened.
    pub fn reclaimed(&mut self, life: Seq) {
        if let Published::SepBit(sepbit) = &mut self.which {
            sepbit.learn(life);
        }
    }
}

/// Since when users have not written the block.
fn age(stay: &Stay) -> Seq {
    stay.lived.saturating_add(if stay.moved { stay.noted.map_or(0, |age| age as Seq) } else { 0 })
}

/// The same in the simulator: users' writes of class c in class 2 c, what is moved in 2 c + 1.
#[derive(Clone, Debug)]
pub struct Zones {
    by: ByZone,
    name: &'static str,
    /// The class in which each block lies and one; zero for those that were never written.
    classes: PerBlock,
}

impl Zones {
    /// One of those that end in `-zones`; of others hot, warm and cold.
    pub fn new(kind: PlacementKind, space: u64) -> Self {
        let by = ByZone::of(kind, space).unwrap_or(ByZone { which: Published::HotWarmCold, hottest: 1.0 });
        Self { by, name: kind.name(), classes: PerBlock::default() }
    }

    /// A block that lies in a class of the simulator; its last write of a user was so long ago.
    fn stay(&self, class: u8, written: Seq) -> Stay {
        let (moved, level) = (class % 2 == 1, class / 2);
        // Of moved blocks SepBIT's age is exact here, and of zones DAC's level is that of the head.
        let noted = matches!(self.by.which, Published::Dac).then(|| self.by.interval_of(level));
        Stay { moved, class: level, noted, lived: written }
    }

    fn put(&mut self, block: u64, goes: Goes, moved: bool) -> Class {
        let class = 2 * goes.class + u8::from(moved);
        *self.classes.of(block) = class + 1;
        Class(class)
    }
}

impl Placement for Zones {
    fn name(&self) -> &'static str {
        self.name
    }
    fn classes(&self) -> u8 {
        2 * self.by.classes()
    }
    fn needs_ages(&self) -> bool {
        matches!(self.by.which, Published::SepBit(_))
    }
    fn user(&mut self, write: &UserWrite) -> Class {
        let age = write.previous.map_or(0, |previous| write.now - previous);
        let goes = match *self.classes.of(write.block) {
            0 => self.by.user(&[], 1),
            class => self.by.user(&[(self.stay(class - 1, age), 1)], 0),
        };
        self.put(write.block, goes, false)
    }
    fn relocated(&mut self, block: &RelocatedBlock) -> Class {
        let age = block.written.map_or(0, |written| block.now - written);
        let goes = self.by.relocated(&self.stay(block.from.0, age));
        self.put(block.block, goes, true)
    }
    fn trimmed(&mut self, block: u64) {
        *self.classes.of(block) = 0;
    }
    fn reclaimed(&mut self, segment: &ReclaimedSegment) {
        if segment.class == Class(0) {
            self.by.reclaimed(segment.now - segment.opened_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Temperature;

    fn stay(moved: bool, class: u8, noted: f64, lived: Seq) -> Stay {
        Stay { moved, class, noted: Some(noted), lived }
    }

    fn by(kind: PlacementKind) -> ByZone {
        ByZone::of(kind, 100_000).expect("one of them")
    }

    #[test]
    fn levels_come_back_from_what_is_noted_of_a_zone() {
        let dac = by(PlacementKind::Dac);
        for class in 0..ZONE_CLASSES {
            assert_eq!(dac.class_of(Temperature::of(dac.interval_of(class)).interval()), class);
        }
        assert_eq!(dac.class_of(None), ZONE_CLASSES - 1, "nothing is known: cold");
        // A zone into which two levels went has one between.
        let mean = 2.0 / (1.0 / dac.interval_of(1) + 1.0 / dac.interval_of(3));
        assert_eq!(dac.class_of(Some(mean)), 1);
        assert_eq!([0.0, 1e300].map(|odd| dac.class_of(Some(odd))), [0, ZONE_CLASSES - 1]);
        assert!(ByZone::of(PlacementKind::Adaptive, 1).is_none());
    }

    #[test]
    fn what_was_moved_is_warm_and_what_was_written_twice_is_hot() {
        let by = by(PlacementKind::HotWarmCold);
        assert_eq!(by.user(&[], 1).class, 1);
        assert_eq!(by.user(&[(stay(false, 1, 1.0, 9), 1)], 0).class, 0);
        assert_eq!(by.user(&[(stay(true, 0, 1.0, 9), 1)], 0).class, 1);
        assert_eq!(by.user(&[(stay(false, 1, 1.0, 9), 3), (stay(true, 0, 1.0, 9), 1)], 1).class, 0, "most of it");
        assert_eq!(by.user(&[(stay(false, 1, 1.0, 9), 3)], 3).class, 1);
        assert_eq!(by.relocated(&stay(false, 0, 1.0, 9)).class, 0);
    }

    #[test]
    fn blocks_climb_and_sink_by_the_level_that_is_noted() {
        let by = by(PlacementKind::Dac);
        let mut goes = by.user(&[], 7);
        assert_eq!(goes.class, NEW);
        for class in [1, 0, 0] {
            goes = by.user(&[(stay(false, 3, goes.interval, 1), 7)], 0);
            assert_eq!(goes.class, class);
        }
        for class in [1, 2, 3, 3] {
            goes = by.relocated(&stay(true, 0, goes.interval, 1));
            assert_eq!(goes.class, class);
        }
        // A run that lies in several zones goes to their mean.
        let parts = [(stay(false, 0, by.interval_of(1), 1), 2), (stay(false, 0, by.interval_of(3), 1), 2)];
        assert_eq!(by.user(&parts, 0).class, 1);
    }

    #[test]
    fn ages_add_up_over_moves() {
        let mut by = by(PlacementKind::SepBit);
        (0..16).for_each(|_| by.reclaimed(100));
        assert_eq!(by.user(&[(stay(false, 1, 1.0, 99), 1)], 0).class, 0);
        assert_eq!(by.user(&[(stay(false, 0, 1.0, 100), 1)], 0).class, 1);
        assert_eq!(by.user(&[], 1).class, 1);
        assert_eq!(by.relocated(&stay(false, 0, 1.0, 5000)).class, 0, "out of class 0, whatever its age");
        let first = by.relocated(&stay(false, 1, 1.0, 300));
        assert_eq!((first.class, first.interval), (1, 300.0));
        let second = by.relocated(&stay(true, 1, first.interval, 200));
        assert_eq!((second.class, second.interval), (2, 500.0));
        assert_eq!(by.relocated(&stay(true, 2, second.interval, 1100)).class, 3);
        assert_eq!(by.user(&[(stay(true, 2, 60.0, 50), 1)], 0).class, 1, "it was 110 ago that it was written");
    }
}
