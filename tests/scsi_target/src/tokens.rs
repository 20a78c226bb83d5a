//! POPULATE TOKEN, WRITE USING TOKEN, RECEIVE ROD TOKEN INFORMATION (SBC-3 5.7, 5.51, 5.25; SPC-4 5.16.6, 6.22).

use crate::disk::{TokenConfig, TokenKind};
use crate::operations::{Operation, Outcome, Populate, Work, Write};
use crate::refusal::{Code, Key, Refusal};
use crate::{Target, u16_at, u32_at, u64_at};

/// A token that was made.
#[derive(Debug)]
struct Record {
    bytes: Box<[u8; 512]>,
    disk: usize,
    ranges: Vec<(u64, u64)>,
    blocks: u64,
    kind: TokenKind,
    /// The data, unless it is read when the token is used.
    data: Vec<u8>,
    last_used: u64,
    inactivity_ms: u64,
    revoked: bool,
    deleted: bool,
}

/// All tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    records: Vec<Record>,
    made: u64,
}

impl Tokens {
    pub fn forget(&mut self) {
        self.records.clear();
    }

    /// Blocks of a disk changed: tokens that cannot bear that are revoked.
    pub fn changed(&mut self, disk: usize, lba: u64, blocks: u64) {
        for record in self.records.iter_mut().filter(|record| record.disk == disk && record.kind == TokenKind::ChangeVulnerable) {
            record.revoked |= record.ranges.iter().any(|(from, count)| *from < lba + blocks && lba < from + count);
        }
    }

    /// The token with these bytes, if it may be used now.
    fn find(&self, bytes: &[u8], now: u64) -> Result<usize, Code> {
        let known = self.records.iter().position(|record| record.bytes[..24] == bytes[..24]);
        let Some(index) = known else {
            return Err(if bytes[..4] == [0x00, 0x80, 0x00, 0x00] { Code::TOKEN_UNKNOWN } else { Code::UNSUPPORTED_TOKEN_TYPE });
        };
        let record = &self.records[index];
        match record {
            _ if record.bytes[..] != *bytes => Err(Code::TOKEN_CORRUPT),
            _ if record.deleted => Err(Code::TOKEN_DELETED),
            _ if record.revoked => Err(Code::TOKEN_REVOKED),
            _ if now > record.last_used + record.inactivity_ms => Err(Code::TOKEN_EXPIRED),
            _ => Ok(index),
        }
    }
}

fn illegal(code: Code) -> Refusal {
    Refusal::check(Key::IllegalRequest, code)
}

/// The range descriptors of a list whose header has `header` bytes; checked against the limits of the disk.
fn ranges(list: &[u8], header: usize, config: &TokenConfig) -> Result<Vec<(u64, u64)>, Refusal> {
    let bytes = usize::from(u16_at(list, header - 2).ok_or(illegal(Code::PARAMETER_LIST_LENGTH))?);
    let behind = usize::from(u16_at(list, 0).ok_or(illegal(Code::PARAMETER_LIST_LENGTH))?);
    if bytes < 16 || behind + 2 < header + bytes {
        return Err(illegal(Code::INVALID_FIELD_IN_LIST));
    }
    let descriptors = list.get(header..header + bytes / 16 * 16).ok_or(illegal(Code::PARAMETER_LIST_LENGTH))?;
    let ranges: Vec<(u64, u64)> = descriptors
        .chunks_exact(16)
        .filter_map(|range| u64_at(range, 0).zip(u32_at(range, 8)))
        .map(|(lba, blocks)| (lba, u64::from(blocks)))
        .collect();
    if config.max_ranges != 0 && ranges.len() > usize::from(config.max_ranges) {
        return Err(illegal(Code::TOO_MANY_SEGMENTS));
    }
    let total: u64 = ranges.iter().map(|(_, blocks)| blocks).sum();
    let overlap =
        ranges.iter().enumerate().any(|(i, (lba, n))| ranges[..i].iter().any(|(other, m)| lba < &(other + m) && other < &(lba + n)));
    if overlap || (config.max_blocks != 0 && total > config.max_blocks) {
        return Err(illegal(Code::INVALID_FIELD_IN_LIST));
    }
    Ok(ranges)
}

impl Target {
    fn token_config(&self, disk: usize) -> Result<TokenConfig, Refusal> {
        self.disks[disk].config.tokens.clone().ok_or(illegal(Code::INVALID_OPCODE))
    }

    /// The list identifier and parameter list of a command, with what every such command is checked for.
    fn token_list<'a>(&self, disk: usize, cdb: &[u8], data: &'a [u8], least: usize) -> Result<(u32, &'a [u8]), Refusal> {
        let (id, len) = u32_at(cdb, 6).zip(u32_at(cdb, 10)).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))?;
        let list = data.get(..len as usize).filter(|list| list.len() >= least).ok_or(illegal(Code::PARAMETER_LIST_LENGTH))?;
        if self.operations.running((disk, id)) {
            return Err(illegal(Code(0x00, 0x16)));
        }
        if list[2] & 1 != 0 && !self.token_config(disk)?.immediate {
            return Err(illegal(Code::INVALID_FIELD_IN_LIST));
        }
        Ok((id, list))
    }

    pub(crate) fn populate_token(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Result<(), Refusal> {
        let (id, list) = self.token_list(disk, cdb, data, 16)?;
        let config = self.token_config(disk)?;
        let inactivity = u32_at(list, 4).unwrap_or(0);
        let kind = u32_at(list, 8).unwrap_or(0);
        if inactivity > config.max_inactivity || (list[2] & 2 != 0 && !matches!(kind, 0x0080_0000 | 0x0080_ffff)) {
            return Err(illegal(Code::INVALID_FIELD_IN_LIST));
        }
        let ranges = ranges(list, 16, &config)?;
        for (lba, blocks) in &ranges {
            self.disks[disk].range(*lba, *blocks)?;
        }
        let inactivity = if inactivity == 0 { config.default_inactivity } else { inactivity };
        self.start(disk, id, 0x10, list[2] & 1 != 0, Work::Populate(Populate { ranges, inactivity }))
    }

    pub(crate) fn write_using_token(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Result<(), Refusal> {
        let (id, list) = self.token_list(disk, cdb, data, 536)?;
        let config = self.token_config(disk)?;
        let ranges = ranges(list, 536, &config)?;
        for (lba, blocks) in &ranges {
            self.disks[disk].range(*lba, *blocks)?;
        }
        let token = self.tokens.find(&list[16..528], self.now).map_err(illegal)?;
        let record = &mut self.tokens.records[token];
        if record.disk != disk && !config.remote {
            return Err(illegal(Code::REMOTE_TOKEN_USAGE));
        }
        if self.disks[record.disk].config.block_size != self.disks[disk].config.block_size {
            return Err(illegal(Code::INVALID_FIELD_IN_LIST));
        }
        let (offset, total) = (u64_at(list, 8).unwrap_or(0), ranges.iter().map(|(_, blocks)| blocks).sum::<u64>());
        if offset >= record.blocks || total > record.blocks - offset {
            return Err(illegal(Code::INVALID_FIELD_IN_LIST));
        }
        record.last_used = self.now;
        let delete = list[2] & 2 != 0;
        self.start(disk, id, 0x11, list[2] & 1 != 0, Work::Write(Write { token, offset, ranges, delete }))
    }

    /// Begins an operation; one that is not immediate also ends before its command does.
    fn start(&mut self, disk: usize, id: u32, action: u8, immediate: bool, work: Work) -> Result<(), Refusal> {
        let config = self.token_config(disk)?;
        let ends = self.now + config.operation_ms;
        self.operations.by_name.insert((disk, id), Operation { action, ends, work });
        if immediate {
            return Ok(());
        }
        self.now = ends;
        self.settle();
        let done = self.operations.by_name.get(&(disk, id)).map(|operation| &operation.work);
        match done {
            Some(Work::Done(outcome)) if !outcome.sense.is_empty() => Err(recorded(&outcome.sense)),
            _ => Ok(()),
        }
    }

    /// Ends operations whose time has come.
    pub(crate) fn settle(&mut self) {
        for name in self.operations.due(self.now) {
            let Some(operation) = self.operations.by_name.get(&name).cloned() else { continue };
            let outcome = match operation.work {
                Work::Populate(work) => self.make_token(name.0, work),
                Work::Write(work) => self.use_token(name.0, &work),
                Work::Done(outcome) => outcome,
            };
            self.operations.by_name.insert(name, Operation { work: Work::Done(outcome), ..operation });
            let held = self.disks[name.0].config.tokens.as_ref().map_or(0, |tokens| tokens.held_operations);
            self.operations.trim(name.0, held);
        }
    }

    fn make_token(&mut self, disk: usize, work: Populate) -> Outcome {
        let Ok(config) = self.token_config(disk) else { return Outcome::default() };
        let mut left = if config.truncate_at == 0 { u64::MAX } else { config.truncate_at };
        let mut kept = Vec::new();
        let mut data = Vec::new();
        for (lba, blocks) in work.ranges {
            let blocks = blocks.min(left);
            left -= blocks;
            if blocks == 0 {
                continue;
            }
            if config.kind != TokenKind::AccessUponReference {
                match self.fetch(disk, lba, blocks) {
                    Ok(bytes) => data.extend(bytes),
                    Err(refusal) => return Outcome { sense: copy_aborted(refusal).sense(false), ..Outcome::default() },
                }
            }
            kept.push((lba, blocks));
        }
        let blocks = kept.iter().map(|(_, blocks)| blocks).sum();
        self.tokens.made += 1;
        let mut bytes = Box::new([0; 512]);
        bytes[..4].copy_from_slice(&[0x00, 0x80, 0x00, 0x00]);
        bytes[6..8].copy_from_slice(&0x1f8u16.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.tokens.made.to_be_bytes());
        bytes[16] = disk as u8;
        // Nobody guesses a token: the rest is not the same in any two.
        for (index, byte) in bytes.iter_mut().enumerate().skip(128) {
            *byte = (self.tokens.made.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(index as u32) >> 32) as u8;
        }
        self.tokens.records.push(Record {
            bytes: bytes.clone(),
            disk,
            ranges: kept,
            blocks,
            kind: config.kind,
            data,
            last_used: self.now,
            inactivity_ms: u64::from(work.inactivity) * 1000,
            revoked: false,
            deleted: false,
        });
        Outcome { blocks, token: Some(bytes), ..Outcome::default() }
    }

    fn use_token(&mut self, disk: usize, work: &Write) -> Outcome {
        let mut outcome = Outcome::default();
        let total: u64 = work.ranges.iter().map(|(_, blocks)| blocks).sum();
        let data = match self.token_data(work.token, work.offset, total) {
            Ok(data) => data,
            Err(refusal) => return Outcome { sense: copy_aborted(refusal).sense(false), ..outcome },
        };
        let block = u64::from(self.disks[disk].config.block_size);
        let mut at = 0;
        for (lba, blocks) in &work.ranges {
            // Block by block: what is written before a failure is known exactly.
            for index in 0..*blocks {
                if let Err(refusal) = self.store(disk, lba + index, &data[at..at + block as usize]) {
                    outcome.sense = copy_aborted(refusal).sense(false);
                    return outcome;
                }
                at += block as usize;
                outcome.blocks += 1;
                self.counters.copied_bytes += block;
            }
        }
        if let Some(record) = self.tokens.records.get_mut(work.token) {
            record.deleted |= work.delete;
            outcome.partial_use = total < record.blocks;
        }
        outcome
    }

    /// `blocks` blocks of what a token stands for, from `offset` on.
    fn token_data(&self, token: usize, offset: u64, blocks: u64) -> Result<Vec<u8>, Refusal> {
        let record = self.tokens.records.get(token).ok_or(illegal(Code::TOKEN_UNKNOWN))?;
        let block = u64::from(self.disks[record.disk].config.block_size);
        let range = (offset * block) as usize..((offset + blocks) * block) as usize;
        if record.kind != TokenKind::AccessUponReference {
            return Ok(record.data[range].to_vec());
        }
        let mut data = Vec::new();
        for (lba, count) in &record.ranges {
            data.extend(self.fetch(record.disk, *lba, *count)?);
        }
        Ok(data[range].to_vec())
    }

    pub(crate) fn abort_operation(&mut self, disk: usize, cdb: &[u8]) -> Result<(), Refusal> {
        let id = u32_at(cdb, 2).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))?;
        let operation = self.operations.by_name.get_mut(&(disk, id)).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))?;
        if !matches!(operation.work, Work::Done(_)) {
            operation.work = Work::Done(Outcome { aborted: true, ..Outcome::default() });
        }
        Ok(())
    }

    pub(crate) fn receive_token_information(&mut self, disk: usize, cdb: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (id, allocation) = u32_at(cdb, 2).zip(u32_at(cdb, 10)).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))?;
        let operation = self.operations.by_name.get(&(disk, id)).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))?;
        let mut data = vec![0; 32];
        data[4] = operation.action;
        data[15] = 0xf1;
        match &operation.work {
            Work::Done(outcome) => {
                data[5] = match outcome {
                    _ if outcome.aborted => 0x60,
                    _ if !outcome.sense.is_empty() => 0x02,
                    _ if outcome.partial_use => 0x03,
                    _ => 0x01,
                };
                data[12] = if outcome.sense.is_empty() { 0 } else { 2 };
                (data[13], data[14]) = (outcome.sense.len() as u8, outcome.sense.len() as u8);
                data[16..24].copy_from_slice(&outcome.blocks.to_be_bytes());
                data.extend(&outcome.sense);
                match &outcome.token {
                    Some(token) => {
                        data.extend([0, 0, 2, 2, 0, 0]);
                        data.extend(&token[..]);
                    }
                    None => data.extend([0; 4]),
                }
                // What was read is not kept (SPC-4 5.16.4.5).
                self.operations.by_name.remove(&(disk, id));
            }
            _ => {
                data[5] = 0x11;
                data[8..12].copy_from_slice(&10u32.to_be_bytes());
                data.extend([0; 4]);
            }
        }
        let available = data.len() as u32 - 4;
        data[..4].copy_from_slice(&available.to_be_bytes());
        data.truncate(allocation as usize);
        Ok(data)
    }
}

/// An error of the medium, as the copy manager reports it.
fn copy_aborted(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Check { code, specific, .. } => Refusal::Check { key: Key::CopyAborted, code, specific },
        Refusal::Status(_) => Refusal::check(Key::CopyAborted, Code::THIRD_PARTY_DEVICE_FAILURE),
    }
}

/// The refusal that sense data in fixed format came from.
fn recorded(sense: &[u8]) -> Refusal {
    Refusal::check(Key::CopyAborted, Code(sense[12], sense[13]))
}
