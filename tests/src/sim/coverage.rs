//! What the runs came across: a simulator that tests nothing must not look like one that finds nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by kind.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, String), u64>,
    /// Runs.
    pub runs: u64,
}

impl Coverage {
    /// One more of this kind.
    pub fn note(&mut self, table: &'static str, kind: impl Into<String>) {
        self.add(table, kind, 1);
    }

    /// So many more of this kind.
    pub fn add(&mut self, table: &'static str, kind: impl Into<String>, count: u64) {
        *self.counts.entry((table, kind.into())).or_default() += count;
    }

    /// How many of this kind.
    pub fn count(&self, table: &'static str, kind: &str) -> u64 {
        self.counts.get(&(table, kind.to_owned())).copied().unwrap_or(0)
    }

    /// The kinds of a table.
    pub fn kinds(&self, table: &'static str) -> impl Iterator<Item = &str> {
        self.counts.keys().filter(move |(found, _)| *found == table).map(|(_, kind)| kind.as_str())
    }

    /// Both together.
    pub fn merged(mut self, other: Self) -> Self {
        other.counts.into_iter().for_each(|((table, kind), count)| self.add(table, kind, count));
        self.runs += other.runs;
        self
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs", self.runs)?;
        let mut current = "";
        for ((table, kind), count) in &self.counts {
            if *table != current {
                write!(f, "\n{table}:")?;
                current = table;
            }
            write!(f, " {kind}={count}")?;
        }
        Ok(())
    }
}
