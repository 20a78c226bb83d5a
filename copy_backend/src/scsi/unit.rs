//! One logical unit: who it is, how large, and commands to it with the patience that SCSI asks for.

use crate::scsi::block_limits::BlockLimits;
use crate::scsi::capacity::{self, Capacity};
use crate::scsi::designator::Designator;
use crate::scsi::error::ScsiError;
use crate::scsi::inquiry::{self, Inquiry};
use crate::scsi::sense::{Additional, Sense, SenseKey};
use crate::scsi::third_party::ThirdPartyCopy;
use crate::scsi::transport::{Data, Reply, ScsiTransport};
use std::sync::Arc;
use std::time::Duration;

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;

/// How long a command may take that moves no blocks.
pub const SHORT: Duration = Duration::from_secs(30);
/// How long one may take that does.
pub const LONG: Duration = Duration::from_secs(180);
/// A unit may have more than one thing to tell before it takes a command.
const UNIT_ATTENTIONS: u32 = 8;
/// Attempts on a unit that is busy, 10 ms apart at first, twice as long each time.
const BUSY_ATTEMPTS: u32 = 7;

/// A logical unit.
pub struct Unit {
    transport: Arc<dyn ScsiTransport>,
    /// Standard INQUIRY data.
    pub inquiry: Inquiry,
    /// Size.
    pub capacity: Capacity,
    /// All its names.
    pub designators: Vec<Designator>,
}

impl Unit {
    /// Asks a unit who it is.
    ///
    /// # Errors
    /// It takes no commands, or its answers make no sense. A unit without names is one: it has no designators.
    pub fn probe(transport: Arc<dyn ScsiTransport>) -> Result<Self, ScsiError> {
        // Also takes what the unit has to tell first (some targets refuse copies until it was asked).
        run(&*transport, "TEST UNIT READY", &[0; 6], Data::None, SHORT)?;
        let mut bytes = vec![0; 96];
        let mut standard = inquiry::command(None);
        standard[3..5].copy_from_slice(&96u16.to_be_bytes());
        let len = run(&*transport, "INQUIRY", &standard, Data::In(&mut bytes), SHORT)?;
        let inquiry = Inquiry::parse(&bytes[..len.min(96)])?;
        let mut unit = Self { capacity: read_capacity(&*transport)?, transport, inquiry, designators: Vec::new() };
        if let Some(page) = unit.page(inquiry::PAGE_IDENTIFICATION, "device identification page")? {
            unit.designators = Designator::all(&page);
        }
        Ok(unit)
    }

    /// A vital product data page; `None`: the unit does not have it.
    ///
    /// # Errors
    /// The command failed otherwise.
    fn page(&self, page: u8, what: &'static str) -> Result<Option<Vec<u8>>, ScsiError> {
        let mut bytes = vec![0; usize::from(inquiry::ALLOCATION)];
        match self.run("INQUIRY", &inquiry::command(Some(page)), Data::In(&mut bytes), SHORT) {
            Ok(len) => match inquiry::page(&bytes[..len.min(bytes.len())], page, what) {
                Err(ScsiError::Malformed { .. }) => Ok(None),
                other => other.map(Some),
            },
            Err(error) if error.sense().is_some_and(|sense| sense.key == SenseKey::ILLEGAL_REQUEST) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Limits of ordinary transfers; `None`: the unit does not say.
    ///
    /// # Errors
    /// The command failed, or the page makes no sense.
    pub fn block_limits(&self) -> Result<Option<BlockLimits>, ScsiError> {
        self.page(inquiry::PAGE_BLOCK_LIMITS, "block limits page")?.map(|page| BlockLimits::parse(&page)).transpose()
    }

    /// What the unit says about third-party copies; `None`: nothing.
    ///
    /// # Errors
    /// The command failed, or the page makes no sense.
    pub fn third_party(&self) -> Result<Option<ThirdPartyCopy>, ScsiError> {
        self.page(inquiry::PAGE_THIRD_PARTY, "third-party copy page")?.map(|page| ThirdPartyCopy::parse(&page)).transpose()
    }

    /// Carries out a command, again where the unit only had something to tell or was busy. Gives the bytes moved.
    ///
    /// # Errors
    /// What the command ended with.
    pub fn run(&self, command: &'static str, cdb: &[u8], data: Data<'_>, timeout: Duration) -> Result<usize, ScsiError> {
        run(&*self.transport, command, cdb, data, timeout)
    }

    /// Lets time pass while the unit works.
    pub fn wait(&self, time: Duration) {
        self.transport.wait(time);
    }

    /// A path or name for people.
    pub fn label(&self) -> String {
        self.transport.label()
    }

    /// Are these two ways to one unit? Only its names can tell.
    pub fn is(&self, other: &Self) -> bool {
        self.designators.iter().any(|name| matches!(name.kind, 2 | 3) && other.designators.contains(name))
    }
}

fn read_capacity(transport: &dyn ScsiTransport) -> Result<Capacity, ScsiError> {
    let mut bytes = [0; 32];
    match run(transport, "READ CAPACITY (16)", &capacity::COMMAND_16, Data::In(&mut bytes), SHORT) {
        Ok(len) => Capacity::parse_16(&bytes[..len.min(32)]),
        Err(error) if error.sense().is_some_and(|sense| sense.key == SenseKey::ILLEGAL_REQUEST) => {
            let len = run(transport, "READ CAPACITY (10)", &capacity::COMMAND_10, Data::In(&mut bytes[..8]), SHORT)?;
            Capacity::parse_10(&bytes[..len.min(8)])
        }
        Err(error) => Err(error),
    }
}

fn run(
    transport: &dyn ScsiTransport,
    command: &'static str,
    cdb: &[u8],
    mut data: Data<'_>,
    timeout: Duration,
) -> Result<usize, ScsiError> {
    let (mut attentions, mut busy) = (0, 0);
    loop {
        let again = match &mut data {
            Data::None => Data::None,
            Data::Out(bytes) => Data::Out(bytes),
            Data::In(bytes) => Data::In(bytes),
        };
        let reply = transport.execute(cdb, again, timeout).map_err(|error| ScsiError::Transport { command, error })?;
        let error = match judge(command, &reply) {
            Ok(()) => return Ok(reply.transferred),
            Err(error) => error,
        };
        // Neither of these commands was begun: to repeat it is safe.
        if error.sense().is_some_and(|sense| sense.key == SenseKey::UNIT_ATTENTION) && attentions < UNIT_ATTENTIONS {
            tracing::debug!(unit = transport.label(), %error, "repeating a command");
            attentions += 1;
        } else if waits(&error) && busy < BUSY_ATTEMPTS {
            transport.wait(Duration::from_millis(10 << busy));
            busy += 1;
        } else {
            return Err(error);
        }
    }
}

/// A unit that has no room for the command right now.
fn waits(error: &ScsiError) -> bool {
    match error {
        ScsiError::Status { status, .. } => matches!(*status, BUSY | TASK_SET_FULL),
        ScsiError::Check { sense: Some(sense), .. } => sense.key == SenseKey::NOT_READY && sense.code == Additional(0x04, 0x01),
        _ => false,
    }
}

/// What a reply says.
fn judge(command: &'static str, reply: &Reply) -> Result<(), ScsiError> {
    match reply.status {
        GOOD => Ok(()),
        CHECK_CONDITION => match Sense::parse(&reply.sense) {
            // What an earlier command met says nothing about this one, which was not carried out.
            Some(sense) if sense.deferred => Err(ScsiError::Check { command, sense: Some(sense) }),
            Some(sense) if sense.key == SenseKey::RECOVERED_ERROR => Ok(()),
            sense => Err(ScsiError::Check { command, sense }),
        },
        status => Err(ScsiError::Status { command, status }),
    }
}
