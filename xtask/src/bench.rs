//! `cargo xtask bench`: builds in release mode and runs `ferryfs-bench` with the options that give the published figures.

use crate::{benchmarks, build, interrupt, memory, packages, paper};
use anyhow::{Result, ensure};
use guest::{Kernel, Machine, Namespace};
use harness::Programs;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Filesystems that cleaning is compared with; those that the machine does not have are named with the reason.
const OTHERS: &str = "f2fs,btrfs,xfs,nilfs2,ext4";

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct BenchArguments {
    /// Which benchmark; all of them when left out
    #[arg(value_parser = ["fs", "basics", "scale", "copy", "gc", "parts", "wa", "device", "peers", "crash"])]
    name: Option<String>,
    /// Smaller and fewer rounds
    #[arg(long)]
    quick: bool,
    /// With gc: the tables of write amplification of the papers by simulation, into BENCHMARKS.md
    #[arg(long)]
    paper: bool,
    /// With fs and scale: what was measured goes into BENCHMARKS.md even if options after `--` narrow it, and the part says which
    #[arg(long)]
    publish: bool,
    /// More options for the benchmark, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

/// Runs one benchmark or all.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    let out = build::root().join("bench/out");
    std::fs::create_dir_all(&out)?;
    if arguments.name.as_deref() == Some("crash") {
        return crash_states(&out, arguments);
    }
    if arguments.paper {
        ensure!(arguments.name.as_deref() == Some("gc"), "--paper goes with gc: cargo xtask bench gc --paper");
        let programs = build::programs(true, &["fs", "mkfs", "bench"])?;
        return paper::run(&programs, &build::root().join("BENCHMARKS.md"), &out);
    }
    packages::provide(&[packages::need("mkfs.ext4", "e2fsprogs", "the peer that speed is compared with")])?;
    if let Some(reason) = packages::no_fuse() {
        anyhow::bail!("{reason}");
    }
    let programs = build::programs(true, &["fs", "mkfs", "copy_backend", "bench"])?;
    let names = match &arguments.name {
        Some(name) => vec![name.as_str()],
        None => vec!["copy", "gc", "parts", "basics", "scale", "fs", "wa", "device", "peers", "crash"],
    };
    for name in names {
        interrupt::check()?;
        if name == "device" {
            on_a_drive(&programs, &out, arguments)?;
            continue;
        }
        if name == "crash" {
            crash_states(&out, arguments)?;
            continue;
        }
        if name == "peers" {
            beside_peers(&programs, &out, arguments)?;
            continue;
        }
        if name == "fs" {
            beside_others(&programs, &out, arguments)?;
            continue;
        }
        if name == "scale" {
            into_benchmarks(&programs, &out, arguments, &[], &Kept { name: "scale", part: "scale", heading: SCALE })?;
            continue;
        }
        let mut command: Command = programs.command("ferryfs-bench")?;
        command.arg(name).arg("--json").arg(out.join(format!("{name}.json")));
        if name == "gc" {
            command.arg("--svg").arg(&out).arg("--vs").arg(OTHERS);
        }
        if arguments.quick {
            command.arg("--quick");
        }
        let status = command.args(&arguments.more).status()?;
        ensure!(status.success(), "ferryfs-bench {name} ended with {status}");
    }
    println!("results: {}", out.display());
    Ok(())
}

/// Loads of all kinds on FerryFS, the ceiling of FUSE and other filesystems, in memory and on the disk that the project lies on. What is whole goes into
/// BENCHMARKS.md.
fn beside_others(programs: &Programs, out: &Path, arguments: &BenchArguments) -> Result<()> {
    packages::provide(&[
        packages::need("fio", "fio", "the load of single blocks"),
        packages::need("mkfs.xfs", "xfsprogs", "a peer"),
        packages::need("mkfs.btrfs", "btrfs-progs", "a peer"),
        packages::need("fuse2fs", "fuse2fs", "a peer by FUSE"),
        packages::need("sqlite3", "sqlite3", "a load"),
        packages::need("rsync", "rsync", "a load"),
    ])?;
    let chosen = |option: &str| arguments.more.iter().any(|word| word == option || word.starts_with(&format!("{option}=")));
    let backings = format!("memory,{}", out.display());
    let own: &[&str] = if chosen("--on") { &[] } else { &["--on", &backings] };
    into_benchmarks(programs, out, arguments, own, &Kept { name: "fs", part: "speed", heading: SPEED })
}

/// A measurement of which what is whole goes into BENCHMARKS.md.
struct Kept {
    /// The command of `ferryfs-bench`.
    name: &'static str,
    /// The part of the file.
    part: &'static str,
    heading: &'static str,
}

/// Runs it, with options of its own and those that were given.
fn into_benchmarks(programs: &Programs, out: &Path, arguments: &BenchArguments, own: &[&str], kept: &Kept) -> Result<()> {
    let Kept { name, part, heading } = kept;
    let markdown = out.join(format!("{name}.md"));
    let mut command: Command = programs.command("ferryfs-bench")?;
    command.arg(name).arg("--json").arg(out.join(format!("{name}.json"))).arg("--svg").arg(out).arg("--markdown").arg(&markdown);
    if arguments.quick {
        command.arg("--quick");
    }
    let status = command.args(own).args(&arguments.more).status()?;
    interrupt::check()?;
    ensure!(status.success(), "ferryfs-bench {name} ended with {status}");
    if !arguments.quick && (arguments.more.is_empty() || arguments.publish) {
        let table = std::fs::read_to_string(&markdown)?;
        let title = heading.replace(COMMAND, &published(name, &arguments.more));
        benchmarks::put(&build::root().join("BENCHMARKS.md"), part, &format!("{title}{table}"))?;
    }
    Ok(())
}

/// Stands in a heading for the command that made the part.
const COMMAND: &str = "COMMAND";

/// That command.
fn published(name: &str, more: &[String]) -> String {
    let options = if more.is_empty() { String::new() } else { format!(" --publish -- {}", more.join(" ")) };
    format!("cargo xtask bench {name}{options}")
}

const SPEED: &str = "# Measured: speed beside other filesystems\n\n\
    Made by `COMMAND`, which writes this part. Rates are medians; ratios are those of FerryFS on an image to the ceiling (a naive filesystem in memory behind the\n\
    same FUSE adaptor) and to ext4 on a loop device over the same backing, taken within each round: their median, lowest and highest. The last column (of medians) says how much of ext4's rate the\n\
    ceiling has. It is a naive filesystem and no bound in the strict sense (FerryFS passes it where it writes streams), but FerryFS stands behind the same adaptor. The goal beside fuse2fs, to be ahead on\n\
    every row, is checked in the text that the command prints. Each load runs on a filesystem that was made for it. A copy by copy_file_range on an image is carried out by our\n\
    own process (simulated).\n\n";

const SCALE: &str = "# Measured: many files, entries, extents and zones\n\n\
    Made by `COMMAND`, which writes this part, and pictures of each cost against size into `bench/out`. Images are sparse, and play drives without taking their time\n\
    (simulated). Resident memory may reach cache_size + 64 MiB + 64 bytes for each zone. What grows is stopped at powers of ten: the daemon is killed with all that nobody had\n\
    waited for, mounted, unmounted, mounted cold, looked at 2000 times by chance, unmounted and checked. Drives are medians of five rounds; the rest is one run.\n\n";

/// Crash states of volumes of every kind, in the profile that is optimised and still asserts.
fn crash_states(out: &Path, arguments: &BenchArguments) -> Result<()> {
    let mut command = build::cargo();
    command.args(["run", "--locked", "--package", "tests", "--bin", "crash_states", "--", "--json"]).arg(out.join("crash.json"));
    if arguments.quick {
        command.arg("--quick");
    }
    let status = command.args(&arguments.more).status()?;
    interrupt::check()?;
    ensure!(status.success(), "crash_states ended with {status}");
    Ok(())
}

/// A guest whose drives are as fast as they can be emulated: in memory, if there is room.
fn machine(kernel: Kernel, out: &Path) -> Machine {
    let machine = Machine::new(kernel).memory(2048).share(out).deadline(Duration::from_secs(3600)).no_copy_fails();
    match memory::roomy() {
        Some(memory) => machine.images_in(memory),
        None => machine,
    }
}

/// On an emulated ZNS drive that has Copy, in a virtual machine: the drive's work costs the machine's kernel nothing, as that of a real one would.
fn on_a_drive(programs: &Programs, out: &Path, arguments: &BenchArguments) -> Result<()> {
    guest::prepare(&[Kernel::Long6_12], &|doing| println!("{doing}"))?;
    let drive = Namespace::zoned("d").size(4 << 30).zones(16 << 20, 16 << 20).active(14, 14).copy(256, 1024, 127);
    let machine = machine(Kernel::Long6_12, out).device(drive);
    in_guest(machine, programs, out, "device", &["/dev/vm/dn1"], arguments)
}

/// On four emulated ZNS drives of one model, two of them with a plain one beside, under a kernel that knows zoned XFS.
fn beside_peers(programs: &Programs, out: &Path, arguments: &BenchArguments) -> Result<()> {
    packages::provide(&[
        packages::need("mkfs.btrfs", "btrfs-progs", "a peer on zoned drives"),
        packages::need("mkfs.f2fs", "f2fs-tools", "a peer on zoned drives"),
    ])?;
    guest::prepare(&[Kernel::New7_3], &|doing| println!("{doing}"))?;
    // Without one the table says that XFS is left out, and why.
    let xfs_tools = guest::xfs_tools::provide(&|doing| println!("{doing}")).unwrap_or_else(|error| {
        eprintln!("note: {error:#}");
        None
    });
    let zoned = |name| Namespace::zoned(name).size(1 << 30).zones(16 << 20, 16 << 20).active(14, 14).copy(256, 1024, 127);
    // As small as will do, so that files lie on the zoned ones: F2FS keeps its tables there and what else there is room for, XFS its metadata alone.
    let plain = |name, mib: u64| Namespace::conventional(name).size(mib << 20);
    let machine = machine(Kernel::New7_3, out);
    let zoned_drives = ["a", "b", "c", "d"].into_iter().fold(machine, |machine, name| machine.device(zoned(name)));
    let machine = zoned_drives.device(plain("e", 64)).device(plain("f", 320));
    let machine = match xfs_tools {
        Some(programs) => {
            machine.variable("PATH", format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()))
        }
        None => machine,
    };
    let drives = "--ferryfs /dev/vm/an1 --btrfs /dev/vm/bn1 --f2fs /dev/vm/cn1 /dev/vm/en1 --xfs /dev/vm/dn1 /dev/vm/fn1";
    let words: Vec<&str> = drives.split_whitespace().collect();
    in_guest(machine, programs, out, "peers", &words, arguments)
}

/// Runs a benchmark of devices in a virtual machine.
fn in_guest(machine: Machine, programs: &Programs, out: &Path, name: &str, devices: &[&str], arguments: &BenchArguments) -> Result<()> {
    let program = programs.path("ferryfs-bench")?;
    let json = out.join(format!("{name}.json"));
    let mut command = vec![program.as_os_str(), name.as_ref()];
    command.extend(devices.iter().map(|word| -> &OsStr { word.as_ref() }));
    command.extend(["--overwrite".as_ref(), "--json".as_ref(), json.as_os_str()]);
    if arguments.quick {
        command.push("--quick".as_ref());
    }
    command.extend(arguments.more.iter().map(|word| -> &OsStr { word.as_ref() }));
    let run = machine.variable("FERRYFS_BIN_DIR", programs.directory()).run(&command)?;
    eprint!("{}", run.outcome.stderr);
    print!("{}", run.outcome.stdout);
    ensure!(run.outcome.success(), "ferryfs-bench {name}: {}\n{}", run.outcome, run.console_tail());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_what_made_it() {
        assert_eq!(published("scale", &[]), "cargo xtask bench scale");
        let more = ["--on".to_owned(), "memory".to_owned()];
        assert_eq!(published("fs", &more), "cargo xtask bench fs --publish -- --on memory");
        assert!([SPEED, SCALE].iter().all(|heading| heading.matches(COMMAND).count() == 1));
    }
}
