//! What `ferrycopy caps --calibrate` measured, as a small file that the engine chooses sizes from ([`crate::sizes`]).
//!
//! JSON with a version. Each entry is for one road between two devices, named by model, serial number and firmware: what was measured on
//! another drive, or before an update of its firmware, says nothing. A profile that cannot be used is told of in a sentence and left out;
//! it never stops a copy.

use crate::backend::Road;
use crate::device_name::DeviceName;
use crate::sizes::{Measured, Sample};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// The version that is written, and the last one that is read.
pub const VERSION: u32 = 1;
/// A file that is larger is none of ours.
const MOST_BYTES: u64 = 16 << 20;
const FORMAT: &str = "ferrycopy profile";

/// Measurements of roads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    format: String,
    version: u32,
    roads: Vec<RoadProfile>,
}

/// One road between two devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoadProfile {
    /// From this device.
    pub from: DeviceName,
    /// To this one.
    pub to: DeviceName,
    /// By this road.
    pub road: Road,
    /// Our own process played the device.
    pub simulated: bool,
    /// What it did.
    pub measured: Measured,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("{}: the profile cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is something else, or damaged.
    #[error("{}: this is no profile, or a damaged one ({reason}): measure anew with ferrycopy caps --calibrate", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it fails.
        reason: String,
    },
    /// A newer program wrote it.
    #[error("{}: the profile has version {version}, and this program reads up to {VERSION}: measure anew, or use the program that wrote it", path.display())]
    Future {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
}

impl Default for Profile {
    fn default() -> Self {
        Self { format: FORMAT.into(), version: VERSION, roads: Vec::new() }
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// A sentence for each way in which it cannot be used.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let unreadable = |reason: String| ProfileError::Unreadable { path: path.to_owned(), reason };
        let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if length > MOST_BYTES {
            return Err(ProfileError::Corrupt { path: path.to_owned(), reason: format!("it has {length} bytes") });
        }
        Self::parse(path, &std::fs::read(path).map_err(|error| unreadable(error.to_string()))?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ProfileError> {
        let corrupt = |reason: String| ProfileError::Corrupt { path: path.to_owned(), reason };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
            return Err(corrupt(format!("it does not say \"format\": {FORMAT:?}")));
        }
        // Before anything else is looked at: a later version may look different in all the rest.
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version > u64::from(VERSION) => return Err(ProfileError::Future { path: path.to_owned(), version }),
            Some(1..) => {}
            _ => return Err(corrupt("it has no version".into())),
        }
        let profile: Self = serde_json::from_value(value).map_err(|error| corrupt(error.to_string()))?;
        let senseless = profile.roads.iter().flat_map(|road| road.measured.samples()).find(|sample| !is_sound(sample));
        match senseless.map(|sample| format!("a measurement makes no sense: {sample:?}")) {
            Some(reason) => Err(corrupt(reason)),
            None => Ok(profile),
        }
    }

    /// Puts an entry in the place of what was known of that road between these devices.
    pub fn put(&mut self, entry: RoadProfile) {
        self.roads.retain(|old| (&old.from, &old.to, old.road) != (&entry.from, &entry.to, entry.road));
        self.roads.push(entry);
    }

    /// What was measured on a road.
    pub fn road(&self, from: &DeviceName, to: &DeviceName, road: Road) -> Option<&RoadProfile> {
        self.roads.iter().find(|entry| (&entry.from, &entry.to, entry.road) == (from, to, road))
    }

    /// Why it says nothing of any road between these devices.
    fn strange(&self, from: &DeviceName, to: &DeviceName) -> Option<String> {
        if self.roads.iter().any(|entry| (&entry.from, &entry.to) == (from, to)) {
            return None;
        }
        let pair = if from == to { from.to_string() } else { format!("copies from {from} to {to}") };
        let same_drive = |a: &DeviceName, b: &DeviceName| (&a.model, &a.serial) == (&b.model, &b.serial);
        if let Some(old) = self.roads.iter().find(|entry| same_drive(&entry.from, from) && same_drive(&entry.to, to)) {
            return Some(format!(
                "the profile was measured with other firmware ({} to {}) than that of {pair}: measure anew",
                old.from.firmware, old.to.firmware
            ));
        }
        match self.roads.first() {
            None => Some("the profile is empty".into()),
            Some(entry) => Some(format!("the profile is of other devices (such as {}), and says nothing of {pair}", entry.to)),
        }
    }

    /// Writes the profile, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let mut file = std::fs::File::create(&fresh)?;
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)? + "\n";
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&fresh, path));
        if written.is_err() {
            // Best effort: what is reported is why it could not be written.
            let _ = std::fs::remove_file(&fresh);
        }
        written
    }
}

impl Measured {
    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.by_bytes.iter().chain(&self.by_ranges).chain(&self.by_in_flight)
    }
}

fn is_sound(sample: &Sample) -> bool {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    sample.bytes > 0 && sample.ranges > 0 && sample.in_flight > 0 && positive(sample.latency_us) && positive(sample.bytes_per_second)
}

/// A profile that the user named, whether it can be used or not.
#[derive(Clone, Debug)]
pub struct GivenProfile {
    /// The file.
    pub path: PathBuf,
    content: Result<Arc<Profile>, ProfileError>,
}

/// What became of a profile, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileUse {
    /// Sizes are chosen from measurements.
    pub in_use: bool,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// Why it is not in use.
    pub reason: Option<String>,
}

impl GivenProfile {
    /// Reads the file. What is wrong with it is kept for reports.
    pub fn load(path: &Path) -> Self {
        Self { path: path.to_owned(), content: Profile::load(path).map(Arc::new) }
    }

    /// The profile, if it can be used.
    pub fn profile(&self) -> Option<&Profile> {
        self.content.as_deref().ok()
    }

    /// Is it used for copies between these devices?
    pub fn usage(&self, from: &DeviceName, to: &DeviceName) -> ProfileUse {
        let reason = match &self.content {
            Ok(profile) => profile.strange(from, to),
            Err(error) => Some(error.to_string()),
        };
        ProfileUse { in_use: reason.is_none(), file: Some(self.path.clone()), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(serial: &str, firmware: &str) -> DeviceName {
        DeviceName { model: "Fast One".into(), serial: serial.into(), firmware: firmware.into() }
    }

    fn entry(from: &DeviceName, to: &DeviceName, road: Road, latency_us: f64) -> RoadProfile {
        let sample = Sample { bytes: 4096, ranges: 1, in_flight: 1, latency_us, bytes_per_second: 1e8 };
        let measured = Measured { by_bytes: vec![sample], ..Measured::default() };
        RoadProfile { from: from.clone(), to: to.clone(), road, simulated: false, measured }
    }

    #[test]
    fn what_is_written_is_read_and_an_entry_replaces_its_elder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile");
        let (a, b) = (name("a", "1"), name("b", "1"));
        let mut profile = Profile::default();
        for latency in [5.0, 7.25] {
            profile.put(entry(&a, &a, Road::Nvme, latency));
        }
        profile.put(entry(&a, &b, Road::Host, 9.0));
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path), Ok(profile.clone()));
        assert_eq!(profile.roads.len(), 2);
        assert_eq!(profile.road(&a, &a, Road::Nvme).unwrap().measured.by_bytes[0].latency_us, 7.25);
        assert_eq!(profile.road(&a, &a, Road::Host), None);
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["profile"], "nothing else is left");
        assert!(profile.save(&directory.path().join("gone/profile")).is_err());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile");
        let (a, b) = (name("a", "1"), name("b", "1"));
        let say = |given: &GivenProfile, from: &DeviceName, to: &DeviceName| {
            let usage = given.usage(from, to);
            assert_eq!(usage.in_use, usage.reason.is_none());
            usage.reason.unwrap_or_default()
        };
        let gone = GivenProfile::load(&path);
        assert!(say(&gone, &a, &a).contains("cannot be read") && gone.profile().is_none());
        let mut profile = Profile::default();
        profile.put(entry(&a, &a, Road::Nvme, 5.0));
        let good = serde_json::to_string(&profile).unwrap();
        for (text, part) in [
            ("", "no profile, or a damaged one"),
            ("{}", "does not say"),
            (&good[..good.len() - 9], "damaged"),
            (&good.replace("\"version\":1", "\"version\":7,\"new\":[]"), "version 7, and this program reads up to 1"),
            (&good.replace("\"version\":1", "\"version\":0"), "no version"),
            (&good.replace("\"version\":1", "\"versions\":1"), "no version"),
            (&good.replace("\"ranges\":1", "\"ranges\":0"), "makes no sense"),
            (&good.replace("5.0", "-5.0"), "makes no sense"),
            (&good.replace("nvme", "teleport"), "damaged"),
        ] {
            std::fs::write(&path, text).unwrap();
            let given = GivenProfile::load(&path);
            let said = say(&given, &a, &a);
            assert!(said.contains(part) && said.contains("profile"), "{text}: {said}");
            assert!(given.profile().is_none(), "{text}");
        }
        std::fs::write(&path, good).unwrap();
        let given = GivenProfile::load(&path);
        assert_eq!(say(&given, &a, &a), "");
        assert!(say(&given, &b, &b).contains("of other devices (such as Fast One (serial a, firmware 1))"), "{}", say(&given, &b, &b));
        assert!(say(&given, &a, &b).contains("copies from"));
        assert!(say(&given, &name("a", "2"), &name("a", "2")).contains("other firmware (1 to 1)"));
    }
}
