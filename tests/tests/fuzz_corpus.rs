//! The fuzzers without their fuzzer: what `fuzz/corpus` holds, and as many mutations of it as the time allows, in an order that depends on
//! nothing but a seed (`FERRYFS_SEED`). `FERRYFS_FUZZ_SECONDS` says how long each target is mutated (default: 4, 1 in quick runs).
//!
//! To see one input: `FERRYFS_INPUT=FILE cargo test -p tests --test fuzz_corpus TARGET`.

use parking_lot::Mutex;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::fuzzing::memory::{Counting, peak_of};
use tests::fuzzing::{Target, corpus, image, target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory is counted for the program: one input at a time.
static ALONE: Mutex<()> = Mutex::new(());
/// An input that takes so long has no end: all take less than a second.
const ENDLESS: Duration = Duration::from_secs(240);

/// Ends the program when an input does not end.
struct Watch(Arc<AtomicU64>);

impl Watch {
    fn over(target: Target) -> Self {
        let inputs = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&inputs);
        std::thread::spawn(move || {
            let (mut last, mut since) = (u64::MAX, Instant::now());
            while let Some(inputs) = seen.upgrade() {
                let now = inputs.load(Ordering::Relaxed);
                drop(inputs);
                if now != last {
                    (last, since) = (now, Instant::now());
                } else if since.elapsed() > ENDLESS {
                    eprintln!("{}: input {now} does not end", target.name);
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self(inputs)
    }

    /// Runs one input; `name` tells people which.
    fn run(&self, target: &Target, name: &str, input: &[u8]) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let mut outcome = Ok(());
        let peak = peak_of(|| outcome = std::panic::catch_unwind(|| (target.run)(input)));
        if outcome.is_err() || peak > target.memory {
            let kept = std::env::temp_dir().join(format!("ferryfs-fuzz-{}-{:08x}", target.name, crc32c::crc32c(input)));
            std::fs::write(&kept, input).expect("the input can be kept");
            let what =
                if outcome.is_err() { "a panic (above)".into() } else { format!("{peak} bytes of memory, at most {}", target.memory) };
            panic!("{}: {name}: {what}; the input is kept as {}", target.name, kept.display());
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

fn run(name: &str) {
    let _alone = ALONE.lock();
    let target = target(name);
    let watch = Watch::over(target);
    if let Some(path) = std::env::var_os("FERRYFS_INPUT") {
        (target.run)(&std::fs::read(path).expect("the input can be read"));
        return;
    }
    if std::env::var_os("FERRYFS_CORPUS").is_some_and(|value| value == "write") {
        tests::fuzzing::seeds::write(name);
    }
    // What is made once and kept is no input's memory.
    (target.run)(&[]);
    let inputs = corpus::stored(name);
    for (file, input) in &inputs {
        watch.run(&target, file, input);
    }
    let seed = number("FERRYFS_SEED", 1);
    let seconds = number("FERRYFS_FUZZ_SECONDS", if tests::skip::quick() { 1 } else { 4 });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (began, mut mutations) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        let input = corpus::mutation(&inputs, &target, &mut rng);
        watch.run(&target, &format!("mutation {mutations} of seed {seed}"), &input);
        mutations += 1;
    }
    println!("{name}: {} stored inputs, {mutations} mutations", inputs.len());
    assert!(mutations > 0);
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        /// Each target has its test, its fuzzer and its corpus.
        #[test]
        fn every_target_is_run() {
            let here = [$(stringify!($name)),*];
            let all: Vec<&str> = tests::fuzzing::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here[..], all[..]);
            let manifest = include_str!("../../fuzz/Cargo.toml");
            for name in all {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} has no fuzzer");
            }
        }
    };
}

targets!(superblock, checkpoint, node, record, directory, extent_map, image_header, scsi, nvme, mutated_image, operations);

#[test]
fn checksums_are_made_anew_as_a_volume_makes_them() {
    let _alone = ALONE.lock();
    image::resealed_originals_are_whole();
    let kinds = image::kinds_of_targets();
    let expected = ["Batch", "Log", "Map", "Node", "Segments", "Superblock"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}
