//! Room for writers while the cleaner works: nobody waits for a whole zone, nobody is refused what is available, deletions always work.

use super::{B, fresh_on, make, mount, mount_with, options};
use fs::volume::{Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use std::sync::atomic::{AtomicU64, Ordering};
use zns::Blocks;
use zns::sim::SimConfig;

/// Blocks of one chunk of cleaning while users are there.
const CHUNK: u64 = 128;
/// Chunks of a zone of [`large_zones`], were all of it live.
const CHUNKS_OF_A_ZONE: u64 = 8;

/// Zones of 4 MiB: some chunks for each that is cleaned.
fn large_zones() -> SimConfig {
    SimConfig { zone_size: Blocks(1024), zone_capacity: Blocks(1024), ..SimConfig::zoned(40, 1) }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A file of `percent` of what is available; how many blocks.
fn fill(volume: &Volume, file: Ino, percent: u64) -> u64 {
    let blocks = volume.statfs().expect("statfs").available * percent / 100;
    for at in (0..blocks).step_by(64) {
        let bytes = vec![1; (blocks - at).min(64) as usize * BLOCK];
        volume.write(file, at * B, &bytes, &WriteOptions::default()).expect("what is available can be written (I8)");
    }
    blocks
}

fn overwrite(volume: &Volume, file: Ino, block: u64, stamp: u8) {
    let written = volume.write(file, block * B, &[stamp; BLOCK], &WriteOptions::default());
    assert!(written.is_ok(), "overwriting takes no space (I8): {written:?}; {:?}", volume.status().space);
}

fn relocated(volume: &Volume) -> u64 {
    volume.counters().relocated.load(Ordering::Relaxed) / B
}

/// The steady state of one writer who does everything alone, and so as a repeatable sequence.
fn steady(config: SimConfig, percent: u64, most_waits: impl Fn(u64) -> u64) {
    let drive = fresh_on(config);
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    let blocks = fill(&volume, file, percent);
    let mut dice = Dice(5);
    for _ in 0..blocks {
        overwrite(&volume, file, dice.below(blocks), 2);
    }
    let waits = volume.counters().room_waits.load(Ordering::Relaxed);
    let (mut total, mut payments) = (0, 0);
    for _ in 0..blocks {
        let before = relocated(&volume);
        overwrite(&volume, file, dice.below(blocks), 3);
        let moved = relocated(&volume) - before;
        assert!(moved <= CHUNK, "one write of one block moved {moved} blocks");
        total += moved;
        payments += u64::from(moved > 0);
    }
    assert!(total > blocks / 4 && payments > total / CHUNK, "{total} blocks moved in {payments} writes of {blocks}: this measures nothing");
    let waited = volume.counters().room_waits.load(Ordering::Relaxed) - waits;
    assert!(waited <= most_waits(blocks), "{waited} of {blocks} writes found no room");
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}

#[test]
fn a_write_pays_one_chunk_at_most_and_never_waits_for_a_zone() {
    steady(large_zones(), 85, |_| 0);
    // Where a volume is so small that the metadata of one commit is more than its runway, a writer finds nothing now and then.
    steady(SimConfig::zoned(64, 1), 85, |writes| writes / 1000);
}

#[test]
fn large_writes_pay_in_proportion() {
    let drive = fresh_on(large_zones());
    let volume = mount(&drive, 2);
    let file = make(&volume, "a");
    let blocks = fill(&volume, file, 85);
    let mut dice = Dice(5);
    for i in 0..blocks / 16 {
        let before = relocated(&volume);
        let at = dice.below(blocks - 256);
        volume.write(file, at * B, &vec![4; 256 * BLOCK], &WriteOptions::default()).expect("overwritten");
        let moved = relocated(&volume) - before;
        // A chunk for each 128 KiB, perhaps in one step more because it does not begin at a step's border.
        assert!(moved <= 9 * CHUNK, "write {i} of a megabyte moved {moved} blocks");
    }
}

#[test]
fn with_the_cleaner_beside_them_two_writers_never_clean_a_zone_by_themselves() {
    let drive = fresh_on(large_zones());
    let volume = mount_with(&drive, options(2));
    volume.start_background().expect("threads");
    let file = make(&volume, "a");
    let blocks = fill(&volume, file, 85);
    // Who looks takes the mark away: each write of many chunks is seen at least once for two of them.
    let most_chunks = || volume.counters().most_chunks.swap(0, Ordering::Relaxed);
    let (most, many) = (AtomicU64::new(0), AtomicU64::new(0));
    most_chunks();
    std::thread::scope(|scope| {
        for seed in 1..=2u64 {
            let (volume, most, many) = (&volume, &most, &many);
            scope.spawn(move || {
                let mut dice = Dice(seed);
                for _ in 0..blocks {
                    // Each has its own half of the blocks.
                    overwrite(volume, file, dice.below(blocks / 2) * 2 + seed - 1, seed as u8);
                    let chunks = most_chunks();
                    most.fetch_max(chunks, Ordering::Relaxed);
                    many.fetch_add(u64::from(chunks > CHUNKS_OF_A_ZONE / 2), Ordering::Relaxed);
                }
            });
        }
    });
    let (most, many) = (most.into_inner(), many.into_inner());
    assert!(relocated(&volume) > blocks / 4, "this measures nothing");
    assert!(most < CHUNKS_OF_A_ZONE, "one write did {most} chunks of cleaning, and a zone has {CHUNKS_OF_A_ZONE}");
    // How often one does more than half of them depends on when the threads get their turns.
    assert!(many <= 2 * blocks / 100, "{many} of {} writes did more than half a zone of cleaning", 2 * blocks);
    volume.shutdown().expect("an orderly end");
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}

#[test]
fn at_95_percent_overwriting_goes_on_for_ever() {
    let narrow = SimConfig { max_open: 6, max_active: 6, ..SimConfig::zoned(64, 1) };
    for config in [large_zones(), narrow, SimConfig::conventional(64, 1)] {
        let drive = fresh_on(config);
        let volume = mount(&drive, 2);
        let file = make(&volume, "a");
        let blocks = fill(&volume, file, 95);
        let mut dice = Dice(9);
        let before = relocated(&volume);
        for _ in 0..blocks * 3 / 2 {
            overwrite(&volume, file, dice.below(blocks), 7);
        }
        let amplification = 1.0 + (relocated(&volume) - before) as f64 / (blocks * 3 / 2) as f64;
        assert!(amplification < 40.0, "write amplification {amplification}");
        assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
    }
}

#[test]
fn what_is_deleted_on_a_full_volume_comes_back() {
    for config in [SimConfig::zoned(64, 1), large_zones()] {
        let drive = fresh_on(config);
        let volume = mount(&drive, 2);
        let (kept, file) = (make(&volume, "a"), make(&volume, "b"));
        let half = fill(&volume, kept, 50);
        fill(&volume, file, 100);
        // What was kept for the metadata of the first is for others now.
        for n in 0..20 {
            fill(&volume, make(&volume, &format!("c{n}")), 100);
        }
        // In fragments, so that freeing has much to do.
        let mut dice = Dice(3);
        (0..half).for_each(|_| overwrite(&volume, kept, dice.below(half), 6));
        let refused = volume.write(file, 1 << 40, &vec![0; 1 << 20], &WriteOptions::default());
        assert!(matches!(refused, Err(FsError::NoSpace)), "{refused:?}");
        let available = volume.statfs().expect("statfs").available;
        volume.unlink(Ino::ROOT, b"b").expect("deletions always work");
        volume.forget(file);
        volume.sync().expect("synced");
        volume.gc(false).expect("cleaned");
        assert!(volume.statfs().expect("statfs").available > available + half / 2, "what was deleted is available again");
        fill(&volume, make(&volume, "d"), 100);
    }
}
