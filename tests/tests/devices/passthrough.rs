//! Kernels that let programs send no command to an NVMe drive, or not in every way: the next way is taken, and where none is left the host copies and says
//! why. Every byte is compared.

use crate::brief::{self, ZONED};
use crate::copied::{copy_within_zones, road};
use crate::raw::{copies, fill, source};
use crate::tool::ferrycopy;
use guest::{Device, Kernel, Machine, Namespace};
use std::fs;
use std::path::{Path, PathBuf};
use tests::guest::in_guest;
use tests::guest::restrict;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const DRIVE: &str = "/dev/vm/zn1";
/// Of the tool's copies, so that each has zones of its own.
const PLACES: [u64; 2] = [40 * MIB, 50 * MIB];

#[test]
fn without_io_uring_by_ioctl_and_without_either_by_the_host() {
    let drive = Namespace::zoned("z").size(72 * MIB).zones(MIB, MIB).copy(64, 256, 31);
    in_guest(Machine::new(Kernel::Long6_12).device(drive).device(Device::VirtioBlock { size: 16 * MIB, block: 512 }), &[], || {
        let drive = PathBuf::from(DRIVE);
        // No io_uring for anybody: what the drive copies now, it is asked by ioctl.
        restrict::io_uring(false);
        copy_within_zones(&drive);
        brief::by_device(&brief::live(std::slice::from_ref(&drive), ZONED, &[]), "nvme");
        // The character devices are newer than passthrough: without them, ioctls on the block device.
        let character = Path::new("/dev/vm/zg1").canonicalize().unwrap();
        fs::remove_file(&character).unwrap();
        emptied(&drive);
        copy_within_zones(&drive);
        // It says what it is and takes no command: that comes out with the first one.
        restrict::refuse_nvme_commands();
        emptied(&drive);
        let refused = by_host(&drive, PLACES[0]);
        assert!(!refused.is_empty(), "the road looked open until the first command");
        brief::by_host(&brief::live(std::slice::from_ref(&drive), ZONED, &[]), &["Copy", "Permission denied"]);
        // Nothing at all.
        restrict::forget_nvme_requests();
        let words = "no passthrough of NVMe commands";
        let (taken, reason) = nvme(&drive);
        assert!(taken == "host" && reason.contains(words) && reason.contains("nvme0n1"), "{taken}: {reason}");
        emptied(&drive);
        assert!(by_host(&drive, PLACES[1]).is_empty(), "the road was known to be closed");
        let demanded = ferrycopy(["copy", "--route", "offload", &source(&drive, &[(0, 64 * KIB)]), &format!("{DRIVE}:60M")]);
        assert!(demanded.code == Some(1) && demanded.stderr.contains(words), "{demanded}");
        // A volume goes the host's way from the beginning, as on a drive without Copy, and says so.
        let (_directory, mut volume) = brief::volume(&[drive], ZONED, &[]);
        volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
        let status = volume.status().unwrap();
        let said = ["route", "route_reason"].map(|name| status.text(&format!("volume/devices/0/{name}")).unwrap().to_owned());
        assert!(said[0] == "host" && said[1].contains(words), "{said:?}");
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
        // A disk of which no kernel knows any such way.
        let disk = Path::new("/dev/vda");
        fill(disk, 3, 0, 16 * MIB);
        let said = copies(disk, &[(512, 3 * MIB)], disk, 8 * MIB + 1024, &[]);
        assert_eq!((said["route"].as_str(), said["host_written"].as_u64()), (Some("host"), Some(3 * MIB)), "{said}");
        let (taken, reason) = nvme(disk);
        assert!(taken == "host" && reason.contains("vda is not an NVMe namespace"), "{taken}: {reason}");
    });
}

/// The road that is taken, and why that of NVMe Copy is closed.
fn nvme(device: &Path) -> (String, String) {
    let (taken, closed) = road(device, "none");
    (taken, closed.into_iter().find(|(road, _)| road == "nvme").expect("the road is told of").1)
}

/// Every zone is reset: a volume was there.
fn emptied(drive: &Path) {
    let device = crate::raw::open(drive);
    (0..device.geometry().zones).for_each(|zone| device.manage(zns::ZoneId(zone), zns::ZoneAction::Reset).unwrap());
}

/// The tool's copies go through the host; gives the failures of the device on the way.
fn by_host(drive: &Path, to: u64) -> serde_json::Map<String, serde_json::Value> {
    fill(drive, 4, 0, 2 * MIB);
    let said = copies(drive, &[(4 * KIB, 300 * KIB), (MIB + 64 * KIB, 512 * KIB)], drive, to, &[]);
    let number = |name: &str| said[name].as_u64();
    assert_eq!((number("bytes"), number("offloaded"), number("host_written")), (Some(812 * KIB), Some(0), Some(812 * KIB)), "{said}");
    assert_eq!(said["route"], "host", "{said}");
    said["fallbacks"].as_object().unwrap().clone()
}
