//! Makes the golden images of this version's format: `cargo run --package tests --example make_golden VERSION`.
//!
//! To be run once when the format changes; images that are there already are never replaced.

use anyhow::{Context, Result, ensure};
use harness::{Pattern, Programs, Volume, VolumeSpec};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use tests::{golden, tree};

fn main() -> Result<()> {
    let version = std::env::args().nth(1).context("name the version of the format, as in v1")?;
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("an example lies in target/*/examples")?;
    let programs = Programs::in_directory(target);
    fs::create_dir_all(golden::directory())?;
    for (name, format, crashed) in [
        ("zns-clean", "--size 64M --zone-size 1M -L golden", false),
        ("zns-crashed", "--size 64M --zone-size 1M -L golden", true),
        ("plain-crashed", "--size 64M --zone-size 1M --profile conventional -L golden", true),
    ] {
        let packed = golden::directory().join(format!("{version}-{name}.golden"));
        ensure!(!packed.exists(), "{} is there already", packed.display());
        let directory = tempfile::tempdir()?;
        let spec = VolumeSpec {
            format: format.split(' ').map(String::from).collect(),
            options: vec!["gc=manual".into()],
            ..VolumeSpec::default()
        };
        let mut volume = Volume::create(&programs, directory.path(), spec)?;
        volume.mount()?;
        populate(&volume)?;
        let manifest = if crashed {
            after_the_checkpoint(volume.root())?;
            let manifest = tree::describe(volume.root())?;
            volume.kill();
            manifest
        } else {
            let manifest = tree::describe(volume.root())?;
            volume.umount()?;
            manifest
        };
        volume.fsck()?.ok()?;
        golden::pack(volume.device(), &packed)?;
        fs::write(packed.with_extension("manifest"), manifest)?;
        println!("{}: {} bytes", packed.display(), packed.metadata()?.len());
    }
    Ok(())
}

/// One of everything that the format can hold.
fn populate(volume: &Volume) -> Result<()> {
    let at = |name: &str| volume.path(name);
    for (n, length) in [0, 1, 100, 4095, 4096, 4097, 70_000, 1 << 20].into_iter().enumerate() {
        fs::write(at(&format!("file-{length}")), Pattern(n as u64).bytes(0, length))?;
    }
    let sparse = File::create_new(at("sparse"))?;
    for n in 0..300u64 {
        sparse.write_all_at(&Pattern(n).bytes(0, 5000), n * n * 100_000)?;
    }
    sparse.set_len(1 << 43)?;
    let reserved = File::create_new(at("reserved"))?;
    rustix::fs::fallocate(&reserved, FallocateFlags::empty(), 0, 300_000)?;
    reserved.write_all_at(b"in the middle", 150_000)?;
    rustix::fs::fallocate(&reserved, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 200_000, 50_000)?;
    fs::create_dir(at("many"))?;
    for n in 0..2000 {
        fs::write(at(&format!("many/entry number {n}")), format!("{n}"))?;
    }
    fs::create_dir_all(at("deep/er/and/deeper"))?;
    fs::hard_link(at("file-4096"), at("deep/er/link"))?;
    symlink("../file-100", at("deep/symlink"))?;
    symlink("x".repeat(4000), at("long-symlink"))?;
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(259, 1000)),
    ] {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device)?;
    }
    for length in [0, 10, 3000, 60_000] {
        xattr::set(at("file-1"), format!("user.a{length}"), &Pattern(length).bytes(0, length as usize))?;
    }
    xattr::set(at("deep"), "user.directory", b"has attributes too")?;
    // Overwritten, copied by the device, and moved by the cleaner.
    let big = File::options().read(true).write(true).open(at("file-1048576"))?;
    for n in (0..256u64).step_by(3) {
        big.write_all_at(&Pattern(n + 99).bytes(0, 4096), n * 4096)?;
        big.sync_data()?;
    }
    let copy = File::create_new(at("copied"))?;
    let (mut from, mut to) = (0, 0);
    while from < 1 << 20 {
        let left = (1 << 20) - from as usize;
        rustix::fs::copy_file_range(&big, Some(&mut from), &copy, Some(&mut to), left)?;
    }
    copy.sync_all()?;
    for n in (0..2000).step_by(3) {
        fs::remove_file(at(&format!("many/entry number {n}")))?;
    }
    sync(volume.root())?;
    volume.ferryfs(["gc".as_ref(), "--until-clean".as_ref(), volume.root().as_os_str()])?.ok()?;
    settle(volume.root())
}

/// Changes that are only in the log, and a file that is open without a name when the crash comes.
fn after_the_checkpoint(root: &Path) -> Result<()> {
    fs::write(root.join("logged"), Pattern(5).bytes(0, 30_000))?;
    fs::rename(root.join("file-100"), root.join("renamed"))?;
    fs::remove_file(root.join("file-4097"))?;
    File::options().write(true).open(root.join("file-70000"))?.set_len(12_345)?;
    fs::create_dir(root.join("logged-directory"))?;
    let orphan = File::create_new(root.join("orphan"))?;
    orphan.write_all_at(&[1; 100_000], 0)?;
    fs::remove_file(root.join("orphan"))?;
    settle(root)?;
    // It is open until the daemon dies.
    std::mem::forget(orphan);
    Ok(())
}

/// Fixes all times, so that they can be compared, and makes everything durable.
fn settle(root: &Path) -> Result<()> {
    fn times(path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                times(&entry?.path())?;
            }
        }
        let spec = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
        let both = Timestamps { last_access: spec, last_modification: spec };
        Ok(rustix::fs::utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW)?)
    }
    times(root)?;
    sync(root)
}

fn sync(root: &Path) -> Result<()> {
    let root = File::open(root)?;
    rustix::fs::syncfs(&root)?;
    Ok(root.sync_all()?)
}
