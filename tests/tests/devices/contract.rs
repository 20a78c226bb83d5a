//! What `zns` promises of a zoned block device, on every kind that Linux drives.

use guest::{Kernel, Machine, Namespace};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use tests::guest::in_guest;
use tests::guest::stacks::{NullBlock, smr_disk};
use zns::kernel::KernelDevice;
use zns::open::{Detected, detect};
use zns::{
    AlignedBuf, Blocks, BufSlice, DeviceError, DeviceKind, Io, IoClass, Lba, NvmeStatus, ZoneAction, ZoneId, ZoneInfo, ZoneState,
    ZonedDevice,
};

const MIB: u64 = 1 << 20;

/// What a device must say of itself.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: DeviceKind,
    block: u32,
    zones: u32,
    zone_size: u64,
    zone_capacity: u64,
    max_open: u32,
    max_active: u32,
    conventional: u32,
}

fn payload(len: usize, seed: u8) -> BufSlice {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = 1 | seed.wrapping_add((at / 512) as u8));
    BufSlice::whole(buf)
}

fn refused<T: std::fmt::Debug>(result: zns::Result<T>) -> NvmeStatus {
    match result {
        Err(DeviceError::Zone { status, .. }) => status,
        other => panic!("a refusal by the zone was expected: {other:?}"),
    }
}

/// A device under test, and the zone that is looked at: one at the end, for the first may be conventional.
struct Subject {
    device: KernelDevice,
    zone: ZoneId,
    block: usize,
    capacity: u64,
}

impl Subject {
    fn at(&self, blocks: u64) -> Lba {
        self.device.geometry().zone_start(self.zone) + Blocks(blocks)
    }

    fn info(&self, zone: ZoneId) -> ZoneInfo {
        self.device.report(zone.0..zone.0 + 1).unwrap().pop().unwrap()
    }

    fn write(&self, blocks: u64, data: &BufSlice) -> zns::Result<()> {
        self.device.write(self.at(blocks), vec![data.clone()], IoClass::Log)
    }

    fn read(&self, blocks: u64, count: usize) -> AlignedBuf {
        self.device.read(self.at(blocks), AlignedBuf::zeroed(count * self.block), IoClass::Foreground).unwrap()
    }

    fn act(&self, action: ZoneAction) -> zns::Result<()> {
        self.device.manage(self.zone, action)
    }

    fn reset(&self) {
        self.act(ZoneAction::Reset).unwrap();
        assert_eq!((self.info(self.zone).state, self.info(self.zone).written), (ZoneState::Empty, Blocks(0)));
    }
}

/// All of it, on the device at `path`, whose data is lost.
fn hold(path: &Path, shape: Shape) {
    assert_eq!(detect(path).unwrap(), Detected::ZonedBlock);
    let device = KernelDevice::open(path, false).unwrap();
    for read_only in [false, true] {
        let second = KernelDevice::open(path, read_only);
        assert!(matches!(second, Err(DeviceError::Busy { .. })), "a second opener (read-only: {read_only}): {second:?}");
    }
    let geometry = device.geometry().clone();
    let bytes = |blocks: Blocks| blocks.0 * u64::from(geometry.block_size);
    assert_eq!((geometry.kind, geometry.block_size, geometry.zones), (shape.kind, shape.block, shape.zones));
    assert_eq!((bytes(geometry.zone_size), bytes(geometry.zone_capacity)), (shape.zone_size, shape.zone_capacity));
    assert_eq!((geometry.max_open, geometry.max_active), (shape.max_open, shape.max_active));
    let zone = ZoneId(geometry.zones - 1);
    let subject = Subject { device, zone, block: geometry.block_size as usize, capacity: geometry.zone_capacity.0 };
    (0..geometry.zones).for_each(|zone| subject.device.manage(ZoneId(zone), ZoneAction::Reset).unwrap());
    let report = subject.device.report(0..geometry.zones).unwrap();
    assert!(report.iter().all(|zone| zone.state == ZoneState::Empty && zone.capacity == geometry.zone_capacity), "{report:?}");
    writes_and_reads(&subject);
    states(&subject);
    the_whole_zone(&subject);
    bad_ranges(&subject);
    surprises(&subject, path);
    many_zones_at_once(&subject, shape);
    limits(&subject);
    if shape.conventional > 0 {
        conventional_zones(&subject);
    }
    reopened(subject, path);
}

fn writes_and_reads(subject: &Subject) {
    let (device, block) = (&subject.device, subject.block);
    let write = |blocks: u64, data: &BufSlice| Io::Write { lba: subject.at(blocks), data: vec![data.clone()] };
    let data = payload(64 * block, 3);
    // A chain of writes in one zone, one of them in pieces that no device takes as they are.
    let pieces = vec![data.sub(0..block / 2), data.sub(block / 2..64 * block)];
    let batch = vec![write(0, &data), Io::Write { lba: subject.at(64), data: pieces }, write(128, &data), write(5, &data)];
    let results = device.complete(device.submit(batch, IoClass::Foreground).unwrap());
    assert!(results[..3].iter().all(Result::is_ok), "{results:?}");
    let stale = results[3].as_ref().unwrap_err();
    assert!(matches!(stale, DeviceError::NotAtWritePointer { write_pointer, .. } if *write_pointer == subject.at(192)), "{stale}");
    device.flush().unwrap();
    for blocks in [0, 64, 128] {
        assert!(subject.read(blocks, 64)[..] == data[..]);
    }
    // Reads reach above the write pointer; what they find there is the device's affair (null_blk fills it with ones).
    let reads = vec![Io::Read { lba: subject.at(190), buf: AlignedBuf::zeroed(8 * block) }];
    let back = device.complete(device.submit(reads, IoClass::Foreground).unwrap()).pop().unwrap().unwrap().unwrap();
    assert!(back[..2 * block] == data[62 * block..]);
    subject.read(200, 8);
    // A write behind the pointer leaves a gap, which no zone takes.
    let ahead = subject.write(200, &data).unwrap_err();
    assert!(matches!(ahead, DeviceError::NotAtWritePointer { write_pointer, .. } if write_pointer == subject.at(192)), "{ahead}");
    // After a failure writing goes on at the write pointer.
    subject.write(192, &data).unwrap();
    assert_eq!(subject.info(subject.zone).written, Blocks(256));
    assert!(subject.read(192, 64)[..] == data[..]);
}

fn states(subject: &Subject) {
    assert_eq!(subject.info(subject.zone).state, ZoneState::ImplicitOpen);
    subject.act(ZoneAction::Close).unwrap();
    assert_eq!(subject.info(subject.zone).state, ZoneState::Closed);
    subject.act(ZoneAction::Open).unwrap();
    assert_eq!(subject.info(subject.zone).state, ZoneState::ExplicitOpen);
    subject.act(ZoneAction::Finish).unwrap();
    assert_eq!(subject.info(subject.zone).state, ZoneState::Full);
    assert_eq!(refused(subject.write(256, &payload(subject.block, 1))), NvmeStatus::ZONE_FULL);
    // NVMe refuses to open a full zone; for SCSI (ZBC) that is a success that changes nothing.
    let opened = subject.act(ZoneAction::Open);
    if opened.is_err() {
        assert_eq!(refused(opened), NvmeStatus::INVALID_TRANSITION);
    }
    assert_eq!(subject.info(subject.zone).state, ZoneState::Full);
    assert!(subject.read(192, 64)[..] == payload(64 * subject.block, 3)[..], "finishing keeps what is there");
    subject.reset();
}

/// To the last block of the capacity, in writes larger than the device takes at once.
fn the_whole_zone(subject: &Subject) {
    let block = subject.block;
    let chunk = (3 * MIB as usize + 20 * 4096) / block;
    let mut done = 0;
    while done < subject.capacity {
        let count = (chunk as u64).min(subject.capacity - done);
        subject.write(done, &payload(count as usize * block, done as u8)).unwrap();
        done += count;
    }
    let info = subject.info(subject.zone);
    assert_eq!((info.state, info.written), (ZoneState::Full, Blocks(subject.capacity)));
    let mut done = 0;
    while done < subject.capacity {
        let count = (chunk as u64).min(subject.capacity - done);
        assert!(subject.read(done, count as usize)[..] == payload(count as usize * block, done as u8)[..], "from block {done}");
        done += count;
    }
    let size = subject.device.geometry().zone_size.0;
    if subject.capacity < size {
        let gap = (size - subject.capacity).min(64) as usize;
        // Between capacity and size there is nothing to read; asking is no accident.
        let asked = subject.device.read(subject.at(subject.capacity), AlignedBuf::zeroed(gap * block), IoClass::Foreground);
        assert!(matches!(asked, Ok(_) | Err(DeviceError::Io { .. })), "{asked:?}");
    }
    subject.reset();
    // One block too many is refused whole, or ends at the capacity; it is never an "ok".
    let most = payload(subject.capacity as usize * block - 4 * 4096, 9);
    subject.write(0, &most).unwrap();
    let into_zone = (most.len() / block) as u64;
    let over = subject.write(into_zone, &payload(5 * 4096, 5));
    assert!(over.is_err(), "a write across the end of the capacity");
    if subject.capacity < size {
        assert_eq!(refused(over), NvmeStatus::ZONE_BOUNDARY);
    }
    subject.reset();
}

fn bad_ranges(subject: &Subject) {
    let geometry = subject.device.geometry();
    let bad = |result: zns::Result<()>| assert!(matches!(result, Err(DeviceError::BadRange { .. })), "{result:?}");
    let data = payload(2 * subject.block, 1);
    bad(subject.device.write(Lba(geometry.zone_size.0 * u64::from(geometry.zones)), vec![data.clone()], IoClass::Log));
    bad(subject.device.write(subject.at(0), vec![data.sub(0..100)], IoClass::Log));
    bad(subject.device.write(subject.at(0), vec![], IoClass::Log));
    bad(subject.device.write(subject.at(geometry.zone_size.0 - 1), vec![data], IoClass::Log));
    let across = Lba(geometry.zone_size.0 - 1);
    bad(subject.device.read(across, AlignedBuf::zeroed(2 * subject.block), IoClass::Log).map(drop));
    bad(subject.device.manage(ZoneId(geometry.zones), ZoneAction::Reset));
    bad(subject.device.report(0..geometry.zones + 1).map(drop));
    assert_eq!(subject.info(subject.zone).written, Blocks(0), "nothing of that was written");
}

/// Somebody else moves the write pointer: the error says where it stands, and writing goes on there.
fn surprises(subject: &Subject, path: &Path) {
    let block = subject.block as u64;
    let data = payload(16 * subject.block, 7);
    subject.write(0, &data).unwrap();
    let stranger = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    // More than our next write has: a pointer within that may have been moved by it, half-way.
    let written = payload(24 * subject.block, 8);
    stranger.write_all_at(&written, subject.at(16).0 * block).unwrap();
    drop(stranger);
    let surprise = subject.write(16, &data).unwrap_err();
    assert!(matches!(surprise, DeviceError::NotAtWritePointer { write_pointer, .. } if write_pointer == subject.at(40)), "{surprise}");
    subject.write(40, &data).unwrap();
    assert!(subject.read(16, 24)[..] == written[..] && subject.read(40, 16)[..] == data[..]);
    subject.reset();
}

/// Zones in parallel, in one batch.
fn many_zones_at_once(subject: &Subject, shape: Shape) {
    let geometry = subject.device.geometry();
    let count = if geometry.active_limit() == 0 { 12 } else { geometry.active_limit().min(12) };
    let zones: Vec<ZoneId> = (0..count).map(|n| ZoneId(geometry.zones - 1 - n)).collect();
    assert!(count < shape.zones - shape.conventional);
    let mut batch = Vec::new();
    for step in 0..8u64 {
        for zone in &zones {
            let lba = geometry.zone_start(*zone) + Blocks(step * 32);
            batch.push(Io::Write { lba, data: vec![payload(32 * subject.block, step as u8 ^ zone.0 as u8)] });
        }
    }
    let results = subject.device.complete(subject.device.submit(batch, IoClass::Foreground).unwrap());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    subject.device.flush().unwrap();
    let reads = zones.iter().map(|zone| Io::Read { lba: geometry.zone_start(*zone), buf: AlignedBuf::zeroed(256 * subject.block) });
    let results = subject.device.complete(subject.device.submit(reads.collect(), IoClass::Foreground).unwrap());
    for (zone, result) in zones.iter().zip(results) {
        let back = result.unwrap().unwrap();
        for step in 0..8 {
            let part = &back[step * 32 * subject.block..(step + 1) * 32 * subject.block];
            assert!(part == &payload(32 * subject.block, step as u8 ^ zone.0 as u8)[..], "{zone:?}, step {step}");
        }
        assert_eq!(subject.info(*zone).written, Blocks(256));
    }
    reset_together(subject, &zones);
}

/// Resets all of these zones but one in the middle, which keeps what it has, and then that one with a zone that does not exist.
fn reset_together(subject: &Subject, zones: &[ZoneId]) {
    let mut sorted = zones.to_vec();
    sorted.sort_unstable();
    let spared = sorted.remove(sorted.len() / 2);
    let answers = subject.device.reset(&sorted);
    assert!(answers.len() == sorted.len() && answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(sorted.iter().all(|zone| (subject.info(*zone).state, subject.info(*zone).written) == (ZoneState::Empty, Blocks(0))));
    assert_eq!(subject.info(spared).written, Blocks(256));
    let answers = subject.device.reset(&[spared, ZoneId(subject.device.geometry().zones)]);
    assert!(matches!(&answers[..], [Ok(()), Err(DeviceError::BadRange { .. })]), "{answers:?}");
    assert_eq!(subject.info(spared).written, Blocks(0));
}

fn limits(subject: &Subject) {
    let geometry = subject.device.geometry();
    let limit = geometry.active_limit();
    if limit == 0 || limit >= geometry.zones / 2 {
        return;
    }
    let zone = |number: u32| ZoneId(geometry.zones - 1 - number);
    let open = |number: u32| subject.device.manage(zone(number), ZoneAction::Open);
    (0..limit).for_each(|number| open(number).unwrap());
    let too_many = |status: NvmeStatus| assert!(matches!(status, NvmeStatus::TOO_MANY_ACTIVE | NvmeStatus::TOO_MANY_OPEN), "{status}");
    too_many(refused(open(limit)));
    let one_more = subject.device.write(geometry.zone_start(zone(limit)), vec![payload(subject.block, 1)], IoClass::Log);
    too_many(refused(one_more));
    // A zone that is given back makes room.
    subject.device.manage(zone(0), ZoneAction::Reset).unwrap();
    subject.device.write(geometry.zone_start(zone(limit)), vec![payload(subject.block, 1)], IoClass::Log).unwrap();
    (0..=limit).for_each(|number| subject.device.manage(zone(number), ZoneAction::Reset).unwrap());
}

/// Zones without a write pointer of their own are kept in software, as those of a plain disk.
fn conventional_zones(subject: &Subject) {
    let zone = ZoneId(0);
    let at = |blocks: u64| subject.device.geometry().zone_start(zone) + Blocks(blocks);
    let data = payload(16 * subject.block, 6);
    subject.device.write(at(0), vec![data.clone()], IoClass::Log).unwrap();
    assert!(matches!(subject.device.write(at(8), vec![data.clone()], IoClass::Log), Err(DeviceError::NotAtWritePointer { .. })));
    let back = subject.device.read(at(0), AlignedBuf::zeroed(data.len()), IoClass::Log).unwrap();
    assert!(back[..] == data[..]);
    assert_eq!(subject.info(zone).written, Blocks(16));
}

/// Who opens the device anew finds it as it was left; who only reads changes nothing.
fn reopened(subject: Subject, path: &Path) {
    let data = payload(16 * subject.block, 2);
    subject.write(0, &data).unwrap();
    subject.device.flush().unwrap();
    let (zone, lba) = (subject.zone, subject.at(0));
    drop(subject);
    let reader = KernelDevice::open(path, true).unwrap();
    let second = KernelDevice::open(path, true).unwrap();
    assert_eq!(reader.report(zone.0..zone.0 + 1).unwrap()[0].written, Blocks(16));
    let back = second.read(lba, AlignedBuf::zeroed(data.len()), IoClass::Log).unwrap();
    assert!(back[..] == data[..]);
    assert_eq!(reader.manage(zone, ZoneAction::Reset).unwrap_err().errno(), libc::EROFS);
    assert_eq!(reader.write(lba + Blocks(16), vec![data], IoClass::Log).unwrap_err().errno(), libc::EROFS);
    assert!(matches!(KernelDevice::open(path, false), Err(DeviceError::Busy { .. })));
}

fn zns(block: u32) -> Machine {
    Machine::new(Kernel::Long6_12).device(Namespace::zoned("z").size(512 * MIB).block(block).zones(16 * MIB, 12 * MIB).active(8, 10))
}

fn zns_shape(block: u32) -> Shape {
    let (zone_size, zone_capacity) = (16 * MIB, 12 * MIB);
    Shape { kind: DeviceKind::Zns, block, zones: 32, zone_size, zone_capacity, max_open: 8, max_active: 10, conventional: 0 }
}

#[test]
fn a_zns_drive_with_blocks_of_4096_bytes() {
    in_guest(zns(4096), &[], || hold(Path::new("/dev/vm/zn1"), zns_shape(4096)));
}

#[test]
fn a_zns_drive_with_blocks_of_512_bytes() {
    in_guest(zns(512), &[], || hold(Path::new("/dev/vm/zn1"), zns_shape(512)));
}

#[test]
fn null_blk_with_zones() {
    in_guest(Machine::new(Kernel::Long6_12), &[], || {
        let device = NullBlock { zone_capacity: 6, max_open: 8, max_active: 12, conventional: 3, ..NullBlock::default() }.create();
        let (zone_size, zone_capacity) = (8 * MIB, 6 * MIB);
        let kind = DeviceKind::Zoned;
        hold(&device, Shape { kind, block: 4096, zones: 64, zone_size, zone_capacity, max_open: 8, max_active: 12, conventional: 3 });
    });
}

#[test]
fn an_smr_disk() {
    in_guest(Machine::new(Kernel::Long6_12), &[], || {
        let device = smr_disk(&["dev_size_mb=512", "zone_size_mb=8", "zone_nr_conv=2", "zone_max_open=16", "sector_size=4096"]);
        let (zone_size, kind) = (8 * MIB, DeviceKind::Zoned);
        let shape =
            Shape { kind, block: 4096, zones: 64, zone_size, zone_capacity: zone_size, max_open: 16, max_active: 0, conventional: 2 };
        hold(&device, shape);
    });
}
