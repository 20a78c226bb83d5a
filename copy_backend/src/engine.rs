//! Route, fall back, verify, count.
//!
//! A request names one destination zone and the kind of that zone ([`RoadPreference`]). Its life: plan -> command by
//! command (into a sequential zone one in flight, into others several, many zones side by side) -> verification -> result. How long commands are and
//! how many fly is chosen from a profile ([`crate::sizes`]), and bounded while users read ([`crate::foreground`]). What failed ends
//! the request; the result says how far it came and where the device's write pointer stands, and the caller goes on in
//! another zone:
//!
//! ```text
//! loop {
//!     let road = engine.road_for(source, target_device)?;       // which kind of zone to reserve
//!     let zone = reserve(road);                                 // device copies and host writes never share a zone
//!     let result = engine.copy(CopyRequest { road, target: zone.write_pointer, .. })?;
//!     publish(result.sources_done);
//!     if result.end_zone { finish(zone) }                       // [end of the done, write pointer) is dead (I9)
//!     if result.failure == Some(SourceMedia) { give_up_on(result.unreadable) }
//!     // The next so many sources go by the host, into a zone of its own; then the road is asked for again.
//!     by_host(result.for_host);
//! }
//! ```
//!
//! | failure of an offload command | what the engine does | result |
//! |---|---|---|
//! | `Unsupported` | closes the road for the pair | zone reusable if its pointer did not move |
//! | `TooLarge`, `Refused` | learns which limit lies and goes on with smaller commands; at 4096 bytes closes the road | as above |
//! | `NotAligned` | leaves that command to the host | as above |
//! | `SourceMedia` | lets the host read the source; several in a row close the road | `SourceMedia` (final) if it cannot either, else `Transient` |
//! | `DestinationZone` | stops | zone ends |
//! | `DestinationMedia` | stops; several in a row close the road | zone ends |
//! | `Transient` | stops and leaves that command to the host; several in a row close the road | zone ends |
//! | verification found other data | closes the road, nothing of that command counts | `WrongData`, zone ends |
//!
//! What is left to the host is the command that failed and no more (`for_host`): what comes behind it goes by the device again.

use crate::backend::{CopyBackend, CopyCaps, FailureKind, NoRoad, Road, SourceRange, Target};
use crate::begun::{AllBegun, is_taken};
use crate::device_name::DeviceName;
use crate::error::{CopyError, Result};
use crate::foreground::{Foreground, Gate};
use crate::governor::{Free, Governor};
use crate::host::HostRoad;
use crate::image::ImageRoad;
use crate::nvme::NvmeRoad;
use crate::plan;
use crate::profile::{GivenProfile, ProfileUse};
use crate::reflink::ReflinkRoad;
use crate::request::{Carried, Next, Progress};
use crate::route::{OpenRoad, RouteLimits, RouteStatus, Routes};
use crate::scsi::place::Places;
use crate::scsi_token::TokenRoad;
use crate::scsi_xcopy::XcopyRoad;
use crate::sizes::{self, Sizes};
use crate::stats::{CopyCounters, Stats};
use crate::topology::{OffloadBelow, Topology};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zns::{DeviceId, IoClass, ZoneId, ZonedDevice};

/// `copy_route=`: which roads the engine may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteChoice {
    /// Offload where a device can, else the host.
    #[default]
    Auto,
    /// Offload or fail.
    Offload,
    /// The host only.
    Host,
}

/// `verify_copies=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyMode {
    /// Trust the device.
    #[default]
    Off,
    /// Read back and compare one range in sixteen.
    Sampled,
    /// Read back and compare everything before it is published.
    Full,
}

/// How an engine behaves.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// Roads allowed.
    pub route: RouteChoice,
    /// Verification of copies against the checksums that the caller gives.
    pub verify: VerifyMode,
    /// Layers of the kernel's that copies are sent below.
    pub offload_below: OffloadBelow,
    /// What was measured on the devices ([`crate::profile`]).
    pub profile: Option<GivenProfile>,
}

/// Which kind of zone a request's target lies in, and so which roads may carry it.
///
/// A zone that receives device copies receives nothing else (invariant I9 and the reason behind it: the kernel caches
/// write pointers that a device's own Copy moves unseen). The caller therefore asks [`CopyEngine::road_for`] first,
/// reserves space in a zone of that kind, and says here which kind it is. The engine never mixes: a request for one
/// kind of zone is carried by that kind of road or not at all, and what failed goes into another zone by another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoadPreference {
    /// The target zone receives device copies: an offload road carries the request.
    Offload,
    /// The target zone receives writes by the host: the host road carries the request.
    Host,
}

/// A copy into one destination zone: sources land at `target` one behind the other.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// What to copy.
    pub sources: Vec<SourceRange>,
    /// The write pointer of the destination zone; everything must fit into what is left of that zone.
    pub target: Target,
    /// For pacing.
    pub class: IoClass,
    /// CRC32C of each 4096-byte unit, in order over all sources, for verification; empty: the sources are read for comparison.
    pub checksums: Vec<u32>,
    /// The kind of zone the target lies in.
    pub road: RoadPreference,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct CopyResult {
    /// Sources known to be copied whole (and verified where asked), counted from the first; they lie at the target one behind the other.
    pub sources_done: usize,
    /// Bytes of those sources.
    pub bytes_done: u64,
    /// Of these, by offload.
    pub offloaded: u64,
    /// The road that carried the (last part of the) request.
    pub road: Road,
    /// The destination zone must be ended by the caller (invariant I9): something failed in it, and the rest
    /// goes to another zone.
    pub end_zone: bool,
    /// Why not everything was done, when it was not. [`FailureKind::SourceMedia`] is final: not even the host can read
    /// the source. Anything else may be tried again, after asking [`CopyEngine::road_for`] again, in another zone (in the
    /// same one where `end_zone` is false and the kind of zone fits).
    pub failure: Option<FailureKind>,
    /// After a failure: the write pointer of the destination zone, as the device reports it (`None`: it does not answer).
    /// What lies between the end of the sources done and this pointer is dead space (invariant I9).
    pub write_pointer: Option<zns::Lba>,
    /// With [`FailureKind::SourceMedia`]: which source cannot be read, as an index into the request's sources.
    pub unreadable: Option<usize>,
    /// Sources behind those done that the host should carry, since a device failed on them in a way in which the host may not. What comes
    /// behind them need not go by the host: ask [`CopyEngine::road_for`] again.
    pub for_host: usize,
}

/// A destination zone: nothing else is copied into it while a request is.
pub(crate) type Destination = (DeviceId, ZoneId);

/// A destination zone that a copy has taken, until this is dropped: after a panic, too.
pub(crate) struct Taken<'a> {
    pub(crate) busy: &'a Mutex<HashSet<Destination>>,
    pub(crate) destination: Destination,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.destination);
    }
}

/// The requests into one zone, of which the first is under way. What flies of it is waited for before the zone is let go: so it comes first.
struct Running<'a> {
    index: usize,
    progress: Progress,
    queue: VecDeque<(usize, CopyRequest)>,
    taken: Taken<'a>,
}

/// The engine. Shared by all who copy; every call may come from any thread.
pub struct CopyEngine {
    pub(crate) devices: Arc<[Arc<dyn ZonedDevice>]>,
    offload: Vec<Arc<dyn CopyBackend>>,
    host: Arc<dyn CopyBackend>,
    pub(crate) config: EngineConfig,
    pub(crate) routes: Mutex<Routes>,
    pub(crate) stats: Stats,
    /// Ranges that verification was asked about: every sixteenth is a sample.
    sampled: AtomicU64,
    pub(crate) busy: Mutex<HashSet<Destination>>,
    pub(crate) begun: AllBegun,
    /// Names of the devices, if there is a profile to look them up in.
    names: Vec<DeviceName>,
    foreground: Arc<Foreground>,
    pub(crate) gate: Arc<Gate>,
}

impl CopyEngine {
    /// An engine over `devices` ([`DeviceId`] counts them from 0) with the given roads. Offload roads are tried in the given
    /// order; without a host road among them the built-in one is used.
    pub fn new(devices: Vec<Arc<dyn ZonedDevice>>, backends: Vec<Arc<dyn CopyBackend>>, config: EngineConfig) -> Self {
        let devices: Arc<[Arc<dyn ZonedDevice>]> = devices.into();
        let (mut host, offload): (Vec<_>, Vec<_>) = backends.into_iter().partition(|backend| backend.road() == Road::Host);
        let named = if config.profile.is_some() { &devices[..] } else { &[] };
        Self {
            names: named.iter().map(|device| DeviceName::of(&**device)).collect(),
            foreground: Arc::default(),
            gate: Arc::default(),
            host: host.pop().unwrap_or_else(|| Arc::new(HostRoad::new(devices.clone()))),
            routes: Mutex::new(Routes::new(offload.clone())),
            offload,
            devices,
            config,
            stats: Stats::default(),
            sampled: AtomicU64::new(0),
            busy: Mutex::default(),
            begun: Mutex::default(),
        }
    }

    /// An engine with all roads that this crate has, in the order in which they are tried. A new road is one module that implements
    /// [`CopyBackend`], and one line here. Roads to real devices are given the topology: none looks up a device by itself.
    pub fn for_devices(devices: Vec<Arc<dyn ZonedDevice>>, config: EngineConfig) -> Self {
        let shared: Arc<[Arc<dyn ZonedDevice>]> = devices.clone().into();
        let topology = Arc::new(Topology::new(shared.clone(), config.offload_below));
        let scsi = Arc::new(Places::new(shared.clone(), topology.clone()));
        let backends: Vec<Arc<dyn CopyBackend>> = vec![
            Arc::new(NvmeRoad::new(shared.clone(), topology.clone())),
            Arc::new(XcopyRoad::new(scsi.clone())),
            Arc::new(TokenRoad::new(scsi)),
            Arc::new(ReflinkRoad::new(shared.clone())),
            Arc::new(ImageRoad::new(shared.clone())),
            Arc::new(HostRoad::new(shared)),
        ];
        Self::new(devices, backends, config)
    }

    /// Which kind of zone the next request from `from` to `to` should be given.
    ///
    /// # Errors
    /// [`CopyError::NoOffload`] when `copy_route=offload` was asked for and no road is open.
    pub fn road_for(&self, from: DeviceId, to: DeviceId) -> Result<RoadPreference> {
        let mut routes = self.routes.lock();
        match self.config.route {
            RouteChoice::Host => Ok(RoadPreference::Host),
            RouteChoice::Offload if routes.open(from, to).is_none() => Err(CopyError::NoOffload { reason: routes.reason(from, to) }),
            RouteChoice::Offload => Ok(RoadPreference::Offload),
            RouteChoice::Auto if routes.open(from, to).is_some() => Ok(RoadPreference::Offload),
            RouteChoice::Auto => Ok(RoadPreference::Host),
        }
    }

    /// Copies, and waits for it.
    ///
    /// # Errors
    /// A request that makes no sense, or no offload road where `copy_route=offload` demands one. Failures on the way are
    /// part of the result.
    pub fn copy(&self, request: CopyRequest) -> Result<CopyResult> {
        let carried = self.copy_governed(vec![request], &Free).pop();
        carried.map_or_else(|| Err(CopyError::Invalid("no request".into())), |carried| carried.result)
    }

    /// Copies many requests side by side, with a word in every command. Requests into the same zone run in the given order, and after
    /// a failure there the later ones are not begun. Results are in the order of the requests.
    pub(crate) fn copy_governed(&self, requests: Vec<CopyRequest>, governor: &dyn Governor) -> Vec<Carried> {
        let mut results: Vec<Option<Carried>> = requests.iter().map(|_| None).collect();
        let mut queues: BTreeMap<Destination, VecDeque<(usize, CopyRequest)>> = BTreeMap::new();
        for (index, request) in requests.into_iter().enumerate() {
            match self.destination(&request) {
                Ok(destination) => queues.entry(destination).or_default().push_back((index, request)),
                Err(error) => results[index] = Some(Carried::not_begun(Err(error))),
            }
        }
        let mut running = VecDeque::new();
        for (destination, mut queue) in queues {
            let Ok(taken) = self.take(destination) else {
                queue.drain(..).for_each(|(index, _)| results[index] = Some(Carried::not_begun(Err(is_taken(destination)))));
                continue;
            };
            if let Some((index, progress)) = self.next_in(&mut queue, &mut results) {
                running.push_back(Running { index, progress, queue, taken });
            }
        }
        // First all take off; then round robin: while one is waited for, the others are in flight.
        let mut to_start = running.len();
        while let Some(mut run) = running.pop_front() {
            let progress = &mut run.progress;
            let starting = to_start > 0;
            to_start = to_start.saturating_sub(1);
            let mut next = if progress.is_flying() && !starting { progress.step(self, governor) } else { progress.launch(self, governor) };
            if starting && progress.is_proving() {
                // One proof is enough for all that are yet to take off.
                next = progress.step(self, governor);
            }
            match next {
                Next::Flying => running.push_back(run),
                Next::NoTurn => {
                    let others = running.iter().any(|other| other.progress.is_flying());
                    running.push_back(run);
                    // Whoever has commands of its own in flight must see to their end, or nobody would ever make room.
                    if !others && to_start == 0 {
                        self.gate.wait();
                    }
                }
                Next::Ended(result) => {
                    let Running { index, progress, mut queue, taken } = run;
                    if result.as_ref().is_ok_and(|result| result.failure.is_some()) {
                        self.give_up(&mut queue, &result, &mut results);
                    }
                    results[index] = Some(progress.into_carried(result));
                    if let Some((index, progress)) = self.next_in(&mut queue, &mut results) {
                        running.push_back(Running { index, progress, queue, taken });
                    }
                }
            }
        }
        let missing = || Carried::not_begun(Err(CopyError::Invalid("the request was not carried out".into())));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// The next request of a zone; those that make no sense get their results.
    fn next_in(&self, queue: &mut VecDeque<(usize, CopyRequest)>, results: &mut [Option<Carried>]) -> Option<(usize, Progress)> {
        while let Some((index, request)) = queue.pop_front() {
            match Progress::new(self, request) {
                Ok(progress) => return Some((index, progress)),
                Err(error) => results[index] = Some(Carried::not_begun(Err(error))),
            }
        }
        None
    }

    /// Requests behind a failed one in the same zone: their targets are no longer the write pointer.
    fn give_up(&self, queue: &mut VecDeque<(usize, CopyRequest)>, failed: &Result<CopyResult>, results: &mut [Option<Carried>]) {
        if let Ok(failed) = failed {
            for (index, _) in queue.drain(..) {
                let none = CopyResult { sources_done: 0, bytes_done: 0, offloaded: 0, unreadable: None, for_host: 0, ..failed.clone() };
                // Their own sources may be fine.
                let failure = none.failure.map(|kind| if kind == FailureKind::SourceMedia { FailureKind::Transient } else { kind });
                results[index] = Some(Carried::not_begun(Ok(CopyResult { failure, ..none })));
            }
        }
    }

    /// Checks a request and names its zone.
    pub(crate) fn destination(&self, request: &CopyRequest) -> Result<Destination> {
        let total = plan::check(&self.devices[..], &request.sources, request.target)?;
        if !request.checksums.is_empty() {
            let whole = request.sources.iter().all(|source| {
                self.device(source.device).is_ok_and(|device| plan::bytes_of(source, device.geometry()).is_multiple_of(plan::UNIT))
            });
            if !whole || request.checksums.len() as u64 != total / plan::UNIT {
                let given = request.checksums.len();
                return Err(CopyError::Invalid(format!("{given} checksums do not belong to {total} bytes of whole 4096-byte units")));
            }
        }
        let zone = self.device(request.target.device)?.geometry().zone_of(request.target.lba);
        Ok((request.target.device, zone))
    }

    pub(crate) fn device(&self, id: DeviceId) -> Result<&Arc<dyn ZonedDevice>> {
        self.devices.get(usize::from(id.0)).ok_or_else(|| CopyError::Invalid(format!("there is no device {id}")))
    }

    /// The road that carries a request of this kind between two devices. `Ok(None)`: none (any more).
    pub(crate) fn choose(&self, from: DeviceId, to: DeviceId, road: RoadPreference) -> Result<Option<Chosen>> {
        match (self.config.route, road) {
            (RouteChoice::Offload, RoadPreference::Host) => {
                Err(CopyError::NoOffload { reason: "copy_route=offload forbids the host road".into() })
            }
            (_, RoadPreference::Host) => {
                Ok(self.host.caps(from, to).ok().map(|caps| Chosen { backend: self.host.clone(), caps, one_by_one: false }))
            }
            (RouteChoice::Host, RoadPreference::Offload) => Ok(None),
            (choice, RoadPreference::Offload) => {
                let mut routes = self.routes.lock();
                match routes.open(from, to) {
                    Some(open) => {
                        let (caps, one_by_one) = open.next_caps();
                        Ok(Some(Chosen { backend: self.offload[open.backend].clone(), caps, one_by_one }))
                    }
                    None if choice == RouteChoice::Offload => Err(CopyError::NoOffload { reason: routes.reason(from, to) }),
                    None => Ok(None),
                }
            }
        }
    }

    /// Whoever reads for a user says so here: copies keep short meanwhile.
    pub fn foreground(&self) -> &Arc<Foreground> {
        &self.foreground
    }

    /// Is the profile that was given used for copies between these devices?
    pub fn profile_use(&self, from: DeviceId, to: DeviceId) -> ProfileUse {
        let name = |id: DeviceId| self.names.get(usize::from(id.0));
        match (&self.config.profile, name(from), name(to)) {
            (Some(given), Some(from), Some(to)) => given.usage(from, to),
            _ => ProfileUse::default(),
        }
    }

    /// How commands of a road with these capabilities are cut and paced.
    pub fn sizes(&self, from: DeviceId, to: DeviceId, caps: &CopyCaps) -> Sizes {
        let measured = |road| {
            let profile = self.config.profile.as_ref()?.profile()?;
            let (from, to) = (self.names.get(usize::from(from.0))?, self.names.get(usize::from(to.0))?);
            profile.road(from, to, road).map(|entry| &entry.measured)
        };
        sizes::choose(caps, measured(caps.road), measured(Road::Host))
    }

    /// Is a copy of so many bytes worth a command to the device? Tiny ones may be quicker through the host, where that was measured and is allowed.
    pub fn offload_pays(&self, from: DeviceId, to: DeviceId, bytes: u64) -> bool {
        if self.config.route != RouteChoice::Auto || self.config.profile.is_none() {
            return true;
        }
        let caps = self.routes.lock().open(from, to).map(|open| open.caps());
        caps.is_none_or(|caps| bytes >= self.sizes(from, to, &caps).offload_from)
    }

    /// A road by its name, with what it promises between two devices.
    ///
    /// # Errors
    /// Why it does not lead there.
    pub(crate) fn road(&self, road: Road, from: DeviceId, to: DeviceId) -> std::result::Result<(Arc<dyn CopyBackend>, CopyCaps), NoRoad> {
        let backend = self.offload.iter().chain([&self.host]).find(|backend| backend.road() == road);
        let backend = backend.ok_or_else(|| NoRoad::from("there is no such road"))?;
        Ok((backend.clone(), backend.caps(from, to)?))
    }

    /// Is the next range to be verified?
    pub(crate) fn wants_verification(&self) -> bool {
        match self.config.verify {
            VerifyMode::Off => false,
            VerifyMode::Sampled => self.sampled.fetch_add(1, Ordering::Relaxed).is_multiple_of(16),
            VerifyMode::Full => true,
        }
    }

    /// Counters of one class of work.
    pub fn counters(&self, class: IoClass) -> CopyCounters {
        self.stats.of(class)
    }

    /// The road from one device to another as it is now.
    pub fn route(&self, from: DeviceId, to: DeviceId) -> RouteStatus {
        let mut routes = self.routes.lock();
        let open = if self.config.route == RouteChoice::Host { None } else { routes.open(from, to) };
        let label = |id: DeviceId| self.devices.get(usize::from(id.0)).map_or_else(|| format!("device {id}"), |d| d.label());
        let profile = self.profile_use(from, to);
        if let Some(caps) = open.as_ref().map(OpenRoad::caps) {
            let reason = match caps.road {
                Road::Reflink => format!("the filesystem of {} lets ranges share blocks: nothing is moved", label(to)),
                _ => format!("offered by {}", label(to)),
            };
            return RouteStatus { from, to, road: caps.road, reason, simulated: caps.simulated, limits: (&caps).into(), profile };
        }
        let reason = if self.config.route == RouteChoice::Host { "copy_route=host".into() } else { routes.reason(from, to) };
        let limits =
            self.host.caps(from, to).map_or(RouteLimits { max_range_bytes: 0, max_command_bytes: 0, max_ranges: 0 }, |caps| (&caps).into());
        RouteStatus { from, to, road: Road::Host, reason, simulated: false, limits, profile }
    }

    /// Every road from one device to another, the host's last: what it can do, or why it is closed.
    pub fn survey(&self, from: DeviceId, to: DeviceId) -> Vec<(Road, std::result::Result<CopyCaps, NoRoad>)> {
        let mut roads = self.routes.lock().survey(from, to);
        roads.push((Road::Host, self.host.caps(from, to)));
        roads
    }

    /// The roads within each device, and between all pairs that were ever asked for.
    pub fn routes(&self) -> Vec<RouteStatus> {
        let mut pairs: Vec<(DeviceId, DeviceId)> =
            (0..=u8::MAX).zip(self.devices.iter()).map(|(id, _)| (DeviceId(id), DeviceId(id))).collect();
        pairs.extend(self.routes.lock().known());
        pairs.sort_unstable();
        pairs.dedup();
        pairs.into_iter().map(|(from, to)| self.route(from, to)).collect()
    }
}

/// A road and its capabilities, for the next commands.
pub(crate) struct Chosen {
    pub backend: Arc<dyn CopyBackend>,
    pub caps: CopyCaps,
    /// The next command is to be learnt from.
    pub one_by_one: bool,
}
