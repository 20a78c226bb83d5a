//! `ferrycopy clone`: a whole device to the same addresses of another, batch by batch. After each batch what was copied is durable
//! and the state file says so; after a crash the batch under way is copied again.
//!
//! Zones of the destination are reset only where the state file says that this clone began them, or with `--force`.

use super::arguments::CloneArguments;
use super::clone_plan::{Chunk, Side, digest, joined, plan};
use super::copy::{complain_of_profile, config};
use super::devices::{are_same, open};
use super::identity::Identity;
use super::report::Summary;
use super::state::State;
use super::{interrupt, run};
use crate::copier::{Copier, Pace};
use crate::job::{CopyReport, Ending, RangeCopy};
use crate::ranges::{BytePosition, ByteRange};
use crate::stats::CopyCounters;
use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zns::{DeviceId, ZoneAction, ZoneId, ZoneInfo, ZoneState, ZonedDevice};

const SOURCE: DeviceId = DeviceId(0);
const DESTINATION: DeviceId = DeviceId(1);
/// Chunks of the first batch; later ones are as many as take about a second.
const FIRST_BATCH: usize = 1;
const LARGEST_BATCH: usize = 256;

#[derive(Clone, Debug, Serialize)]
struct CloneSummary {
    #[serde(flatten)]
    copied: Summary,
    /// Bytes of the whole clone.
    total: u64,
    /// Bytes that an earlier run had copied.
    resumed_from: u64,
}

struct Clone<'a> {
    copier: Copier,
    chunks: Vec<Chunk>,
    state: State,
    file: Option<&'a Path>,
    pace: Option<Arc<Pace>>,
    counters: CopyCounters,
    bytes: u64,
    simulated: bool,
    roads: Vec<String>,
}

pub(super) fn clone(arguments: &CloneArguments) -> Result<ExitCode> {
    let begin = Instant::now();
    ensure!(!are_same(&arguments.source, &arguments.destination), "source and destination are the same device");
    let from = open(&arguments.source, true, arguments.how.force)?;
    let made = make_file(&arguments.destination, from.size_bytes())?;
    let prepared = prepare(arguments, from);
    if made && prepared.is_err() {
        // Best effort: the error that is reported matters more than this one.
        let _ = std::fs::remove_file(&arguments.destination);
    }
    let mut clone = prepared?;
    interrupt::watch();
    let total = clone.chunks.iter().map(|chunk| chunk.length).sum();
    let resumed_from = clone.chunks[..clone.state.done].iter().map(|chunk| chunk.length).sum();
    let bar = run::bar(total);
    bar.set_position(resumed_from);
    let ending = clone.all(&bar)?;
    bar.finish_and_clear();
    if ending == Ending::Done
        && let Some(file) = &arguments.state
    {
        State::remove(file)?;
    }
    let route = if clone.roads.is_empty() { "none".to_owned() } else { clone.roads.join("+") };
    let copied = Summary::of(&clone.counters, clone.bytes, route, clone.simulated, &ending, begin.elapsed());
    let exit = copied.exit();
    CloneSummary { copied, total, resumed_from }.print(arguments.how.json, arguments.state.as_deref())?;
    Ok(ExitCode::from(exit))
}

/// A destination that does not exist becomes a sparse file.
fn make_file(path: &Path, size: u64) -> Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    let make = || File::create_new(path).and_then(|file| file.set_len(size));
    make().with_context(|| format!("making {}", path.display()))?;
    Ok(true)
}

fn zones_of(device: &dyn ZonedDevice) -> Result<Option<Vec<ZoneInfo>>> {
    let zones = device.geometry().zones;
    let mut infos = device.report(0..zones)?;
    if !infos.iter().any(|zone| device.has_write_pointer(zone.id)) {
        return Ok(None);
    }
    // What cannot be read cannot be cloned, and must not be passed over in silence.
    if let Some(zone) = infos.iter().find(|zone| zone.state == ZoneState::Offline) {
        bail!("{}: zone {} is offline", device.label(), zone.id);
    }
    for zone in infos.iter_mut().filter(|zone| !device.has_write_pointer(zone.id)) {
        zone.written = zone.capacity;
    }
    Ok(Some(infos))
}

/// Checks everything, before anything is touched.
fn prepare<'a>(arguments: &'a CloneArguments, from: Arc<dyn ZonedDevice>) -> Result<Clone<'a>> {
    let how = &arguments.how;
    let to = open(&arguments.destination, false, how.force)?;
    let (from_zones, to_zones) = (zones_of(&*from)?, zones_of(&*to)?);
    let chunks = plan(
        Side { geometry: from.geometry(), size: from.size_bytes(), zones: from_zones.as_deref() },
        Side { geometry: to.geometry(), size: to.size_bytes(), zones: to_zones.as_deref() },
    )?;
    let fresh = State::new(Identity::of(&arguments.source, &*from)?, Identity::of(&arguments.destination, &*to)?, digest(&chunks));
    let earlier = arguments.state.as_deref().map(State::load).transpose()?.flatten();
    let state = match earlier {
        Some(earlier) => {
            earlier.check(&fresh, chunks.len())?;
            State { done: earlier.done, begun: earlier.begun, ..fresh }
        }
        None => fresh,
    };
    if let Some(zones) = &to_zones {
        make_room(&*to, zones, &chunks, &state, how.force)?;
    }
    let copier = Copier::new(vec![from, to], config(how))?;
    complain_of_profile(&copier, SOURCE, DESTINATION);
    let pace = how.rate.map(|rate| Arc::new(Pace::new(rate)));
    let (counters, file) = (CopyCounters::default(), arguments.state.as_deref());
    Ok(Clone { copier, chunks, state, file, pace, counters, bytes: 0, simulated: false, roads: Vec::new() })
}

/// The zones that are still to be written must be empty: those that this clone began are reset, others only by force.
fn make_room(to: &dyn ZonedDevice, zones: &[ZoneInfo], chunks: &[Chunk], state: &State, force: bool) -> Result<()> {
    let size = to.geometry().zone_size_bytes();
    let mut to_reset = Vec::new();
    for (index, chunk) in chunks.iter().enumerate().skip(state.done) {
        let zone = &zones[(chunk.offset / size) as usize];
        if !to.has_write_pointer(zone.id) || zone.state == ZoneState::Empty {
            continue;
        }
        ensure!(
            index < state.begun || force,
            "{}: zone {} is not empty: --force resets it, and every other that the clone needs",
            to.label(),
            zone.id
        );
        to_reset.push(zone.id);
    }
    to_reset.into_iter().try_for_each(|zone: ZoneId| to.manage(zone, ZoneAction::Reset).with_context(|| format!("resetting zone {zone}")))
}

impl Clone<'_> {
    fn all(&mut self, bar: &ProgressBar) -> Result<Ending> {
        let mut batch = FIRST_BATCH;
        while self.state.done < self.chunks.len() {
            let begin = Instant::now();
            self.state.begun = (self.state.done + batch).min(self.chunks.len());
            self.save()?;
            let ending = self.batch(bar)?;
            if ending != Ending::Done {
                return Ok(ending);
            }
            self.state.done = self.state.begun;
            let took = begin.elapsed();
            if took < Duration::from_millis(500) {
                batch = (batch * 2).min(LARGEST_BATCH);
            } else if took > Duration::from_secs(2) {
                batch = (batch / 2).max(1);
            }
            if interrupt::asked() && self.state.done < self.chunks.len() {
                self.save()?;
                return Ok(Ending::Stopped);
            }
        }
        Ok(Ending::Done)
    }

    fn save(&self) -> Result<()> {
        self.file.map_or(Ok(()), |file| self.state.save(file))
    }

    /// Copies the chunks that are begun; durable when it is done.
    fn batch(&mut self, bar: &ProgressBar) -> Result<Ending> {
        let runs = joined(&self.chunks[self.state.done..self.state.begun]);
        let copies = runs.into_iter().map(|run| RangeCopy {
            sources: vec![ByteRange { device: SOURCE, offset: run.offset, length: run.length }],
            target: BytePosition { device: DESTINATION, offset: run.offset },
            pace: self.pace.clone(),
        });
        let reports = run::run_all(&self.copier, copies.collect(), bar)?;
        let mut ending = Ending::Done;
        for report in reports {
            self.book(&report);
            match (&ending, report.ending) {
                (Ending::Failed(_), _) | (_, Ending::Done) => {}
                (_, other) => ending = other,
            }
        }
        Ok(ending)
    }

    fn book(&mut self, report: &CopyReport) {
        self.counters.add(&report.counters);
        self.bytes += report.bytes;
        self.simulated |= report.simulated;
        for road in report.route().split('+').filter(|road| *road != "none") {
            if !self.roads.iter().any(|known| known == road) {
                self.roads.push(road.to_owned());
            }
        }
    }
}

impl CloneSummary {
    fn print(&self, json: bool, state: Option<&Path>) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            println!("{}", self.copied.text());
            if self.resumed_from > 0 {
                println!("an earlier run had copied {} of {} bytes", self.resumed_from, self.total);
            }
        }
        self.copied.complain();
        if self.copied.status != "done"
            && let Some(state) = state
        {
            eprintln!("ferrycopy: the same command goes on from the state file {}", state.display());
        }
        Ok(())
    }
}
