//! The image against a naive model, with random operations: states, pointers, limits, contents, also over reopening.

use super::*;
use crate::NvmeStatus as Status;
use crate::native_copy::{CopyLimits, CopySource};
use proptest::prelude::*;

const ZONES: usize = 64;
/// Zones that the operations use: more than may be active.
const USED: u32 = 9;
const SIZE: u64 = 2048;
const CAPACITY: u64 = 1536;
const LIMITS: CopyLimits = CopyLimits { mssrl: 600, mcl: 1000, ranges: 3 };
const MAX_OPEN: usize = 3;
const MAX_ACTIVE: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    /// Write blocks at the write pointer plus something that is mostly nothing.
    Write(u32, u64, u64, u8),
    Read(u32, u64, u64),
    Manage(u32, ZoneAction),
    /// Sources (zone, block, blocks), target zone.
    Copy(Vec<(u32, u64, u64)>, u32),
    Flush,
    Reopen,
    Retire(u32, ZoneState),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let zone = 0..USED;
    let action = prop_oneof![Just(ZoneAction::Open), Just(ZoneAction::Close), Just(ZoneAction::Finish), Just(ZoneAction::Reset)];
    let blocks = prop_oneof![1..40_u64, 300..900_u64];
    let range = (zone.clone(), 0..SIZE, 1..650_u64);
    let step = prop_oneof![
        8 => (zone.clone(), prop_oneof![9 => Just(0), 1 => 1..3_u64], blocks, any::<u8>()).prop_map(|(z, o, b, s)| Step::Write(z, o, b, s)),
        4 => (zone.clone(), 0..SIZE, 1..700_u64).prop_map(|(z, at, blocks)| Step::Read(z, at, blocks)),
        5 => (zone.clone(), action).prop_map(|(z, action)| Step::Manage(z, action)),
        5 => (prop::collection::vec(range, 1..5), zone.clone()).prop_map(|(sources, target)| Step::Copy(sources, target)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => (zone, prop_oneof![9 => Just(ZoneState::Empty), 1 => Just(ZoneState::ReadOnly), 1 => Just(ZoneState::Offline)]).prop_map(|(z, s)| Step::Retire(z, s)),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Clone)]
struct Zone {
    state: ZoneState,
    /// One byte per block that was written: its blocks are full of it.
    content: Vec<u8>,
}

/// What the drive should be. Open zones in the order in which they were implicitly opened.
struct Model {
    zones: Vec<Zone>,
    implicit: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        Self { zones: vec![Zone { state: ZoneState::Empty, content: Vec::new() }; ZONES], implicit: Vec::new() }
    }

    fn set(&mut self, zone: usize, state: ZoneState) {
        self.implicit.retain(|&other| other != zone);
        if state == ZoneState::ImplicitOpen {
            self.implicit.push(zone);
        }
        self.zones[zone].state = state;
    }

    fn make_room(&mut self, zone: usize) -> std::result::Result<(), Status> {
        let count = |wanted: fn(ZoneState) -> bool| self.zones.iter().filter(|zone| wanted(zone.state)).count();
        if !self.zones[zone].state.is_active() && count(ZoneState::is_active) >= MAX_ACTIVE {
            return Err(Status::TOO_MANY_ACTIVE);
        }
        if !self.zones[zone].state.is_open() && count(ZoneState::is_open) >= MAX_OPEN {
            let Some(&victim) = self.implicit.first() else { return Err(Status::TOO_MANY_OPEN) };
            self.set(victim, ZoneState::Closed);
        }
        Ok(())
    }

    fn accepts(&self, zone: usize) -> std::result::Result<(), Status> {
        match self.zones[zone].state {
            ZoneState::Full => Err(Status::ZONE_FULL),
            ZoneState::ReadOnly => Err(Status::ZONE_READ_ONLY),
            ZoneState::Offline => Err(Status::ZONE_OFFLINE),
            _ => Ok(()),
        }
    }

    fn open(&mut self, zone: usize) -> std::result::Result<(), Status> {
        self.accepts(zone)?;
        self.make_room(zone)?;
        if !self.zones[zone].state.is_open() {
            self.set(zone, ZoneState::ImplicitOpen);
        }
        Ok(())
    }

    /// Appends if everything is right, `ahead` blocks above the write pointer.
    fn append(&mut self, zone: usize, ahead: u64, blocks: &[u8]) -> std::result::Result<(), Status> {
        self.accepts(zone)?;
        if ahead != 0 {
            return Err(Status::ZONE_INVALID_WRITE);
        }
        if (self.zones[zone].content.len() + blocks.len()) as u64 > CAPACITY {
            return Err(Status::ZONE_BOUNDARY);
        }
        self.open(zone)?;
        self.zones[zone].content.extend_from_slice(blocks);
        if self.zones[zone].content.len() as u64 == CAPACITY {
            self.set(zone, ZoneState::Full);
        }
        Ok(())
    }

    fn read(&self, zone: usize, at: u64, blocks: u64) -> std::result::Result<Vec<u8>, Status> {
        if at + blocks > SIZE {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        if self.zones[zone].state == ZoneState::Offline {
            return Err(Status::ZONE_OFFLINE);
        }
        Ok((at..at + blocks).map(|at| self.zones[zone].content.get(at as usize).copied().unwrap_or(0)).collect())
    }

    fn manage(&mut self, zone: usize, action: ZoneAction) -> std::result::Result<(), Status> {
        use ZoneState::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen, Offline, ReadOnly};
        let new = match (action, self.zones[zone].state) {
            (_, ReadOnly | Offline) | (ZoneAction::Open | ZoneAction::Close, Full) | (ZoneAction::Close, Empty) => {
                return Err(Status::INVALID_TRANSITION);
            }
            (ZoneAction::Open, state) => {
                if matches!(state, Empty | Closed) {
                    self.make_room(zone)?;
                }
                ExplicitOpen
            }
            (ZoneAction::Close, ImplicitOpen | ExplicitOpen | Closed) => Closed,
            (ZoneAction::Finish, _) => Full,
            (ZoneAction::Reset, _) => Empty,
        };
        if new == Empty {
            self.zones[zone].content.clear();
        }
        self.set(zone, new);
        Ok(())
    }

    fn copy(&mut self, sources: &[(u32, u64, u64)], target: usize, at: u64) -> std::result::Result<(), (Status, u32)> {
        let total: u64 = sources.iter().map(|source| source.2).sum();
        if sources.len() > LIMITS.ranges as usize || total > u64::from(LIMITS.mcl) {
            return Err((Status::SIZE_LIMIT, 0));
        }
        self.open(target).map_err(|status| (status, 0))?;
        let mut ahead = at - self.zones[target].content.len() as u64;
        for (index, &(zone, from, blocks)) in sources.iter().enumerate() {
            let fail = |status| (status, index as u32);
            if blocks > u64::from(LIMITS.mssrl) {
                return Err(fail(Status::SIZE_LIMIT));
            }
            let read = self.read(zone as usize, from, blocks);
            let payload = read.map_err(|status| fail(if status == Status::LBA_OUT_OF_RANGE { Status::ZONE_BOUNDARY } else { status }))?;
            self.append(target, ahead, &payload).map_err(fail)?;
            ahead = 0;
        }
        Ok(())
    }

    fn power_cycle(&mut self) {
        for zone in 0..ZONES {
            if self.zones[zone].state.is_active() {
                self.set(zone, if self.zones[zone].content.is_empty() { ZoneState::Empty } else { ZoneState::Closed });
            }
        }
    }
}

/// The status behind an error of the image.
fn refusal(error: &DeviceError) -> Status {
    match error {
        DeviceError::Zone { status, .. } => *status,
        DeviceError::NotAtWritePointer { .. } => Status::ZONE_INVALID_WRITE,
        DeviceError::BadRange { .. } => Status::LBA_OUT_OF_RANGE,
        other => panic!("{other}"),
    }
}

fn blocks_of(content: &[u8]) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(content.len() * 512);
    buf.chunks_mut(512).zip(content).for_each(|(block, &byte)| block.fill(byte));
    buf
}

fn compare(image: &ImageDevice, model: &Model) {
    image.machine.self_check();
    for (zone, info) in model.zones.iter().zip(image.report(0..ZONES as u32).unwrap()) {
        let written = if zone.state == ZoneState::Full { CAPACITY } else { zone.content.len() as u64 };
        assert_eq!((info.state, info.written.0), (zone.state, written), "{:?}", info.id);
    }
}

fn options() -> ImageOptions {
    ImageOptions { max_open: MAX_OPEN as u32, max_active: MAX_ACTIVE as u32, copy: Some(LIMITS), overwrite: true, ..small(512) }
}

fn step(image: &ImageDevice, model: &mut Model, step: &Step) {
    match step {
        Step::Write(zone, ahead, blocks, seed) => {
            let written = model.zones[*zone as usize].content.len() as u64;
            let content: Vec<u8> = (0..*blocks).map(|at| 1 | seed.wrapping_add(at as u8)).collect();
            let result = write(image, u64::from(*zone) * SIZE + written + ahead, &BufSlice::whole(blocks_of(&content)));
            // A write that starts behind the end of its zone belongs to the next.
            if written + ahead < SIZE {
                assert_eq!(result.map_err(|error| refusal(&error)), model.append(*zone as usize, *ahead, &content));
            }
        }
        Step::Read(zone, at, blocks) => {
            let result = read(image, u64::from(*zone) * SIZE + at, *blocks as usize * 512).map_err(|error| refusal(&error));
            let expected = model.read(*zone as usize, *at, *blocks).map(|content| blocks_of(&content));
            assert!(result.map(|buf| buf.to_vec()) == expected.map(|buf| buf.to_vec()), "contents differ");
        }
        Step::Manage(zone, action) => {
            let result = image.manage(ZoneId(*zone), *action).map_err(|error| refusal(&error));
            assert_eq!(result, model.manage(*zone as usize, *action), "{action:?}");
        }
        Step::Copy(sources, target) => {
            let at = model.zones[*target as usize].content.len() as u64;
            let ranges: Vec<CopySource> = sources
                .iter()
                .map(|&(zone, from, blocks)| CopySource { lba: Lba(u64::from(zone) * SIZE + from), blocks: Blocks(blocks) })
                .collect();
            let result = image.copy(&ranges, Lba(u64::from(*target) * SIZE + at));
            let result = result.map_err(|failure| (failure.status, failure.first_failed));
            assert_eq!(result, model.copy(sources, *target as usize, at));
        }
        Step::Flush => image.flush().unwrap(),
        Step::Retire(zone, state) => {
            if image.retire(ZoneId(*zone), *state).is_ok() {
                model.set(*zone as usize, *state);
            }
        }
        Step::Reopen => unreachable!("the caller reopens"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_image_agrees_with_the_model(steps in steps(), in_kernel in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut image = ImageDevice::create(&path, &options()).unwrap();
        let mut model = Model::new();
        for next in &steps {
            if !in_kernel {
                image.backing.pretend_no_copies();
            }
            if matches!(next, Step::Reopen) {
                drop(image);
                image = ImageDevice::open(&path, false).unwrap();
                prop_assert!(image.repairs().is_empty());
                model.power_cycle();
            } else {
                step(&image, &mut model, next);
            }
            compare(&image, &model);
        }
        for zone in 0..USED {
            step(&image, &mut model, &Step::Read(zone, 0, SIZE));
        }
    }
}
