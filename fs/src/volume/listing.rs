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

impl Volume {
    /// Entries of a directory behind `cookie` (0: from the start), `.` and `..` first. Fewer than asked for does not mean the end: only an
    /// empty answer does, or an error.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; those of loading: at the end, if names were left out that cannot be had.
    pub fn readdir(&self, dir: Ino, cookie: u64, max_entries: usize) -> Result<Vec<DirEntry>> {
        if cookie == 0 {
            self.state.lock().lost.gaps.remove(&dir);
        }
        let all = max_entries.min(ops::readdir::MAX_LISTING);
        let (mut from, mut max) = (cookie, all);
        loop {
            let behind = Cell::new(None);
            let listed = self.ask(|state| {
                let listed = ops::readdir(&mut self.reader(state), dir, from, max);
                // Of the attempts the last one counts: what is missing in it cannot be had.
                let is_missing = matches!(&listed, Err(Halt::Need(_)));
                behind
                    .set(is_missing.then(|| state.tree.behind_missing(&Key::new(Class::Dirent, dir.0, from.saturating_add(1)))).flatten());
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
            if self.state.lock().lost.gaps.insert(dir) {
                tracing::error!("names of directory inode {dir} cannot be had, the others are listed: {error}");
            }
            (from, max) = (next.b - 1, all);
        }
    }

    fn end_of_listing(&self, dir: Ino) -> Result<Vec<DirEntry>> {
        if !self.state.lock().lost.gaps.contains(&dir) {
            return Ok(Vec::new());
        }
        let detail = format!("names of directory inode {dir} were left out, for they cannot be had");
        Err(FsError::Corrupt { what: "directory", addr: Addr::NONE, detail })
    }
}
