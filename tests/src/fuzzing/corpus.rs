//! Stored inputs, and mutations of them that depend on a seed alone.

use super::Target;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use std::path::{Path, PathBuf};

/// Where the inputs of a target are kept.
pub fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
}

/// The stored inputs of a target with their names, in order of these.
///
/// # Panics
/// If there are none.
pub fn stored(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = directory(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let named = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let inputs: Vec<_> = paths.iter().map(|path| (named(path), std::fs::read(path).expect("readable"))).collect();
    assert!(!inputs.is_empty(), "{} holds no inputs", directory.display());
    inputs
}

/// A mutation of one of `inputs`.
pub fn mutation(inputs: &[(String, Vec<u8>)], target: &Target, rng: &mut dyn RngCore) -> Vec<u8> {
    let mut input = inputs.choose(rng).expect("there are inputs").1.clone();
    if input.is_empty() || rng.random_range(0..30) == 0 {
        input = vec![0; rng.random_range(1..=target.longest)];
        rng.fill_bytes(&mut input);
    }
    for _ in 0..1 << rng.random_range(0..5) {
        mutate(&mut input, inputs, rng);
        if input.is_empty() {
            input.push(0);
        }
    }
    input.truncate(target.longest);
    input
}

fn mutate(input: &mut Vec<u8>, inputs: &[(String, Vec<u8>)], rng: &mut dyn RngCore) {
    // What matters is mostly at the front of a block.
    let reach = if rng.random() { input.len().min(160) } else { input.len() };
    let at = rng.random_range(0..reach);
    match rng.random_range(0..9) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = rng.random(),
        2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
        3 => {
            let number = [0, 1, u64::MAX, 1 << 32, i64::MAX as u64, u64::from(u32::MAX), rng.random()][rng.random_range(0..7)];
            let len = [2, 4, 8][rng.random_range(0..3)].min(input.len() - at);
            input[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
        }
        4 => input[at] = input[at].wrapping_add(rng.random_range(0..3)).wrapping_sub(1),
        5 => input.truncate(at),
        6 => {
            let len = rng.random_range(1..=16);
            let bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            input.splice(at..at, bytes);
        }
        7 => {
            let other = &inputs.choose(rng).expect("there are inputs").1;
            let from = rng.random_range(0..=other.len());
            let len = rng.random_range(0..=64).min(other.len() - from).min(input.len() - at);
            input[at..at + len].copy_from_slice(&other[from..from + len]);
        }
        _ => {
            let len = rng.random_range(1..=32).min(input.len() - at);
            let to = rng.random_range(0..=input.len() - len);
            input.copy_within(at..at + len, to);
        }
    }
}
