//! Access control lists: what is stored, what the mode says, what is inherited, what it costs.

use super::memory::Shell;
use super::name_of;
use crate::core::key::Class;
use crate::core::ops::*;
use crate::format::acl::{ACCESS, Acl, DEFAULT, Entry, MAX_ENTRIES, Tag};
use crate::ids::Ino;
use crate::volume::{Caller, SetAttr};

fn list(user: u16, named: u32, group: u16, mask: u16, other: u16) -> Acl {
    let entry = |tag, perm, id| Entry { tag, perm, id };
    let mut entries = vec![entry(Tag::UserObj, user, u32::MAX)];
    entries.extend((0..named).map(|id| entry(Tag::User, 4, id)));
    entries.extend([(Tag::GroupObj, group), (Tag::Mask, mask), (Tag::Other, other)].map(|(tag, perm)| entry(tag, perm, u32::MAX)));
    Acl::new(entries).expect("valid")
}

fn attributes(shell: &Shell) -> usize {
    shell.memory.keys(Class::Xattr).len()
}

#[test]
fn a_list_and_the_mode_say_the_same_and_a_plain_list_is_not_stored() {
    let mut shell = Shell::default();
    let ino = shell.run(|txn| mknod(txn, Ino::ROOT, b"f", 0o2600, 0, &Caller::default())).expect("made").ino;
    shell.run(|txn| set_acl(txn, ino, ACCESS, &list(6, 1, 4, 2, 0).encode(), false)).expect("set");
    assert_eq!(shell.run(|txn| getattr(txn, ino)).expect("there").mode & 0o7777, 0o2620);
    let chmod = SetAttr { mode: Some(0o2751), ..SetAttr::default() };
    shell.run(|txn| setattr(txn, ino, &chmod)).expect("changed");
    let value = shell.run(|txn| getxattr(txn, ino, ACCESS)).expect("a list");
    assert_eq!(Acl::decode(&value), Some(list(7, 1, 4, 5, 1)));
    let plain = [Tag::UserObj, Tag::GroupObj, Tag::Other].map(|tag| Entry { tag, perm: 4, id: u32::MAX });
    let plain = Acl::new(plain.to_vec()).expect("valid");
    shell.run(|txn| set_acl(txn, ino, ACCESS, &plain.encode(), true)).expect("set");
    let inode = shell.run(|txn| getattr(txn, ino)).expect("there");
    assert_eq!((inode.mode & 0o7777, inode.flags, attributes(&shell)), (0o444, 0, 0));
    assert_eq!(shell.run(|txn| getxattr(txn, ino, ACCESS)).map_err(|e| name_of(&e)), Err("NoAttribute".to_owned()));
    assert!(shell.run(|txn| removexattr(txn, ino, ACCESS)).is_ok(), "nothing to remove is no error");
}

#[test]
fn the_longest_lists_are_inherited_within_the_cost_and_go_with_the_inode() {
    let mut shell = Shell::default();
    let longest = list(7, MAX_ENTRIES as u32 - 4, 5, 7, 0);
    let dir = shell.run(|txn| mkdir(txn, Ino::ROOT, b"d", 0o777, &Caller::default())).expect("made").ino;
    shell.run(|txn| setxattr(txn, dir, DEFAULT, &longest.encode(), 0)).expect("set");
    let sub = shell.run(|txn| mkdir(txn, dir, b"sub", 0o750, &Caller { umask: 0o777, ..Caller::default() })).expect("made");
    assert!(shell.spent.log_bytes <= Cost::CREATE.log_bytes && shell.spent.leaves <= Cost::CREATE.leaves * 8, "{:?}", shell.spent);
    assert_eq!(sub.mode & 0o7777, 0o750);
    let default = shell.run(|txn| getxattr(txn, sub.ino, DEFAULT)).expect("inherited");
    assert_eq!(Acl::decode(&default), Some(longest));
    let access = shell.run(|txn| getxattr(txn, sub.ino, ACCESS)).expect("inherited");
    assert_eq!(Acl::decode(&access), Some(list(7, MAX_ENTRIES as u32 - 4, 5, 5, 0)));
    let before = attributes(&shell);
    let gone = shell.run(|txn| rmdir(txn, dir, b"sub")).expect("removed").ino;
    while shell.run(|txn| free_step(txn, gone, 8)).expect("a step") == Step::More {}
    assert_eq!(attributes(&shell), before - 3, "two lists and the totals");
}

#[test]
fn without_a_default_the_umask_counts_and_links_have_neither() {
    let mut shell = Shell::default();
    let who = Caller { umask: 0o027, ..Caller::default() };
    let file = shell.run(|txn| mknod(txn, Ino::ROOT, b"f", 0o4666, 0, &who)).expect("made");
    let dir = shell.run(|txn| mkdir(txn, Ino::ROOT, b"d", 0o1777, &who)).expect("made");
    let link = shell.run(|txn| symlink(txn, Ino::ROOT, b"l", b"f", &who)).expect("made");
    assert_eq!([file.mode, dir.mode, link.mode].map(|mode| mode & 0o7777), [0o4640, 0o1750, 0o777]);
    let refused = [
        (link.ino, ACCESS, list(7, 0, 5, 5, 5).encode(), "Unsupported"),
        (file.ino, DEFAULT, list(7, 0, 5, 5, 5).encode(), "Access"),
        (file.ino, ACCESS, b"\x02\0\0\0".to_vec(), "Invalid"),
        (file.ino, ACCESS, vec![2; 4 + 8 * (MAX_ENTRIES + 1)], "NoSpace"),
        (Ino(999), ACCESS, Vec::new(), "NotFound"),
    ];
    for (ino, name, value, expected) in refused {
        assert_eq!(shell.run(|txn| set_acl(txn, ino, name, &value, false)).map_err(|e| name_of(&e)), Err(expected.to_owned()));
    }
    assert_eq!(attributes(&shell), 0);
}
