//! Attributes: mode, owner, length, times.
//!
//! The kernel, mounted with `default_permissions`, decides who may change what, and clears the setgid bit of a chmod by someone outside the
//! group. What follows from a change is done here: a new owner takes suid and sgid away from a regular file, and so does a new length
//! if the kernel says that whoever sets it has no right to keep them.

use super::acl;
use super::flags::{NOATIME, check_grows, check_loose};
use super::resize::{Resize, SetSize, set_size};
use crate::core::halt::Planned;
use crate::core::txn::Txn;
use crate::format::item::{Inode, Timestamp};
use crate::ids::Ino;
use crate::volume::{AtimeMode, SetAttr, SetTime};

/// Result of planning a change of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setattr {
    /// Planned.
    Done {
        /// The inode as it will be.
        inode: Box<Inode>,
        /// If its length was set.
        resize: Option<Resize>,
    },
    /// Nothing planned: an earlier cut must be finished first, since the file would reach into it.
    CutFirst,
}

/// Changes attributes.
///
/// # Errors
/// `NotFound`, `NotPermitted` (immutable or append-only); those of [`set_size`].
pub fn setattr(txn: &mut Txn, ino: Ino, set: &SetAttr) -> Planned<Setattr> {
    let mut inode = txn.inode(ino)?;
    if *set == SetAttr::default() {
        return Ok(Setattr::Done { inode: Box::new(inode), resize: None });
    }
    match set {
        // Whoever may write may say that it was now, also of what only grows; but of both times alone.
        SetAttr { mode: None, uid: None, gid: None, size: None, atime: Some(SetTime::Now), mtime: Some(SetTime::Now), .. } => {
            check_grows(&inode)?
        }
        // For a write, which is asked itself where it goes.
        SetAttr { mode: Some(_), kill_suid: true, uid: None, gid: None, size: None, atime: None, mtime: None, .. } => check_grows(&inode)?,
        _ => check_loose(&inode)?,
    }
    let now = txn.now();
    let mut resize = None;
    if let Some(size) = set.size {
        match set_size(txn, &mut inode, size)? {
            SetSize::CutFirst => return Ok(Setattr::CutFirst),
            SetSize::Done(done) => resize = Some(done),
        }
        inode.mtime = now;
        if set.kill_suid {
            lose_privileges(&mut inode, set);
        }
    }
    if set.uid.is_some() || set.gid.is_some() {
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        lose_privileges(&mut inode, set);
    }
    if let Some(mode) = set.mode {
        inode.mode = inode.kind() | mode & 0o7777;
        acl::follow_mode(txn, &mut inode)?;
    }
    let time = |set: SetTime| match set {
        SetTime::Now => now,
        SetTime::At(time) => normal(time),
    };
    inode.atime = set.atime.map_or(inode.atime, time);
    inode.mtime = set.mtime.map_or(inode.mtime, time);
    inode.ctime = set.ctime.map_or(now, normal);
    txn.put_inode(&inode);
    Ok(Setattr::Done { inode: Box::new(inode), resize })
}

/// Takes suid, and sgid where it means execution with the group's rights, from anything but a directory, as Linux does it. Writing does this too,
/// by those who may not keep them.
pub fn clear_privileges(inode: &mut Inode) {
    if inode.is_dir() {
        return;
    }
    inode.mode &= !libc::S_ISUID;
    if inode.mode & libc::S_IXGRP != 0 {
        inode.mode &= !libc::S_ISGID;
    }
}

fn lose_privileges(inode: &mut Inode, set: &SetAttr) {
    clear_privileges(inode);
    if set.kill_sgid && !inode.is_dir() {
        inode.mode &= !libc::S_ISGID;
    }
}

const DAY: i64 = 24 * 60 * 60;

/// Would an access now be counted by this rule?
pub fn is_atime_stale(inode: &Inode, now: Timestamp, mode: AtimeMode) -> bool {
    let stale = match mode {
        AtimeMode::Relatime => inode.atime <= inode.mtime || inode.atime <= inode.ctime || now.sec.saturating_sub(inode.atime.sec) >= DAY,
        AtimeMode::Strict => true,
        AtimeMode::None => false,
    };
    stale && inode.atime != now && inode.flags & NOATIME == 0
}

/// Counts an access by this rule; that of relatime: only if the last one counted is a day old or not later than the last change. Was it counted?
///
/// # Errors
/// `NotFound`.
pub fn touch_atime(txn: &mut Txn, ino: Ino, mode: AtimeMode) -> Planned<bool> {
    let mut inode = txn.inode(ino)?;
    let now = txn.now();
    if is_atime_stale(&inode, now, mode) {
        inode.atime = now;
        txn.put_inode(&inode);
        return Ok(true);
    }
    Ok(false)
}

/// Nanoseconds as they are stored.
fn normal(time: Timestamp) -> Timestamp {
    Timestamp { sec: time.sec, nsec: time.nsec.min(999_999_999) }
}
