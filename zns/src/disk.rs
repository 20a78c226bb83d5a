//! The block device or file under a zoned device, by blocks: what raw, conventional and kernel devices do alike. They check operations, each in its own way; this
//! turns them into transfers, starts a batch, and brings each outcome back to its operation.

use crate::backing::Backing;
use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::{Completions, IoClass};
use crate::error::{DeviceError, Result};
use crate::file_lock::system;
use crate::media::Media;
use crate::transport::{Running, Transport, lost};
use crate::units::{Lba, ZoneId};
use crate::uring::{Outcome, Transfer};
use rustix::io::Errno;
use std::collections::HashMap;

/// An open device or file, and the size of its blocks.
#[derive(Debug)]
pub(crate) struct Disk {
    pub transport: Transport,
    block: u64,
}

/// A batch under way: for each operation what is to be known when it ends, or why it was refused.
#[derive(Debug)]
pub(crate) struct Pending<S> {
    running: Running,
    /// With the place of its outcome.
    slots: Vec<Result<(S, usize)>>,
}

/// An operation of a batch.
pub(crate) struct Operation<S> {
    /// What its device wants to know when it ends; an error: it is not carried out.
    pub checked: Result<S>,
    /// Operations of one zone go one after the other, and end with the first that fails.
    pub in_order: Option<ZoneId>,
    /// What is to be done.
    pub transfer: Transfer,
}

impl Disk {
    /// A disk of blocks of so many bytes.
    pub fn new(media: Media, block_size: u32) -> Self {
        Self { transport: Transport::new(media), block: u64::from(block_size) }
    }

    fn media(&self) -> &Media {
        &self.transport.media
    }

    /// The byte at which a block begins.
    pub fn offset(&self, lba: Lba) -> u64 {
        lba.0 * self.block
    }

    /// The blocks of an operation of so many bytes.
    pub fn whole_blocks(&self, lba: Lba, bytes: u64) -> Result<u64> {
        if bytes == 0 || !bytes.is_multiple_of(self.block) {
            let reason = "its length is not a positive multiple of the device block";
            return Err(DeviceError::BadRange { lba, blocks: bytes / self.block, reason });
        }
        Ok(bytes / self.block)
    }

    /// Refuses to do `action` on what was opened for reading only.
    pub fn check_writable(&self, action: &'static str) -> Result<()> {
        if self.media().read_only { Err(system(action, &self.media().path, Errno::ROFS)) } else { Ok(()) }
    }

    /// A read as a transfer.
    pub fn reading(&self, lba: Lba, buf: AlignedBuf) -> Transfer {
        Transfer::Read { offset: self.offset(lba), buf }
    }

    /// A write as a transfer.
    pub fn writing(&self, lba: Lba, data: &[BufSlice]) -> Transfer {
        Transfer::Write { offset: self.offset(lba), data: self.media().transferable(data) }
    }

    /// Starts a batch.
    pub fn start<S>(&self, batch: impl IntoIterator<Item = Operation<S>>, class: IoClass) -> Pending<S> {
        let mut chains = Chains::default();
        let mut slots = Vec::new();
        for (index, Operation { checked, in_order, transfer }) in batch.into_iter().enumerate() {
            if checked.is_ok() {
                chains.add(in_order, index, transfer);
            }
            slots.push(checked.map(|slot| (slot, 0)));
        }
        let (order, chains) = chains.into_order();
        for (place, index) in order.into_iter().enumerate() {
            if let Ok((_, outcome)) = &mut slots[index] {
                *outcome = place;
            }
        }
        Pending { running: self.transport.submit(chains, class), slots }
    }

    /// Waits for a batch; `conclude` says what becomes of an operation.
    pub fn finish<S>(&self, pending: Pending<S>, mut conclude: impl FnMut(S, Outcome) -> Result<Option<AlignedBuf>>) -> Completions {
        let mut outcomes: Vec<Option<Outcome>> = self.transport.wait(pending.running).into_iter().map(Some).collect();
        let mut take = |place: usize| outcomes.get_mut(place).and_then(Option::take).unwrap_or_else(lost);
        pending.slots.into_iter().map(|slot| slot.and_then(|(slot, place)| conclude(slot, take(place)))).collect()
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> Result<()> {
        self.media().flush()
    }

    /// Writes the page cache back and empties it.
    pub fn settle(&self) -> Result<()> {
        self.media().settle()
    }

    /// What lies underneath, `bytes` of it.
    pub fn backing(&self, bytes: u64) -> Backing {
        self.media().backing(bytes)
    }

    /// Its path, for people.
    pub fn label(&self) -> String {
        self.media().path.display().to_string()
    }
}

/// The transfers of a batch, sorted into chains.
#[derive(Debug, Default)]
struct Chains {
    of_zone: HashMap<ZoneId, usize>,
    /// Each transfer with its place in the batch.
    chains: Vec<Vec<(usize, Transfer)>>,
}

impl Chains {
    /// Adds a transfer, behind those of `zone` if one is named.
    fn add(&mut self, zone: Option<ZoneId>, index: usize, transfer: Transfer) {
        let next = self.chains.len();
        let chain = zone.map_or(next, |zone| *self.of_zone.entry(zone).or_insert(next));
        if chain == next {
            self.chains.push(Vec::with_capacity(1));
        }
        self.chains[chain].push((index, transfer));
    }

    /// The places in the batch in the order in which outcomes come, and the chains.
    fn into_order(self) -> (Vec<usize>, Vec<Vec<Transfer>>) {
        let order = self.chains.iter().flatten().map(|&(index, _)| index).collect();
        let bare = |chain: Vec<(usize, Transfer)>| chain.into_iter().map(|(_, transfer)| transfer).collect();
        (order, self.chains.into_iter().map(bare).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_one_zone_form_a_chain_and_outcomes_find_their_way_back() {
        let mut chains = Chains::default();
        let read = || Transfer::Read { offset: 0, buf: AlignedBuf::zeroed(512) };
        for (index, zone) in [Some(4), None, Some(5), Some(4), None, Some(4)].into_iter().enumerate() {
            chains.add(zone.map(ZoneId), index, read());
        }
        let (order, chains) = chains.into_order();
        assert_eq!(order, [0, 3, 5, 1, 2, 4]);
        assert_eq!(chains.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1, 1]);
    }
}
