//! NVMe over fabrics: a target in the guest passes a drive through (`nvmet`, passthru), and the host reaches it again by loop and by TCP.

use crate::brief::{self, PLAIN, ZONED, by_device};
use crate::copied::{copy_within, road};
use crate::raw::{copies, fill, open};
use crate::tool;
use guest::{Kernel, Machine, Namespace};
use std::path::Path;
use tests::guest::fabrics::{Transport, connect};
use tests::guest::in_guest;
use zns::{ZoneAction, ZoneId};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

fn drives(kernel: Kernel) -> Machine {
    let zones = Namespace::zoned("z").size(40 * 4 * MIB).zones(4 * MIB, 4 * MIB);
    Machine::new(kernel).device(Namespace::conventional("c").size(SIZE)).device(zones)
}

#[test]
fn over_fabrics_by_loop_and_by_tcp_the_drive_copies() {
    in_guest(drives(Kernel::Long6_12), &["busybox"], || reached_again(Path::new("/dev/vm/cn1"), Path::new("/dev/vm/zn1")));
}

#[test]
fn under_the_new_kernel_too() {
    in_guest(drives(Kernel::New7_3), &["busybox"], || reached_again(Path::new("/dev/vm/cn1"), Path::new("/dev/vm/zn1")));
}

/// A volume and the tool, on a drive without zones by loop and on a zoned one by TCP.
fn reached_again(plain: &Path, zoned: &Path) {
    let plain = connect(Transport::Loop, plain);
    by_device(&brief::live(std::slice::from_ref(&plain), PLAIN, &[]), "nvme");
    fill(&plain, 5, 0, SIZE);
    copy_within(&plain, SIZE, "none", "nvme");
    assert_eq!(road(&plain, "none").0, "nvme");
    let zoned = connect(Transport::Tcp, zoned);
    let status = brief::live(std::slice::from_ref(&zoned), ZONED, &[]);
    by_device(&status, "nvme");
    assert_eq!(status.text("volume/devices/0/kind").unwrap(), "zns");
    assert_eq!(road(&zoned, "none").0, "nvme");
    // Nearly all of its time is reading back over TCP, some seconds for a few MiB on one processor: the copy itself takes a fraction of one.
    zones_by_ferrycopy(&zoned);
}

/// The tool on zones, all of which are emptied first.
fn zones_by_ferrycopy(zoned: &Path) {
    let device = open(zoned);
    (0..device.geometry().zones).for_each(|zone| device.manage(ZoneId(zone), ZoneAction::Reset).unwrap());
    drop(device);
    fill(zoned, 6, 0, 3 * MIB);
    let said = copies(zoned, &[(4096, MIB), (2 * MIB, MIB / 2)], zoned, 8 * MIB, &["--route", "offload"]);
    tool::by_device(&said, MIB + MIB / 2, "nvme");
}
