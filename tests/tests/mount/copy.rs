//! copy_file_range(2): contents, what POSIX and Linux allow and refuse, and the road that the bytes took.

use harness::Pattern;
use harness::content::Dice;
use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use tests::{Mounted, errno};

fn create(path: &Path, pattern: u64, length: usize) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.write_all_at(&Pattern(pattern).bytes(0, length), 0).unwrap();
    file
}

fn once(from: &File, at: u64, to: &File, target: u64, length: u64) -> io::Result<u64> {
    let (mut at, mut target) = (at, target);
    Ok(rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut target), length as usize)? as u64)
}

/// Copies all of it, in as many calls as it takes; says how much was copied until the source's end.
fn copy(from: &File, at: u64, to: &File, target: u64, length: u64) -> io::Result<u64> {
    let mut done = 0;
    while done < length {
        match once(from, at + done, to, target + done, length - done)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

#[test]
fn aligned_copies_take_the_devices_road() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let length = 48 << 20;
    let from = create(&mounted.path("from"), 1, length);
    from.sync_all().unwrap();
    let before = mounted.status();
    let to = create(&mounted.path("to"), 0, 0);
    assert_eq!(copy(&from, 0, &to, 0, length as u64).unwrap(), length as u64);
    assert_eq!(to.metadata().unwrap().len(), length as u64);
    if let (Some(before), Some(after)) = (before, mounted.status()) {
        let since = |name: &str| after.since(&before, &format!("copy_file_range/{name}")).unwrap();
        assert_eq!(since("bytes"), length as u64);
        assert_eq!(since("offloaded"), length as u64);
        assert_eq!((since("host_read"), since("host_written")), (0, 0), "no payload byte through the host");
        assert!(since("calls") >= 1);
        assert!(after.simulated(), "an image's copies are carried out by our own process, and status says so");
    }
    to.sync_all().unwrap();
    drop((from, to));
    mounted.crash();
    let read = fs::read(mounted.path("to")).unwrap();
    assert_eq!(Pattern(1).mismatch(0, &read), None);
    assert_eq!(read.len(), length);
    mounted.finish();
}

#[test]
fn the_host_road_gives_the_same_bytes() {
    let Some(mut mounted) = tests::Builder::default().option("copy_route=host").mount() else {
        return;
    };
    let length = 5 << 20;
    let from = create(&mounted.path("from"), 1, length);
    from.sync_all().unwrap();
    let to = create(&mounted.path("to"), 0, 0);
    assert_eq!(copy(&from, 0, &to, 0, length as u64).unwrap(), length as u64);
    if let Some(status) = mounted.status() {
        assert_eq!(status.number("copy_file_range/offloaded").unwrap(), 0);
        assert!(status.number("copy_file_range/host_written").unwrap() >= length as u64);
    }
    to.sync_all().unwrap();
    drop((from, to));
    mounted.remount();
    assert_eq!(Pattern(1).mismatch(0, &fs::read(mounted.path("to")).unwrap()), None);
    mounted.finish();
}

#[test]
fn ragged_copies_equal_a_model() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let size = 1 << 20;
    let from = create(&mounted.path("from"), 1, size);
    let to = create(&mounted.path("to"), 2, size);
    let source = Pattern(1).bytes(0, size);
    let mut model = Pattern(2).bytes(0, size);
    let mut dice = Dice::new(7);
    for n in 0..200 {
        let length = 1 + dice.below(if n % 3 == 0 { 200_000 } else { 9000 });
        let mut at = dice.below(size as u64 - length);
        let mut target = dice.below(size as u64 - length);
        match n % 4 {
            // Ragged alike on both sides: the middle is aligned on both.
            0 => target = target / 4096 * 4096 + at % 4096,
            1 => (at, target) = (at / 4096 * 4096, target / 4096 * 4096),
            _ => {}
        }
        if target + length > size as u64 {
            continue;
        }
        assert_eq!(copy(&from, at, &to, target, length).unwrap(), length, "{n}: {length} from {at} to {target}");
        model[target as usize..(target + length) as usize].copy_from_slice(&source[at as usize..(at + length) as usize]);
        let mut read = vec![0; size];
        to.read_exact_at(&mut read, 0).unwrap();
        assert!(read == model, "{n}: {length} from {at} to {target}");
    }
    to.sync_all().unwrap();
    drop((from, to));
    mounted.crash();
    assert!(fs::read(mounted.path("to")).unwrap() == model);
    assert!(fs::read(mounted.path("from")).unwrap() == source, "the source is untouched");
    mounted.finish();
}

#[test]
fn holes_stay_holes() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let from = create(&mounted.path("from"), 1, 65536);
    from.set_len(8 << 20).unwrap();
    from.write_all_at(&Pattern(3).bytes(0, 4096), 4 << 20).unwrap();
    from.sync_all().unwrap();
    // What the target held where the source has a hole must go.
    let to = create(&mounted.path("to"), 2, 2 << 20);
    assert_eq!(copy(&from, 0, &to, 0, 8 << 20).unwrap(), 8 << 20);
    to.sync_all().unwrap();
    assert_eq!(to.metadata().unwrap().len(), 8 << 20);
    if std::env::var_os("FERRYFS_TEST_PEER").is_none() {
        assert_eq!(seek(&to, SeekFrom::Data(65536)).unwrap(), 4 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 <= 80 << 10, "{} blocks", to.metadata().unwrap().blocks());
    }
    drop((from, to));
    mounted.remount();
    assert!(fs::read(mounted.path("to")).unwrap() == fs::read(mounted.path("from")).unwrap());
    mounted.finish();
}

#[test]
fn within_one_file_ranges_may_not_overlap() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = create(&mounted.path("f"), 1, 1 << 20);
    for (at, target, length) in [(0u64, 4096, 8192), (4096, 0, 8192), (0, 0, 4096), (100, 150, 51)] {
        assert_eq!(errno(once(&file, at, &file, target, length)), libc::EINVAL, "{at} {target} {length}");
    }
    assert_eq!(copy(&file, 0, &file, 1 << 20, 1 << 20).unwrap(), 1 << 20);
    assert_eq!(copy(&file, 0, &file, 524_288, 524_288).unwrap(), 524_288, "ranges that touch");
    let mut model = Pattern(1).bytes(0, 1 << 20);
    model.extend_from_within(..);
    model.copy_within(0..524_288, 524_288);
    assert!(fs::read(mounted.path("f")).unwrap() == model);
    drop(file);
    mounted.finish();
}

#[test]
fn the_end_of_the_source_ends_the_copy() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let from = create(&mounted.path("from"), 1, 10_000);
    let to = create(&mounted.path("to"), 0, 0);
    assert_eq!(copy(&from, 8000, &to, 0, 1 << 20).unwrap(), 2000);
    assert_eq!(once(&from, 10_000, &to, 0, 4096).unwrap(), 0);
    assert_eq!(once(&from, 1 << 30, &to, 0, 4096).unwrap(), 0);
    assert_eq!(once(&from, 0, &to, 0, 0).unwrap(), 0);
    assert_eq!(to.metadata().unwrap().len(), 2000);
    // Beyond the target's end a hole comes before it.
    assert_eq!(copy(&from, 0, &to, 100_000, 10_000).unwrap(), 10_000);
    let read = fs::read(mounted.path("to")).unwrap();
    assert_eq!(read.len(), 110_000);
    assert!(read[2000..100_000].iter().all(|b| *b == 0));
    assert_eq!(Pattern(1).mismatch(0, &read[100_000..]), None);
    drop((from, to));
    mounted.finish();
}

#[test]
fn what_linux_refuses_is_refused() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let from = create(&mounted.path("from"), 1, 10_000);
    let to = create(&mounted.path("to"), 0, 0);
    let read_only = File::open(mounted.path("to")).unwrap();
    let write_only = OpenOptions::new().write(true).open(mounted.path("from")).unwrap();
    let append = OpenOptions::new().append(true).open(mounted.path("to")).unwrap();
    let directory = File::open(mounted.root()).unwrap();
    assert_eq!(errno(once(&from, 0, &read_only, 0, 10)), libc::EBADF);
    assert_eq!(errno(once(&write_only, 0, &to, 0, 10)), libc::EBADF);
    assert_eq!(errno(once(&from, 0, &append, 0, 10)), libc::EBADF);
    let refused = errno(once(&directory, 0, &to, 0, 10));
    assert!(refused == libc::EISDIR || refused == libc::EINVAL, "{refused}");
    drop((from, to, read_only, write_only, append, directory));
    mounted.finish();
}

#[test]
fn data_that_is_not_written_back_yet_is_copied() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    for n in 0..50u64 {
        let from = create(&mounted.path(format!("from-{n}")), n, 100_000);
        from.write_all_at(&Pattern(n + 1000).bytes(0, 5000), 50_000).unwrap();
        let to = create(&mounted.path(format!("to-{n}")), 0, 0);
        copy(&from, 0, &to, 0, 100_000).unwrap();
        // And what is written to the source afterwards is not.
        from.write_all_at(&[0; 100_000], 0).unwrap();
        let read = fs::read(mounted.path(format!("to-{n}"))).unwrap();
        assert_eq!(Pattern(n).mismatch(0, &read[..50_000]), None, "{n}");
        assert_eq!(Pattern(n + 1000).mismatch(0, &read[50_000..55_000]), None, "{n}");
        assert_eq!(Pattern(n).mismatch(55_000, &read[55_000..]), None, "{n}");
    }
    mounted.finish();
}

#[test]
fn a_copy_sees_one_state_of_a_source_that_is_overwritten() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let length = 4 << 20;
    let from = create(&mounted.path("from"), 0, 0);
    from.write_all_at(&vec![0; length], 0).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut generation = 0u8;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                generation = generation.wrapping_add(1);
                for block in 0..length / 4096 {
                    from.write_all_at(&[generation; 4096], (block * 4096) as u64).unwrap();
                }
            }
        });
        for n in 0..20 {
            let to = create(&mounted.path(format!("to-{n}")), 0, 0);
            copy(&from, 0, &to, 0, length as u64).unwrap();
            let read = fs::read(mounted.path(format!("to-{n}"))).unwrap();
            // No block may be torn; between blocks generations may differ, for several calls are several copies.
            for block in read.chunks(4096) {
                assert!(block.iter().all(|b| *b == block[0]), "a torn block in copy {n}");
            }
            fs::remove_file(mounted.path(format!("to-{n}"))).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(from);
    mounted.finish();
}
