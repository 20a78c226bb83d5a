//! `crash_states`: enumerates what power cuts leave of volumes of every kind, until a given number of distinct states was checked. What it covered is
//! printed and written as JSON; it ends with 1 if any state may not be.

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tests::sim::explore::ace::{self, Seam, Sequence};
use tests::sim::explore::{Depth, Explorer, Report, VolumeKind};
use zns::sim::{Bounds, Lie};

/// Crash states of all short sequences of operations, enumerated
#[derive(Parser)]
struct Arguments {
    /// Distinct states to check
    #[arg(long, default_value_t = 1_000_000)]
    states: u64,
    /// A twentieth of them
    #[arg(long)]
    quick: bool,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Sequences of three that are tried before it is asked again whether there are enough states.
const AT_ONCE: usize = 500;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let goal = if arguments.quick { arguments.states / 20 } else { arguments.states };
    let begun = Instant::now();
    let depth = Depth { bounds: Bounds { all: 96, drawn: 24, torn: 24 }, recoveries: 2048, uses: 128 };
    let explorer = Explorer::new(depth, Lie::None);
    let mut report = Report::default();
    let mut explore = |title: &str, sequences: Vec<Sequence>| {
        report = std::mem::take(&mut report).merged(explorer.explore(&VolumeKind::ALL, &sequences, goal));
        eprintln!("{title}: {} distinct states, {} violations, {} s", report.distinct, report.violations.len(), begun.elapsed().as_secs());
        report.violations.is_empty() && report.distinct < goal
    };
    let mut goes_on = explore("one operation", ace::singles()) && explore("two operations", ace::pairs(&[], &[], arguments.seed));
    goes_on = goes_on && explore("two operations, all seams between", ace::pairs(&Seam::ALL, &[], arguments.seed + 1));
    let mut seed = arguments.seed;
    while goes_on {
        seed += 1;
        goes_on = explore("three operations", ace::triples(AT_ONCE, seed));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{report}");
    report.violations.iter().take(10).for_each(|violation| println!("{violation}"));
    let (cores, rate) = (rayon::current_num_threads(), report.distinct as f64 / seconds);
    println!("{seconds:.0} s on {cores} processors: {rate:.0} distinct states a second");
    let asserts = cfg!(debug_assertions);
    if let Some(path) = &arguments.json {
        let violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
        let all = json!({ "bench": "crash", "simulated": true, "goal": goal, "seed": arguments.seed, "seconds": seconds, "processors": cores,
            "assertions": asserts, "violations": violations, "report": report });
        std::fs::write(path, serde_json::to_string_pretty(&all)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(if report.violations.is_empty() && report.distinct >= goal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
