//! What files hold: writing, truncating, sparse files, appending, mappings, and reading it all back after a remount.

use harness::Pattern;
use harness::content::Dice;
use rustix::fs::{SeekFrom as Seek, seek};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use tests::{Mounted, errno};

const TIB: u64 = 1 << 40;

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

#[test]
fn pieces_of_every_size_at_every_alignment_read_back() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let file = create(&path);
    let mut model = vec![0u8; 3 << 20];
    let mut dice = Dice::new(1);
    let mut end = 0;
    for n in 0..600 {
        let at = dice.below(2 << 20) as usize;
        let length = match n % 4 {
            0 => dice.below(100) as usize + 1,
            1 => dice.below(5000) as usize + 1,
            2 => 4096 * (dice.below(20) as usize + 1),
            _ => dice.below(300_000) as usize + 1,
        };
        let bytes = Pattern(n).bytes(0, length);
        file.write_all_at(&bytes, at as u64).unwrap();
        model[at..at + length].copy_from_slice(&bytes);
        end = end.max(at + length);
        if n % 50 == 0 {
            file.sync_data().unwrap();
        }
        // What was just written, with a rim around it.
        let (from, to) = (at.saturating_sub(10), (at + length + 10).min(end));
        let mut read = vec![0; to - from];
        file.read_exact_at(&mut read, from as u64).unwrap();
        assert!(read == model[from..to], "after write {n} of {length} at {at}");
    }
    drop(file);
    mounted.remount();
    assert!(fs::read(&path).unwrap() == model[..end]);
    mounted.finish();
}

#[test]
fn truncating_both_ways_leaves_zeros_behind() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let file = create(&path);
    file.write_all_at(&[0xff; 20_000], 0).unwrap();
    for (length, kept) in [(10_001, 10_001), (20_000, 10_001), (4096, 4096), (8192, 4096), (1, 1), (9000, 1), (0, 0), (70_000, 0)] {
        file.set_len(length).unwrap();
        let read = fs::read(&path).unwrap();
        assert_eq!(read.len() as u64, length);
        assert!(read[..kept].iter().all(|b| *b == 0xff), "shortened to {length}");
        assert!(read[kept..].iter().all(|b| *b == 0), "what was cut off does not come back at {length}");
        file.sync_all().unwrap();
    }
    file.write_all_at(b"end", 69_997).unwrap();
    drop(file);
    mounted.remount();
    let read = fs::read(&path).unwrap();
    assert!(read[..69_997].iter().all(|b| *b == 0) && &read[69_997..] == b"end");
    assert_eq!(OpenOptions::new().write(true).truncate(true).open(&path).unwrap().metadata().unwrap().len(), 0);
    mounted.finish();
}

#[test]
fn sparse_files_reach_16_tib() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("sparse");
    let file = create(&path);
    let marks = [0, 5 * 4096 + 7, TIB - 3, 7 * TIB + 4095, 16 * TIB - 8192 - 8];
    for (n, at) in marks.iter().enumerate() {
        file.write_all_at(&Pattern(n as u64).bytes(0, 16), *at).unwrap();
    }
    // The kernel's own limit for FUSE lies above, so it is ours that is met.
    file.set_len(16 * TIB - 8192).unwrap();
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20, "holes take no space");
    if std::env::var_os("FERRYFS_TEST_PEER").is_none() {
        assert_eq!(errno(file.write_at(b"x", 16 * TIB)), libc::EFBIG);
        assert_eq!(errno(file.set_len(16 * TIB + 1)), libc::EFBIG);
    }
    drop(file);
    mounted.remount();
    let file = File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 16 * TIB - 8192);
    for (n, at) in marks.iter().enumerate() {
        let mut read = vec![9; 64];
        let got = file.read_at(&mut read, *at).unwrap();
        assert!(got >= 8);
        let kept = got.min(16);
        assert_eq!(read[..kept], Pattern(n as u64).bytes(0, 16)[..kept], "at {at}");
    }
    let mut hole = vec![1; 8192];
    file.read_exact_at(&mut hole, 3 * TIB).unwrap();
    assert!(hole.iter().all(|b| *b == 0));
    drop(file);
    mounted.finish();
}

#[test]
fn holes_and_data_are_found() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = create(&mounted.path("f"));
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[1; 8192], 65536).unwrap();
    file.write_all_at(&[1; 4096], 262_144).unwrap();
    file.sync_all().unwrap();
    let data = |at| seek(&file, Seek::Data(at)).map_err(std::io::Error::from);
    let hole = |at| seek(&file, Seek::Hole(at)).map_err(std::io::Error::from);
    assert_eq!(data(0).unwrap(), 65536);
    assert_eq!(data(66000).unwrap(), 66000);
    assert_eq!(hole(0).unwrap(), 0);
    assert_eq!(hole(65536).unwrap(), 73728);
    assert_eq!(data(73728).unwrap(), 262_144);
    assert_eq!(hole(262_144).unwrap(), 266_240);
    assert_eq!(errno(data(266_240)), libc::ENXIO, "no data after the last");
    assert_eq!(hole(266_240).unwrap(), 266_240);
    assert_eq!(errno(data(1 << 20)), libc::ENXIO);
    assert_eq!(errno(hole(2 << 20)), libc::ENXIO);
    let full = create(&mounted.path("full"));
    full.write_all_at(&[1; 5000], 0).unwrap();
    full.sync_all().unwrap();
    assert_eq!(seek(&full, Seek::Hole(0)).unwrap(), 5000, "a hole is at every end");
    drop((file, full));
    mounted.finish();
}

#[test]
fn appending_goes_to_the_end_whoever_else_appends() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("log");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for n in 0..300u32 {
                    let line = format!("{thread} {n:05} {}\n", "x".repeat(usize::from(thread) * 7));
                    assert_eq!(file.write(line.as_bytes()).unwrap(), line.len());
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1200);
    for thread in 0..4 {
        let numbers: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{thread} ")))
            .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>(), "thread {thread}");
    }
    mounted.finish();
}

#[test]
fn opening_with_truncate_empties_the_file_for_all() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, vec![1; 100_000]).unwrap();
    let mut early = File::open(&path).unwrap();
    File::create(&path).unwrap().write_all(b"new").unwrap();
    let mut text = Vec::new();
    early.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"new");
    drop(early);
    mounted.finish();
}

#[test]
fn direct_and_synchronous_files_work() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let open = |flags| OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(&path);
    let file = open(libc::O_DIRECT).unwrap();
    let page = rustix::param::page_size();
    let mut memory = vec![0u8; 4 * page];
    let from = memory.as_ptr().align_offset(page);
    let buffer = &mut memory[from..from + 2 * page];
    Pattern(4).fill(0, buffer);
    file.write_all_at(buffer, 8192).unwrap();
    buffer.fill(0);
    file.read_exact_at(buffer, 8192).unwrap();
    assert_eq!(Pattern(4).mismatch(0, buffer), None);
    open(libc::O_SYNC).unwrap().write_all_at(b"sync", 0).unwrap();
    open(libc::O_DSYNC).unwrap().write_all_at(b"dsync", 100).unwrap();
    mounted.crash();
    let read = fs::read(&path).unwrap();
    assert_eq!((&read[..4], &read[100..105]), (&b"sync"[..], &b"dsync"[..]), "O_SYNC writes survive a crash");
    mounted.finish();
}

#[test]
fn shared_mappings_and_calls_see_each_other() {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let file = create(&path);
    let length = 1 << 20;
    file.set_len(length as u64).unwrap();
    file.write_all_at(b"written first", 5000).unwrap();
    let map = |flags| {
        // SAFETY: a new mapping at an address of the kernel's choice, used only inside its length and unmapped below.
        unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0) }.unwrap().cast::<u8>()
    };
    let shared = map(MapFlags::SHARED);
    let private = map(MapFlags::PRIVATE);
    // SAFETY: both mappings have `length` bytes, nobody else holds references into them, and they end with this block.
    unsafe {
        let view = std::slice::from_raw_parts_mut(shared, length);
        let own = std::slice::from_raw_parts_mut(private, length);
        assert_eq!(&view[5000..5013], b"written first");
        view[100_000..100_006].copy_from_slice(b"mapped");
        own[200_000..200_007].copy_from_slice(b"private");
        for page in (0..length).step_by(4096) {
            view[page + 1] = (page >> 12) as u8;
        }
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        file.set_modified(long_ago).unwrap();
        msync(shared.cast(), length, MsyncFlags::SYNC).unwrap();
        // The deviation that SEMANTICS names: it counts as written now.
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago);
        file.set_modified(long_ago).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
    }
    let mut read = [0; 7];
    file.read_exact_at(&mut read[..6], 100_000).unwrap();
    assert_eq!(&read[..6], b"mapped");
    file.read_exact_at(&mut read, 200_000).unwrap();
    assert_eq!(read, [0; 7], "what is written to a private mapping stays private");
    // SAFETY: the mappings made above, which nobody uses any more.
    unsafe {
        munmap(shared.cast(), length).unwrap();
        munmap(private.cast(), length).unwrap();
    }
    drop(file);
    mounted.crash();
    let read = fs::read(&path).unwrap();
    assert_eq!(&read[100_000..100_006], b"mapped", "msync made it durable");
    assert!((0..length).step_by(4096).all(|page| read[page + 1] == (page >> 12) as u8));
    mounted.finish();
}

#[test]
fn a_program_runs_from_the_mount() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let program = mounted.path("echo");
    // By a process of its own: a child that another test starts meanwhile would hold the file open for writing, and it could not be run.
    assert!(std::process::Command::new("cp").arg("/bin/echo").arg(&program).status().unwrap().success());
    let outcome = harness::run(std::process::Command::new(&program).arg("it runs"), std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(outcome.stdout, "it runs\n");
    mounted.finish();
}

#[test]
fn reads_and_writes_of_many_threads_keep_apart() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let file = create(&mounted.path("f"));
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let file = &file;
            scope.spawn(move || {
                let base = thread * (1 << 20);
                let mut dice = Dice::new(thread);
                for n in 0..150 {
                    let (at, length) = (dice.below(900_000), dice.below(60_000) as usize + 1);
                    file.write_all_at(&Pattern(thread).bytes(at, length), base + at).unwrap();
                    let mut read = vec![0; length];
                    file.read_exact_at(&mut read, base + at).unwrap();
                    assert_eq!(Pattern(thread).mismatch(at, &read), None, "thread {thread}, write {n}");
                    if n % 40 == 0 {
                        file.sync_data().unwrap();
                    }
                }
            });
        }
    });
    drop(file);
    mounted.remount();
    let read = fs::read(mounted.path("f")).unwrap();
    for thread in 0..6u64 {
        let base = (thread as usize) << 20;
        for (n, byte) in read[base.min(read.len())..(base + (1 << 20)).min(read.len())].iter().enumerate() {
            let expected = if *byte == 0 {
                continue;
            } else {
                Pattern(thread).bytes(n as u64, 1)[0]
            };
            assert_eq!(*byte, expected, "thread {thread} at {n}");
        }
    }
    mounted.finish();
}
