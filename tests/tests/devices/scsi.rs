//! EXTENDED COPY on Linux's own SCSI target: within a disk, between two, below a partition, below a volume; and without it.

use crate::brief::{self, PLAIN};
use crate::copied::copy_within;
use crate::raw;
use crate::tool::by_device;
use copy_backend::{CopyEngine, CopyRequest, EngineConfig, Road, RoadPreference, SourceRange, Target};
use guest::{Kernel, Machine};
use harness::{Pattern, VolumeSpec};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests::guest::in_guest;
use tests::guest::stacks::{appears, call};
use tests::guest::targets::LioDisk;
use tests::mounted::{assert_clean, programs};
use zns::conventional::{ConventionalDevice, ConventionalOptions};
use zns::{AlignedBuf, Blocks, BufSlice, DeviceId, IoClass, Lba, ZoneAction, ZoneId, ZonedDevice};

const MIB: u64 = 1 << 20;
const UNIT: u64 = 4096;
/// Of a disk: it has as few zones as a device may have.
const SIZE: u64 = 96 * MIB;

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12)
}

/// A disk as zones of 4 MiB, all empty.
fn device(path: &Path) -> Arc<dyn ZonedDevice> {
    let device = ConventionalDevice::open(path, &ConventionalOptions { zone_size: Some(4 * MIB), ..Default::default() }).unwrap();
    (0..device.geometry().zones).for_each(|zone| device.manage(ZoneId(zone), ZoneAction::Reset).unwrap());
    Arc::new(device)
}

/// Fills the first zones of a device with data that differs in every block.
fn fill(device: &dyn ZonedDevice, seed: u64) {
    for zone in 0..4 {
        let bytes = Pattern(seed + u64::from(zone)).bytes(0, 4 << 20);
        for (index, part) in bytes.chunks(1 << 20).enumerate() {
            let lba = device.geometry().zone_start(ZoneId(zone)) + Blocks(index as u64 * MIB / u64::from(device.geometry().block_size));
            device.write(lba, vec![BufSlice::whole(AlignedBuf::from_slice(part))], IoClass::Foreground).unwrap();
        }
    }
    device.flush().unwrap();
}

fn read(device: &dyn ZonedDevice, at: u64, len: u64) -> Vec<u8> {
    let lba = Lba(at / u64::from(device.geometry().block_size));
    let (mut lba, mut bytes) = (lba, Vec::new());
    for _ in 0..len.div_ceil(MIB) {
        let part = (len - bytes.len() as u64).min(MIB);
        bytes.extend_from_slice(&device.read(lba, AlignedBuf::zeroed(part as usize), IoClass::Foreground).unwrap());
        lba = lba + Blocks(part / u64::from(device.geometry().block_size));
    }
    bytes
}

/// Copies 40 scattered pieces from one device to a zone of another by EXTENDED COPY, and looks at everything.
fn copies(devices: &[Arc<dyn ZonedDevice>], engine: &CopyEngine, from: u8, to: u8, zone: u32) {
    let block = |device: u8| u64::from(devices[usize::from(device)].geometry().block_size);
    let pieces: Vec<(u64, u64)> = (0..40).map(|n| (n * 97 * UNIT, (1 + n % 16) * UNIT)).collect();
    let source =
        |(at, len): &(u64, u64)| SourceRange { device: DeviceId(from), lba: Lba(at / block(from)), blocks: Blocks(len / block(from)) };
    let start = u64::from(zone) * 4 * MIB;
    let total: u64 = pieces.iter().map(|(_, len)| len).sum();
    let expected: Vec<u8> = pieces.iter().flat_map(|(at, len)| read(&*devices[usize::from(from)], *at, *len)).collect();
    let around = |devices: &[Arc<dyn ZonedDevice>]| {
        let to = &*devices[usize::from(to)];
        (read(to, start - MIB, MIB), read(to, start + total, MIB))
    };
    let neighbours = around(devices);
    let request = CopyRequest {
        sources: pieces.iter().map(source).collect(),
        target: Target { device: DeviceId(to), lba: Lba(start / block(to)) },
        class: IoClass::Cleaning,
        checksums: Vec::new(),
        road: RoadPreference::Offload,
    };
    let result = engine.copy(request).unwrap();
    assert_eq!(
        (result.sources_done, result.failure, result.road),
        (40, None, Road::ScsiXcopy),
        "{:?}",
        engine.route(DeviceId(from), DeviceId(to))
    );
    assert_eq!((result.bytes_done, result.offloaded), (total, total));
    devices[usize::from(to)].flush().unwrap();
    assert!(read(&*devices[usize::from(to)], start, total) == expected, "copied wrongly");
    assert!(around(devices) == neighbours, "a neighbour changed");
    let counters = engine.counters(IoClass::Cleaning);
    assert_eq!((counters.host_read, counters.host_written), (0, 0));
}

fn lio(number: u32, block: u32) -> LioDisk {
    LioDisk { number, size: SIZE >> 20, block, copies: true }
}

fn within_and_between(block: u32) {
    let paths = [lio(1, block).create(), lio(2, block).create()];
    let devices: Vec<Arc<dyn ZonedDevice>> = paths.iter().map(|path| device(path)).collect();
    devices.iter().zip([100, 200]).for_each(|(device, seed)| fill(&**device, seed));
    let engine = CopyEngine::for_devices(devices.clone(), EngineConfig::default());
    for (zone, (from, to)) in [(0, 0), (0, 1), (1, 0)].into_iter().enumerate() {
        copies(&devices, &engine, from, to, 10 + zone as u32);
        let status = engine.route(DeviceId(from), DeviceId(to));
        eprintln!("EXTENDED COPY of LIO, blocks of {block}: {:?}", status.limits);
        assert_eq!((status.road, status.simulated), (Road::ScsiXcopy, false));
    }
    drop((engine, devices));
    by_the_tool(&paths);
}

/// The same disks by `ferrycopy`, which holds all of them against what has to be there.
fn by_the_tool(paths: &[PathBuf; 2]) {
    let [first, second] = paths;
    raw::fill(first, 7, 0, SIZE);
    raw::fill(second, 8, 0, SIZE);
    copy_within(first, SIZE, "none", "scsi-xcopy");
    let ranges = [(40960, 8192), (5 * MIB, 3 * MIB), (UNIT, UNIT)];
    by_device(&raw::copies(first, &ranges, second, 9 * MIB + UNIT, &[]), 3 * MIB + 8192 + UNIT, "scsi-xcopy");
}

#[test]
fn extended_copy_within_a_disk_and_between_two() {
    in_guest(machine(), &[], || within_and_between(512));
}

#[test]
fn extended_copy_with_blocks_of_4096_bytes() {
    in_guest(machine(), &[], || within_and_between(4096));
}

#[test]
fn extended_copy_below_a_partition_uses_the_addresses_of_the_disk() {
    in_guest(machine(), &["addpart"], || {
        let disk = LioDisk { size: 192, ..lio(1, 512) }.create();
        // In sectors of 512 bytes; only the kernel needs to know of it.
        call("addpart", [disk.as_os_str(), "1".as_ref(), "40960".as_ref(), "280000".as_ref()]);
        let partition = Path::new("/dev").join(format!("{}1", disk.file_name().unwrap().to_string_lossy()));
        appears(&partition);
        let before = {
            let mut table = vec![0; 40960 * 512];
            File::open(&disk).unwrap().read_exact_at(&mut table, 0).unwrap();
            table
        };
        let devices = vec![device(&partition)];
        fill(&*devices[0], 300);
        let engine = CopyEngine::for_devices(devices.clone(), EngineConfig::default());
        copies(&devices, &engine, 0, 0, 12);
        let mut after = vec![0; 40960 * 512];
        File::open(&disk).unwrap().read_exact_at(&mut after, 0).unwrap();
        assert!(before == after, "something before the partition changed");
    });
}

#[test]
fn without_extended_copy_the_host_copies_and_says_why() {
    in_guest(machine(), &[], || {
        let disk = LioDisk { copies: false, ..lio(1, 512) }.create();
        let devices = vec![device(&disk)];
        let engine = CopyEngine::for_devices(devices, EngineConfig::default());
        let status = engine.route(DeviceId(0), DeviceId(0));
        assert_eq!(status.road, Road::Host);
        assert!(status.reason.contains("third-party copies") || status.reason.contains("OPERATION CODE"), "{}", status.reason);
        eprintln!("without EXTENDED COPY: {}", status.reason);
        let reason = status.reason;
        drop(engine);
        raw::fill(&disk, 7, 0, SIZE);
        copy_within(&disk, SIZE, "none", "host");
        brief::by_host(&brief::live(&[disk], PLAIN, &[]), &[&reason]);
    });
}

#[test]
fn a_volume_on_a_scsi_disk_relocates_by_extended_copy() {
    in_guest(machine().memory(2048), &[], || {
        let disk = LioDisk { size: 256, ..lio(1, 512) }.create();
        let directory = Path::new(guest::machine::SCRATCH);
        let format = vec!["--zone-size".into(), "1M".into()];
        let spec = VolumeSpec { format, devices: vec![disk], options: vec!["gc=manual".into()], ..VolumeSpec::default() };
        let mut volume = harness::Volume::create(programs(), directory, spec).unwrap_or_else(|error| panic!("{error:#}"));
        volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(volume.status().unwrap().text("volume/devices/0/route").unwrap(), "scsi-xcopy");
        let file = File::create_new(volume.path("f")).unwrap();
        let mut content = Pattern(1).bytes(0, 24 << 20);
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        for unit in (0..content.len() / 65536).step_by(3) {
            let at = unit * 65536;
            let new = Pattern(2).bytes(at as u64, 65536);
            content[at..at + 65536].copy_from_slice(&new);
            file.write_all_at(&new, at as u64).unwrap();
        }
        file.sync_all().unwrap();
        let gc = volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()]).unwrap();
        assert!(gc.success(), "{gc}");
        let to = File::create_new(volume.path("copy")).unwrap();
        let (mut at, mut target) = (0, 0);
        while at < content.len() as u64 {
            let left = content.len() - at as usize;
            assert!(rustix::fs::copy_file_range(&file, Some(&mut at), &to, Some(&mut target), left).unwrap() > 0);
        }
        to.sync_all().unwrap();
        drop((file, to));
        let status = volume.status().unwrap();
        assert!(status.number("gc/offloaded").unwrap() >= 4 << 20, "{gc}");
        assert_eq!((status.number("gc/host_read").unwrap(), status.number("gc/host_written").unwrap()), (0, 0));
        assert_eq!(status.number("copy_file_range/offloaded").unwrap(), content.len() as u64);
        volume.remount().unwrap_or_else(|error| panic!("{error:#}"));
        assert!(fs::read(volume.path("f")).unwrap() == content && fs::read(volume.path("copy")).unwrap() == content);
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_clean(&volume);
    });
}
