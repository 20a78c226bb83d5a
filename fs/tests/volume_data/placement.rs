//! Placement by what is expected of blocks, on a volume: it saves what it is for, and what it knows of zones is there again after a crash.

use super::{B, Dice, fresh_on, make, mount_with, options};
use fs::volume::{MountOptions, Volume, WriteOptions};
use fs::{BLOCK, Ino};
use std::sync::Arc;
use zns::sim::{SimConfig, SimDrive, Survival};

fn adaptive(secret: u8) -> MountOptions {
    MountOptions { placement: "adaptive".into(), ..options(secret) }
}

/// A file in which a tenth of the blocks gets nine tenths of the writes, on a volume that it fills to 85 %.
struct Skewed {
    drive: SimDrive,
    volume: Arc<Volume>,
    file: Ino,
    blocks: u64,
    dice: Dice,
}

impl Skewed {
    fn new(zones: u32, options: MountOptions) -> Self {
        let drive = fresh_on(SimConfig::zoned(zones, 1));
        let volume = mount_with(&drive, options);
        let file = make(&volume, "file");
        let space = volume.status().space;
        let mut skewed = Self { drive, volume, file, blocks: (space.total * 85 / 100 - space.used) / B, dice: Dice(1) };
        (0..skewed.blocks).for_each(|block| skewed.write(block));
        skewed
    }

    fn write(&mut self, block: u64) {
        self.volume.write(self.file, block * B, &[block as u8; BLOCK], &WriteOptions::default()).expect("written");
    }

    fn overwrite(&mut self, times: u64) {
        for _ in 0..times {
            let hot = self.blocks / 10;
            // The hot ones are spread over the file.
            let at = if self.dice.below(10) > 0 { self.dice.below(hot) * 10 } else { self.dice.below(self.blocks) };
            self.write(at);
        }
    }

    fn amplification(&mut self) -> f64 {
        self.amplification_after(2)
    }

    /// While the blocks are overwritten twice, after they were so often.
    fn amplification_after(&mut self, times: u64) -> f64 {
        self.overwrite(times * self.blocks);
        let before = self.volume.status();
        self.overwrite(2 * self.blocks);
        let after = self.volume.status();
        let user = after.io.user_written - before.io.user_written;
        (user + after.gc.relocated - before.gc.relocated) as f64 / user as f64
    }
}

#[test]
fn placement_saves_copies_where_few_blocks_get_most_writes() {
    let without = Skewed::new(96, MountOptions { placement: "separate".into(), ..options(2) }).amplification();
    let mut skewed = Skewed::new(96, adaptive(2));
    let with = skewed.amplification();
    println!("{with:.2} against {without:.2}");
    assert!(with - 1.0 < 0.8 * (without - 1.0), "{with} against {without}");
    assert_eq!(skewed.drive.violations().len(), 0, "{:?}", skewed.drive.violations());
}

/// MiDAS sizes its groups after it has seen the space written four times over, and names the groups that give victims.
#[test]
fn midas_learns_groups_and_victims_come_from_them() {
    let mount = |placement: &str| MountOptions { placement: placement.into(), policy: gc::Policy::Greedy, ..options(2) };
    let without = Skewed::new(96, mount("separate")).amplification();
    let mut skewed = Skewed::new(96, mount("midas"));
    let with = skewed.amplification_after(6);
    println!("{with:.2} against {without:.2}");
    assert!(with - 1.0 < 0.7 * (without - 1.0), "{with} against {without}");
    // Who cleans by hand gets all that there is, whatever group is over its size.
    let reclaimable = skewed.volume.status().space.reclaimable;
    skewed.volume.gc(true).expect("cleaned");
    assert!(
        skewed.volume.status().space.reclaimable < reclaimable / 4,
        "of {reclaimable} bytes there are {}",
        skewed.volume.status().space.reclaimable
    );
    assert_eq!(skewed.drive.violations().len(), 0, "{:?}", skewed.drive.violations());
}

/// By zone, what users were expected to write until it is written again.
fn temperatures(volume: &Volume) -> Vec<Option<u64>> {
    volume.zones().iter().map(|zone| zone.expected).collect()
}

#[test]
fn what_is_known_of_zones_is_there_again_after_a_crash() {
    let mut skewed = Skewed::new(96, adaptive(2));
    skewed.overwrite(skewed.blocks);
    skewed.volume.checkpoint().expect("a checkpoint");
    let known = temperatures(&skewed.volume);
    assert!(known.iter().flatten().count() > 50, "{known:?}");
    // What comes after the checkpoint is in the log alone.
    skewed.overwrite(300);
    skewed.volume.sync().expect("synced");
    let (before, zones) = (temperatures(&skewed.volume), skewed.volume.zones());
    skewed.drive.cut_power();
    skewed.drive.power_cycle_with(Survival::LoseAll);
    let again = mount_with(&skewed.drive, adaptive(3));
    let after = temperatures(&again);
    let (mut same, mut exact) = (0, 0);
    for (zone, (before, after)) in zones.iter().zip(before.iter().zip(&after)).filter(|(zone, _)| zone.live > 0 && zone.role == "user") {
        let (Some(before), Some(after)) = (before, after) else { panic!("zone {zone:?}: {before:?} before, {after:?} after") };
        // What lies in zones that were filled after the checkpoint is known, but not how often such blocks were seen to be written: that is counted anew.
        assert!((*before as f64 / *after as f64).log2().abs() < 1.0, "zone {zone:?}: {before} before, {after} after");
        exact += u32::from(before == after);
        same += 1;
    }
    assert!(same > 10 && exact > same - 5, "{same} zones, {exact} of them the same");
}
