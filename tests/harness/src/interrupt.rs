//! Ctrl-C and termination: work in hand stops at the next check, and what was set up is taken down on the way out.
//!
//! Children in the foreground get the signal themselves; we only have to notice it. A second signal ends the process at once.

use std::sync::atomic::{AtomicU32, Ordering};

static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// Starts listening. Without it the default action would end us before anything is cleaned up.
pub fn install() {
    let listening = ctrlc::set_handler(|| {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(130);
        }
        eprintln!("\ninterrupted: cleaning up (once more to leave at once)");
    });
    if let Err(error) = listening {
        eprintln!("note: cannot listen for signals: {error}");
    }
}

/// Whether a signal came.
pub fn requested() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 0
}

/// Long work calls this between its steps.
///
/// # Errors
/// A signal has come.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!requested(), "interrupted");
    Ok(())
}
