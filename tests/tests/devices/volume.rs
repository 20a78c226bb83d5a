//! A whole volume on every kind of block device.

use crate::copied::copy_within_zones;
use crate::life::{FORMAT_PLAIN, FORMAT_ZONED, Lived, live};
use guest::machine::SCRATCH;
use guest::{Device, Kernel, Machine, Namespace};
use std::path::{Path, PathBuf};
use tests::guest::in_guest;
use tests::guest::stacks::{Mapped, NullBlock, encrypted, looped, smr_disk, striped};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 192 * MIB;

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12)
}

fn zoned() -> Namespace {
    Namespace::zoned("z").size(SIZE).zones(4 * MIB, 4 * MIB)
}

fn conventional(name: &str) -> Namespace {
    Namespace::conventional(name).size(SIZE)
}

fn zoned_drive() -> Vec<PathBuf> {
    vec!["/dev/vm/zn1".into()]
}

/// The drive itself moved what was moved.
fn by_its_own_copy(lived: Lived) -> Lived {
    assert_eq!(lived.road().0, "nvme", "{}", lived.road().1);
    lived
}

#[test]
fn on_a_zns_drive() {
    in_guest(machine().device(zoned()), &[], || {
        let lived = by_its_own_copy(live(&zoned_drive(), FORMAT_ZONED));
        assert_eq!(lived.status.text("volume/devices/0/kind").unwrap(), "zns");
    });
}

#[test]
fn on_a_zns_drive_under_the_new_kernel() {
    let machine = Machine::new(Kernel::New7_3).device(zoned());
    in_guest(machine, &[], || drop(by_its_own_copy(live(&zoned_drive(), FORMAT_ZONED))));
}

#[test]
fn on_a_zns_drive_of_small_blocks_whose_capacity_is_less_than_its_zones() {
    let drive = Namespace::zoned("z").size(256 * MIB).block(512).zones(8 * MIB, 5 * MIB);
    in_guest(machine().device(drive), &[], || {
        copy_within_zones(&zoned_drive()[0]);
        let lived = by_its_own_copy(live(&zoned_drive(), FORMAT_ZONED));
        assert_eq!(lived.status.number("volume/devices/0/zone_capacity").unwrap(), 5 * MIB);
    });
}

#[test]
fn on_a_zns_drive_with_six_active_zones() {
    in_guest(machine().device(zoned().active(6, 6)), &[], || {
        let lived = by_its_own_copy(live(&zoned_drive(), FORMAT_ZONED));
        assert_eq!(lived.status.number("volume/devices/0/max_active_zones").unwrap(), 6);
    });
}

#[test]
fn on_null_blk_with_zones() {
    in_guest(machine(), &[], || {
        let shape =
            NullBlock { size: 256, zone_size: 4, zone_capacity: 3, conventional: 2, max_open: 8, max_active: 10, ..NullBlock::default() };
        drop(live(&[shape.create()], FORMAT_ZONED));
    });
}

#[test]
fn on_an_smr_disk() {
    in_guest(machine(), &[], || {
        let device = smr_disk(&["dev_size_mb=256", "zone_size_mb=4", "zone_nr_conv=2", "zone_max_open=16", "sector_size=4096"]);
        let lived = live(&[device], FORMAT_ZONED);
        assert_eq!(lived.status.text("volume/devices/0/kind").unwrap(), "zoned");
    });
}

#[test]
fn on_a_drive_without_zones() {
    in_guest(machine().device(conventional("c")), &[], || {
        let lived = by_its_own_copy(live(&["/dev/vm/cn1".into()], FORMAT_PLAIN));
        assert_eq!(lived.status.text("volume/devices/0/kind").unwrap(), "conventional");
    });
}

#[test]
fn on_a_paravirtual_disk_of_small_blocks() {
    in_guest(machine().device(Device::VirtioBlock { size: SIZE, block: 512 }), &[], || drop(live(&["/dev/vda".into()], FORMAT_PLAIN)));
}

#[test]
fn on_a_scsi_disk() {
    in_guest(machine().device(Device::Scsi { size: SIZE, block: 512 }), &[], || drop(live(&["/dev/sda".into()], FORMAT_PLAIN)));
}

#[test]
fn on_dm_linear_over_a_zns_drive() {
    in_guest(machine().device(zoned()), &["dmsetup"], || {
        drop(live(&[Mapped::linear("whole", Path::new("/dev/vm/zn1")).path()], FORMAT_ZONED));
    });
}

#[test]
fn on_an_encrypted_device() {
    in_guest(machine().device(conventional("c")), &["dmsetup"], || {
        drop(live(&[encrypted(Path::new("/dev/vm/cn1"))], FORMAT_PLAIN));
    });
}

#[test]
fn on_a_striped_array() {
    let half = |name| conventional(name).size(SIZE / 2 + 8 * MIB);
    in_guest(machine().device(half("a")).device(half("b")), &["mdadm"], || {
        drop(live(&[striped(Path::new("/dev/vm/an1"), Path::new("/dev/vm/bn1"))], FORMAT_PLAIN));
    });
}

#[test]
fn on_a_loop_device() {
    in_guest(machine(), &[], || {
        let file = Path::new(SCRATCH).join("disk");
        drop(live(&[looped(&file, SIZE, false)], FORMAT_PLAIN));
    });
}
