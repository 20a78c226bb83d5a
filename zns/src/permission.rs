//! Who may open a device, said to one who may not: which permission is missing, and on what.

use crate::error::DeviceError;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// An open that failed, as an error of this crate: for want of permission, with what is missing.
pub fn not_opened(path: &Path, write: bool, errno: Errno) -> DeviceError {
    match errno {
        Errno::ACCESS | Errno::PERM => DeviceError::Denied { path: path.to_owned(), write, why: missing(path, write) },
        errno => crate::file_lock::system("open", path, errno),
    }
}

/// The same for an open by the standard library.
pub fn not_opened_io(path: &Path, write: bool, error: &std::io::Error) -> DeviceError {
    not_opened(path, write, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// What is missing.
fn missing(path: &Path, write: bool) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return format!("a directory above it cannot be searched by user {uid} ({error})"),
    };
    let wanted = if write { Access::READ_OK | Access::WRITE_OK } else { Access::READ_OK };
    if write && access(path, wanted).is_ok() && found.file_type().is_block_device() && is_read_only(&found) {
        return "the kernel has it as read-only (blockdev --getro tells, blockdev --setrw may change it)".to_owned();
    }
    if uid == 0 || access(path, wanted).is_ok() {
        return "the kernel refuses it, though the mode of its node would allow it (a container, a security module?)".to_owned();
    }
    let mode = found.permissions().mode() & 0o7777;
    let as_member = if group_may(mode, write) { ", or as a member of that group" } else { "" };
    format!(
        "it belongs to user {} and group {} with mode {mode:04o}, and you are user {uid}: run as root{as_member}",
        found.uid(),
        found.gid()
    )
}

/// Does a mode let the group in?
fn group_may(mode: u32, write: bool) -> bool {
    let wanted = if write { 0o060 } else { 0o040 };
    mode & wanted == wanted
}

fn is_read_only(device: &Metadata) -> bool {
    let (major, minor) = (rustix::fs::major(device.rdev()), rustix::fs::minor(device.rdev()));
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_named_where_it_may_what_is_wanted() {
        assert!(group_may(0o660, true) && group_may(0o640, false));
        assert!(!group_may(0o640, true) && !group_may(0o600, false) && !group_may(0o606, true));
    }
}
