//! Access control lists: enforced by the kernel, kept in step with modes, inherited. And what else goes with rights: set-id bits and capabilities.

use ::fs::format::acl::{Acl, Entry, MAX_ENTRIES, Tag};
use rustix::fs::XattrFlags;
use rustix::process::{Gid, Uid};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tests::{Builder, Mounted, errno};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NOBODY: u32 = 65534;

/// A list written as `u=6 u7=4 g=4 m=4 o=0`: owner, users, group, groups, mask, others.
fn acl(text: &str) -> Acl {
    let entry = |word: &str| {
        let (who, perm) = word.split_once('=').unwrap();
        let perm = perm.parse().unwrap();
        let named = |tag, id: &str| Entry { tag, perm, id: id.parse().unwrap() };
        let plain = |tag| Entry { tag, perm, id: u32::MAX };
        match who.split_at(1) {
            ("u", "") => plain(Tag::UserObj),
            ("g", "") => plain(Tag::GroupObj),
            ("m", "") => plain(Tag::Mask),
            ("o", "") => plain(Tag::Other),
            ("u", id) => named(Tag::User, id),
            ("g", id) => named(Tag::Group, id),
            _ => panic!("{word}"),
        }
    };
    Acl::new(text.split(' ').map(entry).collect()).unwrap()
}

fn set(path: &Path, name: &str, text: &str) {
    xattr::set(path, name, &acl(text).encode()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Acl> {
    xattr::get(path, name).unwrap().map(|value| Acl::decode(&value).unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A volume that others may enter.
fn open_to_all() -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        tests::skip::skip("only root can act as other users");
        return None;
    }
    let mounted = Builder::default().option("allow_other").mount()?;
    chmod(mounted.root(), 0o777);
    Some(mounted)
}

/// Does the script succeed in the volume, run as this user and group?
fn run_as(mounted: &Mounted, uid: u32, gid: u32, script: &str) -> bool {
    let mut command = Command::new("sh");
    // From inside: the directories above may be closed to others.
    command.args(["-c", script]).current_dir(mounted.root()).uid(uid).gid(gid);
    harness::run(&mut command, std::time::Duration::from_secs(30)).unwrap().success()
}

#[test]
fn lists_are_enforced_and_follow_the_mode() {
    let Some(mut mounted) = open_to_all() else {
        return;
    };
    let path = mounted.path("f");
    fs::write(&path, b"x").unwrap();
    chmod(&path, 0o600);
    assert!(!run_as(&mounted, NOBODY, NOBODY, "cat f"));
    set(&path, ACCESS, "u=6 u65534=6 g=0 g77=4 m=6 o=0");
    assert_eq!(mode(&path), 0o660, "the mode shows the mask");
    for _ in 0..2 {
        assert!(run_as(&mounted, NOBODY, NOBODY, "cat f && echo y >> f"));
        assert!(run_as(&mounted, 5000, 77, "cat f") && !run_as(&mounted, 5000, 77, "echo y >> f"));
        assert!(!run_as(&mounted, 5000, 5000, "cat f"));
        mounted.remount();
    }
    chmod(&path, 0o640);
    assert_eq!(get(&path, ACCESS), Some(acl("u=6 u65534=6 g=0 g77=4 m=4 o=0")), "chmod changes the mask");
    assert!(run_as(&mounted, NOBODY, NOBODY, "cat f") && !run_as(&mounted, NOBODY, NOBODY, "echo y >> f"));
    chmod(&path, 0o600);
    assert!(!run_as(&mounted, NOBODY, NOBODY, "cat f"));
    set(&path, ACCESS, "u=6 g=4 o=4");
    assert_eq!((mode(&path), get(&path, ACCESS)), (0o644, None), "a list that a mode can say is a mode");
    assert!(run_as(&mounted, 5000, 5000, "cat f"));
    set(&path, ACCESS, "u=6 u65534=0 g=4 m=4 o=4");
    assert!(!run_as(&mounted, NOBODY, NOBODY, "cat f"), "a named user can have less than others");
    xattr::remove(&path, ACCESS).unwrap();
    assert_eq!((mode(&path), get(&path, ACCESS)), (0o644, None));
    assert!(run_as(&mounted, NOBODY, NOBODY, "cat f"));
    assert!(!run_as(&mounted, NOBODY, NOBODY, "chmod 777 f"));
    mounted.finish();
}

#[test]
fn defaults_are_inherited_and_stand_in_for_the_umask() {
    let Some(mut mounted) = open_to_all() else {
        return;
    };
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    let default = "u=7 u7=7 g=5 m=7 o=1";
    set(&dir, DEFAULT, default);
    assert_eq!(mode(&dir), 0o755, "a default says nothing about the directory itself");
    mounted.remount();
    let script = "umask 077; echo x > d/f; mkdir d/sub; mkfifo d/p; ln -s f d/l; mkdir -m 700 d/closed; echo x > d/sub/g; umask 027; echo x > plain; mkdir plains; mkfifo pipe";
    assert!(run_as(&mounted, 0, 0, script));
    for _ in 0..2 {
        let of = |path: &str| (mode(&mounted.path(path)), get(&mounted.path(path), ACCESS), get(&mounted.path(path), DEFAULT));
        let file = Some(acl("u=6 u7=7 g=5 m=6 o=0"));
        assert_eq!(of("d/f"), (0o660, file.clone(), None));
        assert_eq!(of("d/p"), (0o660, file.clone(), None));
        assert_eq!(of("d/sub"), (0o771, Some(acl(default)), Some(acl(default))));
        assert_eq!(of("d/sub/g"), (0o660, file, None));
        assert_eq!(of("d/closed").2, Some(acl(default)));
        assert_eq!(mode(&mounted.path("d/closed")), 0o700);
        assert_eq!(mode(&mounted.path("d/l")), 0o777);
        assert_eq!([of("plain"), of("plains"), of("pipe")].map(|(mode, ..)| mode), [0o640, 0o750, 0o640], "elsewhere the umask counts");
        mounted.remount();
    }
    xattr::remove(&dir, DEFAULT).unwrap();
    assert!(run_as(&mounted, 0, 0, "umask 077; echo x > d/g"));
    assert_eq!(mode(&mounted.path("d/g")), 0o600);
    assert_eq!(get(&mounted.path("d/g"), ACCESS), None);
    mounted.finish();
}

#[test]
fn default_without_a_mask_and_wrong_places() {
    let Some(mounted) = open_to_all() else {
        return;
    };
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    set(&dir, DEFAULT, "u=7 g=5 o=0");
    assert!(run_as(&mounted, 0, 0, "umask 0; echo x > d/f; mkdir d/sub"));
    assert_eq!((mode(&mounted.path("d/f")), get(&mounted.path("d/f"), ACCESS)), (0o640, None));
    assert_eq!((mode(&mounted.path("d/sub")), get(&mounted.path("d/sub"), ACCESS)), (0o750, None));
    assert_eq!(get(&mounted.path("d/sub"), DEFAULT), Some(acl("u=7 g=5 o=0")));
    let file = mounted.path("d/f");
    assert_eq!(errno(xattr::set(&file, DEFAULT, &acl("u=7 g=5 o=0").encode())), libc::EACCES);
    assert_eq!(errno(xattr::set(&file, ACCESS, b"\x02\0\0")), libc::EINVAL);
    symlink("f", mounted.path("l")).unwrap();
    assert_eq!(errno(xattr::set(mounted.path("l"), ACCESS, &acl("u=7 g=5 o=0").encode())), libc::EOPNOTSUPP);
    mounted.finish();
}

#[test]
fn a_list_has_at_most_511_entries() {
    let Some(mut mounted) = open_to_all() else {
        return;
    };
    if mounted.volume().is_none() {
        return;
    }
    let path = mounted.path("d");
    fs::create_dir(&path).unwrap();
    // By hand, since an `Acl` is never that long.
    let list = |users: u32| {
        let named = (0..users).map(|id| (2u16, 5u16, 1000 + id));
        let entries = [(1, 7, u32::MAX)].into_iter().chain(named).chain([(4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]);
        let bytes = entries.flat_map(|(tag, perm, id)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat());
        [2, 0, 0, 0].into_iter().chain(bytes).collect::<Vec<u8>>()
    };
    let most = MAX_ENTRIES as u32 - 4;
    xattr::set(&path, DEFAULT, &list(most)).unwrap();
    assert_eq!(errno(xattr::set(&path, DEFAULT, &list(most + 1))), libc::E2BIG, "more than a page, so the kernel refuses");
    fs::create_dir(path.join("sub")).unwrap();
    mounted.remount();
    assert_eq!(xattr::get(path.join("sub"), DEFAULT).unwrap(), Some(list(most)));
    assert_eq!(get(&path.join("sub"), ACCESS).map(|acl| acl.encode().len()), Some(list(most).len()));
    mounted.finish();
}

#[test]
fn a_list_set_from_outside_the_group_takes_setgid_away() {
    let Some(mounted) = open_to_all() else {
        return;
    };
    let path = mounted.path("f");
    let list = acl("u=7 g=5 o=5").encode();
    let with_groups = |groups: &[u32]| {
        fs::write(&path, b"x").unwrap();
        chown(&path, Some(NOBODY), Some(77)).unwrap();
        chmod(&path, 0o2755);
        // Opened before: the way to the mount point is not open to all. Rights belong to a thread, and this one has none left in the end.
        let file = fs::File::open(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::set_thread_groups(&groups.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>()).unwrap();
                let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                rustix::thread::set_thread_res_gid(group, group, group).unwrap();
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
                rustix::fs::fsetxattr(&file, ACCESS, &list, XattrFlags::empty()).unwrap();
            });
        });
        mode(&path)
    };
    assert_eq!(with_groups(&[5, 77]), 0o2755, "a member keeps it");
    assert_eq!(with_groups(&[5]), 0o755);
    chmod(&path, 0o2755);
    set(&path, ACCESS, "u=7 g=5 o=5");
    assert_eq!(mode(&path), 0o2755, "so does root");
    mounted.finish();
}

#[test]
fn capabilities_go_with_every_change() {
    let Some(mounted) = open_to_all() else {
        return;
    };
    let path = mounted.path("program");
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let changes: [(&str, &dyn Fn()); 4] = [
        ("write", &|| {
            fs::OpenOptions::new().write(true).open(&path).map(|mut file| std::io::Write::write_all(&mut file, b"y")).unwrap().unwrap()
        }),
        ("truncate", &|| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1).unwrap()),
        ("truncating open", &|| drop(fs::File::create(&path).unwrap())),
        ("chown", &|| chown(&path, Some(3), None).unwrap()),
    ];
    for (what, change) in changes {
        fs::write(&path, b"xxxx").unwrap();
        xattr::set(&path, "security.capability", &capability).unwrap();
        assert!(xattr::get(&path, "security.capability").unwrap().is_some());
        chmod(&path, 0o755);
        assert!(xattr::get(&path, "security.capability").unwrap().is_some(), "chmod keeps them");
        change();
        assert_eq!(xattr::get(&path, "security.capability").unwrap(), None, "{what}");
    }
    mounted.finish();
}
