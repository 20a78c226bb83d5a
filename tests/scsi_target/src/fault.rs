//! What a test lets go wrong.

use crate::refusal::Refusal;
use std::ops::Range;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command after `skip` others of this kind is refused, once.
    Refuse {
        /// On which disk.
        disk: usize,
        /// Operation code and service action.
        command: (u8, u8),
        /// Commands of the kind that pass before.
        skip: u32,
        /// How it is refused.
        with: Refusal,
    },
    /// These blocks cannot be read.
    Unreadable {
        /// On which disk.
        disk: usize,
        /// Which blocks.
        lbas: Range<u64>,
    },
    /// These blocks cannot be written.
    Unwritable {
        /// On which disk.
        disk: usize,
        /// Which blocks.
        lbas: Range<u64>,
    },
}

/// The refusal that this command meets.
pub(crate) fn refusal(faults: &mut Vec<Fault>, on: usize, operation: u8, action: u8) -> Option<Refusal> {
    let mut found = None;
    for (index, fault) in faults.iter_mut().enumerate() {
        if let Fault::Refuse { disk, command, skip, with } = fault
            && (*disk, *command) == (on, (operation, action))
        {
            if *skip == 0 {
                found = Some((index, *with));
                break;
            }
            *skip -= 1;
        }
    }
    found.map(|(index, with)| {
        faults.remove(index);
        with
    })
}

/// Does one of these blocks fail to be read?
pub(crate) fn unreadable(faults: &[Fault], on: usize, lba: u64, blocks: u64) -> bool {
    faults
        .iter()
        .any(|fault| matches!(fault, Fault::Unreadable { disk, lbas } if *disk == on && lbas.start < lba + blocks && lba < lbas.end))
}

/// How many of these blocks can be written before one fails.
pub(crate) fn writable(faults: &[Fault], on: usize, lba: u64, blocks: u64) -> u64 {
    let first_bad = faults.iter().filter_map(|fault| match fault {
        Fault::Unwritable { disk, lbas } if *disk == on && lbas.start < lba + blocks && lba < lbas.end => {
            Some(lbas.start.saturating_sub(lba))
        }
        _ => None,
    });
    first_bad.min().unwrap_or(blocks)
}
