//! What was measured, as a table of medians and ratios: text, Markdown, JSON, a picture.

use super::loads::{Figure, Goals, Load};
use super::systems::System;
use crate::picture::{Group, bars};
use crate::report::median;
use serde::Serialize;
use std::fmt::Write as _;

/// Of one load on one system: in each counted round a rate for each figure, or why there is none.
#[derive(Debug, Default)]
pub struct Measured {
    pub rounds: Vec<Vec<f64>>,
    pub refusal: Option<String>,
}

/// With its names.
#[derive(Debug)]
pub struct Series {
    pub load: Load,
    pub system: System,
    pub measured: Measured,
}

/// The middle of several rounds, the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Spread> {
        let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let (low, high) = (finite.iter().copied().fold(f64::INFINITY, f64::min), finite.iter().copied().fold(0.0, f64::max));
        (!finite.is_empty()).then(|| Spread { median: median(&finite), low, high })
    }
}

#[derive(Debug, Serialize)]
struct Cell {
    system: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Spread>,
    /// Why there is no rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    /// The rate of FerryFS on an image over this one's, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    ferryfs_ratio: Option<Spread>,
    /// What that ratio is to reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Line {
    figure: &'static str,
    unit: &'static str,
    cells: Vec<Cell>,
}

/// All figures on one backing.
#[derive(Debug, Serialize)]
pub struct Table {
    backing: String,
    image_mib: u64,
    quick: bool,
    rounds: usize,
    processors: usize,
    kernel: String,
    lines: Vec<Line>,
}

impl Table {
    /// From what was measured.
    pub fn new(backing: &str, image_mib: u64, quick: bool, series: Vec<Series>) -> Table {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let rounds = series.iter().map(|series| series.measured.rounds.len()).max().unwrap_or(0);
        let mut loads: Vec<Load> = Vec::new();
        for one in &series {
            if !loads.contains(&one.load) {
                loads.push(one.load);
            }
        }
        let mut lines = Vec::new();
        for load in loads {
            let of_load: Vec<&Series> = series.iter().filter(|series| series.load == load).collect();
            for (number, figure) in load.figures().iter().enumerate() {
                lines.push(line(figure, number, &of_load));
            }
        }
        Table { backing: backing.to_owned(), image_mib, quick, rounds, processors, kernel, lines }
    }

    fn systems(&self) -> Vec<&'static str> {
        self.lines.first().map_or_else(Vec::new, |line| line.cells.iter().map(|cell| cell.system).collect())
    }

    fn head(&self) -> String {
        let quick = if self.quick { "; quick: too small and short to be quoted" } else { "" };
        format!(
            "images of {} MiB on {}, {} rounds, {} processors, Linux {}{quick}",
            self.image_mib, self.backing, self.rounds, self.processors, self.kernel
        )
    }

    /// To be read in a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.head());
        for line in &self.lines {
            let _ = writeln!(text, "{} [{}]", line.figure, line.unit);
            for cell in &line.cells {
                let _ = write!(text, "  {:<14}", cell.system);
                match (&cell.rate, &cell.missing) {
                    (Some(rate), _) => {
                        let _ = write!(text, "{:>10} ({} to {})", number(rate.median), number(rate.low), number(rate.high));
                    }
                    (None, Some(reason)) => {
                        let _ = write!(text, "{:>10} {reason}", "-");
                    }
                    (None, None) => text += "         -",
                }
                if let Some(ratio) = &cell.ferryfs_ratio {
                    let _ = write!(text, "; ferryfs-image {:.2} times this ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high);
                    if let Some(goal) = cell.goal {
                        let _ = write!(text, ", goal {goal}: {}", if ratio.median >= goal { "reached" } else { "MISSED" });
                    }
                }
                text.push('\n');
            }
        }
        text
    }

    /// For BENCHMARKS.md: rates by their medians, and the ratios that have a goal; and how much of ext4's rate the ceiling has.
    pub fn markdown(&self) -> String {
        let systems = self.systems();
        let mut text = format!("### {}\n\n", self.head());
        let _ = writeln!(
            text,
            "| | {} | over ceiling | over ext4 | ceiling over ext4 |\n|---|{}---|---|---|",
            systems.join(" | "),
            "---|".repeat(systems.len())
        );
        for line in &self.lines {
            let rates: Vec<String> = line.cells.iter().map(|cell| cell.rate.map_or("-".to_owned(), |rate| number(rate.median))).collect();
            let over = |system: System| {
                let cell = line.cells.iter().find(|cell| cell.system == system.name());
                let Some((cell, ratio)) = cell.and_then(|cell| Some((cell, cell.ferryfs_ratio?))) else { return "-".to_owned() };
                let goal = cell
                    .goal
                    .map_or(String::new(), |goal| format!(", goal {goal} {}", if ratio.median >= goal { "reached" } else { "**missed**" }));
                format!("{:.2} ({:.2} to {:.2}){goal}", ratio.median, ratio.low, ratio.high)
            };
            let rate = |system: System| Some(line.cells.iter().find(|cell| cell.system == system.name())?.rate?.median);
            let bound = rate(System::Ceiling).zip(rate(System::Ext4));
            let _ = writeln!(
                text,
                "| {}, {} | {} | {} | {} | {} |",
                line.figure,
                line.unit,
                rates.join(" | "),
                over(System::Ceiling),
                over(System::Ext4),
                bound.map_or("-".to_owned(), |(ceiling, ext4)| format!("{:.2}", ceiling / ext4))
            );
        }
        let mut gaps: Vec<String> = Vec::new();
        for cell in self.lines.iter().flat_map(|line| &line.cells) {
            let gap = cell.missing.as_ref().map(|reason| format!("* {}: {reason}\n", cell.system));
            gaps.extend(gap.filter(|gap| !gaps.contains(gap)));
        }
        if !gaps.is_empty() {
            text += "\nWhat is missing, and why:\n\n";
            text += &gaps.concat();
        }
        text + "\n"
    }

    /// Bars of each system's rate over that of ext4.
    pub fn picture(&self) -> String {
        let groups: Vec<Group> = self
            .lines
            .iter()
            .map(|line| {
                let rate = |system: &str| line.cells.iter().find(|cell| cell.system == system).and_then(|cell| cell.rate);
                let base = rate(System::Ext4.name()).map_or(f64::NAN, |rate| rate.median);
                let bar = |cell: &Cell| {
                    let rate = cell.rate?;
                    Some((cell.system.to_owned(), rate.median / base, (rate.high - rate.low) / 2.0 / base))
                };
                Group { name: line.figure.to_owned(), bars: line.cells.iter().filter_map(bar).collect(), marks: vec![("ext4".into(), 1.0)] }
            })
            .filter(|group| group.bars.iter().any(|(_, height, _)| height.is_finite()))
            .collect();
        bars(&format!("Rates over that of ext4, images on {}", self.backing), &groups)
    }
}

fn line(figure: &Figure, number: usize, series: &[&Series]) -> Line {
    let rates = |system: System| -> Option<Vec<f64>> {
        let found = series.iter().find(|series| series.system == system)?;
        found.measured.rounds.iter().map(|round| round.get(number).copied()).collect()
    };
    let ours = rates(System::FerryfsImage).unwrap_or_default();
    let cells = series
        .iter()
        .map(|one| {
            let theirs = rates(one.system).unwrap_or_default();
            let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            let ratio = if one.system == System::FerryfsImage { None } else { Spread::of(&ratios) };
            let goal = goal(one.system, figure.goals);
            // A system that began and then failed has no figure: what it did before it failed is not what others did.
            let whole = one.measured.refusal.is_none();
            Cell {
                system: one.system.name(),
                rate: Spread::of(&theirs).filter(|_| whole),
                missing: one.measured.refusal.clone(),
                ferryfs_ratio: ratio.filter(|_| whole),
                goal: goal.filter(|_| whole),
            }
        })
        .collect();
    Line { figure: figure.name, unit: figure.unit, cells }
}

/// What FerryFS is to reach beside `system`.
fn goal(system: System, goals: Goals) -> Option<f64> {
    match system {
        System::Ceiling => goals.ceiling,
        System::Ext4 => goals.ext4,
        // Ahead on every row.
        System::Fuse2fs => Some(1.0),
        _ => None,
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(system: System, rounds: &[[f64; 2]], refusal: Option<&str>) -> Series {
        let measured = Measured { rounds: rounds.iter().map(|round| round.to_vec()).collect(), refusal: refusal.map(String::from) };
        Series { load: Load::Stream, system, measured }
    }

    #[test]
    fn ratios_are_those_of_rounds_and_gaps_have_reasons() {
        let table = Table::new(
            "memory",
            64,
            false,
            vec![
                series(System::FerryfsImage, &[[80.0, 50.0], [90.0, 60.0], [400.0, 70.0]], None),
                series(System::Ceiling, &[[100.0, 100.0], [100.0, 100.0], [400.0, 100.0]], None),
                series(System::Ext4, &[[100.0, 50.0], [45.0, 60.0], [200.0, 70.0]], None),
                series(System::Btrfs, &[[1.0, 1.0]], Some("no space left")),
            ],
        );
        let write = &table.lines[0];
        let ratio = |number: usize| write.cells[number].ferryfs_ratio.unwrap();
        assert_eq!(ratio(1), Spread { median: 0.9, low: 0.8, high: 1.0 }, "a noisy round is noisy on both sides");
        assert_eq!(ratio(2), Spread { median: 2.0, low: 0.8, high: 2.0 });
        assert!(write.cells[0].ferryfs_ratio.is_none() && write.cells[3].ferryfs_ratio.is_none() && write.cells[3].rate.is_none());
        let text = table.text();
        assert!(text.contains("0.90 times this (0.80 to 1.00), goal 0.8: reached") && text.contains("- no space left"), "{text}");
        let markdown = table.markdown();
        assert!(
            markdown
                .contains("| 90.0 | 100 | 100 | - | 0.90 (0.80 to 1.00), goal 0.8 reached | 2.00 (0.80 to 2.00), goal 1 reached | 1.00 |"),
            "{markdown}"
        );
        assert!(markdown.contains("0.60 (0.50 to 0.70), goal 0.8 **missed**") && markdown.contains("* btrfs: no space left"), "{markdown}");
        assert_eq!(table.picture().matches("<rect").count(), 2 * 3 + 1 + 3 + 1, "bars, ground, legend with ext4's mark");
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["lines"][1]["cells"][1]["goal"], 0.8);
    }
}
