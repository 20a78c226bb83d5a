//! md arrays: linear and raid0 as layouts. Pure.
//!
//! raid0 over members of unequal size is a row of zones: the first reaches as far as the smallest member, the next goes on over
//! those that are larger, and so on. Where a zone's first chunk lies is a matter of history (`md/layout`): the original layout
//! counts chunks from the start of the array, the alternate one from the start of the zone. Linux, drivers/md/raid0.c.

use super::layout::{Layout, Mapping, Segment};
use super::resolve::DevNumber;
use std::sync::Arc;

/// RAID0_ORIG_LAYOUT and RAID0_ALT_MULTIZONE_LAYOUT.
const ORIGINAL: u64 = 1;
const ALTERNATE: u64 = 2;

/// What sysfs says of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// "raid0", "linear", "raid1", ...
    pub level: String,
    /// As in `md/layout`.
    pub layout: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// It is being changed into another shape.
    pub reshaping: bool,
    /// How many members it has when it is whole.
    pub disks: u64,
    /// In order.
    pub members: Vec<Member>,
}

/// A member of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The device.
    pub device: DevNumber,
    /// Bytes before its data.
    pub offset: u64,
    /// Bytes of data.
    pub size: u64,
}

/// The layout of an array.
///
/// # Errors
/// In words: a level below which nobody may look, or an array that is not whole.
pub(super) fn layout_of(array: &Array, below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Result<Layout, String> {
    if array.reshaping {
        return Err("it is being reshaped".into());
    }
    match array.level.as_str() {
        "linear" | "raid0" if array.members.len() as u64 != array.disks || array.members.is_empty() => {
            Err(format!("{} of its {} members are known", array.members.len(), array.disks))
        }
        "linear" => Ok(linear(array, below)),
        "raid0" => raid0(array, below),
        "raid1" | "raid10" => Err(format!("{} keeps several copies: a copy would have to be made in each of them", array.level)),
        "raid4" | "raid5" | "raid6" => Err(format!("{} keeps parity, which a copy below it would not change", array.level)),
        level => Err(format!("md level {level:?} is of a kind that FerryFS cannot look through")),
    }
}

fn linear(array: &Array, below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Layout {
    let segment =
        |member: &Member| Segment { len: member.size, on: Mapping::Linear { below: below(member.device), offset: member.offset } };
    Layout::Segments(array.members.iter().map(segment).collect())
}

fn raid0(array: &Array, below: &mut dyn FnMut(DevNumber) -> Arc<Layout>) -> Result<Layout, String> {
    let chunk = array.chunk;
    if chunk == 0 {
        return Err("raid0 without a chunk size".into());
    }
    // Only whole chunks of a member are used.
    let members: Vec<(Arc<Layout>, u64, u64)> =
        array.members.iter().map(|member| (below(member.device), member.offset, member.size / chunk * chunk)).collect();
    let mut ends: Vec<u64> = members.iter().map(|member| member.2).filter(|&size| size > 0).collect();
    ends.sort_unstable();
    ends.dedup();
    if ends.len() > 1 && !matches!(array.layout, ORIGINAL | ALTERNATE) {
        return Err("its members differ in size, and which layout it has is not known".into());
    }
    let mut segments = Vec::new();
    let (mut row, mut array_chunks) = (0u64, 0u64);
    for end in ends {
        let mut legs: Vec<(Arc<Layout>, u64)> = members
            .iter()
            .filter(|member| member.2 > row)
            .map(|(below, offset, _)| offset.checked_add(row).map(|first| (below.clone(), first)).ok_or("an address overflows"))
            .collect::<Result<_, _>>()?;
        let count = legs.len() as u64;
        if array.layout == ORIGINAL {
            // The chunk that begins this zone goes to the member that its number in the array says.
            legs.rotate_left((array_chunks % count) as usize);
        }
        let len = (end - row).checked_mul(count).ok_or("it is larger than any device")?;
        segments.push(Segment { len, on: Mapping::Striped { chunk, legs } });
        array_chunks += len / chunk;
        row = end;
    }
    Ok(Layout::Segments(segments))
}
