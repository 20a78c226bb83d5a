//! The mount table of this process: what is mounted where, and a wait for it to change.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

/// Every mount that this process sees, oldest first.
pub fn all() -> Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo").context("reading the mount table")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The mount at exactly `point`, the topmost if there are several.
pub fn at(point: &Path) -> Option<Mount> {
    let point = std::path::absolute(point).ok()?;
    all().ok()?.into_iter().rfind(|m| m.point == point)
}

/// Detaches every mount at or below `directory`, newest first; what is still in use there keeps working until it is closed.
pub fn detach_below(directory: &Path) {
    for mount in all().unwrap_or_default().into_iter().rev() {
        if mount.point.starts_with(directory) {
            let _ = rustix::mount::unmount(&mount.point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Tells when the mount table changes, so that nobody has to sleep.
#[derive(Debug)]
pub struct Watch(File);

impl Watch {
    /// Starts watching.
    pub fn new() -> Result<Watch> {
        Ok(Watch(File::open("/proc/self/mounts")?))
    }

    /// Waits for a change, at most so long.
    pub fn wait(&self, limit: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.0, PollFlags::PRI | PollFlags::ERR)];
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let _ = poll(&mut fds, Some(&limit));
    }
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = String::from_utf8_lossy(after.next()?).into_owned();
    let source = unescape(after.next()?).to_string_lossy().into_owned();
    Some(Mount { point: point.into(), kind, source })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table_are_read() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.ferryfs /a\\134b rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!(mount.kind, "fuse.ferryfs");
        assert_eq!(mount.source, "/a\\b");
        assert!(parse(b"").is_none());
        // Not `/`, which is no mount point in a chroot.
        assert!(at(Path::new("/proc")).is_some());
    }
}
