//! Write pointers that move behind the back of Linux's block layer, as another program's passthrough commands move them: a nuisance, and not the end.

use crate::brief::{self, ZONED};
use crate::tool::{self, ferrycopy};
use guest::{Kernel, Machine, Namespace};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use tests::guest::in_guest;
use tests::mounted::assert_clean;
use zns::kernel::KernelDevice;
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZoneId, ZonedDevice};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// The drive copies a block of its own to `to` (bytes), by a command that the block layer does not see.
#[track_caller]
fn moves_behind_the_back(drive: &Path, from: u64, to: u64) {
    let name = drive.display();
    let arguments = ["copy", "--force", "--route", "offload", "--json"].map(String::from);
    let outcome = ferrycopy(arguments.into_iter().chain([format!("{name}:{from}:{BLOCK}"), format!("{name}:{to}")]));
    assert!(outcome.success(), "{outcome}");
}

fn pattern(seed: u64) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(64 << 10);
    harness::Pattern(seed).fill(0, &mut buf);
    buf
}

#[test]
fn a_stale_write_pointer_of_the_kernel_is_put_right_and_a_volume_goes_on_when_somebody_wrote_into_its_zones() {
    let drive = Namespace::zoned("z").size(40 * 4 * MIB).zones(4 * MIB, 4 * MIB);
    in_guest(Machine::new(Kernel::Long6_12).device(drive), &[], || {
        let drive = Path::new("/dev/vm/zn1");
        by_the_device(drive);
        by_the_tool(drive);
        by_a_volume(drive);
    });
}

/// A device that knows the true write pointer writes there, although the kernel believes in another.
fn by_the_device(drive: &Path) {
    let device = KernelDevice::open(drive, false).unwrap();
    let start = device.geometry().zone_start(ZoneId(3));
    let write = |lba: Lba, seed| device.write(lba, vec![BufSlice::whole(pattern(seed))], IoClass::Log);
    write(start, 1).unwrap();
    for round in 0..3 {
        let at = start.0 + 16 + round * 17;
        moves_behind_the_back(drive, start.0 * BLOCK, at * BLOCK);
        // Two writes in one batch: the second one is cancelled with the first, and carried out after it.
        let io = |lba, seed| zns::Io::Write { lba: Lba(lba), data: vec![BufSlice::whole(pattern(seed))] };
        if round == 2 {
            let ticket = device.submit(vec![io(at + 1, 7), io(at + 17, 8)], IoClass::Log).unwrap();
            device.complete(ticket).into_iter().for_each(|done| drop(done.unwrap()));
            let back = device.read(Lba(at + 17), AlignedBuf::zeroed(64 << 10), IoClass::Log).unwrap();
            assert!(back[..] == pattern(8)[..]);
        } else {
            write(Lba(at + 1), 7).unwrap();
        }
        let back = device.read(Lba(at + 1), AlignedBuf::zeroed(64 << 10), IoClass::Log).unwrap();
        assert!(back[..] == pattern(7)[..]);
        let moved = device.read(Lba(at), AlignedBuf::zeroed(BLOCK as usize), IoClass::Log).unwrap();
        assert!(moved[..] == pattern(1)[..BLOCK as usize]);
    }
    // Where the write pointer is not, nothing is written, and the answer says where it is.
    let behind = write(start, 9).unwrap_err();
    assert!(matches!(behind, zns::DeviceError::NotAtWritePointer { write_pointer, .. } if write_pointer > start), "{behind}");
    device.manage(ZoneId(3), zns::ZoneAction::Reset).unwrap();
    write(start, 1).unwrap();
}

/// The tool writes through the host where the device has just copied to, and the other way round.
fn by_the_tool(drive: &Path) {
    let name = drive.display();
    let (from, to) = (3 * 4 * MIB, 20 * 4 * MIB);
    let mut at = to;
    for route in ["host", "offload", "host", "host", "offload"] {
        let words = [format!("{name}:{from}:32K"), format!("{name}:{at}")];
        let report = tool::report(&["copy", "--json", "--route", route, &words[0], &words[1]]);
        assert_eq!(report["bytes"].as_u64(), Some(32 << 10), "{report}");
        at += 32 << 10;
    }
    let device = KernelDevice::open(drive, true).unwrap();
    for n in 0..5 {
        let back = device.read(Lba(to / BLOCK + n * 8), AlignedBuf::zeroed(32 << 10), IoClass::Log).unwrap();
        assert!(back[..] == pattern(1)[..32 << 10], "part {n}");
    }
}

/// Somebody has the drive copy into every zone of a mounted volume that is open: those zones are lost for writing, and nothing else is.
fn by_a_volume(drive: &Path) {
    let (_directory, mut volume) = brief::volume(&[drive.to_owned()], ZONED, &["gc=manual"]);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    let first = brief::overwritten(&volume, "first", 1);
    let open = open_zones(&volume);
    assert!(open.len() >= 2, "a zone for data and one for the log are open: {open:?}");
    let source = open[0].0 * 4 * MIB;
    for &(zone, written) in &open {
        moves_behind_the_back(drive, source, zone * 4 * MIB + written);
    }
    let second = brief::overwritten(&volume, "second", 2);
    brief::clean(&volume);
    brief::copy(&volume, "second", "third");
    let status = volume.status().unwrap();
    assert_eq!(status.value("volume/mounted_read_only").unwrap(), false, "{}\n{}", status.0["volume"], volume.log());
    File::open(volume.root()).unwrap().sync_all().unwrap();
    // Not only after an orderly end.
    volume.kill();
    assert_clean(&volume);
    volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
    for (name, content) in [("first", &first), ("second", &second), ("third", &second)] {
        assert!(fs::read(volume.path(name)).unwrap() == *content, "{name} is wrong");
    }
    volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
    assert_clean(&volume);
}

/// Zones that the volume has open, with what it has written of them; not those of the superblock.
fn open_zones(volume: &harness::Volume) -> Vec<(u64, u64)> {
    let said = volume.ferryfs(["zones".as_ref(), "--json".as_ref(), volume.root().as_os_str()]).unwrap().ok().unwrap();
    let zones: Value = serde_json::from_str(&said.stdout).unwrap();
    let zones = zones.as_array().or_else(|| zones["zones"].as_array()).unwrap_or_else(|| panic!("{}", said.stdout));
    let open = zones.iter().filter(|zone| zone["state"] == "open" && zone["zone"].as_u64().unwrap() > 1);
    open.map(|zone| (zone["zone"].as_u64().unwrap(), zone["write_pointer"].as_u64().unwrap())).collect()
}
