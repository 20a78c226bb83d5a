//! Every state that a loss of power could have left, enumerated from a [`Tape`](super::Tape) instead of drawn.
//!
//! What was not flushed hangs in *lanes* that survive independently of one another: a sequential zone keeps any prefix of what was done to it, block by
//! block; a plain disk, and the file of an image, any subset of the 4 KiB that were written, zone table and header included. Lanes are advanced
//! step by step ([`CrashStates::step`]); after each step those states are visited that the step has made possible, so that a run visits no combination twice.
//! Where there are too many, a systematic choice (what was done first or last, one lane alone, all but one) and a sample are. On top of that, what the
//! step wrote is torn: between its blocks, and at sectors of 512 bytes within one.

use super::media::Zone;
use super::still::{Shape, Still};
use super::store::mixed;
use super::tape::{By, Deed, Step};
use crate::zone::ZoneState;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a sector: no device tears what is smaller.
const SECTOR: usize = 512;
/// What is written to a plain disk or a file is lost in pieces of so many bytes, before tearing.
const PAGE: usize = 4096;

/// How many states are visited after each step.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Up to so many combinations all are visited.
    pub all: u64,
    /// Where there are more: so many drawn ones beside the systematic choice.
    pub drawn: usize,
    /// Of all ways to tear what the step wrote, so many.
    pub torn: usize,
}

/// In which way a state is less than all that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tear {
    /// All of it is there.
    Nothing,
    /// Nothing since the last flush is there.
    AllUnflushed,
    /// Of some zones a prefix, of some writes a part is missing.
    SomeUnflushed,
    /// A reset (of an image: the hole it makes) is lost, while something else survives.
    Reset,
    /// A write ends at one of its blocks.
    WriteAtBlock,
    /// A Copy ends behind one of its ranges; the write pointer of its zone says so.
    CopyBehindRange,
    /// A Copy ends within a range, at a block.
    CopyWithinRange,
    /// A block ends at one of its sectors.
    Sector,
    /// A block of the zone table of an image is torn. (Older than the data it is in every state before its write, which is the last one before a flush.)
    TableTorn,
}

impl Tear {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing lost",
            Self::AllUnflushed => "all unflushed lost",
            Self::SomeUnflushed => "some unflushed lost",
            Self::Reset => "reset lost",
            Self::WriteAtBlock => "write torn at 4 KiB",
            Self::CopyBehindRange => "copy stopped behind a range",
            Self::CopyWithinRange => "copy stopped within a range",
            Self::Sector => "torn at 512 bytes",
            Self::TableTorn => "zone table torn",
        }
    }
}

/// A state that a loss of power could have left.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// What each device holds.
    pub media: Vec<Still>,
    /// Stands for all of it.
    pub digest: u64,
    /// What is missing.
    pub tear: Tear,
}

/// Something that was done to a sequential zone.
#[derive(Clone, Debug)]
enum Act {
    Write { offset: usize, data: Arc<[u8]>, by: By },
    Reset,
    Finish,
}

#[derive(Clone, Debug)]
enum What {
    /// Prefixes survive.
    Sequence(Vec<Act>),
    /// It survives or not.
    Patch { offset: usize, data: Arc<[u8]>, by: By },
    /// It survives or not.
    Hole { offset: usize, len: usize },
}

#[derive(Clone, Debug)]
struct Lane {
    device: usize,
    zone: u32,
    what: What,
    /// Positions are 0 to this.
    length: u32,
    /// The length before the last step.
    before: u32,
    /// The step that began it.
    step: u32,
}

/// A part of the bytes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Head(usize),
    Tail(usize),
}

/// One state, in short.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    positions: Vec<u32>,
    /// A lane that goes a part of one write further than its position says.
    torn: Option<(usize, Part)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct CrashStates {
    durable: Vec<Still>,
    lanes: Vec<Lane>,
    flushed: bool,
    steps: u32,
}

impl CrashStates {
    /// Nothing has been done to `media` yet.
    pub fn new(media: Vec<Still>) -> Self {
        Self { durable: media, lanes: Vec::new(), flushed: false, steps: 0 }
    }

    /// The next step of the tape was done.
    pub fn step(&mut self, step: &Step) {
        self.lanes.iter_mut().for_each(|lane| lane.before = lane.length);
        self.steps += 1;
        let device = usize::from(step.device);
        self.flushed = matches!(step.deed, Deed::Flush);
        let sequential = self.durable[device].is_sequential();
        match &step.deed {
            Deed::Flush => self.flush(device),
            Deed::Write { zone, offset, data, by } if sequential => {
                let blocks = (data.len() / self.durable[device].unit()) as u32;
                self.act(device, *zone, Act::Write { offset: *offset, data: data.clone(), by: *by }, blocks);
            }
            Deed::Reset { zone } => self.act(device, *zone, Act::Reset, 1),
            Deed::Finish { zone } => self.act(device, *zone, Act::Finish, 1),
            Deed::Write { zone, offset, data, by } => {
                let mut at = 0;
                while at < data.len() {
                    let len = (PAGE - (offset + at) % PAGE).min(data.len() - at);
                    self.patch(device, *zone, What::Patch { offset: offset + at, data: data[at..at + len].into(), by: *by });
                    at += len;
                }
            }
            Deed::Hole { zone, offset, len } => self.patch(device, *zone, What::Hole { offset: *offset, len: *len }),
        }
    }

    fn act(&mut self, device: usize, zone: u32, act: Act, units: u32) {
        let same = |lane: &&mut Lane| lane.device == device && lane.zone == zone;
        if let Some(lane) = self.lanes.iter_mut().find(same)
            && let What::Sequence(acts) = &mut lane.what
        {
            acts.push(act);
            lane.length += units;
        } else {
            self.lanes.push(Lane { device, zone, what: What::Sequence(vec![act]), length: units, before: 0, step: self.steps });
        }
    }

    fn patch(&mut self, device: usize, zone: u32, what: What) {
        self.lanes.push(Lane { device, zone, what, length: 1, before: 0, step: self.steps });
    }

    fn flush(&mut self, device: usize) {
        let (unit, capacity) = self.measures(device);
        for lane in self.lanes.iter().filter(|lane| lane.device == device) {
            lane.apply(&mut self.durable[device].zones[lane.zone as usize], lane.length, None, unit, capacity);
        }
        self.lanes.retain(|lane| lane.device != device);
    }

    /// Bytes of a block, and blocks of a zone.
    fn measures(&self, device: usize) -> (usize, u64) {
        let capacity = match &self.durable[device].shape {
            Shape::Drive(config) => config.zone_capacity.0,
            Shape::File(_) => 0,
        };
        (self.durable[device].unit(), capacity)
    }

    /// Visits the states that the last step has made possible; `everything`: those of the steps before it, too.
    pub fn visit(&self, bounds: &Bounds, everything: bool, rng: &mut ChaCha8Rng, mut see: impl FnMut(CrashState)) {
        let full: Vec<u32> = self.lanes.iter().map(|lane| lane.length).collect();
        let is_new = |positions: &[u32]| {
            everything || self.flushed || self.lanes.iter().zip(positions).any(|(lane, position)| *position > lane.before)
        };
        let combinations = full.iter().fold(1u64, |product, length| product.saturating_mul(u64::from(*length) + 1));
        let mut choices = BTreeSet::new();
        let mut add = |positions: Vec<u32>| {
            if is_new(&positions) {
                choices.insert(Choice { positions, torn: None });
            }
        };
        if combinations <= bounds.all {
            odometer(&full, &mut add);
        } else {
            systematic(&full, &mut add);
            for _ in 0..bounds.drawn {
                add(full.iter().map(|length| rng.random_range(0..=*length)).collect());
            }
        }
        let tears = self.tears(&full, rng);
        choices.extend(tears.choose_multiple(rng, bounds.torn).cloned());
        for choice in choices {
            if let Some(media) = self.media(&choice) {
                let digest = media.iter().enumerate().fold(0, |sum: u64, (n, still)| sum.wrapping_add(mixed(n as u64, still.digest())));
                see(CrashState { media, digest, tear: self.name(&choice) });
            }
        }
    }

    /// Ways to tear what the last step wrote, beside all, nothing, or some of the rest.
    fn tears(&self, full: &[u32], rng: &mut ChaCha8Rng) -> Vec<Choice> {
        let mut found = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.length > lane.before) {
            let unit = self.durable[lane.device].unit();
            let parts: Vec<(u32, Part)> = match &lane.what {
                What::Sequence(_) => (lane.before..lane.length)
                    .flat_map(|position| [1, 3, 7].map(|sectors| (position, Part::Head(sectors * SECTOR))))
                    .filter(|(_, part)| matches!(part, Part::Head(bytes) if *bytes < unit))
                    .collect(),
                What::Patch { data, .. } => {
                    let ends = [1, 2, 4, 7].map(|sectors| sectors * SECTOR).into_iter().filter(|bytes| *bytes < data.len());
                    ends.flat_map(|bytes| [(0, Part::Head(bytes)), (0, Part::Tail(bytes))]).collect()
                }
                What::Hole { .. } => Vec::new(),
            };
            for (position, part) in parts {
                let some: Vec<u32> = full.iter().map(|length| rng.random_range(0..=*length)).collect();
                for mut positions in [full.to_vec(), vec![0; full.len()], some] {
                    positions[index] = position;
                    found.push(Choice { positions, torn: Some((index, part)) });
                }
            }
        }
        found
    }

    /// The media of a choice; `None` if a drive could not have come there.
    fn media(&self, choice: &Choice) -> Option<Vec<Still>> {
        let mut media = self.durable.clone();
        for (index, lane) in self.lanes.iter().enumerate() {
            let part = choice.torn.filter(|(torn, _)| *torn == index).map(|(_, part)| part);
            if choice.positions[index] > 0 || part.is_some() {
                let (unit, capacity) = self.measures(lane.device);
                let zone = &mut media[lane.device].zones[lane.zone as usize];
                lane.apply(zone, choice.positions[index], part, unit, capacity);
            }
        }
        media.iter().all(Still::is_possible).then_some(media)
    }

    fn name(&self, choice: &Choice) -> Tear {
        let is_table = |lane: &Lane| matches!(self.durable[lane.device].shape, Shape::File(_)) && lane.zone == 0;
        if let Some((lane, _)) = choice.torn {
            return if is_table(&self.lanes[lane]) { Tear::TableTorn } else { Tear::Sector };
        }
        let partly = self.lanes.iter().zip(&choice.positions);
        let stopped = partly
            .clone()
            .filter(|(lane, position)| **position > 0 && **position < lane.length)
            .find_map(|(lane, position)| lane.stopped(*position, self.durable[lane.device].unit()));
        let lost = partly.clone().filter(|(lane, position)| **position < lane.length);
        // Of one write, one page is there and another one is not.
        let torn = lost.clone().find_map(|(lane, _)| match lane.what {
            What::Patch { by, .. } if partly.clone().any(|(other, position)| other.step == lane.step && *position > 0) => Some(by),
            _ => None,
        });
        let nothing = choice.positions.iter().all(|position| *position == 0);
        let all = lost.clone().next().is_none();
        match stopped {
            _ if all => Tear::Nothing,
            _ if nothing => Tear::AllUnflushed,
            Some(tear) => tear,
            None if torn == Some(By::Copy) => Tear::CopyWithinRange,
            None if torn == Some(By::Host) => Tear::WriteAtBlock,
            None if lost.clone().any(|(lane, position)| lane.loses_reset(*position)) => Tear::Reset,
            None => Tear::SomeUnflushed,
        }
    }
}

impl Lane {
    /// Does to a durable zone what of this lane survives.
    fn apply(&self, zone: &mut Zone, position: u32, part: Option<Part>, unit: usize, capacity: u64) {
        match &self.what {
            What::Hole { offset, len } => Arc::make_mut(&mut zone.bytes).punch(*offset, *len),
            What::Patch { offset, data, .. } => {
                let (from, to) = match part {
                    None => (0, data.len()),
                    Some(Part::Head(bytes)) => (0, bytes.min(data.len())),
                    Some(Part::Tail(bytes)) => (data.len().saturating_sub(bytes), data.len()),
                };
                Arc::make_mut(&mut zone.bytes).write(offset + from, &data[from..to]);
            }
            What::Sequence(acts) => sequence(acts, zone, position, part, unit, capacity),
        }
    }

    /// What is torn when the lane ends here, within it.
    fn stopped(&self, position: u32, unit: usize) -> Option<Tear> {
        let What::Sequence(acts) = &self.what else { return None };
        let mut left = position as usize;
        for (index, act) in acts.iter().enumerate() {
            let units = act.units(unit);
            if left < units {
                let copy = |act: Option<&Act>| matches!(act, Some(Act::Write { by: By::Copy, .. }));
                return match act {
                    Act::Write { by: By::Copy, .. } if left > 0 => Some(Tear::CopyWithinRange),
                    Act::Write { by: By::Host, .. } if left > 0 => Some(Tear::WriteAtBlock),
                    _ if index > 0 && copy(acts.get(index - 1)) && copy(Some(act)) => Some(Tear::CopyBehindRange),
                    Act::Reset => Some(Tear::Reset),
                    _ => None,
                };
            }
            left -= units;
        }
        None
    }

    fn loses_reset(&self, position: u32) -> bool {
        match &self.what {
            What::Hole { .. } => position == 0,
            What::Sequence(acts) => position == 0 && matches!(acts.first(), Some(Act::Reset)),
            What::Patch { .. } => false,
        }
    }
}

impl Act {
    fn units(&self, unit: usize) -> usize {
        match self {
            Self::Write { data, .. } => data.len() / unit,
            Self::Reset | Self::Finish => 1,
        }
    }
}

/// Does to a zone the first `position` units of what was done to it, and a part of the block behind them.
fn sequence(acts: &[Act], zone: &mut Zone, position: u32, part: Option<Part>, unit: usize, capacity: u64) {
    let mut left = position as usize;
    for act in acts {
        match act {
            Act::Write { offset, data, .. } => {
                let blocks = left.min(data.len() / unit);
                left -= blocks;
                let mut bytes = blocks * unit;
                if let (true, Some(Part::Head(torn))) = (left == 0 && bytes < data.len(), part) {
                    // The write pointer has passed the torn block; the rest of it reads as what is behind a write pointer.
                    bytes += torn.min(data.len() - bytes);
                }
                if bytes > 0 {
                    Arc::make_mut(&mut zone.bytes).write(*offset, &data[..bytes]);
                    zone.written = (*offset + bytes).div_ceil(unit) as u64;
                    zone.state = if zone.written == capacity { ZoneState::Full } else { ZoneState::Closed };
                }
                if bytes < data.len() {
                    return;
                }
            }
            _ if left == 0 => return,
            Act::Reset => {
                *zone = Zone { state: ZoneState::Empty, written: 0, bytes: Arc::default() };
                left -= 1;
            }
            Act::Finish => {
                (zone.state, zone.written) = (ZoneState::Full, capacity);
                left -= 1;
            }
        }
    }
}

/// All combinations.
fn odometer(full: &[u32], add: &mut impl FnMut(Vec<u32>)) {
    let mut positions = vec![0; full.len()];
    loop {
        add(positions.clone());
        let Some(lane) = (0..full.len()).find(|lane| positions[*lane] < full[*lane]) else { return };
        positions[lane] += 1;
        positions[..lane].fill(0);
    }
}

/// The combinations that are most likely to matter, where there are too many: all, none, what was begun first or last, one lane alone, all but one.
fn systematic(full: &[u32], add: &mut impl FnMut(Vec<u32>)) {
    let none = vec![0; full.len()];
    add(full.to_vec());
    add(none.clone());
    for lane in 0..full.len() {
        add([&full[..lane], &none[lane..]].concat());
        add([&none[..lane], &full[lane..]].concat());
        for position in edges(full[lane]) {
            for rest in [full, &none] {
                let mut positions = rest.to_vec();
                positions[lane] = position;
                add(positions);
            }
        }
    }
}

/// All positions of a short lane; of a long one those near its ends and its middle.
fn edges(length: u32) -> BTreeSet<u32> {
    if length <= 8 { (0..=length).collect() } else { [0, 1, 2, length / 2, length - 2, length - 1, length].into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{AlignedBuf, BufSlice};
    use crate::device::{IoClass, ZonedDevice};
    use crate::native_copy::CopySource;
    use crate::sim::{Lie, SimConfig, SimDrive, SimMedium, Survival, Tape};
    use crate::units::{Blocks, Lba, ZoneId};
    use crate::zone::ZoneAction;
    use rand::SeedableRng;
    use std::collections::HashSet;

    const ALL: Bounds = Bounds { all: u64::MAX, drawn: 0, torn: 10_000 };

    fn write(device: &dyn ZonedDevice, lba: u64, bytes: usize, fill: u8) {
        let data = BufSlice::whole(AlignedBuf::from_slice(&vec![fill; bytes]));
        device.write(Lba(lba), vec![data], IoClass::Foreground).expect("written");
    }

    /// Some work on zones of 8 blocks of `block` bytes; copies, where the drive can, and resets.
    fn work(drive: &SimDrive, block: usize) {
        let device = drive.open();
        let sequential = !drive.geometry().software_zones;
        if !sequential {
            let reports = device.report(0..4).expect("reported");
            let empty: Vec<_> = reports.into_iter().map(|r| crate::ZoneInfo { state: ZoneState::Empty, written: Blocks(0), ..r }).collect();
            device.adopt(&empty).expect("adopted");
        }
        write(&*device, 0, 3 * block, 1);
        device.flush().expect("flushed");
        write(&*device, 3, 2 * block, 2);
        write(&*device, 8, block, 3);
        if sequential {
            device.manage(ZoneId(0), ZoneAction::Reset).expect("reset");
            write(&*device, 0, block, 4);
            let sources = [CopySource { lba: Lba(8), blocks: Blocks(1) }, CopySource { lba: Lba(0), blocks: Blocks(1) }];
            device.native_copy().expect("there").copy(&sources, Lba(16)).expect("copied");
            device.manage(ZoneId(1), ZoneAction::Finish).expect("finished");
        }
        write(&*device, 24, 2 * block, 5);
    }

    fn config(conventional: bool, tear_blocks: bool) -> SimConfig {
        let base = if conventional { SimConfig::conventional(4, 1) } else { SimConfig::zoned(4, 1) };
        SimConfig { block_size: 4096, zone_size: Blocks(8), zone_capacity: Blocks(8), tear_blocks, ..base }
    }

    /// Whatever the drive itself comes to by chance is among the states that are enumerated.
    #[test]
    fn enumeration_has_all_that_chance_finds() {
        for conventional in [false, true] {
            let drive = SimDrive::new(config(conventional, false));
            let medium = SimMedium::Drive(drive.clone());
            let tape = Tape::new(Lie::None);
            let mut states = CrashStates::new(vec![medium.still()]);
            medium.record(&tape, 0);
            work(&drive, 4096);
            let mut found = HashSet::new();
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            for step in tape.steps() {
                states.step(&step);
                states.visit(&ALL, false, &mut rng, |state| {
                    found.insert(state.digest);
                });
            }
            let mut met = HashSet::new();
            for seed in 0..2000 {
                let fork = drive.fork();
                fork.reseed(seed);
                fork.power_cycle_with(Survival::Random);
                let still = SimMedium::Drive(fork).still();
                let digest = mixed(0, still.digest());
                met.insert(digest);
                assert!(found.contains(&digest), "seed {seed}, conventional {conventional}");
            }
            assert!(met.len() > if conventional { 20 } else { 60 } && found.len() >= met.len(), "{} of {}", met.len(), found.len());
        }
    }

    #[test]
    fn states_are_told_apart_by_what_can_be_read() {
        let one = SimDrive::new(config(false, false));
        let other = SimDrive::new(config(false, false));
        let digest = |drive: &SimDrive| SimMedium::Drive(drive.clone()).still().digest();
        assert_eq!(digest(&one), digest(&other));
        write(&*one.open(), 0, 8192, 1);
        assert_ne!(digest(&one), digest(&other));
        write(&*other.open(), 0, 4096, 1);
        assert_ne!(digest(&one), digest(&other));
        write(&*other.open(), 1, 4096, 1);
        assert_eq!(digest(&one), digest(&other));
        one.open().manage(ZoneId(1), ZoneAction::Finish).expect("finished");
        assert_ne!(digest(&one), digest(&other), "a write pointer counts");
    }

    #[test]
    fn what_was_flushed_is_in_every_state_unless_the_tape_lies() {
        for (lie, always) in [(Lie::None, true), (Lie::FlushesDropped, false), (Lie::WritesAcknowledgedEarly, false)] {
            let drive = SimDrive::new(config(false, false));
            let medium = SimMedium::Drive(drive.clone());
            let tape = Tape::new(lie);
            let mut states = CrashStates::new(vec![medium.still()]);
            medium.record(&tape, 0);
            write(&*drive.open(), 0, 4096, 7);
            drive.open().flush().expect("flushed");
            write(&*drive.open(), 1, 4096, 8);
            let mut lost = 0;
            for step in tape.steps() {
                states.step(&step);
            }
            states.visit(&ALL, true, &mut ChaCha8Rng::seed_from_u64(1), |state| lost += u32::from(state.media[0].zones[0].written == 0));
            assert_eq!(lost == 0, always, "{lie:?}");
        }
    }
}
