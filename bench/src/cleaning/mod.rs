//! `ferryfs-bench gc`: cleaning on a real volume, by each copy road, side by side.
//!
//! A volume is filled and aged once. Each run begins in exactly that state: one for each road, one without cleaning (the control: the same volume after all that
//! was worth cleaning was cleaned, with `gc=manual`, for as many bytes as its empty zones take), one on each of the other filesystems. The runs of a round
//! follow one another, round after round, so that what disturbs the machine disturbs all of them; shown are medians with the lowest and the highest. On an image
//! the copies are carried out by our own process, and everything says so.

mod figures;
pub(crate) mod others;
mod pictures;
mod stage;
mod workload;

use crate::loads::Load;
use crate::report::write;
use crate::rig::Rig;
use crate::traces;
use anyhow::{Context, Result, ensure};
use figures::{Run, Side, charge_relocation, table};
use fs::cli::size::parse_size;
use harness::bytes::MIB;
use harness::{Programs, Status, interrupt};
use others::{Other, Prepared, reason};
use serde::Serialize;
use stage::{Aged, Filling, Place, Played, Stage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use workload::{Limit, Workload};
use zns::image::DeviceModel;

fn bytes(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// Options of the benchmark.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// A block device; without one, an image
    device: Option<PathBuf>,
    /// Everything on the device may go
    #[arg(long)]
    overwrite: bool,
    /// Live share of the space
    #[arg(long, visible_alias = "utilization", default_value_t = 0.85)]
    fill: f64,
    /// How often as many bytes as the space has are overwritten at random before anything is measured
    #[arg(long, default_value_t = 1.0)]
    age: f64,
    /// uniform, zipf:ALPHA, drift:ALPHA, hotcold:TRAFFIC/SPACE, mixed:RANDOM, trim:SHARE or trace:[FORMAT:]FILE
    #[arg(long, default_value = "uniform")]
    load: Load,
    /// Bytes of a write
    #[arg(long, value_parser = bytes, default_value = "4K")]
    block_size: u64,
    /// An fsync after so many writes of a job; 0: none, and then FerryFS merges in memory what is overwritten soon
    #[arg(long, default_value_t = 64)]
    fsync_every: u64,
    /// Writers at the same time, each with a file of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Length of a run; 20 when neither this nor --bytes is given
    #[arg(long)]
    seconds: Option<u64>,
    /// Bytes of a run
    #[arg(long, value_parser = bytes)]
    bytes: Option<u64>,
    /// Runs of each kind, interleaved
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Copy roads, as in the mount option copy_route=
    #[arg(long, value_delimiter = ',', default_value = "offload,host", value_parser = ["offload", "host", "auto"])]
    roads: Vec<String>,
    /// Seed of everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Victim policy
    #[arg(long, default_value = "default")]
    policy: String,
    /// Placement
    #[arg(long, default_value = "default")]
    placement: String,
    /// Size of the image
    #[arg(long, value_parser = bytes, default_value = "1G")]
    size: u64,
    /// Zones of the image
    #[arg(long, value_parser = bytes, default_value = "4M")]
    zone_size: u64,
    /// Whose times an image plays
    #[arg(long, default_value = "none")]
    device_model: DeviceModel,
    /// Where images go; in memory (/dev/shm) when not given
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// The same load on other filesystems, each on a loop device over a file of the size of the image
    #[arg(long, value_enum, value_delimiter = ',')]
    vs: Vec<Other>,
    /// Draws pictures into this directory
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
}

/// A goal, and whether it is reached.
#[derive(Clone, Debug, Serialize)]
struct Goal {
    what: String,
    value: f64,
    goal: &'static str,
    reached: bool,
}

#[derive(Serialize)]
struct Results {
    bench: &'static str,
    processors: usize,
    kernel: String,
    load: String,
    block_size: u64,
    jobs: u32,
    fsync_every: u64,
    seed: u64,
    policy: String,
    placement: String,
    /// Live share that was asked for, and how often the space was overwritten before.
    fill: f64,
    age: f64,
    /// Devices of the volume, from its status.
    devices: Vec<serde_json::Value>,
    roads: Vec<Side>,
    control: Side,
    others: Vec<Side>,
    goals: Vec<Goal>,
    pictures: Vec<PathBuf>,
}

/// What is run in each round.
enum Subject {
    Control,
    Road(String),
    Other(Box<Prepared>),
}

/// Runs of one subject.
struct Column {
    subject: Subject,
    runs: Vec<Run>,
    /// The first one whole, for the pictures.
    first: Option<Played>,
    missing: Option<String>,
}

const AGED: &str = "aged.img";
const CLEANED: &str = "cleaned.img";

/// Runs the benchmark.
pub fn run(mut arguments: Arguments, quick: bool, json: Option<&Path>) -> Result<()> {
    if quick {
        arguments.rounds = 1;
        // mkfs.xfs makes nothing below 300 MiB.
        arguments.size = arguments.size.min(320 * MIB);
        arguments.zone_size = arguments.zone_size.min(MIB);
        arguments.seconds = Some(arguments.seconds.map_or(3, |seconds| seconds.min(3)));
    }
    check(&arguments)?;
    let mut named = Vec::new();
    arguments.vs.retain(|other| {
        !named.contains(other) && {
            named.push(*other);
            true
        }
    });
    // What is mounted and what lies in memory is taken down on the way out.
    interrupt::install();
    let workload = workload(&arguments)?;
    let rig = match &arguments.directory {
        Some(directory) => Rig::within(directory)?,
        None if arguments.device.is_some() => Rig::within(&std::env::temp_dir())?,
        // The aged volume, the cleaned one and the one that runs, and the same of each other filesystem.
        None => Rig::new(arguments.size.saturating_mul(3 + 2 * arguments.vs.len() as u64))?,
    };
    let stage = stage(&arguments, rig.path())?;
    let filling = Filling { share: arguments.fill, age: arguments.age };
    eprintln!("  filling and ageing");
    let aged = stage.aged(AGED, &workload, filling)?;
    if matches!(stage.place, Place::Image) {
        stage.cleaned(AGED, CLEANED)?;
    }
    let mut columns = columns(&arguments, &stage, &aged, filling);
    let limit = Limit { bytes: arguments.bytes, time: limit_of(&arguments) };
    for round in 1..=arguments.rounds {
        for column in columns.iter_mut().filter(|column| column.missing.is_none()) {
            interrupt::check()?;
            eprintln!("  round {round} of {}: {}", arguments.rounds, column.name());
            column.play(&stage, &workload, &aged, filling, limit)?;
        }
    }
    report(&arguments, columns, &aged, json)
}

/// Time of a run, if it is limited by time.
fn limit_of(arguments: &Arguments) -> Option<Duration> {
    match (arguments.seconds, arguments.bytes) {
        (None, Some(_)) => None,
        (seconds, _) => Some(Duration::from_secs(seconds.unwrap_or(20))),
    }
}

fn check(arguments: &Arguments) -> Result<()> {
    ensure!((0.1..=0.98).contains(&arguments.fill), "a fill of {}: between 0.1 and 0.98", arguments.fill);
    ensure!((0.0..=100.0).contains(&arguments.age), "an age of {}: between 0 and 100", arguments.age);
    let block = arguments.block_size;
    ensure!((4096..=4 * MIB).contains(&block) && block.is_multiple_of(4096), "writes of {block} bytes: multiples of 4096, up to 4 MiB");
    ensure!(arguments.seconds != Some(0) && arguments.bytes != Some(0), "a run needs a length");
    if let Some(device) = &arguments.device {
        ensure!(arguments.device_model == DeviceModel::None, "{} has times of its own: --device-model is for images", device.display());
        ensure!(arguments.overwrite, "everything on {} would be lost: add --overwrite if that is meant", device.display());
    }
    if matches!(arguments.load, Load::Trace { .. }) {
        ensure!(block == 4096, "traces have blocks of 4096 bytes, not of {block}");
        ensure!(arguments.jobs == 1, "a trace is replayed by one job: it has one order");
    }
    Ok(())
}

fn workload(arguments: &Arguments) -> Result<Workload> {
    let trace = match &arguments.load {
        Load::Trace { format, path } => Some(Arc::new(traces::read(path, *format)?)),
        _ => None,
    };
    Ok(Workload {
        load: arguments.load.clone(),
        trace,
        block: arguments.block_size,
        fsync_every: arguments.fsync_every,
        jobs: arguments.jobs,
        seed: arguments.seed,
        blocks: 0,
    })
}

fn stage(arguments: &Arguments, directory: &Path) -> Result<Stage> {
    let (place, format) = match &arguments.device {
        Some(device) => (Place::Device(std::path::absolute(device)?), vec!["--force".to_owned()]),
        None => {
            let words = ["--size", &arguments.size.to_string(), "--zone-size", &arguments.zone_size.to_string()].map(String::from);
            (Place::Image, words.to_vec())
        }
    };
    let options = vec![format!("policy={}", arguments.policy), format!("placement={}", arguments.placement)];
    let measured = vec![format!("device_model={}", arguments.device_model)];
    Ok(Stage { programs: Programs::find()?, directory: directory.to_owned(), place, format, options, measured })
}

fn columns(arguments: &Arguments, stage: &Stage, aged: &Aged, filling: Filling) -> Vec<Column> {
    let column = |subject| Column { subject, runs: Vec::new(), first: None, missing: None };
    let mut columns = vec![column(Subject::Control)];
    columns.extend(arguments.roads.iter().map(|road| column(Subject::Road(road.clone()))));
    for other in &arguments.vs {
        eprintln!("  filling and ageing {}", other.name());
        // A device of the same size.
        let size = match &stage.place {
            Place::Image => arguments.size,
            Place::Device(_) => {
                aged.status.devices().map(|d| d["zones"].as_u64().unwrap_or(0) * d["zone_size"].as_u64().unwrap_or(0)).sum()
            }
        };
        let prepared = Prepared::new(*other, &stage.directory, size, &aged.workload, filling, aged.total);
        columns.push(match prepared {
            Ok(prepared) => column(Subject::Other(Box::new(prepared))),
            Err(error) => {
                eprintln!("  {} is left out: {}", other.name(), reason(&error));
                Column { missing: Some(reason(&error)), ..column(Subject::Road(other.name().to_owned())) }
            }
        });
    }
    columns
}

impl Column {
    fn name(&self) -> &str {
        match &self.subject {
            Subject::Control => "without cleaning",
            Subject::Road(road) => road,
            Subject::Other(prepared) => prepared.other.name(),
        }
    }

    fn play(&mut self, stage: &Stage, workload: &Workload, aged: &Aged, filling: Filling, limit: Limit) -> Result<()> {
        let again;
        let aged = match (&stage.place, &self.subject) {
            (Place::Device(_), Subject::Control | Subject::Road(_)) => {
                again = stage.aged(AGED, workload, filling)?;
                &again
            }
            _ => aged,
        };
        let played = match &self.subject {
            Subject::Control => match stage.control(CLEANED, aged, limit)? {
                Ok(played) => played,
                Err(why) => {
                    self.missing = Some(why);
                    return Ok(());
                }
            },
            Subject::Road(road) => stage.play(AGED, aged, &[format!("copy_route={road}")], limit).with_context(|| format!("by {road}"))?,
            Subject::Other(prepared) => {
                match prepared.play(limit) {
                    Ok(run) => self.runs.push(run),
                    Err(error) => self.missing = Some(reason(&error)),
                }
                return Ok(());
            }
        };
        self.runs.push(played.run.clone());
        self.first.get_or_insert(played);
        Ok(())
    }

    fn side(&self, aged: &Aged) -> Side {
        let mut side = Side::of(self.name(), &self.runs);
        side.fill = match &self.subject {
            Subject::Other(prepared) => aged.used * prepared.share,
            _ => aged.used,
        };
        if let Some(status) = self.first.as_ref().map(|played| &played.status) {
            side.simulated = is_simulated(status);
            let model = status.devices().find_map(|device| device.get("device_model")?.as_str());
            side.device_model = model.unwrap_or("none").to_owned();
        }
        side.missing.clone_from(&self.missing);
        side
    }
}

/// Figures of an image are, also when the host copies.
fn is_simulated(status: &Status) -> bool {
    status.simulated() || status.devices().any(|device| device["kind"] == "image")
}

fn report(arguments: &Arguments, mut columns: Vec<Column>, aged: &Aged, json: Option<&Path>) -> Result<()> {
    let control = columns[0].side(aged);
    for column in &mut columns[1..] {
        column.runs.iter_mut().for_each(|run| charge_relocation(run, &control));
    }
    let (roads, others) = columns[1..].split_at(arguments.roads.len());
    let sides = |columns: &[Column]| columns.iter().map(|column| column.side(aged)).collect::<Vec<Side>>();
    let goals = goals(&sides(roads), &control);
    let pictures = match &arguments.svg {
        Some(directory) => draw(directory, arguments, &columns, &sides(roads))?,
        None => Vec::new(),
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let results = Results {
        bench: "gc",
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        kernel,
        load: arguments.load.to_string(),
        block_size: arguments.block_size,
        jobs: arguments.jobs,
        fsync_every: arguments.fsync_every,
        seed: arguments.seed,
        policy: aged.status.text("gc/policy")?.to_owned(),
        placement: aged.status.text("gc/placement")?.to_owned(),
        fill: arguments.fill,
        age: arguments.age,
        devices: columns
            .iter()
            .find_map(|column| column.first.as_ref())
            .map_or(&aged.status, |played| &played.status)
            .devices()
            .cloned()
            .collect(),
        roads: sides(roads),
        control,
        others: sides(others),
        goals,
        pictures,
    };
    print(&results);
    write(json, &results)
}

fn print(results: &Results) {
    let what = format!("{}, writes of {} bytes by {}", results.load, results.block_size, results.jobs);
    println!(
        "\ncleaning on {} processors, Linux {}: {what}, {:.0} % full, aged {} times",
        results.processors,
        results.kernel,
        results.fill * 100.0,
        results.age
    );
    for device in &results.devices {
        let text = |name: &str| device[name].as_str().unwrap_or("?").to_owned();
        let model = results.roads.first().map_or("none", |side| &side.device_model);
        println!(
            "  {}: {}, {} zones of {} MiB, device model: {model}",
            text("path"),
            text("kind"),
            device["zones"],
            device["zone_size"].as_u64().unwrap_or(0) / MIB
        );
    }
    let all: Vec<&Side> = std::iter::once(&results.control).chain(&results.roads).chain(&results.others).collect();
    let (there, missing): (Vec<&Side>, Vec<&Side>) = all.iter().partition(|side| side.missing.is_none());
    print!("{}", table(&there));
    for side in missing {
        println!("  {}: left out: {}", side.name, side.missing.as_deref().unwrap_or(""));
    }
    for side in results.others.iter().filter(|side| side.missing.is_none() && (side.fill - results.fill).abs() > 0.05) {
        println!("  {}: could not be filled as much; its files take {:.0} %", side.name, side.fill * 100.0);
    }
    let model = results.roads.first().map_or("none", |side| &side.device_model);
    if !results.others.is_empty() && (model != "none" || !is_simulated_side(&results.roads)) {
        println!(
            "  the other filesystems: on loop devices over files in this machine's memory or disk, whose times are not those of the drive"
        );
    }
    for goal in &results.goals {
        println!("  goal: {}: {:.2}, {}: {}", goal.what, goal.value, goal.goal, if goal.reached { "reached" } else { "MISSED" });
    }
    if all.iter().any(|side| side.simulated) {
        println!(
            "  simulated: an image plays the drive; copies are carried out by our own process, and its processor time is in the daemon's"
        );
    }
}

fn is_simulated_side(roads: &[Side]) -> bool {
    roads.iter().any(|side| side.simulated)
}

/// The goals that one run can tell.
fn goals(roads: &[Side], control: &Side) -> Vec<Goal> {
    let mut goals = Vec::new();
    let find = |name: &str| roads.iter().find(|side| side.name == name);
    if let Some(offload) = find("offload").or_else(|| find("auto")) {
        let mut add = |what: &str, value: Option<f64>, goal, reached: &dyn Fn(f64) -> bool| {
            if let Some(value) = value {
                goals.push(Goal { what: what.to_owned(), value, goal, reached: reached(value) });
            }
        };
        let ratio = |key: &str, to: Option<&Side>| Some(offload.median(key)? / to?.median(key).filter(|value| *value > 0.0)?);
        add("p99.9 of writes, with cleaning by without", ratio("write_us_p999", Some(control)), "at most 2", &|value| value <= 2.0);
        let pause = offload.median("pause_us_max").zip(offload.median("copy_command_us_max").filter(|us| *us > 0.0));
        add(
            "longest pause for cleaning by the slowest copy command",
            pause.map(|(pause, command)| pause / command),
            "at most 4",
            &|value| value <= 4.0,
        );
        let through = offload.median("relocation_read").zip(offload.median("relocation_written")).map(|(read, written)| read + written);
        add("payload of relocation through the host, MiB", through, "0", &|value| value == 0.0);
        add("bytes over the link by those of the host road", ratio("link_per_user_byte", find("host")), "at most 0.2", &|value| {
            value <= 0.2
        });
        let cpu = |side: &Side| Some(side.median("cleaning_cpu_user_per_gib")? + side.median("cleaning_cpu_kernel_per_gib")?);
        let gain = find("host").and_then(cpu).zip(cpu(offload)).map(|(host, offload)| host / offload.max(1e-9));
        add("processor time for each GiB relocated: times less than the host road's", gain, "at least 10", &|value| value >= 10.0);
    }
    goals
}

fn draw(directory: &Path, arguments: &Arguments, columns: &[Column], roads: &[Side]) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut drawn = Vec::new();
    let mut save = |name: String, svg: String| -> Result<()> {
        let path = directory.join(name);
        std::fs::write(&path, svg).with_context(|| path.display().to_string())?;
        drawn.push(path);
        Ok(())
    };
    let load = format!("{} at {:.0} %", arguments.load, arguments.fill * 100.0);
    for column in columns {
        let Some(played) = &column.first else { continue };
        let simulated = if is_simulated(&played.status) { " (simulated)" } else { "" };
        let name = if matches!(column.subject, Subject::Control) { "control" } else { column.name() };
        save(
            format!("latency-{name}.svg"),
            pictures::latency(&format!("{load}, {}: latency of writes{simulated}", column.name()), played),
        )?;
        let title = format!("{load}, {}: zones, darker with more live blocks{simulated}", column.name());
        save(format!("zones-{name}.svg"), pictures::zones(&title, &played.zones[0], &played.zones[1]))?;
    }
    let simulated = if roads.iter().any(|side| side.simulated) { " (simulated)" } else { "" };
    save("traffic.svg".into(), pictures::traffic(&format!("{load}: bytes over the link for each byte of users{simulated}"), roads))?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Arguments {
        Line::parse_from(std::iter::once("gc").chain(line.split_whitespace())).arguments
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (line, part) in [
            ("--fill 0.99", "between 0.1 and 0.98"),
            ("--block-size 5000", "multiples of 4096"),
            ("--seconds 0", "needs a length"),
            ("/dev/x", "would be lost"),
            ("/dev/x --device-model smr", "times of its own"),
            ("--load trace:a --jobs 2", "one job"),
            ("--load trace:a --block-size 8K", "4096"),
            ("--age 1000", "between 0 and 100"),
        ] {
            assert!(check(&parse(line)).unwrap_err().to_string().contains(part), "{line}");
        }
        assert!(check(&parse("--load zipf:0.9 --roads host --vs xfs,ext4 --bytes 64M")).is_ok());
    }

    #[test]
    fn a_run_is_as_long_as_was_said() {
        assert_eq!(limit_of(&parse("")), Some(Duration::from_secs(20)));
        assert_eq!(limit_of(&parse("--bytes 1M")), None);
        assert_eq!(limit_of(&parse("--bytes 1M --seconds 2")), Some(Duration::from_secs(2)));
    }

    #[test]
    fn goals_compare_the_roads() {
        let side = |name: &str, p999: f64, moved: f64, link: f64, cpu: f64| {
            let run: Run = [
                ("pause_us_max", 3.0 * p999),
                ("copy_command_us_max", 180.0),
                ("write_us_p999", p999),
                ("relocation_read", moved),
                ("relocation_written", moved),
                ("link_per_user_byte", link),
            ]
            .into();
            let cpu: Run = [("cleaning_cpu_user_per_gib", cpu), ("cleaning_cpu_kernel_per_gib", cpu)].into();
            Side::of(name, &[run.into_iter().chain(cpu).collect()])
        };
        let roads = [side("offload", 300.0, 0.0, 1.2, 0.01), side("host", 900.0, 50.0, 6.5, 0.05)];
        let goals = goals(&roads, &side("without cleaning", 100.0, 0.0, 1.1, 0.0));
        let found: Vec<(f64, bool)> = goals.iter().map(|goal| ((goal.value * 100.0).round() / 100.0, goal.reached)).collect();
        assert_eq!(found, [(3.0, false), (5.0, false), (0.0, true), (0.18, true), (5.0, false)]);
    }
}
