//! Is a process in a group? Requests carry one group of their caller only, so the others are read from /proc.
//!
//! Asked where a kernel without SETXATTR_EXT (which fuser 0.18.0 cannot take) leaves it to us: whoever sets an access control list on a setgid file and
//! neither is in its group nor may keep such bits (CAP_FSETID), takes the bit away.

use std::fs::read_to_string;

/// Bit of the capability to keep set-id bits.
const CAP_FSETID: u32 = 4;

/// May the process keep the setgid bit of a file of group `gid`? A process that cannot be read may not.
pub fn may_keep_setgid(pid: u32, fsgid: u32, gid: u32) -> bool {
    fsgid == gid || read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| says_so(&status, gid))
}

fn says_so(status: &str, gid: u32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let capable = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).is_some_and(|bits| bits >> CAP_FSETID & 1 == 1);
    capable || field("Groups:").is_some_and(|groups| groups.split_whitespace().any(|group| group.parse() == Ok(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read() {
        let of_user = "Name:\tcat\nGid:\t5\t5\t5\t5\nGroups:\t4 24 100 \nCapEff:\t0000000000000000\n";
        assert!(says_so(of_user, 24) && says_so(of_user, 100));
        assert!(!says_so(of_user, 10) && !says_so(of_user, 2));
        let capable = "Groups:\t \nCapEff:\t0000000000000010\n";
        assert!(says_so(capable, 7));
        assert!(!says_so("", 0) && !says_so("Groups:\t\nCapEff:\t00000000ffffffef\n", 0));
        assert!(may_keep_setgid(u32::MAX, 3, 3), "its own group needs no look");
        assert!(!may_keep_setgid(u32::MAX, 3, 4), "nobody is in no group");
    }
}
