//! Reading back what was copied.

use crate::backend::SourceRange;
use crate::plan::UNIT;
use zns::{AlignedBuf, Blocks, IoClass, Lba, ZonedDevice};

/// Bytes of one read.
const CHUNK: u64 = 256 << 10;

/// What verification of a range found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The destination holds what it should.
    Right,
    /// It holds what the source holds, but that is not what the caller's checksums say: the copy is faithful, the source is damaged.
    FaithfulToDamage,
    /// It holds something else.
    Wrong,
    /// It cannot be read.
    Unreadable,
}

/// One range to verify.
pub(crate) struct Check<'a> {
    pub from: &'a dyn ZonedDevice,
    pub source: SourceRange,
    pub to: &'a dyn ZonedDevice,
    pub target: Lba,
    /// CRC32C of each 4096 bytes of the range; `None`: the source is read for comparison.
    pub checksums: Option<&'a [u32]>,
    pub class: IoClass,
}

impl Check<'_> {
    /// Compares, and says how many bytes it read for it.
    pub fn run(&self) -> (Finding, u64) {
        let from_block = u64::from(self.from.geometry().block_size);
        let to_block = u64::from(self.to.geometry().block_size);
        let most = CHUNK.min(u64::from(self.from.geometry().max_io_bytes)).min(u64::from(self.to.geometry().max_io_bytes));
        let step = (most / UNIT * UNIT).max(from_block.max(to_block));
        let total = self.source.blocks.0 * from_block;
        let (mut at, mut read, mut damaged) = (0, 0, false);
        while at < total {
            let len = step.min(total - at);
            let Some(found) = fetch(self.to, self.target + Blocks(at / to_block), len, self.class) else {
                return (Finding::Unreadable, read);
            };
            read += len;
            if !self.matches(&found, at) {
                let Some(original) = fetch(self.from, self.source.lba + Blocks(at / from_block), len, self.class) else {
                    return (Finding::Wrong, read);
                };
                read += len;
                if original[..] != found[..] {
                    return (Finding::Wrong, read);
                }
                damaged |= self.checksums.is_some();
            }
            at += len;
        }
        (if damaged { Finding::FaithfulToDamage } else { Finding::Right }, read)
    }

    /// Without checksums nothing matches by itself: the source decides.
    fn matches(&self, found: &[u8], at: u64) -> bool {
        let first = (at / UNIT) as usize;
        let Some(expected) = self.checksums.and_then(|sums| sums.get(first..)) else { return false };
        let units = found.chunks(UNIT as usize);
        units.len() <= expected.len() && units.zip(expected).all(|(unit, sum)| zns::checksum::crc32c(unit) == *sum)
    }
}

fn fetch(device: &dyn ZonedDevice, lba: Lba, len: u64, class: IoClass) -> Option<AlignedBuf> {
    match device.read(lba, AlignedBuf::zeroed(len as usize), class) {
        Ok(buf) if buf.len() as u64 == len => Some(buf),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "cannot read back a copy");
            None
        }
    }
}

/// Can the host read all of a range? Says how many bytes it read, too.
pub(crate) fn readable(device: &dyn ZonedDevice, range: SourceRange, class: IoClass) -> (bool, u64) {
    let block = u64::from(device.geometry().block_size);
    let step = (CHUNK.min(u64::from(device.geometry().max_io_bytes)) / block * block).max(block);
    let total = range.blocks.0 * block;
    let mut at = 0;
    while at < total {
        let len = step.min(total - at);
        if fetch(device, range.lba + Blocks(at / block), len, class).is_none() {
            return (false, at);
        }
        at += len;
    }
    (true, total)
}
