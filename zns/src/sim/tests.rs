//! The simulator against a naive model, and each fault by itself.

use super::*;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::{Io, IoClass, ZonedDevice};
use crate::native_copy::CopySource;
use crate::units::{Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneState};
use proptest::prelude::*;
use std::sync::Arc;

const CLASS: IoClass = IoClass::Foreground;

fn payload(device: &SimDevice, blocks: u64, tag: u8) -> Vec<BufSlice> {
    let block = device.geometry().block_size as usize;
    let bytes: Vec<u8> = (0..blocks as usize * block).map(|i| tag.wrapping_add((i / 512) as u8) | 1).collect();
    vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))]
}

fn write(device: &SimDevice, lba: u64, blocks: u64, tag: u8) -> crate::error::Result<()> {
    device.write(Lba(lba), payload(device, blocks, tag), CLASS)
}

fn read(device: &SimDevice, lba: u64, blocks: u64) -> crate::error::Result<Vec<u8>> {
    let buf = AlignedBuf::zeroed((blocks * u64::from(device.geometry().block_size)) as usize);
    device.read(Lba(lba), buf, CLASS).map(|buf| buf.to_vec())
}

fn bytes(slices: &[BufSlice]) -> Vec<u8> {
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

#[test]
fn writes_are_read_back_and_unwritten_blocks_are_zero() {
    let drive = SimDrive::new(SimConfig::zoned(24, 1));
    let device = drive.open();
    write(&device, 256, 3, 7).unwrap();
    let mut expected = bytes(&payload(&device, 3, 7));
    expected.extend(vec![0; 4096]);
    assert!(read(&device, 256, 4).unwrap() == expected);
    assert_eq!(drive.zone(ZoneId(1)).written, Blocks(3));
    assert!(drive.violations().is_empty());
}

#[test]
fn the_rules_of_zones_are_enforced() {
    let config = SimConfig { zone_capacity: Blocks(200), max_open: 2, max_active: 3, ..SimConfig::zoned(24, 1) };
    let drive = SimDrive::new(config);
    let device = drive.open();
    assert!(matches!(write(&device, 1, 1, 0), Err(DeviceError::NotAtWritePointer { write_pointer: Lba(0), .. })));
    assert!(matches!(write(&device, 0, 201, 0), Err(DeviceError::Zone { status: NvmeStatus::ZONE_BOUNDARY, .. })));
    write(&device, 0, 200, 0).unwrap();
    assert_eq!(drive.zone(ZoneId(0)).state, ZoneState::Full);
    assert!(matches!(write(&device, 200, 1, 0), Err(DeviceError::Zone { status: NvmeStatus::ZONE_FULL, .. })));
    for zone in 1..4 {
        write(&device, zone * 256, 1, 0).unwrap();
    }
    assert_eq!(drive.zone(ZoneId(1)).state, ZoneState::Closed, "the drive closed it to open the third");
    assert!(matches!(write(&device, 4 * 256, 1, 0), Err(DeviceError::Zone { status: NvmeStatus::TOO_MANY_ACTIVE, .. })));
    device.manage(ZoneId(2), ZoneAction::Finish).unwrap();
    write(&device, 4 * 256, 1, 0).unwrap();
    device.manage(ZoneId(1), ZoneAction::Open).unwrap();
    device.manage(ZoneId(3), ZoneAction::Open).unwrap();
    assert!(matches!(write(&device, 4 * 256 + 1, 1, 0), Err(DeviceError::Zone { status: NvmeStatus::TOO_MANY_OPEN, .. })));
    assert!(matches!(read(&device, 255, 2), Err(DeviceError::BadRange { .. })));
    assert!(matches!(read(&device, u64::MAX, 1), Err(DeviceError::BadRange { .. })));
    assert!(matches!(device.report(0..25), Err(DeviceError::BadRange { .. })));
    assert!(matches!(device.manage(ZoneId(24), ZoneAction::Reset), Err(DeviceError::BadRange { .. })));
    assert_eq!(drive.violations().len(), 9);
}

#[test]
fn two_writes_in_flight_in_one_zone_are_a_breach() {
    let drive = SimDrive::new(SimConfig::zoned(24, 1));
    let device = drive.open();
    let io = |lba| Io::Write { lba: Lba(lba), data: payload(&device, 1, 0) };
    let first = device.submit(vec![io(0), io(256)], CLASS).unwrap();
    device.complete(first);
    assert!(drive.violations().is_empty());
    let second = device.submit(vec![io(1), io(2)], CLASS).unwrap();
    assert!(device.complete(second).iter().all(Result::is_ok));
    assert!(matches!(drive.violations()[..], [Violation { breach: Breach::TwoWritersInFlight(ZoneId(0)), .. }]));
}

#[test]
fn copy_gathers_and_keeps_its_limits() {
    let drive = SimDrive::new(SimConfig { copy: Some(CopyLimits { mssrl: 4, mcl: 6, ranges: 2 }), ..SimConfig::zoned(24, 1) });
    let device = drive.open();
    write(&device, 0, 16, 3).unwrap();
    let copy = device.native_copy().unwrap();
    let source = |lba, blocks| CopySource { lba: Lba(lba), blocks: Blocks(blocks) };
    copy.copy(&[source(8, 2), source(1, 4)], Lba(512)).unwrap();
    let all = drive.peek(Lba(0), Blocks(16));
    assert!(drive.peek(Lba(512), Blocks(6)) == [&all[8 * 4096..10 * 4096], &all[4096..5 * 4096]].concat());
    let refused = |sources: &[CopySource], target| copy.copy(sources, Lba(target)).unwrap_err().status;
    assert_eq!(refused(&[source(0, 5)], 518), NvmeStatus::SIZE_LIMIT);
    assert_eq!(refused(&[source(0, 4), source(4, 4)], 518), NvmeStatus::SIZE_LIMIT);
    assert_eq!(refused(&[source(0, 1), source(1, 1), source(2, 1)], 518), NvmeStatus::SIZE_LIMIT);
    assert_eq!(refused(&[source(254, 4)], 518), NvmeStatus::ZONE_BOUNDARY);
    assert_eq!(refused(&[source(0, 1)], 517), NvmeStatus::ZONE_INVALID_WRITE);
    assert_eq!(refused(&[source(24 * 256, 1)], 518), NvmeStatus::LBA_OUT_OF_RANGE);
    assert_eq!(drive.zone(ZoneId(2)).written, Blocks(6), "a refused copy writes nothing");
    let stats = drive.stats();
    assert_eq!((stats.copies, stats.copy_ranges, stats.bytes_copied), (7, 2, 6 * 4096));
}

#[test]
fn each_fault_strikes_once_where_it_was_planned() {
    let drive = SimDrive::new(SimConfig::zoned(24, 5));
    let device = drive.open();
    write(&device, 0, 8, 1).unwrap();
    for fault in [Fault::WriteError, Fault::ReadError, Fault::FlushFailure, Fault::ResetFailure] {
        drive.fail_at(0, fault);
    }
    assert!(matches!(write(&device, 256, 8, 1), Err(DeviceError::Io { .. })));
    assert!(drive.zone(ZoneId(1)).written <= Blocks(8));
    assert!(read(&device, 0, 1).is_err());
    assert!(read(&device, 0, 1).is_ok());
    assert!(device.flush().is_err());
    assert!(device.flush().is_ok());
    assert!(device.manage(ZoneId(1), ZoneAction::Reset).is_err());
    assert!(device.manage(ZoneId(1), ZoneAction::Reset).is_ok());

    let copy = device.native_copy().unwrap();
    let sources = [CopySource { lba: Lba(0), blocks: Blocks(4) }, CopySource { lba: Lba(4), blocks: Blocks(4) }];
    drive.fail_at(0, Fault::CopyRefused(NvmeStatus::INVALID_OPCODE));
    assert_eq!(copy.copy(&sources, Lba(512)).unwrap_err().status, NvmeStatus::INVALID_OPCODE);
    assert_eq!(drive.zone(ZoneId(2)).written, Blocks(0));
    drive.fail_at(drive.ops() + 1, Fault::CopyPartial);
    let failure = copy.copy(&sources, Lba(512)).unwrap_err();
    assert_eq!(failure.first_failed, 1);
    assert!((4..=8).contains(&drive.zone(ZoneId(2)).written.0));
    drive.fail_at(0, Fault::CopyWrong);
    copy.copy(&sources, Lba(768)).unwrap();
    assert!(drive.peek(Lba(768), Blocks(8)) != drive.peek(Lba(0), Blocks(8)));

    drive.fail_at(0, Fault::ZoneReadOnly(ZoneId(0)));
    assert!(matches!(write(&device, 8, 1, 0), Err(DeviceError::Zone { status: NvmeStatus::ZONE_READ_ONLY, .. })));
    assert!(read(&device, 0, 1).is_ok());
    drive.wear_out(ZoneId(0), ZoneState::Offline);
    assert!(matches!(read(&device, 0, 1), Err(DeviceError::Zone { status: NvmeStatus::ZONE_OFFLINE, .. })));
    assert!(device.manage(ZoneId(0), ZoneAction::Reset).is_err());
    drive.power_cycle();
    assert_eq!(drive.zone(ZoneId(0)).state, ZoneState::Offline);
    assert!(drive.violations().is_empty(), "{:?}", drive.violations());
}

#[test]
fn damage_to_the_media_stays() {
    let drive = SimDrive::new(SimConfig::zoned(24, 5));
    let device = drive.open();
    write(&device, 0, 8, 1).unwrap();
    device.flush().unwrap();
    drive.flip_bit(Lba(3), 17, 2);
    drive.add_bad_block(Lba(5));
    drive.power_cycle();
    let mut expected = bytes(&payload(&device, 8, 1));
    expected[3 * 4096 + 17] ^= 4;
    assert!(read(&device, 0, 5).unwrap() == expected[..5 * 4096]);
    assert!(read(&device, 4, 2).is_err());
    let copy = device.native_copy().unwrap();
    let failure = copy.copy(&[CopySource { lba: Lba(5), blocks: Blocks(1) }], Lba(256)).unwrap_err();
    assert_eq!((failure.status, failure.first_failed), (NvmeStatus::READ_ERROR, 0));
    let before = drive.peek(Lba(0), Blocks(8));
    drive.fail_at(0, Fault::MisdirectedWrite);
    write(&device, 8, 1, 0x40).unwrap();
    let after = drive.peek(Lba(0), Blocks(9));
    assert!(after[..8 * 4096] != before && after[8 * 4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn without_power_nothing_works_and_forks_go_their_own_way() {
    let drive = SimDrive::new(SimConfig::zoned(24, 9));
    let device = drive.open();
    write(&device, 0, 4, 1).unwrap();
    device.flush().unwrap();
    write(&device, 4, 60, 1).unwrap();
    drive.cut_power_at(drive.ops());
    assert!(matches!(device.flush(), Err(DeviceError::PowerLost)));
    assert!(matches!(read(&device, 0, 1), Err(DeviceError::PowerLost)));
    assert!(matches!(device.report(0..1), Err(DeviceError::PowerLost)));
    assert!(matches!(device.manage(ZoneId(0), ZoneAction::Reset), Err(DeviceError::PowerLost)));
    let ends: std::collections::BTreeSet<u64> = (0..40)
        .map(|seed| {
            let fork = drive.fork();
            fork.reseed(seed);
            fork.power_cycle();
            assert!(fork.peek(Lba(0), Blocks(4)) == bytes(&payload(&device, 4, 1)));
            fork.zone(ZoneId(0)).written.0
        })
        .collect();
    assert!(ends.len() > 5 && ends.iter().all(|end| (4..=64).contains(end)), "{ends:?}");
    assert!(!drive.powered());
    drive.power_cycle();
    assert!(read(&device, 0, 4).is_ok());
    assert_eq!(drive.zone(ZoneId(0)).state, ZoneState::Closed);
}

#[test]
fn a_failed_flush_can_make_all_later_ones_worthless() {
    for lasts in [false, true] {
        let drive = SimDrive::new(SimConfig::zoned(24, 9));
        drive.set_faults(FaultPlan { flush_failure_lasts: lasts, at: vec![(0, Fault::FlushFailure)], ..FaultPlan::default() });
        let device = drive.open();
        write(&device, 0, 4, 1).unwrap();
        assert!(device.flush().is_err());
        device.flush().unwrap();
        drive.power_cycle_with(Survival::LoseAll);
        assert_eq!(drive.zone(ZoneId(0)).written, Blocks(if lasts { 0 } else { 4 }));
        write(&device, 256, 4, 1).unwrap();
        device.flush().unwrap();
        drive.power_cycle_with(Survival::LoseAll);
        assert_eq!(drive.zone(ZoneId(1)).written, Blocks(4));
    }
}

#[test]
fn a_torn_block_and_a_surprising_write_pointer_lie_behind_garbage() {
    let mut torn = 0;
    let mut surprised = 0;
    for seed in 0..200 {
        let mut config = SimConfig { tear_blocks: true, ..SimConfig::zoned(24, seed) };
        config.faults.write_pointer_surprise = 0.5;
        let drive = SimDrive::new(config);
        let device = drive.open();
        write(&device, 0, 4, 1).unwrap();
        drive.power_cycle();
        let written = drive.zone(ZoneId(0)).written.0;
        let content = drive.peek(Lba(0), Blocks(written.min(4)));
        let whole = bytes(&payload(&device, 4, 1));
        let same = content.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        torn += u32::from(same % 4096 != 0);
        surprised += u32::from(written > 4);
        assert!(same % 512 == 0 || written > 0);
        assert!(drive.peek(Lba(written), Blocks(256 - written)).iter().all(|byte| *byte == 0), "zeros from the write pointer on");
    }
    assert!(torn > 10 && surprised > 10, "{torn} {surprised}");
}

#[test]
fn a_plain_disk_is_full_until_its_pointers_are_adopted_and_then_enforces_them() {
    let drive = SimDrive::new(SimConfig::conventional(24, 3));
    let device = drive.open();
    assert!(device.report(0..24).unwrap().iter().all(|zone| zone.state == ZoneState::Full && zone.written == zone.capacity));
    assert!(matches!(write(&device, 0, 1, 1), Err(DeviceError::Zone { status: NvmeStatus::ZONE_FULL, .. })));
    device.manage(ZoneId(0), ZoneAction::Reset).unwrap();
    write(&device, 0, 8, 1).unwrap();
    device.flush().unwrap();
    assert!(matches!(write(&device, 0, 8, 2), Err(DeviceError::NotAtWritePointer { .. })));
    drive.power_cycle();
    let mut zone = device.report(0..1).unwrap()[0];
    assert_eq!(zone.state, ZoneState::Full);
    assert!(read(&device, 0, 8).unwrap() == bytes(&payload(&device, 8, 1)), "reads need no pointer");
    (zone.state, zone.written) = (ZoneState::Closed, Blocks(8));
    device.adopt(&[zone]).unwrap();
    write(&device, 8, 2, 2).unwrap();
    assert_eq!(drive.zone(ZoneId(0)).written, Blocks(10));
    device.manage(ZoneId(0), ZoneAction::Reset).unwrap();
    assert!(read(&device, 0, 8).unwrap() == bytes(&payload(&device, 8, 1)), "a reset does not erase a plain disk");
    zone.written = Blocks(5000);
    assert!(matches!(device.adopt(&[zone]), Err(DeviceError::BadRange { .. })));
    assert_eq!(drive.violations().len(), 2);
}

#[test]
fn large_drives_stay_small() {
    let config = SimConfig { zones: 100_000, zone_size: Blocks(65536), zone_capacity: Blocks(65536), ..SimConfig::zoned(24, 1) };
    let drive = SimDrive::new(config);
    let device = drive.open();
    write(&device, 99_999 * 65536, 4, 1).unwrap();
    device.flush().unwrap();
    drive.fork().power_cycle();
    assert_eq!(device.report(99_999..100_000).unwrap()[0].written, Blocks(4));
}

// ---- against the model ----------------------------------------------------------------------------------------------

const ZONES: u32 = 5;
const CAPACITY: u64 = 8;
const SIZE: u64 = 10;

#[derive(Clone, Debug)]
enum Step {
    Write { zone: u32, blocks: u64, tag: u8, off: u64 },
    Copy { from: u32, offset: u64, blocks: u64, zone: u32, more: bool },
    Manage { zone: u32, action: ZoneAction },
    Flush,
    Crash { survival: Survival, seed: u64 },
    CutSoon { after: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let zone = 0..ZONES;
    prop_oneof![
        6 => (zone.clone(), 1..5u64, any::<u8>(), prop_oneof![9 => Just(0u64), 1 => 1..3u64])
            .prop_map(|(zone, blocks, tag, off)| Step::Write { zone, blocks, tag, off }),
        3 => (zone.clone(), 0..CAPACITY, 1..4u64, zone.clone(), any::<bool>())
            .prop_map(|(from, offset, blocks, zone, more)| Step::Copy { from, offset, blocks, zone, more }),
        3 => (zone, prop_oneof![
            3 => Just(ZoneAction::Reset), 1 => Just(ZoneAction::Finish), 1 => Just(ZoneAction::Open), 1 => Just(ZoneAction::Close)
        ]).prop_map(|(zone, action)| Step::Manage { zone, action }),
        2 => Just(Step::Flush),
        1 => (prop_oneof![2 => Just(Survival::Random), 1 => Just(Survival::KeepAll), 1 => Just(Survival::LoseAll)], any::<u64>())
            .prop_map(|(survival, seed)| Step::Crash { survival, seed }),
        1 => (0..4u64).prop_map(|after| Step::CutSoon { after }),
    ]
}

/// One zone at one moment: its content up to the write pointer.
type Moment = Vec<Vec<u8>>;

/// The naive model: for each zone every moment since the last flush. A crash may go back to any of them, per zone.
struct Model {
    moments: Vec<Vec<Moment>>,
    block: usize,
}

impl Model {
    fn now(&self, zone: u32) -> &Moment {
        self.moments[zone as usize].last().expect("there is always one moment")
    }
    fn then(&mut self, zone: u32, change: impl FnOnce(&mut Moment)) {
        let mut next = self.now(zone).clone();
        change(&mut next);
        self.moments[zone as usize].push(next);
    }
    fn forget_history(&mut self) {
        self.moments.iter_mut().for_each(|moments| drop(moments.drain(..moments.len() - 1)));
    }
    fn read(&self, zone: u32, offset: u64) -> Vec<u8> {
        self.now(zone).get(offset as usize).cloned().unwrap_or_else(|| vec![0; self.block])
    }
    fn actual(&self, drive: &SimDrive, zone: u32) -> Moment {
        let written = drive.zone(ZoneId(zone)).written;
        let content = drive.peek(Lba(u64::from(zone) * SIZE), written);
        content.chunks(self.block).map(<[u8]>::to_vec).collect()
    }
}

fn run(steps: Vec<Step>, block_size: u32) {
    let config = SimConfig {
        block_size,
        zone_size: Blocks(SIZE),
        zone_capacity: Blocks(CAPACITY),
        max_open: 2,
        max_active: 3,
        copy: Some(CopyLimits { mssrl: 8, mcl: 8, ranges: 4 }),
        ..SimConfig::zoned(ZONES, 77)
    };
    let drive = SimDrive::new(config);
    let device = drive.open();
    let mut model = Model { moments: vec![vec![Moment::new()]; ZONES as usize], block: block_size as usize };
    // Power went during a flush: it happened or not.
    let mut unsure = false;
    for step in steps {
        let powered = drive.powered();
        // Blocks that the step appends one by one; what a cut leaves of them is any prefix.
        let (zone, appended, result): (u32, Vec<Vec<u8>>, bool) = match step {
            Step::Write { zone, blocks, tag, off } => {
                let pointer = model.now(zone).len() as u64;
                let data = bytes(&payload(&device, blocks, tag));
                let lba = u64::from(zone) * SIZE + (pointer + off) % SIZE;
                let fits = (pointer + off) % SIZE == pointer && pointer + blocks <= CAPACITY;
                let result = write(&device, lba, blocks, tag);
                assert!(fits || result.is_err());
                (zone, if fits { data.chunks(block_size as usize).map(<[u8]>::to_vec).collect() } else { vec![] }, result.is_ok())
            }
            Step::Copy { from, offset, blocks, zone, more } => {
                let pointer = model.now(zone).len() as u64;
                let source = CopySource { lba: Lba(u64::from(from) * SIZE + offset), blocks: Blocks(blocks) };
                let list = if more { vec![source, source] } else { vec![source] };
                let total = blocks * list.len() as u64;
                let fits = offset + blocks <= SIZE && pointer + total <= CAPACITY;
                let result = device.native_copy().unwrap().copy(&list, Lba(u64::from(zone) * SIZE + pointer));
                assert!(fits || result.is_err());
                let mut appended: Vec<Vec<u8>> = Vec::new();
                for _ in &list {
                    for index in offset..offset + blocks {
                        // A copy within one zone may read what it has just written.
                        let own = (from == zone).then(|| appended.get((index.max(pointer) - pointer) as usize)).flatten();
                        let byte = if index >= pointer { own.cloned() } else { None };
                        let next = byte.unwrap_or_else(|| model.read(from, index));
                        appended.push(next);
                    }
                }
                if from == zone && offset + blocks > pointer {
                    // The order inside one range is the device's business: take what it did.
                    let done = model.actual(&drive, zone).split_off(pointer as usize);
                    appended.splice(..done.len().min(appended.len()), done);
                }
                (zone, if fits { appended } else { vec![] }, result.is_ok())
            }
            Step::Manage { zone, action } => {
                let result = device.manage(ZoneId(zone), action);
                let cut = powered && !drive.powered();
                let emptied = model.actual(&drive, zone).is_empty();
                if action == ZoneAction::Reset && (result.is_ok() || cut && emptied) {
                    model.then(zone, Vec::clear);
                }
                let finished = drive.zone(ZoneId(zone)).state == ZoneState::Full;
                if action == ZoneAction::Finish && (result.is_ok() || cut && finished) {
                    model.then(zone, |m| m.resize(CAPACITY as usize, vec![0; block_size as usize]));
                }
                (zone, vec![], result.is_ok())
            }
            Step::Flush => {
                match device.flush() {
                    Ok(()) => model.forget_history(),
                    Err(_) => unsure = true,
                }
                (0, vec![], true)
            }
            Step::CutSoon { after } => {
                drive.cut_power_at(drive.ops() + after);
                (0, vec![], true)
            }
            Step::Crash { survival, seed } => {
                drive.reseed(seed);
                drive.power_cycle_with(survival);
                for zone in 0..ZONES {
                    let actual = model.actual(&drive, zone);
                    let moments = &mut model.moments[zone as usize];
                    let allowed = match survival {
                        Survival::KeepAll => &moments[moments.len() - 1..],
                        Survival::LoseAll if !unsure => &moments[..1],
                        Survival::LoseAll | Survival::Random => &moments[..],
                    };
                    assert!(allowed.contains(&actual), "zone {zone} is in a state that it never was in");
                    *moments = vec![actual];
                    assert!(!drive.zone(ZoneId(zone)).state.is_open());
                }
                unsure = false;
                (0, vec![], true)
            }
        };
        let grown = model.actual(&drive, zone).len().saturating_sub(model.now(zone).len());
        assert!(!result || grown == appended.len() || !powered, "an operation that succeeded is done in full");
        if !appended.is_empty() && powered {
            for block in appended.into_iter().take(grown) {
                model.then(zone, |m| m.push(block));
            }
        }
        for zone in 0..ZONES {
            assert!(&model.actual(&drive, zone) == model.now(zone), "zone {zone} differs");
        }
        let infos: Vec<_> = (0..ZONES).map(|zone| drive.zone(ZoneId(zone)).state).collect();
        assert!(infos.iter().filter(|state| state.is_open()).count() <= 2);
        assert!(infos.iter().filter(|state| state.is_active()).count() <= 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn zoned_drives_agree_with_the_model(steps in proptest::collection::vec(step(), 1..60), large in any::<bool>()) {
        run(steps, if large { 4096 } else { 512 });
    }

    #[test]
    fn conventional_drives_keep_what_was_flushed_and_tear_nothing_smaller_than_a_block(
        writes in proptest::collection::vec((0..40u64, 1..6u64, any::<u8>(), 0..8u8), 1..40),
        seed in any::<u64>(),
        survival in prop_oneof![Just(Survival::Random), Just(Survival::KeepAll), Just(Survival::LoseAll)],
    ) {
        let blocks = Blocks(64);
        let drive =
            SimDrive::new(SimConfig { zone_size: blocks, zone_capacity: blocks, overwrites: true, ..SimConfig::conventional(2, seed) });
        let device = drive.open();
        // Per block: every content since the last flush.
        let mut history: Vec<Vec<Vec<u8>>> = vec![vec![vec![0; 512]]; 64];
        for (lba, blocks, tag, flush) in writes {
            write(&device, lba, blocks, tag).unwrap();
            for (index, block) in bytes(&payload(&device, blocks, tag)).chunks(512).enumerate() {
                history[lba as usize + index].push(block.to_vec());
            }
            if flush == 0 {
                device.flush().unwrap();
                history.iter_mut().for_each(|contents| drop(contents.drain(..contents.len() - 1)));
            }
        }
        drive.power_cycle_with(survival);
        for (lba, contents) in history.iter().enumerate() {
            let found = read(&device, lba as u64, 1).unwrap();
            let allowed = match survival {
                Survival::KeepAll => &contents[contents.len() - 1..],
                Survival::LoseAll => &contents[..1],
                Survival::Random => &contents[..],
            };
            prop_assert!(allowed.contains(&found));
        }
        prop_assert!(drive.violations().is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_run(seed in any::<u64>(), cut in 1..30u64) {
        let once = || {
            let mut config = SimConfig::zoned(24, seed);
            config.faults = FaultPlan { write_error: 0.1, copy_partial: 0.2, copy_wrong: 0.1, read_error: 0.1, ..FaultPlan::default() };
            let drive = SimDrive::new(config);
            let device: Arc<SimDevice> = drive.open();
            drive.cut_power_at(cut);
            let mut log = Vec::new();
            for turn in 0..12u64 {
                let at = |zone: u64| zone * 256 + drive.zone(ZoneId(zone as u32)).written.0;
                log.push(format!("{:?}", write(&device, at(turn % 3), 1 + turn % 5, turn as u8)));
                log.push(format!("{:?}", device.native_copy().unwrap().copy(&[CopySource { lba: Lba(0), blocks: Blocks(3) }], Lba(at(4)))));
            }
            drive.power_cycle();
            for zone in 0..5 {
                log.push(format!("{:?} {:x}", drive.zone(ZoneId(zone)), crc32c::crc32c(&drive.peek(Lba(u64::from(zone) * 256), Blocks(256)))));
            }
            log
        };
        prop_assert_eq!(once(), once());
    }
}
