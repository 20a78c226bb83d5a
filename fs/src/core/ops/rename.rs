//! Names that move: renameat2(2) with all its flags, in the kernel's order of refusals.
//!
//! An entry that is replaced or exchanged keeps its key, so a listing under way shows that name exactly once.

use super::create::{New, make};
use super::dirent::{Change, changed, child, directory, find, kind_of, living_directory, probe, put};
use super::fail;
use super::flags::{check_grows, check_loose};
use super::name::check_plain;
use super::unlink::{Unlinked, drop_link};
use crate::core::halt::Planned;
use crate::core::key::Key;
use crate::core::txn::{Txn, damaged};
use crate::error::FsError;
use crate::format::item::Inode;
use crate::ids::Ino;
use crate::volume::{Caller, RenameFlags};

/// What a rename did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The inode that moved.
    pub moved: Ino,
    /// The name that was replaced.
    pub replaced: Option<Unlinked>,
}

/// A name in a directory, and the key of its entry, be it there or to be made.
#[derive(Clone, Copy)]
struct Place<'n> {
    dir: Ino,
    name: &'n [u8],
    key: Key,
}

/// Moves `name` in `parent` to `newname` in `newparent`. A whiteout (character device 0/0 without permissions) belongs to root.
///
/// # Errors
/// `NotFound`, `Exists` (NOREPLACE), `NotADirectory`, `IsADirectory`, `NotEmpty`; `Invalid` for a directory moved into itself, for `.`
/// and `..`, and for flags that contradict each other.
pub fn rename(txn: &mut Txn, parent: Ino, name: &[u8], newparent: Ino, newname: &[u8], flags: RenameFlags) -> Planned<Renamed> {
    if flags.exchange && (flags.no_replace || flags.whiteout) {
        return fail(FsError::Invalid("rename flags contradict each other"));
    }
    let (dir, newdir) = (directory(txn, parent)?, living_directory(txn, newparent)?);
    let dots = FsError::Invalid("the directory itself cannot be renamed");
    check_plain(name, dots.clone())?;
    check_plain(newname, if flags.no_replace { FsError::Exists } else { dots })?;
    let source = find(txn, parent, name)?;
    let (target, probe) = probe(txn, newparent, newname)?;
    if flags.no_replace && target.is_some() {
        return fail(FsError::Exists);
    }
    if flags.exchange && target.is_none() {
        return fail(FsError::NotFound);
    }
    let moved = child(txn, &source)?;
    if moved.is_dir() && parent != newparent && lies_within(txn, newparent, moved.ino)? {
        return fail(FsError::Invalid("a directory cannot be moved into itself"));
    }
    let old = Place { dir: parent, name, key: source.key };
    check_loose(&dir)?;
    check_loose(&moved)?;
    let Some(target) = target else {
        check_grows(&newdir)?;
        let new = Place { dir: newparent, name: newname, key: probe.free()? };
        return shift(txn, old, new, moved, None, flags.whiteout);
    };
    let new = Place { dir: newparent, name: newname, key: target.key };
    let other = child(txn, &target)?;
    if flags.exchange && other.is_dir() && parent != newparent && lies_within(txn, parent, other.ino)? {
        return fail(FsError::Invalid("a directory cannot be moved into itself"));
    }
    if moved.ino == other.ino {
        return Ok(Renamed { moved: moved.ino, replaced: None });
    }
    check_loose(&newdir)?;
    check_loose(&other)?;
    if flags.exchange {
        return exchange(txn, old, new, moved, other);
    }
    match (moved.is_dir(), other.is_dir()) {
        (true, false) => return fail(FsError::NotADirectory),
        (false, true) => return fail(FsError::IsADirectory),
        (true, true) if other.entries > 0 => return fail(FsError::NotEmpty),
        _ => {}
    }
    shift(txn, old, new, moved, Some(other), flags.whiteout)
}

/// Moves an entry to a place where `replaced` may have been.
fn shift(txn: &mut Txn, old: Place, new: Place, mut moved: Inode, replaced: Option<Inode>, whiteout: bool) -> Planned<Renamed> {
    let is_dir = i64::from(moved.is_dir());
    put(txn, new.key, moved.ino, kind_of(&moved), new.name);
    let gone = match &replaced {
        None => Change::default(),
        Some(other) => Change { entries: 1, subdirs: i64::from(other.is_dir()) },
    };
    let old_change = if whiteout {
        let dir = txn.inode(old.dir)?;
        let node = make(txn, &dir, &New { mode: libc::S_IFCHR, rdev: 0, size: 0 }, &Caller::default());
        put(txn, old.key, node.ino, kind_of(&node), old.name);
        Change { entries: 0, subdirs: -is_dir }
    } else {
        txn.remove(old.key);
        Change { entries: -1, subdirs: -is_dir }
    };
    let new_change = Change { entries: 1 - gone.entries, subdirs: is_dir - gone.subdirs };
    if old.dir == new.dir {
        let sum = Change { entries: old_change.entries + new_change.entries, subdirs: old_change.subdirs + new_change.subdirs };
        changed(txn, old.dir, sum)?;
    } else {
        changed(txn, old.dir, old_change)?;
        changed(txn, new.dir, new_change)?;
    }
    settle(txn, &mut moved, new.dir);
    let replaced = replaced.map(|mut other| drop_link(txn, &mut other)).transpose()?;
    Ok(Renamed { moved: moved.ino, replaced })
}

/// Two entries lead to each other's inodes from now on.
fn exchange(txn: &mut Txn, old: Place, new: Place, mut moved: Inode, mut other: Inode) -> Planned<Renamed> {
    put(txn, old.key, other.ino, kind_of(&other), old.name);
    put(txn, new.key, moved.ino, kind_of(&moved), new.name);
    let gained = i64::from(other.is_dir()) - i64::from(moved.is_dir());
    if old.dir == new.dir {
        changed(txn, old.dir, Change::default())?;
    } else {
        changed(txn, old.dir, Change { entries: 0, subdirs: gained })?;
        changed(txn, new.dir, Change { entries: 0, subdirs: -gained })?;
    }
    settle(txn, &mut moved, new.dir);
    settle(txn, &mut other, old.dir);
    Ok(Renamed { moved: moved.ino, replaced: None })
}

/// Stores an inode that has a new place.
fn settle(txn: &mut Txn, inode: &mut Inode, dir: Ino) {
    if inode.is_dir() {
        inode.parent = dir;
    }
    inode.ctime = txn.now();
    txn.put_inode(inode);
}

/// Is `dir` the directory `ancestor`, or below it? A ring of parents, which only damage can make, is found by a marker that jumps ahead
/// ever more rarely.
fn lies_within(txn: &Txn, dir: Ino, ancestor: Ino) -> Planned<bool> {
    let (mut here, mut marker) = (dir, Ino(0));
    let (mut steps, mut next_mark) = (0u64, 1u64);
    loop {
        if here == ancestor {
            return Ok(true);
        }
        if here == Ino::ROOT {
            return Ok(false);
        }
        if here == marker {
            return Err(damaged("ring of directories"));
        }
        if steps == next_mark {
            (marker, next_mark) = (here, next_mark * 2);
        }
        steps += 1;
        here = txn.inode(here)?.parent;
    }
}
