//! Extended attributes.
//!
//! An attribute is found by name like a directory entry. A short value lies in the attribute's item, a long one in pieces of a class of
//! their own, so that looking for one attribute never reads the value of another. Item 0 of an inode keeps the totals: whether another name fits is
//! known without listing them all. Who may use which namespace is the kernel's business.

use super::flags::{check_grows, check_loose};
use super::name::{Index, MAX_NAME, Probe};
use super::{PIECE, acl, fail, hint};
use crate::core::halt::Planned;
use crate::core::key::{Class, Key};
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::xattr::{Attribute, Totals};
use crate::ids::Ino;

/// Largest value.
pub const MAX_VALUE: usize = 65_536;
/// Most bytes that all names of an inode take in a listing.
pub const MAX_LIST: usize = 65_536;
/// A value goes into pieces if the attribute's item would be larger than this.
const MAX_INLINE_ITEM: usize = 1000;
/// Bits of the name's hash in a key: six bits for the slot and eight for the piece remain.
const HASH_BITS: u32 = 50;
/// Bits of the number of a piece in the key of a piece of a long value.
pub const PIECE_BITS: u32 = 8;

const _: () = assert!(MAX_VALUE.div_ceil(PIECE) <= 1 << PIECE_BITS && HASH_BITS + super::name::SLOT_BITS + PIECE_BITS <= 64);

const INDEX: Index = Index { class: Class::Xattr, hash_bits: HASH_BITS, name_of: Attribute::name_of, what: "extended attribute" };

/// The value of an attribute.
///
/// # Errors
/// `NoAttribute`, `NotFound`, `Unsupported` (namespace), `Range` (length of the name), `Invalid`.
pub fn getxattr(txn: &mut Txn, ino: Ino, name: &[u8]) -> Planned<Vec<u8>> {
    check_name(name)?;
    if name == hint::NAME {
        return hint::get(&txn.inode(ino)?);
    }
    if let Some(flag) = acl::flag_of(name)
        && txn.inode(ino)?.flags & flag == 0
    {
        return fail(FsError::NoAttribute);
    }
    match load(txn, ino, name)? {
        // An inode that is gone must not look like one without attributes.
        None => txn.inode(ino).and_then(|_| fail(FsError::NoAttribute)),
        Some(value) => Ok(value),
    }
}

/// Sets an attribute. `flags`: XATTR_CREATE, XATTR_REPLACE or 0.
///
/// # Errors
/// As [`getxattr`]; `Exists` (XATTR_CREATE), `TooBig`, `NoSpace` (all names together are too long); those of [`acl::set_acl`]; `Invalid` for a write hint that is none.
pub fn setxattr(txn: &mut Txn, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Planned<()> {
    check_name(name)?;
    let mut inode = txn.inode(ino)?;
    if value.len() > MAX_VALUE {
        return fail(FsError::TooBig);
    }
    if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
        return fail(FsError::Invalid("unknown flag of setxattr"));
    }
    if acl::flag_of(name).is_some() {
        return acl::set_acl(txn, ino, name, value, false);
    }
    if name == hint::NAME {
        return hint::set(txn, inode, value, flags);
    }
    check_loose(&inode)?;
    store(txn, ino, name, value, flags)?;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// The value of an attribute, whoever may be asking; the inode is not looked at.
pub(super) fn load(txn: &Txn, ino: Ino, name: &[u8]) -> Planned<Option<Vec<u8>>> {
    let (found, _) = probe(txn, ino, name)?;
    found.map(|(key, attribute)| value_of(txn, key, attribute)).transpose()
}

/// Stores an attribute whose name and value are good; the inode is not touched.
pub(super) fn store(txn: &mut Txn, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Planned<()> {
    let (found, probe) = probe(txn, ino, name)?;
    let (key, old_pieces) = match found {
        Some(_) if flags & libc::XATTR_CREATE != 0 => return fail(FsError::Exists),
        None if flags & libc::XATTR_REPLACE != 0 => return fail(FsError::NoAttribute),
        Some((key, attribute)) => (key, piece_count(&attribute)),
        None => {
            let mut totals = totals_of(txn, ino)?;
            let more = totals.count.checked_add(1).zip(totals.names.checked_add(name.len() as u32 + 1));
            (totals.count, totals.names) = more.ok_or_else(|| damaged("totals of extended attributes"))?;
            if totals.names as usize > MAX_LIST {
                return fail(FsError::NoSpace);
            }
            txn.put(totals_key(ino), totals.encode());
            (probe.free()?, 0)
        }
    };
    let inline = Attribute::encoded_len(name, value) <= MAX_INLINE_ITEM;
    let attribute = Attribute { name: name.to_vec(), size: value.len() as u32, inline: inline.then(|| value.to_vec()) };
    let mut pieces = 0;
    if !inline {
        for (n, piece) in value.chunks(PIECE).enumerate() {
            txn.put(piece_key(key, n as u64), piece.to_vec());
            pieces = n as u64 + 1;
        }
    }
    for n in pieces..old_pieces {
        txn.remove(piece_key(key, n));
    }
    txn.put(key, attribute.encode());
    Ok(())
}

/// The names of all attributes, each with a zero byte behind it, in an order that stays.
///
/// # Errors
/// `NotFound`.
pub fn listxattr(txn: &mut Txn, ino: Ino) -> Planned<Vec<u8>> {
    let inode = txn.inode(ino)?;
    let totals = totals_of(txn, ino)?;
    let mut names = Vec::with_capacity((totals.names as usize).min(MAX_LIST));
    let mut from = 1;
    for _ in 0..totals.count {
        let next = txn.first_at_or_after(&Key::new(Class::Xattr, ino.0, from))?;
        let Some((key, value)) = next.filter(|(key, _)| key.class == Class::Xattr && key.a == ino.0) else { break };
        names.extend_from_slice(Attribute::name_of(&value).ok_or_else(|| damaged("extended attribute"))?);
        names.push(0);
        from = key.b.saturating_add(1);
    }
    if names.len() != totals.names as usize {
        return Err(damaged("totals of extended attributes"));
    }
    // Where nothing fits into a listing any more, the hint is there all the same.
    if hint::WriteHint::of(&inode).is_some() && names.len() + hint::NAME.len() < MAX_LIST {
        names.extend_from_slice(hint::NAME);
        names.push(0);
    }
    Ok(names)
}

/// Removes an attribute.
///
/// # Errors
/// As [`getxattr`].
pub fn removexattr(txn: &mut Txn, ino: Ino, name: &[u8]) -> Planned<()> {
    check_name(name)?;
    let mut inode = txn.inode(ino)?;
    if let Some(flag) = acl::flag_of(name) {
        return acl::remove_acl(txn, inode, name, flag);
    }
    if name == hint::NAME {
        return hint::remove(txn, inode);
    }
    // File capabilities go before each write, also before one that only lets the file grow.
    if name == b"security.capability" {
        check_grows(&inode)?
    } else {
        check_loose(&inode)?
    }
    erase(txn, ino, name)?;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// Removes an attribute; the inode is not touched.
pub(super) fn erase(txn: &mut Txn, ino: Ino, name: &[u8]) -> Planned<()> {
    let Some((key, attribute)) = probe(txn, ino, name)?.0 else { return fail(FsError::NoAttribute) };
    let mut totals = totals_of(txn, ino)?;
    let len = name.len() as u32 + 1;
    (totals.count, totals.names) = match (totals.count.checked_sub(1), totals.names.checked_sub(len)) {
        (Some(count), Some(names)) => (count, names),
        _ => return Err(damaged("totals of extended attributes")),
    };
    if totals.count == 0 {
        txn.remove(totals_key(ino));
    } else {
        txn.put(totals_key(ino), totals.encode());
    }
    for n in 0..piece_count(&attribute) {
        txn.remove(piece_key(key, n));
    }
    txn.remove(key);
    Ok(())
}

/// Is this a name of a known namespace?
fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(FsError::Range);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid("a name holds no zero byte"));
    }
    if matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default") {
        return Ok(());
    }
    let known = [&b"user."[..], b"trusted.", b"security."].into_iter().find_map(|prefix| name.strip_prefix(prefix));
    match known {
        None => Err(FsError::Unsupported("namespace of the extended attribute")),
        Some([]) => Err(FsError::Invalid("a namespace is not a name")),
        Some(_) => Ok(()),
    }
}

fn probe(txn: &Txn, ino: Ino, name: &[u8]) -> Planned<(Option<(Key, Attribute)>, Probe)> {
    let probe = INDEX.probe(txn, ino, name)?;
    let found = match &probe.found {
        None => None,
        Some((key, value)) => Some((*key, Attribute::decode(value).ok_or_else(|| damaged("extended attribute"))?)),
    };
    Ok((found, probe))
}

fn value_of(txn: &Txn, key: Key, attribute: Attribute) -> Planned<Vec<u8>> {
    let pieces = piece_count(&attribute);
    if let Some(value) = attribute.inline {
        return Ok(value);
    }
    let len = attribute.size as usize;
    let mut value = Vec::with_capacity(len);
    for n in 0..pieces {
        let piece = txn.get(&piece_key(key, n))?.ok_or_else(|| damaged("value of an extended attribute"))?;
        value.extend_from_slice(&piece);
    }
    if value.len() == len { Ok(value) } else { Err(damaged("value of an extended attribute")) }
}

/// The smallest slot that an attribute with this name can have; the largest is 63 more.
pub fn first_slot(hash_key: &[u8; 16], name: &[u8]) -> u64 {
    INDEX.first(hash_key, name)
}

fn piece_count(attribute: &Attribute) -> u64 {
    if attribute.inline.is_some() { 0 } else { (attribute.size as usize).div_ceil(PIECE) as u64 }
}

fn piece_key(attribute: Key, n: u64) -> Key {
    Key::new(Class::XattrValue, attribute.a, attribute.b << PIECE_BITS | n)
}

fn totals_key(ino: Ino) -> Key {
    Key::new(Class::Xattr, ino.0, 0)
}

fn totals_of(txn: &Txn, ino: Ino) -> Planned<Totals> {
    match txn.get(&totals_key(ino))? {
        None => Ok(Totals::default()),
        Some(value) => Totals::decode(&value).ok_or_else(|| damaged("totals of extended attributes")),
    }
}
