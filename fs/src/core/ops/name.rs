//! Names and where they are found: hash, collision slots, and the search for a name among the items of one owner.
//!
//! An item that is found by name lies at `hash << 6 | slot`. The hash is keyed by the volume's secret, so nobody can choose names that
//! collide; should 64 names collide nevertheless, the next one is refused with `NoSpace`. A name keeps its slot for life and slots of removed names are
//! filled again, never closed up: that is what makes directory cookies stable.

use super::fail;
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::Txn;
use crate::error::FsError;
use crate::ids::Ino;
use siphasher::sip::SipHasher24;

/// Longest name of a directory entry or an extended attribute.
pub const MAX_NAME: usize = 255;
/// Bits of the collision slot in a key.
pub const SLOT_BITS: u32 = 6;
/// The last slot of a hash.
const LAST_SLOT: u64 = (1 << SLOT_BITS) - 1;

/// Is this a name that a directory entry may have, or `.` or `..`?
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &[u8]) -> Result<(), FsError> {
    match name {
        [] => Err(FsError::NotFound),
        _ if name.len() > MAX_NAME => Err(FsError::NameTooLong),
        _ if name.iter().any(|&byte| byte == 0 || byte == b'/') => Err(FsError::Invalid("a name holds no slash and no zero byte")),
        _ => Ok(()),
    }
}

/// Is it `.` or `..`?
pub fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// How items of one class are found by name.
pub(super) struct Index {
    pub class: Class,
    /// Bits of the hash that go into a key.
    pub hash_bits: u32,
    /// The name in an item's value, `None` if the value is damaged.
    pub name_of: fn(&[u8]) -> Option<&[u8]>,
    /// What to call a damaged item.
    pub what: &'static str,
}

/// What a search found.
pub(super) struct Probe {
    /// The item with the name.
    pub found: Option<(Key, Vec<u8>)>,
    /// Where an item with this name would go. Only told if none was found.
    free: Option<Key>,
}

impl Probe {
    /// The key for a new item.
    pub fn free(&self) -> Result<Key, FsError> {
        self.free.ok_or(FsError::NoSpace)
    }
}

impl Index {
    /// Slot 0 of a name: never 0, so that keys below 64 are free for other uses.
    pub fn first(&self, hash_key: &[u8; 16], name: &[u8]) -> u64 {
        let hash = SipHasher24::new_with_key(hash_key).hash(name) >> (64 - self.hash_bits);
        hash.max(1) << SLOT_BITS
    }

    /// Looks for `name` among the items of `owner`.
    pub fn probe(&self, txn: &Txn, owner: Ino, name: &[u8]) -> Planned<Probe> {
        self.probe_from(txn, owner, name, self.first(txn.hash_key(), name))
    }

    fn probe_from(&self, txn: &Txn, owner: Ino, name: &[u8], first: u64) -> Planned<Probe> {
        let last = first | LAST_SLOT;
        let at = |b| Key::new(self.class, owner.0, b);
        let mut free = None;
        let mut from = first;
        while from <= last {
            let next = txn.first_at_or_after(&at(from))?;
            let Some((key, value)) = next.filter(|(key, _)| *key <= at(last)) else {
                free.get_or_insert(at(from));
                break;
            };
            if key.b > from {
                free.get_or_insert(at(from));
            }
            match (self.name_of)(&value) {
                None => return Err(crate::core::txn::damaged(self.what)),
                Some(found) if found == name => return Ok(Probe { found: Some((key, value)), free: None }),
                Some(_) => from = key.b + 1,
            }
        }
        Ok(Probe { found: None, free })
    }
}

/// Refuses a name that cannot be made or removed: malformed, or `.` or `..`.
pub(super) fn check_plain(name: &[u8], dots: FsError) -> Planned<()> {
    check(name)?;
    if is_dots(name) { fail(dots) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ops::tests::memory::{Memory, SECRET};
    use crate::format::item::Timestamp;

    fn index() -> Index {
        Index { class: Class::Dirent, hash_bits: 56, name_of: |value| Some(value), what: "test item" }
    }

    fn probe(memory: &Memory, name: &[u8], first: u64) -> Probe {
        let txn = Txn::new(memory, Timestamp::default(), 2, SECRET);
        index().probe_from(&txn, Ino(1), name, first).expect("resident")
    }

    #[test]
    fn names_that_collide_take_the_lowest_free_slot_and_are_found_behind_gaps() {
        let mut memory = Memory::default();
        let first = 77 << SLOT_BITS;
        memory.set(Key::new(Class::Dirent, 1, first - 1), b"before".to_vec());
        memory.set(Key::new(Class::Dirent, 1, first + 64), b"behind".to_vec());
        for n in 0..64u64 {
            let key = probe(&memory, n.to_string().as_bytes(), first).free().expect("a free slot");
            assert_eq!(key.b, first + n);
            memory.set(key, n.to_string().into_bytes());
        }
        assert!(matches!(probe(&memory, b"one too many", first).free(), Err(FsError::NoSpace)));
        for gone in [0, 5, 62] {
            memory.unset(&Key::new(Class::Dirent, 1, first + gone));
        }
        for n in (0..64u64).filter(|n| ![0, 5, 62].contains(n)) {
            assert_eq!(probe(&memory, n.to_string().as_bytes(), first).found.expect("still there").0.b, first + n);
        }
        assert_eq!(probe(&memory, b"new", first).free().expect("a gap").b, first);
        assert!(probe(&memory, b"before", first).found.is_none() && probe(&memory, b"behind", first).found.is_none());
    }

    #[test]
    fn keys_are_positive_as_signed_numbers_and_leave_room_below_64() {
        for n in 0..10_000u32 {
            let first = index().first(&SECRET, &n.to_le_bytes());
            assert!(first >= 64 && i64::try_from(first | LAST_SLOT).is_ok() && first & LAST_SLOT == 0);
        }
    }
}
