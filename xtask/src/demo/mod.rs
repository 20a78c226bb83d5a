//! `cargo xtask demo`: the main job on real input, from a formatted image to a crash and back.
//!
//! Every step checks what it did; the first thing that is wrong ends the demonstration with an error. What is printed at the
//! end comes from the filesystem's own counters and from clocks outside of it.

mod churn;
mod journal;
mod report;
mod trees;

use crate::{build, interrupt, packages};
use anyhow::{Context, Result, ensure};
use churn::Churn;
use harness::bytes::{GIB, MIB, human};
use harness::{Pattern, Programs, Volume, VolumeSpec, mounts};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use report::{Counters, Report};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use trees::Tree;

/// Size of the image.
const IMAGE: u64 = 4 * GIB;
/// How much the cleaner has to move.
const RELOCATE: u64 = GIB;
/// The file that is copied by copy_file_range(2).
const BIG: u64 = 512 * MIB;
/// The most of the toolchain that is unpacked.
const TOOLCHAIN: u64 = 800 * MIB;
/// The cleaner has this long to move what it has to.
const CHURN_LIMIT: Duration = Duration::from_secs(90);

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct DemoArguments {
    /// Where the image and the mount point go while it runs (5 GiB); the target directory when left out
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs the demonstration.
pub fn run(arguments: &DemoArguments) -> Result<()> {
    let mut needs = vec![
        packages::need("tar", "tar", "unpacking the crate sources"),
        packages::need("gzip", "gzip", "unpacking the crate sources"),
        packages::need("cc", "gcc", "linking the program that is built in the mount"),
    ];
    if !rustix::process::geteuid().is_root() {
        needs.push(packages::need("fusermount3", "fuse3", "mounting without being root"));
    }
    packages::provide(&needs)?;
    if let Some(reason) = packages::no_fuse() {
        anyhow::bail!("{reason}");
    }
    println!("Building FerryFS in release mode (not counted in the time below)");
    let programs = build::programs(true, &["fs", "mkfs"])?;
    let metadata = build::metadata()?;
    let place = Place::new(arguments.dir.as_deref(), programs.directory())?;
    let started = Instant::now();
    let mut demo = Demo::new(&programs, &place)?;
    let result = demo.steps(&metadata);
    demo.bar.finish_and_clear();
    match result {
        Ok(()) => {
            demo.report.print(started.elapsed());
            Ok(())
        }
        Err(error) if interrupt::requested() => Err(error),
        Err(error) => {
            let log = demo.volume.log();
            let tail = log.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n  ");
            Err(if tail.is_empty() { error } else { error.context(format!("the daemon said last:\n  {tail}\n")) })
        }
    }
}

struct Demo {
    volume: Volume,
    report: Report,
    counters: Counters,
    bar: ProgressBar,
}

impl Demo {
    fn new(programs: &Programs, place: &Place) -> Result<Demo> {
        let spec = VolumeSpec {
            format: ["--size", "4G", "--profile", "zns", "-L", "demo"].map(String::from).to_vec(),
            devices: vec!["demo.img".into()],
            ..VolumeSpec::default()
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let volume = Volume::existing(programs, &place.directory, spec)?;
        Ok(Demo { volume, report: Report::default(), counters: Counters::default(), bar })
    }

    fn steps(&mut self, metadata: &serde_json::Value) -> Result<()> {
        self.begin("formatting and mounting", None)?;
        let started = Instant::now();
        self.volume.format()?.ok()?;
        let formatted = started.elapsed();
        self.volume.mount()?;
        let status = self.volume.status()?;
        self.counters.simulated = status.simulated();
        self.done(&format!(
            "made and mounted {} that poses as a ZNS drive: {} zones",
            human(IMAGE),
            status.devices().filter_map(|d| d["zones"].as_u64()).sum::<u64>()
        ));
        self.report.formatted = formatted;

        let crates = self.crates(metadata)?;
        let toolchain = self.toolchain()?;
        let trees = [&crates, &toolchain];

        self.begin("unmounting and mounting again", None)?;
        self.remount()?;
        self.compare("comparing every byte with the original", &trees)?;
        self.program(&toolchain)?;

        let big = Pattern(0xb16);
        let mut churn = self.fill(big)?;
        self.clean(&mut churn)?;
        self.copy(&mut churn)?;
        let acknowledged = self.crash()?;
        self.recover(acknowledged)?;
        self.compare("comparing every byte of the trees again", &trees)?;
        self.compare_written(big, &churn)?;
        self.finish()
    }

    /// The crate sources that the build downloaded, unpacked as cargo does it.
    fn crates(&mut self, metadata: &serde_json::Value) -> Result<Tree> {
        let packages = trees::downloaded(metadata);
        ensure!(!packages.is_empty(), "cargo metadata names no downloaded crates");
        self.begin("unpacking the crate sources", Some(packages.len() as u64))?;
        let started = Instant::now();
        let target = self.volume.path("crates");
        std::fs::create_dir(&target)?;
        let mut tree = Tree::default();
        for package in &packages {
            interrupt::check()?;
            self.bar.set_message(package.name.clone());
            match &package.archive {
                Some(archive) => {
                    let mut command = Command::new("tar");
                    command.args(["--no-same-owner", "-xzf"]).arg(archive).arg("-C").arg(&target);
                    harness::run(&mut command, Duration::from_secs(120))?.ok()?;
                    tree.add_unpacked(&package.source, &target.join(&package.name))?;
                }
                None => tree.add(&package.source, &target.join(&package.name), |_| true)?.copy(|_| Ok(()))?,
            }
            self.bar.inc(1);
        }
        self.report.unpacked("crate sources", &tree, started.elapsed());
        self.done(&format!("unpacked {} crates: {}", packages.len(), tree.summary(started.elapsed())));
        Ok(tree)
    }

    /// The Rust toolchain that built us; its compiler is run in the mount later.
    fn toolchain(&mut self) -> Result<Tree> {
        let sysroot = harness::run(Command::new("rustc").args(["--print", "sysroot"]), Duration::from_secs(60))?.ok()?;
        let sysroot = PathBuf::from(sysroot.stdout.trim());
        let target = self.volume.path("toolchain");
        let mut tree = Tree::default();
        // What the compiler needs comes first; the rest as far as there is room for it in the demonstration's time.
        tree.add_within(&sysroot, &target, TOOLCHAIN)?;
        self.begin("copying the toolchain", Some(tree.bytes()))?;
        let started = Instant::now();
        let bar = self.bar.clone();
        tree.copy(|bytes| {
            bar.inc(bytes);
            interrupt::check()
        })?;
        self.report.unpacked("toolchain", &tree, started.elapsed());
        self.done(&format!("copied the toolchain: {}", tree.summary(started.elapsed())));
        Ok(tree)
    }

    fn compare(&mut self, what: &str, trees: &[&Tree]) -> Result<()> {
        self.begin(what, Some(trees.iter().map(|t| t.bytes()).sum()))?;
        let started = Instant::now();
        for tree in trees {
            tree.compare(&|bytes| {
                self.bar.inc(bytes);
                interrupt::check()
            })?;
        }
        let bytes = trees.iter().map(|t| t.bytes()).sum();
        let files: usize = trees.iter().map(|t| t.files()).sum();
        self.report.compared += bytes;
        self.done(&format!("compared {files} files, {}, with the originals: all equal", rate(bytes, started.elapsed())));
        Ok(())
    }

    /// Builds a program with the compiler that lies in the mount, in the mount, and runs it there.
    fn program(&mut self, toolchain: &Tree) -> Result<()> {
        self.begin("building a program inside", None)?;
        let started = Instant::now();
        let directory = self.volume.path("program");
        std::fs::create_dir(&directory)?;
        let source = directory.join("hello.rs");
        std::fs::write(&source, include_str!("hello.rs"))?;
        let own = self.volume.path("toolchain/bin/rustc");
        let (compiler, whose) =
            if toolchain.holds(&own) { (own, "the compiler that lies in the mount") } else { (PathBuf::from("rustc"), "rustc") };
        let mut command = Command::new(compiler);
        command.args(["--edition", "2021", "-O", "-o"]).arg(directory.join("hello")).arg(&source);
        harness::run(command.current_dir(&directory), Duration::from_secs(120))?.ok()?;
        let said = harness::run(&mut Command::new(directory.join("hello")), Duration::from_secs(20))?.ok()?;
        ensure!(said.stdout == "5050 from inside FerryFS\n", "the program said {:?}", said.stdout);
        self.report.program = whose;
        self.done(&format!("built a program with {whose} and ran it in {:.1} s", started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Fills the volume to 85 %: one large file, and many that will be overwritten.
    fn fill(&mut self, big: Pattern) -> Result<Churn> {
        let status = self.volume.status()?;
        let (total, used) = (status.number("space/total")?, status.number("space/used")?);
        let room = (total * 85 / 100).saturating_sub(used + BIG);
        let churn = Churn::new(self.volume.path("churn"), room)?;
        self.begin("filling the volume to 85 %", Some(BIG + churn.bytes()))?;
        let started = Instant::now();
        let file = File::create_new(self.volume.path("big"))?;
        let mut buffer = vec![0; MIB as usize];
        for offset in (0..BIG).step_by(buffer.len()) {
            interrupt::check()?;
            big.fill(offset, &mut buffer);
            file.write_all_at(&buffer, offset).context("writing the large file")?;
            self.bar.inc(MIB);
        }
        file.sync_all()?;
        churn.fill(|bytes| self.bar.inc(bytes))?;
        let seconds = started.elapsed();
        self.done(&format!("filled the volume to 85 %, {}", rate(BIG + churn.bytes(), seconds)));
        Ok(churn)
    }

    /// Overwrites and deletes until the cleaner has moved enough.
    fn clean(&mut self, churn: &mut Churn) -> Result<()> {
        self.begin("overwriting and deleting until the cleaner has moved 1 GiB", Some(RELOCATE))?;
        let started = Instant::now();
        let before = self.volume.status()?;
        let mut moved = 0;
        while moved < RELOCATE {
            interrupt::check()?;
            churn.round()?;
            let status = self.volume.status()?;
            moved = status.since(&before, "gc/relocated")?;
            self.bar.set_position(moved.min(RELOCATE));
            ensure!(
                started.elapsed() < CHURN_LIMIT || moved >= RELOCATE,
                "after {} of overwriting in {} s the cleaner has moved only {}",
                human(churn.overwritten()),
                CHURN_LIMIT.as_secs(),
                human(moved)
            );
        }
        let status = self.volume.status()?;
        let user = status.since(&before, "io/user_written")?;
        let moved = status.since(&before, "gc/relocated")?;
        self.report.write_amplification = 1.0 + moved as f64 / user.max(1) as f64;
        self.report.zones_reclaimed = status.since(&before, "gc/zones_reclaimed")?;
        self.done(&format!(
            "the cleaner moved {} while {} were overwritten ({:.1} s)",
            human(moved),
            human(user),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Makes room and copies the large file by copy_file_range(2).
    fn copy(&mut self, churn: &mut Churn) -> Result<()> {
        churn.delete(BIG + BIG / 2)?;
        self.begin("copying 512 MiB by copy_file_range(2)", Some(BIG))?;
        let before = self.volume.status()?;
        let started = Instant::now();
        let source = File::open(self.volume.path("big"))?;
        let target = File::create_new(self.volume.path("big.copy"))?;
        let (mut from, mut to, mut calls) = (0, 0, 0);
        while from < BIG {
            interrupt::check()?;
            let left = (BIG - from) as usize;
            let n = rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left).context("copy_file_range")?;
            ensure!(n > 0, "copy_file_range stopped at {}", human(from));
            calls += 1;
            self.bar.set_position(from);
        }
        target.sync_all()?;
        let seconds = started.elapsed();
        let after = self.volume.status()?;
        let host = after.since(&before, "copy_file_range/host_read")? + after.since(&before, "copy_file_range/host_written")?;
        let offloaded = after.since(&before, "copy_file_range/offloaded")?;
        self.report.copy = Some((seconds, calls, offloaded, host));
        self.done(&format!(
            "copied {} in {calls} calls: {} by the device, {} through the host",
            rate(BIG, seconds),
            human(offloaded),
            human(host)
        ));
        Ok(())
    }

    /// Kills the daemon while a program appends to a journal, one fsync per line; says how many lines were acknowledged.
    fn crash(&mut self) -> Result<u64> {
        self.begin("killing the daemon under load", None)?;
        sync(self.volume.root())?;
        self.counters.add(&self.volume.status()?)?;
        let journal = journal::Journal::start(&self.volume.path("journal"))?;
        journal.wait_for(200)?;
        self.volume.kill();
        let acknowledged = journal.stop();
        self.done(&format!("killed the daemon (SIGKILL) under load: {acknowledged} lines of a journal were acknowledged by fsync"));
        Ok(acknowledged)
    }

    fn recover(&mut self, acknowledged: u64) -> Result<()> {
        self.begin("mounting after the crash", None)?;
        let recovered = self.volume.mount()?;
        let lines = journal::read(&self.volume.path("journal"))?;
        ensure!(lines >= acknowledged, "the journal lost lines: {acknowledged} were acknowledged, {lines} are there");
        self.report.recovered = recovered;
        self.done(&format!("mounted after the crash in {:.2} s; the journal has {lines} lines", recovered.as_secs_f64()));
        self.begin("fsck.ferryfs -n", None)?;
        self.counters.add(&self.volume.status()?)?;
        self.volume.umount()?;
        let seconds = self.fsck()?;
        self.volume.mount()?;
        self.done(&format!("fsck.ferryfs -n: clean ({seconds:.1} s)"));
        Ok(())
    }

    fn fsck(&mut self) -> Result<f64> {
        let outcome = self.volume.fsck()?.ok().context("fsck finds errors")?;
        self.report.fsck += outcome.seconds;
        Ok(outcome.seconds)
    }

    /// Compares what was written here with what the seeds say.
    fn compare_written(&mut self, big: Pattern, churn: &Churn) -> Result<()> {
        self.begin("comparing the checksums of everything written", Some(2 * BIG + churn.bytes()))?;
        let started = Instant::now();
        for name in ["big", "big.copy"] {
            let file = File::open(self.volume.path(name))?;
            ensure!(file.metadata()?.len() == BIG, "{name} has {} bytes", file.metadata()?.len());
            let mut buffer = vec![0; MIB as usize];
            for offset in (0..BIG).step_by(buffer.len()) {
                interrupt::check()?;
                file.read_exact_at(&mut buffer, offset).with_context(|| format!("reading {name} at {offset}"))?;
                ensure!(big.mismatch(offset, &buffer).is_none(), "{name} differs near {offset}");
                self.bar.inc(MIB);
            }
        }
        churn.compare(|bytes| self.bar.inc(bytes))?;
        let bytes = 2 * BIG + churn.bytes();
        self.report.compared += bytes;
        self.done(&format!("compared what was written here with its seeds, {}: all equal", rate(bytes, started.elapsed())));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.begin("unmounting and checking once more", None)?;
        self.counters.add(&self.volume.status()?)?;
        self.volume.umount()?;
        let seconds = self.fsck()?;
        self.report.counters = self.counters.clone();
        self.done(&format!("unmounted; fsck.ferryfs -n: clean ({seconds:.1} s)"));
        Ok(())
    }

    fn remount(&mut self) -> Result<()> {
        self.counters.add(&self.volume.status()?)?;
        self.report.remounted = self.volume.remount()?;
        self.done(&format!("unmounted and mounted again in {:.2} s", self.report.remounted.as_secs_f64()));
        Ok(())
    }

    /// Starts a step: a bar in bytes when its size is known, else a spinner.
    fn begin(&mut self, what: &str, size: Option<u64>) -> Result<()> {
        interrupt::check()?;
        let template = match size {
            Some(size) if size > 10_000 => "{spinner} {prefix} {wide_bar} {bytes}/{total_bytes} {elapsed}",
            Some(_) => "{spinner} {prefix} {wide_bar} {pos}/{len} {msg} {elapsed}",
            None => "{spinner} {prefix} {elapsed}",
        };
        self.bar.finish_and_clear();
        self.bar = match size {
            Some(size) => ProgressBar::new(size),
            None => ProgressBar::new_spinner(),
        };
        self.bar.set_style(ProgressStyle::with_template(template)?);
        self.bar.set_prefix(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(150));
        Ok(())
    }

    fn done(&self, what: &str) {
        self.bar.finish_and_clear();
        println!("  {what}");
    }
}

/// The directory that holds the image and the mount point; gone in the end, however that comes.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(chosen: Option<&Path>, programs: &Path) -> Result<Place> {
        let roomy = |path: &Path| rustix::fs::statvfs(path).is_ok_and(|s| s.f_bavail * s.f_frsize > 5 * GIB);
        let parent = match chosen {
            Some(path) => path.to_path_buf(),
            None => [programs.to_path_buf(), std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()]
                .into_iter()
                .find(|path| roomy(path))
                .context("no directory with 5 GiB of free space: name one by --dir")?,
        };
        ensure!(parent.is_dir(), "{} is not a directory", parent.display());
        ensure!(roomy(&parent), "{} has less than 5 GiB of free space", parent.display());
        let directory = std::path::absolute(&parent)?.join(format!("ferryfs-demo-{}", std::process::id()));
        std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Place { directory })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        mounts::detach_below(&self.directory);
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("note: {} could not be removed: {error}", self.directory.display());
        }
    }
}

/// Makes everything durable: the kernel hands over what it still holds, then one fsync covers all that came before it.
fn sync(root: &Path) -> Result<()> {
    let root = File::open(root)?;
    rustix::fs::syncfs(&root).context("syncfs")?;
    root.sync_all().context("fsync of the root directory")
}

fn rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    format!("{} in {seconds:.1} s, {}/s", human(bytes), human((bytes as f64 / seconds.max(1e-6)) as u64))
}
