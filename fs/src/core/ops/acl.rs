//! Access control lists: kept in step with modes, and inherited. Enforcing them is the kernel's business.
//!
//! The access list of a file and the permission bits of its mode say the same: a new list sets the bits, a new mode changes the list, and a list that says no
//! more than the bits is not stored. Two flags in the inode tell whether there are lists, so that who has none, which is nearly everybody, costs no look at the
//! attributes.

use super::fail;
use super::flags::check_loose;
use super::xattr;
use crate::core::halt::Planned;
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::acl::{ACCESS, Acl, DEFAULT};
use crate::format::item::{HAS_ACCESS_ACL, HAS_DEFAULT_ACL, Inode};
use crate::ids::Ino;

const PERMISSIONS: u32 = 0o777;

/// Which of the two lists an attribute is, as the flag of the inode that has it.
pub(super) fn flag_of(name: &[u8]) -> Option<u32> {
    match name {
        ACCESS => Some(HAS_ACCESS_ACL),
        DEFAULT => Some(HAS_DEFAULT_ACL),
        _ => None,
    }
}

/// Sets a list. `drop_setgid`: who asks is not of the file's group, so an access list takes away the right to run with the rights of that group.
///
/// # Errors
/// `Invalid` (no valid list), `Access` (a default list for what is no directory), `Unsupported` (a symbolic link), `NotFound`, `NoSpace` (too many entries).
pub fn set_acl(txn: &mut Txn, ino: Ino, name: &[u8], value: &[u8], drop_setgid: bool) -> Planned<()> {
    let mut inode = txn.inode(ino)?;
    let Some(flag) = flag_of(name) else { return fail(FsError::Unsupported("this attribute of the system namespace")) };
    if inode.kind() == libc::S_IFLNK {
        return fail(FsError::Unsupported("access control lists of symbolic links"));
    }
    if flag == HAS_DEFAULT_ACL && !inode.is_dir() {
        return fail(FsError::Access);
    }
    if value.len() > crate::format::acl::MAX_BYTES {
        return fail(FsError::NoSpace);
    }
    let Some(acl) = Acl::decode(value) else { return fail(FsError::Invalid("not a valid access control list")) };
    check_loose(&inode)?;
    let mut stored = Some(acl);
    if flag == HAS_ACCESS_ACL {
        stored = stored.inspect(|acl| inode.mode = inode.mode & !PERMISSIONS | acl.mode()).filter(Acl::is_extended);
        if drop_setgid {
            inode.mode &= !libc::S_ISGID;
        }
    }
    put(txn, &mut inode, name, flag, stored.as_ref())?;
    inode.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// Removes a list; that there was none is no error.
pub(super) fn remove_acl(txn: &mut Txn, mut inode: Inode, name: &[u8], flag: u32) -> Planned<()> {
    check_loose(&inode)?;
    if inode.flags & flag != 0 {
        put(txn, &mut inode, name, flag, None)?;
        inode.ctime = txn.now();
        txn.put_inode(&inode);
    }
    Ok(())
}

/// A chmod changes the access list with the mode.
pub(super) fn follow_mode(txn: &mut Txn, inode: &mut Inode) -> Planned<()> {
    if let Some(mut acl) = get(txn, inode, ACCESS, HAS_ACCESS_ACL)? {
        acl.set_mode(inode.mode);
        put(txn, inode, ACCESS, HAS_ACCESS_ACL, Some(&acl))?;
    }
    Ok(())
}

/// What a new file has from its directory.
#[derive(Default)]
pub(super) struct Inherited {
    access: Option<Acl>,
    default: Option<Acl>,
}

/// What a new file in `dir` gets. Its `mode` loses what the default list of the directory does not grant or, where there is none, what `umask` withholds.
pub(super) fn inherit(txn: &Txn, dir: &Inode, mode: &mut u32, umask: u32) -> Planned<Inherited> {
    let is_dir = *mode & libc::S_IFMT == libc::S_IFDIR;
    let Some(default) = get(txn, dir, DEFAULT, HAS_DEFAULT_ACL)? else {
        *mode &= !(umask & PERMISSIONS);
        return Ok(Inherited::default());
    };
    let mut access = default.clone();
    access.restrict(*mode);
    *mode = *mode & !PERMISSIONS | access.mode();
    Ok(Inherited { access: Some(access).filter(Acl::is_extended), default: is_dir.then_some(default) })
}

impl Inherited {
    /// Stores the lists of a new inode.
    pub(super) fn store(&self, txn: &mut Txn, inode: &mut Inode) -> Planned<()> {
        for (acl, name, flag) in [(&self.access, ACCESS, HAS_ACCESS_ACL), (&self.default, DEFAULT, HAS_DEFAULT_ACL)] {
            if acl.is_some() {
                put(txn, inode, name, flag, acl.as_ref())?;
                txn.put_inode(inode);
            }
        }
        Ok(())
    }
}

/// What [`rewrite`] did.
pub(super) enum Rewritten {
    /// List and mode grant what both granted.
    Restricted,
    /// The list is gone: it was of no use.
    Dropped,
    /// There was no list: the flag is gone, and the group's rights, which the list may have kept from some, with it.
    Forgotten,
}

/// For a repair: list, flag and mode agree afterwards, and nobody may do more than before.
pub(super) fn rewrite(txn: &mut Txn, ino: Ino, own: bool) -> Planned<Rewritten> {
    let mut inode = txn.inode(ino)?;
    let (name, flag) = if own { (ACCESS, HAS_ACCESS_ACL) } else { (DEFAULT, HAS_DEFAULT_ACL) };
    let stored = xattr::load(txn, ino, name)?;
    let claimed = inode.flags & flag != 0;
    let list = stored.as_deref().and_then(Acl::decode).filter(|_| claimed && (own || inode.is_dir()));
    let done = match list {
        Some(mut acl) if own => {
            acl.restrict(inode.mode);
            inode.mode = inode.mode & !PERMISSIONS | acl.mode();
            put(txn, &mut inode, name, flag, Some(&acl))?;
            Rewritten::Restricted
        }
        Some(_) => return Ok(Rewritten::Restricted),
        None => {
            if stored.is_some() {
                xattr::erase(txn, ino, name)?;
            }
            inode.flags &= !flag;
            if claimed && own {
                // Whom it kept out by name must not come in as one of the others.
                inode.mode &= !0o077;
            }
            if stored.is_some() { Rewritten::Dropped } else { Rewritten::Forgotten }
        }
    };
    txn.put_inode(&inode);
    Ok(done)
}

fn get(txn: &Txn, inode: &Inode, name: &[u8], flag: u32) -> Planned<Option<Acl>> {
    if inode.flags & flag == 0 {
        return Ok(None);
    }
    let value = xattr::load(txn, inode.ino, name)?.ok_or_else(|| damaged("access control list"))?;
    Acl::decode(&value).map(Some).ok_or_else(|| damaged("access control list"))
}

/// Stores a list or none and notes in the inode which of both; the caller stores the inode.
fn put(txn: &mut Txn, inode: &mut Inode, name: &[u8], flag: u32, acl: Option<&Acl>) -> Planned<()> {
    match acl {
        Some(acl) => {
            xattr::store(txn, inode.ino, name, &acl.encode(), 0)?;
            inode.flags |= flag;
        }
        None if inode.flags & flag != 0 => {
            xattr::erase(txn, inode.ino, name)?;
            inode.flags &= !flag;
        }
        None => {}
    }
    Ok(())
}
