//! Full volumes: a clean ENOSPC, deletions that are always possible, space that comes back, and cleaning that converges.

use harness::content::Dice;
use harness::{Pattern, Volume};
use rustix::fs::statvfs;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use tests::{Builder, Mounted};

/// Bytes that statfs says a write may take.
fn available(volume: &Volume) -> u64 {
    let stat = statvfs(volume.root()).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Writes files of 1 MiB until no more goes; says how many.
fn fill(volume: &Volume, prefix: &str) -> u64 {
    for n in 0.. {
        let path = volume.path(format!("{prefix}-{n}"));
        let write = || -> io::Result<()> {
            let file = File::create_new(&path)?;
            file.write_all_at(&Pattern(n).bytes(0, 1 << 20), 0)?;
            file.sync_all()
        };
        if let Err(error) = write() {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            let _ = fs::remove_file(&path);
            return n;
        }
    }
    unreachable!("a volume is never endless")
}

#[test]
fn a_full_volume_says_so_and_lets_delete() {
    let Some(mut mounted) = Builder::default().format("--size 128M --zone-size 1M").mount() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let rounds = if tests::skip::quick() { 1 } else { 3 };
    for round in 0..rounds {
        let volume = mounted.volume().unwrap();
        let room = available(volume);
        let count = fill(volume, "f");
        eprintln!("round {round}: {count} MiB were written, {room} bytes were available");
        assert!(count << 20 <= room + room / 20 + (1 << 20), "round {round}: {count} MiB, far more than was available ({room} bytes)");
        assert!(count << 20 >= room - room / 20, "round {round}: {count} MiB were written while {room} bytes were available");
        for n in 0..count {
            let read = fs::read(volume.path(format!("f-{n}"))).unwrap();
            assert_eq!(Pattern(n).mismatch(0, &read), None, "round {round}: file {n} on the full volume");
        }
        // Names change, files get shorter, and a directory with all that is in it goes.
        for n in 0..count {
            fs::rename(volume.path(format!("f-{n}")), volume.path(format!("g-{n}")))
                .unwrap_or_else(|error| panic!("renaming {n}: {error}"));
        }
        fs::rename(volume.path("g-0"), volume.path("much longer than it was before")).unwrap();
        fs::rename(volume.path("much longer than it was before"), volume.path("f-0")).unwrap();
        for n in 1..count {
            fs::rename(volume.path(format!("g-{n}")), volume.path(format!("f-{n}")))
                .unwrap_or_else(|error| panic!("renaming {n}: {error}"));
        }
        let shorter = OpenOptions::new().write(true).open(volume.path("f-1")).unwrap();
        for length in [(1 << 20) - 1, 700_001, 5000] {
            shorter.set_len(length).unwrap_or_else(|error| panic!("round {round}: to {length} bytes: {error}"));
        }
        drop(shorter);
        assert_eq!(Pattern(1).mismatch(0, &fs::read(volume.path("f-1")).unwrap()), None);
        if round == 1 {
            // Only names that were synchronised outlive a kill for certain.
            File::open(volume.root()).and_then(|root| root.sync_all()).unwrap();
            volume.kill();
            tests::mounted::assert_clean(volume);
            volume.mount().unwrap();
        }
        for n in 0..count {
            fs::remove_file(volume.path(format!("f-{n}"))).unwrap_or_else(|error| panic!("round {round}: deleting {n}: {error}"));
        }
        volume.remount().unwrap();
        let back = available(volume);
        assert!(back + (2 << 20) >= room, "round {round}: {room} bytes were available before, {back} after deleting all");
    }
    mounted.finish();
}

/// As dd(1) does it: the last write is a short one, and the one behind it says why.
#[test]
fn a_large_write_fills_what_is_left() {
    let Some(mut mounted) = Builder::default().format("--size 128M --zone-size 1M").mount() else {
        return;
    };
    let Some(volume) = mounted.volume() else { return };
    fs::write(volume.path("last"), Pattern(1).bytes(0, 256 << 10)).unwrap();
    let filler = File::create(volume.path("filler")).unwrap();
    let mut at = 0;
    let error = loop {
        match filler.write_all_at(&[7; 4096], at) {
            Ok(()) => at += 4096,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    fs::remove_file(volume.path("last")).unwrap();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(volume.path("f")).unwrap();
    let bytes = Pattern(2).bytes(0, 1 << 20);
    let written = file.write_at(&bytes, 0).unwrap();
    assert!((128 << 10..1 << 20).contains(&written), "{written} bytes");
    assert_eq!(fs::metadata(volume.path("f")).unwrap().len(), written as u64);
    // A few blocks more may fit: metadata was written meanwhile.
    let mut end = written as u64;
    let error = loop {
        match file.write_at(&bytes, end) {
            Ok(more) => end += more as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(end <= written as u64 + (128 << 10), "{written} bytes, and then {end}");

    // What is mapped has nobody who would write the rest: that is an error, and what is there is right.
    fs::remove_file(volume.path("f")).unwrap();
    drop(file);
    let mapped = OpenOptions::new().read(true).write(true).create_new(true).open(volume.path("m")).unwrap();
    mapped.set_len(1 << 20).unwrap();
    let length = 1 << 20;
    // SAFETY: a mapping of a file that nobody else changes, as long as is said.
    let (whole, synced) = unsafe {
        let flags = (rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE, rustix::mm::MapFlags::SHARED);
        let at = rustix::mm::mmap(std::ptr::null_mut(), length, flags.0, flags.1, &mapped, 0).unwrap();
        std::slice::from_raw_parts_mut(at.cast::<u8>(), length).copy_from_slice(&bytes);
        let synced = rustix::mm::msync(at, length, rustix::mm::MsyncFlags::SYNC);
        (rustix::mm::munmap(at, length), synced)
    };
    whole.unwrap();
    assert!(synced.is_err() || mapped.sync_all().is_err(), "the mapping does not fit");
    drop((mapped, filler));
    volume.remount().unwrap();
    let found = fs::read(volume.path("m")).unwrap();
    let lost = found.chunks(4096).zip(bytes.chunks(4096)).filter(|(found, right)| found != right).count();
    assert!(lost > 0, "some of it has no room");
    assert!(found.chunks(4096).zip(bytes.chunks(4096)).all(|(found, right)| found == right || found.iter().all(|b| *b == 0)));
    mounted.finish();
}

#[test]
fn many_small_files_fill_a_volume_cleanly() {
    let Some(mut mounted) = Builder::default().format("--size 64M --zone-size 1M").mount() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let volume = mounted.volume().unwrap();
    let mut count = 0u32;
    let error = loop {
        let path = volume.path(format!("small-{count}"));
        if let Err(error) = fs::write(&path, format!("number {count}"))
            .and_then(|()| if count.is_multiple_of(500) { File::open(&path)?.sync_all() } else { Ok(()) })
        {
            let _ = fs::remove_file(path);
            break error;
        }
        count += 1;
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(count > 3000, "only {count} files");
    volume.remount().unwrap();
    for n in (0..count).step_by(37) {
        // The last ones may have met the end of space only when the kernel wrote them back.
        let text = fs::read_to_string(volume.path(format!("small-{n}"))).unwrap();
        assert!(text == format!("number {n}") || (n + 2000 > count && text.is_empty()), "{n}: {text:?}");
    }
    for n in 0..count {
        fs::remove_file(volume.path(format!("small-{n}"))).unwrap();
    }
    mounted.finish();
}

#[test]
fn overwriting_at_95_percent_converges() {
    let Some(mut mounted) = Builder::default().format("--size 256M --zone-size 1M").mount() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let volume = mounted.volume().unwrap();
    let total = volume.status().unwrap().number("space/total").unwrap();
    let blocks = total * 95 / 100 / 4096;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(volume.path("f")).unwrap();
    for at in (0..blocks * 4096).step_by(1 << 20) {
        let length = (blocks * 4096 - at).min(1 << 20) as usize;
        file.write_all_at(&Pattern(0).bytes(at, length), at).unwrap();
    }
    file.sync_all().unwrap();
    let mut generations = vec![0u8; blocks as usize];
    let mut dice = Dice::new(95);
    let overwrites = if tests::skip::quick() { blocks / 8 } else { blocks };
    for n in 0..overwrites {
        let number = dice.below(blocks);
        let generation = generations[number as usize].wrapping_add(1).max(1);
        generations[number as usize] = generation;
        file.write_all_at(&[generation; 4096], number * 4096).unwrap_or_else(|error| panic!("overwrite {n} of {overwrites}: {error}"));
        if n % 4096 == 0 {
            file.sync_data().unwrap_or_else(|error| panic!("fsync at overwrite {n}: {error}"));
        }
    }
    file.sync_all().unwrap();
    let status = volume.status().unwrap();
    assert!(status.number("gc/relocated").unwrap() > 0, "the cleaner had to move something");
    assert_eq!(status.number("gc/host_read").unwrap() + status.number("gc/host_written").unwrap(), 0);
    drop(file);
    volume.kill();
    tests::mounted::assert_clean(volume);
    volume.mount().unwrap();
    let read = fs::read(volume.path("f")).unwrap();
    for (number, found) in read.chunks(4096).enumerate() {
        let right = match generations[number] {
            0 => Pattern(0).mismatch(number as u64 * 4096, found).is_none(),
            generation => found.iter().all(|b| *b == generation),
        };
        assert!(right, "block {number}");
    }
    mounted.finish();
}

#[test]
fn a_request_within_available_never_gets_enospc() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let volume = mounted.volume().unwrap();
    let mut dice = Dice::new(8);
    let mut files = Vec::new();
    for n in 0..if tests::skip::quick() { 100 } else { 400u64 } {
        let room = available(volume);
        if room < 8 << 20 || dice.below(3) == 0 {
            for _ in 0..3.min(files.len()) {
                let which = dice.below(files.len() as u64) as usize;
                fs::remove_file(volume.path(format!("f-{}", files.swap_remove(which)))).unwrap();
            }
            continue;
        }
        // What one file asks for: its bytes and a little for its names and maps.
        let length = (1 + dice.below((room - (4 << 20)).min(24 << 20))) as usize;
        let file = File::create_new(volume.path(format!("f-{n}"))).unwrap();
        file.write_all_at(&Pattern(n).bytes(0, length), 0)
            .and_then(|()| file.sync_all())
            .unwrap_or_else(|error| panic!("{length} bytes while {room} were available: {error}"));
        files.push(n);
    }
    mounted.finish();
}

#[test]
fn what_was_removed_makes_room_at_once() {
    let Some(mut mounted) = Builder::default().format("--size 128M --zone-size 1M").mount() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let volume = mounted.volume().unwrap();
    let count = fill(volume, "f");
    let rest = available(volume);
    fs::write(volume.path("rest"), vec![7; rest as usize]).unwrap();
    for round in 0..20 {
        let n = round % count;
        let path = volume.path(format!("f-{n}"));
        fs::remove_file(&path).unwrap();
        let bytes = Pattern(n).bytes(0, 900 << 10);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("round {round}: a file as large as the one just removed: {error}"));
        fs::remove_file(&path).unwrap();
        let file = File::create_new(&path).unwrap_or_else(|error| panic!("round {round}: {error}"));
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 900 << 10)
            .unwrap_or_else(|error| panic!("round {round}: space for as much as was just removed: {error}"));
        drop(file);
        fs::remove_file(&path).unwrap();
        let (source, copy) = (File::open(volume.path(format!("f-{}", (n + 1) % count))).unwrap(), File::create_new(&path).unwrap());
        let mut copied = 0;
        while copied < 900 << 10 {
            let more = rustix::fs::copy_file_range(
                &source,
                Some(&mut copied.clone()),
                &copy,
                Some(&mut copied.clone()),
                (900 << 10) - copied as usize,
            );
            copied += more
                .unwrap_or_else(|error| panic!("round {round}: a copy of as much as was just removed, after {copied} bytes: {error}"))
                as u64;
        }
    }
    for n in 0..count {
        fs::remove_file(volume.path(format!("f-{n}"))).unwrap();
    }
    mounted.finish();
}
