//! What inodes hold: extents, checksums, attributes, link targets.

use super::names::{Window, printable};
use super::{Checker, Finding};
use crate::addr::Addr;
use crate::core::extents::{MAX_FILE_BLOCKS, extent_parts};
use crate::core::key::{Class, Key};
use crate::core::ops::PIECE;
use crate::core::ops::name::SLOT_BITS;
use crate::core::ops::xattr::{PIECE_BITS, first_slot};
use crate::format::acl::{ACCESS, Acl, DEFAULT};
use crate::format::item::{CHECKSUM_GROUP, Extent};
use crate::format::xattr::{Attribute, Totals};
use crate::ids::{FileBlock, Ino};
use std::collections::BTreeMap;

/// An extent with data, for the passes over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mapped {
    pub addr: Addr,
    pub blocks: u32,
    pub ino: u64,
    pub block: u64,
}

/// What the pass over inodes leaves for the passes over blocks.
#[derive(Default)]
pub(super) struct Contents {
    /// The extents with data, unless there are too many to be held at once.
    pub extents: Option<Vec<Mapped>>,
    /// Extents in each zone.
    pub per_zone: BTreeMap<Addr, u32>,
    begun: bool,
}

impl Contents {
    fn push(&mut self, mapped: Mapped, limit: usize) {
        if !self.begun {
            self.begun = true;
            self.extents = Some(Vec::new());
        }
        *self.per_zone.entry(mapped.addr.zone_base()).or_insert(0) += 1;
        if let Some(extents) = &mut self.extents {
            extents.push(mapped);
            if extents.len() > limit {
                self.extents = None;
            }
        }
    }
}

impl Checker<'_> {
    /// Items of `what` must belong to an inode of the right kind. `false`: they do not.
    fn belongs(&mut self, window: &mut Window, ino: u64, what: &'static str, kind: Option<u32>) -> bool {
        let key = Key::inode(Ino(ino));
        let reason = match window.get(ino) {
            None if self.scan.is_lost(&key, &key) => return false,
            None => "does not exist",
            Some(record) if kind.is_some_and(|kind| kind != record.kind) => "is of another type",
            Some(_) => return true,
        };
        self.add(Finding::Belongings { ino: Ino(ino), what, reason });
        false
    }

    pub(super) fn check_targets(&mut self, window: &mut Window) {
        let scan = self.scan.clone();
        let mut last = None;
        scan.class(Class::Symlink, window.inos.clone(), |key, value| {
            let new = last.replace(key).is_none_or(|last: Key| last.a != key.a);
            if new && !self.belongs(window, key.a, "link target", Some(libc::S_IFLNK)) {
                return true;
            }
            if let Some(record) = window.get(key.a) {
                // Pieces are full but for the last: a gap or a short piece leaves the sum short, unless what is missing is known to be lost.
                let missed = Key { b: record.target.div_ceil(PIECE as u64), ..key };
                if missed.b < key.b && scan.is_lost(&missed, &Key { b: key.b - 1, ..key }) {
                    record.target = key.b.saturating_mul(PIECE as u64);
                }
                let expected = (record.target == key.b.saturating_mul(PIECE as u64)).then_some(value.len() as u64);
                record.target = record.target.saturating_add(expected.unwrap_or(0));
                if expected.is_none() || value.len() > PIECE {
                    self.undecodable(key);
                }
            }
            true
        });
    }

    pub(super) fn check_attributes(&mut self, window: &mut Window) {
        let scan = self.scan.clone();
        let mut last = None;
        scan.class(Class::Xattr, window.inos.clone(), |key, value| {
            let new = last.replace(key).is_none_or(|last: Key| last.a != key.a);
            if new {
                self.belongs(window, key.a, "attributes", None);
            }
            let Some(record) = window.get(key.a) else { return true };
            if key.b == 0 {
                match Totals::decode(value) {
                    Some(totals) => record.totals = Some((totals.count, totals.names)),
                    None => self.undecodable(key),
                }
                return true;
            }
            let Some(attribute) = Attribute::decode(value) else {
                self.undecodable(key);
                return true;
            };
            record.attributes.0 += 1;
            record.attributes.1 = record.attributes.1.saturating_add(attribute.name.len() as u32 + 1);
            if let Some(n) = [ACCESS, DEFAULT].iter().position(|name| attribute.name == *name) {
                record.lists[n] = Some(self.value_of(key, &attribute).as_deref().and_then(Acl::decode));
            }
            self.check_attribute(key, &attribute);
            true
        });
        self.check_pieces(window);
    }

    /// The value of an attribute, if all of it is there.
    fn value_of(&self, key: Key, attribute: &Attribute) -> Option<Vec<u8>> {
        if attribute.inline.is_some() {
            return attribute.inline.clone();
        }
        let (from, to) = (key.b << PIECE_BITS, key.b << PIECE_BITS | ((1 << PIECE_BITS) - 1));
        let mut value = Vec::new();
        self.scan.range(&Key::new(Class::XattrValue, key.a, from), &Key::new(Class::XattrValue, key.a, to), &mut |_, piece| {
            value.extend_from_slice(piece);
            true
        });
        (value.len() == attribute.size as usize).then_some(value)
    }

    fn check_attribute(&mut self, key: Key, attribute: &Attribute) {
        let (ino, name) = (Ino(key.a), printable(&attribute.name));
        if key.b >> SLOT_BITS != first_slot(&self.volume.identity().hash_key, &attribute.name) >> SLOT_BITS {
            self.add_at(key, Finding::Attribute { ino, name: name.clone(), reason: "lies where a search for it does not look" });
        }
        if attribute.inline.is_some() {
            return;
        }
        let at = |n: u64| Key::new(Class::XattrValue, key.a, key.b << PIECE_BITS | n);
        let pieces = u64::from(attribute.size).div_ceil(PIECE as u64);
        if self.scan.is_lost(&at(0), &at(pieces)) {
            return;
        }
        let (mut found, mut bytes) = (0, 0);
        self.scan.clone().range(&at(0), &at((1 << PIECE_BITS) - 1), &mut |piece, value| {
            if piece == at(found) {
                found += 1;
            }
            bytes += value.len() as u64;
            true
        });
        if found != pieces || bytes != u64::from(attribute.size) {
            self.add_at(key, Finding::Attribute { ino, name, reason: "has another value than its size says" });
        }
    }

    /// Pieces of values without an attribute.
    fn check_pieces(&mut self, window: &mut Window) {
        let scan = self.scan.clone();
        let mut last = None;
        scan.class(Class::XattrValue, window.inos.clone(), |key, _| {
            let of = Key::new(Class::Xattr, key.a, key.b >> PIECE_BITS);
            if last.replace(of) != Some(of) {
                let attribute = scan.get(&of).map(|value| value.as_deref().and_then(Attribute::decode));
                if matches!(&attribute, Ok(found) if found.as_ref().is_none_or(|found| found.inline.is_some())) {
                    let finding = Finding::Belongings { ino: Ino(key.a), what: "a long attribute value", reason: "has no such attribute" };
                    self.add_at(of, finding);
                }
            }
            true
        });
    }

    pub(super) fn check_extents(&mut self, window: &mut Window, contents: &mut Contents) {
        let scan = self.scan.clone();
        let mut last: Option<(u64, u64)> = None;
        scan.class(Class::Extent, window.inos.clone(), |key, value| {
            let ino = Ino(key.a);
            if last.is_none_or(|(a, _)| a != key.a) {
                last = Some((key.a, 0));
                self.belongs(window, key.a, "extents", Some(libc::S_IFREG));
            }
            let Some(extent) = Extent::decode(FileBlock(key.b), value) else {
                self.undecodable(key);
                return true;
            };
            let end = key.b.saturating_add(u64::from(extent.blocks));
            if last.is_some_and(|(_, behind)| key.b < behind) {
                self.add_at(key, Finding::ExtentOverlap { ino, block: key.b });
            }
            last = Some((key.a, end));
            let reason = self.extent_fault(&extent, end);
            if let Some(reason) = reason {
                let Extent { blocks, addr, .. } = extent;
                self.add_at(key, Finding::Extent { ino, block: key.b, blocks, addr, reason });
            }
            self.report.counts.extents += 1;
            if let Some(record) = window.get(key.a) {
                record.blocks_found += u64::from(extent.blocks);
                if !extent.is_unwritten() {
                    record.mapped_end = record.mapped_end.max(end);
                }
            }
            if extent.is_unwritten() {
                self.report.counts.unwritten += u64::from(extent.blocks);
                return true;
            }
            self.report.counts.blocks += u64::from(extent.blocks);
            self.population.add(extent.estimate, extent.blocks.into());
            if reason.is_none() {
                let mapped = Mapped { addr: extent.addr, blocks: extent.blocks, ino: key.a, block: key.b };
                contents.push(mapped, self.options.window);
            }
            true
        });
    }

    fn extent_fault(&self, extent: &Extent, end: u64) -> Option<&'static str> {
        if end > MAX_FILE_BLOCKS {
            return Some("lies beyond the largest file");
        }
        if extent.is_unwritten() {
            return None;
        }
        let state = self.volume.state.lock();
        if !state.zones.contains(extent.addr, extent.blocks) {
            return Some("lies outside the volume");
        }
        let role = state.zones.entry(extent.addr).map(|e| e.role);
        (!self.zones_unknown && !role.is_some_and(|role| role.is_data())).then_some("lies in a zone that holds no data")
    }

    /// Groups of checksums must have an extent in them, or nothing would ever remove them.
    pub(super) fn check_checksum_groups(&mut self, window: &Window) {
        let scan = self.scan.clone();
        scan.class(Class::Checksum, window.inos.clone(), |key, value| {
            let ino = Ino(key.a);
            let (first, behind) = (key.b.saturating_mul(CHECKSUM_GROUP), key.b.saturating_add(1).saturating_mul(CHECKSUM_GROUP));
            if value.len() % 4 != 0 || value.is_empty() || value.len() as u64 > CHECKSUM_GROUP * 4 {
                self.undecodable(key);
            }
            let from = Key::new(Class::Extent, key.a, 0);
            if scan.is_lost(&from, &Key::extent(ino, FileBlock(behind))) {
                return true;
            }
            let parts = self.volume.ask(|state| extent_parts(&state.tree, ino, FileBlock(first), FileBlock(behind), 1));
            if matches!(parts, Ok((parts, _)) if parts.is_empty()) {
                self.add_at(key, Finding::StrayChecksums { ino, block: first });
            }
            true
        });
    }
}
