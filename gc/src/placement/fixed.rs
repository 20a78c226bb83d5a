//! Placements that need no memory: everything together, or users' writes and relocated blocks apart.

use super::{Class, Placement, RelocatedBlock, UserWrite};

/// Everything into one class.
#[derive(Clone, Copy, Debug, Default)]
pub struct None;

impl Placement for None {
    fn name(&self) -> &'static str {
        "none"
    }
    fn classes(&self) -> u8 {
        1
    }
    fn user(&mut self, _write: &UserWrite) -> Class {
        Class(0)
    }
    fn relocated(&mut self, _block: &RelocatedBlock) -> Class {
        Class(0)
    }
}

/// Class 0 for what users write, class 1 for what the cleaner moves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Separate;

impl Placement for Separate {
    fn name(&self) -> &'static str {
        "separate"
    }
    fn classes(&self) -> u8 {
        2
    }
    fn user(&mut self, _write: &UserWrite) -> Class {
        Class(0)
    }
    fn relocated(&mut self, _block: &RelocatedBlock) -> Class {
        Class(1)
    }
}
