//! Times a volume without FUSE in front of it: where a mount spends its time below the kernel's part.
//!
//! `cargo run --release -p fs --example volume_speed -- FILE [MIB]`: FILE is made anew as a drive image.

use fs::Ino;
use fs::format::item::Timestamp;
use fs::volume::{Caller, FormatOptions, MountOptions, Volume, WriteOptions};
use std::sync::Arc;
use std::time::Instant;
use zns::ZonedDevice;
use zns::image::{ImageDevice, ImageOptions};

fn timed<T>(what: &str, units: f64, unit: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:34} {seconds:8.3} s  {:12.1} {unit}/s", units / seconds);
    result
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which file?")?;
    let mib: u64 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let image = ImageOptions { size: (mib * 4) << 20, overwrite: true, ..ImageOptions::default() };
    let device: Arc<dyn ZonedDevice> = Arc::new(ImageDevice::create(&path, &image)?);
    let created = Timestamp { sec: 0, nsec: 0 };
    let format = FormatOptions { label: String::new(), uuid: [1; 16], created, secret: [2; 32], uid: 0, gid: 0 };
    Volume::format(vec![device.clone()], &format)?;
    let volume = timed("mount", 1.0, "mount", || Volume::open(vec![device], MountOptions::default()))?;
    volume.start_background()?;
    let caller = Caller::default();
    timed("create 100,000 files", 1e5, "files", || -> fs::Result<()> {
        for i in 0..100_000 {
            volume.mknod(Ino::ROOT, format!("file {i}").as_bytes(), libc::S_IFREG | 0o644, 0, &caller)?;
        }
        Ok(())
    })?;
    timed("lookup 100,000 files", 1e5, "files", || -> fs::Result<()> {
        for i in 0..100_000 {
            volume.lookup(Ino::ROOT, format!("file {i}").as_bytes())?;
        }
        Ok(())
    })?;
    let file = volume.mknod(Ino::ROOT, b"large", libc::S_IFREG | 0o644, 0, &caller)?.ino;
    let payload = vec![0x5a; 1 << 20];
    let options = WriteOptions::default();
    timed("sequential write, 1 MiB", mib as f64, "MiB", || -> fs::Result<()> {
        for i in 0..mib {
            volume.write(file, i << 20, &payload, &options)?;
        }
        volume.sync()
    })?;
    timed("sequential read, 1 MiB", mib as f64, "MiB", || -> fs::Result<()> {
        for i in 0..mib {
            volume.read(file, i << 20, 1 << 20)?;
        }
        Ok(())
    })?;
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 33
    };
    let blocks = mib * 256;
    timed("random write, 4 KiB", 1e5, "writes", || -> fs::Result<()> {
        for _ in 0..100_000 {
            volume.write(file, random() % blocks * 4096, &payload[..4096], &options)?;
        }
        volume.sync()
    })?;
    timed("random read, 4 KiB", 1e5, "reads", || -> fs::Result<()> {
        for _ in 0..100_000 {
            volume.read(file, random() % blocks * 4096, 4096)?;
        }
        Ok(())
    })?;
    timed("4 KiB write and fsync", 1e4, "fsyncs", || -> fs::Result<()> {
        for _ in 0..10_000 {
            volume.write(file, random() % blocks * 4096, &payload[..4096], &options)?;
            volume.sync()?;
        }
        Ok(())
    })?;
    timed("unlink 100,000 files", 1e5, "files", || -> fs::Result<()> {
        for i in 0..100_000 {
            let name = format!("file {i}");
            let ino = volume.lookup(Ino::ROOT, name.as_bytes())?.ino;
            volume.unlink(Ino::ROOT, name.as_bytes())?;
            volume.forget(ino);
        }
        Ok(())
    })?;
    timed("end of the mount", 1.0, "mount", || volume.shutdown())?;
    std::fs::remove_file(&path)?;
    Ok(())
}
