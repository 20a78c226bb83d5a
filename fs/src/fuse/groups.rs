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
    let status = (who.pid != 0).then(|| std::fs::read_to_string(format!("/proc/{}/status", who.pid)));
    !status.is_some_and(|status| status.is_ok_and(|status| has_group(&status, gid)))
}

/// Is the group among those that the text of /proc/PID/status has?
fn has_group(status: &str, gid: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_whole() {
        let status = "Name:\ta Groups: 7\nGid:\t1\t1\t1\t1\nGroups:\t0 27 1000 \nNStgid:\t5\n";
        for (gid, is_in) in [(0, true), (27, true), (1000, true), (7, false), (2, false), (100, false), (1, false)] {
            assert_eq!(has_group(status, gid), is_in, "{gid}");
        }
        assert!(!has_group("Groups:\t\n", 0) && !has_group("", 0));
    }

    #[test]
    fn who_cannot_be_looked_at_is_outside() {
        let who = |pid| Caller { uid: 1, gid: 77, pid, umask: 0 };
        assert!(!is_outside(&who(0), 77), "its own group comes with the request");
        assert!(is_outside(&who(0), 78) && is_outside(&who(u32::MAX), 78));
        let mine = rustix::process::getgroups().expect("groups");
        assert!(mine.iter().all(|gid| !is_outside(&who(std::process::id()), gid.as_raw())));
        assert!(is_outside(&who(std::process::id()), 4_000_000_000));
    }
}
