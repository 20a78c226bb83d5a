//! Volumes that earlier versions wrote are read by this one: whole, and to the last byte.

use harness::{Volume, VolumeSpec};
use std::fs;
use tempfile::TempDir;
use tests::{golden, mounted, skip, tree};

#[test]
fn every_golden_image_is_whole_and_holds_what_it_is_to_hold() {
    if let Some(reason) = skip::no_mounts() {
        return skip::skip(reason);
    }
    let images = golden::all().unwrap();
    assert!(!images.is_empty(), "no golden images in {}", golden::directory().display());
    for packed in images {
        let name = packed.file_name().unwrap().to_string_lossy().into_owned();
        let expected = fs::read_to_string(packed.with_extension("manifest")).unwrap();
        let directory = TempDir::new().unwrap();
        golden::unpack(&packed, &directory.path().join("image")).unwrap();
        let before = fs::read(directory.path().join("image")).unwrap();
        let spec = VolumeSpec { devices: vec!["image".into()], options: vec!["ro".into()], ..VolumeSpec::default() };
        let mut volume = Volume::existing(mounted::programs(), directory.path(), spec).unwrap();
        mounted::assert_clean(&volume);
        volume.mount().unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(tree::describe(volume.root()).unwrap(), expected, "{name}");
        volume.umount().unwrap();
        assert!(before == fs::read(directory.path().join("image")).unwrap(), "{name}: reading changed it");
        // And it can be written to.
        volume.set_options::<String>([]);
        volume.mount().unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(tree::describe(volume.root()).unwrap(), expected, "{name}");
        fs::write(volume.path("new"), b"written by a later version").unwrap();
        volume.umount().unwrap();
        mounted::assert_clean(&volume);
    }
}
