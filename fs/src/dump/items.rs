//! Items and deltas as values: a printer for every type.

use super::{hex, time};
use crate::addr::Addr;
use crate::core::extents::Relocation;
use crate::core::key::{Class, Key};
use crate::format::item::{Dirent, Extent, Inode, Intent, Summary};
use crate::format::record::Delta;
use crate::format::xattr::{Attribute, Totals};
use crate::ids::{FileBlock, Ino};
use serde_json::{Value, json};

/// A key.
pub fn key(key: &Key) -> Value {
    json!(crate::check::show(key))
}

/// An item.
pub fn item(key: &Key, value: &[u8]) -> Value {
    let mut out = match decoded(key, value) {
        Some(value) => value,
        None => json!({ "error": "cannot be decoded", "bytes": hex(value) }),
    };
    if let Some(fields) = out.as_object_mut() {
        fields.insert("key".into(), self::key(key));
    }
    out
}

fn decoded(key: &Key, value: &[u8]) -> Option<Value> {
    Some(match key.class {
        Class::Inode => inode(&Inode::decode(Ino(key.a), value)?),
        Class::Xattr if key.b == 0 => {
            let totals = Totals::decode(value)?;
            json!({ "attributes": totals.count, "name_bytes": totals.names })
        }
        Class::Xattr => {
            let attribute = Attribute::decode(value)?;
            json!({ "name": name(&attribute.name), "size": attribute.size, "value": attribute.inline.as_deref().map(hex) })
        }
        Class::XattrValue => json!({ "value": hex(value) }),
        Class::Dirent => {
            let entry = Dirent::decode(value)?;
            json!({ "name": name(&entry.name), "ino": entry.ino, "type": entry.kind })
        }
        Class::Symlink => json!({ "target": name(value) }),
        Class::Extent => {
            let extent = Extent::decode(FileBlock(key.b), value)?;
            match extent.is_unwritten() {
                true => json!({ "blocks": extent.blocks, "unwritten": true }),
                false => json!({ "blocks": extent.blocks, "addr": extent.addr }),
            }
        }
        Class::Checksum => {
            let sums: Vec<String> =
                value.chunks_exact(4).map(|c| format!("{:08x}", u32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect();
            json!({ "checksums": sums.join(" ") })
        }
        Class::Summary => {
            let summary = Summary::decode(Addr(key.a), value)?;
            json!({ "blocks": summary.blocks, "ino": summary.ino, "block": summary.block })
        }
        Class::Intent => match Intent::decode(value)? {
            Intent::Free => json!({ "intent": "free" }),
            Intent::Cut { from } => json!({ "intent": "cut", "from": from }),
        },
    })
}

fn inode(i: &Inode) -> Value {
    json!({
        "mode": format!("{:o}", i.mode), "nlink": i.nlink, "uid": i.uid, "gid": i.gid, "size": i.size, "blocks": i.blocks,
        "parent": i.parent, "entries": i.entries, "generation": i.generation, "rdev": i.rdev, "flags": i.flags,
        "atime": time(i.atime), "mtime": time(i.mtime), "ctime": time(i.ctime), "btime": time(i.btime),
    })
}

fn name(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "bytes": hex(bytes) }),
    }
}

/// A delta of the log.
pub fn delta(delta: &Delta) -> Value {
    match delta {
        Delta::Put { key, value } => json!({ "put": item(key, value) }),
        Delta::Remove { key } => json!({ "remove": self::key(key) }),
        Delta::Map { ino, block, addr, checksums, estimate } => {
            let sums: Vec<String> = checksums.iter().map(|sum| format!("{sum:08x}")).collect();
            json!({ "map": { "ino": ino, "block": block, "addr": addr, "blocks": checksums.len(), "estimate": estimate, "checksums": sums.join(" ") } })
        }
        Delta::Preallocate { ino, block, blocks } => json!({ "preallocate": { "ino": ino, "block": block, "blocks": blocks } }),
        Delta::Unmap { ino, block, blocks } => json!({ "unmap": { "ino": ino, "block": block, "blocks": blocks } }),
        Delta::Move(Relocation { ino, block, blocks, from, to, estimate }) => {
            json!({ "move": { "ino": ino, "block": block, "blocks": blocks, "from": from, "to": to, "estimate": estimate } })
        }
        Delta::Release { zone } => json!({ "release": { "zone": zone } }),
    }
}
