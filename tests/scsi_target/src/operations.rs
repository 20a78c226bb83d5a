//! Token operations under way and ended, by their list identifiers.

use std::collections::BTreeMap;

/// What an operation will do when its time has come.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Make a token.
    Populate(Populate),
    /// Write what a token stands for.
    Write(Write),
    /// It has been done.
    Done(Outcome),
}

#[derive(Clone, Debug)]
pub(crate) struct Populate {
    pub ranges: Vec<(u64, u64)>,
    pub inactivity: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub token: usize,
    pub offset: u64,
    pub ranges: Vec<(u64, u64)>,
    pub delete: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub blocks: u64,
    pub sense: Vec<u8>,
    pub token: Option<Box<[u8; 512]>>,
    /// The token stands for more than was written.
    pub partial_use: bool,
    pub aborted: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub action: u8,
    pub ends: u64,
    pub work: Work,
}

/// By disk and list identifier.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    pub by_name: BTreeMap<(usize, u32), Operation>,
}

impl Operations {
    /// Is an operation of this name still running?
    pub fn running(&self, name: (usize, u32)) -> bool {
        self.by_name.get(&name).is_some_and(|operation| !matches!(operation.work, Work::Done(_)))
    }

    /// The names of those whose time has come.
    pub fn due(&self, now: u64) -> Vec<(usize, u32)> {
        let due = self.by_name.iter().filter(|(_, op)| op.ends <= now && !matches!(op.work, Work::Done(_)));
        due.map(|(name, _)| *name).collect()
    }

    /// Forgets the oldest results of a disk beyond `held`.
    pub fn trim(&mut self, disk: usize, held: usize) {
        let mut ended: Vec<(u64, (usize, u32))> = self
            .by_name
            .iter()
            .filter(|((on, _), op)| *on == disk && matches!(op.work, Work::Done(_)))
            .map(|(name, op)| (op.ends, *name))
            .collect();
        ended.sort_unstable();
        for (_, name) in ended.iter().take(ended.len().saturating_sub(held)) {
            self.by_name.remove(name);
        }
    }
}
