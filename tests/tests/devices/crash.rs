//! The daemon is killed, or the whole machine is reset, while blocks are being moved on a real drive: what was synced is there afterwards.

use crate::life::{FORMAT_ZONED, Overwritten, volume};
use guest::machine::NOTES;
use guest::{Kernel, Machine, Namespace};
use harness::{Volume, VolumeSpec};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::guest::{boot, in_guest};
use tests::mounted::{assert_clean, programs};

const MIB: u64 = 1 << 20;
/// Chunks written from one sync to the next.
const BETWEEN_SYNCS: usize = 24;

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12).device(Namespace::zoned("z").size(192 * MIB).zones(4 * MIB, 4 * MIB).active(8, 10))
}

/// Overwrites until the volume is gone; after each sync `note` hears what every chunk holds at least.
fn overwrite(mut load: Overwritten, stop: &AtomicBool, mut note: impl FnMut(&[u64])) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BETWEEN_SYNCS {
            if load.write_one().is_err() {
                return;
            }
        }
        if load.file().sync_data().is_err() {
            return;
        }
        note(load.generations());
    }
}

/// Waits until the cleaner has moved some MiB since it was mounted.
fn cleaner_at_work(volume: &Volume) {
    while volume.status().unwrap().number("gc/relocated").unwrap() < 2 * MIB {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_daemon_is_killed_while_it_moves_blocks() {
    in_guest(machine(), &[], || {
        let (_directory, mut volume) = volume(&["/dev/vm/zn1".into()], FORMAT_ZONED);
        for round in 0..2 {
            volume.mount().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
            let _ = fs::remove_file(volume.path("load"));
            let load = Overwritten::fill(&volume, "load", 65, round);
            let path = volume.path("load");
            let stop = AtomicBool::new(false);
            let mut durable = load.generations().to_vec();
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| overwrite(load, &stop, |generations| durable = generations.to_vec()));
                cleaner_at_work(&volume);
                volume.kill();
                stop.store(true, Ordering::Relaxed);
                writer.join().unwrap();
            });
            assert_clean(&volume);
            volume.mount().unwrap_or_else(|error| panic!("round {round}, after the crash: {error:#}"));
            Overwritten::check(&path, &durable, false);
            volume.umount().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
            assert_clean(&volume);
        }
    });
}

/// What every chunk holds at least, where it survives the reset. The rename makes each state whole.
fn note(generations: &[u64]) {
    let (new, place) = (Path::new(NOTES).join("durable.new"), Path::new(NOTES).join("durable"));
    let bytes: Vec<u8> = generations.iter().flat_map(|generation| generation.to_le_bytes()).collect();
    let mut file = File::create(&new).unwrap();
    file.write_all(&bytes).unwrap();
    drop(file);
    fs::rename(new, place).unwrap();
}

fn noted() -> Vec<u64> {
    let bytes = fs::read(Path::new(NOTES).join("durable")).expect("what was noted before the reset");
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Something was written twice.
fn is_overwritten(generations: &[u64]) -> bool {
    generations.iter().any(|&generation| generation > 1)
}

#[test]
fn the_machine_is_reset_while_blocks_are_moved() {
    in_guest(machine().resets(1), &[], || {
        if boot() == 1 {
            let (_directory, mut volume) = volume(&["/dev/vm/zn1".into()], FORMAT_ZONED);
            volume.mount().unwrap_or_else(|error| panic!("{error:#}"));
            let load = Overwritten::fill(&volume, "load", 65, 3);
            note(load.generations());
            let never = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| overwrite(load, &never, note));
                cleaner_at_work(&volume);
                while !is_overwritten(&noted()) {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                // At once, without a word to anybody.
                fs::write("/proc/sysrq-trigger", "b").expect("a reset");
                std::thread::sleep(std::time::Duration::from_secs(3600));
            });
        }
        let directory = tempfile::tempdir().unwrap();
        let spec = VolumeSpec { devices: vec!["/dev/vm/zn1".into()], ..VolumeSpec::default() };
        let mut volume = Volume::existing(programs(), directory.path(), spec).unwrap();
        assert_clean(&volume);
        volume.mount().unwrap_or_else(|error| panic!("after the reset: {error:#}"));
        let durable = noted();
        assert!(is_overwritten(&durable), "the reset came before anything was overwritten");
        Overwritten::check(&volume.path("load"), &durable, false);
        volume.umount().unwrap_or_else(|error| panic!("{error:#}"));
        assert_clean(&volume);
    });
}
