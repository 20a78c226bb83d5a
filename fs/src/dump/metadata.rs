//! The segment table, pages of the node map, nodes.

use super::{Emit, item, key};
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::nodes::map::{self, Entry, FANOUT};
use crate::core::page::{Page, SortKey};
use crate::ids::NodeId;
use crate::volume::Volume;
use serde_json::{Value, json};
use std::collections::HashSet;
use zns::IoClass;

pub(super) fn zones(volume: &Volume, emit: Emit<'_>) -> std::io::Result<()> {
    let entries: Vec<_> = volume.state.lock().zones.iter().map(|(addr, entry)| (addr, *entry)).collect();
    for (addr, e) in entries {
        emit(json!({
            "kind": "zone", "device": addr.device(), "zone": addr.zone(), "role": e.role, "phase": e.phase, "live": e.live,
            "written": e.written, "written_at": e.written_at, "resets": e.resets, "temperature": e.temperature, "class": e.class,
            "opened_at": e.opened_at,
        }))?;
    }
    Ok(())
}

/// All map pages from the root down, as the checkpoint has them.
pub(super) fn map_pages(volume: &Volume, emit: Emit<'_>) -> std::io::Result<()> {
    let roots = volume.identity().roots;
    let mut todo = vec![(roots.map_levels.saturating_sub(1), 0u64, roots.map_addr, roots.map_crc)];
    while let Some((level, index, addr, crc)) = todo.pop() {
        let mut value = json!({ "kind": "map-page", "level": level, "index": index, "addr": addr });
        match map_page(volume, level, index, addr, crc) {
            Err(reason) => value["error"] = json!(reason),
            Ok(page) => {
                let mut entries = serde_json::Map::new();
                for i in 0..FANOUT as usize {
                    let child = index * FANOUT + i as u64;
                    match map::entry(&page, i) {
                        Entry::Empty => {}
                        Entry::At(addr, crc) => {
                            entries.insert(child.to_string(), json!(format!("{addr} {crc:08x}")));
                            if level > 0 {
                                todo.push((level - 1, child, addr, crc));
                            }
                        }
                        Entry::Free(next) => {
                            entries.insert(child.to_string(), json!(format!("free, then {next}")));
                        }
                    }
                }
                value["entries"] = entries.into();
            }
        }
        emit(value)?;
    }
    Ok(())
}

fn map_page(volume: &Volume, level: u8, index: u64, addr: Addr, crc: u32) -> Result<Page, String> {
    if !volume.state.lock().zones.contains(addr, 1) {
        return Err("lies outside the volume".into());
    }
    let buf = volume.members().read_block(addr, IoClass::Foreground).map_err(|error| error.to_string())?;
    let bytes: [u8; BLOCK] = buf[..].try_into().map_err(|_| "short read".to_string())?;
    if crc32c::crc32c(&bytes) != crc {
        return Err("fails its checksum".into());
    }
    let page = Page::from_bytes(bytes);
    map::validate(&page, level, index).map(|()| page)
}

/// All nodes that the tree leads to, from the root down.
pub(super) fn nodes(volume: &Volume, emit: Emit<'_>) -> std::io::Result<()> {
    let root = volume.state.lock().tree.store().tree_root();
    let mut seen = HashSet::new();
    let mut todo = vec![root];
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            emit(json!({ "kind": "node", "id": id, "error": "the tree leads to it again" }))?;
            continue;
        }
        let (value, children) = node(volume, id);
        emit(value)?;
        todo.extend(children.into_iter().rev());
    }
    Ok(())
}

/// One node, and its children.
pub(super) fn node(volume: &Volume, id: NodeId) -> (Value, Vec<NodeId>) {
    let mut value = json!({ "kind": "node", "id": id });
    let page = match volume.ask(|state| Ok(state.tree.store().get(id).cloned()?)) {
        Ok(page) => page,
        Err(error) => {
            value["error"] = json!(error.to_string());
            return (value, Vec::new());
        }
    };
    let addr = volume.ask(|state| Ok(state.tree.store().locate(BlockId::Node(id))?));
    value["addr"] = json!(addr.ok().flatten());
    value["level"] = json!(page.level());
    value["used"] = json!(page.used());
    if page.level() > 0 {
        let bound = |k: SortKey| k.key().map_or(json!("first"), |k| key(&k));
        let children: Vec<NodeId> = (0..page.count()).map(|i| page.child(i)).collect();
        value["children"] = (0..page.count()).map(|i| json!({ "from": bound(page.key(i)), "node": children[i] })).collect();
        return (value, children);
    }
    value["items"] = (0..page.count()).filter_map(|i| page.key(i).key().map(|k| item(&k, page.value(i)))).collect();
    (value, Vec::new())
}
