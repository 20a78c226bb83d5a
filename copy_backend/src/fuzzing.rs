//! What the fuzzers call: any bytes as answers of a SCSI unit or of an NVMe namespace. No panic, no endless asking, and limits that what
//! is built on them can work with (I10).

use crate::nvme;
use crate::scsi::block_limits::BlockLimits;
use crate::scsi::capacity::Capacity;
use crate::scsi::designator::Designator;
use crate::scsi::inquiry::{self, Inquiry};
use crate::scsi::operating_parameters::OperatingParameters;
use crate::scsi::third_party::ThirdPartyCopy;
use crate::scsi::token::Information;
use crate::scsi::{Data, Reply, ScsiTransport, Sense, TransportError, Unit, outcome};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Takes the input apart as the answers to one command after the other.
struct Answers {
    left: Mutex<Vec<u8>>,
    asked: Mutex<u32>,
}

impl Answers {
    fn new(data: &[u8]) -> Self {
        Self { left: Mutex::new(data.iter().rev().copied().collect()), asked: Mutex::new(0) }
    }

    /// The next bytes, as many as there are.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut left = self.left.lock();
        let from = left.len() - len.min(left.len());
        left.split_off(from).into_iter().rev().collect()
    }

    fn byte(&self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn count(&self) -> u32 {
        let mut asked = self.asked.lock();
        *asked += 1;
        *asked
    }
}

/// More commands than asking a unit for everything takes, with all its repetitions.
const ENDLESS: u32 = 400;

impl ScsiTransport for Answers {
    fn execute(&self, _cdb: &[u8], data: Data<'_>, _timeout: Duration) -> Result<Reply, TransportError> {
        assert!(self.count() < ENDLESS, "a unit is asked without end");
        let status = [0, 0, 0, 0, 2, 8, 0x28, self.byte()][usize::from(self.byte()) % 8];
        let sense = if status == 2 { self.take(usize::from(self.byte()) % 64) } else { Vec::new() };
        let mut transferred = 0;
        if let Data::In(room) = data {
            let said = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
            let bytes = self.take(said.min(room.len()));
            room[..bytes.len()].copy_from_slice(&bytes);
            // What a unit says that it sent may be more than there was room for.
            transferred = if said.is_multiple_of(7) { said } else { bytes.len() };
        }
        Ok(Reply { status, sense, transferred })
    }

    fn label(&self) -> String {
        "a fuzzer".into()
    }

    fn wait(&self, _time: Duration) {}
}

/// Answers of a SCSI unit: each decoder by itself, and a unit that is probed.
pub fn scsi(data: &[u8]) {
    if let Some(sense) = Sense::parse(data) {
        let _ = (sense.to_string(), sense.segments_done(), outcome::of_sense(&sense));
    }
    let _ = Inquiry::parse(data);
    for page in [inquiry::PAGE_IDENTIFICATION, inquiry::PAGE_THIRD_PARTY, inquiry::PAGE_BLOCK_LIMITS] {
        assert!(inquiry::page(data, page, "page").is_ok_and(|body| body.len() < data.len()) || data.len() < 5 || data[1] != page);
    }
    for capacity in [Capacity::parse_16(data), Capacity::parse_10(data)].into_iter().flatten() {
        assert!(capacity.blocks > 0 && capacity.block_size.is_power_of_two());
    }
    let designators = Designator::all(data);
    assert!(Designator::best(&designators).is_none_or(|best| best.bytes.len() <= crate::scsi::designator::MAX_LEN));
    let _ = (BlockLimits::parse(data), OperatingParameters::parse(data));
    if let Ok(page) = ThirdPartyCopy::parse(data) {
        let _ = page.knows(0x83, 0x10);
    }
    for block_size in [512, 4096] {
        let _ = Information::parse(data, block_size);
    }
    if let Ok(unit) = Unit::probe(Arc::new(Answers::new(data))) {
        let _ = (unit.block_limits(), unit.third_party(), unit.is(&unit), unit.label());
    }
}

/// Answers of an NVMe namespace: Identify data by themselves, and two namespaces between which a Copy is planned.
pub fn nvme(data: &[u8]) {
    nvme::fuzzing::identify(data);
    // What the two say differs where the halves of the input do.
    let (one, other) = data.split_at(data.len() / 2);
    nvme::fuzzing::pair(one, other);
}
