//! Bad input: a clear word, exit status 2, and nothing touched.

use super::*;

#[test]
fn bad_input_is_refused_in_words_and_touches_nothing() {
    let bench = Bench::new();
    let (from, to) = (bench.file("from", 1, 4 * MIB), bench.file("to", 2, 2 * MIB));
    std::fs::create_dir(bench.path("directory")).unwrap();
    std::fs::write(bench.path("empty"), []).unwrap();
    std::fs::write(bench.path("tiny"), b"hello").unwrap();
    let refused = |source: &str, destination: &str, words: &str| bench.run(&["copy", source, destination]).refused(words);
    refused("from:100:4K", "to:0", "from: the offset 100 is not a multiple of");
    refused("from:0:5000", "to:0", "from: the length 5000 is not a multiple of");
    refused("from:0:4K", "to:9", "to: the offset 9 is not a multiple of");
    refused("from:0:0", "to:0", "from: the range at 0 has a length of 0");
    refused("from:3M:2M", "to:0", "from: the range 3145728+2097152 reaches past the end of the device, which has 4194304 bytes");
    refused("from:0:3M", "to:0", "to: the range 0+3145728 reaches past the end of the device, which has 2097152 bytes");
    refused("from:0:64K,32K:64K", "to:0", "from: the source ranges 0+65536 and 32768+65536 overlap");
    refused("from:0:64K", "from:32K", "from: the source range 0+65536 overlaps the destination 32768+65536");
    refused("none:0:4K", "to:0", "none: No such file or directory");
    refused("from:0:4K", "none:0", "none: No such file or directory");
    refused("directory:0:4K", "to:0", "it is a directory: name a block device or a regular file");
    refused("from:0:4K", "/dev/null:0", "/dev/null: it is neither a block device nor a regular file");
    refused("empty:0:4K", "to:0", "empty: it is empty");
    refused("tiny:0:4K", "to:0", "tiny: its 5 bytes hold no block of 512 bytes");
    refused("from", "to:0", "is not SRC:OFFSET:LENGTH");
    refused("from:0:4K", "to", "is not DST:OFFSET");
    refused("from:0:4X", "to:0", "\"4X\" is not a size");
    bench.run(&["copy", "--rate", "0", "from:0:4K", "to:0"]).refused("a rate of 0 would never copy anything");
    bench.run(&["copy", "--route", "sideways", "from:0:4K", "to:0"]).refused("offload");
    bench.run(&[]).refused("Usage");
    bench.run(&["caps", "none"]).refused("none: No such file or directory");
    assert!(std::fs::read(bench.path("from")).unwrap() == from && std::fs::read(bench.path("to")).unwrap() == to);
    assert!(!exists(&bench.path("none")), "a refused copy made a file");
}

#[test]
fn the_exit_statuses_are_in_the_help() {
    let help = Bench::new().run(&["--help"]).expect(0).out();
    for words in ["0 everything was copied", "1 it failed on the way", "2 a request that makes no sense", "130 interrupted"] {
        assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{help}");
    }
}

#[test]
fn what_is_in_use_is_refused_unless_forced() {
    let bench = Bench::new();
    let from = bench.file("from", 1, MIB);
    bench.file("to", 2, MIB);
    bench.image("drive", 1, ImageOptions::default());
    let lock = std::fs::File::open(bench.path("to")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    bench.run(&["copy", "from:0:64K", "to:0"]).refused("to is in use");
    bench.run(&["copy", "--force", "from:0:64K", "to:0"]).expect(0);
    assert!(std::fs::read(bench.path("to")).unwrap()[..64 << 10] == from[..64 << 10]);
    // Two writers of one image would ruin it.
    let _image = ImageDevice::open(bench.path("drive"), false).unwrap();
    bench.run(&["copy", "--force", "from:0:64K", "drive:8M"]).refused("drive is in use");
}

#[test]
fn zones_refuse_what_does_not_fit_them() {
    let bench = Bench::new();
    bench.image("drive", 2, ImageOptions { zone_capacity: Some(768 * KIB), ..ImageOptions::default() });
    bench.file("file", 1, 4 * MIB);
    let refused = |source: &str, destination: &str, words: &str| bench.run(&["copy", source, destination]).refused(words);
    refused("drive:512K:512K", "file:0", "which lie behind its capacity and hold nothing");
    refused("file:0:1M", "drive:8M", "crosses bytes 9175040 to 9437184 of zone 8");
    refused("file:0:64K", "drive:8256K", "is written at its write pointer, which stands at byte 8388608, not at 8454144");
    assert_eq!(bench.written("drive", 8), Blocks(0));
}

/// Who may not open a device is told what is missing. Root may always: then the sentence is tested by a user of its own.
#[test]
fn without_permission_the_missing_one_is_named() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let bench = Bench::new();
    bench.file("from", 1, MIB);
    bench.file("to", 2, MIB);
    std::fs::set_permissions(bench.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(bench.path("to"), std::fs::Permissions::from_mode(0o400)).unwrap();
    let mut command = bench.command(&["copy", "from:0:64K", "to:0"]);
    if rustix::process::geteuid().is_root() {
        // The program itself must be reachable for that user. A process of its own copies it: a child that another test starts meanwhile
        // would hold the file open for writing, and it could not be run.
        let program = bench.path("ferrycopy");
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_ferrycopy")).arg(&program).status().unwrap().success());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(program);
        command.current_dir(bench.directory.path()).args(["copy", "from:0:64K", "to:0"]).uid(65534).gid(65534);
    }
    let said = Said(command.output().unwrap()).expect(2);
    assert!(said.err().contains("no permission to write to to: it belongs to user"), "{}", said.err());
    assert!(said.err().contains("with mode 0400") && said.err().contains(": run as root"), "{}", said.err());
}
