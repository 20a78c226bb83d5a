//! The ioctls behind lsattr(1), chattr(1) and xfs_io(8): FS_IOC_GETFLAGS, SETFLAGS, FSGETXATTR and FSSETXATTR.
//!
//! Linux decides who may set what (the owner; immutable and append-only need CAP_LINUX_IMMUTABLE) and passes 4 bytes of flags, whatever the
//! command's number says, or the 28 bytes of `struct fsxattr`, of which only the first word means anything here.

use super::served::Served;
use crate::core::ops::flags::{APPEND, IMMUTABLE, NOATIME, NODUMP, SETTABLE};
use crate::error::{FsError, Result};
use crate::ids::Ino;

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`.
const FSXATTR: usize = 28;
/// Flags as chattr(1) and as `struct fsxattr` have them.
const PAIRS: [(u32, u32); 4] = [(IMMUTABLE, 0x08), (APPEND, 0x10), (NOATIME, 0x40), (NODUMP, 0x80)];

/// Version (Linux 5.13 and 5.14) from which the kernel checks who may set flags.
pub const CHECKED_SINCE: u32 = 34;

/// Does the command set flags?
pub fn is_change(command: u32) -> bool {
    matches!(command, SET_FLAGS | SET_XATTR)
}

/// Carries the command out; `None` if it is none of these.
pub fn ioctl<S: Served>(served: &S, ino: Ino, command: u32, data: &[u8]) -> Option<Result<Vec<u8>>> {
    let flags = || served.getattr(ino).map(|attr| attr.flags & SETTABLE);
    Some(match command {
        GET_FLAGS => flags().map(|flags| flags.to_le_bytes().to_vec()),
        GET_XATTR => flags().map(|flags| {
            let mut out = to_extended(flags).to_le_bytes().to_vec();
            out.resize(FSXATTR, 0);
            out
        }),
        SET_FLAGS => word(data).and_then(|flags| served.set_flags(ino, flags)).map(|()| Vec::new()),
        SET_XATTR => from_extended(data).and_then(|flags| served.set_flags(ino, flags)).map(|()| Vec::new()),
        _ => return None,
    })
}

fn word(data: &[u8]) -> Result<u32> {
    data.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)).ok_or(FsError::Invalid("flags of fewer than four bytes"))
}

fn to_extended(flags: u32) -> u32 {
    PAIRS.iter().filter(|(plain, _)| flags & plain != 0).fold(0, |sum, (_, extended)| sum | extended)
}

fn from_extended(data: &[u8]) -> Result<u32> {
    let extended = word(data)?;
    // Extent size hints and projects.
    if extended & !PAIRS.iter().fold(0, |sum, (_, extended)| sum | extended) != 0 || data[4..].iter().any(|&byte| byte != 0) {
        return Err(FsError::Unsupported("this attribute of struct fsxattr"));
    }
    Ok(PAIRS.iter().filter(|(_, bit)| extended & bit != 0).fold(0, |sum, (plain, _)| sum | plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_translate_both_ways_and_others_are_refused() {
        for flags in [0, IMMUTABLE, APPEND | NODUMP, SETTABLE] {
            let mut data = to_extended(flags).to_le_bytes().to_vec();
            data.resize(FSXATTR, 0);
            assert_eq!(from_extended(&data).ok(), Some(flags));
            data[12] = 1;
            assert!(matches!(from_extended(&data), Err(FsError::Unsupported(_))), "a project");
        }
        assert!(matches!(from_extended(&0x800u32.to_le_bytes()), Err(FsError::Unsupported(_))));
        assert!(matches!(from_extended(&[0; 3]), Err(FsError::Invalid(_))));
    }
}
