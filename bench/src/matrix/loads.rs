//! The loads: each runs in the root of a fresh filesystem and gives a rate for each of its figures. More is better.

use super::trees::Tree;
use crate::copying::copy_durably;
use crate::loops::{call, is_installed, search_path, word};
use anyhow::{Context, Result, ensure};
use harness::Pattern;
use harness::bytes::{GIB, KIB, MIB};
use harness::content::Dice;
use harness::interrupt;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use zns::AlignedBuf;

const LIMIT: Duration = Duration::from_secs(600);
/// What a system may take for one figure of many files: one that looks through all of them for each one would take hours.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be reached by FerryFS on an image: its rate over that of the ceiling, and over that of ext4.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goals {
    pub ceiling: Option<f64>,
    pub ext4: Option<f64>,
}

/// A figure of a load.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub goals: Goals,
}

const fn figure(name: &'static str, unit: &'static str, ceiling: Option<f64>, ext4: Option<f64>) -> Figure {
    Figure { name, unit, goals: Goals { ceiling, ext4 } }
}

/// How much each load does.
pub struct Scale {
    /// Bytes of a stream and of what is copied.
    pub stream: u64,
    /// Bytes of the file that is read and written at random.
    pub file: u64,
    /// Seconds of a load that has no end of its own.
    pub seconds: u64,
    /// Files of a metadata load.
    pub files: u32,
    /// Transactions of a database.
    pub transactions: u32,
    /// The source tree.
    pub tree: Tree,
}

impl Scale {
    /// Of the published figures, or a smaller one. `scratch` is a directory for what loads need besides.
    ///
    /// # Errors
    /// Writing there.
    pub fn new(quick: bool, scratch: &Path) -> Result<Scale> {
        Ok(match quick {
            false => {
                Scale { stream: GIB, file: 512 * MIB, seconds: 3, files: 100_000, transactions: 1000, tree: Tree::new(scratch, 6000)? }
            }
            true => {
                Scale { stream: 128 * MIB, file: 64 * MIB, seconds: 1, files: 10_000, transactions: 200, tree: Tree::new(scratch, 600)? }
            }
        })
    }
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Load {
    /// A stream through the page cache.
    Stream,
    /// A stream past it.
    StreamDirect,
    /// 4 KiB at random, by fio.
    Random,
    /// 4 KiB and fsync, by fio.
    Sync,
    /// Many files in one directory.
    OneDirectory,
    /// Many files in many directories.
    ManyDirectories,
    /// Unpacking a source tree and walking it.
    SourceTree,
    /// A build by cargo.
    Build,
    /// SQLite.
    Sqlite,
    /// An embedded store.
    Store,
    /// 1 GiB copied in three ways.
    Copy,
}

impl Load {
    /// All of them.
    pub const ALL: [Load; 11] = [
        Load::Stream,
        Load::StreamDirect,
        Load::Random,
        Load::Sync,
        Load::OneDirectory,
        Load::ManyDirectories,
        Load::SourceTree,
        Load::Build,
        Load::Sqlite,
        Load::Store,
        Load::Copy,
    ];

    /// Its figures, in the order in which [`Load::run`] gives them.
    pub fn figures(self) -> &'static [Figure] {
        const NONE: Option<f64> = None;
        match self {
            Load::Stream => {
                const {
                    &[
                        figure("sequential write 1 MiB, buffered, and fsync", "MiB/s", Some(0.8), Some(1.0)),
                        figure("sequential read 1 MiB, buffered, cold", "MiB/s", Some(0.8), Some(0.6)),
                    ]
                }
            }
            Load::StreamDirect => {
                const {
                    &[
                        figure("sequential write 1 MiB, direct", "MiB/s", Some(0.8), NONE),
                        figure("sequential read 1 MiB, direct", "MiB/s", NONE, NONE),
                    ]
                }
            }
            Load::Random => {
                const {
                    &[
                        figure("random read 4 KiB, QD 1, direct", "1/s", Some(0.7), Some(0.8)),
                        figure("random read 4 KiB, QD 32, direct", "1/s", Some(0.7), Some(0.8)),
                        figure("random write 4 KiB, QD 1, direct", "1/s", Some(0.6), Some(0.8)),
                        figure("random write 4 KiB, QD 32, direct", "1/s", Some(0.6), Some(0.8)),
                        figure("random read 4 KiB, buffered", "1/s", NONE, NONE),
                        figure("random write 4 KiB, buffered", "1/s", NONE, NONE),
                    ]
                }
            }
            Load::Sync => {
                const {
                    &[
                        figure("write 4 KiB and fsync, 1 thread", "1/s", NONE, Some(1.0)),
                        figure("write 4 KiB and fsync, 16 threads, a file each", "1/s", NONE, Some(2.0)),
                        figure("write 4 KiB and fsync, 16 threads, one file", "1/s", NONE, Some(2.0)),
                    ]
                }
            }
            Load::OneDirectory => {
                const {
                    &[
                        figure("create, one directory", "1/s", Some(0.7), Some(0.45)),
                        figure("stat after create, one directory", "1/s", Some(0.9), Some(0.7)),
                        figure("readdir, one directory, cold", "1/s", NONE, NONE),
                        figure("unlink, one directory", "1/s", Some(0.7), Some(0.45)),
                    ]
                }
            }
            Load::ManyDirectories => {
                const {
                    &[
                        figure("create, 100 in each directory", "1/s", Some(0.7), Some(0.45)),
                        figure("stat after create, 100 in each directory", "1/s", Some(0.9), Some(0.7)),
                        figure("readdir, 100 in each directory, cold", "1/s", NONE, NONE),
                        figure("unlink, 100 in each directory", "1/s", Some(0.7), Some(0.45)),
                    ]
                }
            }
            Load::SourceTree => {
                const {
                    &[
                        figure("source tree, unpacked by tar", "files/s", Some(0.7), Some(0.6)),
                        figure("source tree, walked and read, cold", "files/s", Some(0.7), Some(0.6)),
                    ]
                }
            }
            Load::Build => const { &[figure("cargo build", "builds/min", NONE, NONE)] },
            Load::Sqlite => const { &[figure("SQLite, a row a transaction, WAL, synchronous=FULL", "1/s", NONE, NONE)] },
            Load::Store => {
                const {
                    &[
                        figure("embedded store, fillrandom, 100 in a transaction", "1/s", NONE, NONE),
                        figure("embedded store, readrandom, cold", "1/s", NONE, NONE),
                    ]
                }
            }
            Load::Copy => {
                const {
                    &[
                        figure("copy by cp --reflink=never, and fsync", "MiB/s", NONE, NONE),
                        figure("copy by copy_file_range, and fsync", "MiB/s", NONE, NONE),
                        figure("copy by rsync, and fsync", "MiB/s", NONE, NONE),
                    ]
                }
            }
        }
    }

    /// Programs that it needs.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Load::Random | Load::Sync => &["fio"],
            Load::SourceTree => &["tar"],
            Load::Build => &["cargo"],
            Load::Sqlite => &["sqlite3"],
            Load::Copy => &["cp", "rsync"],
            _ => &[],
        }
    }

    /// Runs it in `root`.
    ///
    /// # Errors
    /// The filesystem's, and a program that is missing.
    pub fn run(self, root: &Path, scale: &Scale) -> Result<Vec<f64>> {
        for program in self.programs() {
            ensure!(is_installed(program), "{program} is not installed");
        }
        match self {
            Load::Stream => stream(root, scale.stream, false),
            Load::StreamDirect => stream(root, scale.stream, true),
            Load::Random => random(root, scale),
            Load::Sync => [(1, 1), (16, 16), (16, 1)].into_iter().map(|(threads, files)| synced(root, threads, files, scale)).collect(),
            Load::OneDirectory => files(root, scale.files, scale.files),
            Load::ManyDirectories => files(root, scale.files, 100),
            Load::SourceTree => scale.tree.unpack_and_walk(root),
            Load::Build => scale.tree.build(root).map(|rate| vec![rate]),
            Load::Sqlite => sqlite(root, scale.transactions).map(|rate| vec![rate]),
            Load::Store => store(root, scale.transactions),
            Load::Copy => copies(root, scale.stream),
        }
    }
}

/// Has the kernel forget what it caches, of files and of names; the disk's writes are over first. What it may not forget here stays: then nothing is cold.
pub fn cool(root: &Path) -> Result<()> {
    crate::rig::sync(root)?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("the caches of the kernel (root empties them)")
}

fn rate(count: f64, started: Instant) -> f64 {
    count / started.elapsed().as_secs_f64()
}

fn opened(path: &Path, direct: bool) -> Result<File> {
    let flags = if direct { OFlags::DIRECT.bits().cast_signed() } else { 0 };
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)?)
}

fn stream(root: &Path, size: u64, direct: bool) -> Result<Vec<f64>> {
    let path = root.join("stream");
    let mut block = AlignedBuf::from_slice(&Pattern(1).bytes(0, MIB as usize));
    let mib = (size / MIB) as f64;
    let started = Instant::now();
    let file = opened(&path, direct)?;
    for at in (0..size).step_by(block.len()) {
        file.write_all_at(&block, at)?;
    }
    file.sync_all()?;
    let written = rate(mib, started);
    drop(file);
    cool(root)?;
    let file = opened(&path, direct)?;
    let started = Instant::now();
    for at in (0..size).step_by(block.len()) {
        file.read_exact_at(&mut block, at)?;
    }
    Ok(vec![written, rate(mib, started)])
}

/// Operations per second as fio tells, of a load on the files that `places` names.
fn fio(places: &[String], arguments: &[String]) -> Result<f64> {
    let mut command = Command::new("fio");
    command.args(["--name=load", "--output-format=json", "--bs=4k", "--randseed=1", "--thread", "--group_reporting"]);
    command.args(places).args(arguments);
    let text = harness::run(&mut command, LIMIT)?.ok()?.stdout;
    // Notes may come before it.
    let json = text.find('{').map_or("", |begin| &text[begin..]);
    let said: serde_json::Value = serde_json::from_str(json).with_context(|| format!("reading what fio said: {text}"))?;
    let job = &said["jobs"][0];
    let of = |way: &str| job[way]["iops"].as_f64().unwrap_or(0.0);
    let found = of("read") + of("write");
    ensure!(found > 0.0, "fio says that it did nothing: {text}");
    Ok(found)
}

fn random(root: &Path, scale: &Scale) -> Result<Vec<f64>> {
    let path = root.join("random");
    crate::sequential::write(&path, scale.file, &Pattern(2).bytes(0, MIB as usize))?;
    let mut rates = Vec::new();
    for (way, depth, direct) in [
        ("randread", 1, true),
        ("randread", 32, true),
        ("randwrite", 1, true),
        ("randwrite", 32, true),
        ("randread", 1, false),
        ("randwrite", 1, false),
    ] {
        cool(root)?;
        let engine = if depth == 1 { "psync" } else { "libaio" };
        rates.push(fio(
            &[format!("--filename={}", path.display())],
            &[
                format!("--rw={way}"),
                format!("--iodepth={depth}"),
                format!("--ioengine={engine}"),
                format!("--direct={}", u8::from(direct)),
                format!("--size={}", scale.file),
                format!("--runtime={}", scale.seconds),
                "--time_based".into(),
                "--norandommap".into(),
            ],
        )?);
    }
    Ok(rates)
}

/// Each of so many threads writes a block and syncs, again and again, in one of so many files. The kernel lets one fsync at a time into a file of FUSE, so that
/// in one file they cannot be taken together.
fn synced(root: &Path, threads: u32, files: u32, scale: &Scale) -> Result<f64> {
    let size = 16 * MIB;
    let path = |n| root.join(format!("synced-{threads}-{files}.{n}"));
    for n in 0..files {
        crate::sequential::write(&path(n), size, &Pattern(3).bytes(0, MIB as usize))?;
    }
    let shared = format!("--filename={}", path(0).display());
    // A name for each thread; a file name has no `$` in it that is not ours.
    let own = [format!("--directory={}", root.display()), format!("--filename_format=synced-{threads}-{files}.$jobnum")];
    let places: &[String] = if files == 1 { &[shared] } else { &own };
    fio(
        places,
        &[
            "--rw=randwrite".into(),
            "--ioengine=psync".into(),
            "--fsync=1".into(),
            format!("--numjobs={threads}"),
            format!("--size={size}"),
            format!("--runtime={}", scale.seconds),
            "--time_based".into(),
            "--norandommap".into(),
        ],
    )
}

/// Does something with each name, and no longer than is sensible.
fn each(names: impl Iterator<Item = PathBuf>, doing: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let started = Instant::now();
    for (n, name) in names.enumerate() {
        doing(&name)?;
        if n % 256 == 0 {
            interrupt::check()?;
            ensure!(started.elapsed() < PATIENCE, "given up after {n} files and {} s", PATIENCE.as_secs());
        }
    }
    Ok(())
}

/// `count` empty files, so many in each directory.
fn files(root: &Path, count: u32, in_each: u32) -> Result<Vec<f64>> {
    let base = root.join("files");
    std::fs::create_dir(&base)?;
    let directories: Vec<_> = (0..count.div_ceil(in_each)).map(|n| base.join(format!("directory-{n}"))).collect();
    let names = || (0..count).map(|n| directories[(n / in_each) as usize].join(format!("file-{n}")));
    for directory in &directories {
        std::fs::create_dir(directory)?;
    }
    let rate = |started| rate(f64::from(count), started);
    let started = Instant::now();
    each(names(), |name| Ok(File::create_new(name).map(drop)?))?;
    let created = rate(started);
    let started = Instant::now();
    each(names(), |name| Ok(rustix::fs::stat(name).map(drop)?))?;
    let asked = rate(started);
    cool(root)?;
    let started = Instant::now();
    let mut found = 0;
    for directory in &directories {
        for entry in std::fs::read_dir(directory)? {
            entry?;
            found += 1;
        }
    }
    let listed = rate(started);
    ensure!(found == count, "{found} of {count} files are listed");
    let started = Instant::now();
    each(names(), |name| Ok(std::fs::remove_file(name)?))?;
    Ok(vec![created, asked, listed, rate(started)])
}

fn sqlite(root: &Path, transactions: u32) -> Result<f64> {
    let database = root.join("sqlite.db");
    let begin = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);";
    call("sqlite3", &[word(&database)?, begin])?;
    let script: String = (0..transactions).map(|n| format!("INSERT INTO t VALUES ({n}, '{:0100}');\n", n)).collect();
    let path = root.join("sqlite.sql");
    std::fs::write(&path, format!("PRAGMA synchronous=FULL;\n{script}"))?;
    let started = Instant::now();
    call("sqlite3", &[word(&database)?, &format!(".read {}", word(&path)?)])?;
    let found = rate(f64::from(transactions), started);
    let count = call("sqlite3", &[word(&database)?, "SELECT count(*) FROM t;"])?;
    ensure!(count.trim() == transactions.to_string(), "{} of {transactions} rows are there", count.trim());
    Ok(found)
}

/// Values of 100 bytes under random keys, as RocksDB's db_bench has them, in a store that is a library (redb).
fn store(root: &Path, transactions: u32) -> Result<Vec<f64>> {
    const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("t");
    const EACH: u32 = 100;
    let path = root.join("store.redb");
    let value = Pattern(4).bytes(0, 100);
    let count = f64::from(transactions * EACH);
    let mut dice = Dice::new(1);
    let database = redb::Database::create(&path)?;
    let started = Instant::now();
    for _ in 0..transactions {
        let writing = database.begin_write()?;
        {
            let mut table = writing.open_table(TABLE)?;
            for _ in 0..EACH {
                table.insert(dice.below(u64::from(transactions * EACH)), &value[..])?;
            }
        }
        writing.commit()?;
    }
    let filled = rate(count, started);
    drop(database);
    cool(root)?;
    let mut dice = Dice::new(1);
    let database = redb::Database::open(&path)?;
    let started = Instant::now();
    let reading = database.begin_read()?;
    let table = reading.open_table(TABLE)?;
    for _ in 0..transactions * EACH {
        let key = dice.below(u64::from(transactions * EACH));
        let found = table.get(key)?.with_context(|| format!("key {key} is lost"))?;
        ensure!(found.value() == value, "key {key} has another value");
    }
    Ok(vec![filled, rate(count, started)])
}

fn copies(root: &Path, size: u64) -> Result<Vec<f64>> {
    let (source, target) = (root.join("source"), root.join("target"));
    crate::sequential::write(&source, size, &Pattern(5).bytes(0, MIB as usize))?;
    let mib = (size / MIB) as f64;
    let mut rates = Vec::new();
    for way in ["cp", "copy_file_range", "rsync"] {
        cool(root)?;
        let started = Instant::now();
        match way {
            "copy_file_range" => copy_durably(&File::open(&source)?, &File::create_new(&target)?, size)?,
            program => {
                let options: &[&str] = if program == "cp" { &["--reflink=never"] } else { &["--whole-file", "--inplace"] };
                let mut command = Command::new(program);
                command.env("PATH", search_path()).args(options).arg(&source).arg(&target);
                harness::run(&mut command, LIMIT)?.ok()?;
                File::open(&target)?.sync_all()?;
            }
        }
        rates.push(rate(mib, started));
        same_beginning(&source, &target)?;
        std::fs::remove_file(&target)?;
    }
    Ok(rates)
}

fn same_beginning(source: &Path, target: &Path) -> Result<()> {
    let read = |path: &Path| -> Result<Vec<u8>> {
        let mut bytes = vec![0; 64 * KIB as usize];
        File::open(path)?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    ensure!(read(source)? == read(target)?, "the copy is not what was copied");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_gives_a_rate_for_each_of_its_figures() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let scale =
            Scale { stream: 2 * MIB, file: 2 * MIB, seconds: 1, files: 250, transactions: 3, tree: Tree::new(scratch.path(), 60).unwrap() };
        for load in [Load::OneDirectory, Load::ManyDirectories, Load::Store, Load::Stream] {
            let root = directory.path().join(format!("{load:?}"));
            std::fs::create_dir(&root).unwrap();
            match load.run(&root, &scale) {
                Ok(rates) => {
                    assert_eq!(rates.len(), load.figures().len());
                    assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{load:?}: {rates:?}");
                }
                // Only root may empty the caches.
                Err(error) => assert!(format!("{error:#}").contains("caches of the kernel"), "{load:?}: {error:#}"),
            }
        }
    }
}
