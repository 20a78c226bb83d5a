//! Copies that succeed, and those that end on the way.

use super::*;
use zns::CopyLimits;

#[test]
fn many_ranges_of_a_file_are_gathered_into_another() {
    let bench = Bench::new();
    let (from, to) = (bench.file("from", 1, 40 * MIB), bench.file("to", 2, 40 * MIB));
    let said = bench.run(&["copy", "--route", "host", "--verify", "full", "--json", "from:20M:3M,4K:12K,39M:1M", "to:15M"]).expect(0);
    let json = said.json();
    assert_eq!((json["bytes"].as_u64(), json["status"].as_str()), (Some(4 * MIB + 12 * KIB), Some("done")));
    assert_eq!((json["offloaded"].as_u64(), json["route"].as_str(), json["simulated"].as_bool()), (Some(0), Some("host"), Some(false)));
    assert_eq!((json["host_read"].as_u64(), json["host_written"].as_u64()), (Some(4 * MIB + 12 * KIB), Some(4 * MIB + 12 * KIB)));
    assert!(json["commands"].as_u64() > Some(0) && json["seconds"].as_f64() > Some(0.0) && json["fallbacks"].is_object());
    assert!(json["copies_verified"].as_u64() > Some(0) && json["copies_rejected"].as_u64() == Some(0));
    let mut expected = to;
    let mut at = 15 * MIB as usize;
    for (offset, length) in [(20 * MIB, 3 * MIB), (4 * KIB, 12 * KIB), (39 * MIB, MIB)] {
        expected[at..at + length as usize].copy_from_slice(&from[offset as usize..(offset + length) as usize]);
        at += length as usize;
    }
    assert!(std::fs::read(bench.path("to")).unwrap() == expected, "the destination is not what it should be");
    assert!(std::fs::read(bench.path("from")).unwrap() == from, "the source changed");
}

#[test]
fn within_one_file_text_is_said() {
    let bench = Bench::new();
    let bytes = bench.file("disk", 1, 2 * MIB);
    let said = bench.run(&["copy", "--route", "host", "disk:0:64K", "disk:1M"]).expect(0);
    assert!(said.out().starts_with("copied 65536 bytes (64 KiB) in ") && said.out().contains(" by host\n"), "{}", said.out());
    assert!(said.err().is_empty(), "{}", said.err());
    let after = std::fs::read(bench.path("disk")).unwrap();
    assert!(after[1 << 20..][..64 << 10] == bytes[..64 << 10] && after[..1 << 20] == bytes[..1 << 20]);
    assert!(after[(1 << 20) + (64 << 10)..] == bytes[(1 << 20) + (64 << 10)..]);
}

#[test]
fn an_image_copies_by_its_own_command_and_says_that_this_is_simulated() {
    let bench = Bench::new();
    let limits = Some(CopyLimits { mssrl: 64, mcl: 128, ranges: 3 });
    let bytes = bench.image("drive", 4, ImageOptions { copy: limits, ..ImageOptions::default() });
    let json = bench.run(&["copy", "--route", "offload", "--json", "drive:8K:1M,3M:600K", "drive:10M"]).expect(0).json();
    let total = MIB + 600 * KIB;
    assert_eq!((json["bytes"].as_u64(), json["offloaded"].as_u64()), (Some(total), Some(total)));
    assert_eq!((json["host_read"].as_u64(), json["route"].as_str(), json["simulated"].as_bool()), (Some(0), Some("image"), Some(true)));
    let expected = [&bytes[8 << 10..(8 << 10) + (1 << 20)], &bytes[3 << 20..(3 << 20) + (600 << 10)]].concat();
    assert!(bench.read_image("drive", 10 * MIB, total) == expected);
    assert!(bench.read_image("drive", 0, 4 * MIB) == bytes, "the source changed");
    // It goes on where it ended, and nowhere else.
    bench.run(&["copy", "drive:0:4K", "drive:11M"]).refused("zone 11 is written at its write pointer");
    bench.run(&["copy", "drive:0:4K", &format!("drive:{}", 10 * MIB + total)]).expect(0);
    bench.run(&["copy", "drive:0:4K", "drive:2M"]).refused("zone 2 takes no writes: it is full; reset it first");
}

#[test]
fn between_an_image_and_a_file_the_host_carries() {
    let bench = Bench::new();
    let bytes = bench.image("drive", 2, ImageOptions::default());
    let file = bench.file("file", 5, 3 * MIB);
    let json = bench.run(&["copy", "--json", "drive:4K:1M", "file:1M"]).expect(0).json();
    assert_eq!((json["route"].as_str(), json["simulated"].as_bool()), (Some("host"), Some(false)));
    let after = std::fs::read(bench.path("file")).unwrap();
    assert!(after[1 << 20..2 << 20] == bytes[4096..4096 + (1 << 20)] && after[..1 << 20] == file[..1 << 20]);
    bench.run(&["copy", "--json", "file:0:2M", "drive:5M"]).expect(0);
    assert!(bench.read_image("drive", 5 * MIB, 2 * MIB) == after[..2 << 20]);
}

#[test]
fn offload_that_is_demanded_and_impossible_fails_and_touches_nothing() {
    let bench = Bench::new();
    bench.image("drive", 2, ImageOptions::default());
    let file = bench.file("file", 5, 3 * MIB);
    let said = bench.run(&["copy", "--json", "--route", "offload", "drive:0:1M", "file:0"]).expect(1);
    let json = said.json();
    assert_eq!((json["bytes"].as_u64(), json["status"].as_str(), json["route"].as_str()), (Some(0), Some("failed"), Some("none")));
    assert!(json["error"].as_str().unwrap().contains("no device can carry this copy"), "{json}");
    assert!(said.err().contains("failed after 0 bytes"), "{}", said.err());
    assert!(std::fs::read(bench.path("file")).unwrap() == file);
    // The road of the host is named.
    let drive = bench.run(&["copy", "--json", "--route", "host", "drive:0:1M", "drive:8M"]).expect(0).json();
    assert_eq!((drive["route"].as_str(), drive["host_written"].as_u64()), (Some("host"), Some(MIB)));
}

/// Interrupted under a rate limit, it ends between two commands and says what it did, which is what lies there.
#[test]
fn an_interrupt_ends_the_copy_between_two_commands() {
    use std::io::Read;
    let bench = Bench::new();
    let (from, to) = (bench.file("from", 1, 4 * MIB), bench.file("to", 2, 4 * MIB));
    let arguments = ["copy", "--route", "host", "--rate", "64K", "--json", "from:0:2M,3M:1M", "to:0"];
    let mut child = bench.command(&arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Once the first command has landed the copy is certainly under way.
    while std::fs::read(bench.path("to")).unwrap()[..64 << 10] != from[..64 << 10] {
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{out}{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let bytes = json["bytes"].as_u64().unwrap();
    assert!((64 * KIB..3 * MIB).contains(&bytes) && json["status"] == "stopped", "{json}");
    assert_eq!(json["ranges"][0]["done"], serde_json::json!([[0, bytes]]), "{json}");
    assert_eq!(json["ranges"][1]["bytes"], 0);
    assert!(err.contains(&format!("interrupted after {bytes} bytes")), "{err}");
    let (after, bytes) = (std::fs::read(bench.path("to")).unwrap(), bytes as usize);
    assert!(after[..bytes] == from[..bytes] && after[bytes..] == to[bytes..]);
}

#[test]
fn roads_are_told_with_limits_and_reasons() {
    let bench = Bench::new();
    let limits = CopyLimits { mssrl: 64, mcl: 128, ranges: 3 };
    bench.image("drive", 1, ImageOptions { copy: Some(limits), ..ImageOptions::default() });
    bench.file("file", 1, MIB);
    let json = bench.run(&["caps", "--json", "drive", "file"]).expect(0).json();
    let pairs = json["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 4);
    let own = &pairs[0];
    assert_eq!((own["from"].as_str(), own["road"].as_str(), own["simulated"].as_bool()), (Some("drive"), Some("image"), Some(true)));
    let image = own["roads"].as_array().unwrap().iter().find(|road| road["road"] == "image").unwrap();
    let block = json["devices"][0]["block_size"].as_u64().unwrap();
    assert_eq!(image["limits"]["max_range_bytes"].as_u64(), Some(64 * block));
    assert_eq!((image["limits"]["max_command_bytes"].as_u64(), image["limits"]["max_ranges"].as_u64()), (Some(128 * block), Some(3)));
    for pair in &pairs[1..3] {
        assert_eq!(pair["road"], "host", "{pair}");
        let closed = pair["roads"].as_array().unwrap().iter().filter(|road| road["open"] == false);
        assert!(closed.clone().count() > 0 && closed.clone().all(|road| !road["reason"].as_str().unwrap().is_empty()), "{pair}");
    }
    assert_eq!(json["devices"][0]["zones"]["count"], 64);
    assert_eq!(json["domains"].as_array().unwrap().len(), 2);
    let text = bench.run(&["caps", "drive"]).expect(0).out();
    assert!(text.contains("from drive to drive: image (simulated)") && text.contains("3 ranges") && text.contains("host"), "{text}");
}
