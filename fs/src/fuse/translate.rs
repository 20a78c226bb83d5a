//! Types of the kernel's protocol to ours and back.

use super::wire::{self, Attributes, EntryOut, SetattrIn, Statx, StatxOut, SxTime};
use crate::error::{FsError, Result};
use crate::format::item::Timestamp;
use crate::volume::{Attr, RenameFlags, SetAttr, SetTime};
use std::time::Duration;

/// The protocol counts blocks of 512 bytes.
const SECTORS_PER_BLOCK: u64 = (crate::BLOCK / 512) as u64;

/// How long the kernel may remember names (also that there is none) and attributes.
///
/// For as long as it likes: this mount is the only writer, every change comes through this kernel, and the kernel adjusts
/// or drops what it remembers as part of each call (write, truncate, fallocate, copy_file_range, rename, ...). The same
/// holds for names that do not exist: nothing can create one behind the kernel's back. So a compiler that looks for a
/// header in twenty directories asks us once.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);

/// Does a mode name a type of file? Only bad media hold others, and the kernel gives up an inode over them.
pub fn is_kind(mode: u32) -> bool {
    matches!(
        mode & libc::S_IFMT,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK | libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR | libc::S_IFBLK
    )
}

fn check(attr: &Attr) -> Result<()> {
    if is_kind(attr.mode) { Ok(()) } else { Err(FsError::Internal("an inode of no known type")) }
}

/// Attributes for an answer.
///
/// # Errors
/// An inode whose mode names no file type.
pub fn attributes(attr: &Attr) -> Result<Attributes> {
    check(attr)?;
    Ok(Attributes {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks.saturating_mul(SECTORS_PER_BLOCK),
        atime: attr.atime.sec,
        mtime: attr.mtime.sec,
        ctime: attr.ctime.sec,
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: crate::BLOCK as u32,
        flags: 0,
    })
}

/// Attributes to be remembered, for an answer that has them alone.
///
/// # Errors
/// As [`attributes`].
pub fn attr_out(attr: &Attr) -> Result<wire::AttrOut> {
    Ok(wire::AttrOut { attr_valid: REMEMBER.as_secs(), attr_valid_nsec: 0, dummy: 0, attr: attributes(attr)? })
}

/// An inode under a name.
///
/// # Errors
/// As [`attributes`].
pub fn entry(attr: &Attr) -> Result<EntryOut> {
    let valid = REMEMBER.as_secs();
    Ok(EntryOut {
        nodeid: attr.ino.0,
        generation: attr.generation,
        entry_valid: valid,
        attr_valid: valid,
        attr: attributes(attr)?,
        ..EntryOut::default()
    })
}

/// There is no such name, and the kernel may remember that.
pub fn no_entry() -> EntryOut {
    EntryOut { entry_valid: REMEMBER.as_secs(), ..EntryOut::default() }
}

/// Attributes as statx(2) has them, with the time of birth.
///
/// # Errors
/// As [`attributes`].
pub fn statx_out(attr: &Attr) -> Result<StatxOut> {
    /// STATX_BASIC_STATS and STATX_BTIME
    const MASK: u32 = 0x7ff | 0x800;
    /// The flags of an inode that statx(2) knows are the same bits there: STATX_ATTR_IMMUTABLE, APPEND, NODUMP.
    const SHOWN: u32 = 0x70;
    check(attr)?;
    let time = |time: Timestamp| SxTime { sec: time.sec, nsec: time.nsec, reserved: 0 };
    let stat = Statx {
        mask: MASK,
        blksize: crate::BLOCK as u32,
        attributes: u64::from(attr.flags & SHOWN),
        attributes_mask: u64::from(SHOWN),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks.saturating_mul(SECTORS_PER_BLOCK),
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        // The 32 bits of a device number as the kernel packs them (new_encode_dev).
        rdev_major: (attr.rdev >> 8) & 0xfff,
        rdev_minor: attr.rdev & 0xff | (attr.rdev >> 12) & 0xf_ff00,
        ..Statx::default()
    };
    Ok(StatxOut { attr_valid: REMEMBER.as_secs(), stat, ..StatxOut::default() })
}

/// What a SETATTR asks for.
pub fn changes(asked: &SetattrIn) -> SetAttr {
    use wire::set;
    let meant = |bit| asked.valid & bit != 0;
    let time = |bit, now, sec, nsec| {
        let at = if meant(now) { SetTime::Now } else { SetTime::At(timestamp(sec, nsec)) };
        meant(bit).then_some(at)
    };
    SetAttr {
        mode: meant(set::MODE).then_some(asked.mode),
        uid: meant(set::UID).then_some(asked.uid),
        gid: meant(set::GID).then_some(asked.gid),
        size: meant(set::SIZE).then_some(asked.size),
        atime: time(set::ATIME, set::ATIME_NOW, asked.atime, asked.atimensec),
        mtime: time(set::MTIME, set::MTIME_NOW, asked.mtime, asked.mtimensec),
        ctime: meant(set::CTIME).then(|| timestamp(asked.ctime, asked.ctimensec)),
        // An owner takes them away anyway.
        kill_suid: meant(set::SIZE) && meant(set::KILL_SUIDGID),
        // That no request tells.
        kill_sgid: false,
    }
}

fn timestamp(sec: i64, nsec: u32) -> Timestamp {
    Timestamp { sec, nsec: nsec.min(999_999_999) }
}

/// Flags of renameat2(2).
///
/// # Errors
/// One that we do not know.
pub fn rename_flags(flags: u32) -> Result<RenameFlags> {
    let has = |flag| flags & flag != 0;
    if has(!(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT)) {
        return Err(FsError::Invalid("unknown rename flags"));
    }
    Ok(RenameFlags { no_replace: has(libc::RENAME_NOREPLACE), exchange: has(libc::RENAME_EXCHANGE), whiteout: has(libc::RENAME_WHITEOUT) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ino;
    use zerocopy::FromZeros;

    fn attr(mode: u32) -> Attr {
        let time = |sec| Timestamp { sec, nsec: 5 };
        Attr {
            ino: Ino(9),
            size: 5000,
            blocks: 2,
            generation: 3,
            parent: Ino(1),
            entries: 0,
            mode,
            uid: 1,
            gid: 2,
            nlink: 1,
            rdev: 0xfff0_34ab & 0xabc3_4cd5,
            flags: 0x30,
            atime: time(-1),
            mtime: time(2),
            ctime: time(3),
            btime: time(4),
        }
    }

    #[test]
    fn attributes_go_out_with_times_before_1970() {
        let out = entry(&attr(libc::S_IFREG | 0o4755)).unwrap();
        assert_eq!((out.nodeid, out.generation, out.attr.blocks), (9, 3, 16));
        assert_eq!((out.attr.atime, out.attr.atimensec, out.attr.mode), (-1, 5, libc::S_IFREG | 0o4755));
        let out = statx_out(&attr(libc::S_IFREG | 0o644)).unwrap().stat;
        assert_eq!((out.btime.sec, out.atime.sec, out.attributes), (4, -1, 0x30));
        assert_eq!(no_entry().nodeid, 0);
    }

    #[test]
    fn device_numbers_are_unpacked_as_the_kernel_packs_them() {
        let (major, minor) = (0xabc, 0xdef12);
        // new_encode_dev of include/linux/kdev_t.h
        let packed = minor & 0xff | major << 8 | (minor & !0xff) << 12;
        let out = statx_out(&Attr { rdev: packed, ..attr(libc::S_IFCHR) }).unwrap().stat;
        assert_eq!((out.rdev_major, out.rdev_minor), (major, minor));
    }

    #[test]
    fn an_inode_of_no_kind_is_an_error() {
        for kind in [libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK] {
            assert!(attributes(&attr(kind | 0o600)).is_ok());
        }
        assert!(attributes(&attr(0o600)).is_err() && statx_out(&attr(0o170_000)).is_err() && entry(&attr(0)).is_err());
    }

    #[test]
    fn only_what_is_meant_changes() {
        let mut asked = SetattrIn::new_zeroed();
        assert_eq!(changes(&asked), SetAttr::default());
        asked.valid = wire::set::MTIME | wire::set::ATIME | wire::set::ATIME_NOW | wire::set::SIZE;
        (asked.mtime, asked.mtimensec, asked.size) = (-2, 500_000_000, 77);
        let expected = SetAttr {
            size: Some(77),
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::At(Timestamp { sec: -2, nsec: 500_000_000 })),
            ..SetAttr::default()
        };
        assert_eq!(changes(&asked), expected);
        asked.valid |= wire::set::KILL_SUIDGID;
        assert_eq!(changes(&asked), SetAttr { kill_suid: true, ..expected });
        asked.valid = wire::set::KILL_SUIDGID;
        assert_eq!(changes(&asked), SetAttr::default(), "an order without attributes stays one");
    }

    #[test]
    fn unknown_rename_flags_are_refused() {
        assert_eq!(rename_flags(0).ok(), Some(RenameFlags::default()));
        assert_eq!(rename_flags(libc::RENAME_EXCHANGE).ok(), Some(RenameFlags { exchange: true, ..Default::default() }));
        assert!(rename_flags(1 << 7).is_err());
    }
}
