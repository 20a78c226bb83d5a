//! A file of thousands of fragments under a cache that holds a few nodes: every operation on it must load what it needs as it goes.

use super::{B, fresh_on, make, mount_with, options};
use fs::volume::{SetAttr, WriteOptions};
use fs::{BLOCK, FsError};
use zns::sim::SimConfig;

const FRAGMENTS: u64 = 4000;

fn block_of(n: u64) -> Vec<u8> {
    vec![(n % 251) as u8 + 1; BLOCK]
}

#[test]
fn a_file_of_fragments_needs_little_memory() {
    let drive = fresh_on(SimConfig::zoned(128, 1));
    let mut small = options(2);
    small.cache_size = 64 << 10;
    let volume = mount_with(&drive, small.clone());
    let (file, copy) = (make(&volume, "a"), make(&volume, "b"));
    for i in 0..FRAGMENTS {
        let n = i * 1021 % FRAGMENTS;
        volume.write(file, 2 * n * B, &block_of(n), &WriteOptions::default()).expect("written");
    }
    volume.shutdown().expect("ends");
    drop(volume);
    small.secret = Some([9; 32]);
    let volume = mount_with(&drive, small);
    let inode = volume.getattr(file).expect("there");
    assert_eq!((inode.blocks, inode.size), (FRAGMENTS, (2 * FRAGMENTS - 1) * B));
    let check = |file, holes: bool| {
        for n in 0..FRAGMENTS {
            let read = volume.read(file, 2 * n * B, 2 * BLOCK as u32).expect("read");
            assert!(read[..BLOCK] == block_of(n)[..] && read[BLOCK..].iter().all(|byte| *byte == 0), "fragment {n}");
            if holes {
                assert_eq!(volume.seek(file, 2 * n * B, libc::SEEK_HOLE).expect("a hole"), (2 * n + 1) * B);
            }
        }
    };
    check(file, true);
    let mut done = 0;
    while done < inode.size {
        done += volume.copy_file_range(file, done, copy, done, inode.size - done).expect("copied");
    }
    check(copy, true);
    assert_eq!(volume.getattr(copy).expect("there").blocks, FRAGMENTS);
    assert_eq!(volume.status().copy_file_range.host_written, 0);
    volume.fallocate(copy, 0, 0, inode.size).expect("allocated");
    check(copy, false);
    assert_eq!(volume.getattr(copy).expect("there").blocks, 2 * FRAGMENTS - 1);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    volume.fallocate(copy, punch, 0, inode.size).expect("punched");
    assert_eq!(volume.getattr(copy).expect("there").blocks, 0);
    assert!(matches!(volume.seek(copy, 0, libc::SEEK_DATA), Err(FsError::NoSuchOffset)));
    let set = SetAttr { size: Some(100), ..SetAttr::default() };
    let cut = volume.setattr(file, &set).expect("cut");
    assert_eq!((cut.blocks, cut.size), (1, 100));
    assert_eq!(volume.read(file, 0, 200).expect("read")[..], block_of(0)[..100]);
    volume.shutdown().expect("ends");
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}
