//! The image as a drive: state machine, persistence, damage, copies.

use super::*;
use crate::units::Blocks;

const MIB: u64 = 1 << 20;

/// 64 zones of 1 MiB with a capacity of 3/4, six active and four open.
fn small(block_size: u32) -> ImageOptions {
    ImageOptions {
        size: 64 * MIB,
        zone_size: MIB,
        zone_capacity: Some(MIB / 4 * 3),
        block_size,
        max_open: 4,
        max_active: 6,
        ..ImageOptions::default()
    }
}

fn bytes(len: usize, seed: u8) -> BufSlice {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = seed.wrapping_add((at / 512) as u8));
    BufSlice::whole(buf)
}

fn write(image: &ImageDevice, lba: u64, data: &BufSlice) -> Result<()> {
    image.write(Lba(lba), vec![data.clone()], IoClass::Foreground)
}

fn read(image: &ImageDevice, lba: u64, len: usize) -> Result<AlignedBuf> {
    image.read(Lba(lba), AlignedBuf::zeroed(len), IoClass::Foreground)
}

#[test]
fn what_is_written_is_read_back_also_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    for block_size in [512, 4096] {
        let path = directory.path().join(format!("image-{block_size}"));
        let image = ImageDevice::create(&path, &small(block_size)).unwrap();
        let zone_size = image.geometry().zone_size.0;
        let data = bytes(16384, 7);
        write(&image, zone_size, &data).unwrap();
        assert_eq!(&read(&image, zone_size, 16384).unwrap()[..], &data[..]);
        assert!(read(&image, zone_size + data.len() as u64 / u64::from(block_size), 4096).unwrap().iter().all(|&byte| byte == 0));
        image.flush().unwrap();
        drop(image);
        let image = ImageDevice::open(&path, true).unwrap();
        let zone = image.report(1..2).unwrap()[0];
        assert_eq!((zone.state, zone.written), (ZoneState::Closed, Blocks(16384 / u64::from(block_size))));
        assert_eq!(&read(&image, zone_size, 16384).unwrap()[..], &data[..]);
        assert!(image.repairs().is_empty());
    }
}
