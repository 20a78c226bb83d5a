//! How long a read waits for copies in the queue of a drive: a drive in memory whose times are a model, so that nothing but the engine's own pace shows.
//!
//! The model: one queue, first come, first served; a read of 4 KiB takes 80 us, a copy 20 us and a millisecond for each MB. Two copies of 16 MiB are always under way,
//! which the drive would take in one command each.

use crate::pauses::at;
use crate::report::{Report, Row};
use anyhow::{Context, Result, ensure};
use copy_backend::{CopyEngine, CopyRequest, EngineConfig, RoadPreference, SourceRange, Target};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zns::sim::{SimConfig, SimDevice, SimDrive};
use zns::{
    AlignedBuf, Blocks, BufSlice, Completions, CopyFailure, CopyLimits, CopySource, DeviceId, Geometry, Io, IoClass, Lba, NativeCopy,
    Ticket, ZoneAction, ZoneId, ZoneInfo, ZonedDevice,
};

const ZONE_BLOCKS: u64 = 4096;
const READ_TIME: Duration = Duration::from_micros(80);
const COPY_TIME: Duration = Duration::from_micros(20);
/// Nanoseconds for a byte that is copied.
const NANOS_PER_BYTE: u64 = 1;
/// What a reader does between two reads.
const THINKING: Duration = Duration::from_micros(500);

/// A drive in memory with the times of the model.
struct Timed {
    drive: Arc<SimDevice>,
    free_at: Mutex<Instant>,
}

impl Timed {
    /// Stands in the queue for something that takes `time`.
    fn serve(&self, time: Duration) {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(Instant::now()) + time;
        let done = *free_at;
        drop(free_at);
        std::thread::sleep(done.saturating_duration_since(Instant::now()));
    }
}

impl ZonedDevice for Timed {
    fn geometry(&self) -> &Geometry {
        self.drive.geometry()
    }
    fn report(&self, zones: Range<u32>) -> zns::Result<Vec<ZoneInfo>> {
        self.drive.report(zones)
    }
    fn submit(&self, batch: Vec<Io>, class: IoClass) -> zns::Result<Ticket> {
        self.drive.submit(batch, class)
    }
    fn complete(&self, ticket: Ticket) -> Completions {
        self.drive.complete(ticket)
    }
    fn manage(&self, zone: ZoneId, action: ZoneAction) -> zns::Result<()> {
        self.drive.manage(zone, action)
    }
    fn flush(&self) -> zns::Result<()> {
        self.drive.flush()
    }
    fn native_copy(&self) -> Option<&dyn NativeCopy> {
        Some(self)
    }
    fn label(&self) -> String {
        self.drive.label()
    }
    fn read(&self, lba: Lba, buf: AlignedBuf, class: IoClass) -> zns::Result<AlignedBuf> {
        self.serve(READ_TIME);
        self.drive.read(lba, buf, class)
    }
}

impl NativeCopy for Timed {
    fn limits(&self) -> CopyLimits {
        CopyLimits { mssrl: ZONE_BLOCKS as u32, mcl: ZONE_BLOCKS as u32, ranges: 128 }
    }
    fn simulated(&self) -> bool {
        true
    }
    fn copy(&self, sources: &[CopySource], target: Lba) -> std::result::Result<(), CopyFailure> {
        if let Some(copy) = self.drive.native_copy() {
            copy.copy(sources, target)?;
        }
        let bytes: u64 = sources.iter().map(|source| source.blocks.0 * 4096).sum();
        self.serve(COPY_TIME + Duration::from_nanos(bytes * NANOS_PER_BYTE));
        Ok(())
    }
}

/// Reads alone, beside copies of which the engine does not know that somebody reads, and beside copies that keep back.
pub fn run(quick: bool, report: &mut Report) -> Result<()> {
    let zone = Blocks(ZONE_BLOCKS);
    let limits = CopyLimits { mssrl: ZONE_BLOCKS as u32, mcl: ZONE_BLOCKS as u32, ranges: 128 };
    let config = SimConfig { zone_size: zone, zone_capacity: zone, copy: Some(limits), ..SimConfig::zoned(8, 1) };
    let drive = SimDrive::new(config).open();
    let piece = BufSlice::whole(AlignedBuf::zeroed(1 << 20));
    for at in (0..ZONE_BLOCKS).step_by(256) {
        drive.write(Lba(at), vec![piece.clone()], IoClass::Log)?;
    }
    let device = Arc::new(Timed { drive, free_at: Mutex::new(Instant::now()) });
    let seconds = Duration::from_secs(if quick { 3 } else { 15 });
    for (what, copying, told) in
        [("alone", false, false), ("beside copies that do not know of them", true, false), ("beside copies", true, true)]
    {
        let (mut times, copied) = measure(&device, seconds, copying, told)?;
        times.sort_unstable();
        report.add(
            Row::new(format!("4 KiB reads on a modelled drive, {what}"), times.len() as f64 / seconds.as_secs_f64(), "reads/s")
                .simulated(true),
        );
        for (part, permille) in [("p50", 500), ("p99", 990), ("max", 1000)] {
            report.add(Row::new(format!("  one read, {part}"), at(&times, permille), "us").simulated(true));
        }
        if copying {
            report.add(Row::new("  copied meanwhile", copied as f64 / seconds.as_secs_f64() / f64::from(1 << 20), "MiB/s").simulated(true));
        }
    }
    Ok(())
}

fn measure(device: &Arc<Timed>, seconds: Duration, copying: bool, told: bool) -> Result<(Vec<Duration>, u64)> {
    let engine = CopyEngine::for_devices(vec![device.clone() as Arc<dyn ZonedDevice>], EngineConfig::default());
    let (over, copied) = (AtomicBool::new(false), AtomicU64::new(0));
    let (engine, over, copied) = (&engine, &over, &copied);
    std::thread::scope(|scope| {
        let copiers: Vec<_> =
            (1..=if copying { 2 } else { 0 }).map(|zone| scope.spawn(move || copy(device, engine, ZoneId(zone), over, copied))).collect();
        let begun = Instant::now();
        let mut times = Vec::new();
        while begun.elapsed() < seconds {
            let began = Instant::now();
            let reading = told.then(|| engine.foreground().read());
            device.read(Lba(0), AlignedBuf::zeroed(4096), IoClass::Foreground)?;
            drop(reading);
            times.push(began.elapsed());
            std::thread::sleep(THINKING);
        }
        let bytes = copied.load(Ordering::Relaxed);
        over.store(true, Ordering::Relaxed);
        for copier in copiers {
            copier.join().ok().context("a copier panicked")??;
        }
        Ok((times, bytes))
    })
}

/// Fills a zone by copies and resets it, again and again.
fn copy(device: &Timed, engine: &CopyEngine, zone: ZoneId, over: &AtomicBool, copied: &AtomicU64) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let request = CopyRequest {
            sources: vec![SourceRange { device: DeviceId(0), lba: Lba(0), blocks: Blocks(ZONE_BLOCKS) }],
            target: Target { device: DeviceId(0), lba: Lba(u64::from(zone.0) * ZONE_BLOCKS) },
            class: IoClass::Cleaning,
            checksums: Vec::new(),
            road: RoadPreference::Offload,
        };
        let result = engine.copy(request)?;
        ensure!(result.failure.is_none(), "a copy on the modelled drive failed: {:?}", result.failure);
        copied.fetch_add(result.bytes_done, Ordering::Relaxed);
        device.manage(zone, ZoneAction::Reset)?;
    }
    Ok(())
}
