//! Many threads on one volume: each knows what its own files hold, whatever the others, the cleaner and checkpoints do.

use super::{B, fresh, fresh_on, make, mount, mount_with, options};
use fs::volume::{MountOptions, SetAttr, Volume, WriteOptions};
use fs::{FsError, Ino};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zns::sim::SimDrive;

/// A small generator of numbers, so that a thread's operations depend on its seed alone.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

const SPAN: u64 = 400 * B;

fn write(model: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    model.resize(model.len().max(end), 0);
    model[at as usize..end].copy_from_slice(bytes);
}

fn check(volume: &Volume, file: Ino, model: &[u8], dice: &mut Dice) {
    let at = dice.below(SPAN);
    let read = volume.read(file, at, 300_000).expect("read");
    let (start, end) = ((at as usize).min(model.len()), (at as usize + 300_000).min(model.len()));
    assert!(read[..] == model[start..end], "inode {file} at {at}");
}

fn work(volume: &Volume, files: [Ino; 2], seed: u64) {
    let mut dice = Dice(seed);
    let mut models = [Vec::new(), Vec::new()];
    for step in 0..400u64 {
        let n = dice.below(2) as usize;
        let (file, at) = (files[n], dice.below(SPAN));
        match dice.below(10) {
            0..=4 => {
                let bytes: Vec<u8> = (0..dice.below(60 * B) + 1).map(|i| (i / 11 + step + seed) as u8).collect();
                volume.write(file, at, &bytes, &WriteOptions::default()).expect("written");
                write(&mut models[n], at, &bytes);
            }
            5 => {
                let set = SetAttr { size: Some(at), ..SetAttr::default() };
                volume.setattr(file, &set).expect("resized");
                models[n].resize(at as usize, 0);
            }
            6 => {
                let len = dice.below(50 * B) + 1;
                volume.fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, len).expect("punched");
                let end = ((at + len) as usize).min(models[n].len());
                models[n][(at as usize).min(end)..end].fill(0);
            }
            7 | 8 => {
                let to = if dice.below(2) == 0 { at / B * B } else { dice.below(SPAN) };
                let from = if dice.below(2) == 0 { dice.below(SPAN / B) * B } else { dice.below(SPAN) };
                let len = dice.below(100 * B) + 1;
                let copied = volume.copy_file_range(file, from, files[1 - n], to, len).expect("copied");
                let source = models[n][(from as usize).min(models[n].len())..((from + len) as usize).min(models[n].len())].to_vec();
                assert!(copied <= source.len() as u64 && (copied > 0 || source.is_empty()));
                if copied > 0 {
                    write(&mut models[1 - n], to, &source[..copied as usize]);
                }
            }
            _ => volume.sync().expect("synced"),
        }
        check(volume, files[n], &models[n], &mut dice);
    }
    for (file, model) in files.iter().zip(&models) {
        assert!(volume.read(*file, 0, 4 << 20).expect("read")[..] == model[..]);
    }
}

#[test]
fn threads_do_not_see_each_other() {
    let drive = fresh();
    everybody_works(&drive, &mount(&drive, 2));
}

/// Several zones of users and of relocation are filled side by side.
#[test]
fn threads_do_not_see_each_other_where_blocks_are_placed_by_temperature() {
    let drive = fresh_on(zns::sim::SimConfig::zoned(128, 1));
    let volume = mount_with(&drive, MountOptions { placement: "adaptive".into(), ..options(2) });
    volume.start_background().expect("threads");
    everybody_works(&drive, &volume);
    volume.shutdown().expect("unmounted");
    let violations = drive.violations();
    assert_eq!(violations.len(), 0, "{violations:?}");
}

fn everybody_works(drive: &SimDrive, volume: &Arc<Volume>) {
    let files: Vec<[Ino; 2]> = (0..4).map(|i| [make(volume, &format!("a{i}")), make(volume, &format!("b{i}"))]).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = files.iter().enumerate().map(|(i, &files)| scope.spawn(move || work(volume, files, i as u64 + 1))).collect();
        let cleaner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match volume.gc(false) {
                    Ok(_) | Err(FsError::NoSpace) => {}
                    Err(error) => panic!("{error}"),
                }
                volume.checkpoint().expect("checkpoint");
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        cleaner.join().expect("the cleaner ends well");
        results.into_iter().for_each(|result| result.expect("a worker ends well"));
    });
    assert_eq!(drive.violations().len(), 0, "{:?}", drive.violations());
}
