//! Types of the kernel's protocol to ours and back.

use crate::format::item::Timestamp;
use crate::volume::{Attr, RenameFlags, SetTime};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The protocol counts blocks of 512 bytes.
const SECTORS_PER_BLOCK: u64 = (crate::BLOCK / 512) as u64;

/// The protocol's file type for the type bits of a mode; `None` if they name no type.
pub fn file_type(mode: u32) -> Option<FileType> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG => FileType::RegularFile,
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => return None,
    })
}

/// The protocol's file type for a DT_* value of a directory entry.
pub fn entry_type(kind: u8) -> Option<FileType> {
    file_type(u32::from(kind) << 12)
}

/// Attributes for a reply; `None` for an inode whose mode names no file type, which only bad media can hold.
pub fn file_attr(attr: &Attr) -> Option<FileAttr> {
    Some(FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks.saturating_mul(SECTORS_PER_BLOCK),
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: to_system_time(attr.btime),
        kind: file_type(attr.mode)?,
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: crate::BLOCK as u32,
        flags: 0,
    })
}

/// The attributes of nothing: with inode number 0 an entry reply says "there is no such name, and you may remember that".
pub fn no_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A point in time as the library wants it. It encodes times before 1970 rightly on the way out.
pub fn to_system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nsec));
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec >= 0 { UNIX_EPOCH.checked_add(seconds) } else { UNIX_EPOCH.checked_sub(seconds) };
    whole.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A point in time as the library decoded it from a request.
///
/// fuser 0.18.0 decodes `(-s, n)`, which means n nanoseconds *after* second -s, as n nanoseconds *before* it. The kernel
/// never sends anything but `n < 10^9`, so the mistake loses nothing and is undone here: the distance from 1970 that we
/// get is exactly the pair that was sent.
pub fn from_system_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let sec = 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
            Timestamp { sec, nsec: before.subsec_nanos() }
        }
    }
}

/// A time of a setattr request.
pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_system_time(time)),
    }
}

/// Flags of renameat2(2); `None` if there is one that we do not know.
pub fn rename_flags(flags: fuser::RenameFlags) -> Option<RenameFlags> {
    let known = fuser::RenameFlags::RENAME_NOREPLACE | fuser::RenameFlags::RENAME_EXCHANGE | fuser::RenameFlags::RENAME_WHITEOUT;
    (flags.bits() & !known.bits() == 0).then(|| RenameFlags {
        no_replace: flags.contains(fuser::RenameFlags::RENAME_NOREPLACE),
        exchange: flags.contains(fuser::RenameFlags::RENAME_EXCHANGE),
        whiteout: flags.contains(fuser::RenameFlags::RENAME_WHITEOUT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18.0 makes of a pair from the kernel (`system_time_from_time` in its sources).
    fn as_fuser_decodes(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 { UNIX_EPOCH + Duration::new(sec as u64, nsec) } else { UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec) }
    }

    #[test]
    fn times_before_1970_survive_the_library() {
        for (sec, nsec) in
            [(0, 0), (1, 5), (-1, 0), (-1, 500_000_000), (-2, 999_999_999), (-2_000_000_000, 1), (i64::MAX, 999_999_999), (i64::MIN, 0)]
        {
            assert_eq!(from_system_time(as_fuser_decodes(sec, nsec)), Timestamp { sec, nsec });
        }
    }

    #[test]
    fn times_go_out_as_distance_from_1970() {
        assert_eq!(to_system_time(Timestamp { sec: -1, nsec: 500_000_000 }), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(to_system_time(Timestamp { sec: 3, nsec: 7 }), UNIX_EPOCH + Duration::new(3, 7));
        let _extremes_do_not_panic =
            (to_system_time(Timestamp { sec: i64::MIN, nsec: 0 }), to_system_time(Timestamp { sec: i64::MAX, nsec: 999_999_999 }));
    }

    #[test]
    fn file_types_of_modes_and_entries_agree() {
        for (mode, kind) in [
            (libc::S_IFREG, FileType::RegularFile),
            (libc::S_IFDIR, FileType::Directory),
            (libc::S_IFLNK, FileType::Symlink),
            (libc::S_IFIFO, FileType::NamedPipe),
            (libc::S_IFSOCK, FileType::Socket),
            (libc::S_IFCHR, FileType::CharDevice),
            (libc::S_IFBLK, FileType::BlockDevice),
        ] {
            assert_eq!(file_type(mode | 0o4755), Some(kind));
            assert_eq!(entry_type((mode >> 12) as u8), Some(kind));
        }
        assert_eq!(file_type(0o644), None);
        assert_eq!(entry_type(0), None);
    }

    #[test]
    fn unknown_rename_flags_are_refused() {
        assert_eq!(rename_flags(fuser::RenameFlags::from_bits_retain(0)), Some(RenameFlags::default()));
        assert_eq!(rename_flags(fuser::RenameFlags::RENAME_EXCHANGE), Some(RenameFlags { exchange: true, ..Default::default() }));
        assert_eq!(rename_flags(fuser::RenameFlags::from_bits_retain(1 << 7)), None);
    }
}
