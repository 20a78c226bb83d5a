//! Power goes at any operation of a device, in the midst of writing, cleaning or a checkpoint: what is left is sound at once, and
//! still so after the mount that follows.

use super::*;
use crate::error::Result;
use crate::ids::Ino;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zns::sim::Survival;

/// Changes all kinds of things until the power goes.
fn work(volume: &Volume, rng: &mut ChaCha8Rng) -> Result<()> {
    let caller = Caller::default();
    let name = |n: u32| format!("name {n}").into_bytes();
    let options = WriteOptions { sync: false, kill_suid: false, append: false };
    for _ in 0..400 {
        let (one, other) = (name(rng.random_range(0..12)), name(rng.random_range(0..12)));
        let ino = volume.lookup(Ino::ROOT, &one).ok().filter(|attr| attr.is_file()).map(|attr| attr.ino);
        match (rng.random_range(0..14), ino) {
            (0..=5, Some(ino)) => {
                let len = rng.random_range(1..200_000);
                let offset = rng.random_range(0..600_000);
                volume.write(ino, offset, &content(rng.random(), len), &options).map(drop)
            }
            (6, Some(ino)) => volume.fallocate(ino, 0, rng.random_range(0..500_000), 100_000),
            (7, Some(ino)) => {
                let size = Some(rng.random_range(0..400_000));
                volume.setattr(ino, &crate::volume::SetAttr { size, ..Default::default() }).map(drop)
            }
            (8, Some(ino)) => {
                let outcome = volume.unlink(Ino::ROOT, &one);
                volume.forget(ino);
                outcome
            }
            (9, Some(ino)) => volume.setxattr(ino, b"user.some", &content(3, rng.random_range(0..3000)), 0),
            (10, Some(_)) => volume.rename(Ino::ROOT, &one, Ino::ROOT, &other, Default::default()),
            (11, _) => volume.sync(),
            (12, _) if rng.random_range(0..3) == 0 => volume.checkpoint(),
            (13, _) if rng.random_range(0..3) == 0 => volume.gc(false).map(drop),
            (_, None) => volume.mknod(Ino::ROOT, &one, libc::S_IFREG | 0o644, 0, &caller).map(drop),
            _ => Ok(()),
        }
        .or_else(|error| match error {
            crate::FsError::Exists | crate::FsError::NotFound | crate::FsError::NoSpace => Ok(()),
            other => Err(other),
        })?;
    }
    Ok(())
}

fn kinds() -> [Vec<SimConfig>; 3] {
    [
        vec![SimConfig { tear_blocks: true, ..SimConfig::zoned(64, 1) }],
        vec![SimConfig { tear_blocks: true, ..SimConfig::conventional(64, 1) }],
        vec![SimConfig::zoned(64, 1), SimConfig::conventional(64, 2)],
    ]
}

#[test]
fn power_cuts_leave_sound_volumes() {
    let mut replayed = 0;
    for seed in 0..45u64 {
        let mut rig = Rig::new(kinds()[seed as usize % 3].clone());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for round in 0..3 {
            let outcome = {
                let volume = rig.mount();
                for drive in &rig.drives {
                    drive.reseed(seed * 100 + round);
                }
                let cut = rng.random_range(10..700);
                let drive = &rig.drives[rng.random_range(0..rig.drives.len())];
                drive.cut_power_at(drive.ops() + cut);
                work(&volume, &mut rng)
            };
            for drive in &rig.drives {
                drive.cut_power();
                drive.power_cycle_with(Survival::Random);
            }
            let report = rig.check();
            assert!(report.clean, "seed {seed}, round {round}, {outcome:?}\n{report}");
            replayed += report.replayed;
        }
        let volume = rig.mount();
        volume.shutdown().expect("unmounted");
        let report = rig.check();
        assert!(
            report.clean && report.findings.iter().all(|found| !matches!(found.finding, Finding::Orphan { .. })),
            "seed {seed}\n{report}"
        );
    }
    assert!(replayed > 50, "{replayed}");
}
