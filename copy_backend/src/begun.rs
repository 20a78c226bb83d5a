//! A copy that was begun and is not over: whoever has other work to do does it meanwhile, without a thread of its own.
//!
//! Into a sequential zone one command goes after the other (I1). What can be saved between two is the time in which nobody copies because
//! somebody thinks: about what comes next, and about what has just been copied.

use crate::engine::{CopyEngine, CopyRequest, CopyResult, Destination};
use crate::error::{CopyError, Result};
use crate::governor::Free;
use crate::request::{Next, Progress};

/// A copy under way, as [`CopyEngine::begin`] gives it. Its destination zone is taken until the end. Dropping it waits for what is in flight, and
/// nobody knows then what lies in the zone.
pub struct BegunCopy<'a> {
    engine: &'a CopyEngine,
    destination: Destination,
    progress: Progress,
    ended: Option<Result<CopyResult>>,
}

impl<'a> BegunCopy<'a> {
    pub(crate) fn new(engine: &'a CopyEngine, request: CopyRequest) -> Result<Self> {
        let destination = engine.destination(&request)?;
        let progress = Progress::new(engine, request)?;
        engine.take(destination)?;
        let mut begun = Self { engine, destination, progress, ended: None };
        begun.ended = match begun.progress.launch(engine, &Free) {
            Next::Ended(result) => Some(result),
            // Without a turn it begins when somebody waits for it.
            Next::Flying | Next::NoTurn => None,
        };
        Ok(begun)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`CopyEngine::copy`].
    pub fn finish(mut self) -> Result<CopyResult> {
        loop {
            if let Some(result) = self.ended.take() {
                return result;
            }
            let flying = self.progress.is_flying();
            let next = if flying { self.progress.step(self.engine, &Free) } else { self.progress.launch(self.engine, &Free) };
            match next {
                Next::Ended(result) => self.ended = Some(result),
                Next::Flying => {}
                Next::NoTurn => self.engine.gate.wait(),
            }
        }
    }
}

impl Drop for BegunCopy<'_> {
    fn drop(&mut self) {
        self.progress.land(self.engine);
        self.engine.free(self.destination);
    }
}

impl CopyEngine {
    /// Begins a copy; nothing else may be copied into its zone before it is over.
    ///
    /// # Errors
    /// A request that makes no sense. Failures on the way are part of the result.
    pub fn begin(&self, request: CopyRequest) -> Result<BegunCopy<'_>> {
        BegunCopy::new(self, request)
    }

    /// Takes a destination zone.
    pub(crate) fn take(&self, destination: Destination) -> Result<()> {
        if self.busy.lock().insert(destination) {
            return Ok(());
        }
        Err(is_taken(destination))
    }

    /// Lets a destination zone go.
    pub(crate) fn free(&self, destination: Destination) {
        self.busy.lock().remove(&destination);
    }
}

pub(crate) fn is_taken(destination: Destination) -> CopyError {
    CopyError::Invalid(format!("another copy into zone {} of device {} is running", destination.1, destination.0))
}
