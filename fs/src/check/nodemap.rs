//! The node map as the checkpoint has it: every page, every entry, no two at one place; the chain of free ids; and the headers
//! of metadata zones, which must name what lies behind them.

use super::{Checker, Finding};
use crate::BLOCK;
use crate::addr::Addr;
use crate::core::halt::BlockId;
use crate::core::nodes::map::{self, Entry, FANOUT};
use crate::core::page::Page;
use crate::format::batch;
use crate::format::segment::{Phase, Role};
use crate::ids::NodeId;
use std::collections::{HashMap, HashSet};
use zns::IoClass;

/// What the map holds.
#[derive(Default)]
pub(super) struct Metadata {
    /// Where live metadata blocks lie, in order.
    pub live: Vec<Addr>,
    /// Nothing of the map is missing.
    pub complete: bool,
}

#[derive(Default)]
struct Walk {
    claims: Vec<(Addr, BlockId)>,
    free: HashMap<u64, u64>,
    damaged: bool,
}

impl Checker<'_> {
    /// Checks the map; `reached`: the nodes that the tree leads to.
    pub(super) fn check_map(&mut self, reached: &HashSet<u64>) -> Metadata {
        let roots = self.volume.identity().roots;
        let mut walk = Walk::default();
        let level = roots.map_levels.saturating_sub(1);
        self.walk_page(BlockId::Map { level, index: 0 }, (roots.map_addr, roots.map_crc), &mut walk);
        self.check_claims(&mut walk, reached);
        if !walk.damaged {
            self.check_free_chain(&walk.free);
        }
        let mut live = Vec::with_capacity(walk.claims.len());
        for (addr, id) in &walk.claims {
            // What the log has freed is dead already.
            if !matches!(self.volume.ask(|state| Ok(state.tree.store().locate(*id)?)), Ok(found) if found != Some(*addr)) {
                live.push(*addr);
            }
        }
        self.check_headers(&live, &walk.claims);
        Metadata { live, complete: !walk.damaged }
    }

    /// Where the running state has its metadata: the nodes reached, the pages of the segment table and those of the map, in order.
    /// What is not known because the map cannot be read is [`super::scan::Scanner::missed`]: then more lies there than this tells.
    pub(super) fn places_of(&self, reached: &HashSet<u64>) -> Vec<(Addr, BlockId)> {
        let (raw_pages, levels) = {
            let state = self.volume.state.lock();
            let store = state.tree.store();
            (store.raw_pages(), store.roots().map_root.levels)
        };
        let next_page = |level, index| self.scan.ask(|state| Ok(state.tree.store().first_map_page(level, index)?)).ok().flatten();
        let nodes = (1..=raw_pages).chain(reached.iter().copied()).map(|id| BlockId::Node(NodeId(id)));
        let pages = (0..levels).flat_map(|level| {
            let indexes = std::iter::successors(next_page(level, 0), move |index| next_page(level, index + 1));
            indexes.map(move |index| BlockId::Map { level, index })
        });
        let place = |id| self.scan.ask(|state| Ok(state.tree.store().locate(id)?)).ok().flatten().map(|addr| (addr, id));
        let mut places: Vec<(Addr, BlockId)> = nodes.chain(pages).filter_map(place).collect();
        places.sort_unstable();
        places
    }

    /// Of these blocks, those that cleaning would not find: no header names them, or their zone holds something else.
    pub(super) fn hidden(&self, places: &[(Addr, BlockId)]) -> Vec<BlockId> {
        let elsewhere = |addr: &Addr| {
            let entry = self.volume.state.lock().zones.entry(*addr).copied();
            entry.is_some_and(|e| !matches!(e.role, Role::Metadata | Role::None))
        };
        let live: Vec<Addr> = places.iter().map(|(addr, _)| *addr).collect();
        let unnamed = self.not_in_headers(&live, places);
        places.iter().filter(|(addr, _)| elsewhere(addr) || unnamed.contains(addr)).map(|(_, id)| *id).collect()
    }

    fn walk_page(&mut self, id: BlockId, (addr, crc): (Addr, u32), walk: &mut Walk) {
        let BlockId::Map { level, index } = id else { return };
        if !self.claim(id, addr, walk) {
            walk.damaged = true;
            return;
        }
        let page = match self.map_page(level, index, addr, crc) {
            Ok(page) => page,
            Err(reason) => {
                walk.damaged = true;
                return self.add(Finding::MapPage { level, index, addr, reason });
            }
        };
        self.report.counts.map_pages += 1;
        let next_id = self.volume.identity().roots.next_id;
        for i in 0..FANOUT as usize {
            let child = index * FANOUT + i as u64;
            match map::entry(&page, i) {
                Entry::Empty => {}
                Entry::At(addr, crc) if level > 0 => {
                    self.walk_page(BlockId::Map { level: level - 1, index: child }, (addr, crc), walk);
                }
                Entry::At(..) | Entry::Free(_) if child == 0 || child >= next_id => self.add(Finding::MapBeyondEnd { id: child }),
                Entry::At(addr, _) => {
                    self.claim(BlockId::Node(NodeId(child)), addr, walk);
                }
                Entry::Free(next) => {
                    walk.free.insert(child, next.0);
                }
            }
        }
    }

    fn map_page(&self, level: u8, index: u64, addr: Addr, crc: u32) -> Result<Page, String> {
        let buf = self.volume.members().read_block(addr, IoClass::Foreground).map_err(|error| error.to_string())?;
        let bytes: [u8; BLOCK] = buf[..].try_into().map_err(|_| "short read".to_string())?;
        if crc32c::crc32c(&bytes) != crc {
            return Err("fails its checksum".into());
        }
        let page = Page::from_bytes(bytes);
        map::validate(&page, level, index).map(|()| page)
    }

    /// The map says that `id` lies at `addr`: can that be?
    fn claim(&mut self, id: BlockId, addr: Addr, walk: &mut Walk) -> bool {
        let (inside, entry) = {
            let state = self.volume.state.lock();
            (state.zones.contains(addr, 1), state.zones.entry(addr).copied())
        };
        let wrong = match entry {
            Some(_) if !inside => Some("lies outside the volume".to_string()),
            None => Some("lies outside the volume".to_string()),
            Some(_) if self.zones_unknown => None,
            Some(e) if e.role != Role::Metadata => Some(format!("lies in a zone for {:?}", e.role)),
            Some(e) if e.phase == Phase::Empty || addr.block() >= e.written => Some("was never written".to_string()),
            Some(_) => None,
        };
        if let Some(reason) = wrong {
            self.add(Finding::MapEntry { id: name(id), addr, reason });
        }
        if inside {
            walk.claims.push((addr, id));
        }
        inside
    }

    fn check_claims(&mut self, walk: &mut Walk, reached: &HashSet<u64>) {
        walk.claims.sort_unstable();
        for pair in walk.claims.windows(2) {
            if pair[0].0 == pair[1].0 {
                self.add(Finding::MapTwice { first: name(pair[0].1), second: name(pair[1].1), addr: pair[0].0 });
            }
        }
        if self.scan.any_lost() || walk.damaged {
            return;
        }
        let raw_pages = self.volume.state.lock().tree.store().raw_pages();
        let claims = std::mem::take(&mut walk.claims);
        for (addr, id) in &claims {
            let BlockId::Node(node) = *id else { continue };
            if node.0 > raw_pages && !reached.contains(&node.0) {
                // A node that roll-forward freed is nowhere; a new one with its number has no place yet.
                let at = self.volume.ask(|state| Ok(state.tree.store().locate(*id)?));
                if matches!(at, Ok(Some(_))) {
                    self.add(Finding::UnreachableNode { id: node.0, addr: *addr });
                }
            }
        }
        walk.claims = claims;
    }

    fn check_free_chain(&mut self, free: &HashMap<u64, u64>) {
        let mut id = self.volume.identity().roots.free_head;
        let mut met = 0;
        while id != 0 {
            let Some(&next) = free.get(&id) else {
                return self.add(Finding::FreeChain { id, reason: "it is not free" });
            };
            met += 1;
            if met > free.len() as u64 {
                return self.add(Finding::FreeChain { id, reason: "it goes in circles" });
            }
            id = next;
        }
        let count = free.len() as u64 - met;
        if count > 0 {
            self.add(Finding::FreeIdsLost { count });
        }
    }

    /// Every live block of a metadata zone must be named by the header before it, or cleaning would not find it.
    fn check_headers(&mut self, live: &[Addr], claims: &[(Addr, BlockId)]) {
        for addr in self.not_in_headers(live, claims) {
            self.add(Finding::NotInHeader { addr });
        }
    }

    fn not_in_headers(&self, live: &[Addr], claims: &[(Addr, BlockId)]) -> Vec<Addr> {
        let mut claims = claims.iter().copied().collect::<HashMap<_, _>>();
        for zone in live.chunk_by(|a, b| a.zone_base() == b.zone_base()) {
            let (base, last) = (zone[0].zone_base(), zone[zone.len() - 1].block());
            let mut at = 0;
            while at < last {
                let Ok(header) = self.volume.members().read_block(base.plus(at), IoClass::Foreground) else {
                    at += 1;
                    continue;
                };
                let Some(ids) = batch::decode(&header) else {
                    at += 1;
                    continue;
                };
                for (here, id) in (at + 1..).zip(&ids) {
                    if claims.get(&base.plus(here)) == Some(id) {
                        claims.remove(&base.plus(here));
                    }
                }
                at += 1 + ids.len() as u32;
            }
        }
        live.iter().copied().filter(|addr| claims.contains_key(addr)).collect()
    }
}

/// A block of metadata in words.
fn name(id: BlockId) -> String {
    match id {
        BlockId::Node(id) => format!("node {id}"),
        BlockId::Map { level, index } => format!("map page {level}/{index}"),
    }
}
