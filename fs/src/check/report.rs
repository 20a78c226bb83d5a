//! What a check reports: for scripts as JSON, for people as text.

use super::finding::{Finding, Severity};
use serde::Serialize;
use std::fmt;

/// Findings beyond this many are only counted.
pub const MAX_FINDINGS: usize = 10_000;

/// A finding with what helps people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
    /// The file or directory that it is about, where a path leads to it.
    pub path: Option<String>,
    /// In words.
    pub message: String,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub inodes: u64,
    pub directories: u64,
    pub entries: u64,
    /// Nodes of the tree.
    pub nodes: u64,
    /// Pages of the node map.
    pub map_pages: u64,
    pub items: u64,
    pub extents: u64,
    /// Mapped blocks of files.
    pub blocks: u64,
    /// Preallocated blocks of files.
    pub unwritten: u64,
    /// Blocks of files that were read and compared with their checksums.
    pub verified: u64,
    /// Bytes read from the devices in all.
    pub bytes_read: u64,
}

/// The result of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Label of the volume.
    pub label: String,
    /// Identity of the volume.
    pub uuid: String,
    /// Generation of the checkpoint that was checked.
    pub generation: u64,
    /// The last mount ended with a checkpoint of its own.
    pub unmounted_cleanly: bool,
    /// Batches of the log that were rolled forward, in memory only.
    pub replayed: u64,
    /// Zones that these gave back.
    pub released: u64,
    /// Nothing is wrong: there are neither errors nor warnings.
    pub clean: bool,
    /// What was found, the first of it.
    pub findings: Vec<Found>,
    /// Findings that are not listed.
    pub suppressed: u64,
    /// What was looked at.
    pub counts: Counts,
}

impl CheckReport {
    /// Of a volume that could not even be checked.
    pub(super) fn refused(error: &crate::FsError) -> Self {
        let mut report = Self::default();
        report.add(Finding::NothingFound { reason: error.to_string() });
        report
    }

    /// Adds a finding.
    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() >= MAX_FINDINGS {
            self.suppressed += 1;
            return;
        }
        self.push(finding);
    }

    /// Adds a finding, however many there are.
    pub(super) fn push(&mut self, finding: Finding) {
        let (severity, message) = (finding.severity(), finding.to_string());
        self.findings.push(Found { severity, finding, path: None, message });
    }

    /// The findings of a severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |found| found.severity == severity).map(|found| &found.finding)
    }

    /// Everything but infos: what makes a volume unclean.
    pub fn problems(&self) -> Vec<&Finding> {
        self.findings.iter().filter(|found| found.severity > Severity::Info).map(|found| &found.finding).collect()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for found in &self.findings {
            let severity = match found.severity {
                Severity::Info => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            write!(f, "{severity}: {}", found.message)?;
            match &found.path {
                Some(path) => writeln!(f, " [{path}]")?,
                None => writeln!(f)?,
            }
        }
        if self.suppressed > 0 {
            writeln!(f, "and {} more", self.suppressed)?;
        }
        let c = &self.counts;
        writeln!(
            f,
            "volume {} {:?}, checkpoint {}, {} batches of the log rolled forward",
            self.uuid, self.label, self.generation, self.replayed
        )?;
        writeln!(
            f,
            "{} inodes, {} of them directories, {} entries, {} extents of {} blocks, {} preallocated; {} nodes, {} map pages; {} blocks of data verified, {} bytes read",
            c.inodes, c.directories, c.entries, c.extents, c.blocks, c.unwritten, c.nodes, c.map_pages, c.verified, c.bytes_read
        )?;
        let (mut errors, mut warnings) = (0, 0);
        for found in &self.findings {
            errors += u64::from(found.severity == Severity::Error);
            warnings += u64::from(found.severity == Severity::Warning);
        }
        match self.clean {
            true => writeln!(f, "clean"),
            false => writeln!(f, "{} errors, {warnings} warnings", errors + self.suppressed),
        }
    }
}
