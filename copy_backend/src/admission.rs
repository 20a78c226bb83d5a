//! What a target was told of a copy into it: it is told of the end, too, whatever the end is.

use crate::backend::FailureKind;
use crate::workers::survive;
use crate::{CopyCommand, CopyOutcome};
use std::sync::Arc;
use zns::{Blocks, Lba, ZonedDevice};

/// A copy that its target has admitted. Dropped it has ended with nothing known to be written: whoever panics on the way must have waited for what flies before.
pub(crate) struct Admission {
    device: Arc<dyn ZonedDevice>,
    target: Lba,
    blocks: Blocks,
    done: Blocks,
}

impl Admission {
    /// Has `device`, the target of `command`, admit so many blocks.
    ///
    /// # Errors
    /// Its refusal, as the outcome of the command.
    pub fn ask(device: &Arc<dyn ZonedDevice>, command: &CopyCommand, blocks: Blocks) -> Result<Self, CopyOutcome> {
        let target = command.target.lba;
        match device.admit_copy(target, blocks) {
            Ok(()) => Ok(Self { device: device.clone(), target, blocks, done: Blocks(0) }),
            Err(error) => Err(CopyOutcome::failed(0, FailureKind::of_write(&error), error.to_string())),
        }
    }

    /// So many of its blocks, from the first, are known to be written.
    pub fn end(mut self, done: Blocks) {
        self.done = done;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        survive(|| self.device.copy_ended(self.target, self.blocks, self.done));
    }
}
