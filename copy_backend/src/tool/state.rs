//! The state file of a clone: how far it is, and between which devices. Replaced as a whole, so that after a crash either the old
//! or the new one is there; what it says is done was durable before it says so.

use super::identity::Identity;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

const VERSION: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Of this format.
    pub version: u32,
    /// From.
    pub source: Identity,
    /// To.
    pub destination: Identity,
    /// CRC32C of the list of chunks: another one means that the source's zones have changed.
    pub plan: u32,
    /// Chunks that are copied and durable.
    pub done: usize,
    /// Chunks that may have been begun: their zones in the destination hold nothing of value.
    pub begun: usize,
}

impl State {
    pub fn new(source: Identity, destination: Identity, plan: u32) -> Self {
        Self { version: VERSION, source, destination, plan, done: 0, begun: 0 }
    }

    /// Reads a state file. `None`: there is none.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading the state file {}", path.display())),
        };
        let state: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no state file of a clone: name another, or remove it to begin anew", path.display()))?;
        ensure!(
            state.version == VERSION,
            "{} is a state file of version {}, and this program knows {VERSION}",
            path.display(),
            state.version
        );
        Ok(Some(state))
    }

    /// May the clone that `fresh` describes go on from here?
    pub fn check(&self, fresh: &Self, chunks: usize) -> Result<()> {
        for (what, was, is) in [("source", &self.source, &fresh.source), ("destination", &self.destination, &fresh.destination)] {
            ensure!(
                was.is_same(is),
                "the state file belongs to another {what}: {} of {} bytes ({}), not {} of {} bytes ({})",
                was.path,
                was.size,
                was.id.as_deref().unwrap_or("unnamed"),
                is.path,
                is.size,
                is.id.as_deref().unwrap_or("unnamed")
            );
        }
        ensure!(self.plan == fresh.plan, "the zones of the source have changed since the state file was written: remove it to begin anew");
        ensure!(self.done <= self.begun && self.begun <= chunks, "the state file contradicts itself: remove it to begin anew");
        Ok(())
    }

    /// Replaces the state file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let write = || -> Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(File::open(directory)?.sync_all()?)
        };
        write().with_context(|| format!("writing the state file {}", path.display()))
    }

    /// The clone is complete.
    pub fn remove(path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing the state file {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: &str) -> Identity {
        Identity { path: format!("/dev/{id}"), size: 1 << 20, block_size: 4096, id: Some(id.to_owned()) }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_only_for_its_own_devices() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(State::load(&path).unwrap(), None);
        let state = State { done: 3, begun: 5, ..State::new(identity("a"), identity("b"), 7) };
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap().unwrap(), state);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let fresh = |source, destination, plan| State::new(identity(source), identity(destination), plan);
        state.check(&fresh("a", "b", 7), 8).unwrap();
        let words = |fresh: &State, chunks| state.check(fresh, chunks).unwrap_err().to_string();
        assert!(words(&fresh("c", "b", 7), 8).contains("belongs to another source"));
        assert!(words(&fresh("a", "c", 7), 8).contains("belongs to another destination"));
        assert!(words(&fresh("a", "b", 8), 8).contains("zones of the source have changed"));
        assert!(words(&fresh("a", "b", 7), 4).contains("contradicts itself"));
        // The same device by another name.
        let renamed = State { source: Identity { path: "x".into(), ..identity("a") }, ..fresh("a", "b", 7) };
        state.check(&renamed, 8).unwrap();
        for wrong in ["", "{}", "[1]", "{\"version\":1"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(State::load(&path).unwrap_err().to_string().contains("is no state file"), "{wrong}");
        }
        State { version: 2, ..state }.save(&path).unwrap();
        assert!(State::load(&path).unwrap_err().to_string().contains("version 2"));
        State::remove(&path).unwrap();
        State::remove(&path).unwrap();
    }
}
