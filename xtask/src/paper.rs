//! `cargo xtask bench gc --paper`: the tables of write amplification that papers on cleaning print, measured by the simulator, with ours beside them, into
//! BENCHMARKS.md with the command that makes each.
//!
//! Every figure of a table is measured by its command; limits are computed. Nothing is copied from a paper.

use anyhow::{Context, Result, ensure};
use harness::Programs;
use std::fmt::Write as _;
use std::path::Path;

/// A scheme: what a row is called, victim policy, placement.
type Scheme = (&'static str, &'static str, &'static str);

/// A table: rows are schemes, columns loads or utilizations.
struct Table {
    title: &'static str,
    words: &'static str,
    /// Options of `ferryfs-bench wa` that all of its runs share.
    options: &'static str,
    loads: &'static [&'static str],
    utilizations: &'static [&'static str],
    schemes: &'static [Scheme],
}

const NONE: Scheme = ("no separation, greedy", "greedy", "none");
const OURS: Scheme = ("**adaptive, declining cost (ours)**", "declining-cost", "adaptive");
const OURS_IN_VOLUMES: Scheme =
    ("**adaptive in zones, declining cost (ours, as volumes have it: the default)**", "declining-cost", "adaptive-zones");
/// Published schemes, as their authors set them up, and ours.
const SCHEMES: [Scheme; 8] = [
    NONE,
    ("separate GC writes, cost-benefit", "cost-benefit", "separate"),
    ("hot/warm/cold, cost-benefit", "cost-benefit", "hot-warm-cold"),
    ("DAC (6), cost-benefit", "cost-benefit", "dac"),
    ("SepBIT, cost-benefit by the root of age", "cost-benefit-root", "sepbit"),
    ("MiDAS, cost-benefit", "cost-benefit", "midas"),
    OURS,
    OURS_IN_VOLUMES,
];

const TABLES: [Table; 4] = [
    Table {
        title: "Greedy cleaning of uniform overwrites, by utilization",
        words: "The limit is 1 - 1/A = exp(-a/A) with a = 1/u, for segments without end in size and number: those of 256 blocks come out a little below it. Every segment is charged, the open one and the reserve included.",
        options: "--capacity fixed --blocks 262144 --segment-blocks 256 --passes 10",
        loads: &["uniform"],
        utilizations: &["0.70", "0.75", "0.80", "0.85", "0.90", "0.931", "0.95"],
        schemes: &[NONE],
    },
    Table {
        title: "Zipf at u = 0.85",
        words: "A working set of 100 segments of 1024 blocks; cleaning begins at 15 % of garbage, as in the papers on placement, and open segments cost nothing. Drifting: the hottest fifth is permuted whenever \
                a hundredth of the working set has been written.",
        options: "--capacity garbage --blocks 120832 --segment-blocks 1024 --passes 6",
        loads: &["zipf:0", "zipf:0.4", "zipf:0.6", "zipf:0.8", "zipf:1", "drift:1"],
        utilizations: &["0.85"],
        schemes: &SCHEMES,
    },
    Table {
        title: "Hot and cold at u = 0.85",
        words: "As above. 90/10: nine tenths of the writes go to a tenth of the blocks.",
        options: "--capacity garbage --blocks 120832 --segment-blocks 1024 --passes 6",
        loads: &["hotcold:80/20", "hotcold:90/10", "hotcold:95/5"],
        utilizations: &["0.85"],
        schemes: &SCHEMES,
    },
    Table {
        title: "The same with a fixed capacity",
        words: "What a device has: open segments and the one in reserve are charged, which costs schemes with many classes most.",
        options: "--capacity fixed --blocks 120832 --segment-blocks 1024 --passes 6",
        loads: &["zipf:0", "zipf:0.6", "zipf:1", "drift:1", "hotcold:90/10"],
        utilizations: &["0.85"],
        schemes: &SCHEMES,
    },
];

/// Means of one run: load, utilization, and a line of the table.
struct Found {
    rows: Vec<serde_json::Value>,
}

impl Found {
    fn number(&self, load: &str, utilization: &str, key: &str) -> Option<f64> {
        let asked: f64 = utilization.parse().ok()?;
        let same = |row: &&serde_json::Value| row["load"] == load && row["utilization"].as_f64() == Some(asked);
        self.rows.iter().find(same)?[key].as_f64()
    }
}

impl Table {
    /// The command that makes a row.
    fn command(&self, scheme: &Scheme) -> Vec<String> {
        let mut words = vec!["wa".to_owned()];
        words.extend(self.options.split_whitespace().map(String::from));
        words.extend(self.loads.iter().flat_map(|load| ["--load".to_owned(), (*load).to_owned()]));
        words.extend(self.utilizations.iter().flat_map(|utilization| ["--utilization".to_owned(), (*utilization).to_owned()]));
        words.extend(["--policy", scheme.1, "--placement", scheme.2].map(String::from));
        words
    }

    fn columns(&self) -> Vec<(&'static str, &'static str)> {
        self.loads.iter().flat_map(|load| self.utilizations.iter().map(move |utilization| (*load, *utilization))).collect()
    }

    /// The table as Markdown, from what each scheme's command found.
    fn render(&self, found: &[Found]) -> String {
        let columns = self.columns();
        let name = |(load, utilization): &(&str, &str)| {
            if self.utilizations.len() > 1 { format!("u = {utilization}") } else { (*load).to_owned() }
        };
        let mut text =
            format!("## {}\n\n{}\n\n| WA | {} |\n", self.title, self.words, columns.iter().map(name).collect::<Vec<_>>().join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
        let line = |text: &mut String, name: &str, found: &Found, key: &str| {
            let cell =
                |(load, utilization): &(&str, &str)| found.number(load, utilization, key).map_or("-".to_owned(), |wa| format!("{wa:.2}"));
            let _ = writeln!(text, "| {name} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
        };
        for (scheme, found) in self.schemes.iter().zip(found) {
            line(&mut text, scheme.0, found, "wa");
        }
        if let Some(found) = found.first() {
            for (name, key) in [
                ("limit of greedy cleaning, by formula", "analytic_wa"),
                ("optimum with known rates, computed", "optimum_wa"),
                ("the future known (oracle)", "oracle_wa"),
            ] {
                if columns.iter().any(|(load, utilization)| found.number(load, utilization, key).is_some()) {
                    line(&mut text, name, found, key);
                }
            }
        }
        let quoted = |scheme: &Scheme| format!("    ferryfs-bench {}\n", self.command(scheme).join(" "));
        text + "\n" + &self.schemes.iter().map(quoted).collect::<String>() + "\n"
    }
}

const HEAD: &str = "# Measured: write amplification by simulation\n\n\
    Made by `cargo xtask bench gc --paper`, which writes this part. Every figure is measured by the command under its table (seed 1 unless it names others); limits are\n\
    computed. As many passes warm up as are counted (`--passes`): schemes that learn slowly have not settled after six (MiDAS changes its layout once while it is counted), and with one seed differences of a few hundredths are chance. The simulator knows addresses alone: there is no filesystem and no metadata in these figures. What papers report of traces (Alibaba, Tencent, MSR) needs\n\
    the traces, which are not ours to give: `ferryfs-bench wa --load trace:FILE` runs them.\n\n";

/// Runs everything and writes the file.
pub fn run(programs: &Programs, file: &Path, out: &Path) -> Result<()> {
    let mut text = HEAD.to_owned();
    for (number, table) in TABLES.iter().enumerate() {
        let mut found = Vec::new();
        for scheme in table.schemes {
            crate::interrupt::check()?;
            let json = out.join(format!("paper-{number}-{}-{}.json", scheme.1, scheme.2));
            let mut command = programs.command("ferryfs-bench")?;
            let status = command.args(table.command(scheme)).arg("--json").arg(&json).status()?;
            ensure!(status.success(), "ferryfs-bench {} ended with {status}", table.command(scheme).join(" "));
            let results: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json)?).context("results of wa")?;
            found.push(Found { rows: results["means"].as_array().cloned().context("wa gave no means")? });
        }
        text += &table.render(&found);
    }
    crate::benchmarks::put(file, "write amplification", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_figure_stands_in_its_row_and_under_its_command() {
        let table = Table { loads: &["zipf:0.4", "drift:1"], schemes: &[NONE, OURS], ..TABLES[1] };
        let row = |load: &str, wa: f64, optimum: Option<f64>| json!({ "load": load, "utilization": 0.85, "wa": wa, "optimum_wa": optimum, "oracle_wa": 1.25 });
        let found = [3.6, 3.4].map(|wa| Found { rows: vec![row("zipf:0.4", wa, Some(3.38)), row("drift:1", wa + 1.0, None)] });
        let text = table.render(&found);
        for line in [
            "| WA | zipf:0.4 | drift:1 |",
            "| no separation, greedy | 3.60 | 4.60 |",
            "| **adaptive, declining cost (ours)** | 3.40 | 4.40 |",
            "| optimum with known rates, computed | 3.38 | - |",
            "| the future known (oracle) | 1.25 | 1.25 |",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("by formula"), "no load of it is uniform by name");
        assert_eq!(text.matches("    ferryfs-bench wa --capacity garbage").count(), 2);
    }

    #[test]
    fn a_table_by_utilization_names_them() {
        let found = Found { rows: vec![json!({ "load": "uniform", "utilization": 0.7, "wa": 1.88, "analytic_wa": 1.88 })] };
        let text = TABLES[0].render(&[found]);
        assert!(text.contains("u = 0.70 | u = 0.75") && text.contains("| no separation, greedy | 1.88 | - |"), "{text}");
    }
}
