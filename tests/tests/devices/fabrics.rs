//! NVMe over fabrics: a target in the guest passes a drive through (`nvmet`, passthru), and the host reaches it again by loop and by TCP.

use crate::brief::{self, PLAIN, ZONED, by_device};
use crate::copied::{copy_within, road};
use crate::raw::fill;
use guest::{Kernel, Machine, Namespace};
use std::path::Path;
use tests::guest::fabrics::{Transport, connect};
use tests::guest::in_guest;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

#[test]
fn over_fabrics_by_loop_and_by_tcp_the_drive_copies() {
    let zones = Namespace::zoned("z").size(40 * 4 * MIB).zones(4 * MIB, 4 * MIB);
    let devices = Machine::new(Kernel::Long6_12).device(Namespace::conventional("c").size(SIZE)).device(zones);
    in_guest(devices, &["busybox"], || {
        let plain = connect(Transport::Loop, Path::new("/dev/vm/cn1"));
        by_device(&brief::live(std::slice::from_ref(&plain), PLAIN, &[]), "nvme");
        fill(&plain, 5, 0, SIZE);
        copy_within(&plain, SIZE, "none", "nvme");
        assert_eq!(road(&plain, "none").0, "nvme");
        let zoned = connect(Transport::Tcp, Path::new("/dev/vm/zn1"));
        let status = brief::live(std::slice::from_ref(&zoned), ZONED, &[]);
        by_device(&status, "nvme");
        assert_eq!(status.text("volume/devices/0/kind").unwrap(), "zns");
        assert_eq!(road(&zoned, "none").0, "nvme");
    });
}
