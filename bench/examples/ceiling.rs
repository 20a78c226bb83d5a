//! Mounts the ceiling (a naive filesystem in memory behind the adaptor) until it is unmounted: `ceiling MOUNTPOINT [THREADS]`.

use bench::ceiling::Ceiling;
use fs::fuse::{AdaptorOptions, MountRequest, Mounted};
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mountpoint = PathBuf::from(words.next().unwrap_or_default()).canonicalize()?;
    let mut options = AdaptorOptions::default();
    if let Some(threads) = words.next() {
        options.threads = threads.parse()?;
    }
    let request = MountRequest { mountpoint, source: "ceiling".into(), allow_other: true, ..MountRequest::default() };
    Mounted::start(Arc::new(Ceiling::default()), &request, options)?.wait()?;
    Ok(())
}
