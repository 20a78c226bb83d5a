//! Interrupt, termination and hang-up: the copy ends at the next command boundary.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on signals ask for an end instead of making one.
pub(super) fn watch() {
    if let Err(error) = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)) {
        tracing::warn!(%error, "signals will end the copy at once, without a report");
    }
}

/// Was an end asked for?
pub(super) fn asked() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
