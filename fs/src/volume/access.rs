//! Access times: what counts as an access, which a remount may change.
//!
//! Who reads is known to the caller (O_NOATIME); what the mount counts, here.

use crate::core::ops;
use crate::format::item::Inode;
use crate::ids::Ino;
use crate::volume::options::{AtimeMode, Atimes};
use crate::volume::{Cost, ReadData, Volume};
use std::sync::atomic::{AtomicU8, Ordering};

/// Which accesses are counted now.
#[derive(Debug)]
pub(crate) struct Counted(AtomicU8);

/// Set in the byte: those of directories are not.
const NOT_OF_DIRECTORIES: u8 = 0x80;

impl Counted {
    /// As the mount was asked for.
    pub(crate) fn new(atimes: Atimes) -> Self {
        let counted = Self(AtomicU8::new(0));
        counted.set(atimes);
        counted
    }

    fn set(&self, atimes: Atimes) {
        let mode = match atimes.mode {
            AtimeMode::Relatime => 0,
            AtimeMode::Strict => 1,
            AtimeMode::None => 2,
        };
        self.0.store(mode | if atimes.directories { 0 } else { NOT_OF_DIRECTORIES }, Ordering::Relaxed);
    }

    fn get(&self) -> Atimes {
        let byte = self.0.load(Ordering::Relaxed);
        let mode = match byte & !NOT_OF_DIRECTORIES {
            0 => AtimeMode::Relatime,
            1 => AtimeMode::Strict,
            _ => AtimeMode::None,
        };
        Atimes { mode, directories: byte & NOT_OF_DIRECTORIES == 0 }
    }
}

impl Volume {
    /// Which accesses are counted now.
    pub fn atimes(&self) -> Atimes {
        self.counted.get()
    }

    /// From now on these accesses are counted.
    pub fn set_atimes(&self, atimes: Atimes) {
        self.counted.set(atimes);
    }

    /// [`Volume::read`] that is no access (O_NOATIME).
    ///
    /// # Errors
    /// As there.
    pub fn read_unnoticed(&self, ino: Ino, offset: u64, len: u32) -> crate::error::Result<ReadData> {
        self.read_as(ino, offset, len, false)
    }

    /// A directory was listed, or the target of a symbolic link read.
    pub fn accessed(&self, ino: Ino) {
        if self.atimes().mode != AtimeMode::None
            && let Ok(inode) = self.getattr(ino)
        {
            self.note_access_of(&inode);
        }
    }

    /// Something with these attributes was read.
    pub(super) fn note_access_of(&self, inode: &Inode) {
        let atimes = self.atimes();
        if (atimes.directories || !inode.is_dir()) && ops::is_atime_stale(inode, self.options.clock.now(), atimes.mode) {
            self.note_access(inode.ino, atimes.mode);
        }
    }

    /// An access time is worth no error: a volume that cannot be changed can still be read.
    fn note_access(&self, ino: Ino, mode: AtimeMode) {
        if self.is_writable()
            && let Err(error) = self.run(Cost::NOTHING, |txn| ops::touch_atime(txn, ino, mode))
        {
            tracing::debug!("the access time of inode {ino} was not noted: {error}");
        }
    }
}
