//! Route, fall back, verify, count.

/// `copy_route=`: which roads the engine may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteChoice {
    /// Offload where a device can, else the host.
    #[default]
    Auto,
    /// Offload or fail.
    Offload,
    /// The host only.
    Host,
}

/// `verify_copies=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyMode {
    /// Trust the device.
    #[default]
    Off,
    /// Read back and compare one range in sixteen.
    Sampled,
    /// Read back and compare everything before it is published.
    Full,
}

/// How an engine behaves.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// Roads allowed.
    pub route: RouteChoice,
    /// Verification of copies against the checksums that the caller gives.
    pub verify: VerifyMode,
}

/// A copy into one destination zone: sources land at `target` one behind the other.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// What to copy.
    pub sources: Vec<crate::SourceRange>,
    /// The write pointer of the destination zone; everything must fit into what is left of that zone.
    pub target: crate::Target,
    /// For pacing.
    pub class: zns::IoClass,
    /// CRC32C of each 4096-byte unit, in order over all sources, for verification; empty: cannot be verified.
    pub checksums: Vec<u32>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct CopyResult {
    /// Sources known to be copied whole (and verified where asked), counted from the first; they lie at the target one behind the other.
    pub sources_done: usize,
    /// Bytes of those sources.
    pub bytes_done: u64,
    /// Of these, by offload.
    pub offloaded: u64,
    /// The road that carried the (last part of the) request.
    pub road: crate::Road,
    /// The destination zone must be ended by the caller (invariant I9): something failed in it, and the rest
    /// goes to another zone.
    pub end_zone: bool,
    /// Why not everything was done, when it was not: a media error on a source is final, anything else may be tried again in another zone.
    pub failure: Option<crate::FailureKind>,
}

/// The engine.
pub struct CopyEngine;
