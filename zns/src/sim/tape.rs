//! What simulated media did, in order: the script from which every state is derived that a loss of power could have left ([`super::CrashStates`]).
//!
//! One tape records all devices of a volume, since it is their common order that decides what one of them had when another one did not. A tape can
//! be made to lie as hardware does: whoever looks for lost writes must find them then.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who moved the bytes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The host sent them.
    Host,
    /// The device copied them: one range of a Copy.
    Copy,
}

/// Something done to media.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Bytes were put.
    Write {
        /// Zone (of a file: its MiB).
        zone: u32,
        /// First byte within the zone.
        offset: usize,
        /// The bytes.
        data: Arc<[u8]>,
        /// How.
        by: By,
    },
    /// A range of a file was given back: it reads as zeros.
    Hole {
        /// Which MiB of the file.
        zone: u32,
        /// First byte within it.
        offset: usize,
        /// Bytes.
        len: usize,
    },
    /// A sequential zone was reset.
    Reset {
        /// Which.
        zone: u32,
    },
    /// A sequential zone was finished.
    Finish {
        /// Which.
        zone: u32,
    },
    /// All before is durable.
    Flush,
}

/// A deed of one of the devices.
#[derive(Clone, Debug)]
pub struct Step {
    /// The device, counted as the volume counts its members.
    pub device: u8,
    /// What it did.
    pub deed: Deed,
}

/// How hardware lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It does not.
    #[default]
    None,
    /// Flushes report success and do nothing.
    FlushesDropped,
    /// The last write before a flush was acknowledged, and is carried out only behind it.
    WritesAcknowledgedEarly,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tape {
    steps: Mutex<Vec<Step>>,
    stopped: AtomicBool,
    lie: Lie,
}

impl Tape {
    /// An empty tape for media that lie like this.
    pub fn new(lie: Lie) -> Arc<Self> {
        Arc::new(Self { lie, ..Self::default() })
    }

    /// Steps so far.
    pub fn len(&self) -> usize {
        self.steps.lock().len()
    }

    /// Was nothing recorded yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on nothing is recorded.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// What was recorded.
    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().clone()
    }
}

/// The end of a tape that one device records to.
#[derive(Clone, Debug)]
pub(super) struct Reel {
    pub tape: Arc<Tape>,
    pub device: u8,
}

impl Reel {
    pub fn record(&self, deed: Deed) {
        if self.tape.stopped.load(Ordering::SeqCst) {
            return;
        }
        let mut steps = self.tape.steps.lock();
        let step = Step { device: self.device, deed };
        match (&step.deed, self.tape.lie) {
            (Deed::Flush, Lie::FlushesDropped) => {}
            (Deed::Flush, Lie::WritesAcknowledgedEarly) => {
                let late = steps.pop_if(|last| last.device == self.device && matches!(last.deed, Deed::Write { .. }));
                steps.push(step);
                steps.extend(late);
            }
            _ => steps.push(step),
        }
    }
}
