//! The first inputs of a corpus: blocks of the golden images, answers of the SCSI target of the tests, decisions drawn from a seed.
//!
//! Made with `FERRYFS_CORPUS=write cargo test -p tests --test fuzz_corpus`; what fuzzers found stays beside them.

use super::{corpus, image};
use copy_backend::scsi::inquiry;
use fs::BLOCK;
use fs::core::page::Page;
use fs::fuzzing::anatomy::Part;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scsi_target::{DiskConfig, Target, TokenConfig, XcopyConfig};
use std::collections::BTreeMap;

/// Most blocks of one kind.
const MOST: usize = 6;

/// Writes the first inputs of a target.
///
/// # Panics
/// If they cannot be written.
pub fn write(name: &str) {
    let directory = corpus::directory(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    for (number, seed) in of(name).into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:02}")), seed).expect("written");
    }
}

fn of(name: &str) -> Vec<Vec<u8>> {
    let is = |wanted: &'static [Part]| move |part: Option<Part>, _: &[u8; BLOCK]| part.is_some_and(|part| wanted.contains(&part));
    match name {
        "superblock" => last(image::blocks_of(is(&[Part::Superblock]))),
        "checkpoint" => {
            let mut all = last(image::blocks_of(is(&[Part::Map])));
            all.extend(last(image::blocks_of(is(&[Part::Segments]))));
            all.extend(last(image::blocks_of(is(&[Part::Batch]))));
            all
        }
        "node" => nodes(),
        "record" => image::blocks_of(is(&[Part::Log])).into_iter().filter(|block| block.starts_with(b"FyLg")).collect(),
        "image_header" => {
            let own =
                |part: Option<Part>, block: &[u8; BLOCK]| part.is_none() && (block.starts_with(b"FERRYZNS") || block.starts_with(b"FZTB"));
            last(image::blocks_of(own))
        }
        "scsi" => scsi(),
        // Changes of four bytes each.
        "nvme" => drawn(8, 64),
        "mutated_image" => drawn(16, 90),
        "operations" => drawn(8, 1500),
        _ => drawn(16, 700),
    }
}

fn last(mut blocks: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    blocks.split_off(blocks.len().saturating_sub(MOST))
}

/// One leaf for each class of items that it begins with, and inner nodes.
fn nodes() -> Vec<Vec<u8>> {
    let mut kinds = BTreeMap::new();
    for block in image::blocks_of(|part, _| matches!(part, Some(Part::Node(_)))) {
        let mut bytes = [0; BLOCK];
        bytes[..block.len()].copy_from_slice(&block);
        let page = Page::from_bytes(bytes);
        let class = if page.is_empty() { None } else { page.key(0).key().map(|key| key.class as u8) };
        kinds.entry((page.level(), class)).or_insert(block);
    }
    kinds.into_values().collect()
}

fn drawn(count: u64, len: usize) -> Vec<Vec<u8>> {
    let one = |seed| {
        let mut bytes = vec![0; len];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    };
    (0..count).map(one).collect()
}

fn scsi() -> Vec<Vec<u8>> {
    let config = DiskConfig { xcopy: Some(XcopyConfig::default()), tokens: Some(TokenConfig::default()), ..DiskConfig::new(1, 1024, 4096) };
    let mut target = Target::new(vec![config]);
    let pages = [inquiry::PAGE_IDENTIFICATION, inquiry::PAGE_THIRD_PARTY, inquiry::PAGE_BLOCK_LIMITS];
    let mut commands: Vec<Vec<u8>> = pages.iter().map(|page| inquiry::command(Some(*page)).to_vec()).collect();
    commands.push(inquiry::command(None).to_vec());
    commands.push(copy_backend::scsi::capacity::COMMAND_16.to_vec());
    commands.push(copy_backend::scsi::capacity::COMMAND_10.to_vec());
    commands.push(copy_backend::scsi::operating_parameters::command().to_vec());
    let answers: Vec<Vec<u8>> = commands.iter().map(|command| target.execute(0, command, &[]).data).collect();
    // Sense data, and what a unit says when it is probed: status, bytes that follow, and how many (no multiple of seven).
    let sense = target.execute(0, &[0xff; 16], &[]).sense;
    let said = |data: &[u8]| [&[0][..], &(data.len() as u16).to_le_bytes(), data].concat();
    let probed = [vec![0], said(&answers[3]), said(&answers[4]), said(&answers[0]), said(&answers[2]), said(&answers[1])].concat();
    answers.into_iter().filter(|answer| !answer.is_empty()).chain([sense, probed]).chain(drawn(4, 200)).collect()
}
