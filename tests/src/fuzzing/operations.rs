//! Operations, power cuts and mounts decided by the bytes of a fuzzer, on a volume and on the model side by side.

use crate::sim::crash::{Log, scripted_run};
use fs::fuzzing::Script;
use rand::RngCore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes as random numbers; where they end they are zeros, and `over` is set.
pub struct Scripted {
    bytes: std::vec::IntoIter<u8>,
    over: Arc<AtomicBool>,
}

impl Scripted {
    /// Numbers from `bytes`.
    pub fn new(bytes: Vec<u8>, over: Arc<AtomicBool>) -> Self {
        Self { bytes: bytes.into_iter(), over }
    }
    fn byte(&mut self) -> u8 {
        self.bytes.next().unwrap_or_else(|| {
            self.over.store(true, Ordering::Relaxed);
            0
        })
    }
}

impl RngCore for Scripted {
    fn next_u32(&mut self) -> u32 {
        // Choices among few depend on the top bits: so one byte decides them.
        u32::from(self.byte()) << 24 | u32::from(self.byte()) << 16
    }
    fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.byte());
    }
}

/// Runs what the input says; the first two bytes choose the drives.
///
/// # Panics
/// If the volume and the model differ, with what was done.
pub fn operations(data: &[u8]) {
    let mut script = Script::new(data);
    let seed = script.u16().into();
    let log = Log::default();
    let over = Arc::new(AtomicBool::new(false));
    let rng = Scripted::new(script.rest().to_vec(), over.clone());
    if let Err(what) = scripted_run(seed, Box::new(rng), over, log.clone()) {
        panic!("{what}\n{}", log.lock().join("\n"));
    }
}
