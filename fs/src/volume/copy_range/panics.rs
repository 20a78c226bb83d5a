//! A panic in the middle of a copy, at each call of a device one after the other: what the copy had taken is given back, and the volume goes on.

use super::*;
use crate::check::{CheckOptions, check};
use crate::volume::MountOptions;
use crate::volume::rig::{formatted, make};
use copy_backend::{RouteChoice, VerifyMode};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use zns::sim::{Fault, FaultPlan, SimConfig, SimDevice, SimDrive};
use zns::{
    Completions, CopyFailure, CopyLimits, CopySource, Geometry, Io, Lba, NativeCopy, Ticket, ZoneAction, ZoneId, ZoneInfo, ZonedDevice,
};

const ZONES: u32 = 64;
/// Blocks of the source, of which some are a hole and the last one is not whole.
const BLOCKS: u64 = 600;
const HOLE: Range<u64> = 300..320;
const LEN: u64 = BLOCKS * B - 100;
/// What is there before.
const OLD: u8 = 0xEE;
/// What a crowded volume is full of.
const FILLER: u8 = 0x55;

/// Where the panic strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    /// Before a call does anything.
    Before,
    /// When it has done all that it does.
    After,
    /// Within an operation of the drive.
    Within,
}

/// Which call of a device panics.
#[derive(Debug)]
struct Plan {
    calls: AtomicU64,
    at: AtomicU64,
    strike: Strike,
    struck: AtomicU64,
}

impl Plan {
    fn new(strike: Strike) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self { calls: zero(), at: AtomicU64::new(u64::MAX), strike, struck: zero() })
    }

    /// A call, which panics before or behind what it does if it is the one.
    fn call<T>(&self, before: bool, call: impl FnOnce() -> T) -> T {
        let is_it = self.calls.fetch_add(1, Ordering::SeqCst) == self.at.load(Ordering::SeqCst);
        let strikes = |strikes: bool| {
            if strikes {
                self.struck.fetch_add(1, Ordering::SeqCst);
                panic!("a panic that the test wants");
            }
        };
        strikes(is_it && before);
        let done = call();
        strikes(is_it);
        done
    }
}

/// A device with a bug.
struct Brittle {
    device: Arc<SimDevice>,
    plan: Arc<Plan>,
}

impl Brittle {
    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.plan.call(self.plan.strike == Strike::Before, call)
    }
}

impl ZonedDevice for Brittle {
    fn geometry(&self) -> &Geometry {
        self.device.geometry()
    }
    fn report(&self, zones: Range<u32>) -> zns::Result<Vec<ZoneInfo>> {
        self.call(|| self.device.report(zones))
    }
    fn submit(&self, batch: Vec<Io>, class: IoClass) -> zns::Result<Ticket> {
        self.call(|| self.device.submit(batch, class))
    }
    fn complete(&self, ticket: Ticket) -> Completions {
        // What was begun is over in any case, or nobody could ever wait for it.
        self.plan.call(false, || self.device.complete(ticket))
    }
    fn manage(&self, zone: ZoneId, action: ZoneAction) -> zns::Result<()> {
        self.call(|| self.device.manage(zone, action))
    }
    fn flush(&self) -> zns::Result<()> {
        self.call(|| self.device.flush())
    }
    fn adopt(&self, zones: &[ZoneInfo]) -> zns::Result<()> {
        self.device.adopt(zones)
    }
    fn has_write_pointer(&self, zone: ZoneId) -> bool {
        self.call(|| self.device.has_write_pointer(zone))
    }
    fn native_copy(&self) -> Option<&dyn NativeCopy> {
        self.call(|| self.device.native_copy().is_some().then_some(self as &dyn NativeCopy))
    }
    fn label(&self) -> String {
        self.device.label()
    }
}

impl NativeCopy for Brittle {
    fn limits(&self) -> CopyLimits {
        self.call(|| NativeCopy::limits(&*self.device))
    }
    fn simulated(&self) -> bool {
        self.call(|| self.device.simulated())
    }
    fn copy(&self, sources: &[CopySource], target: Lba) -> std::result::Result<(), CopyFailure> {
        self.call(|| self.device.copy(sources, target))
    }
}

/// How the volume is mounted and used.
#[derive(Clone, Copy, Debug)]
struct Case {
    conventional: bool,
    route: RouteChoice,
    strike: Strike,
    /// Part of the source is in memory, so that the copy begins with a commit.
    dirty: bool,
    /// The volume is so full that whoever copies cleans first.
    crowded: bool,
}

impl Case {
    fn new(conventional: bool, route: RouteChoice, strike: Strike) -> Self {
        Self { conventional, route, strike, dirty: false, crowded: false }
    }

    /// Is anything written to the log, or given back by it, in the course of the copy? What the host writes is more than may be unlogged.
    fn commits(&self) -> bool {
        self.dirty || self.crowded || self.route == RouteChoice::Host
    }
}

fn block(at: u64, generation: u8) -> [u8; BLOCK] {
    if generation == 1 && HOLE.contains(&at) {
        return [0; BLOCK];
    }
    let mut block = [generation; BLOCK];
    block[..8].copy_from_slice(&at.to_le_bytes());
    block
}

fn content(blocks: u64, generation: u8) -> Vec<u8> {
    (0..blocks).flat_map(|at| block(at, generation)).collect()
}

fn config(case: &Case) -> SimConfig {
    let copy = Some(CopyLimits { mssrl: 128, mcl: 256, ranges: 128 });
    if case.conventional {
        SimConfig { copy, ..SimConfig::conventional(ZONES, 1) }
    } else {
        SimConfig { copy, ..SimConfig::zoned(ZONES, 1) }
    }
}

/// A volume with a source in several zones, something to be replaced, and something that nobody touches; unmounted.
fn prepared(case: &Case) -> SimDrive {
    let drive = SimDrive::new(config(case));
    let volume = formatted(&drive);
    let (from, to, other) = (make(&volume, "from"), make(&volume, "to"), make(&volume, "other"));
    let source = content(BLOCKS, 1);
    for piece in [0..HOLE.start, HOLE.end..BLOCKS] {
        let (start, end) = (piece.start * B, (piece.end * B).min(LEN));
        volume.write(from, start, &source[start as usize..end as usize], &WriteOptions::default()).expect("written");
        volume.write(other, start, &content(200, 3), &WriteOptions::default()).expect("written");
        volume.sync().expect("synced");
    }
    volume.write(to, 0, &content(BLOCKS + 5, OLD), &WriteOptions::default()).expect("written");
    if case.crowded {
        crowd(&volume);
    }
    volume.shutdown().expect("unmounted");
    drive
}

/// Fills nearly all that is left, so that what is dead is scattered.
fn crowd(volume: &Volume) {
    let filler = make(volume, "filler");
    let blocks = volume.statfs().expect("counted").available - BLOCKS / 2;
    for at in (0..blocks).step_by(100) {
        let piece: Vec<u8> = (at..(at + 100).min(blocks)).flat_map(|at| block(at, FILLER)).collect();
        volume.write(filler, at * B, &piece, &WriteOptions::default()).expect("written");
    }
    for at in (0..blocks).step_by(5) {
        volume.write(filler, at * B, &block(at, FILLER), &WriteOptions::default()).expect("written");
    }
    volume.sync().expect("synced");
}

fn mounted(drive: &SimDrive, case: &Case, plan: &Arc<Plan>) -> Arc<Volume> {
    let verify = if case.crowded { VerifyMode::Off } else { VerifyMode::Full };
    let options = MountOptions { copy_route: case.route, verify, secret: Some([2; 32]), ..MountOptions::default() };
    let device = Brittle { device: drive.open(), plan: plan.clone() };
    Volume::open(vec![Arc::new(device) as Arc<dyn ZonedDevice>], options).expect("mounts")
}

fn find(volume: &Volume, name: &str) -> Ino {
    volume.lookup(Ino::ROOT, name.as_bytes()).expect("it is there").ino
}

fn read(volume: &Volume, ino: Ino) -> Vec<u8> {
    (0..=LEN.div_ceil(1 << 20)).flat_map(|at| volume.read(ino, at << 20, 1 << 20).expect("read").to_vec()).collect()
}

/// The source, and the destination when it was copied.
fn expected() -> (Vec<u8>, Vec<u8>) {
    let source = content(BLOCKS, 1)[..LEN as usize].to_vec();
    let mut copied = content(BLOCKS + 5, OLD);
    copied[..LEN as usize].copy_from_slice(&source);
    (source, copied)
}

/// Every block of the destination is as it was or as it was to be, and nothing else has changed.
fn assert_contents(volume: &Volume, what: &str) {
    let (source, copied) = expected();
    assert!(read(volume, find(volume, "from")) == source, "{what}: the source has changed");
    let other = read(volume, find(volume, "other"));
    for (at, block) in other.chunks(BLOCK).enumerate() {
        let within = (0..200).contains(&at) || (HOLE.end as usize..HOLE.end as usize + 200).contains(&at);
        let number = if at < 200 { at as u64 } else { (at as u64).wrapping_sub(HOLE.end) };
        assert!(block == if within { self::block(number, 3) } else { [0; BLOCK] }, "{what}: block {at} of another file has changed");
    }
    if let Ok(filler) = volume.lookup(Ino::ROOT, b"filler") {
        for at in (0..filler.size).step_by(1 << 20) {
            let found = volume.read(filler.ino, at, 1 << 20).expect("read");
            let is_right = found.chunks(BLOCK).zip(at / B..).all(|(found, at)| found == block(at, FILLER));
            assert!(is_right, "{what}: another file has changed behind {at}");
        }
    }
    let (old, to) = (content(BLOCKS + 5, OLD), read(volume, find(volume, "to")));
    assert_eq!(to.len(), old.len(), "{what}");
    for (at, block) in to.chunks(BLOCK).enumerate() {
        let range = at * BLOCK..(at + 1) * BLOCK;
        assert!(block == &old[range.clone()] || block == &copied[range], "{what}: block {at} of the destination is neither old nor new");
    }
}

/// Nobody holds anything.
fn assert_at_rest(volume: &Volume, what: &str) {
    let state = volume.state.lock();
    assert!(state.held.is_empty() && state.line.is_empty() && state.zones.granted() == 0, "{what}: something is held");
    assert_eq!(state.zones.in_use(), [], "{what}: zones are marked");
    assert!(!volume.calm.is_used(), "{what}: somebody counts as working");
    state.zones.self_check().unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

fn copy(volume: &Volume) -> Result<u64> {
    let (from, to) = (find(volume, "from"), find(volume, "to"));
    let mut done = 0;
    while done < LEN {
        done += volume.copy_file_range(from, done, to, done, LEN - done)?;
    }
    Ok(done)
}

/// Copies again and again, and gives everything back.
fn write_around(volume: &Volume, rounds: u64, what: &str) {
    for round in 0..rounds {
        assert_eq!(copy(volume).unwrap_or_else(|error| panic!("{what}, round {round}: {error}")), LEN);
        volume.sync().expect("synced");
    }
    volume.gc(true).expect("cleaned");
    volume.checkpoint().expect("a checkpoint");
    volume.checkpoint().expect("a checkpoint");
    assert_eq!(volume.state.lock().zones.dead_zones(), 0, "{what}: a zone does not come back");
}

fn assert_clean(drive: &SimDrive, what: &str) {
    let report = check(vec![drive.fork().open() as Arc<dyn ZonedDevice>], CheckOptions::default()).expect("a volume");
    assert!(report.clean, "{what}: {report}");
}

/// How a copy came out in which a panic was to strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It did not come so far.
    NotStruck,
    /// The engine took it for a failure of the device.
    Survived,
    /// The call ended by the panic.
    Unwound,
    /// And the volume was read-only then.
    ReadOnly,
}

/// A panic at call or operation `n` of a copy. `partial`: the first command of the device copies a part of what it should.
fn strike(base: &SimDrive, case: &Case, partial: bool, n: u64) -> End {
    let what = format!("{case:?}, partial {partial}, call {n}");
    let drive = base.fork();
    let plan = Plan::new(case.strike);
    let volume = mounted(&drive, case, &plan);
    if case.dirty {
        let at = 7 * B;
        volume.write(find(&volume, "from"), at, &block(7, 1), &WriteOptions::default()).expect("written");
    }
    let faults = drive.stats().faults;
    if partial {
        drive.fail_at(drive.ops(), Fault::CopyPartial);
    }
    match case.strike {
        Strike::Within => drive.fail_at(drive.ops() + n, Fault::Panic),
        _ => plan.at.store(plan.calls.load(Ordering::SeqCst) + n, Ordering::SeqCst),
    }
    let copied = catch_unwind(AssertUnwindSafe(|| copy(&volume)));
    drive.set_faults(FaultPlan::default());
    plan.at.store(u64::MAX, Ordering::SeqCst);
    let struck = plan.struck.load(Ordering::SeqCst) + drive.stats().faults - faults - u64::from(partial);
    let end = match (&copied, volume.is_writable()) {
        (Ok(copied), true) if struck == 0 => {
            assert!(matches!(copied, Ok(LEN)), "{what}: {copied:?}");
            assert!(!case.crowded || volume.counters.chunks.load(Ordering::Relaxed) > 0, "{what}: it did not have to clean");
            return End::NotStruck;
        }
        (Ok(_), _) => End::Survived,
        (Err(_), true) => End::Unwound,
        (Err(_), false) => End::ReadOnly,
    };
    assert_contents(&volume, &what);
    if end == End::ReadOnly {
        let reason = volume.read_only_reason().expect("a reason");
        assert!(case.commits() && reason.contains("panicked"), "{what}: {reason}");
    } else {
        assert!(volume.is_writable(), "{what}: {:?}", volume.read_only_reason());
        assert_at_rest(&volume, &what);
        assert_eq!(copy(&volume).unwrap_or_else(|error| panic!("{what}: {error}")), LEN);
        assert!(read(&volume, find(&volume, "to")) == expected().1, "{what}");
        write_around(&volume, if n.is_multiple_of(16) { u64::from(ZONES) * 256 / BLOCKS } else { 1 }, &what);
        assert_at_rest(&volume, &what);
        assert_contents(&volume, &what);
        volume.shutdown().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(drive.violations().is_empty(), "{what}: {:?}", drive.violations());
    }
    drop(volume);
    assert_clean(&drive, &what);
    let volume = mounted(&drive, case, &plan);
    assert_contents(&volume, &what);
    if end != End::ReadOnly {
        assert!(read(&volume, find(&volume, "to")) == expected().1, "{what}: not what was copied");
    }
    end
}

/// A panic at these calls of a copy, one after the other, until it has fewer; how many ended how.
fn strike_at(calls: impl Iterator<Item = u64>, case: &Case, partial: bool) -> [u64; 3] {
    let base = prepared(case);
    let mut ends = [0; 3];
    for n in calls {
        match strike(&base, case, partial, n) {
            End::NotStruck => break,
            End::Survived => ends[0] += 1,
            End::Unwound => ends[1] += 1,
            End::ReadOnly => ends[2] += 1,
        }
    }
    ends
}

const KINDS: [bool; 2] = [false, true];

/// A copy that the device carries out, without and with a failure of the device before.
fn strike_everywhere_by_device(conventional: bool) {
    for (partial, strikes) in [(false, &[Strike::Before][..]), (true, &[Strike::Before, Strike::After, Strike::Within])] {
        for strike in strikes {
            let case = Case::new(conventional, RouteChoice::Auto, *strike);
            let [survived, unwound, read_only] = strike_at(0.., &case, partial);
            assert!(survived > 2 && unwound > 5 && read_only == 0, "{case:?}, {partial}: {survived} survived, {unwound} unwound");
        }
    }
}

#[test]
fn a_panic_in_any_call_of_a_zoned_device_leaves_nothing_taken_by_a_copy() {
    strike_everywhere_by_device(false);
}

#[test]
fn a_panic_in_any_call_of_a_conventional_device_leaves_nothing_taken_by_a_copy() {
    strike_everywhere_by_device(true);
}

#[test]
fn a_panic_in_any_call_of_a_device_leaves_nothing_taken_by_a_copy_of_the_hosts() {
    for conventional in KINDS {
        for strike in [Strike::Before, Strike::Within] {
            let case = Case::new(conventional, RouteChoice::Host, strike);
            let [survived, unwound, _] = strike_at(0.., &case, false);
            assert!(survived == 0 && unwound > 2, "{case:?}: {survived} survived, {unwound} unwound");
        }
    }
}

/// Only the commit with which it begins must not stay half done.
#[test]
fn a_panic_in_the_commit_with_which_a_copy_begins_makes_the_volume_read_only_and_loses_nothing() {
    for conventional in KINDS {
        for strike in [Strike::Before, Strike::Within] {
            let case = Case { dirty: true, ..Case::new(conventional, RouteChoice::Auto, strike) };
            let [survived, unwound, read_only] = strike_at(0..16, &case, false);
            assert!(survived + unwound > 0 && read_only > 0, "{case:?}: {survived} survived, {unwound} unwound, {read_only} read-only");
        }
    }
}

/// Where little is left a copy cleans, waits for room and gives zones back.
#[test]
fn a_panic_while_a_copy_makes_room_for_itself_leaves_nothing_taken() {
    for conventional in KINDS {
        for strike in [Strike::Before, Strike::Within] {
            let case = Case { crowded: true, ..Case::new(conventional, RouteChoice::Auto, strike) };
            let [survived, unwound, read_only] = strike_at((0..).step_by(11), &case, false);
            assert!(survived + unwound > 5, "{case:?}: {survived} survived, {unwound} unwound, {read_only} read-only");
        }
    }
}
