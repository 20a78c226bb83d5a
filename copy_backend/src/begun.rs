//! A copy that was begun and is not over: whoever has other work to do does it meanwhile, without a thread of its own.
//!
//! Into a sequential zone one command goes after the other (I1). What can be saved between two is the time in which nobody copies because
//! somebody thinks: about what comes next, and about what has just been copied. A thread may have begun several, into a zone each. While users read, one of
//! them may have to wait for a turn that another one has: whoever waits then sees to the end of the other one's command, for nobody else does.

use crate::engine::{CopyEngine, CopyRequest, CopyResult, Destination, Taken};
use crate::error::{CopyError, Result};
use crate::governor::Free;
use crate::request::{Next, Progress};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::ThreadId;

/// How far a copy has come.
pub(crate) struct Begun {
    progress: Progress,
    ended: Option<Result<CopyResult>>,
}

/// Copies that were begun and are not over, with the thread that did so.
pub(crate) type AllBegun = Mutex<Vec<(ThreadId, Arc<Mutex<Begun>>)>>;

/// A copy under way, as [`CopyEngine::begin`] gives it. Its destination zone is taken until the end. Dropping it waits for what is in flight, and
/// nobody knows then what lies in the zone. To be ended by the thread that began it.
pub struct BegunCopy<'a> {
    engine: &'a CopyEngine,
    begun: Arc<Mutex<Begun>>,
    _taken: Taken<'a>,
}

impl Begun {
    /// Starts a command, or waits for one.
    fn go_on(&mut self, engine: &CopyEngine) -> Next {
        if self.progress.is_flying() { self.progress.step(engine, &Free) } else { self.progress.launch(engine, &Free) }
    }
}

impl<'a> BegunCopy<'a> {
    pub(crate) fn new(engine: &'a CopyEngine, request: CopyRequest) -> Result<Self> {
        let taken = engine.take(engine.destination(&request)?)?;
        let mut progress = Progress::new(engine, request)?;
        let ended = match progress.launch(engine, &Free) {
            Next::Ended(result) => Some(result),
            // Without a turn it begins when somebody waits for it.
            Next::Flying | Next::NoTurn => None,
        };
        let begun = Arc::new(Mutex::new(Begun { progress, ended }));
        engine.begun.lock().push((std::thread::current().id(), begun.clone()));
        Ok(Self { engine, begun, _taken: taken })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`CopyEngine::copy`].
    pub fn finish(self) -> Result<CopyResult> {
        loop {
            let mut begun = self.begun.lock();
            if let Some(result) = begun.ended.take() {
                return result;
            }
            match begun.go_on(self.engine) {
                Next::Ended(result) => begun.ended = Some(result),
                Next::Flying => {}
                Next::NoTurn => {
                    drop(begun);
                    if !self.make_room() {
                        self.engine.gate.wait();
                    }
                }
            }
        }
    }

    /// Waits for a command of another copy that this thread has begun; `false`: it has none in flight.
    fn make_room(&self) -> bool {
        let this = std::thread::current().id();
        let all = self.engine.begun.lock();
        let own: Vec<_> = all.iter().filter(|(thread, other)| *thread == this && !Arc::ptr_eq(other, &self.begun)).cloned().collect();
        drop(all);
        for (_, other) in own {
            let mut other = other.lock();
            if other.progress.is_flying() {
                if let Next::Ended(result) = other.go_on(self.engine) {
                    other.ended = Some(result);
                }
                return true;
            }
        }
        false
    }
}

impl Drop for BegunCopy<'_> {
    fn drop(&mut self) {
        self.engine.begun.lock().retain(|(_, other)| !Arc::ptr_eq(other, &self.begun));
        self.begun.lock().progress.call_off(self.engine);
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
    pub(crate) fn take(&self, destination: Destination) -> Result<Taken<'_>> {
        if self.busy.lock().insert(destination) {
            return Ok(Taken { busy: &self.busy, destination });
        }
        Err(is_taken(destination))
    }
}

pub(crate) fn is_taken(destination: Destination) -> CopyError {
    CopyError::Invalid(format!("another copy into zone {} of device {} is running", destination.1, destination.0))
}
