//! The log behind the checkpoint: fragment after fragment, with the changes of each batch, and why it ends where it ends.

use super::{Emit, delta};
use crate::addr::Addr;
use crate::format::log::{self, Fragment};
use crate::format::record::Delta;
use crate::volume::Volume;
use serde_json::json;
use zns::IoClass;

pub(super) fn dump(volume: &Volume, emit: Emit<'_>) -> std::io::Result<()> {
    let start = volume.identity().log;
    let (mut addr, mut next_zone) = (start.addr, start.next_zone);
    let (mut sequence, mut previous) = (start.sequence, start.previous);
    let mut body = Vec::new();
    loop {
        let capacity = |addr: Addr| volume.state.lock().zones.capacity(addr.device());
        if inside(volume, addr.zone_base(), 1) && addr.block() >= capacity(addr) {
            addr = std::mem::take(&mut next_zone);
        }
        let (fragment, checksum, piece) = match fragment_at(volume, addr, sequence, previous) {
            Ok(found) => found,
            Err(reason) => return emit(json!({ "kind": "log-end", "addr": addr, "sequence": sequence, "reason": reason })),
        };
        if fragment.first {
            body.clear();
        }
        body.extend_from_slice(&piece);
        let mut value = json!({
            "kind": "log", "addr": addr, "sequence": sequence, "epoch": fragment.epoch, "batch": fragment.batch, "first": fragment.first,
            "last": fragment.last, "blocks": fragment.blocks, "bytes": fragment.body, "flushed": fragment.flushed,
            "next_zone": fragment.next_zone, "checksum": format!("{checksum:08x}"),
        });
        if fragment.last {
            let mut rest = &body[..];
            let mut deltas = Vec::new();
            while !rest.is_empty() {
                match Delta::decode(&mut rest) {
                    Some(found) => deltas.push(delta(&found)),
                    None => {
                        value["error"] = json!(format!("{} bytes cannot be decoded", rest.len()));
                        break;
                    }
                }
            }
            value["changes"] = deltas.into();
        }
        emit(value)?;
        (previous, sequence, next_zone) = (checksum, sequence + 1, fragment.next_zone);
        addr = addr.plus(fragment.blocks);
    }
}

fn inside(volume: &Volume, addr: Addr, blocks: u32) -> bool {
    !addr.is_none() && volume.state.lock().zones.contains(addr, blocks)
}

fn fragment_at(volume: &Volume, addr: Addr, sequence: u64, previous: u32) -> Result<(Fragment, u32, Vec<u8>), &'static str> {
    if !inside(volume, addr, 1) {
        return Err("there is no zone for it to go on in");
    }
    let read = |blocks| volume.members().read_runs(&[(addr, blocks)], IoClass::Foreground).pop().and_then(Result::ok);
    let head = read(1).ok_or("the block cannot be read")?;
    let blocks = log::peek_blocks(&head).ok_or("there is no fragment")?;
    if !inside(volume, addr, blocks) {
        return Err("the fragment reaches beyond its zone");
    }
    let bytes = read(blocks).ok_or("the fragment cannot be read")?;
    let (fragment, checksum, piece) = log::decode(&bytes, &volume.identity().secret).ok_or("the fragment fails its checksum")?;
    match () {
        () if fragment.epoch != volume.identity().epoch => Err("the fragment is of another epoch"),
        () if fragment.sequence != sequence || fragment.previous != previous => Err("the fragment does not continue the chain"),
        () => Ok((fragment, checksum, piece.to_vec())),
    }
}
