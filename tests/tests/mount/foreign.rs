//! Suites that others wrote, at work in the mount: what they find is wrong in FerryFS, not in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::skip::{has_program, quick, skip};
use tests::{Builder, Mounted};

const LIMIT: Duration = Duration::from_secs(600);

/// What a program said, which must end well.
fn run(command: &mut Command) -> String {
    match harness::run(command.env("LC_ALL", "C"), LIMIT).and_then(harness::Outcome::ok) {
        Ok(outcome) => outcome.stdout + &outcome.stderr,
        Err(error) => panic!("{error:#}"),
    }
}

/// A directory for everybody, on a path that everybody may walk.
fn common(mounted: &Mounted) -> std::path::PathBuf {
    let (root, directory) = (mounted.root(), mounted.path("common"));
    for path in [root.parent().expect("the volume's own directory"), root] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// pjdfstest: errors and side effects of every call, by root and by others. Those that want a filesystem that can only be read come last, by themselves:
/// another test leaves a file open, with which nothing can be remounted.
#[test]
fn pjdfstest_finds_nothing() {
    if !has_program("pjdfstest") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip("pjdfstest needs root, for it takes the place of other users");
    }
    let Some(mounted) = Builder::default().option("allow_other").mount() else {
        return;
    };
    let directory = common(&mounted);
    let settings = mounted.root().parent().expect("the volume's own directory").join("pjdfstest.toml");
    let suite = |remount: bool, of: &[&str]| {
        // All that is a matter of choice and Linux has.
        let text = format!(
            "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutimensat = {{}}\nutime_now = {{}}\nstat_st_birthtime = {{}}\n\
             [settings]\nnaptime = 0.01\nallow_remount = {remount}\n[dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
        );
        fs::write(&settings, text).unwrap();
        let other = settings.parent().expect("a directory");
        // By a short name: the address of a socket has no room for the path of a mount that tests make. (Who mounts needs the other one.)
        let place = if remount { &directory } else { Path::new("/proc/self/cwd") };
        let mut command = Command::new("pjdfstest");
        command.arg("-c").arg(&settings).arg("-p").arg(place).arg("-s").arg(other).args(of);
        run(command.current_dir(if remount { other } else { &directory }))
    };
    let said = suite(false, &[]);
    let mut skipped: Vec<&str> =
        said.lines().filter(|line| line.ends_with("skipped")).filter_map(|line| line.split_whitespace().next()).collect();
    skipped.retain(|name| !name.contains("erofs"));
    // The C library knows limits by the type of a filesystem, and none of FUSE: `semantics` has the test of ours.
    assert_eq!(skipped, ["link::link_count_max"], "{said}");
    let passed = said.lines().filter(|line| line.ends_with(" ok")).count();
    assert!(passed > 350, "{passed} tests: {said}");
    let said = suite(true, &["erofs"]);
    assert!(said.contains(" 0 failed, 0 skipped, 13 passed"), "{said}");
    mounted.finish();
}

/// fsx: writes, mappings, truncations, holes, copies and syncs of one file by chance, each read compared. Not more at a time: what it maps it never gives back.
fn exercise(volume: Builder, seeds: std::ops::Range<u32>) {
    if !has_program("fsx") {
        return;
    }
    let Some(mut mounted) = volume.mount() else {
        return;
    };
    let own = mounted.root().parent().expect("the volume's own directory").to_path_buf();
    let settings = own.join("fsx.toml");
    let weights = [
        ("close_open", 1),
        ("invalidate", 1),
        ("mapread", 10),
        ("mapwrite", 10),
        ("read", 10),
        ("write", 10),
        ("truncate", 3),
        ("fsync", 1),
        ("fdatasync", 1),
        ("punch_hole", 5),
        ("posix_fallocate", 2),
        ("posix_fadvise", 1),
        ("sendfile", 3),
        ("copy_file_range", 10),
    ];
    let weights: String = weights.iter().map(|(name, weight)| format!("{name} = {weight}\n")).collect();
    fs::write(&settings, format!("flen = 262144\n[opsize]\nmax = 65536\nmin = 0\nalign = 1\n[weights]\n{weights}")).unwrap();
    let operations = if quick() { "1000" } else { "10000" };
    for seed in seeds {
        let mut command = Command::new("fsx");
        command.arg("-f").arg(&settings).args(["-qq", "-N", operations, "-S", &seed.to_string(), "-P"]).arg(&own);
        run(command.arg(mounted.path("file")));
        mounted.remount();
    }
    mounted.finish();
}

#[test]
fn fsx_finds_nothing_on_zones() {
    exercise(Builder::default(), 1..3);
}

#[test]
fn fsx_finds_nothing_where_the_host_copies_and_little_is_cached() {
    exercise(Builder::default().format("--size 64M --zone-size 1M").option("copy_route=host,verify_copies=full,cache_size=8M"), 3..5);
}

#[test]
fn fsx_finds_nothing_on_a_conventional_image() {
    exercise(Builder::default().format("--size 256M --profile conventional").option("commit=1,policy=greedy,placement=separate"), 5..7);
}

#[test]
fn fsx_finds_nothing_where_copies_are_sampled() {
    exercise(Builder::default().option("verify_copies=sampled,policy=cost-benefit,placement=none"), 7..9);
}

/// dbench: the load of a file server.
#[test]
fn dbench_comes_to_its_end() {
    if !has_program("dbench") {
        return;
    }
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let loads = ["/usr/share/dbench/client.txt", "/usr/share/dbench/loadfiles/client.txt"];
    let Some(load) = loads.iter().find(|path| Path::new(path).exists()) else {
        return skip("the load that comes with dbench is not where Debian has it");
    };
    let seconds = if quick() { "3" } else { "10" };
    let said = run(Command::new("dbench").args(["-c", load, "-t", seconds, "-D"]).arg(mounted.root()).arg("4"));
    assert!(said.contains("Throughput"), "{said}");
    mounted.finish();
}

/// stress-ng: what changes files, directories and names in all ways that its authors thought of, and looks at what came of it.
#[test]
fn stressors_of_filesystems_find_nothing() {
    if !has_program("stress-ng") {
        return;
    }
    let Some(mounted) = Builder::default().format("--size 2G --zone-size 4M").mount() else {
        return;
    };
    let stressors = [
        "access",
        "chattr",
        "chdir",
        "chmod",
        "chown",
        "copy-file",
        "dentry",
        "dir",
        "dirdeep",
        "dirmany",
        "dup",
        "fallocate",
        "fcntl",
        "file-ioctl",
        "filename",
        "flock",
        "fpunch",
        "fsize",
        "fstat",
        "getdent",
        "hdd",
        "inode-flags",
        "lease",
        "link",
        "locka",
        "lockf",
        "lockofd",
        "mknod",
        "open",
        "readahead",
        "rename",
        "revio",
        "seek",
        "symlink",
        "sync-file",
        "touch",
        "utime",
        "xattr",
    ];
    let mut command = Command::new("stress-ng");
    for stressor in stressors {
        command.arg(format!("--{stressor}")).arg("1");
    }
    for of in ["fallocate", "hdd", "readahead", "revio", "seek", "sync-file"] {
        command.arg(format!("--{of}-{}", if of == "seek" { "size" } else { "bytes" })).arg("16M");
    }
    // All at once, but for those that look for other mounts, which are not theirs (io).
    command
        .args(["--timeout", if quick() { "5" } else { "20" }, "--verify", "--temp-path"])
        .arg(mounted.root())
        .current_dir(mounted.root());
    let said = run(&mut command);
    assert!(!said.contains("fail:"), "{said}");
    mounted.finish();
}
