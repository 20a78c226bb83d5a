//! A plain file as zones, by io_uring and without it.

use super::*;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn device(directory: &Path, options: &ConventionalOptions) -> ConventionalDevice {
    let path = directory.join("disk");
    if !path.exists() {
        ConventionalDevice::create_file(&path, 64 * MIB).unwrap();
    }
    ConventionalDevice::open(&path, options).unwrap()
}

fn zoned() -> ConventionalOptions {
    ConventionalOptions { zone_size: Some(MIB), ..ConventionalOptions::default() }
}

fn without_ring(mut device: ConventionalDevice) -> ConventionalDevice {
    device.disk.transport.pretend_no_ring();
    device
}

fn empty(device: &ConventionalDevice) {
    for zone in 0..device.geometry.zones {
        device.manage(ZoneId(zone), ZoneAction::Reset).unwrap();
    }
}

fn payload(len: usize, seed: u8) -> Arc<AlignedBuf> {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = seed ^ (at / 256) as u8);
    Arc::new(buf)
}

#[test]
fn batches_of_aligned_and_unaligned_pieces_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    for ring in [true, false] {
        let device = device(directory.path(), &zoned());
        let device = if ring { device } else { without_ring(device) };
        empty(&device);
        let per_zone = device.geometry.zone_size.0;
        let data = payload(300_000, 17 + u8::from(ring));
        let aligned = vec![BufSlice::new(data.clone(), 0..131_072)];
        // Slices that begin and end anywhere, but are whole blocks together.
        let ragged = vec![BufSlice::new(data.clone(), 5..5000), BufSlice::new(data.clone(), 5000..8197)];
        let next = vec![BufSlice::new(data.clone(), 131_072..262_144)];
        let batch = vec![
            Io::Write { lba: Lba(0), data: aligned },
            Io::Write { lba: Lba(per_zone), data: ragged },
            Io::Write { lba: Lba(32), data: next },
            Io::Write { lba: Lba(per_zone + 7), data: vec![BufSlice::new(data.clone(), 0..4096)] },
        ];
        let ticket = device.submit(batch, IoClass::Foreground).unwrap();
        let results = device.complete(ticket);
        assert!(results[..3].iter().all(Result::is_ok), "{results:?}");
        assert!(matches!(results[3], Err(DeviceError::NotAtWritePointer { write_pointer, .. }) if write_pointer.0 == per_zone + 2));
        device.flush().unwrap();
        let reads = vec![
            Io::Read { lba: Lba(0), buf: AlignedBuf::zeroed(262_144) },
            Io::Read { lba: Lba(per_zone), buf: AlignedBuf::zeroed(8192) },
            Io::Read { lba: Lba(per_zone - 1), buf: AlignedBuf::zeroed(8192) },
            Io::Read { lba: Lba(64 * per_zone), buf: AlignedBuf::zeroed(4096) },
        ];
        let mut results = device.complete(device.submit(reads, IoClass::Foreground).unwrap());
        assert!(matches!(results.pop(), Some(Err(DeviceError::BadRange { .. }))));
        assert!(matches!(results.pop(), Some(Err(DeviceError::BadRange { .. }))));
        assert_eq!(&results.pop().unwrap().unwrap().unwrap()[..], &data[5..8197]);
        assert_eq!(&results.pop().unwrap().unwrap().unwrap()[..], &data[..262_144]);
        assert_eq!(device.report(0..2).unwrap()[0].written, Blocks(64));
        device.machine.self_check();
    }
}

#[test]
fn a_failed_write_takes_the_write_pointer_back() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(directory.path(), &zoned());
    let path = directory.path().join("disk");
    empty(&device);
    // The same file without the right to write: every write fails in the kernel.
    let crippled = std::fs::File::open(&path).unwrap();
    let mut device = device;
    device.disk.transport.use_file(crippled);
    let whole_zone = || vec![BufSlice::new(payload(MIB as usize, 1), 0..MIB as usize)];
    for _ in 0..2 {
        let ticket = device.submit(vec![Io::Write { lba: Lba(0), data: whole_zone() }], IoClass::Log).unwrap();
        assert!(matches!(device.complete(ticket).pop(), Some(Err(DeviceError::Io { errno: libc::EBADF, .. }))));
        assert_eq!(device.report(0..1).unwrap()[0].written, Blocks(0));
    }
    assert!(device.write(Lba(0), whole_zone(), IoClass::Log).is_err());
    assert_eq!(device.report(0..1).unwrap()[0].written, Blocks(0));
    device.machine.self_check();
}

#[test]
fn a_reset_with_discard_gives_the_space_back() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let device = device(directory.path(), &ConventionalOptions { discard: true, ..zoned() });
    empty(&device);
    let before = device.disk.transport.media.file.metadata().unwrap().blocks();
    device.write(Lba(0), vec![BufSlice::new(payload(MIB as usize, 9), 0..MIB as usize)], IoClass::Foreground).unwrap();
    device.flush().unwrap();
    assert!(device.disk.transport.media.file.metadata().unwrap().blocks() >= before + MIB / 512);
    assert_eq!(device.report(0..1).unwrap()[0].state, ZoneState::Full);
    device.manage(ZoneId(0), ZoneAction::Reset).unwrap();
    assert!(device.disk.transport.media.file.metadata().unwrap().blocks() <= before + 64);
}

#[test]
fn a_device_is_locked_and_a_reader_never_writes() {
    let directory = tempfile::tempdir().unwrap();
    let writer = device(directory.path(), &zoned());
    let path = directory.path().join("disk");
    assert!(matches!(ConventionalDevice::open(&path, &zoned()), Err(DeviceError::Busy { .. })));
    drop(writer);
    let reader = ConventionalDevice::open(&path, &ConventionalOptions { read_only: true, ..zoned() }).unwrap();
    let zone = ZoneInfo { state: ZoneState::Empty, written: Blocks(0), ..reader.report(0..1).unwrap()[0] };
    reader.adopt(&[zone]).unwrap();
    let refused = reader.write(Lba(0), vec![BufSlice::new(payload(4096, 0), 0..4096)], IoClass::Log);
    assert_eq!(refused.unwrap_err().errno(), libc::EROFS);
    assert_eq!(reader.manage(ZoneId(0), ZoneAction::Finish).unwrap_err().errno(), libc::EROFS);
    reader.flush().unwrap();
}

#[test]
fn zone_sizes_that_cannot_be_are_refused_and_defaults_fit() {
    let directory = tempfile::tempdir().unwrap();
    drop(device(directory.path(), &zoned()));
    let path = directory.path().join("disk");
    let open = |zone_size| {
        let options = ConventionalOptions { zone_size, ..ConventionalOptions::default() };
        ConventionalDevice::open(&path, &options).map(|device| device.geometry.zones).map_err(|error| error.to_string())
    };
    assert_eq!(open(None), Ok(64));
    assert!(open(Some(4 * MIB)).unwrap_err().contains("at least 24"));
    assert!(open(Some(MIB + 512)).unwrap_err().contains("multiple of 4096"));
    assert!(open(Some(512)).unwrap_err().contains("1 MiB to 2 GiB"));
    for size in [64 * MIB, 1 << 30, 1 << 40, 1 << 46] {
        let zones = size / default_zone_size(size);
        assert!((MIN_ZONES..=MAX_ZONES).contains(&zones), "{size}: {zones}");
    }
}

#[test]
fn threads_fill_zones_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(directory.path(), &zoned());
    empty(&device);
    let per_zone = device.geometry.zone_size.0;
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let device = &device;
            scope.spawn(move || {
                for zone in (thread..64).step_by(4) {
                    let data = payload(MIB as usize, zone as u8);
                    let part = |at: usize| vec![BufSlice::new(data.clone(), at * 262_144..(at + 1) * 262_144)];
                    let batch = (0..4).map(|at| Io::Write { lba: Lba(zone * per_zone + at as u64 * 64), data: part(at) });
                    let ticket = device.submit(batch.collect(), IoClass::Foreground).unwrap();
                    assert!(device.complete(ticket).iter().all(Result::is_ok));
                    let back = device.read(Lba(zone * per_zone), AlignedBuf::zeroed(MIB as usize), IoClass::Foreground);
                    assert!(back.unwrap()[..] == data[..]);
                }
            });
        }
    });
    assert!(device.report(0..64).unwrap().iter().all(|zone| zone.state == ZoneState::Full));
    device.machine.self_check();
}

#[test]
fn a_device_that_was_closed_is_free_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..100 {
        let device = device(directory.path(), &zoned());
        let reads = (0..64).map(|zone| Io::Read { lba: Lba(zone * 256), buf: AlignedBuf::zeroed(65536) }).collect();
        // Not even completed: the drop waits for what is in flight.
        device.submit(reads, IoClass::Foreground).unwrap();
    }
}

#[test]
fn a_file_is_made_only_where_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    assert!(ConventionalDevice::create_file(&path, u64::MAX).is_err());
    assert!(!path.exists());
    ConventionalDevice::create_file(&path, MIB).unwrap();
    assert_eq!(ConventionalDevice::create_file(&path, 2 * MIB).unwrap_err().errno(), libc::EEXIST);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB);
}

#[test]
fn tales_that_cannot_be_are_adopted_as_the_nearest_that_can() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(directory.path(), &zoned());
    let info = device.report(0..1).unwrap()[0];
    let told = |state, written| {
        device.adopt(&[ZoneInfo { state, written: Blocks(written), ..info }]).unwrap();
        device.machine.self_check();
        let adopted = device.report(0..1).unwrap()[0];
        (adopted.state, adopted.written.0)
    };
    assert_eq!(told(ZoneState::Empty, 7), (ZoneState::Empty, 0));
    assert_eq!(told(ZoneState::ImplicitOpen, 256), (ZoneState::Full, 256));
    assert_eq!(told(ZoneState::Closed, u64::MAX), (ZoneState::Full, 256));
    assert_eq!(told(ZoneState::Closed, 9), (ZoneState::Closed, 9));
    assert!(device.adopt(&[ZoneInfo { id: ZoneId(64), ..info }]).is_err());
}

#[test]
fn a_copy_by_the_real_device_moves_the_write_pointer_as_a_write_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    ConventionalDevice::create_file(&path, 32 << 20).unwrap();
    let options = ConventionalOptions { zone_size: Some(1 << 20), ..ConventionalOptions::default() };
    let device = ConventionalDevice::open(&path, &options).unwrap();
    let backing = device.backing().unwrap();
    assert_eq!((backing.path, backing.block_device, backing.offset, backing.len), (path.clone(), false, 0, 32 << 20));
    device.manage(ZoneId(2), ZoneAction::Reset).unwrap();
    let start = device.geometry().zone_start(ZoneId(2));
    let written = || device.report(2..3).unwrap()[0].written;
    device.admit_copy(start, Blocks(10)).unwrap();
    device.copy_ended(start, Blocks(10), Blocks(10));
    assert_eq!(written(), Blocks(10));
    // Not at the write pointer, beyond the zone, into a full zone, outside: nothing is sent, nothing moves.
    let behind = Lba(start.0 + 10);
    assert!(device.admit_copy(start, Blocks(1)).is_err() && device.admit_copy(Lba(start.0 + 11), Blocks(1)).is_err());
    assert!(device.admit_copy(behind, Blocks(247)).is_err() && device.admit_copy(Lba(start.0 - 1), Blocks(1)).is_err());
    assert!(device.admit_copy(Lba(1 << 40), Blocks(1)).is_err());
    // What failed half-way counts as far as it is known to have come.
    device.admit_copy(behind, Blocks(246)).unwrap();
    assert_eq!(device.report(2..3).unwrap()[0].state, ZoneState::Full);
    device.copy_ended(behind, Blocks(246), Blocks(6));
    assert_eq!(written(), Blocks(16));
    drop(device);
    let reader = ConventionalDevice::open(&path, &ConventionalOptions { read_only: true, ..options }).unwrap();
    assert!(reader.admit_copy(start, Blocks(1)).is_err() && reader.backing().unwrap().read_only);
}
