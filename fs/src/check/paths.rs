//! Paths for findings: an inode number says little to people.

use super::Checker;
use crate::core::key::{Class, Key};
use crate::format::item::{Dirent, Inode};
use crate::ids::Ino;
use std::collections::{HashMap, HashSet};

/// Findings that get a path.
const MOST: usize = 200;
/// Deepest path that is followed.
const DEPTH: usize = 4096;

type Names = HashMap<u64, (u64, Vec<u8>)>;

impl Checker<'_> {
    /// Gives the findings the paths of the files that they are about.
    pub(super) fn name_findings(&mut self) {
        let wanted: HashSet<u64> =
            self.report.findings.iter().take(MOST).filter_map(|found| found.finding.ino()).map(|ino| ino.0).collect();
        if wanted.is_empty() {
            return;
        }
        let mut names = self.find_names(wanted);
        // The way up: parents of what was found, until the root.
        for _ in 0..DEPTH {
            let missing: HashSet<u64> =
                names.values().map(|(parent, _)| *parent).filter(|parent| *parent != Ino::ROOT.0 && !names.contains_key(parent)).collect();
            if missing.is_empty() {
                break;
            }
            let found = self.find_directories(&missing);
            let more = !found.is_empty();
            names.extend(found);
            if !more {
                break;
            }
        }
        for found in self.report.findings.iter_mut().take(MOST) {
            found.path = found.finding.ino().and_then(|ino| path(ino.0, &names));
        }
    }

    /// One name of each of these inodes.
    fn find_names(&self, mut wanted: HashSet<u64>) -> Names {
        let mut names = Names::new();
        self.scan.class(Class::Dirent, 0..=u64::MAX, |key, value| {
            if let Some(entry) = Dirent::decode(value)
                && wanted.remove(&entry.ino.0)
            {
                names.insert(entry.ino.0, (key.a, entry.name));
            }
            !wanted.is_empty()
        });
        names
    }

    /// The names of these directories, by way of their parents.
    fn find_directories(&self, wanted: &HashSet<u64>) -> Names {
        let mut names = Names::new();
        for &ino in wanted {
            let Ok(Some(value)) = self.scan.get(&Key::inode(Ino(ino))) else { continue };
            let Some(parent) = Inode::decode(Ino(ino), &value).map(|inode| inode.parent.0) else { continue };
            self.scan.class(Class::Dirent, parent..=parent, |_, value| match Dirent::decode(value) {
                Some(entry) if entry.ino.0 == ino => {
                    names.insert(ino, (parent, entry.name));
                    false
                }
                _ => true,
            });
        }
        names
    }
}

fn path(ino: u64, names: &Names) -> Option<String> {
    if ino == Ino::ROOT.0 {
        return Some("/".into());
    }
    let mut parts = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT.0 {
        let (parent, name) = names.get(&at)?;
        parts.push(String::from_utf8_lossy(name));
        at = *parent;
        if parts.len() > DEPTH {
            return None;
        }
    }
    parts.reverse();
    Some(format!("/{}", parts.join("/")))
}
