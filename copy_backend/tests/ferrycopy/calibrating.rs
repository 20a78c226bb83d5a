//! Calibration: it writes to its scratch range alone and leaves it as it was; what cannot be a scratch range is refused; the profile is used,
//! or why not is said.

use super::*;
use zns::ZoneState;

fn calibrate(bench: &Bench, scratch: &[&str], more: &[&str]) -> Said {
    let scratches = scratch.iter().flat_map(|scratch| ["--scratch", scratch]);
    let arguments: Vec<&str> = ["caps", "--calibrate", "--json"].into_iter().chain(scratches).chain(more.iter().copied()).collect();
    bench.run(&arguments)
}

/// Was every series of a road measured, with numbers that can be?
#[track_caller]
fn is_measured(road: &Value) {
    for series in ["by_bytes", "by_ranges", "by_in_flight"] {
        let samples = road["measured"][series].as_array().unwrap_or_else(|| panic!("{series}: {road}"));
        assert!(!samples.is_empty(), "{series}: {road}");
        for sample in samples {
            assert!(sample["latency_us"].as_f64().unwrap() > 0.0 && sample["bytes_per_second"].as_f64().unwrap() > 0.0, "{sample}");
        }
    }
    assert!(road["sizes"]["command_bytes"].as_u64().unwrap() >= 4096, "{road}");
}

fn road<'a>(report: &'a Value, name: &str, from: &str, to: &str) -> &'a Value {
    let roads = report["roads"].as_array().unwrap();
    let ends = |road: &&Value, end: &str, name: &str| road[end].as_str().unwrap().ends_with(name);
    roads.iter().find(|road| road["road"] == name && ends(road, "from", from) && ends(road, "to", to)).unwrap()
}

#[test]
fn an_image_is_measured_in_its_empty_zones_alone() {
    for scratch in ["image:8M:4M", "image:63M:1M"] {
        let bench = Bench::new();
        let before = bench.image("image", 8, ImageOptions::default());
        let report = calibrate(&bench, &[scratch], &["--profile", "profile", "image"]).expect(0).json();
        let image = road(&report, "image", "image", "image");
        is_measured(image);
        assert_eq!(image["simulated"], true);
        is_measured(road(&report, "host", "image", "image"));
        assert!(road(&report, "nvme", "image", "image")["reason"].is_string());
        assert!(bench.read_image("image", 0, before.len() as u64) == before);
        let zones = ImageDevice::open(bench.path("image"), true).unwrap().report(0..64).unwrap();
        nobody_has(&bench.path("image"));
        for zone in zones {
            let full = zone.id.0 < 8;
            assert_eq!((zone.state, zone.written.0 > 0), (if full { ZoneState::Full } else { ZoneState::Empty }, full), "zone {}", zone.id);
        }
        // What was measured is used, on this device alone.
        let said = bench.run(&["copy", "--profile", "profile", "image:0:1M", "image:20M"]).expect(0);
        assert_eq!(said.err(), "");
        assert!(bench.read_image("image", 20 * MIB, MIB) == before[..MIB as usize]);
        bench.image("other", 1, ImageOptions::default());
        let said = bench.run(&["copy", "--profile", "profile", "other:0:1M", "other:20M"]).expect(0);
        assert!(said.err().contains("the profile is of other devices (such as drive image"), "{}", said.err());
    }
}

#[test]
fn a_plain_file_is_what_it_was() {
    let bench = Bench::new();
    let mut content = bench.file("file", 3, 4 * MIB);
    content.resize(16 * MIB as usize, 0);
    content.extend(pattern(4, MIB));
    std::fs::write(bench.path("file"), &content).unwrap();
    let report = calibrate(&bench, &["file:4M:12M"], &["file"]).expect(0).json();
    is_measured(road(&report, "host", "file", "file"));
    assert!(report.get("profile").is_none());
    assert!(std::fs::read(bench.path("file")).unwrap() == content);
    let said = bench.run(&["caps", "--calibrate", "--scratch", "file:4M:12M", "file"]).expect(0);
    for part in ["by host", "latency", "throughput", "in flight", "chosen: up to"] {
        assert!(said.out().contains(part), "{}", said.out());
    }
}

#[test]
fn two_devices_are_measured_in_both_directions_and_added_to_a_profile() {
    let bench = Bench::new();
    bench.image("image", 2, ImageOptions::default());
    std::fs::write(bench.path("file"), vec![0; 8 * MIB as usize]).unwrap();
    let more = ["--profile", "profile", "image", "file"];
    let report = calibrate(&bench, &["file:0:8M", "image:4M:3M"], &more).expect(0).json();
    for (from, to) in [("image", "image"), ("image", "file"), ("file", "image"), ("file", "file")] {
        is_measured(road(&report, "host", from, to));
    }
    let entries = |bench: &Bench| {
        let profile: Value = serde_json::from_slice(&std::fs::read(bench.path("profile")).unwrap()).unwrap();
        assert_eq!((&profile["format"], &profile["version"]), (&Value::from("ferrycopy profile"), &Value::from(1)));
        profile["roads"].as_array().unwrap().len()
    };
    let first = entries(&bench);
    calibrate(&bench, &["file:0:8M"], &["--profile", "profile", "file"]).expect(0);
    assert_eq!(entries(&bench), first, "measured again, not twice");
    bench.image("other", 2, ImageOptions::default());
    calibrate(&bench, &["other:4M:3M"], &["--profile", "profile", "other"]).expect(0);
    assert!(entries(&bench) > first);
    assert!(std::fs::read(bench.path("file")).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn what_cannot_be_a_scratch_range_is_refused_and_untouched() {
    let bench = Bench::new();
    let before = bench.image("image", 8, ImageOptions::default());
    let mut content = vec![0; 4 * MIB as usize];
    content[3 * MIB as usize + 5] = 1;
    std::fs::write(bench.path("file"), &content).unwrap();
    let refused = |scratch: &[&str], devices: &[&str], words: &str| calibrate(&bench, scratch, devices).refused(words);
    refused(
        &[],
        &["image"],
        "no scratch range was named for image: a calibration writes, and only where it is told to: --scratch image:OFFSET:LENGTH",
    );
    refused(&["image:8M:1M"], &["image", "file"], "no scratch range was named for file");
    refused(&["image:7M:2M"], &["image"], "zone 7 is not empty (reset it, if nothing in it is needed)");
    refused(&["image:8M:1500K"], &["image"], "it must be whole zones, of 1048576 bytes each");
    refused(&["image:60M:8M"], &["image"], "it reaches past the end of the device, which has 67108864 bytes");
    refused(&["file:2M:2M"], &["file"], "it holds data at byte 3145733");
    refused(&["file:0:64K"], &["file"], "it is too short: at least 1 MiB are needed");
    refused(&["file:100:1M"], &["file"], "offset and length must be multiples of 4096");
    refused(&["file:0:1M", "file:1M:1M"], &["file"], "two scratch ranges are named for it");
    refused(&["file:0:1M,1M:1M"], &["file"], "name one scratch range");
    refused(&["file:0:1M"], &["image"], "the scratch range is on file, which is none of the devices to be measured");
    bench.run(&["caps", "--scratch", "file:0:1M", "file"]).refused("--calibrate");
    for (text, words) in
        [("hello", "this is no profile, or a damaged one"), ("{\"format\":\"ferrycopy profile\",\"version\":9}", "has version 9")]
    {
        std::fs::write(bench.path("profile"), text).unwrap();
        refused(&["file:0:2M"], &["--profile", "profile", "file"], words);
        assert_eq!(std::fs::read_to_string(bench.path("profile")).unwrap(), text);
        let said = bench.run(&["copy", "--profile", "profile", "image:0:64K", "file:0"]).expect(0);
        assert!(said.err().contains(words), "{}", said.err());
        let mut zeros = std::fs::read(bench.path("file")).unwrap();
        zeros[..64 * KIB as usize].fill(0);
        std::fs::write(bench.path("file"), zeros).unwrap();
    }
    assert!(bench.read_image("image", 0, before.len() as u64) == before);
    assert_eq!(bench.written("image", 8), Blocks(0));
    assert!(std::fs::read(bench.path("file")).unwrap() == content);
}
