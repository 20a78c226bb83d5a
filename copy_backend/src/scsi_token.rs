//! The road of SCSI tokens: POPULATE TOKEN gathers ranges of the source into a token, WRITE USING TOKEN scatters what it stands for.
//!
//! The two halves are commands of their own, and neither is waited for by the other's unit: ordinary I/O goes between
//! them. RECEIVE ROD TOKEN INFORMATION is asked until an operation has ended, as often as the device says. A token that
//! stands for less than was asked for is used for what it stands for, and another one is made for the rest; one that has expired or is
//! unknown is made again, once. A refusal beyond that ends the command: the engine goes on by the host.

use crate::backend::{CopyCaps, FailureKind, NoRoad, Road};
use crate::scsi::carrier::{Protocol, ScsiRoad, Stop};
use crate::scsi::error::ScsiError;
use crate::scsi::outcome;
use crate::scsi::place::{Move, Place, Places};
use crate::scsi::sense::{Additional, SenseKey};
use crate::scsi::token::{self, ANSWER_BYTES, Information, MAX_RANGES, POPULATE_TOKEN, Range, Status, Token, WRITE_USING_TOKEN};
use crate::scsi::transport::Data;
use crate::scsi::unit::{LONG, SHORT};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zns::DeviceId;

/// What one command moves at most, whatever the target allows: what a concurrent read may have to wait for.
const MOST_BYTES: u64 = 64 << 20;
/// An operation that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait before asking again: no less, and no more, whatever the device says.
const DELAYS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));
/// Questions in a row that may fail.
const UNANSWERED: u32 = 2;
/// How often a token that is gone is made again.
const AGAIN: u32 = 1;

/// The road of tokens.
pub type TokenRoad = ScsiRoad<Tokens>;

/// POPULATE TOKEN and WRITE USING TOKEN.
pub struct Tokens;

/// How much one token of a unit may take.
#[derive(Clone, Copy)]
struct Limits {
    ranges: u32,
    blocks: u64,
}

/// The limits of a unit that knows `action`.
fn limits(place: &Place, action: u8) -> std::result::Result<Limits, String> {
    let page = place.tokens.as_ref().map_err(Clone::clone)?;
    let knows = page.knows(token::THIRD_PARTY_OUT, action) && page.knows(token::THIRD_PARTY_IN, token::RECEIVE_ROD_TOKEN_INFORMATION);
    if !knows {
        let name = if action == POPULATE_TOKEN { "POPULATE TOKEN" } else { "WRITE USING TOKEN" };
        return Err(format!("{}: it does not know {name} and RECEIVE ROD TOKEN INFORMATION", place.name));
    }
    let said = page.limits.ok_or_else(|| format!("{}: it states no limits of tokens", place.name))?;
    let ranges = said.max_ranges.map_or(1, u32::from).min(MAX_RANGES);
    Ok(Limits { ranges, blocks: said.max_blocks.unwrap_or(u64::MAX) })
}

impl Protocol for Tokens {
    const ROAD: Road = Road::ScsiToken;

    fn caps(places: &Places, from: DeviceId, to: DeviceId) -> std::result::Result<CopyCaps, NoRoad> {
        let (sources, targets) = places.pair(from, to)?;
        let (mut ranges, mut bytes) = (MAX_RANGES, MOST_BYTES);
        for (places, action) in [(&sources, POPULATE_TOKEN), (&targets, WRITE_USING_TOKEN)] {
            for place in places {
                let limits = limits(place, action)?;
                bytes = bytes.min(limits.blocks.saturating_mul(u64::from(place.unit.capacity.block_size)));
                // The destination of a command is one range, or as many as it has pieces: only sources are many.
                if action == POPULATE_TOKEN {
                    ranges = ranges.min(limits.ranges);
                }
            }
        }
        Ok(CopyCaps { road: Road::ScsiToken, max_range_bytes: bytes, max_command_bytes: bytes, max_ranges: ranges, simulated: false })
    }

    fn carry(moves: VecDeque<Move>) -> (usize, Option<Stop>) {
        carry(moves)
    }
}

/// Carries moves out, as many with one token as may be.
fn carry(mut moves: VecDeque<Move>) -> (usize, Option<Stop>) {
    let mut ranges = 0;
    let mut gone = 0;
    while !moves.is_empty() {
        let batch = match next_batch(&moves) {
            Ok(batch) => batch,
            Err(detail) => return (ranges, Some(Stop { kind: FailureKind::Unsupported, detail })),
        };
        let (blocks, ended) = by_token(&batch);
        ranges = advance(&mut moves, blocks).map_or(ranges, |index| index + 1);
        match ended {
            Ok(()) => gone = 0,
            Err((_, error)) if outcome::token_is_gone(&error) && gone < AGAIN => gone += 1,
            Err((name, error)) => return (ranges, Some(Stop::of(&name, &error))),
        }
    }
    (ranges, None)
}

/// Takes `blocks` blocks off the beginning of the moves; gives the last source that ended within them.
fn advance(moves: &mut VecDeque<Move>, mut blocks: u64) -> Option<usize> {
    let mut ended = None;
    while blocks > 0
        && let Some(next) = moves.front_mut()
    {
        let taken = next.take(blocks);
        blocks -= taken.blocks;
        ended = taken.ends_range.or(ended);
        if next.blocks == 0 {
            moves.pop_front();
        }
    }
    ended
}

/// What one token can carry of the moves: between two units, within the limits of both, no source block twice.
fn next_batch(moves: &VecDeque<Move>) -> std::result::Result<Vec<Move>, String> {
    let Some(first) = moves.front() else { return Ok(Vec::new()) };
    let (source, target) = (limits(&first.from, POPULATE_TOKEN)?, limits(&first.to, WRITE_USING_TOKEN)?);
    let mut room = source.blocks.min(target.blocks);
    let mut batch: Vec<Move> = Vec::new();
    for next in moves {
        let mut rest = next.clone();
        while rest.blocks > 0 {
            let same = Arc::ptr_eq(&rest.from, &first.from) && Arc::ptr_eq(&rest.to, &first.to);
            let piece = rest.take(room.min(u64::from(u32::MAX)));
            let overlaps = |other: &Move| other.from_lba < piece.from_lba + piece.blocks && piece.from_lba < other.from_lba + other.blocks;
            if !same || piece.blocks == 0 || batch.iter().any(overlaps) {
                return Ok(batch);
            }
            room -= piece.blocks;
            batch.push(piece);
            if destinations(&batch, u64::MAX).len() > target.ranges as usize || sources(&batch).len() > source.ranges as usize {
                batch.pop();
                return Ok(batch);
            }
        }
    }
    Ok(batch)
}

fn sources(batch: &[Move]) -> Vec<Range> {
    // At most u32::MAX blocks in a piece: see `next_batch`.
    batch.iter().map(|piece| Range { lba: piece.from_lba, blocks: piece.blocks as u32 }).collect()
}

/// Where the first `blocks` blocks of a batch land: neighbours are one range.
fn destinations(batch: &[Move], mut blocks: u64) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for piece in batch {
        let take = piece.blocks.min(blocks) as u32;
        blocks -= u64::from(take);
        match ranges.last_mut() {
            _ if take == 0 => break,
            Some(last) if last.lba + u64::from(last.blocks) == piece.to_lba && last.blocks.checked_add(take).is_some() => {
                last.blocks += take
            }
            _ => ranges.push(Range { lba: piece.to_lba, blocks: take }),
        }
    }
    ranges
}

/// Both halves. Gives the blocks that are written for certain, counted from the first; and what went wrong, with the unit's name.
fn by_token(batch: &[Move]) -> (u64, std::result::Result<(), (String, ScsiError)>) {
    let Some(first) = batch.first() else {
        let nothing = ScsiError::Malformed { what: "third-party copy page", why: "its limits leave room for nothing" };
        return (0, Err(("tokens".into(), nothing)));
    };
    let (from, to) = (&first.from, &first.to);
    let total: u64 = batch.iter().map(|piece| piece.blocks).sum();
    let (token, covered) = match populate(from, batch) {
        Ok((token, blocks)) => (token, blocks.min(total)),
        Err(error) => return (0, Err((from.name.clone(), error))),
    };
    let (written, ended) = write(to, batch, &token, covered);
    (written.min(covered), ended.map_err(|error| (to.name.clone(), error)))
}

fn populate(place: &Place, batch: &[Move]) -> std::result::Result<(Token, u64), ScsiError> {
    let ranges = sources(batch);
    let command = "POPULATE TOKEN";
    let list = |immediate| token::populate(immediate, 0, &ranges);
    let information = operate(place, command, POPULATE_TOKEN, list).map_err(|failure| failure.0)?;
    let what = "ROD token information";
    let token = information.token.ok_or(ScsiError::Malformed { what, why: "it has no token" })?;
    match information.blocks {
        Some(0) => Err(ScsiError::Malformed { what, why: "the token stands for nothing" }),
        Some(blocks) => Ok((token, blocks)),
        None => Err(ScsiError::Malformed { what, why: "the token stands for no whole number of blocks" }),
    }
}

fn write(place: &Place, batch: &[Move], token: &Token, blocks: u64) -> (u64, std::result::Result<(), ScsiError>) {
    let ranges = destinations(batch, blocks);
    let list = |immediate| token::write(immediate, 0, token, &ranges);
    match operate(place, "WRITE USING TOKEN", WRITE_USING_TOKEN, list) {
        Ok(information) => match information.blocks {
            // "Completed without errors" and nothing moved would have us go on for ever.
            None | Some(0) => {
                (0, Err(ScsiError::Malformed { what: "ROD token information", why: "nothing was written, and no error met" }))
            }
            Some(written) => (written, Ok(())),
        },
        Err(Failure(error, written)) => (written, Err(error)),
    }
}

/// An operation that failed, and the blocks it is known to have moved.
struct Failure(ScsiError, u64);

/// Starts an operation and waits for its end.
fn operate(place: &Place, command: &'static str, action: u8, list: impl Fn(bool) -> Vec<u8>) -> std::result::Result<Information, Failure> {
    let id = loop {
        let (id, immediate) = (place.list_id(), place.immediate.load(Ordering::Relaxed));
        let list = list(immediate);
        match place.unit.run(command, &token::command(action, id, list.len() as u32), Data::Out(&list), LONG) {
            Ok(_) => break id,
            // Not every device ends the command before the operation.
            Err(error) if immediate && error.sense().is_some_and(|sense| sense.code == Additional(0x26, 0x00)) => {
                place.immediate.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                // It was begun: how far it came is told to those who ask.
                let begun = error.sense().is_some_and(|sense| sense.key == SenseKey::COPY_ABORTED);
                let told = if begun { ask(place, id).ok() } else { None };
                return Err(Failure(error, told.and_then(|told| told.blocks).unwrap_or(0)));
            }
        }
    };
    await_end(place, command, id)
}

fn ask(place: &Place, id: u32) -> std::result::Result<Information, ScsiError> {
    let mut answer = vec![0; ANSWER_BYTES];
    let len = place.unit.run("RECEIVE ROD TOKEN INFORMATION", &token::receive_command(id), Data::In(&mut answer), SHORT)?;
    Information::parse(&answer[..len.min(answer.len())], place.unit.capacity.block_size)
}

/// Asks until the operation has ended. One that we stop asking about is aborted: it would write when nobody reckons with it.
fn await_end(place: &Place, command: &'static str, id: u32) -> std::result::Result<Information, Failure> {
    let (mut waited, mut delay, mut unanswered) = (Duration::ZERO, DELAYS.0, 0);
    loop {
        let mut pause = delay;
        match ask(place, id) {
            Ok(information) => {
                let blocks = information.blocks.unwrap_or(0);
                match information.status {
                    Status::Done => return Ok(information),
                    Status::Failed | Status::Terminated => {
                        return Err(Failure(ScsiError::Check { command, sense: information.sense }, blocks));
                    }
                    Status::InProgress if waited >= PATIENCE => {
                        abort(place, command, id);
                        return Err(Failure(ScsiError::TimedOut { command, seconds: waited.as_secs() }, 0));
                    }
                    Status::InProgress => {}
                }
                unanswered = 0;
                pause = information.delay_ms.map_or(delay, |milliseconds| Duration::from_millis(milliseconds.into()));
            }
            Err(_) if unanswered < UNANSWERED => unanswered += 1,
            Err(error) => {
                abort(place, command, id);
                return Err(Failure(error, 0));
            }
        }
        pause = pause.clamp(DELAYS.0, DELAYS.1);
        place.unit.wait(pause);
        (waited, delay) = (waited + pause, pause * 2);
    }
}

/// COPY OPERATION ABORT ends when the operation has (SPC-4 6.3).
fn abort(place: &Place, command: &'static str, id: u32) {
    match place.unit.run("COPY OPERATION ABORT", &token::abort_command(id), Data::None, LONG) {
        Ok(_) => tracing::warn!(unit = place.name, command, "a copy was given up"),
        Err(error) => tracing::warn!(unit = place.name, command, %error, "a copy was given up, and may still be running"),
    }
}
