//! What both SCSI roads do around their commands: admit the copy, translate it, carry it out, settle what was done.

use crate::backend::{CopyCommand, CopyOutcome, FailureKind};
use crate::scsi::error::ScsiError;
use crate::scsi::outcome;
use crate::scsi::place::{Move, Places};
use std::collections::VecDeque;

/// Why moves came to an end before all were done.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The class.
    pub kind: FailureKind,
    /// In words.
    pub detail: String,
}

impl Stop {
    /// Because of an error of unit `name`.
    pub fn of(name: &str, error: &ScsiError) -> Self {
        Self { kind: outcome::classify(error), detail: format!("{name}: {error}") }
    }
}

/// Carries out a command: `carry` moves what it is given and says how many sources, counted from the first, are done for certain.
pub fn carry_out(places: &Places, command: &CopyCommand, carry: impl FnOnce(VecDeque<Move>) -> (usize, Option<Stop>)) -> CopyOutcome {
    let unsupported = |why: &str| CopyOutcome::failed(0, FailureKind::Unsupported, why);
    let (Some(device), Some(stands)) = (places.device(command.target.device), places.stands(command)) else {
        return unsupported("the command names no devices");
    };
    let moves = match places.moves(command, &stands) {
        Ok(moves) => moves,
        Err(why) => return unsupported(&why),
    };
    let all = places.filled(command, command.sources.len());
    if let Err(error) = device.admit_copy(command.target.lba, all) {
        return CopyOutcome::failed(0, FailureKind::of_write(&error), error.to_string());
    }
    let (mut done, mut stop) = carry(moves);
    if !places.unchanged(&stands) {
        let detail = "a table below the device changed during the copy".to_owned();
        (done, stop) = (0, Some(Stop { kind: FailureKind::Transient, detail }));
    }
    device.copy_ended(command.target.lba, all, places.filled(command, done));
    match stop {
        None => CopyOutcome::offloaded(done),
        Some(Stop { kind, detail }) => {
            tracing::debug!(detail, "a SCSI copy failed");
            CopyOutcome::failed(done, kind, detail)
        }
    }
}
