//! Fuzzers: one function per parser, a mutated image that is mounted, and operations beside the model.
//!
//! The same functions are called by two drivers: `fuzz/` (cargo-fuzz, with feedback from coverage, for as long as one likes) and the test
//! `fuzz_corpus`, which runs what `fuzz/corpus` holds and mutations of it. A finding's input stays in the corpus.

pub mod corpus;
pub mod image;
pub mod memory;
pub mod operations;
pub mod seeds;

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, in `fuzz/fuzz_targets` and `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any input; a panic is a finding.
    pub run: fn(&[u8]),
    /// Bytes of memory that one input may take.
    pub memory: usize,
    /// Bytes of input that make sense.
    pub longest: usize,
}

const MIB: usize = 1 << 20;

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "superblock", run: fs::fuzzing::superblock, memory: 32 * MIB, longest: 4096 },
    Target { name: "checkpoint", run: fs::fuzzing::checkpoint, memory: MIB, longest: 4096 },
    Target { name: "node", run: fs::fuzzing::node, memory: MIB, longest: 4200 },
    Target { name: "record", run: fs::fuzzing::record, memory: 4 * MIB, longest: 16 << 10 },
    Target { name: "directory", run: fs::fuzzing::directory, memory: 8 * MIB, longest: 4096 },
    Target { name: "extent_map", run: fs::fuzzing::extent_map, memory: 16 * MIB, longest: 4096 },
    Target { name: "image_header", run: image_header, memory: MIB, longest: 4096 },
    Target { name: "scsi", run: copy_backend::fuzzing::scsi, memory: MIB, longest: 4096 },
    Target { name: "nvme", run: copy_backend::fuzzing::nvme, memory: MIB, longest: 4096 },
    Target { name: "mutated_image", run: image::mutated, memory: 128 * MIB, longest: 512 },
    Target { name: "operations", run: operations::operations, memory: 512 * MIB, longest: 8192 },
];

/// The header of an image and the blocks of its zone table.
pub fn image_header(data: &[u8]) {
    zns::image::fuzzing::header(data);
    zns::image::fuzzing::table(data);
}

/// The target with this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}
