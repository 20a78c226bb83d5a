//! The volume shell: devices, log, checkpoints, recovery and cleaning around the pure core.
//!
//! Locks, in the order they are taken: checkpoint, release, commit, state; cleaner, state. Only the state lock is needed by foreground operations, and it is never
//! held across I/O (I6); the commit lock is held while a batch is written, and only those who wait for durability take it. Whoever gives zones back by the log
//! holds the release lock, and so does a checkpoint until its last batch is in the log.

mod access;
pub mod assemble;
pub mod attr;
mod background;
mod blame;
mod calm;
mod checkpoint;
mod clean;
mod commit;
pub mod content;
mod copy_range;
pub mod counters;
pub mod damage;
mod held;
pub(crate) mod inspect;
pub mod layout;
mod lifetime;
mod listing;
mod load;
pub mod log;
pub mod members;
pub(crate) mod mend;
mod moved;
mod namespace;
pub mod open;
pub mod options;
pub mod pages;
mod patience;
mod placing;
pub mod read;
mod recovery;
mod release;
mod report;
mod resize;
#[cfg(test)]
pub(crate) mod rig;
pub mod ring;
pub(crate) mod room;
pub mod scrub;
mod seam;
pub mod state;
pub mod status;
mod unbroken;
mod write;

pub use attr::{Attr, Caller, DirEntry, RenameFlags, SetAttr, SetTime, StatFs, WriteOptions};
pub use layout::FormatOptions;
pub use load::Cost;
pub use options::{AtimeMode, Atimes, Clock, GcMode, MountOptions};
pub use read::ReadData;
pub use report::{MapEntry, ZoneView};
pub use status::Status;

use crate::addr::Addr;
use crate::error::{FsError, Result};
use crate::format::superblock::Superblock;
use counters::Counters;
use members::Members;
use parking_lot::{Condvar, Mutex};
use ring::RingCursor;
use state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Unlogged changes of metadata never take more than this many bytes of log, so that a commit stays short.
pub(crate) const MAX_PENDING_BYTES: usize = 256 << 10;

/// File data that was acknowledged and is not on a device yet never takes more than this many bytes (decision 3).
pub(crate) const MAX_UNLOGGED_BYTES: u64 = 16 << 20;

/// A mounted volume.
pub struct Volume {
    pub(crate) state: Mutex<State>,
    commit_lock: Mutex<()>,
    checkpoint_lock: Mutex<()>,
    release_lock: Mutex<()>,
    /// Space was gained, a batch landed, a checkpoint is done: whoever waits looks again.
    pub(crate) progress: Condvar,
    /// Held by the one who waits for the kernel to let go of removed files.
    pub(crate) regaining: Mutex<()>,
    pub(crate) members: Members,
    pub(crate) engine: Arc<copy_backend::CopyEngine>,
    pub(crate) options: MountOptions,
    counted: access::Counted,
    /// What of the superblock does not change while mounted.
    pub(crate) identity: Superblock,
    rings: Mutex<Vec<RingCursor>>,
    ring_mirrored: bool,
    /// Dirty metadata blocks that make operations wait for a checkpoint.
    dirty_limit: u64,
    /// Checkpoints that were begun and are over; the cleaner looks at it.
    made: gc::Checkpoints,
    /// The same for what gives zones of data back: checkpoints, and records in the log.
    released: gc::Checkpoints,
    /// Bytes of log after which zones are given back by a checkpoint only.
    log_limit: u64,
    /// Dirty metadata blocks at which cleaning waits for a checkpoint.
    cleaning_dirty_limit: u64,
    /// Bytes of file data that may be acknowledged and not on a device yet. Scattered blocks make up to three leaves each dirty, which must
    /// fit into the checkpoint reserve: small volumes have less of it.
    unlogged_limit: u64,
    /// Bytes of metadata kept in memory.
    cache_budget: usize,
    pub(crate) counters: Counters,
    cleaner: Mutex<Option<clean::Cleaner>>,
    /// The turn of those who clean by hand, a step each.
    turns: Mutex<()>,
    /// Whether users leave the devices alone.
    calm: calm::Calm,
    /// What the cleaner decides, copies and resets.
    tracer: gc::trace::Tracer,
    /// How long writers worked and waited for room.
    pauses: gc::stats::Pauses,
    /// What they pay for it.
    toll: gc::Toll,
    /// Blocks that they have written since the cleaner was told.
    untold: AtomicU64,
    background: Mutex<Option<background::Background>>,
    wake: Arc<background::Wake>,
    writable: AtomicBool,
    read_only_reason: Mutex<Option<String>>,
    /// Device and failure of the write that failed last.
    failed_write: Mutex<Option<String>>,
    /// Files of which bad data was told.
    blamed: blame::Blamed,
    /// Where tests step in.
    #[cfg(test)]
    pub(crate) seams: seam::Seams,
}

impl Volume {
    /// May anything be changed?
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::SeqCst)
    }

    /// Why not, if a failure or the mount option made it so.
    pub fn read_only_reason(&self) -> Option<String> {
        self.read_only_reason.lock().clone()
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_writable() {
            return Ok(());
        }
        Err(FsError::ReadOnly(self.read_only_reason().unwrap_or_else(|| "mounted so".into())))
    }

    /// From here on nothing is changed any more (I11); what is readable stays so. Says why, once, also where nothing was to be changed
    /// in any case.
    pub(crate) fn fail(&self, reason: String) {
        self.writable.store(false, Ordering::SeqCst);
        let mut first = self.read_only_reason.lock();
        if first.is_none() {
            tracing::error!("the volume is read-only from now on: {reason}");
            *first = Some(reason);
        }
        drop(first);
        self.progress.notify_all();
    }

    /// Like [`Volume::fail`], as part of an orderly end.
    fn fail_quietly(&self, reason: &str) {
        if self.writable.swap(false, Ordering::SeqCst) {
            *self.read_only_reason.lock() = Some(reason.into());
        }
        self.progress.notify_all();
    }

    /// Notes that a write at `addr` failed. If that was because what lies below the device is full (the filesystem of an image file, a quota, a thin
    /// pool), it is no fault of a zone: none is retired. Nothing more can be written, and what was acknowledged before is safe.
    fn write_failed(&self, addr: Addr, error: &FsError) -> Option<FsError> {
        let FsError::Device(device) = error else { return None };
        *self.failed_write.lock() = Some(format!("{}: {device}", self.members.device(addr.device()).label()));
        if !matches!(device.errno(), libc::ENOSPC | libc::EDQUOT) {
            return None;
        }
        let label = self.members.device(addr.device()).label();
        let reason = format!(
            "what holds {label} has no room left (a full filesystem, a quota, a thin pool): make room there, unmount, and mount again; \
             -o ro shows what is in the volume"
        );
        self.fail(reason.clone());
        Some(FsError::ReadOnly(reason))
    }

    pub(crate) fn lost_power(&self, error: &FsError) -> bool {
        matches!(error, FsError::Device(zns::DeviceError::PowerLost))
    }

    /// What this volume is.
    pub fn identity(&self) -> &Superblock {
        &self.identity
    }

    /// The devices, in the order of the device table.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Counters since the mount.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
