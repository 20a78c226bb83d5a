//! What an exploration came across, counted in distinct states: by operation of the filesystem, by what the device had just done, by what was torn.

use super::{Violation, VolumeKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use zns::sim::Tear;

/// Distinct states by kind of crash point.
pub type Table = BTreeMap<String, u64>;

/// See the module.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Sequences that were carried out, on each kind of volume.
    pub runs: u64,
    /// Distinct states: media that differ in a byte, a write pointer or a hole.
    pub distinct: u64,
    /// States that were looked at, the same ones counted again.
    pub visited: u64,
    /// Recoveries during which the power went again at each step.
    pub recoveries: u64,
    /// Recovered volumes that were used, cut off and recovered again.
    pub uses: u64,
    /// Distinct states by kind of volume.
    pub by_volume: Table,
    /// By operation of the filesystem that was under way.
    pub by_operation: Table,
    /// By what a device had done last.
    pub by_step: Table,
    /// By what was missing.
    pub by_tear: Table,
    /// By operation and step.
    pub by_operation_and_step: BTreeMap<String, Table>,
    /// What went wrong.
    #[serde(skip)]
    pub violations: Vec<Violation>,
}

fn add(table: &mut Table, other: Table) {
    other.into_iter().for_each(|(key, count)| *table.entry(key).or_default() += count);
}

fn count(table: &mut Table, key: &str) {
    match table.get_mut(key) {
        Some(count) => *count += 1,
        None => drop(table.insert(key.to_owned(), 1)),
    }
}

impl Report {
    /// One more distinct state.
    pub fn note(&mut self, kind: VolumeKind, operation: &str, step: &str, tear: Tear) {
        count(&mut self.by_volume, kind.name());
        count(&mut self.by_operation, operation);
        count(&mut self.by_step, step);
        count(&mut self.by_tear, tear.name());
        count(self.by_operation_and_step.entry(operation.to_owned()).or_default(), step);
    }

    /// Both together; what is not a sum is the explorer's to set.
    pub fn merged(mut self, other: Self) -> Self {
        self.runs += other.runs;
        self.recoveries += other.recoveries;
        self.uses += other.uses;
        add(&mut self.by_volume, other.by_volume);
        add(&mut self.by_operation, other.by_operation);
        add(&mut self.by_step, other.by_step);
        add(&mut self.by_tear, other.by_tear);
        for (operation, table) in other.by_operation_and_step {
            add(self.by_operation_and_step.entry(operation).or_default(), table);
        }
        self.violations.extend(other.violations);
        (self.distinct, self.visited) = (self.distinct.max(other.distinct), self.visited.max(other.visited));
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} sequences, {} distinct crash states, {} visited", self.runs, self.distinct, self.visited)?;
        writeln!(f, "{} recoveries cut off at each step, {} recovered volumes used and cut off", self.recoveries, self.uses)?;
        let tables = [
            ("volume", &self.by_volume),
            ("operation under way", &self.by_operation),
            ("last step of a device", &self.by_step),
            ("what is missing", &self.by_tear),
        ];
        for (title, table) in tables {
            writeln!(f, "by {title}:")?;
            table.iter().try_for_each(|(key, count)| writeln!(f, "  {key:<44} {count:>9}"))?;
        }
        write!(f, "violations: {}", self.violations.len())
    }
}
