//! The engine over real files: an image that copies by itself, and a plain file that does not.

use crate::{CopyEngine, CopyRequest, EngineConfig, RoadPreference, SourceRange, Target, VerifyMode};
use std::sync::Arc;
use zns::conventional::{ConventionalDevice, ConventionalOptions};
use zns::image::{ImageDevice, ImageOptions};
use zns::{AlignedBuf, Blocks, BufSlice, DeviceId, IoClass, Lba, ZoneAction, ZoneId, ZonedDevice};

const MIB: u64 = 1 << 20;

#[test]
fn images_copy_by_themselves_and_files_by_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let options = ImageOptions { size: 64 * MIB, zone_size: MIB, zone_capacity: None, block_size: 512, ..ImageOptions::default() };
    let image = Arc::new(ImageDevice::create(directory.path().join("image"), &options).unwrap());
    let plain = directory.path().join("plain");
    std::fs::File::create(&plain).unwrap().set_len(32 * MIB).unwrap();
    let plain = Arc::new(ConventionalDevice::open(&plain, &ConventionalOptions { zone_size: Some(MIB), ..Default::default() }).unwrap());
    for zone in 0..32 {
        plain.manage(ZoneId(zone), ZoneAction::Reset).unwrap();
    }
    let devices: Vec<Arc<dyn ZonedDevice>> = vec![image.clone(), plain.clone()];
    let mut payload = AlignedBuf::zeroed(MIB as usize);
    for (index, word) in payload.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    for device in &devices {
        device.write(Lba(0), vec![BufSlice::whole(payload.clone())], IoClass::Foreground).unwrap();
    }
    let engine = CopyEngine::for_devices(devices.clone(), EngineConfig { verify: VerifyMode::Full, ..EngineConfig::default() });
    let block = |device: usize| u64::from(devices[device].geometry().block_size);
    for (from, to, zone, expected) in [
        (0, 0, 1, RoadPreference::Offload),
        (0, 0, 2, RoadPreference::Offload),
        (0, 1, 1, RoadPreference::Host),
        (1, 0, 3, RoadPreference::Host),
        (1, 1, 2, RoadPreference::Host),
    ] {
        let road = engine.road_for(DeviceId(from), DeviceId(to)).unwrap();
        assert_eq!(road, expected);
        let pieces = [(64u64, 100u64), (10, 3), (13, 1), (200, 30)].map(|(at, len)| (at * 4096, len * 4096));
        let sources = pieces
            .map(|(at, len)| SourceRange {
                device: DeviceId(from),
                lba: Lba(at / block(usize::from(from))),
                blocks: Blocks(len / block(usize::from(from))),
            })
            .to_vec();
        let wanted: Vec<u8> = pieces.iter().flat_map(|(at, len)| payload[*at as usize..(at + len) as usize].to_vec()).collect();
        let target = Target { device: DeviceId(to), lba: devices[usize::from(to)].geometry().zone_start(ZoneId(zone)) };
        let checksums = wanted.chunks(4096).map(crc32c::crc32c).collect();
        let result = engine.copy(CopyRequest { sources, target, class: IoClass::Copy, checksums, road }).unwrap();
        assert_eq!((result.sources_done, result.failure), (4, None));
        let found = devices[usize::from(to)].read(target.lba, AlignedBuf::zeroed(wanted.len()), IoClass::Copy).unwrap();
        assert!(found[..] == wanted[..]);
    }
    let counters = engine.counters(IoClass::Copy);
    let each = 134 * 4096;
    assert_eq!((counters.offloaded, counters.host_read, counters.host_written), (2 * each, 3 * each, 3 * each));
    assert_eq!(image.copied_bytes(), 2 * each);
}
