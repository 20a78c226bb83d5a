//! Power cuts at any operation of the device: what comes back is what all files were after some operation, no older than the last sync (I7).

use super::{B, fresh, make, mount};
use fs::volume::{SetAttr, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino, Result};

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

type Files = [Vec<u8>; 2];

/// One operation that is all or nothing, on the volume and on the model; the model is changed in any case.
fn step(volume: &Volume, inos: [Ino; 2], files: &mut Files, dice: &mut Dice, stamp: u8) -> Result<bool> {
    let n = dice.below(2) as usize;
    let at = if dice.below(2) == 0 { dice.below(60) * B } else { dice.below(60 * B) };
    match dice.below(12) {
        0..=6 => {
            let bytes: Vec<u8> = (0..dice.below(12 * B) + 1).map(|i| (i / 3) as u8 ^ stamp).collect();
            let end = at as usize + bytes.len();
            let len = files[n].len().max(end);
            files[n].resize(len, 0);
            files[n][at as usize..end].copy_from_slice(&bytes);
            volume.write(inos[n], at, &bytes, &WriteOptions::default())?;
        }
        7 => {
            files[n].resize(at as usize, 0);
            volume.setattr(inos[n], &SetAttr { size: Some(at), ..SetAttr::default() })?;
        }
        8 => {
            // A copy within one file, from before `at` to behind the end: one run of blocks, published as one.
            let len = (at / B).min(files[n].len() as u64 / B);
            let end = (files[n].len() as u64).next_multiple_of(B);
            let source = files[n][..(len * B) as usize].to_vec();
            files[n].resize(end as usize, 0);
            files[n].extend_from_slice(&source);
            if len > 0 && end + len * B < 200 * B {
                let from = inos[n];
                let mut copied = 0;
                while copied < len * B {
                    copied += volume.copy_file_range(from, copied, from, end + copied, len * B - copied)?;
                }
                return Ok(false);
            }
            files[n].truncate(end as usize);
            volume.setattr(inos[n], &SetAttr { size: Some(end), ..SetAttr::default() })?;
        }
        9 => {
            volume.gc(false)?;
        }
        10 => {
            volume.checkpoint()?;
            return Ok(true);
        }
        _ => {
            volume.sync()?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_all(volume: &Volume, inos: [Ino; 2]) -> Files {
    inos.map(|ino| volume.read(ino, 0, 1 << 20).expect("everything that is there can be read").to_vec())
}

fn live_through(seed: u64) {
    let mut dice = Dice(seed);
    let drive = fresh();
    let mut volume = mount(&drive, 2);
    let inos = [make(&volume, "a"), make(&volume, "b")];
    volume.sync().expect("synced");
    let mut files = Files::default();
    for life in 0..4u8 {
        drive.reseed(seed * 31 + u64::from(life));
        drive.cut_power_at(drive.ops() + 1 + dice.below(120));
        let mut possible = vec![files.clone()];
        let outcome = loop {
            let mut after = files.clone();
            let result = step(&volume, inos, &mut after, &mut dice, life * 40 + possible.len() as u8);
            possible.push(after.clone());
            match result {
                Ok(synced) => {
                    files = after;
                    if synced {
                        possible = vec![files.clone()];
                    }
                }
                Err(error) => break error,
            }
            if possible.len() > 400 {
                break FsError::Internal("no cut");
            }
        };
        drive.cut_power();
        drop(volume);
        drive.power_cycle();
        volume = mount(&drive, 3 + life);
        let found = read_all(&volume, inos);
        let lengths = found.each_ref().map(Vec::len);
        assert!(possible.contains(&found), "seed {seed}, life {life}, after {outcome}: {lengths:?} is none of {} states", possible.len());
        for (ino, file) in inos.iter().zip(&found) {
            let inode = volume.getattr(*ino).expect("there");
            assert!(inode.size == file.len() as u64 && inode.blocks <= inode.size.div_ceil(BLOCK as u64), "{inode:?}");
        }
        files = found;
        assert_eq!(drive.violations().len(), 0, "seed {seed}: {:?}", drive.violations());
    }
}

#[test]
fn what_comes_back_is_a_moment_of_the_past() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let first = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    (first..first + seeds).for_each(live_through);
}
