//! A volume on a part of a device: what lies beside it stays as it is, whatever road blocks take.

use crate::life::{FORMAT_PLAIN, FORMAT_ZONED, live};
use guest::{Kernel, Machine, Namespace};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use tests::guest::in_guest;
use tests::guest::stacks::{Mapped, partition};
use zns::kernel::KernelDevice;
use zns::{AlignedBuf, BufSlice, IoClass, ZoneId, ZonedDevice};

const MIB: u64 = 1 << 20;
const STEP: usize = 1 << 20;

/// What a MiB at `offset` of the device holds before and after.
fn pattern(offset: u64) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(STEP);
    harness::Pattern(99).fill(offset, &mut buf);
    buf
}

/// Every MiB of `ranges` is written, or compared.
fn beside(device: &Path, ranges: &[(u64, u64)], write: bool) {
    let file = File::options().read(true).write(write).custom_flags(libc::O_DIRECT).open(device).unwrap();
    for offset in ranges.iter().flat_map(|&(from, to)| (from..to).step_by(STEP)) {
        if write {
            file.write_all_at(&pattern(offset), offset).unwrap();
        } else {
            let mut found = AlignedBuf::zeroed(STEP);
            file.read_exact_at(&mut found, offset).unwrap();
            assert!(found[..] == pattern(offset)[..], "what lies at {offset}, outside of the volume, was changed");
        }
    }
    file.sync_all().unwrap();
}

#[test]
fn a_partition_and_a_slice_of_a_drive_leave_the_rest_alone() {
    let machine = Machine::new(Kernel::Long6_12).device(Namespace::conventional("c").size(256 * MIB));
    in_guest(machine, &["dmsetup"], || {
        let drive = Path::new("/dev/vm/cn1");
        let (from, length) = (16 * MIB, 192 * MIB);
        let around = [(0, from), (from + length, 256 * MIB)];
        beside(drive, &around, true);
        drop(live(&[partition(drive, from, length)], FORMAT_PLAIN));
        beside(drive, &around, false);
        // The same as a slice by device-mapper, at another place.
        let drive = drive.canonicalize().unwrap();
        tests::guest::stacks::call("delpart", [drive.as_os_str(), "1".as_ref()]);
        let from = 40 * MIB;
        let around = [(0, from), (from + length, 256 * MIB)];
        beside(&drive, &around, true);
        let slice = Mapped::new("slice", &[], &format!("0 {} linear {} {}", length / 512, drive.display(), from / 512));
        drop(live(&[slice.path()], FORMAT_PLAIN));
        beside(&drive, &around, false);
    });
}

#[test]
fn a_slice_of_a_zoned_drive_leaves_the_other_zones_alone() {
    let (zones, zone_size, first, count) = (64u32, 4 * MIB, 6u32, 48u32);
    let machine = Machine::new(Kernel::Long6_12).device(Namespace::zoned("z").size(u64::from(zones) * zone_size).zones(zone_size, 3 * MIB));
    in_guest(machine, &["dmsetup"], || {
        let drive = Path::new("/dev/vm/zn1");
        let outside = || (0..zones).filter(|zone| !(first..first + count).contains(zone)).map(ZoneId);
        let device = KernelDevice::open(drive, false).unwrap();
        let offset = |zone: ZoneId| u64::from(zone.0) * zone_size;
        for zone in outside() {
            let lba = device.geometry().zone_start(zone);
            device.write(lba, vec![BufSlice::whole(pattern(offset(zone)))], IoClass::Log).unwrap();
        }
        device.flush().unwrap();
        let before: Vec<_> = outside().map(|zone| device.report(zone.0..zone.0 + 1).unwrap()).collect();
        drop(device);
        let sectors = |zones: u32| u64::from(zones) * zone_size / 512;
        let slice = Mapped::new("slice", &[], &format!("0 {} linear {} {}", sectors(count), drive.display(), sectors(first)));
        drop(live(&[slice.path()], FORMAT_ZONED));
        let after = KernelDevice::open(drive, true).unwrap();
        let found: Vec<_> = outside().map(|zone| after.report(zone.0..zone.0 + 1).unwrap()).collect();
        assert_eq!(before, found, "zones outside of the volume were touched");
        for zone in outside() {
            let back = after.read(after.geometry().zone_start(zone), AlignedBuf::zeroed(STEP), IoClass::Log).unwrap();
            assert!(back[..] == pattern(offset(zone))[..], "zone {} was changed", zone.0);
        }
    });
}
