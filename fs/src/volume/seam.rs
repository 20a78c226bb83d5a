//! Moments at which other threads may come in between, and tests, which have no threads or have to meet such a moment, do.

use crate::volume::Volume;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seam {
    /// A checkpoint is cut and its last batch written, but nothing else of it.
    Cut,
    /// All of a checkpoint is durable but its superblock.
    Flushed,
    /// A checkpoint is durable, and has reset nothing yet.
    Durable,
    /// The log has given zones back, which are not reset yet.
    Told,
}

/// What a test does there.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Seams(parking_lot::Mutex<Option<std::sync::Arc<Met>>>);

#[cfg(test)]
type Met = dyn Fn(&Volume, Seam) + Send + Sync;

#[cfg(not(test))]
impl Volume {
    pub(super) fn meet(&self, _: Seam) {}
}

#[cfg(test)]
impl Volume {
    pub(super) fn meet(&self, seam: Seam) {
        let met = self.seams.0.lock().clone();
        met.inspect(|met| met(self, seam));
    }

    /// From now on this is called at every seam.
    pub(super) fn at_seams(&self, met: impl Fn(&Volume, Seam) + Send + Sync + 'static) {
        *self.seams.0.lock() = Some(std::sync::Arc::new(met));
    }
}

#[cfg(test)]
mod tests;
