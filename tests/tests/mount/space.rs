//! Space: fallocate in its modes, and what statfs says.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use tests::{Mounted, errno};

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn allocate(file: &File, flags: FallocateFlags, at: u64, length: u64) -> std::io::Result<()> {
    Ok(fallocate(file, flags, at, length)?)
}

#[test]
fn fallocate_reserves_without_changing_what_is_read() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let file = create(&mounted.path("f"));
    file.write_all_at(b"here already", 10_000).unwrap();
    allocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    allocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    let read = fs::read(mounted.path("f")).unwrap();
    assert_eq!(&read[10_000..10_012], b"here already");
    assert!(read[..10_000].iter().chain(&read[10_012..]).all(|b| *b == 0));
    assert_eq!(errno(allocate(&file, FallocateFlags::empty(), 0, 0)), libc::EINVAL);
    drop(file);
    mounted.remount();
    assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), 1 << 20);
    mounted.finish();
}

#[test]
fn what_was_preallocated_is_really_there() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let file = create(&mounted.path("reserved"));
    let length = 64 << 20;
    allocate(&file, FallocateFlags::empty(), 0, length).unwrap();
    // Everything else is filled until nothing goes any more.
    let other = create(&mounted.path("other"));
    let mut at = 0;
    loop {
        match other.write_at(&[5; 1 << 20], at) {
            Ok(n) => at += n as u64,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                break;
            }
        }
    }
    // A write error may have been reported by the kernel already; the rest is told here.
    let _ = other.sync_all();
    for at in (0..length).step_by(1 << 20) {
        file.write_all_at(&[6; 1 << 20], at).unwrap_or_else(|error| panic!("preallocated space at {at}: {error}"));
    }
    file.sync_all().unwrap();
    drop((file, other));
    mounted.finish();
}

#[test]
fn holes_are_punched_and_ranges_zeroed() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut model = vec![0xaa; 200_000];
    let path = mounted.path("f");
    let file = create(&path);
    file.write_all_at(&model, 0).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    let cases = [
        (punch, 4096, 40_960),
        (punch, 50_001, 9_999),
        (punch, 70_000, 10),
        (FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 100_003, 20_000),
        (FallocateFlags::ZERO_RANGE, 150_000, 8192),
        (punch, 190_000, 100_000),
        (punch, 500_000, 4096),
    ];
    for (flags, at, length) in cases {
        allocate(&file, flags, at, length).unwrap();
        let end = ((at + length) as usize).min(model.len());
        if (at as usize) < end {
            model[at as usize..end].fill(0);
        }
        assert!(fs::read(&path).unwrap() == model, "{flags:?} {at}+{length}");
    }
    allocate(&file, FallocateFlags::ZERO_RANGE, 195_000, 20_000).unwrap();
    model[195_000..].fill(0);
    model.resize(215_000, 0);
    assert!(fs::read(&path).unwrap() == model, "zeroing beyond the end grows the file");
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() < blocks + 64, "holes give space back");
    assert_eq!(errno(allocate(&file, FallocateFlags::PUNCH_HOLE, 0, 4096)), libc::EOPNOTSUPP, "only with KEEP_SIZE");
    drop(file);
    mounted.crash();
    assert!(fs::read(&path).unwrap() == model);
    mounted.finish();
}

#[test]
fn statfs_tells_the_truth() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let empty = statvfs(mounted.root()).unwrap();
    let status = mounted.status().unwrap();
    assert_eq!(empty.f_blocks * empty.f_frsize, status.number("space/total").unwrap(), "total");
    assert_eq!(empty.f_namemax, 255);
    assert!(empty.f_bavail <= empty.f_bfree && empty.f_bfree <= empty.f_blocks);
    let total = empty.f_blocks * empty.f_frsize;
    assert!(total > (512 << 20) * 6 / 10 && total <= 512 << 20, "of 512 MiB {total} bytes are there for users");
    fs::write(mounted.path("f"), vec![1; 100 << 20]).unwrap();
    File::open(mounted.path("f")).unwrap().sync_all().unwrap();
    let full = statvfs(mounted.root()).unwrap();
    let taken = (empty.f_bavail - full.f_bavail) * empty.f_frsize;
    // What was available before may have been a little less than the truth, never more.
    assert!((96 << 20..104 << 20).contains(&taken), "100 MiB of data take {taken} bytes");
    fs::remove_file(mounted.path("f")).unwrap();
    File::open(mounted.root()).unwrap().sync_all().unwrap();
    mounted.remount();
    let again = statvfs(mounted.root()).unwrap();
    assert!(again.f_bavail + 512 >= empty.f_bavail, "{} of {} blocks came back", again.f_bavail, empty.f_bavail);
    mounted.finish();
}

#[test]
fn blocks_of_a_file_count_what_it_takes() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = create(&mounted.path("f"));
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 2048);
    file.set_len(8192).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 16);
    assert_eq!(file.metadata().unwrap().blksize() % 4096, 0);
    drop(file);
    mounted.finish();
}
