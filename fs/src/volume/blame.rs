//! Data that cannot be given: said once for each file, with its name, for whoever reads the log of the daemon.
//!
//! The name is looked for after the read has failed, without a lock and without the pins of that read, in a bounded number of directory entries: a reader never waits for a walk
//! through a volume. Of a file with hundreds of bad blocks one sentence is told; `ferryfs scrub` and fsck list them all.

use crate::error::FsError;
use crate::ids::Ino;
use crate::volume::Volume;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Files that are remembered as told; of further ones nothing is said.
const MOST_FILES: usize = 1024;
/// Directory entries looked at for a name.
pub(super) const MOST_ENTRIES: usize = 16_384;

/// The files of which bad data was told.
#[derive(Debug, Default)]
pub(super) struct Blamed(Mutex<BTreeSet<Ino>>);

impl Blamed {
    /// Takes note of a file. `false`: it was told already, or too many were.
    fn note(&self, ino: Ino) -> bool {
        let mut files = self.0.lock();
        files.len() < MOST_FILES && files.insert(ino)
    }
}

impl Volume {
    /// Data of a file could not be had when `what` was done. Counts checksums that fail. Not to be called with a lock held: it may
    /// read metadata. Of room that was granted, and of zones that are pinned (a write has the one, a copy by the host both), others have to wait a little longer, once
    /// for each file; nothing here waits for room, so that nobody waits in circles.
    pub(super) fn blame(&self, ino: Ino, what: &str, error: &FsError) {
        if let FsError::DataChecksum { .. } = error {
            self.counters.checksum_errors.fetch_add(1, Ordering::Relaxed);
        }
        match self.sentence_of(ino, what, error, MOST_ENTRIES) {
            Some(sentence) => tracing::error!("{sentence}"),
            None => tracing::debug!("inode {ino}: {what} failed: {error}"),
        }
    }

    /// What is told of a file whose data could not be read, if it is told.
    fn sentence_of(&self, ino: Ino, what: &str, error: &FsError, entries: usize) -> Option<String> {
        if !self.blamed.note(ino) {
            return None;
        }
        let name = match self.path_within(ino, entries) {
            Ok(Some(path)) => format!("{path:?}, inode {ino}"),
            // Without a name, or with one that is not found quickly, or beyond damage.
            Ok(None) | Err(_) => format!("inode {ino}"),
        };
        Some(format!("{name}: {what} failed: {error}; this is told once for each file, `ferryfs scrub` finds all that is damaged"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::extents::extent_parts;
    use crate::ids::FileBlock;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make, open};
    use zns::Lba;
    use zns::sim::{SimConfig, SimDrive};

    fn bad(ino: Ino) -> FsError {
        FsError::DataChecksum { ino, block: 0, addr: crate::addr::Addr::NONE }
    }

    #[test]
    fn a_file_with_bad_data_is_named_once() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        let dir = volume.mkdir(Ino::ROOT, b"dir", 0o755, &Default::default()).expect("made").ino;
        let ino = volume.mknod(dir, b"a\nb", libc::S_IFREG | 0o644, 0, &Default::default()).expect("made").ino;
        volume.write(ino, 0, &[7; 3 * 4096], &WriteOptions::default()).expect("written");
        volume.shutdown().expect("unmounted");
        let volume = open(&drive);
        let (parts, _) = volume.ask(|state| extent_parts(&state.tree, ino, FileBlock(0), FileBlock(3), 9)).expect("asked");
        for n in 0..3 {
            let addr = parts[0].addr.plus(n);
            drive.flip_bit(Lba(u64::from(addr.zone().0) * 256 + u64::from(addr.block())), 11, 3);
        }
        let told = volume.sentence_of(ino, "reading", &bad(ino), MOST_ENTRIES).expect("told");
        assert!(told.contains(r#""/dir/a\nb""#) && told.contains("fails its checksum"), "{told}");
        assert_eq!(volume.sentence_of(ino, "reading", &bad(ino), MOST_ENTRIES), None, "it was told");
        for offset in [0, 4096, 8192, 0] {
            assert!(matches!(volume.read(ino, offset, 10), Err(FsError::DataChecksum { .. })));
        }
        // A write of a part of a block, and a copy by the host, need the rest of it.
        assert!(matches!(volume.write(ino, 5, b"part", &WriteOptions::default()), Err(FsError::DataChecksum { .. })));
        let other = make(&volume, "other");
        assert!(matches!(volume.copy_file_range(ino, 100, other, 0, 200), Err(FsError::DataChecksum { .. })));
        assert_eq!(volume.counters.checksum_errors.load(Ordering::Relaxed), 6);
        assert_eq!(volume.blamed.0.lock().len(), 1);
    }

    #[test]
    fn a_name_is_looked_for_in_so_many_entries_and_not_for_ever() {
        let drive = SimDrive::new(SimConfig::zoned(64, 1));
        let volume = formatted(&drive);
        let files: Vec<Ino> = (0..2000).map(|n| make(&volume, &format!("file {n}"))).collect();
        let named = |entries| files.iter().filter(|ino| volume.path_within(**ino, entries).expect("asked").is_some()).count();
        assert!((1..1200).contains(&named(1000)), "about a half, to the piece that is looked at under one lock");
        assert_eq!(volume.path_within(files[5], usize::MAX).expect("asked").as_deref(), Some("/file 5"));
        assert_eq!(volume.path_within(Ino(999_999), MOST_ENTRIES).expect("asked"), None);
    }

    #[test]
    fn only_so_many_files_are_remembered() {
        let blamed = Blamed::default();
        let noted = (0..3 * MOST_FILES as u64).filter(|n| blamed.note(Ino(n / 2))).count();
        assert_eq!(noted, MOST_FILES);
    }
}
