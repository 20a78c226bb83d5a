//! EXTENDED COPY (LID1), as SPC-4 6.4 has it: block to block segments between disks named by designators.

use crate::refusal::{Code, Key, Refusal};
use crate::{Target, u16_at, u32_at, u64_at};

const HEADER: usize = 16;
const CSCD: usize = 32;
const SEGMENT: usize = 28;

fn illegal(code: Code) -> Refusal {
    Refusal::check(Key::IllegalRequest, code)
}

/// COPY ABORTED at segment `index`.
fn aborted(index: usize, code: Code) -> Refusal {
    Refusal::Check { key: Key::CopyAborted, code, specific: index as u32 & 0xffff }
}

impl Target {
    pub(crate) fn extended_copy(&mut self, disk: usize, cdb: &[u8], data: &[u8]) -> Result<(), Refusal> {
        let config = &self.disks[disk].config;
        let limits = config.xcopy.clone().ok_or(illegal(Code::INVALID_OPCODE))?;
        let len = u32_at(cdb, 10).ok_or(illegal(Code::INVALID_FIELD_IN_CDB))? as usize;
        if len == 0 {
            return Ok(());
        }
        let list = data.get(..len).filter(|list| list.len() >= HEADER).ok_or(illegal(Code::PARAMETER_LIST_LENGTH))?;
        let (id, usage) = (list[0], list[1] >> 3 & 3);
        let named = match usage {
            0 | 2 => true,
            3 => id == 0 && limits.no_list_id,
            _ => false,
        };
        if !named {
            return Err(illegal(Code::INVALID_FIELD_IN_LIST));
        }
        let cscd_bytes = usize::from(u16_at(list, 2).unwrap_or(0));
        let segment_bytes = u32_at(list, 8).unwrap_or(0) as usize;
        let inline = u32_at(list, 12).unwrap_or(0) as usize;
        if HEADER + cscd_bytes + segment_bytes + inline != len || cscd_bytes % CSCD != 0 {
            return Err(illegal(Code::PARAMETER_LIST_LENGTH));
        }
        if cscd_bytes / CSCD > usize::from(limits.max_cscds) {
            return Err(illegal(Code::TOO_MANY_TARGETS));
        }
        if cscd_bytes + segment_bytes > limits.max_list_bytes as usize {
            return Err(illegal(Code::PARAMETER_LIST_LENGTH));
        }
        let (cscds, rest) = list[HEADER..].split_at(cscd_bytes);
        let segments = &rest[..segment_bytes];
        if segments.len() / SEGMENT > usize::from(limits.max_segments) {
            return Err(illegal(Code::TOO_MANY_SEGMENTS));
        }
        if cscds.chunks(CSCD).any(|cscd| cscd[0] != 0xe4) {
            return Err(illegal(Code::UNSUPPORTED_TARGET));
        }
        let cscds: Vec<Option<usize>> = cscds.chunks(CSCD).map(|cscd| self.find(cscd)).collect();
        for (index, segment) in segments.chunks(SEGMENT).enumerate() {
            self.segment(&cscds, index, segment, limits.max_segment_bytes)?;
        }
        Ok(())
    }

    /// The disk that an identification descriptor names.
    fn find(&self, cscd: &[u8]) -> Option<usize> {
        let name = cscd.get(8..8 + usize::from(cscd[7]))?;
        let unit = cscd[5] & 0x3f;
        let block = u32::from_be_bytes([0, cscd[29], cscd[30], cscd[31]]);
        self.disks.iter().position(|disk| disk.config.is_named(unit, name) && disk.config.block_size == block)
    }

    fn segment(&mut self, cscds: &[Option<usize>], index: usize, segment: &[u8], max_bytes: u32) -> Result<(), Refusal> {
        if segment.first() != Some(&0x02) {
            return Err(aborted(index, Code::UNSUPPORTED_SEGMENT));
        }
        let fields = (u16_at(segment, 2), u16_at(segment, 4), u16_at(segment, 6), u16_at(segment, 10));
        let (Some(0x18), Some(source), Some(destination), Some(blocks)) = fields else {
            return Err(aborted(index, Code::INVALID_FIELD_IN_LIST));
        };
        let (Some(from_lba), Some(to_lba)) = (u64_at(segment, 12), u64_at(segment, 20)) else {
            return Err(aborted(index, Code::INVALID_FIELD_IN_LIST));
        };
        let disk = |index: u16| cscds.get(usize::from(index)).copied();
        let (Some(from), Some(to)) = (disk(source), disk(destination)) else {
            return Err(aborted(index, Code::INVALID_FIELD_IN_LIST));
        };
        let (Some(from), Some(to)) = (from, to) else { return Err(aborted(index, Code::COPY_TARGET_NOT_REACHABLE)) };
        if self.disks[from].config.block_size != self.disks[to].config.block_size {
            return Err(aborted(index, Code::INEXACT_SEGMENT));
        }
        let bytes = u64::from(blocks) * u64::from(self.disks[from].config.block_size);
        if max_bytes != 0 && bytes > u64::from(max_bytes) {
            return Err(aborted(index, Code::INVALID_FIELD_IN_LIST));
        }
        let failed = |refusal| match refusal {
            Refusal::Check { code, .. } => aborted(index, code),
            status => status,
        };
        self.disks[to].range(to_lba, u64::from(blocks)).map_err(failed)?;
        let data = self.fetch(from, from_lba, u64::from(blocks)).map_err(failed)?;
        self.store(to, to_lba, &data).map_err(failed)?;
        self.counters.copied_bytes += data.len() as u64;
        Ok(())
    }
}
