//! Rows of results, printed as a table and written as JSON.

use crate::scale::Plot;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure; the median where there were several rounds. Null where there is none.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Lowest and highest of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<(f64, f64)>,
    /// The same of a peer, and its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<(&'static str, f64)>,
    /// `value` over the peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What is to be reached, as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
    /// The figure depends on copies that our own process carries out.
    pub simulated: bool,
}

impl Row {
    /// A figure.
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
        let (missing, spread, peer, ratio, goal, reached) = (None, None, None, None, None, None);
        Row { what: what.into(), value, unit, missing, spread, peer, ratio, goal, reached, simulated: false }
    }

    /// What could not be measured, and why.
    pub fn missing(what: impl Into<String>, reason: impl Into<String>) -> Row {
        Row { missing: Some(reason.into()), ..Row::new(what, f64::NAN, "") }
    }

    /// The median of several rounds.
    pub fn rounds(what: impl Into<String>, rounds: &[f64], unit: &'static str) -> Row {
        let mut row = Row::new(what, median(rounds), unit);
        let low = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rounds.iter().copied().fold(0.0, f64::max);
        row.spread = Some((low, high));
        row
    }

    /// Beside a peer.
    pub fn beside(mut self, peer: &'static str, value: f64) -> Row {
        self.peer = Some((peer, value));
        self.ratio = Some(self.value / value);
        self
    }

    /// With what is to be reached.
    pub fn goal(mut self, goal: impl Into<String>, reached: bool) -> Row {
        self.goal = Some(goal.into());
        self.reached = Some(reached);
        self
    }

    /// Marked when it comes from an image.
    pub fn simulated(mut self, simulated: bool) -> Row {
        self.simulated = simulated;
        self
    }
}

/// The middle of some figures.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Results of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    processors: usize,
    kernel: String,
    rows: Vec<Row>,
    /// Costs against size, where they were measured at several sizes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plots: Vec<Plot>,
}

impl Report {
    /// Empty.
    pub fn new(bench: &'static str) -> Report {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Report { bench, processors, kernel: kernel.trim().to_owned(), rows: Vec::new(), plots: Vec::new() }
    }

    /// Adds a figure and shows it.
    pub fn add(&mut self, row: Row) {
        eprintln!("  {}", line(&row));
        self.rows.push(row);
    }

    /// For BENCHMARKS.md; `head` says on what it was measured.
    pub fn markdown(&self, head: &str) -> String {
        let mut text = format!("### {head}, {} processors, Linux {}\n\n| | figure | goal |\n|---|---|---|\n", self.processors, self.kernel);
        for row in &self.rows {
            let figure = match (&row.missing, row.spread) {
                (Some(reason), _) => format!("- ({})", reason.replace('\n', "; ")),
                (None, Some((low, high))) if low < high => {
                    format!("{} {} ({} to {})", number(row.value), row.unit, number(low), number(high))
                }
                _ => format!("{} {}", number(row.value), row.unit),
            };
            let goal = match (&row.goal, row.reached) {
                (Some(goal), Some(true)) => format!("{goal}: reached"),
                (Some(goal), _) => format!("{goal}: **missed**"),
                _ => String::new(),
            };
            text += &format!("| {} | {} | {goal} |\n", row.what.trim(), figure.trim_end());
        }
        text + "\n"
    }

    /// Prints the table and writes the file.
    pub fn finish(self, json: Option<&Path>) -> Result<()> {
        println!("\n{} on {} processors, Linux {}", self.bench, self.processors, self.kernel);
        for row in &self.rows {
            println!("  {}", line(row));
        }
        if self.rows.iter().any(|row| row.simulated) {
            println!("  (simulated): copies carried out by our own process, which plays the drive");
        }
        write(json, &self)
    }
}

/// Writes results as JSON when a file is named.
pub fn write(json: Option<&Path>, results: &impl Serialize) -> Result<()> {
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(results)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn line(row: &Row) -> String {
    if let Some(reason) = &row.missing {
        return format!("{:<52} {:>12} {}", row.what, "-", reason.replace('\n', "; "));
    }
    let mut text = format!("{:<52} {:>12} {}", row.what, number(row.value), row.unit);
    if let Some((low, high)) = row.spread {
        text += &format!(" ({} to {})", number(low), number(high));
    }
    if let (Some((name, value)), Some(ratio)) = (row.peer, row.ratio) {
        text += &format!("; {name} {}, ratio {ratio:.2}", number(value));
    }
    if let (Some(goal), Some(reached)) = (&row.goal, row.reached) {
        text += &format!("; goal {goal}: {}", if reached { "reached" } else { "MISSED" });
    }
    if row.simulated {
        text += " (simulated)";
    }
    text
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || (v >= 10.0 && v.fract() == 0.0) => format!("{value:.0}"),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn tables_have_figures_goals_and_gaps() {
        let mut report = Report::new("scale");
        report.add(Row::rounds("mkfs", &[0.2, 0.3], "s").goal("below 2", true));
        report.add(Row::new("  mount", 3.0, "s").goal("below 1", false));
        report.add(Row::missing("25 TB", "File too large"));
        let text = report.markdown("images on memory");
        assert!(text.contains("| mkfs | 0.25 s (0.20 to 0.30) | below 2: reached |"), "{text}");
        assert!(text.contains("| mount | 3.00 s | below 1: **missed** |") && text.contains("| 25 TB | - (File too large) |  |"), "{text}");
        assert!(serde_json::to_value(&report).unwrap().get("plots").is_none());
    }

    #[test]
    fn rows_read_well() {
        let row = Row::rounds("write", &[900.0, 1000.0, 1100.0], "MiB/s").beside("ext4", 2000.0).goal("0.5", true);
        let text = line(&row);
        let missing = Row::missing("btrfs", "no space\nleft");
        assert!(line(&missing).ends_with("- no space; left"));
        let json = serde_json::to_value(&missing).unwrap();
        assert!(json["value"].is_null() && json["missing"] == "no space\nleft");
        assert!(text.contains("1000 MiB/s (900 to 1100); ext4 2000, ratio 0.50; goal 0.5: reached"), "{text}");
    }
}
