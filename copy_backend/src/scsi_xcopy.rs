//! The road of SCSI EXTENDED COPY: one command moves many runs of blocks within a logical unit or between two.
//!
//! Every source range is a segment of its own (a segment has one source and one destination), within the limits that the
//! copy manager states in RECEIVE COPY OPERATING PARAMETERS. The command goes to the destination's unit. When it is
//! aborted on the way, the segments before the one that the sense data names count as done; when it names none, nothing does.

use crate::backend::{CopyCaps, NoRoad, Road};
use crate::scsi::carrier::{Protocol, ScsiRoad, Stop};
use crate::scsi::designator::Designator;
use crate::scsi::error::ScsiError;
use crate::scsi::extended_copy::{self, Cscd, ListId, Segment};
use crate::scsi::place::{Move, Place, Places, XcopyLimits};
use crate::scsi::sense::Additional;
use crate::scsi::transport::Data;
use crate::scsi::unit::LONG;
use std::collections::VecDeque;
use std::sync::Arc;
use zns::DeviceId;

/// What one command moves at most, whatever the target allows: what a concurrent read may have to wait for.
const MOST_BYTES: u64 = 64 << 20;
/// A list identifier may be taken by another program; another one hardly is.
const NAMES: usize = 4;

/// The road of EXTENDED COPY.
pub type XcopyRoad = ScsiRoad<Xcopy>;

/// EXTENDED COPY (LID1).
pub struct Xcopy;

impl Protocol for Xcopy {
    const ROAD: Road = Road::ScsiXcopy;

    fn caps(places: &Places, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        let (sources, targets) = places.pair(from, to)?;
        for place in sources.iter().chain(&targets) {
            if Designator::best(&place.unit.designators).is_none() {
                return Err(format!("{} has no name that a copy command can carry", place.name).into());
            }
        }
        // A source need not manage copies, but one that says it takes no part in them is believed.
        if let Some(place) = sources.iter().find(|place| !place.unit.inquiry.third_party_copy) {
            return Err(format!("{}: it takes no part in third-party copies (its 3PC bit is clear)", place.name).into());
        }
        let mut caps = CopyCaps {
            road: Road::ScsiXcopy,
            max_range_bytes: MOST_BYTES,
            max_command_bytes: MOST_BYTES,
            max_ranges: u32::MAX,
            simulated: false,
        };
        for target in &targets {
            let limits = target.xcopy.as_ref().map_err(|why| why.clone())?;
            if limits.cscds < 2 && sources.iter().any(|source| !source.unit.is(&target.unit)) {
                return Err(format!("{}: its EXTENDED COPY stays within one unit", target.name).into());
            }
            let range = u64::from(limits.segment_blocks) * u64::from(target.unit.capacity.block_size);
            caps.max_range_bytes = caps.max_range_bytes.min(range);
            caps.max_ranges = caps.max_ranges.min(limits.segments);
        }
        caps.max_command_bytes = caps.max_command_bytes.min(caps.max_range_bytes.saturating_mul(u64::from(caps.max_ranges)));
        Ok(caps)
    }

    fn carry(moves: VecDeque<Move>) -> (usize, Option<Stop>) {
        carry(moves)
    }
}

/// Carries moves out, as many in one command as may be.
fn carry(mut moves: VecDeque<Move>) -> (usize, Option<Stop>) {
    let mut ranges = 0;
    while let Some(first) = moves.front() {
        let (from, to) = (first.from.clone(), first.to.clone());
        let limits = match &to.xcopy {
            Ok(limits) => *limits,
            Err(why) => return (ranges, Some(Stop { kind: crate::FailureKind::Unsupported, detail: why.clone() })),
        };
        let batch = take_batch(&mut moves, &from, &to, &limits);
        let sent = to.gate.pass(|| send(&from, &to, &limits, &batch));
        let done = match &sent {
            Ok(()) => batch.len(),
            // No more than were asked for, and not the one that failed.
            Err(error) => error.sense().and_then(|sense| sense.segments_done()).unwrap_or(0).min(batch.len().saturating_sub(1)),
        };
        ranges = batch[..done].iter().rev().find_map(|piece| piece.ends_range).map_or(ranges, |index| index + 1);
        if let Err(error) = sent {
            return (ranges, Some(Stop::of(&to.name, &error)));
        }
    }
    (ranges, None)
}

/// The moves of one command, all between the same two units.
fn take_batch(moves: &mut VecDeque<Move>, from: &Arc<Place>, to: &Arc<Place>, limits: &XcopyLimits) -> Vec<Move> {
    let mut batch = Vec::new();
    while batch.len() < limits.segments as usize
        && let Some(next) = moves.front_mut()
        && Arc::ptr_eq(&next.from, from)
        && Arc::ptr_eq(&next.to, to)
    {
        batch.push(next.take(u64::from(limits.segment_blocks)));
        if next.blocks == 0 {
            moves.pop_front();
        }
    }
    batch
}

fn cscd(place: &Place) -> Option<Cscd> {
    let designator = Designator::best(&place.unit.designators)?.clone();
    Some(Cscd { device_type: place.unit.inquiry.device_type, designator, block_size: place.unit.capacity.block_size })
}

fn send(from: &Place, to: &Place, limits: &XcopyLimits, batch: &[Move]) -> std::result::Result<(), ScsiError> {
    let nameless = ScsiError::Malformed { what: "device identification page", why: "it has no name that a copy command can carry" };
    let (Some(source), Some(target)) = (cscd(from), cscd(to)) else { return Err(nameless) };
    // Two descriptors also within one unit: some targets take the first for the source and the second for the destination.
    let (cscds, destination) = if limits.cscds < 2 { (vec![target], 0) } else { (vec![source, target], 1) };
    let segment = |piece: &Move| Segment {
        source: 0,
        destination,
        // No more than `segment_blocks`, which has 16 bits.
        blocks: piece.blocks as u16,
        from: piece.from_lba,
        to: piece.to_lba,
    };
    let segments: Vec<Segment> = batch.iter().map(segment).collect();
    let mut attempts = 0;
    loop {
        let id = if limits.no_list_id { ListId::None } else { ListId::Discard((to.list_id() % 255 + 1) as u8) };
        let list = extended_copy::parameters(id, &cscds, &segments);
        let command = extended_copy::command(list.len() as u32);
        let ended = to.unit.run("EXTENDED COPY", &command, Data::Out(&list), LONG);
        attempts += 1;
        match ended {
            // OPERATION IN PROGRESS: the identifier is taken.
            Err(error) if attempts < NAMES && error.sense().is_some_and(|sense| sense.code == Additional(0x00, 0x16)) => {}
            ended => return ended.map(drop),
        }
    }
}
