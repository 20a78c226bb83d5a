//! How much memory there is, and whether images may lie in it.

use std::path::Path;

/// A directory in memory with room for images: much faster than a disk for what is thrown away anyway. Images are sparse and small.
pub fn roomy() -> Option<&'static Path> {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|s| s.f_bavail * s.f_frsize > 6 << 30);
    (room && available() > 8 << 30).then_some(memory)
}

/// Bytes of memory that programs may still have, as the kernel guesses (`MemAvailable`, proc(5)); 0 where it does not say.
pub fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
