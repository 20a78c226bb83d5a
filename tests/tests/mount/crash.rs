//! `kill -9` of the daemon under load: whatever was acknowledged by fsync is there afterwards, and the volume is whole.
//!
//! The seed of every round is printed; `FERRYFS_SEED` runs one seed only.

use harness::content::Dice;
use harness::{Pattern, Volume};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::{Builder, lines};

fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = std::env::var("FERRYFS_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return vec![seed];
    }
    (1..=if tests::skip::quick() { 1 } else { count }).collect()
}

/// What one writer knows to be durable, and what it was doing when the daemon died.
#[derive(Default)]
struct Known {
    /// Files that hold these bytes for certain, by seed and length.
    files: Vec<(PathBuf, u64, usize)>,
    /// Names that are gone for certain.
    gone: Vec<PathBuf>,
    /// Files that may or may not be there: the operation on them was never acknowledged.
    doubtful: Vec<PathBuf>,
    /// A file of records and how many of them were acknowledged.
    journal: Option<(PathBuf, u64, u64)>,
}

/// Appends records, with an fsync after some of them.
fn append(path: &Path, seed: u64, stop: &AtomicBool, known: &Mutex<Known>) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut dice = Dice::new(seed);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..=dice.below(8) {
            file.write_all(&lines::record(seed, n))?;
            n += 1;
        }
        file.sync_data()?;
        known.lock().unwrap().journal = Some((path.to_path_buf(), seed, n));
    }
    Ok(())
}

/// Writes whole files under a temporary name, makes them durable, and renames them over the old ones, as programs do.
fn replace(directory: &Path, seed: u64, stop: &AtomicBool, known: &Mutex<Known>) -> io::Result<()> {
    fs::create_dir(directory)?;
    let handle = File::open(directory)?;
    let mut dice = Dice::new(seed);
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let path = directory.join(format!("f{}", dice.below(6)));
        let temporary = directory.join("new");
        let (contents, length) = (seed * 100_000 + round, 1 + dice.below(300_000) as usize);
        let file = File::create(&temporary)?;
        file.write_all_at(&Pattern(contents).bytes(0, length), 0)?;
        file.sync_all()?;
        {
            let mut known = known.lock().unwrap();
            known.files.retain(|(known, ..)| *known != path);
            known.gone.retain(|gone| *gone != path);
            known.doubtful.push(path.clone());
        }
        fs::rename(&temporary, &path)?;
        handle.sync_all()?;
        let mut state = known.lock().unwrap();
        state.doubtful.retain(|doubtful| *doubtful != path);
        state.files.push((path.clone(), contents, length));
        drop(state);
        if dice.below(4) == 0 {
            {
                let mut state = known.lock().unwrap();
                state.files.retain(|(known, ..)| *known != path);
                state.doubtful.push(path.clone());
            }
            fs::remove_file(&path)?;
            handle.sync_all()?;
            let mut state = known.lock().unwrap();
            state.doubtful.retain(|doubtful| *doubtful != path);
            state.gone.push(path);
        }
    }
    Ok(())
}

/// Copies by copy_file_range and overwrites in place; after each fsync the contents are known.
fn copy(directory: &Path, seed: u64, stop: &AtomicBool, known: &Mutex<Known>) -> io::Result<()> {
    fs::create_dir(directory)?;
    let length = 2 << 20;
    let source = directory.join("source");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&source)?;
    file.write_all_at(&Pattern(seed).bytes(0, length), 0)?;
    file.sync_all()?;
    known.lock().unwrap().files.push((source, seed, length));
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let path = directory.join(format!("copy-{}", round % 5));
        {
            let mut state = known.lock().unwrap();
            state.files.retain(|(known, ..)| *known != path);
            state.doubtful.push(path.clone());
        }
        let target = File::create(&path)?;
        let (mut from, mut to) = (0, 0);
        while from < length as u64 {
            let left = length - from as usize;
            if rustix::fs::copy_file_range(&file, Some(&mut from), &target, Some(&mut to), left)? == 0 {
                return Err(io::Error::other("copy_file_range stopped early"));
            }
        }
        target.sync_all()?;
        let mut state = known.lock().unwrap();
        state.doubtful.retain(|doubtful| *doubtful != path);
        state.files.push((path, seed, length));
    }
    Ok(())
}

/// Overwrites at random without ever asking for durability, to keep cleaner and checkpoints busy.
fn noise(path: &Path, seed: u64, stop: &AtomicBool) -> io::Result<()> {
    let file = File::create_new(path)?;
    let mut dice = Dice::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let at = dice.below(60 << 20) / 4096 * 4096;
        file.write_all_at(&Pattern(seed).bytes(at, 4096 * (1 + dice.below(16) as usize)), at)?;
    }
    Ok(())
}

/// Runs the load, kills the daemon after a while, and gives what was known by then.
fn load_and_kill(volume: &mut Volume, seed: u64) -> Vec<Known> {
    let root = volume.path(format!("round-{seed}"));
    fs::create_dir(&root).unwrap();
    let over_ring = volume.status().unwrap().text("mount/transport").unwrap() == "io_uring";
    let stop = AtomicBool::new(false);
    let states: Vec<Mutex<Known>> = (0..5).map(|_| Mutex::default()).collect();
    let surprises = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (root, stop, states, surprises) = (&root, &stop, &states, &surprises);
        let watched = |what: &str, result: io::Result<()>| {
            // Once the daemon is dead every call fails, and so it should.
            let dead = |error: &io::Error| match error.raw_os_error() {
                Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENOENT | libc::ENODEV) => true,
                // Of a request that was on its way to a thread of a ring.
                Some(libc::ECANCELED) => over_ring,
                _ => false,
            };
            if let Err(error) = result
                && !(stop.load(Ordering::Relaxed) && dead(&error))
            {
                surprises.lock().unwrap().push(format!("{what}: {error}"));
            }
        };
        scope.spawn(move || watched("append", append(&root.join("journal"), seed, stop, &states[0])));
        scope.spawn(move || watched("append", append(&root.join("journal-2"), seed + 50, stop, &states[1])));
        scope.spawn(move || watched("replace", replace(&root.join("replaced"), seed, stop, &states[2])));
        scope.spawn(move || watched("copy", copy(&root.join("copied"), seed, stop, &states[3])));
        scope.spawn(move || watched("noise", noise(&root.join("noise"), seed, stop)));
        // How long the load runs is part of the round; nothing is asserted about it.
        std::thread::sleep(Duration::from_millis(300 + Dice::new(seed).below(1700)));
        stop.store(true, Ordering::SeqCst);
        volume.kill();
    });
    let surprises = surprises.into_inner().unwrap();
    assert!(surprises.is_empty(), "seed {seed}: before the daemon was killed: {surprises:?}");
    states.into_iter().map(|state| state.into_inner().unwrap()).collect()
}

fn check(seed: u64, known: &[Known]) {
    for state in known {
        for (path, contents, length) in &state.files {
            let read = fs::read(path).unwrap_or_else(|error| panic!("seed {seed}: {} was acknowledged: {error}", path.display()));
            assert_eq!(read.len(), *length, "seed {seed}: length of {}", path.display());
            assert_eq!(Pattern(*contents).mismatch(0, &read), None, "seed {seed}: {}", path.display());
        }
        for path in &state.gone {
            assert!(!path.exists(), "seed {seed}: {} was removed for good", path.display());
        }
        for path in &state.doubtful {
            // It may hold the old or the new state, but it must be readable.
            if let Err(error) = fs::read(path) {
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "seed {seed}: {}", path.display());
            }
        }
        if let Some((path, journal, acknowledged)) = &state.journal {
            let read = fs::read(path).unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", path.display()));
            let there = lines::count(*journal, &read).unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", path.display()));
            assert!(there >= *acknowledged, "seed {seed}: {acknowledged} records were acknowledged, {there} are there");
        }
    }
}

fn rounds(builder: Builder, count: u64) {
    let Some((directory, mut volume)) = builder.create() else {
        return;
    };
    let mut all = Vec::new();
    for seed in seeds(count) {
        eprintln!("seed {seed}");
        volume.mount().unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        let known = load_and_kill(&mut volume, seed);
        tests::mounted::assert_clean(&volume);
        volume.mount().unwrap_or_else(|error| panic!("seed {seed}: mounting after the crash: {error:#}"));
        check(seed, &known);
        all.push((seed, known));
        // What earlier rounds acknowledged is still there, too.
        for (seed, known) in &all {
            check(*seed, known);
        }
        if all.len() > 3 {
            let (seed, _) = all.remove(0);
            fs::remove_dir_all(volume.path(format!("round-{seed}"))).unwrap();
        }
        volume.umount().unwrap();
        tests::mounted::assert_clean(&volume);
    }
    drop((volume, directory));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_daemon_is_killed() {
    rounds(Builder::default().format("--size 768M --zone-size 4M").option("commit=1"), 6);
}

#[test]
fn nothing_acknowledged_is_lost_on_a_conventional_image() {
    rounds(Builder::default().format("--size 768M --zone-size 4M --profile conventional"), 3);
}

#[test]
fn nothing_acknowledged_is_lost_while_the_cleaner_works() {
    // Small and nearly full, so that the cleaner has to work all the time.
    let Some((directory, mut volume)) = Builder::default().format("--size 192M --zone-size 1M").create() else {
        return;
    };
    for seed in seeds(5) {
        eprintln!("seed {seed}");
        volume.mount().unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        let path = volume.path("filled");
        let length = volume.status().unwrap().number("space/total").unwrap() * 7 / 10 / 4096 * 4096;
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let blocks = length / 4096;
        // Every block holds its number and a generation that only grows.
        let block = |number: u64, generation: u64| {
            let mut bytes = Pattern(number).with(generation).bytes(0, 4096);
            bytes[..8].copy_from_slice(&generation.to_le_bytes());
            bytes
        };
        if fresh {
            for number in 0..blocks {
                file.write_all_at(&block(number, 0), number * 4096).unwrap();
            }
            file.sync_all().unwrap();
        }
        let durable: Mutex<Vec<u64>> = Mutex::new(vec![0; blocks as usize]);
        let stop = AtomicBool::new(false);
        let before = volume.status().unwrap();
        let mut relocated = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice::new(seed);
                let mut generation = seed << 32;
                let mut pending = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    generation += 1;
                    let number = dice.below(blocks);
                    if file.write_all_at(&block(number, generation), number * 4096).is_err() {
                        return;
                    }
                    pending.push((number, generation));
                    if pending.len() == 256 {
                        if file.sync_data().is_err() {
                            return;
                        }
                        let mut durable = durable.lock().unwrap();
                        for (number, generation) in pending.drain(..) {
                            durable[number as usize] = generation;
                        }
                    }
                }
            });
            // Until the cleaner has moved something in this round, however long that takes (the watchdog bounds it).
            while relocated < 8 << 20 {
                std::thread::sleep(Duration::from_millis(50));
                relocated = volume.status().unwrap().since(&before, "gc/relocated").unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            volume.kill();
        });
        tests::mounted::assert_clean(&volume);
        volume.mount().unwrap_or_else(|error| panic!("seed {seed}: mounting after the crash: {error:#}"));
        let read = fs::read(&path).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let durable = durable.into_inner().unwrap();
        for (number, found) in read.chunks(4096).enumerate() {
            let generation = u64::from_le_bytes(found[..8].try_into().unwrap());
            assert!(generation >= durable[number], "seed {seed}: block {number} is older than acknowledged");
            assert!(found == block(number as u64, generation), "seed {seed}: block {number} is wrong");
        }
        volume.umount().unwrap();
        tests::mounted::assert_clean(&volume);
    }
    drop((volume, directory));
}
