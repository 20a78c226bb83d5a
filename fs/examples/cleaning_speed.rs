//! What cleaning costs the processor: a file of which every second 64 KiB are dead is relocated by hand, with no kernel in front.
//!
//! `cargo run --release -p fs --example cleaning_speed -- FILE [MIB] [auto|host]`: FILE is made anew as a drive image, and MIB are relocated.
//! Instructions are the same whatever else the machine does, and `callgrind_annotate` tells where they go:
//! `valgrind --tool=callgrind --zero-before='*::clean' --dump-after='*::clean' target/release/examples/cleaning_speed FILE`.

use copy_backend::RouteChoice;
use fs::Ino;
use fs::format::item::Timestamp;
use fs::volume::{Caller, FormatOptions, GcMode, MountOptions, Volume, WriteOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use zns::ZonedDevice;
use zns::image::{ImageDevice, ImageOptions};

/// Bytes of an extent.
const EXTENT: u64 = 64 << 10;

/// Seconds for which this process has had a processor, in user mode and in the kernel.
fn processor_seconds() -> (f64, f64) {
    // SAFETY: the structure is plain numbers, which the call fills.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}

#[inline(never)]
fn clean(volume: &Volume) -> fs::Result<gc::campaign::CampaignReport> {
    volume.gc(true)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which file?")?;
    let mib: u64 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let copy_route = match arguments.next().as_deref() {
        None | Some("auto") => RouteChoice::Auto,
        Some("host") => RouteChoice::Host,
        Some(other) => return Err(format!("no such road: {other}").into()),
    };
    let image = ImageOptions { size: (mib * 6).max(512) << 20, overwrite: true, ..ImageOptions::default() };
    let device: Arc<dyn ZonedDevice> = Arc::new(ImageDevice::create(&path, &image)?);
    let created = Timestamp { sec: 0, nsec: 0 };
    let format = FormatOptions { label: String::new(), uuid: [1; 16], created, secret: [2; 32], uid: 0, gid: 0 };
    Volume::format(vec![device.clone()], &format)?;
    let volume = Volume::open(vec![device], MountOptions { copy_route, gc: GcMode::Manual, ..MountOptions::default() })?;
    volume.start_background()?;
    let file = volume.mknod(Ino::ROOT, b"f", libc::S_IFREG | 0o644, 0, &Caller::default())?.ino;
    let payload = vec![0x5a; 1 << 20];
    for i in 0..2 * mib {
        volume.write(file, i << 20, &payload, &WriteOptions::default())?;
    }
    volume.sync()?;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for at in (0..(2 * mib) << 20).step_by(2 * EXTENT as usize) {
        volume.fallocate(file, punch, at, EXTENT)?;
    }
    volume.sync()?;
    let ((user, system), started) = (processor_seconds(), Instant::now());
    let metadata = || {
        let counters = volume.counters();
        (counters.gc_meta_written.load(Ordering::Relaxed), counters.checkpoints.load(Ordering::Relaxed))
    };
    let before = metadata();
    let report = clean(&volume)?;
    let seconds = started.elapsed().as_secs_f64();
    let (user, system) = (processor_seconds().0 - user, processor_seconds().1 - system);
    let extents = report.moved / EXTENT;
    println!("{extents} extents in {seconds:.3} s; processor: user {user:.3} s, kernel {system:.3} s");
    println!("{} bytes by the device, {} by the host, in {} commands", report.offloaded, report.by_host, report.commands);
    println!("{} bytes of metadata dirtied, {} checkpoints", metadata().0 - before.0, metadata().1 - before.1);
    volume.shutdown()?;
    std::fs::remove_file(&path)?;
    Ok(())
}
