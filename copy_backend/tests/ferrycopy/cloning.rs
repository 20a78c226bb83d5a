//! Clones of whole devices: made, refused, killed half-way and gone on with.

use super::*;
use std::process::Stdio;

#[test]
fn a_file_is_cloned_to_one_that_is_made_for_it() {
    let bench = Bench::new();
    let bytes = bench.file("from", 1, 40 * MIB + 4096);
    let json = bench.run(&["clone", "--route", "host", "--verify", "full", "--json", "from", "to"]).expect(0).json();
    assert_eq!((json["bytes"].as_u64(), json["total"].as_u64()), (Some(40 * MIB + 4096), Some(40 * MIB + 4096)));
    assert_eq!((json["resumed_from"].as_u64(), json["status"].as_str(), json["route"].as_str()), (Some(0), Some("done"), Some("host")));
    assert!(std::fs::read(bench.path("to")).unwrap() == bytes);
    // What is longer keeps its tail.
    let longer = bench.file("longer", 2, 48 * MIB);
    bench.run(&["clone", "from", "longer"]).expect(0);
    let after = std::fs::read(bench.path("longer")).unwrap();
    assert!(after[..bytes.len()] == bytes && after[bytes.len()..] == longer[bytes.len()..]);
}

#[test]
fn what_does_not_fit_is_refused_and_left_alone() {
    let bench = Bench::new();
    bench.file("from", 1, 4 * MIB);
    let short = bench.file("short", 2, 2 * MIB);
    bench.run(&["clone", "from", "short"]).refused("the destination is too small: it has 2097152 bytes, and the source 4194304");
    bench.run(&["clone", "from", "from"]).refused("source and destination are the same device");
    bench.run(&["clone", "none", "made"]).refused("none: No such file or directory");
    bench.image("empty", 0, ImageOptions::default());
    bench.image("other", 0, ImageOptions { zone_capacity: Some(768 * KIB), ..ImageOptions::default() });
    bench.run(&["clone", "empty", "made"]).refused("no zone of the source is written");
    assert!(!exists(&bench.path("made")), "a refused clone left a file");
    bench.image("written", 3, ImageOptions::default());
    bench.run(&["clone", "written", "other"]).refused("the zones do not match");
    std::fs::write(bench.path("state"), "nonsense").unwrap();
    bench.run(&["clone", "--state", "state", "from", "made"]).refused("state is no state file of a clone");
    assert!(std::fs::read(bench.path("short")).unwrap() == short);
}

#[test]
fn a_drive_is_cloned_zone_by_zone_up_to_its_write_pointers() {
    let bench = Bench::new();
    let limits = ImageOptions { zone_capacity: Some(768 * KIB), ..ImageOptions::default() };
    bench.image("from", 5, limits.clone());
    bench.run(&["copy", "from:0:64K", "from:9M"]).expect(0);
    bench.image("to", 2, limits);
    bench.run(&["clone", "from", "to"]).refused("zone 0 is not empty: --force resets it");
    assert!(bench.written("to", 1) > Blocks(0));
    let json = bench.run(&["clone", "--force", "--json", "from", "to"]).expect(0).json();
    assert_eq!(json["bytes"].as_u64(), Some(5 * 768 * KIB + 64 * KIB));
    for zone in 0..5u64 {
        let at = zone * MIB;
        assert!(bench.read_image("to", at, 768 * KIB) == bench.read_image("from", at, 768 * KIB), "zone {zone}");
    }
    assert!(bench.read_image("to", 9 * MIB, 64 * KIB) == bench.read_image("from", 0, 64 * KIB));
    assert_eq!((bench.written("to", 9), bench.written("to", 5)), (bench.written("from", 9), Blocks(0)));
}

/// Starts a slow clone, kills it once the state file says that something is done, and gives the state.
fn killed_half_way(bench: &Bench, arguments: &[&str]) -> Value {
    let mut all = vec!["clone", "--rate", "8M", "--state", "state"];
    all.extend(arguments);
    let mut child = bench.command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let state = || serde_json::from_slice::<Value>(&std::fs::read(bench.path("state")).ok()?).ok();
    loop {
        if let Some(state) = state().filter(|state| state["done"].as_u64() > Some(0)) {
            child.kill().unwrap();
            child.wait().unwrap();
            return state;
        }
        assert_eq!(child.try_wait().unwrap(), None, "the clone ended before it was killed");
        std::thread::yield_now();
    }
}

#[test]
fn a_clone_that_was_killed_goes_on_where_it_was() {
    let bench = Bench::new();
    let bytes = bench.file("from", 1, 96 * MIB);
    bench.file("to", 2, 96 * MIB);
    let state = killed_half_way(&bench, &["--route", "host", "from", "to"]);
    let done = state["done"].as_u64().unwrap() * 16 * MIB;
    // What is done is not copied again: it may be spoilt here, and stays so.
    let mut spoilt = std::fs::read(bench.path("to")).unwrap();
    spoilt[..4096].fill(0xee);
    std::fs::write(bench.path("to"), &spoilt).unwrap();
    bench.file("other", 3, 96 * MIB);
    bench.run(&["clone", "--state", "state", "other", "to"]).refused("the state file belongs to another source");
    bench.run(&["clone", "--state", "state", "from", "other"]).refused("the state file belongs to another destination");
    let json = bench.run(&["clone", "--state", "state", "--json", "from", "to"]).expect(0).json();
    assert!(json["resumed_from"].as_u64() >= Some(done), "{json}");
    assert_eq!(json["bytes"].as_u64().unwrap() + json["resumed_from"].as_u64().unwrap(), 96 * MIB);
    let after = std::fs::read(bench.path("to")).unwrap();
    assert!(after[..4096] == spoilt[..4096] && after[4096..] == bytes[4096..]);
    assert!(!exists(&bench.path("state")), "the state file outlived the clone");
}

#[test]
fn a_clone_of_a_drive_that_was_killed_goes_on_where_it_was() {
    let bench = Bench::new();
    bench.image("from", 40, ImageOptions::default());
    bench.image("to", 0, ImageOptions::default());
    let state = killed_half_way(&bench, &["from", "to"]);
    assert!(state["done"].as_u64() < Some(40), "{state}");
    let json = bench.run(&["clone", "--state", "state", "--json", "from", "to"]).expect(0).json();
    assert!(json["resumed_from"].as_u64() >= state["done"].as_u64().map(|done| done * MIB), "{json}");
    assert!(bench.read_image("to", 0, 40 * MIB) == bench.read_image("from", 0, 40 * MIB));
    assert_eq!(bench.written("to", 40), Blocks(0));
}
