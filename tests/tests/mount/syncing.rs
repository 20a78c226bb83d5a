//! sync(1) and syncfs(2), and the two types of mounts: one that Linux tells of them, and one that it does not.

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::{Builder, Mounted};

/// The type of the mount and what is mounted, as /proc/self/mountinfo says.
fn mounted_as(root: &Path) -> (String, String) {
    let mount = harness::mounts::at(root).unwrap();
    (mount.kind, mount.source)
}

/// A mount that the kernel tells of sync(1), in which nothing becomes durable by itself for an hour.
fn synced() -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        tests::skip::skip("only root may make mounts of type fuseblk");
        return None;
    }
    let mut mounted = Builder::default().option("commit=3600").option("fuse_type=fuseblk").mount()?;
    mounted.volume()?;
    if mounted.status()?.value("mount/synced_by_sync").unwrap() == &Value::from(false) {
        tests::skip::skip("this kernel tells no filesystem in user space of sync(1): Linux does since 6.18");
        return None;
    }
    Some(mounted)
}

/// Whoever asks while a flush is being awaited shares the next one with all others who do, and nobody is told that anything is durable before it is.
#[test]
fn threads_that_sync_at_once_share_flushes() {
    const THREADS: u64 = 16;
    const EACH: u64 = 6;
    // A disk that seeks before it writes: all others have asked long before the first of them is answered.
    let Some(mut mounted) = Builder::default().option("commit=3600").option("device_model=smr").mount() else {
        return;
    };
    let flushes = |mounted: &Mounted| mounted.status().map(|status| status.number("io/flushes").unwrap());
    let Some(before) = flushes(&mounted) else {
        tests::skip::skip("needs FerryFS itself, and runs on a peer");
        return;
    };
    let path = |thread: u64| mounted.path(format!("f{thread}"));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let file = File::create(path(thread)).unwrap();
            scope.spawn(move || {
                for n in 1..=EACH {
                    file.write_all_at(&[n as u8; 4096], n * 4096).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
    let made = flushes(&mounted).unwrap() - before;
    assert!(made >= EACH, "{made} flushes: a thread asks again only after its answer");
    assert!(made <= THREADS * EACH / 4, "{made} flushes for {} fsyncs", THREADS * EACH);
    mounted.crash();
    for thread in 0..THREADS {
        let found = fs::read(mounted.path(format!("f{thread}"))).unwrap();
        assert!((0..=EACH).all(|n| found[n as usize * 4096..][..4096] == [n as u8; 4096]), "file {thread}");
    }
    mounted.finish();
}

/// A commit that is begun before it is asked for is the one that is asked for.
#[test]
fn writing_and_syncing_by_turns_costs_a_flush_a_turn() {
    const TURNS: u64 = 200;
    let Some(mut mounted) = Builder::default().option("commit=3600").mount() else {
        return;
    };
    let counts = |mounted: &Mounted| mounted.status().map(|status| ["io/flushes", "log/appends"].map(|path| status.number(path).unwrap()));
    let file = File::create(mounted.path("log")).unwrap();
    file.write_all_at(&[0; 8192], 0).unwrap();
    file.sync_data().unwrap();
    let Some(before) = counts(&mounted) else {
        tests::skip::skip("needs FerryFS itself, and runs on a peer");
        return;
    };
    for n in 1..=TURNS {
        file.write_all_at(&n.to_le_bytes(), n % 4 * 8).unwrap();
        file.sync_data().unwrap();
    }
    let made = counts(&mounted).unwrap();
    for (made, before) in made.into_iter().zip(before) {
        assert!((TURNS..=TURNS + TURNS / 10).contains(&(made - before)), "{} in {TURNS} turns", made - before);
    }
    drop(file);
    mounted.crash();
    let found = fs::read(mounted.path("log")).unwrap();
    let last: Vec<u64> = found[..32].chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(last, [TURNS, TURNS - 3, TURNS - 2, TURNS - 1]);
    mounted.finish();
}

#[test]
fn syncfs_makes_everything_durable() {
    let Some(mut mounted) = synced() else {
        return;
    };
    fs::create_dir(mounted.path("d")).unwrap();
    fs::write(mounted.path("d/f"), vec![7; 300_000]).unwrap();
    rustix::fs::syncfs(File::open(mounted.root()).unwrap()).unwrap();
    fs::write(mounted.path("later"), b"x").unwrap();
    mounted.crash();
    assert_eq!(fs::read(mounted.path("d/f")).unwrap(), vec![7; 300_000]);
    mounted.finish();
}

/// What is stored through a mapping is not among it: sync(2) begins to write such pages and, in recent kernels, does not wait for those of FUSE.
#[test]
fn sync_makes_everything_durable_and_msync_what_is_mapped() {
    let Some(mut mounted) = synced() else {
        return;
    };
    fs::write(mounted.path("written"), vec![7; 300_000]).unwrap();
    rustix::fs::sync();
    fs::write(mounted.path("later"), b"x").unwrap();
    mounted.crash();
    assert_eq!(fs::read(mounted.path("written")).unwrap(), vec![7; 300_000]);
    let file = File::options().read(true).write(true).create_new(true).open(mounted.path("f")).unwrap();
    file.set_len(8192).unwrap();
    // SAFETY: a new mapping of the whole file, which nobody cuts; it is used inside its length, and what is behind it is gone when it is unmapped below.
    unsafe {
        let map = mmap(std::ptr::null_mut(), 8192, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0).unwrap().cast::<u8>();
        map.add(5000).write_volatile(9);
        msync(map.cast(), 8192, MsyncFlags::SYNC).unwrap();
        // Unmapping would write it back as well: nothing comes between.
        mounted.crash();
        munmap(map.cast(), 8192).unwrap();
    }
    drop(file);
    assert_eq!(fs::read(mounted.path("f")).unwrap()[5000], 9);
    mounted.finish();
}

#[test]
fn a_daemon_that_is_killed_while_it_unmounts_is_gone() {
    let Some(mut mounted) = synced() else {
        return;
    };
    fs::write(mounted.path("f"), vec![1; 30 << 20]).unwrap();
    let volume = mounted.volume().unwrap();
    let pid = rustix::process::Pid::from_raw(volume.pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    while harness::mounts::at(volume.root()).is_some() {
        std::thread::yield_now();
    }
    // It writes its last checkpoint now, or has just done so. It must not be left waiting for itself: killing it waits for its end.
    volume.kill();
    volume.mount().unwrap();
    mounted.finish();
}

#[test]
fn a_mount_is_known_by_what_was_mounted_whatever_its_type() {
    let Some(mut mounted) = synced() else {
        return;
    };
    let image = mounted.volume().unwrap().device().display().to_string();
    assert_eq!(mounted_as(mounted.root()), ("fuseblk.ferryfs".into(), image.clone()));
    let status = mounted.status().unwrap();
    assert_eq!((status.text("mount/type").unwrap(), status.value("mount/synced_by_sync").unwrap()), ("fuseblk.ferryfs", &true.into()));
    mounted.finish();
    let mounted = Builder::default().option("fuse_type=fuse").mount().unwrap();
    assert_eq!(mounted_as(mounted.root()).0, "fuse.ferryfs");
    let status = mounted.status().unwrap();
    assert_eq!(status.value("mount/synced_by_sync").unwrap(), &Value::from(false));
    mounted.finish();
}

#[test]
fn a_plain_umount_waits_for_the_last_checkpoint() {
    let Some(mut mounted) = synced() else {
        return;
    };
    fs::write(mounted.path("f"), vec![1; 20 << 20]).unwrap();
    let volume = mounted.volume().unwrap();
    unmount(volume.root());
    // Killed in this very moment, the daemon has nothing left to do.
    volume.kill();
    let in_use = checkpoint_in_use(volume);
    assert_eq!(in_use["clean"], true, "{in_use}");
    volume.mount().unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), vec![1; 20 << 20]);
    mounted.finish();
}

/// A mount that is being made must not hold others: their umount(2) would return before their last checkpoint.
#[test]
fn a_plain_umount_waits_while_other_volumes_are_mounted() {
    let (Some(mut mounted), Some(mut other)) = (synced(), synced()) else {
        return;
    };
    let done = AtomicBool::new(false);
    let unclean = std::thread::scope(|scope| {
        scope.spawn(|| {
            let volume = other.volume().unwrap();
            while !done.load(Ordering::Relaxed) {
                volume.umount().unwrap();
                volume.mount().unwrap();
            }
        });
        // Whatever happens here, the other thread must hear that it is over.
        let rounds = std::panic::AssertUnwindSafe(|| (0..20).find_map(|_| unmounted_unclean(&mut mounted)));
        let result = std::panic::catch_unwind(rounds);
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert_eq!(unclean, None);
    other.finish();
    mounted.finish();
}

/// Unmounts with umount(2) and kills the daemon when it returns: the checkpoint that is in use then, when it is not that of an unmounted volume.
fn unmounted_unclean(mounted: &mut Mounted) -> Option<Value> {
    fs::write(mounted.path("f"), vec![1; 1 << 20]).unwrap();
    let volume = mounted.volume().unwrap();
    unmount(volume.root());
    volume.kill();
    let in_use = checkpoint_in_use(volume);
    volume.mount().unwrap();
    (in_use["clean"] != true).then_some(in_use)
}

/// umount(2) as soon as nothing is in use: for a moment that are also the copies of our files that a program has which another test is starting.
fn unmount(root: &Path) {
    let begun = std::time::Instant::now();
    while let Err(errno) = rustix::mount::unmount(root, rustix::mount::UnmountFlags::empty()) {
        assert!(errno == rustix::io::Errno::BUSY && begun.elapsed() < std::time::Duration::from_secs(60), "umount: {errno}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn checkpoint_in_use(volume: &harness::Volume) -> Value {
    let dump = volume.ferryfs([Path::new("dump"), Path::new("--json"), volume.device()]).unwrap().ok().unwrap().stdout;
    let mut values = serde_json::Deserializer::from_str(&dump).into_iter::<Value>().map(Result::unwrap);
    values.find_map(|value| checkpoint(&value)).unwrap()
}

/// The checkpoint in use, wherever the dump has it.
fn checkpoint(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.get("kind").is_some_and(|kind| kind == "checkpoint") => Some(value.clone()),
        Value::Object(fields) => fields.values().find_map(checkpoint),
        Value::Array(values) => values.iter().find_map(checkpoint),
        _ => None,
    }
}

/// Killed at any moment of its start, a daemon must not stay to wait for itself: sync(1) of the whole machine would wait with it.
#[test]
fn a_daemon_that_is_killed_while_it_starts_is_gone() {
    let Some(mut mounted) = synced() else {
        return;
    };
    let volume = mounted.volume().unwrap();
    volume.umount().unwrap();
    for step in 0..30 {
        let mut daemon = volume.mount_command().unwrap().arg("--foreground").stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(step * 2));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        harness::mounts::detach_below(volume.root());
    }
    rustix::fs::sync();
    volume.mount().unwrap();
    mounted.finish();
}
