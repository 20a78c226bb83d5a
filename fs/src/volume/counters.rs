//! Counters since the mount.

use std::sync::atomic::AtomicU64;

/// See the fields; sizes in bytes.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub user_written: AtomicU64,
    pub user_read: AtomicU64,
    pub node_reads: AtomicU64,
    pub checksum_errors: AtomicU64,
    pub log_appends: AtomicU64,
    pub log_bytes: AtomicU64,
    pub checkpoints: AtomicU64,
    pub checkpoint_bytes: AtomicU64,
    /// Times that zones were given back by a record in the log.
    pub releases: AtomicU64,
    pub zones_reclaimed: AtomicU64,
    pub replayed: AtomicU64,
    /// Releases of zones that the mount met in the log.
    pub replayed_releases: AtomicU64,
    pub gc_meta_read: AtomicU64,
    pub gc_meta_written: AtomicU64,
    pub relocated: AtomicU64,
    pub copy_calls: AtomicU64,
    pub copy_bytes: AtomicU64,
    /// Checkpoints of which nothing came.
    pub checkpoints_failed: AtomicU64,
    /// Times that somebody had to stand in line for room.
    pub room_waits: AtomicU64,
    /// Most chunks of cleaning that one request did, as payment or while it stood in line.
    pub most_chunks: AtomicU64,
    /// Polls of the cleaner that did something.
    pub chunks: AtomicU64,
    /// Of copies that go through a file's pages, not through the engine.
    pub copy_host_read: AtomicU64,
    pub copy_host_written: AtomicU64,
}
