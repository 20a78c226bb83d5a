//! One request on its way: the commands still to come, those in flight, and what has been copied for certain.
//!
//! Into a sequential zone one command is in flight (I1). Into a zone without a write pointer, or with one that is kept in software, several are:
//! they are concluded in the order of their submission, and when one fails the others are waited for and count for nothing: what they wrote is
//! written over, or dead (I9).

use crate::backend::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, Road, SourceRange, Target};
use crate::engine::{CopyEngine, CopyRequest, CopyResult, RouteChoice};
use crate::error::Result;
use crate::foreground::Pass;
use crate::governor::Governor;
use crate::learning::Shape;
use crate::plan;
use crate::sizes::Bounds;
use crate::stats::CopyCounters;
use crate::verify::{self, Check, Finding};
use crate::workers::survive;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use zns::{DeviceId, Lba, Ticket, ZoneId, ZoneState};

/// A command that a road is carrying out. Dropped, it is waited for: whatever ends the copy, a panic as well, nothing is written to a zone any more that
/// somebody else may have then.
struct Flight {
    backend: Arc<dyn CopyBackend>,
    command: CopyCommand,
    /// `None`: it could not even be started, or has landed.
    ticket: Option<Ticket>,
    started: Instant,
    /// Its place among those in flight of the engine.
    _pass: Pass,
}

impl Flight {
    /// Waits for it.
    fn land(&mut self) -> Option<CopyOutcome> {
        self.ticket.take().map(|ticket| self.backend.complete(ticket))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            survive(|| self.land());
        }
    }
}

/// Where a request stands.
pub(crate) enum Next {
    /// Commands are in flight: the oldest is to be waited for.
    Flying,
    /// It has none in flight, and as many are as may be: somebody else's must end first.
    NoTurn,
    /// It has come to its end.
    Ended(Result<CopyResult>),
}

/// What became of an attempt to start a command.
enum Start {
    Started,
    /// Those in flight must end first.
    Later,
    NoTurn,
    Ended(Result<CopyResult>),
}

/// Commands that were planned, and for which road and bounds.
struct Planned {
    backend: Arc<dyn CopyBackend>,
    commands: VecDeque<CopyCommand>,
    /// The device that the sources are on.
    from: DeviceId,
    bounds: Bounds,
    /// How many may be in flight.
    depth: usize,
}

/// A request that is being carried out.
pub(crate) struct Progress {
    request: CopyRequest,
    total: u64,
    /// Bytes known to be copied (and verified where that was asked for).
    done: u64,
    /// Bytes in commands that were started.
    issued: u64,
    planned: Option<Planned>,
    flights: VecDeque<Flight>,
    road: Road,
    /// The command in flight is the first of its road between its devices: what it did is looked at, whatever the settings.
    proving: bool,
    counters: CopyCounters,
    /// The governor wanted no more.
    stopped: bool,
    /// Bytes behind those done that are the host's.
    for_host: u64,
}

/// What became of a request, with what it cost.
pub(crate) struct Carried {
    /// What the caller of the engine learns.
    pub result: Result<CopyResult>,
    /// Bytes known to be copied, parts of sources included.
    pub bytes: u64,
    /// What was counted for this request alone.
    pub counters: CopyCounters,
    /// It ended because the governor wanted no more.
    pub stopped: bool,
    /// Bytes behind those that the host should carry: [`CopyResult::for_host`], to the byte.
    pub for_host: u64,
}

impl Carried {
    /// Nothing was done.
    pub fn not_begun(result: Result<CopyResult>) -> Self {
        Self { result, bytes: 0, counters: CopyCounters::default(), stopped: false, for_host: 0 }
    }
}

impl Progress {
    pub fn new(engine: &CopyEngine, request: CopyRequest) -> Result<Self> {
        let total = plan::check(&engine.devices[..], &request.sources, request.target)?;
        Ok(Self {
            request,
            total,
            done: 0,
            issued: 0,
            planned: None,
            flights: VecDeque::new(),
            road: Road::Host,
            proving: false,
            counters: CopyCounters::default(),
            stopped: false,
            for_host: 0,
        })
    }

    /// The end of the request.
    pub fn into_carried(self, result: Result<CopyResult>) -> Carried {
        Carried { result, bytes: self.done, counters: self.counters, stopped: self.stopped, for_host: self.for_host }
    }

    /// Counts for the engine and for this request.
    fn count(&mut self, engine: &CopyEngine, what: impl Fn(&mut CopyCounters)) {
        engine.stats.count(self.request.class, &what);
        what(&mut self.counters);
    }

    /// Are commands in flight?
    pub fn is_flying(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Is the first command of a road in flight, on which it depends whether the road is believed?
    pub fn is_proving(&self) -> bool {
        self.proving && self.is_flying()
    }

    /// Starts as many commands as may be in flight.
    pub fn launch(&mut self, engine: &CopyEngine, governor: &dyn Governor) -> Next {
        loop {
            match self.start(engine, governor) {
                Start::Started => {}
                Start::Later => return Next::Flying,
                Start::NoTurn => return Next::NoTurn,
                Start::Ended(result) => return Next::Ended(result),
            }
        }
    }

    fn start(&mut self, engine: &CopyEngine, governor: &dyn Governor) -> Start {
        let flying = !self.flights.is_empty();
        if self.stopped || self.issued == self.total {
            return if flying { Start::Later } else { Start::Ended(Ok(self.result(engine, None))) };
        }
        if self.planned.as_ref().is_some_and(|planned| self.flights.len() >= planned.depth) {
            return Start::Later;
        }
        if let Err(refusal) = self.ready(engine, governor) {
            return if flying { Start::Later } else { Start::Ended(refusal) };
        }
        let Some(planned) = &mut self.planned else { return Start::Later };
        if self.flights.len() >= planned.depth {
            return Start::Later;
        }
        let Some(pass) = engine.gate.enter(planned.bounds.in_flight) else {
            return if flying { Start::Later } else { Start::NoTurn };
        };
        let (Some(command), backend) = (planned.commands.pop_front(), planned.backend.clone()) else { return Start::Later };
        let bytes = command.sources.iter().map(|source| bytes_of(engine, source)).sum();
        if !governor.admit(bytes) {
            self.stopped = true;
            return if flying { Start::Later } else { Start::Ended(Ok(self.result(engine, None))) };
        }
        let started = Instant::now();
        let ticket = backend.submit(command.clone()).map_err(|error| tracing::warn!(%error, "cannot start a copy")).ok();
        self.issued += bytes;
        self.flights.push_back(Flight { backend, command, ticket, started, _pass: pass });
        Start::Started
    }

    /// Sees to it that a command is planned that may be started next to those in flight. `Err`: there is none; with none in flight, that is the end.
    fn ready(&mut self, engine: &CopyEngine, governor: &dyn Governor) -> std::result::Result<(), Result<CopyResult>> {
        if let Some(planned) = self.planned.as_ref().filter(|planned| !planned.commands.is_empty()) {
            // Users may have begun to read, or ended.
            let now = self.bounds(engine, planned.from, &planned.backend, governor);
            if self.proving || now == Some(planned.bounds) {
                return Ok(());
            }
        }
        let unsupported = |this: &Self| Ok(this.result(engine, Some(FailureKind::Unsupported)));
        let next = match self.plan(engine, governor) {
            Ok(Some(next)) => next,
            // The road was closed since the caller asked for it: nothing is wrong with the zone.
            Ok(None) => return Err(unsupported(self)),
            Err(error) if self.done == 0 => return Err(Err(error)),
            Err(_) => return Err(unsupported(self)),
        };
        // Commands of another road, or from another device, begin when those in flight have ended.
        let same = |old: &Planned| Arc::ptr_eq(&old.backend, &next.backend) && old.from == next.from;
        if !self.flights.is_empty() && !self.planned.as_ref().is_some_and(same) {
            return Err(unsupported(self));
        }
        self.planned = Some(next);
        Ok(())
    }

    /// The bounds of the next command of a road.
    fn bounds(&self, engine: &CopyEngine, from: DeviceId, backend: &Arc<dyn CopyBackend>, governor: &dyn Governor) -> Option<Bounds> {
        let chosen = engine.choose(from, self.request.target.device, self.request.road).ok()??;
        let same = Arc::ptr_eq(&chosen.backend, backend);
        same.then(|| self.bounds_of(engine, from, &chosen.caps, governor))
    }

    fn bounds_of(&self, engine: &CopyEngine, from: DeviceId, caps: &CopyCaps, governor: &dyn Governor) -> Bounds {
        let bounds = engine.sizes(from, self.request.target.device, caps).bounds(engine.foreground().is_active());
        Bounds { command_bytes: bounds.command_bytes.min(governor.command_bytes().max(plan::UNIT)), ..bounds }
    }

    /// Plans what is left, up to where the sources change device. `None`: no road of the right kind.
    fn plan(&mut self, engine: &CopyEngine, governor: &dyn Governor) -> Result<Option<Planned>> {
        let mut left = plan::rest(&engine.devices[..], &self.request.sources, self.issued)?;
        let Some(from) = left.first().map(|source| source.device) else { return Ok(None) };
        let to = self.request.target.device;
        let change = left.iter().position(|source| source.device != from).unwrap_or(left.len());
        left.truncate(change);
        let Some(chosen) = engine.choose(from, to, self.request.road)? else { return Ok(None) };
        let target = Target { device: to, lba: self.after(engine, self.issued)? };
        self.proving = chosen.backend.needs_proof() && !engine.routes.lock().is_proven(from, to);
        let bounds = self.bounds_of(engine, from, &chosen.caps, governor);
        let caps = if self.proving { one_unit(&chosen.caps) } else { within(&chosen.caps, &bounds) };
        let one_by_one = self.proving || chosen.one_by_one;
        if one_by_one {
            // The tiny limits of a trial would cut all that is left into thousands of commands of which one is sent.
            left = plan::beginning(&engine.devices[..], &left, to, caps.max_command_bytes)?;
        }
        let mut commands: VecDeque<CopyCommand> = plan::plan(&engine.devices[..], &left, target, &caps, self.request.class)?.into();
        if one_by_one {
            commands.truncate(1);
        }
        let depth = if one_by_one { 1 } else { self.depth(engine, &*chosen.backend, &bounds)? };
        Ok((!commands.is_empty()).then_some(Planned { backend: chosen.backend, commands, from, bounds, depth }))
    }

    /// How many commands may be in flight into the destination.
    fn depth(&self, engine: &CopyEngine, backend: &dyn CopyBackend, bounds: &Bounds) -> Result<usize> {
        let to = engine.device(self.request.target.device)?;
        let anywhere = !to.has_write_pointer(to.geometry().zone_of(self.request.target.lba));
        let several = match backend.road() {
            // It keeps several reads and writes of one command in flight.
            Road::Host => false,
            _ => anywhere || (to.geometry().software_zones && backend.admits_in_order()),
        };
        Ok(if several { bounds.in_flight.max(1) as usize } else { 1 })
    }

    fn after(&self, engine: &CopyEngine, bytes: u64) -> Result<Lba> {
        let geometry = engine.device(self.request.target.device)?.geometry();
        Ok(plan::after(self.request.target, bytes, geometry))
    }

    fn end_of_done(&self, engine: &CopyEngine) -> Result<Lba> {
        self.after(engine, self.done)
    }

    /// Waits for the oldest command in flight and starts others.
    pub fn step(&mut self, engine: &CopyEngine, governor: &dyn Governor) -> Next {
        let Some(mut flight) = self.flights.pop_front() else { return self.launch(engine, governor) };
        self.road = flight.backend.road();
        let nothing = || CopyOutcome::failed(0, FailureKind::Transient, "the command could not be started");
        let mut outcome = flight.land().unwrap_or_else(nothing);
        let time = flight.started.elapsed();
        let command = CopyCommand { sources: std::mem::take(&mut flight.command.sources), ..flight.command };
        // A road is not believed when it contradicts itself.
        outcome.ranges_done = outcome.ranges_done.min(command.sources.len());
        if outcome.failure.is_none() && outcome.ranges_done < command.sources.len() {
            outcome.failure = Some(FailureKind::Transient);
        }
        let rejected = self.verify(engine, &command, outcome.ranges_done);
        let ranges = if rejected.is_some() { 0 } else { outcome.ranges_done };
        let bytes: u64 = command.sources[..ranges].iter().map(|source| bytes_of(engine, source)).sum();
        let road = self.road;
        self.count(engine, |counters| counters.command(road, ranges as u64, bytes, &outcome, time));
        self.done += bytes;
        governor.copied(bytes);
        // Others may have its place from here on.
        drop(flight);
        match rejected.or(outcome.failure) {
            None => {
                let shape = shape_of(engine, &command);
                if engine.routes.lock().succeeded(command.sources[0].device, command.target.device, road, shape) {
                    // A trial has ended: what follows is cut anew.
                    self.planned.iter_mut().for_each(|planned| planned.commands.clear());
                }
                self.launch(engine, governor)
            }
            Some(kind) => {
                self.land(engine);
                match self.failed(engine, &command, ranges, kind, outcome.detail.as_deref()) {
                    Some(result) => Next::Ended(result),
                    None => self.launch(engine, governor),
                }
            }
        }
    }

    /// Waits for what flies behind a command that failed. Nothing of it counts.
    fn land(&mut self, engine: &CopyEngine) {
        self.planned = None;
        while let Some(mut flight) = self.flights.pop_front() {
            let Some(outcome) = flight.land() else { continue };
            let (road, time) = (flight.backend.road(), flight.started.elapsed());
            self.count(engine, |counters| counters.command(road, 0, 0, &outcome, time));
        }
        self.issued = self.done;
    }

    /// Waits for what flies, whatever happens. Nothing of it counts.
    pub fn call_off(&mut self, engine: &CopyEngine) {
        while self.is_flying() {
            survive(|| self.land(engine));
        }
    }

    /// Verifies what a command did; `Some`: nothing of it counts.
    fn verify(&mut self, engine: &CopyEngine, command: &CopyCommand, ranges: usize) -> Option<FailureKind> {
        let (Ok(from), Ok(to)) = (engine.device(command.sources[0].device), engine.device(command.target.device)) else {
            return None;
        };
        let mut at = self.done;
        let mut rejected = None;
        for source in &command.sources[..ranges] {
            let bytes = plan::bytes_of(source, from.geometry());
            if rejected.is_none() && (self.proving || engine.wants_verification()) {
                let whole = at.is_multiple_of(plan::UNIT) && bytes.is_multiple_of(plan::UNIT);
                let units = (at / plan::UNIT) as usize..((at + bytes) / plan::UNIT) as usize;
                let check = Check {
                    from: &**from,
                    source: *source,
                    to: &**to,
                    target: plan::after(self.request.target, at, to.geometry()),
                    checksums: self.request.checksums.get(units).filter(|sums| whole && !sums.is_empty()),
                    class: command.class,
                };
                let (finding, read) = check.run();
                self.count(engine, |counters| counters.verified(matches!(finding, Finding::Wrong | Finding::Unreadable), read));
                match finding {
                    Finding::Right => {}
                    Finding::FaithfulToDamage => {
                        tracing::warn!(device = %source.device, lba = %source.lba, "the source of a copy differs from its checksum");
                    }
                    Finding::Wrong => rejected = Some(FailureKind::WrongData),
                    Finding::Unreadable => rejected = Some(FailureKind::DestinationMedia),
                }
            }
            at += bytes;
        }
        rejected
    }

    /// What a failed command means for the road and for the request. `None`: smaller commands may do it.
    fn failed(
        &mut self,
        engine: &CopyEngine,
        command: &CopyCommand,
        done: usize,
        kind: FailureKind,
        detail: Option<&str>,
    ) -> Option<Result<CopyResult>> {
        let (from, to) = (command.sources[0].device, command.target.device);
        let offload = self.road.is_offload();
        let words = detail.unwrap_or(kind.reason());
        let mut failure = kind;
        match kind {
            FailureKind::TooLarge | FailureKind::Refused if offload => {
                let unmoved = self.write_pointer(engine).is_some_and(|at| Ok(at) == self.end_of_done(engine).map_err(drop));
                if engine.routes.lock().shrink(from, to, shape_of(engine, command)) && unmoved {
                    return None;
                }
                if unmoved {
                    engine.routes.lock().close(from, to, self.road, &format!("refuses the smallest command: {words}"));
                    if kind == FailureKind::Refused {
                        failure = FailureKind::Unsupported;
                    }
                    self.count(engine, |counters| counters.fell_back(failure.reason()));
                }
            }
            FailureKind::Unsupported if offload => {
                engine.routes.lock().close(from, to, self.road, words);
                self.count(engine, |counters| counters.fell_back(kind.reason()));
            }
            FailureKind::WrongData if offload => {
                engine.routes.lock().close(from, to, self.road, "copied wrongly");
                self.count(engine, |counters| counters.fell_back(kind.reason()));
            }
            FailureKind::Transient if offload => {
                engine.routes.lock().failed(from, to, self.road, done, words);
                self.leave_to_host(engine, &command.sources[done..]);
                self.count(engine, |counters| counters.fell_back(kind.reason()));
            }
            FailureKind::NotAligned if offload => {
                // Of the ranges behind it nothing is known.
                self.leave_to_host(engine, &command.sources[done..(done + 1).min(command.sources.len())]);
                self.count(engine, |counters| counters.fell_back(kind.reason()));
            }
            FailureKind::DestinationMedia if offload => {
                let closed = engine.routes.lock().failed(from, to, self.road, done, words);
                if closed {
                    self.count(engine, |counters| counters.fell_back(kind.reason()));
                }
            }
            FailureKind::DestinationZone if offload && self.source_is_offline(engine, command) => failure = FailureKind::SourceMedia,
            _ => {}
        }
        if failure == FailureKind::SourceMedia {
            return Some(Ok(self.source_failed(engine, command, done, words)));
        }
        Some(Ok(self.result(engine, Some(failure))))
    }

    /// A source could not be read by the road: can the host read it? Only what the host cannot read either is lost.
    fn source_failed(&mut self, engine: &CopyEngine, command: &CopyCommand, done: usize, words: &str) -> CopyResult {
        let class = self.request.class;
        let rest = plan::rest(&engine.devices[..], &self.request.sources, self.done).unwrap_or_default();
        let first = self.request.sources.len() - rest.len();
        let mut suspect: u64 = command.sources[done..].iter().map(|source| bytes_of(engine, source)).sum();
        for (index, source) in rest.into_iter().enumerate() {
            if suspect == 0 {
                break;
            }
            suspect = suspect.saturating_sub(bytes_of(engine, &source));
            let Ok(device) = engine.device(source.device) else { continue };
            let (readable, read) = verify::readable(&**device, source, class);
            self.count(engine, |counters| counters.probed(read));
            if !readable {
                let unreadable = Some(first + index);
                return CopyResult { unreadable, ..self.result(engine, Some(FailureKind::SourceMedia)) };
            }
        }
        if self.road.is_offload() {
            engine.routes.lock().failed(command.sources[0].device, command.target.device, self.road, done, words);
            self.leave_to_host(engine, &command.sources[done..]);
            self.count(engine, |counters| counters.fell_back(FailureKind::SourceMedia.reason()));
        }
        self.result(engine, Some(FailureKind::Transient))
    }

    /// What comes next is the host's, where the host may copy.
    fn leave_to_host(&mut self, engine: &CopyEngine, sources: &[SourceRange]) {
        if engine.config.route == RouteChoice::Auto {
            self.for_host = sources.iter().map(|source| bytes_of(engine, source)).sum();
        }
    }

    /// "Zone Is Offline" may mean a source's zone.
    fn source_is_offline(&self, engine: &CopyEngine, command: &CopyCommand) -> bool {
        command.sources.iter().any(|source| {
            let Ok(device) = engine.device(source.device) else { return false };
            let zone = device.geometry().zone_of(source.lba).0;
            device.report(zone..zone + 1).is_ok_and(|zones| zones.iter().any(|zone| zone.state == ZoneState::Offline))
        })
    }

    fn write_pointer(&self, engine: &CopyEngine) -> Option<Lba> {
        let device = engine.device(self.request.target.device).ok()?;
        let zone = device.geometry().zone_of(self.request.target.lba).0;
        if !device.has_write_pointer(ZoneId(zone)) {
            // What a failed command left behind may be written over.
            return self.end_of_done(engine).ok();
        }
        match device.report(zone..zone + 1) {
            Ok(zones) => zones.first().map(|zone| zone.start + zone.written),
            Err(error) => {
                tracing::warn!(%error, zone, "cannot read back the write pointer after a failed copy");
                None
            }
        }
    }

    fn result(&self, engine: &CopyEngine, failure: Option<FailureKind>) -> CopyResult {
        let (mut sources_done, mut bytes_done) = (0, 0);
        for source in &self.request.sources {
            let bytes = bytes_of(engine, source);
            if bytes_done + bytes > self.done {
                break;
            }
            bytes_done += bytes;
            sources_done += 1;
        }
        let write_pointer = failure.and_then(|_| self.write_pointer(engine));
        let end = plan_end(engine, self.request.target, bytes_done);
        // A part of a source that was copied is dead space as well: only a pointer right behind whole sources lets the zone go on.
        let moved = write_pointer.is_none() || write_pointer != end;
        let anywhere = engine.device(self.request.target.device).is_ok_and(|device| {
            let zone = device.geometry().zone_of(self.request.target.lba);
            !device.has_write_pointer(zone)
        });
        let end_zone = match failure {
            _ if anywhere => false,
            None => false,
            Some(
                FailureKind::Unsupported
                | FailureKind::TooLarge
                | FailureKind::Refused
                | FailureKind::NotAligned
                | FailureKind::SourceMedia,
            ) => moved,
            Some(_) => true,
        };
        CopyResult {
            sources_done,
            bytes_done,
            offloaded: if self.road.is_offload() { bytes_done } else { 0 },
            road: self.road,
            end_zone,
            failure,
            write_pointer,
            unreadable: None,
            for_host: self.sources_for_host(engine, sources_done, bytes_done),
        }
    }

    /// As many sources as hold what is left to the host.
    fn sources_for_host(&self, engine: &CopyEngine, sources_done: usize, bytes_done: u64) -> usize {
        let end = if self.for_host == 0 { 0 } else { self.done + self.for_host };
        let mut at = bytes_done;
        let before_end = |source: &&SourceRange| {
            let begins = at;
            at += bytes_of(engine, source);
            begins < end
        };
        self.request.sources[sources_done..].iter().take_while(before_end).count()
    }
}

/// The limits for a command that shows whether a road works at all.
fn one_unit(caps: &CopyCaps) -> CopyCaps {
    let least = |limit: u64| limit.min(plan::UNIT);
    CopyCaps {
        max_range_bytes: least(caps.max_range_bytes),
        max_command_bytes: least(caps.max_command_bytes),
        max_ranges: 1,
        ..caps.clone()
    }
}

/// The limits of a road, and what is chosen within them.
fn within(caps: &CopyCaps, bounds: &Bounds) -> CopyCaps {
    let max_command_bytes = caps.max_command_bytes.min(bounds.command_bytes);
    CopyCaps { max_command_bytes, max_ranges: caps.max_ranges.min(bounds.ranges), ..caps.clone() }
}

fn shape_of(engine: &CopyEngine, command: &CopyCommand) -> Shape {
    Shape::of(command.sources.iter().map(|source| bytes_of(engine, source)))
}

fn plan_end(engine: &CopyEngine, target: Target, bytes: u64) -> Option<Lba> {
    engine.device(target.device).ok().map(|device| plan::after(target, bytes, device.geometry()))
}

fn bytes_of(engine: &CopyEngine, source: &SourceRange) -> u64 {
    engine.device(source.device).map_or(0, |device| plan::bytes_of(source, device.geometry()))
}
