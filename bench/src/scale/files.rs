//! A tree of files: 100 to 1000 in each directory.

use super::bed::Bed;
use super::growth::{self, Load, Words};
use anyhow::Result;
use harness::bytes::{GIB, KIB};
use harness::content::Dice;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Directories in a directory of them.
const FAN: usize = 128;

/// Measures.
pub fn run(bed: &mut Bed, count: u64) -> Result<()> {
    eprintln!("a tree of {count} files");
    let size = GIB + count * KIB;
    let mut site = bed.site(&format!("--size {}", size.next_multiple_of(GIB / 4)), size)?;
    let words = Words { part: "files", pieces: "files", put: "create", look: "stat of a file", keeps: Some(0.7) };
    growth::run(bed, &mut site, &mut Tree::new(count), count, &words)
}

/// Which directory a file is in.
struct Tree {
    root: PathBuf,
    /// The number of the first file of each directory.
    first: Vec<u64>,
}

impl Tree {
    fn new(count: u64) -> Tree {
        let mut dice = Dice::new(6);
        let first = std::iter::successors(Some(0), |first| Some(first + 100 + dice.below(901)));
        Tree { root: PathBuf::new(), first: first.take_while(|first| *first < count).collect() }
    }

    fn directory(&self, number: u64) -> usize {
        self.first.partition_point(|first| *first <= number) - 1
    }

    fn path(&self, directory: usize) -> PathBuf {
        self.root.join(format!("part {}/directory {directory}", directory / FAN))
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path(self.directory(number)).join(format!("file number {number}"))
    }
}

impl Load for Tree {
    fn open(&mut self, root: &Path) -> Result<()> {
        self.root = root.to_owned();
        Ok(())
    }

    fn close(&mut self) {}

    fn put(&mut self, number: u64) -> Result<()> {
        let directory = self.directory(number);
        if self.first[directory] == number {
            std::fs::create_dir_all(self.path(directory))?;
        }
        File::create_new(self.file(number))?;
        Ok(())
    }

    fn has(&mut self, number: u64) -> Result<bool> {
        growth::is_there(&self.file(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_hold_what_they_should_and_pieces_are_found() {
        let tree = Tree::new(100_000);
        assert!(tree.first.windows(2).all(|pair| (100..=1000).contains(&(pair[1] - pair[0]))));
        assert_eq!((tree.directory(0), tree.directory(tree.first[1] - 1), tree.directory(tree.first[1])), (0, 0, 1));
        let place = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(300);
        tree.open(place.path()).unwrap();
        assert!(!tree.has(0).unwrap());
        for number in 0..300 {
            tree.put(number).unwrap();
        }
        assert!((0..300).all(|number| tree.has(number).unwrap()) && !tree.has(300).unwrap());
    }
}
