//! Rules that have names: renames, refused names, links, types.

use super::memory::Shell;
use super::name_of;
use crate::core::key::{Class, Key};
use crate::core::ops::*;
use crate::error::FsError;
use crate::format::item::{Inode, Timestamp};
use crate::ids::Ino;
use crate::volume::{AtimeMode, Caller, RenameFlags, SetAttr, SetTime};

const WHO: Caller = Caller { uid: 5, gid: 6, pid: 0, umask: 0 };
const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };
const NO_REPLACE: RenameFlags = RenameFlags { no_replace: true, ..PLAIN };
const EXCHANGE: RenameFlags = RenameFlags { exchange: true, ..PLAIN };
const WHITEOUT: RenameFlags = RenameFlags { whiteout: true, ..PLAIN };

fn find(shell: &mut Shell, path: &str) -> Result<Inode, FsError> {
    let mut here = shell.run(|txn| getattr(txn, Ino::ROOT))?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        here = shell.run(|txn| lookup(txn, here.ino, part.as_bytes()))?;
    }
    Ok(here)
}

/// `file`, `file2`, a second name `same` of `file`, `empty/`, `full/`, `full/deep/`, `full/in`.
fn tree() -> Shell {
    let mut shell = Shell::default();
    for file in ["file", "file2"] {
        shell.run(|txn| mknod(txn, Ino::ROOT, file.as_bytes(), 0o644, 0, &WHO)).expect("a file");
    }
    let file = find(&mut shell, "file").expect("there").ino;
    shell.run(|txn| link(txn, file, Ino::ROOT, b"same")).expect("a link");
    for dir in ["empty", "full"] {
        shell.run(|txn| mkdir(txn, Ino::ROOT, dir.as_bytes(), 0o755, &WHO)).expect("a directory");
    }
    let full = find(&mut shell, "full").expect("there").ino;
    shell.run(|txn| mkdir(txn, full, b"deep", 0o755, &WHO)).expect("a directory");
    shell.run(|txn| mknod(txn, full, b"in", 0o644, 0, &WHO)).expect("a file");
    shell
}

fn move_it(shell: &mut Shell, from: &str, to: &str, flags: RenameFlags) -> Result<Renamed, FsError> {
    let split =
        |path: &str| path.rsplit_once('/').map_or((String::new(), path.to_owned()), |(dir, name)| (dir.to_owned(), name.to_owned()));
    let ((dir, name), (newdir, newname)) = (split(from), split(to));
    let (dir, newdir) = (find(shell, &dir)?.ino, find(shell, &newdir)?.ino);
    shell.run(|txn| rename(txn, dir, name.as_bytes(), newdir, newname.as_bytes(), flags))
}

#[test]
fn renames() {
    let table = [
        ("file", "new", PLAIN, ""),
        ("file", "file2", PLAIN, ""),
        ("file", "file", PLAIN, ""),
        ("file", "same", PLAIN, ""),
        ("file", "same", NO_REPLACE, "Exists"),
        ("file", "file2", NO_REPLACE, "Exists"),
        ("file", "new", NO_REPLACE, ""),
        ("file", "empty", PLAIN, "IsADirectory"),
        ("file", "full", PLAIN, "IsADirectory"),
        ("empty", "file", PLAIN, "NotADirectory"),
        ("empty", "full", PLAIN, "NotEmpty"),
        ("full", "empty", PLAIN, ""),
        ("full", "full", PLAIN, ""),
        ("full", "full/new", PLAIN, "Invalid"),
        ("full", "full/deep/new", PLAIN, "Invalid"),
        ("full", "full/deep", EXCHANGE, "Invalid"),
        ("full/deep", "full", EXCHANGE, "Invalid"),
        ("full/deep", "full", PLAIN, "NotEmpty"),
        ("full/in", "full", PLAIN, "IsADirectory"),
        ("full/in", "in", PLAIN, ""),
        ("full/deep", "deep", PLAIN, ""),
        ("full/deep", "empty", PLAIN, ""),
        ("full/deep", "empty/deep", PLAIN, ""),
        ("file", "empty", EXCHANGE, ""),
        ("full/in", "empty", EXCHANGE, ""),
        ("file", "none", EXCHANGE, "NotFound"),
        ("none", "new", PLAIN, "NotFound"),
        ("none", "file", NO_REPLACE, "NotFound"),
        ("file", "new", WHITEOUT, ""),
        ("full/deep", "empty", WHITEOUT, ""),
        ("file", "new", RenameFlags { no_replace: true, ..EXCHANGE }, "Invalid"),
        ("file", "file2", RenameFlags { whiteout: true, ..EXCHANGE }, "Invalid"),
        (".", "new", PLAIN, "Invalid"),
        ("empty/..", "new", PLAIN, "Invalid"),
        ("file", "..", PLAIN, "Invalid"),
        ("file", ".", NO_REPLACE, "Exists"),
    ];
    for (from, to, flags, expected) in table {
        let mut shell = tree();
        let before = shell.memory.clone();
        let (source, target) = (find(&mut shell, from), find(&mut shell, to));
        let found = move_it(&mut shell, from, to, flags);
        let case = format!("{from} -> {to} {flags:?}");
        shell.self_check();
        let Ok(found) = found else {
            assert_eq!(name_of(&found.expect_err("refused")), expected, "{case}");
            assert_eq!(shell.memory, before, "{case}: nothing changes");
            continue;
        };
        assert_eq!(expected, "", "{case}");
        let source = source.expect("it was there").ino;
        assert_eq!((found.moved, find(&mut shell, to).expect("moved").ino), (source, source), "{case}");
        let target = target.ok().map(|inode| inode.ino).filter(|ino| *ino != source);
        let left = find(&mut shell, from);
        match target {
            Some(target) if flags.exchange => assert_eq!(left.expect("exchanged").ino, target),
            _ if flags.whiteout => {
                let left = left.expect("a whiteout");
                assert_eq!((left.mode, left.rdev, left.uid), (libc::S_IFCHR, 0, 0));
            }
            None if shell.memory == before => assert_eq!(left.expect("nothing happened").ino, source, "{case}"),
            _ => assert_eq!(name_of(&left.expect_err("gone")), "NotFound"),
        }
        let replaced = target.filter(|_| !flags.exchange).map(|ino| Unlinked { ino, orphaned: true });
        assert_eq!(found.replaced, replaced, "{case}");
    }
}

#[test]
fn refused_names() {
    let mut shell = tree();
    let long = vec![b'x'; 256];
    let table: [(&[u8], &str); 6] =
        [(b"", "NotFound"), (&long, "NameTooLong"), (b"a/b", "Invalid"), (b"a\0", "Invalid"), (b".", "Exists"), (b"..", "Exists")];
    let file = find(&mut shell, "file").expect("there").ino;
    for (name, expected) in table {
        let check = |found: Result<Inode, FsError>| assert_eq!(name_of(&found.expect_err("refused")), expected);
        check(shell.run(|txn| mknod(txn, Ino::ROOT, name, 0o644, 0, &WHO)));
        check(shell.run(|txn| mkdir(txn, Ino::ROOT, name, 0o755, &WHO)));
        check(shell.run(|txn| symlink(txn, Ino::ROOT, name, b"x", &WHO)));
        check(shell.run(|txn| link(txn, file, Ino::ROOT, name)));
    }
    shell.run(|txn| mknod(txn, Ino::ROOT, &long[..255], 0o644, 0, &WHO)).expect("255 bytes");
    let dots = [(&b"."[..], "Invalid"), (b"..", "NotEmpty")];
    for (name, expected) in dots {
        assert_eq!(name_of(&shell.run(|txn| rmdir(txn, Ino::ROOT, name)).expect_err("refused")), expected);
        assert_eq!(name_of(&shell.run(|txn| unlink(txn, Ino::ROOT, name)).expect_err("refused")), "IsADirectory");
    }
    let full = find(&mut shell, "full").expect("there");
    assert_eq!(shell.run(|txn| lookup(txn, full.ino, b"..")).expect("the parent").ino, Ino::ROOT);
    assert_eq!(shell.run(|txn| lookup(txn, full.ino, b".")).expect("itself").ino, full.ino);
}

#[test]
fn links_have_a_limit_and_a_file_without_names_gets_no_new_one() {
    let mut shell = tree();
    let mut file = find(&mut shell, "file").expect("there");
    file.nlink = MAX_LINKS;
    shell.memory.set(Key::inode(file.ino), file.encode());
    assert_eq!(name_of(&shell.run(|txn| link(txn, file.ino, Ino::ROOT, b"more")).expect_err("too many")), "TooManyLinks");
    let other = find(&mut shell, "file2").expect("there").ino;
    assert_eq!(shell.run(|txn| unlink(txn, Ino::ROOT, b"file2")).expect("there"), Unlinked { ino: other, orphaned: true });
    assert_eq!(shell.run(|txn| getattr(txn, other)).expect("not freed yet").nlink, 0);
    assert_eq!(name_of(&shell.run(|txn| link(txn, other, Ino::ROOT, b"again")).expect_err("no name left")), "NotFound");
}

#[test]
fn a_removed_directory_takes_no_entry() {
    let mut shell = tree();
    let empty = find(&mut shell, "empty").expect("there").ino;
    shell.run(|txn| rmdir(txn, Ino::ROOT, b"empty")).expect("empty");
    assert_eq!(name_of(&shell.run(|txn| mknod(txn, empty, b"x", 0o644, 0, &WHO)).expect_err("gone")), "NotFound");
    assert_eq!(name_of(&shell.run(|txn| rename(txn, Ino::ROOT, b"file", empty, b"x", PLAIN)).expect_err("gone")), "NotFound");
    assert_eq!(shell.run(|txn| readdir(txn, empty, 0, 10)).expect("still open").len(), 2);
}

#[test]
fn times_of_a_file_can_be_set_and_follow_relatime() {
    let mut shell = tree();
    let file = find(&mut shell, "file").expect("there").ino;
    let at = Timestamp { sec: -7, nsec: 999_999_999 };
    let set = SetAttr { atime: Some(SetTime::At(at)), mtime: Some(SetTime::Now), ..SetAttr::default() };
    let Setattr::Done { inode, .. } = shell.run(|txn| setattr(txn, file, &set)).expect("set") else { panic!("no cut here") };
    assert_eq!((inode.atime, inode.mtime, inode.ctime), (at, shell.now(), shell.now()));
    assert!(shell.run(|txn| touch_atime(txn, file, AtimeMode::Relatime)).expect("there"), "the access is older than the change");
    assert!(!shell.run(|txn| touch_atime(txn, file, AtimeMode::Relatime)).expect("there"), "counted a moment ago");
    shell.clock += 24 * 60 * 60;
    assert!(shell.run(|txn| touch_atime(txn, file, AtimeMode::Relatime)).expect("there"), "a day later");
    assert!(!shell.run(|txn| touch_atime(txn, file, AtimeMode::None)).expect("there"));
    // Each plan takes a second; this one is of the same moment as the last access.
    shell.clock -= 2;
    assert!(!shell.run(|txn| touch_atime(txn, file, AtimeMode::Strict)).expect("there"), "nothing is later than now");
    assert!(shell.run(|txn| touch_atime(txn, file, AtimeMode::Strict)).expect("there"), "a second later");
}

#[test]
fn damage_is_an_error() {
    let damage = |class: Class, change: &dyn Fn(&mut Shell, Key)| {
        let mut shell = tree();
        let full = find(&mut shell, "full").expect("there").ino;
        shell.run(|txn| symlink(txn, full, b"link", &[b'x'; 3000], &WHO)).expect("a link");
        for key in shell.memory.keys(class).into_iter().filter(|key| class != Class::Inode || key.a != 1) {
            change(&mut shell, key);
        }
        (shell, full)
    };
    let corrupt = |result: Result<(), FsError>| assert_eq!(result.map_err(|error| name_of(&error)), Err("Corrupt".to_owned()));
    let (mut shell, _) = damage(Class::Inode, &|shell, key| shell.memory.set(key, vec![1; 111]));
    corrupt(shell.run(|txn| lookup(txn, Ino::ROOT, b"file")).map(drop));
    let (mut shell, _) = damage(Class::Inode, &|shell, key| shell.memory.unset(&key));
    corrupt(shell.run(|txn| unlink(txn, Ino::ROOT, b"file")).map(drop));
    let (mut shell, full) = damage(Class::Dirent, &|shell, key| shell.memory.set(key, vec![1; 9]));
    corrupt(shell.run(|txn| readdir(txn, full, 0, 9)).map(drop));
    let (mut shell, full) = damage(Class::Symlink, &|shell, key| shell.memory.set(key, vec![]));
    let link = shell.run(|txn| lookup(txn, full, b"link")).expect("there").ino;
    corrupt(shell.run(|txn| readlink(txn, link)).map(drop));
    // Parents in a ring.
    let mut shell = tree();
    let (mut a, mut b) = (find(&mut shell, "full").expect("there"), find(&mut shell, "full/deep").expect("there"));
    (a.parent, b.parent) = (b.ino, a.ino);
    for inode in [&a, &b] {
        shell.memory.set(Key::inode(inode.ino), inode.encode());
    }
    corrupt(shell.run(|txn| rename(txn, Ino::ROOT, b"empty", b.ino, b"x", PLAIN)).map(drop));
}
