//! The benchmark of cleaning in small: it runs, its figures are there under their names and hang together, and it says what is simulated.

use harness::run;
use serde_json::Value;
use std::time::Duration;
use tests::mounted::programs;
use tests::skip::{no_mounts, skip};

const LIMIT: Duration = Duration::from_secs(280);

/// What the benchmark wrote as JSON, and the names of the pictures it drew.
fn measured(options: &str) -> Option<(Value, Vec<String>, String)> {
    if let Some(reason) = no_mounts() {
        skip(reason);
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let (json, svg) = (directory.path().join("gc.json"), directory.path().join("svg"));
    let mut command = programs().command("ferryfs-bench").unwrap();
    let small = "gc --size 128M --zone-size 1M --fill 0.8 --age 0.5 --rounds 1";
    command.args(small.split_whitespace()).args(options.split_whitespace());
    command.arg("--directory").arg(directory.path()).arg("--json").arg(&json).arg("--svg").arg(&svg);
    let outcome = run(&mut command, LIMIT).unwrap().ok().unwrap();
    let text = std::fs::read_to_string(&json).unwrap();
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(&svg).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{}", path.display());
        pictures.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    Some((serde_json::from_str(&text).unwrap(), pictures, outcome.stdout))
}

fn side<'a>(results: &'a Value, list: &str, name: &str) -> &'a Value {
    results[list].as_array().unwrap().iter().find(|side| side["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn figure(side: &Value, name: &str) -> f64 {
    let figure = &side["figures"][name];
    let [low, median, high] = ["low", "median", "high"].map(|part| figure[part].as_f64().unwrap_or_else(|| panic!("no {name}: {side}")));
    assert!(low <= median && median <= high, "{name}: {figure}");
    median
}

#[test]
fn both_roads_and_the_control_are_measured_on_the_same_volume() {
    let Some((results, mut pictures, said)) = measured("--bytes 24M --jobs 2 --fsync-every 64 --load zipf:0.5 --vs nilfs2,ext4") else {
        return;
    };
    for side in [side(&results, "roads", "offload"), side(&results, "roads", "host"), &results["control"]] {
        assert_eq!((&side["simulated"], &side["device_model"]), (&Value::from(true), &Value::from("none")));
        let times = ["p50", "p99", "p999", "p9999", "max"].map(|part| figure(side, &format!("write_us_{part}")));
        assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
        assert!(figure(side, "throughput") > 0.0 && figure(side, "fsync_us_p99") > 0.0);
        let sum = |names: &[&str]| names.iter().map(|name| figure(side, name)).sum::<f64>();
        let written = sum(&["user_written", "relocation_written", "user_metadata_written", "cleaning_metadata_written"]);
        assert!((written - figure(side, "link_written")).abs() < 0.01, "what was written has a purpose: {side}");
    }
    let [offload, host] = ["offload", "host"].map(|name| side(&results, "roads", name));
    for road in [offload, host] {
        assert!((figure(road, "user_written") - 24.0).abs() < 0.01 && figure(road, "write_amplification") > 1.0);
        assert!(figure(road, "zones_reclaimed") > 0.0 && figure(road, "copy_commands") > 0.0);
    }
    assert_eq!(figure(offload, "relocation_read") + figure(offload, "relocation_written"), 0.0);
    // Copies are counted when they end and moves when they are published: a chunk may be between them when the counters are read.
    let agree = |a: f64, b: f64| assert!((a - b).abs() <= 1.01, "{a} and {b} MiB");
    agree(figure(offload, "copied_by_device"), figure(offload, "relocated"));
    agree(figure(host, "relocation_written"), figure(host, "relocated"));
    assert_eq!(figure(&results["control"], "relocated"), 0.0);
    for other in ["nilfs2", "ext4"] {
        let other = side(&results, "others", other);
        // A filesystem that the machine has not is named with the reason.
        assert!(other["missing"].as_str().is_some_and(|reason| !reason.is_empty()) || figure(other, "link_written") > 0.0, "{other}");
    }
    assert!(said.contains("simulated: an image plays the drive"), "{said}");
    pictures.sort();
    let expected = ["latency-control", "latency-host", "latency-offload", "traffic", "zones-control", "zones-host", "zones-offload"];
    assert_eq!(pictures, expected.map(|name| format!("{name}.svg")));
}

#[test]
fn an_image_that_plays_a_drive_is_named_wherever_its_figures_are() {
    let Some((results, _, said)) = measured("--bytes 8M --roads offload --device-model zns-slc") else { return };
    for side in [side(&results, "roads", "offload"), &results["control"]] {
        assert_eq!((&side["device_model"], &side["simulated"]), (&Value::from("zns-slc"), &Value::from(true)));
    }
    assert_eq!(results["devices"][0]["device_model"], "zns-slc");
    assert!(said.contains("device model: zns-slc"), "{said}");
}

#[test]
fn loads_run_on_ferryfs_beside_the_ceiling_and_what_is_not_there_is_a_gap() {
    if let Some(reason) = no_mounts() {
        skip(reason);
        return;
    }
    if !rustix::process::geteuid().is_root() {
        skip("only root may make loop devices and empty the kernel's caches");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (json, markdown, svg) = (directory.path().join("fs.json"), directory.path().join("fs.md"), directory.path().join("svg"));
    let mut command = programs().command("ferryfs-bench").unwrap();
    command.args([
        "fs",
        "--quick",
        "--rounds",
        "1",
        "--systems",
        "ferryfs-image,ceiling,ext4",
        "--loads",
        "one-directory,store,source-tree,sync",
    ]);
    // Without fio: a load whose program is missing is no reason to end.
    let tools = directory.path().join("tools");
    command.env("PATH", &tools);
    std::fs::create_dir(&tools).unwrap();
    for tool in ["tar", "mkfs.ext4", "losetup", "mount", "umount"] {
        let found =
            ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().map(|place| std::path::Path::new(place).join(tool)).find(|p| p.exists());
        std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("no {tool}")), tools.join(tool)).unwrap();
    }
    command.arg("--json").arg(&json).arg("--markdown").arg(&markdown).arg("--svg").arg(&svg);
    run(&mut command, LIMIT).unwrap().ok().unwrap();
    let results: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let lines = results[0]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 4 + 2 + 2 + 3);
    for line in lines {
        for cell in line["cells"].as_array().unwrap() {
            if line["figure"].as_str().unwrap().contains("fsync") {
                assert_eq!(cell["missing"], "fio is not installed", "{line}");
            } else {
                assert!(cell["rate"]["median"].as_f64().unwrap() > 0.0, "{line}");
            }
        }
    }
    let text = std::fs::read_to_string(&markdown).unwrap();
    assert!(
        text.contains("| create, one directory, 1/s |") && text.contains("goal 0.7") && text.contains("* ext4: fio is not installed"),
        "{text}"
    );
    assert!(std::fs::read_to_string(svg.join("fs-memory.svg")).unwrap().contains("create, one directory"));
}
