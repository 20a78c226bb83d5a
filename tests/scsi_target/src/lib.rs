//! A SCSI target in memory, for tests: disks that carry out third-party copies as SPC-4 and SBC-3 say.
//!
//! It interprets commands and nothing else: a test puts it at the seam where commands would go to the kernel, a guest program
//! behind the kernel's own SCSI stack. It shares no code with the roads it tests, so that a mistake in an encoder is not
//! repeated in the decoder. Time is a number that the test moves. Faults are part of it, because it is never anything
//! but a test.

mod disk;
mod extended_copy;
mod fault;
mod operations;
mod pages;
mod refusal;
mod tokens;

pub use disk::{DiskConfig, TokenConfig, TokenKind, XcopyConfig};
pub use fault::Fault;
pub use refusal::{Code, Key, Refusal};

use disk::Disk;
use operations::Operations;
use std::collections::BTreeMap;
use tokens::Tokens;

/// What a command gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The SCSI status.
    pub status: u8,
    /// Sense data, for CHECK CONDITION.
    pub sense: Vec<u8>,
    /// Data for the initiator.
    pub data: Vec<u8>,
}

/// What the target was asked to do, and what moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands by operation code and service action (0 where there is none).
    pub commands: BTreeMap<(u8, u8), u64>,
    /// Bytes that initiators read and wrote.
    pub host_bytes: u64,
    /// Bytes that the target copied by itself.
    pub copied_bytes: u64,
}

/// A target: disks behind one copy manager.
#[derive(Debug)]
pub struct Target {
    disks: Vec<Disk>,
    tokens: Tokens,
    operations: Operations,
    faults: Vec<Fault>,
    /// Milliseconds.
    now: u64,
    counters: Counters,
}

impl Target {
    /// A target with these disks, all zeros.
    pub fn new(disks: Vec<DiskConfig>) -> Self {
        let disks = disks.into_iter().map(Disk::new).collect();
        let (tokens, operations) = (Tokens::default(), Operations::default());
        Self { disks, tokens, operations, faults: Vec::new(), now: 0, counters: Counters::default() }
    }

    /// Lets time pass.
    pub fn advance(&mut self, milliseconds: u64) {
        self.now += milliseconds;
    }

    /// Something will go wrong.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Nothing that was injected will go wrong any more.
    pub fn mend(&mut self) {
        self.faults.clear();
    }

    /// A disk has something to tell before it takes the next command.
    pub fn attention(&mut self, disk: usize, code: Code) {
        self.disks[disk].attentions.push_back(code);
    }

    /// The copy manager forgets every token: as after a failover.
    pub fn forget_tokens(&mut self) {
        self.tokens.forget();
    }

    /// The bytes of a disk.
    pub fn bytes(&self, disk: usize) -> &[u8] {
        &self.disks[disk].bytes
    }

    /// The bytes of a disk, to be filled by a test.
    pub fn bytes_mut(&mut self, disk: usize) -> &mut [u8] {
        &mut self.disks[disk].bytes
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Carries out a command for disk `disk`.
    pub fn execute(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Response {
        if let Some(&operation) = cdb.first() {
            *self.counters.commands.entry((operation, action_of(cdb))).or_default() += 1;
        }
        self.settle();
        let outcome = self.interpret(disk, cdb, data);
        let response = match outcome {
            Ok(data) => Response { data, ..Response::default() },
            Err(refusal) => refusal.response(self.disks.get(disk).is_some_and(|disk| disk.config.descriptor_sense)),
        };
        self.settle();
        response
    }

    fn interpret(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(unit) = self.disks.get_mut(disk) else { return Err(Refusal::check(Key::IllegalRequest, Code::UNIT_NOT_SUPPORTED)) };
        let operation = *cdb.first().ok_or(Refusal::check(Key::IllegalRequest, Code::INVALID_OPCODE))?;
        // INQUIRY, REQUEST SENSE and REPORT LUNS are answered whatever there is to tell (SAM-5 5.14).
        let always = matches!(operation, 0x12 | 0x03 | 0xa0);
        if !always && let Some(code) = unit.attentions.pop_front() {
            return Err(Refusal::check(Key::UnitAttention, code));
        }
        if let Some(refusal) = fault::refusal(&mut self.faults, disk, operation, action_of(cdb)) {
            return Err(refusal);
        }
        let unit = &self.disks[disk];
        match (operation, action_of(cdb)) {
            (0x00 | 0x1b | 0x1e | 0x35 | 0x91, _) => Ok(Vec::new()),
            (0x12, _) => pages::inquiry(&unit.config, cdb),
            (0x03, _) => Ok(pages::no_sense()),
            (0x1a | 0x5a, _) => Ok(pages::mode_sense(cdb)),
            (0xa0, _) => Ok(pages::report_luns()),
            (0x25, _) => Ok(pages::capacity_10(&unit.config)),
            (0x9e, 0x10) => Ok(pages::capacity_16(&unit.config, cdb)),
            (0x08 | 0x28 | 0x88 | 0xa8, _) => self.read(disk, cdb),
            (0x0a | 0x2a | 0x8a | 0xaa, _) => self.write(disk, cdb, data).map(|()| Vec::new()),
            (0x84, 0x03) if unit.config.xcopy.is_some() => pages::operating_parameters(&unit.config, cdb),
            (0x83, 0x00) if unit.config.xcopy.is_some() => self.extended_copy(disk, cdb, data).map(|()| Vec::new()),
            (0x83, 0x10) if unit.config.tokens.is_some() => self.populate_token(disk, cdb, data).map(|()| Vec::new()),
            (0x83, 0x11) if unit.config.tokens.is_some() => self.write_using_token(disk, cdb, data).map(|()| Vec::new()),
            (0x83, 0x1c) if unit.config.tokens.is_some() => self.abort_operation(disk, cdb).map(|()| Vec::new()),
            (0x84, 0x07) if unit.config.tokens.is_some() => self.receive_token_information(disk, cdb),
            (0x83 | 0x84 | 0x9e, _) => Err(Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB)),
            _ => Err(Refusal::check(Key::IllegalRequest, Code::INVALID_OPCODE)),
        }
    }

    fn read(&mut self, disk: usize, cdb: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (lba, blocks) = disk::transfer(cdb)?;
        let data = self.fetch(disk, lba, blocks)?;
        self.counters.host_bytes += data.len() as u64;
        Ok(data)
    }

    fn write(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Result<(), Refusal> {
        let (lba, blocks) = disk::transfer(cdb)?;
        let range = self.disks[disk].range(lba, blocks)?;
        let data = data.get(..range.len()).ok_or(Refusal::check(Key::IllegalRequest, Code::PARAMETER_LIST_LENGTH))?;
        self.store(disk, lba, data)?;
        self.counters.host_bytes += data.len() as u64;
        Ok(())
    }

    /// Reads blocks of the medium.
    fn fetch(&self, disk: usize, lba: u64, blocks: u64) -> Result<Vec<u8>, Refusal> {
        let range = self.disks[disk].range(lba, blocks)?;
        if fault::unreadable(&self.faults, disk, lba, blocks) {
            return Err(Refusal::check(Key::MediumError, Code::UNRECOVERED_READ));
        }
        Ok(self.disks[disk].bytes[range].to_vec())
    }

    /// Writes blocks to the medium, up to the first one that fails.
    fn store(&mut self, disk: usize, lba: u64, data: &[u8]) -> Result<(), Refusal> {
        let block = u64::from(self.disks[disk].config.block_size);
        let blocks = data.len() as u64 / block;
        let range = self.disks[disk].range(lba, blocks)?;
        let good = fault::writable(&self.faults, disk, lba, blocks);
        let len = (good * block) as usize;
        self.disks[disk].bytes[range.start..range.start + len].copy_from_slice(&data[..len]);
        self.tokens.changed(disk, lba, good);
        if good < blocks { Err(Refusal::check(Key::MediumError, Code::WRITE_ERROR)) } else { Ok(()) }
    }
}

/// The service action, where an operation code has them.
fn action_of(cdb: &[u8]) -> u8 {
    match cdb {
        [0x83 | 0x84 | 0x9e | 0x9f | 0xa3 | 0xa4, action, ..] => action & 0x1f,
        _ => 0,
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
