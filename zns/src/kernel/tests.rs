//! What needs no device, and with `FERRYFS_TEST_ZONED=/dev/nullb0 cargo test -p zns kernel -- --ignored` a real zoned
//! device, whose data is lost.

use super::*;
use crate::native_copy::NvmeStatus;
use crate::units::Blocks;

fn payload(len: usize, seed: u8) -> BufSlice {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = 1 | seed.wrapping_add((at / 512) as u8));
    BufSlice::whole(buf)
}

#[test]
fn writes_of_one_zone_form_a_chain_and_outcomes_find_their_way_back() {
    let mut chains = Chains::default();
    let read = || Transfer::Read { offset: 0, buf: AlignedBuf::zeroed(512) };
    for (index, zone) in [Some(4), None, Some(5), Some(4), None, Some(4)].into_iter().enumerate() {
        chains.add(zone.map(ZoneId), index, read());
    }
    let (order, chains) = chains.into_order();
    assert_eq!(order, [0, 3, 5, 1, 2, 4]);
    assert_eq!(chains.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[test]
fn paths_that_are_no_zoned_device_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(KernelDevice::open(directory.path().join("none"), false).unwrap_err().errno(), libc::ENOENT);
    assert!(matches!(KernelDevice::open(directory.path(), false), Err(DeviceError::Unusable { .. })));
}

#[test]
#[ignore = "on demand: needs a zoned device, named by FERRYFS_TEST_ZONED"]
fn a_real_device_behaves_as_the_seam_says() {
    let path = PathBuf::from(std::env::var_os("FERRYFS_TEST_ZONED").expect("FERRYFS_TEST_ZONED names a device"));
    assert_eq!(crate::open::detect(&path).unwrap(), crate::open::Detected::ZonedBlock);
    let device = KernelDevice::open(&path, false).unwrap();
    assert!(matches!(KernelDevice::open(&path, false), Err(DeviceError::Busy { .. })));
    let geometry = device.geometry().clone();
    let (block, capacity) = (geometry.block_size as usize, geometry.zone_capacity.0);
    (0..geometry.zones).for_each(|zone| device.manage(ZoneId(zone), ZoneAction::Reset).unwrap());
    let report = device.report(0..geometry.zones).unwrap();
    assert!(report.iter().all(|zone| zone.state == ZoneState::Empty && zone.capacity.0 == capacity));
    // Zones at the end: the first may be conventional.
    let zone = ZoneId(geometry.zones - 1);
    let start = geometry.zone_start(zone);
    let at = |blocks: u64| start + Blocks(blocks);
    let write = |blocks: u64, data: &BufSlice| Io::Write { lba: at(blocks), data: vec![data.clone()] };
    let data = payload(64 * block, 3);
    // A chain of writes in one zone, one of them in pieces that no device takes as they are.
    let pieces = vec![data.sub(0..block / 2), data.sub(block / 2..64 * block)];
    let batch = vec![write(0, &data), Io::Write { lba: at(64), data: pieces }, write(128, &data), write(5, &data)];
    let results = device.complete(device.submit(batch, IoClass::Foreground).unwrap());
    assert!(results[..3].iter().all(Result::is_ok), "{results:?}");
    let stale = results[3].as_ref().unwrap_err();
    assert!(matches!(stale, DeviceError::NotAtWritePointer { write_pointer, .. } if *write_pointer == at(192)), "{stale}");
    device.flush().unwrap();
    for blocks in [0, 64, 128] {
        let back = device.read(at(blocks), AlignedBuf::zeroed(64 * block), IoClass::Foreground).unwrap();
        assert!(back[..] == data[..]);
    }
    // Reads reach above the write pointer.
    let reads = vec![Io::Read { lba: at(190), buf: AlignedBuf::zeroed(8 * block) }];
    let back = device.complete(device.submit(reads, IoClass::Foreground).unwrap()).pop().unwrap().unwrap().unwrap();
    assert!(back[..2 * block] == data[62 * block..] && back[2 * block..].iter().all(|&byte| byte == 0));
    // After a failure writing goes on at the write pointer.
    device.write(at(192), vec![data.clone()], IoClass::Log).unwrap();
    assert_eq!(device.report_one(zone).unwrap().written, Blocks(256));
    device.manage(zone, ZoneAction::Close).unwrap();
    assert_eq!(device.report_one(zone).unwrap().state, ZoneState::Closed);
    device.manage(zone, ZoneAction::Finish).unwrap();
    assert_eq!(device.report_one(zone).unwrap().state, ZoneState::Full);
    let refused = |result: Result<()>| match result {
        Err(DeviceError::Zone { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(device.write(at(256), vec![data.clone()], IoClass::Log)), NvmeStatus::ZONE_FULL);
    assert_eq!(refused(device.manage(zone, ZoneAction::Open)), NvmeStatus::INVALID_TRANSITION);
    device.manage(zone, ZoneAction::Reset).unwrap();
    assert_eq!(device.report_one(zone).unwrap().written, Blocks(0));
    let limit = geometry.active_limit();
    if limit < geometry.zones / 2 {
        let open = |number: u32| device.manage(ZoneId(geometry.zones - 1 - number), ZoneAction::Open);
        (0..limit).for_each(|number| open(number).unwrap());
        let status = refused(open(limit));
        assert!(matches!(status, NvmeStatus::TOO_MANY_ACTIVE | NvmeStatus::TOO_MANY_OPEN), "{status}");
        (0..limit).for_each(|number| device.manage(ZoneId(geometry.zones - 1 - number), ZoneAction::Reset).unwrap());
    }
    drop(device);
    let reader = KernelDevice::open(&path, true).unwrap();
    assert_eq!(reader.manage(zone, ZoneAction::Reset).unwrap_err().errno(), libc::EROFS);
}
