//! Placement: which class of log head a block goes to, when a user writes it and when the cleaner moves it.
//!
//! A class is a number; the shell maps classes to open zones as far as the device's limits allow. Like the victim policies, a
//! placement knows logical addresses and times only, so the filesystem and the simulator share it. One file per placement in
//! `placement/`.

mod adaptive;
mod estimate;
mod fixed;
mod learned;
mod midas;
mod oracle;
mod temperature;
mod zones;

pub use adaptive::{Adaptive, AdaptiveZones, ZONE_CLASSES};
pub use estimate::{BlockEstimates, Estimate, Lot, Population};
pub use fixed::{None, Separate};
pub use learned::{Dac, HotWarmCold, SepBit};
pub use midas::{Filled, MayGive, Midas, MidasZones};
pub use oracle::Oracle;
pub use temperature::Temperature;
pub use zones::{ByZone, Goes, Stay, Zones};

use crate::segment::Seq;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A class of blocks that are expected to die at about the same time. Below [`Placement::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Class(pub u8);

/// What a placement may know of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks of the whole space, live or not.
    pub space: u64,
    /// Blocks in a segment.
    pub segment: u32,
    /// Segments that may be open at a time.
    pub heads: u8,
    /// Are open segments taken from the space? Where they are not, a class more costs only what is dead in them.
    pub charged: bool,
}

/// Open segments that a placement may use when nobody says otherwise.
pub const DEFAULT_HEADS: u8 = 6;

/// A block that a user writes.
#[derive(Clone, Copy, Debug)]
pub struct UserWrite {
    /// Which logical block (any number that stays with the block).
    pub block: u64,
    /// When it was written before, if it was and the shell keeps that ([`Placement::needs_ages`]).
    pub previous: Option<Seq>,
    /// About when it came to where it is, by a write or by being moved, if it is anywhere and the placement estimates ([`Placement::estimates`]).
    pub placed: Option<Seq>,
    /// The mean interval that was expected of the blocks of the segment it lies in, if the placement estimates.
    pub expected: Option<f64>,
    /// When it will be written next, where the future is known ([`Placement::needs_future`]).
    pub next: Option<Seq>,
    /// Now.
    pub now: Seq,
}

/// A live block that the cleaner moves.
#[derive(Clone, Copy, Debug)]
pub struct RelocatedBlock {
    /// Which logical block.
    pub block: u64,
    /// The class of the segment it lies in.
    pub from: Class,
    /// When a user wrote it last, if the shell keeps that.
    pub written: Option<Seq>,
    /// About when it came to where it is, if the placement estimates.
    pub placed: Option<Seq>,
    /// The mean interval that is expected of the blocks of the victim, if the placement estimates: corrected by deaths where it watches these.
    pub expected: Option<f64>,
    /// When it will be written next, where the future is known.
    pub next: Option<Seq>,
    /// Now.
    pub now: Seq,
}

/// A segment whose cleaning has ended.
#[derive(Clone, Copy, Debug)]
pub struct ReclaimedSegment {
    /// Its class.
    pub class: Class,
    /// When its first block was written.
    pub opened_at: Seq,
    /// Live blocks that had to be moved.
    pub live: u32,
    /// Its capacity.
    pub capacity: u32,
    /// Now.
    pub now: Seq,
}

/// Classes that the next victim must be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victims {
    /// The first of them.
    pub first: Class,
    /// The last of them.
    pub last: Class,
    /// The segment that was written first, whatever lives in it; else the victim policy chooses.
    pub oldest: bool,
}

/// Decides where blocks go.
pub trait Placement: Send {
    /// The name used in options and reports.
    fn name(&self) -> &'static str;
    /// How many classes it uses at most.
    fn classes(&self) -> u8;
    /// How many it uses now: heads of higher classes may be filled up with anything.
    fn active(&self) -> u8 {
        self.classes()
    }
    /// Does it estimate how often blocks are written ([`Self::interval`])? It is then told when blocks came to where they are.
    fn estimates(&self) -> bool {
        false
    }
    /// Is what it expected of a segment to be corrected by what is seen to die there?
    fn watches_deaths(&self) -> bool {
        false
    }
    /// After how many blocks of users it expects a block to be written again; asked right after it was told where the block goes.
    fn interval(&self, _block: u64) -> f64 {
        1.0
    }
    /// Must it be told the future?
    fn needs_future(&self) -> bool {
        false
    }
    /// Does it want to know when a block was written before? Keeping that costs memory.
    fn needs_ages(&self) -> bool {
        false
    }
    /// The class of a block that a user writes.
    fn user(&mut self, write: &UserWrite) -> Class;
    /// The class of a block that the cleaner moves.
    fn relocated(&mut self, block: &RelocatedBlock) -> Class;
    /// Of which classes the next victim must be, where the placement decides that; told how many closed segments each class has.
    fn victims(&self, _closed: &[u32]) -> Option<Victims> {
        Option::None
    }
    /// A user deleted a block.
    fn trimmed(&mut self, _block: u64) {}
    /// Learns from a cleaned segment.
    fn reclaimed(&mut self, _segment: &ReclaimedSegment) {}
}

/// The placements there are, by the names of the `placement=` option.
///
/// `default` is ours. Where a volume has too few zones for classes it is the same as separate: what a device copies lies in zones of its own anyway (invariant
/// that a zone receiving device copies receives nothing else).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementKind {
    /// Everything into one class. In the filesystem, copies by the device still get zones of their own.
    None,
    /// What users write and what the cleaner moves, apart.
    Separate,
    /// Hot, warm and cold by the number of writes.
    HotWarmCold,
    /// Dynamic data clustering in six levels.
    Dac,
    /// SepBIT.
    #[serde(rename = "sepbit")]
    SepBit,
    /// MiDAS.
    Midas,
    /// Ours: by an estimate of how often each block is written.
    #[default]
    Adaptive,
    /// The same as a volume does it that is mounted with `adaptive`: users' writes and what is relocated in zones of their own, victims to one class whole.
    AdaptiveZones,
    /// [`Self::HotWarmCold`] as a volume does it.
    HotWarmColdZones,
    /// [`Self::Dac`] as a volume does it.
    DacZones,
    /// [`Self::SepBit`] as a volume does it.
    #[serde(rename = "sepbit-zones")]
    SepBitZones,
    /// [`Self::Midas`] as a volume does it.
    MidasZones,
    /// The future is known; for comparison, and in the simulator only.
    Oracle,
}

/// A placement name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no placement is called {name:?}: choose one of default, {}", PlacementKind::names())]
pub struct UnknownPlacement {
    /// What was asked for.
    pub name: String,
}

impl PlacementKind {
    /// Every placement.
    pub const ALL: [PlacementKind; 13] = [
        PlacementKind::None,
        PlacementKind::Separate,
        PlacementKind::HotWarmCold,
        PlacementKind::Dac,
        PlacementKind::SepBit,
        PlacementKind::Midas,
        PlacementKind::Adaptive,
        PlacementKind::AdaptiveZones,
        PlacementKind::HotWarmColdZones,
        PlacementKind::DacZones,
        PlacementKind::SepBitZones,
        PlacementKind::MidasZones,
        PlacementKind::Oracle,
    ];

    /// Can a volume use it? The others need the future, or are what the simulator has for one of volumes
    /// ([`Self::simulated`]).
    pub fn is_for_volumes(self) -> bool {
        matches!(self, Self::None | Self::Separate | Self::HotWarmCold | Self::Dac | Self::SepBit | Self::Midas | Self::Adaptive)
    }

    /// What does in the simulator what this one does in a volume.
    pub fn simulated(self) -> Self {
        match self {
            Self::Adaptive => Self::AdaptiveZones,
            Self::HotWarmCold => Self::HotWarmColdZones,
            Self::Dac => Self::DacZones,
            Self::SepBit => Self::SepBitZones,
            Self::Midas => Self::MidasZones,
            other => other,
        }
    }

    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Separate => "separate",
            Self::HotWarmCold => "hot-warm-cold",
            Self::Dac => "dac",
            Self::SepBit => "sepbit",
            Self::Midas => "midas",
            Self::Adaptive => "adaptive",
            Self::AdaptiveZones => "adaptive-zones",
            Self::HotWarmColdZones => "hot-warm-cold-zones",
            Self::DacZones => "dac-zones",
            Self::SepBitZones => "sepbit-zones",
            Self::MidasZones => "midas-zones",
            Self::Oracle => "oracle",
        }
    }

    /// Makes it for a volume.
    pub fn build(self, shape: &Shape) -> Box<dyn Placement> {
        match self {
            Self::None => Box::new(None),
            Self::Separate => Box::new(Separate),
            Self::HotWarmCold => Box::new(HotWarmCold::default()),
            Self::Dac => Box::new(Dac::default()),
            Self::SepBit => Box::new(SepBit::default()),
            Self::Midas => Box::new(Midas::new(*shape)),
            Self::Adaptive => Box::new(Adaptive::new(*shape)),
            Self::AdaptiveZones => Box::new(AdaptiveZones::new(*shape)),
            Self::HotWarmColdZones | Self::DacZones | Self::SepBitZones => Box::new(Zones::new(self, shape.space)),
            Self::MidasZones => Box::new(MidasZones::new(*shape)),
            Self::Oracle => Box::new(Oracle::new(shape)),
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The names that a volume may be mounted with.
    pub fn names_for_volumes() -> String {
        let names: Vec<&str> = Self::ALL.into_iter().filter(|kind| kind.is_for_volumes()).map(Self::name).collect();
        format!("default, {}", names.join(", "))
    }
}

impl fmt::Display for PlacementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PlacementKind {
    type Err = UnknownPlacement;
    fn from_str(name: &str) -> Result<Self, UnknownPlacement> {
        if name == "default" {
            return Ok(Self::default());
        }
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownPlacement { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_classes_stay_in_bounds() {
        for kind in PlacementKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            let mut placement = kind.build(&Shape { space: 1000, segment: 10, heads: 6, charged: true });
            assert_eq!(placement.name(), kind.name());
            let user = placement.user(&UserWrite {
                block: 1,
                previous: Option::None,
                placed: Option::None,
                expected: Option::None,
                next: Option::None,
                now: 5,
            });
            let moved = placement.relocated(&RelocatedBlock {
                block: 1,
                from: user,
                written: Option::None,
                placed: Option::Some(5),
                expected: Option::None,
                next: Option::None,
                now: 9,
            });
            assert!(user.0 < placement.classes() && moved.0 < placement.classes());
        }
        assert_eq!("default".parse(), Ok(PlacementKind::Adaptive));
        assert_eq!(PlacementKind::names_for_volumes(), "default, none, separate, hot-warm-cold, dac, sepbit, midas, adaptive");
        assert!("hot".parse::<PlacementKind>().is_err());
    }
}
