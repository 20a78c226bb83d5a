//! Listings, also of directories of which something is lost: all names that can be had come first, then the error, once in each listing. So whoever copies away
//! what is left finds all of it, and nobody takes it for the whole.

use crate::addr::Addr;
use crate::core::halt::Halt;
use crate::core::key::{Class, Key};
use crate::core::ops;
use crate::core::page::SortKey;
use crate::error::{FsError, Result};
use crate::ids::Ino;
use crate::volume::Volume;
use crate::volume::attr::DirEntry;
use std::cell::Cell;

/// Places that are remembered of a directory.
const MOST_GAPS: usize = 64;
/// Leaves that are looked at under the lock for one that is missing: an answer of the longest listing, an entry in each.
const MOST_LEAVES: usize = ops::readdir::MAX_LISTING + 2;

impl Volume {
    /// Entries of a directory behind `cookie` (0: from the start), `.` and `..` first. Fewer than asked for does not mean the end: only an
    /// empty answer does, or an error.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; those of loading: at the end, if names were left out that cannot be had.
    pub fn readdir(&self, dir: Ino, cookie: u64, max_entries: usize) -> Result<Vec<DirEntry>> {
        let all = max_entries.min(ops::readdir::MAX_LISTING);
        let (mut from, mut max) = (cookie, all);
        loop {
            let behind = Cell::new(None);
            let listed = self.ask(|state| {
                let listed = ops::readdir(&mut self.reader(state), dir, from, max);
                // Of the attempts the last one counts: what is missing in it cannot be had.
                let is_missing = matches!(&listed, Err(Halt::Need(_)));
                let first = Key::new(Class::Dirent, dir.0, from.saturating_add(1));
                behind.set(is_missing.then(|| state.tree.behind_missing(&first, MOST_LEAVES)).flatten());
                listed
            });
            let error = match listed {
                Ok(entries) if entries.is_empty() && all > 0 => return self.end_of_listing(dir),
                Err(error @ (FsError::Corrupt { .. } | FsError::Device(_))) if !self.lost_power(&error) => error,
                listed => return listed,
            };
            if max > 1 {
                // What lies before the block that cannot be had.
                max /= 2;
                continue;
            }
            // Without the directory itself there is nothing to list.
            self.getattr(dir)?;
            let next = behind.get().and_then(SortKey::key).filter(|key| key.class == Class::Dirent && key.a == dir.0);
            let Some(next) = next.filter(|key| key.b > from.saturating_add(1)) else { return Err(error) };
            if self.note_gap(dir, from) {
                tracing::error!("names of directory inode {dir} cannot be had, the others are listed: {error}");
            }
            (from, max) = (next.b - 1, all);
        }
    }

    /// Names behind this place cannot be had. Is it the first such place of the directory?
    fn note_gap(&self, dir: Ino, from: u64) -> bool {
        let mut state = self.state.lock();
        let gaps = state.lost.gaps.entry(dir).or_default();
        let is_first = gaps.is_empty();
        // One is enough to say that something is missing.
        if gaps.len() < MOST_GAPS {
            gaps.insert(from);
        }
        is_first
    }

    /// The end, unless something is missing still where a listing, this one or another, has left names out.
    fn end_of_listing(&self, dir: Ino) -> Result<Vec<DirEntry>> {
        let gaps = self.state.lock().lost.gaps.get(&dir).cloned().unwrap_or_default();
        for from in gaps {
            if self.ask(|state| ops::readdir(&mut self.reader(state), dir, from, 1)).is_err() {
                let detail = format!("names of directory inode {dir} were left out, for they cannot be had");
                return Err(FsError::Corrupt { what: "directory", addr: Addr::NONE, detail });
            }
            let mut state = self.state.lock();
            let is_last = state.lost.gaps.get_mut(&dir).is_some_and(|gaps| gaps.remove(&from) && gaps.is_empty());
            if is_last {
                state.lost.gaps.remove(&dir);
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::rig::{formatted, make, open};
    use zns::sim::{SimConfig, SimDrive};

    #[test]
    fn what_is_missing_is_looked_for_in_so_many_leaves() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        for n in 0..1000 {
            make(&volume, &format!("file {n}"));
        }
        volume.shutdown().expect("unmounted");
        let volume = open(&drive);
        // That brings in the first leaf of names, and not the next one.
        assert_eq!(volume.readdir(Ino::ROOT, 0, 5).expect("listed").len(), 5);
        let first = Key::new(Class::Dirent, Ino::ROOT.0, 0);
        let behind = |leaves| volume.state.lock().tree.behind_missing(&first, leaves);
        let looked_at = (0..5).find(|leaves| behind(*leaves).is_some()).expect("one is missing");
        assert!(looked_at >= 2 && behind(looked_at - 1).is_none(), "{looked_at}");
        assert_eq!(behind(looked_at), behind(MOST_LEAVES));
    }
}
