//! What both SCSI roads are made of: a command is translated and admitted when it is submitted, carried out by a thread, and settled when it ends.
//! What differs, the limits and the commands themselves, is a [`Protocol`].

use crate::admission::Admission;
use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use crate::error::Result;
use crate::scsi::error::ScsiError;
use crate::scsi::outcome;
use crate::scsi::place::{Move, Places, THREADS};
use crate::topology::Stand;
use crate::workers::Workers;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use zns::{DeviceId, Ticket};

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

/// What tells one SCSI road from another.
pub trait Protocol: Send + Sync + 'static {
    /// Which road it is.
    const ROAD: Road;
    /// What it can do.
    ///
    /// # Errors
    /// Why it leads nowhere.
    fn caps(places: &Places, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad>;
    /// Carries moves out; says how many sources, counted from the first, are done for certain, and why not all are.
    fn carry(moves: VecDeque<Move>) -> (usize, Option<Stop>);
}

/// A road between the disks of some places.
pub struct ScsiRoad<P> {
    places: Arc<Places>,
    workers: Workers,
    protocol: PhantomData<P>,
}

impl<P: Protocol> ScsiRoad<P> {
    /// A road between the disks of `places`.
    pub fn new(places: Arc<Places>) -> Self {
        let name = if P::ROAD == Road::ScsiToken { "copy-scsi-token" } else { "copy-scsi-xcopy" };
        Self { places, workers: Workers::new(name, THREADS), protocol: PhantomData }
    }
}

impl<P: Protocol> CopyBackend for ScsiRoad<P> {
    fn road(&self) -> Road {
        P::ROAD
    }

    fn caps(&self, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        P::caps(&self.places, from, to)
    }

    fn needs_proof(&self) -> bool {
        true
    }

    fn admits_in_order(&self) -> bool {
        true
    }

    fn submit(&self, command: CopyCommand) -> Result<Ticket> {
        let (places, admitted) = (self.places.clone(), Admitted::prepare(&self.places, &command));
        Ok(self.workers.submit(move || match admitted {
            Ok(admitted) => admitted.carry_out(&places, &command, P::carry),
            Err(refusal) => refusal,
        }))
    }

    fn complete(&self, ticket: Ticket) -> CopyOutcome {
        self.workers.complete(ticket)
    }
}

/// A command that its target has admitted.
struct Admitted {
    stands: (Arc<Stand>, Arc<Stand>),
    moves: VecDeque<Move>,
    admission: Admission,
}

impl Admitted {
    fn prepare(places: &Places, command: &CopyCommand) -> std::result::Result<Self, CopyOutcome> {
        let unsupported = |why: &str| CopyOutcome::failed(0, FailureKind::Unsupported, why);
        let (Some(device), Some(stands)) = (places.device(command.target.device), places.stands(command)) else {
            return Err(unsupported("the command names no devices"));
        };
        let moves = places.moves(command, &stands).map_err(|why| unsupported(&why))?;
        let blocks = places.filled(command, command.sources.len());
        Ok(Self { stands, moves, admission: Admission::ask(device, command, blocks)? })
    }

    fn carry_out(self, places: &Places, command: &CopyCommand, carry: impl FnOnce(VecDeque<Move>) -> (usize, Option<Stop>)) -> CopyOutcome {
        let (mut done, mut stop) = carry(self.moves);
        if !places.unchanged(&self.stands) {
            let detail = "a table below the device changed during the copy".to_owned();
            (done, stop) = (0, Some(Stop { kind: FailureKind::Transient, detail }));
        }
        self.admission.end(places.filled(command, done));
        match stop {
            None => CopyOutcome::offloaded(done),
            Some(Stop { kind, detail }) => {
                tracing::debug!(detail, "a SCSI copy failed");
                CopyOutcome::failed(done, kind, detail)
            }
        }
    }
}
