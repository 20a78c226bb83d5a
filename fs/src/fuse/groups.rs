//! Is whoever asks in a group? A request carries one group of its thread. The others are in /proc, where they stay as they are while the thread waits for
//! our answer; asked only where it matters, which is a file with set-group-id that its group cannot execute.

use crate::volume::{Attr, Caller};

/// Does the file have set-group-id without execution by the group, which those outside of the group take away by changing it, as Linux has it since 6.2?
pub(super) fn is_marked(attr: &Attr) -> bool {
    !attr.is_dir() && attr.mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID
}

/// Is the caller outside of this group? Whoever cannot be looked at is.
pub(super) fn is_outside(who: &Caller, gid: u32) -> bool {
    if who.gid == gid {
        return false;
    }
    // Zero: of a namespace whose processes we do not see.
    let status = (who.pid != 0).then(|| std::fs::read(format!("/proc/{}/status", who.pid)));
    !status.is_some_and(|status| status.is_ok_and(|status| is_of(&status, who) && has_group(&status, gid)))
}

/// The numbers of a line of /proc/PID/status. The line of the name may hold any bytes.
fn numbers<'a>(status: &'a [u8], name: &str) -> impl Iterator<Item = u32> + 'a {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()));
    let words = std::str::from_utf8(line.unwrap_or_default()).unwrap_or_default().split_ascii_whitespace();
    words.filter_map(|word| word.parse().ok())
}

/// Does the text tell of whoever asks? Where /proc is another namespace's the number is another process's. The fourth number is the one that counts
/// for files (proc(5)).
fn is_of(status: &[u8], who: &Caller) -> bool {
    numbers(status, "Uid:").nth(3) == Some(who.uid) && numbers(status, "Gid:").nth(3) == Some(who.gid)
}

/// Is the group among those that the text of /proc/PID/status has?
fn has_group(status: &[u8], gid: u32) -> bool {
    numbers(status, "Groups:").any(|group| group == gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_whole() {
        let status = b"Name:\ta Groups: 7 \xc3\nGid:\t1\t1\t1\t1\nGroups:\t0 27 1000 \nNStgid:\t5\n";
        for (gid, is_in) in [(0, true), (27, true), (1000, true), (7, false), (2, false), (100, false), (1, false)] {
            assert_eq!(has_group(status, gid), is_in, "{gid}");
        }
        assert!(!has_group(b"Groups:\t\n", 0) && !has_group(b"", 0));
    }

    #[test]
    fn another_process_of_the_same_number_is_not_asked() {
        let status = b"Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9\n";
        let who = |uid, gid| Caller { uid, gid, pid: 1, umask: 0 };
        assert!(is_of(status, &who(4, 8)));
        assert!(!is_of(status, &who(1, 8)) && !is_of(status, &who(4, 5)) && !is_of(b"", &who(0, 0)));
    }

    #[test]
    fn who_cannot_be_looked_at_is_outside() {
        let gid = rustix::process::getegid().as_raw();
        let who = |pid| Caller { uid: rustix::process::geteuid().as_raw(), gid, pid, umask: 0 };
        let other = gid.wrapping_add(1);
        assert!(!is_outside(&who(0), gid), "its own group comes with the request");
        assert!(is_outside(&who(0), other) && is_outside(&who(u32::MAX), other));
        let mine = rustix::process::getgroups().expect("groups");
        assert!(mine.iter().all(|gid| !is_outside(&who(std::process::id()), gid.as_raw())));
        assert!(is_outside(&who(std::process::id()), 4_000_000_000));
    }
}
