//! Overload: many threads of mixed work on a volume that is nearly full, so that everything that waits for room waits at once. Nothing may
//! hang, fail for another reason than want of space, lose what was made durable, or take memory without a bound.
//!
//! `FERRYFS_OVERLOAD_SECONDS` says how long (default: 45, 10 in quick runs). A deadlock ends when the harness kills the daemon, by an error
//! that is not ENOSPC.

use harness::Pattern;
use harness::content::Dice;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::Builder;

const THREADS: u64 = 64;
const MIB: u64 = 1 << 20;
const CACHE_MIB: u64 = 16;
/// What the daemon may take: the cache, and 64 MiB for everything else (buffers, data that is not on a device yet, threads, code).
const MEMORY_MIB: u64 = CACHE_MIB + 64;
/// Files of one thread.
const FILES: usize = 12;
/// Bytes of one file at most.
const LARGEST: u64 = 300 << 10;

/// How often what ended how.
type Counts = BTreeMap<(&'static str, String), u64>;

/// A file whose content is known.
struct Known {
    path: PathBuf,
    seed: u64,
    bytes: u64,
    /// It was made durable as it is.
    durable: bool,
}

struct Worker<'a> {
    number: u64,
    home: PathBuf,
    shared: &'a Path,
    dice: Dice,
    files: Vec<Known>,
    counts: Counts,
    made: u64,
}

/// Did it work? Want of space is the only excuse.
fn noted<T>(counts: &mut Counts, what: &'static str, done: io::Result<T>) -> Option<T> {
    let how = match &done {
        Ok(_) => "done".to_owned(),
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => "ENOSPC".to_owned(),
        Err(error) => error.to_string(),
    };
    *counts.entry((what, how)).or_default() += 1;
    done.ok()
}

impl<'a> Worker<'a> {
    fn new(number: u64, root: &Path, shared: &'a Path) -> Self {
        let home = root.join(format!("home-{number}"));
        Self { number, home, shared, dice: Dice::new(number + 1), files: Vec::new(), counts: Counts::new(), made: 0 }
    }

    fn note<T>(&mut self, what: &'static str, done: io::Result<T>) -> Option<T> {
        noted(&mut self.counts, what, done)
    }

    fn work(&mut self, over: &AtomicBool, operations: &AtomicU64) {
        while self.note("mkdir", fs::create_dir(&self.home)).is_none() && !over.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        while !over.load(Ordering::Relaxed) {
            self.step();
            operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn step(&mut self) {
        match self.dice.below(24) {
            0..6 => self.create(),
            6..10 => self.rewrite(),
            10..14 => self.verify(),
            14..16 => self.remove(),
            16 => self.rename(),
            17 => self.cut(),
            18 => self.attributes(),
            19 => self.copy(),
            20 => self.punch(),
            21 => self.list(),
            22 => self.directory(),
            _ => self.write_shared(),
        }
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.files.is_empty()).then(|| self.dice.below(self.files.len() as u64) as usize)
    }

    fn create(&mut self) {
        if self.files.len() >= FILES {
            return self.remove();
        }
        self.made += 1;
        let seed = self.number << 32 | self.made;
        let path = self.home.join(format!("f{}", self.made));
        let bytes = 1 + self.dice.below(LARGEST);
        let done = File::create_new(&path).and_then(|file| self.put(&file, seed, bytes));
        match self.note("create and write", done) {
            Some(durable) => self.files.push(Known { path, seed, bytes, durable }),
            None => self.forget(&path),
        }
    }

    /// Writes a file whole, and makes it durable now and then; says whether it did.
    fn put(&mut self, file: &File, seed: u64, bytes: u64) -> io::Result<bool> {
        for at in (0..bytes).step_by(64 << 10) {
            file.write_all_at(&Pattern(seed).bytes(at, (bytes - at).min(64 << 10) as usize), at)?;
        }
        let durable = self.dice.below(4) == 0;
        if durable {
            file.sync_all()?;
        }
        Ok(durable)
    }

    /// What of a file is there is not known any more: it goes. Deleting is always possible.
    fn forget(&mut self, path: &Path) {
        let gone = match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        *self.counts.entry(("unlink", gone.map_or_else(|error| format!("unlink: {error}"), |()| "done".into()))).or_default() += 1;
    }

    fn rewrite(&mut self) {
        let Some(i) = self.pick() else { return };
        let (path, bytes) = (self.files[i].path.clone(), self.files[i].bytes);
        self.made += 1;
        let seed = self.number << 32 | self.made;
        let done = OpenOptions::new().write(true).open(&path).and_then(|file| self.put(&file, seed, bytes));
        match self.note("overwrite", done) {
            Some(durable) => (self.files[i].seed, self.files[i].durable) = (seed, durable),
            None => {
                self.files.swap_remove(i);
                self.forget(&path);
            }
        }
    }

    fn verify(&mut self) {
        let Some(i) = self.pick() else { return };
        if let Some(found) = self.note("read", fs::read(&self.files[i].path)) {
            let Known { path, seed, bytes, .. } = &self.files[i];
            assert_eq!((found.len() as u64, Pattern(*seed).mismatch(0, &found)), (*bytes, None), "{}", path.display());
        }
    }

    fn remove(&mut self) {
        let Some(i) = self.pick() else { return };
        let known = self.files.swap_remove(i);
        self.forget(&known.path);
    }

    fn rename(&mut self) {
        let Some(i) = self.pick() else { return };
        self.made += 1;
        let to = self.home.join(format!("r{}", self.made));
        if self.note("rename", fs::rename(&self.files[i].path, &to)).is_some() {
            (self.files[i].path, self.files[i].durable) = (to, false);
        }
    }

    fn cut(&mut self) {
        let Some(i) = self.pick() else { return };
        let bytes = self.dice.below(self.files[i].bytes + 1);
        let path = self.files[i].path.clone();
        let done = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(bytes));
        match self.note("truncate", done) {
            Some(()) => (self.files[i].bytes, self.files[i].durable) = (bytes, false),
            None => {
                self.files.swap_remove(i);
                self.forget(&path);
            }
        }
    }

    fn attributes(&mut self) {
        let Some(i) = self.pick() else { return };
        let (path, len) = (self.files[i].path.clone(), self.dice.below(3000) as usize);
        self.note("setxattr", xattr::set(&path, "user.overload", &vec![7; len]));
        self.note("listxattr", xattr::list(&path).map(Iterator::count));
    }

    fn copy(&mut self) {
        let Some(i) = self.pick() else { return };
        if self.files.len() >= FILES {
            return;
        }
        self.made += 1;
        let to = self.home.join(format!("c{}", self.made));
        let (from, seed, bytes) = (self.files[i].path.clone(), self.files[i].seed, self.files[i].bytes);
        // copy_file_range, where the kernel finds that it may.
        match self.note("copy", fs::copy(from, &to)) {
            Some(_) => self.files.push(Known { path: to, seed, bytes, durable: false }),
            None => self.forget(&to),
        }
    }

    fn punch(&mut self) {
        let Some(i) = self.pick() else { return };
        let known = self.files.swap_remove(i);
        let (at, len) = (self.dice.below(LARGEST), 1 + self.dice.below(LARGEST));
        let flags = [FallocateFlags::empty(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE];
        let flags = flags[self.dice.below(3) as usize];
        let done = OpenOptions::new().write(true).open(&known.path).and_then(|file| Ok(fallocate(file, flags, at, len)?));
        self.note("fallocate", done);
        self.forget(&known.path);
    }

    fn list(&mut self) {
        let done = fs::read_dir(self.shared).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        self.note("readdir", done);
        let space = statvfs(&self.home).map_err(io::Error::from);
        self.note("statfs", space);
    }

    fn directory(&mut self) {
        let path = self.shared.join(format!("d{}", self.number));
        if self.note("mkdir", fs::create_dir(&path)).is_some() {
            let linked = self.pick().map(|i| fs::hard_link(&self.files[i].path, path.join("link")));
            if let Some(linked) = linked {
                self.note("link", linked);
                self.forget(&path.join("link"));
            }
            *self.counts.entry(("rmdir", fs::remove_dir(&path).map_or_else(|e| format!("rmdir: {e}"), |()| "done".into()))).or_default() +=
                1;
        }
    }

    /// All threads write one file, and sync it.
    fn write_shared(&mut self) {
        let at = self.dice.below(64) * (16 << 10);
        let done = OpenOptions::new().write(true).create(true).truncate(false).open(self.shared.join("everybodys")).and_then(|file| {
            file.write_all_at(&[self.number as u8; 16 << 10], at)?;
            file.sync_data()
        });
        self.note("write and sync a shared file", done);
    }
}

/// Takes most of the room, for good.
fn fill(root: &Path) -> u64 {
    let stat = statvfs(root).unwrap();
    let taken = stat.f_bavail * stat.f_frsize / 100 * 88;
    let file = File::create_new(root.join("filling")).unwrap();
    for at in (0..taken).step_by(MIB as usize) {
        file.write_all_at(&Pattern(99).bytes(at, (taken - at).min(MIB) as usize), at).unwrap();
    }
    file.sync_all().unwrap();
    taken
}

/// The most memory that the process has had, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn seconds() -> u64 {
    let default = if tests::skip::quick() { 10 } else { 45 };
    std::env::var("FERRYFS_OVERLOAD_SECONDS").ok().map_or(default, |value| value.parse().expect("a number of seconds"))
}

#[test]
fn many_threads_on_a_nearly_full_volume_meet_want_of_space_and_nothing_else() {
    let seconds = seconds();
    let deadline = Duration::from_secs(seconds + 300);
    let builder = Builder::default().format("--size 256M --zone-size 1M").option(&format!("cache_size={CACHE_MIB}M"));
    let Some(mut mounted) = builder.deadline(deadline).mount() else { return };
    if mounted.volume().is_none() {
        return;
    }
    let filled = fill(mounted.root());
    let shared = mounted.path("shared");
    fs::create_dir(&shared).unwrap();
    let (over, operations, all) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new((Counts::new(), Vec::new())));
    let root = mounted.root().to_owned();
    let before = mounted.status().unwrap();
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (over, operations, all, root, shared) = (&over, &operations, &all, &root, &shared);
            scope.spawn(move || {
                let mut worker = Worker::new(number, root, shared);
                worker.work(over, operations);
                let mut all = all.lock().unwrap();
                worker.counts.into_iter().for_each(|(what, count)| *all.0.entry(what).or_default() += count);
                all.1.extend(worker.files);
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(500));
        }
        over.store(true, Ordering::Relaxed);
    });
    let after = mounted.status().unwrap();
    let (counts, files) = all.into_inner().unwrap();
    let memory = most_memory(mounted.volume().unwrap().pid().unwrap());
    let relocated = after.since(&before, "gc/relocated").unwrap();
    println!("{} operations in {seconds} s; {} KiB of memory at most; {} MiB relocated", operations.into_inner(), memory, relocated >> 20);
    counts.iter().for_each(|((what, how), count)| println!("  {what}: {how}: {count}"));
    let failed: Vec<_> = counts.keys().filter(|(_, how)| how != "done" && how != "ENOSPC").collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(memory <= MEMORY_MIB << 10, "{memory} KiB of memory, at most {MEMORY_MIB} MiB are promised");
    assert!(relocated > 0, "the cleaner had nothing to do: the volume is not full enough");
    // What was made durable survives the end of the daemon.
    mounted.crash();
    let durable = files.iter().filter(|known| known.durable);
    for Known { path, seed, bytes, .. } in durable {
        let found = fs::read(path).unwrap();
        assert_eq!((found.len() as u64, Pattern(*seed).mismatch(0, &found)), (*bytes, None), "{} after a crash", path.display());
    }
    let filling = File::open(mounted.path("filling")).unwrap();
    let mut piece = vec![0; MIB as usize];
    for at in (0..filled).step_by(8 * MIB as usize) {
        let len = (filled - at).min(MIB) as usize;
        filling.read_exact_at(&mut piece[..len], at).unwrap();
        assert_eq!(Pattern(99).mismatch(at, &piece[..len]), None, "what lay there all the time, at {at}");
    }
    drop(filling);
    mounted.finish();
}
