//! `ferryfs-bench`: what FerryFS does, in figures, beside its peers and beside what theory says.
//!
//! Everything but `wa` drives the built programs through a mount, as a user would, on an image in memory. Figures of an image
//! say so: its copies are carried out by our own process, so bytes by road mean something there, and times do not. `device` and `peers` are for real ones.

mod amplification;
mod cleaning;
mod copying;
mod device;
mod durability;
mod loads;
mod loops;
mod matrix;
mod overwriting;
mod pauses;
mod peers;
mod picture;
mod queueing;
mod reading;
mod relocation;
mod report;
mod rig;
mod scale;
mod sequential;
mod simulator;
mod traces;

use anyhow::Result;
use bench::ceiling::Ceiling;
use clap::{Parser, Subcommand};
use fs::fuse::{AdaptorOptions, MountRequest, Mounted};
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Parser)]
#[command(name = "ferryfs-bench", version, about = "Benchmarks of FerryFS")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Args)]
struct Common {
    /// Writes the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller and fewer rounds
    #[arg(long)]
    quick: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// Streams, random access, fsync, metadata, builds, databases and copies: beside the ceiling of FUSE, ext4, XFS, btrfs and fuse2fs
    Fs {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        arguments: matrix::Arguments,
    },
    /// What FerryFS itself promises: streams and creating beside ext4 on fresh and on used images, blocks written by an fsync
    Basics {
        #[command(flatten)]
        common: Common,
        /// Only these parts
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<FsPart>,
    },
    /// What it costs when there are many: ten million files, a directory of a million, a file of a million extents, sparse drives of 100,000 zones
    Scale {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        arguments: scale::Arguments,
    },
    /// Cleaning on a real volume, filled and aged, under a load: by each copy road, without cleaning, and beside other filesystems
    Gc {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        arguments: Box<cleaning::Arguments>,
    },
    /// Single parts of cleaning on an image: metadata written per relocated byte, write amplification, how long writers and readers wait
    Parts {
        #[command(flatten)]
        common: Common,
        /// Only these
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<GcPart>,
        /// Live share of the space in the measurements of write amplification and of pauses
        #[arg(long, default_value_t = 0.85)]
        utilization: f64,
        /// Victim policy of the mount; greedy cleaning is what there is a formula for
        #[arg(long, default_value = "greedy")]
        policy: String,
    },
    /// copy_file_range(2) beside cp
    Copy {
        #[command(flatten)]
        common: Common,
    },
    /// A drive's own Copy beside reading and writing: gathering, cleaning, copy_file_range. Everything on the device is lost
    Device {
        /// A block device
        device: PathBuf,
        /// Everything on it may go
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        common: Common,
        /// Only these parts
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<device::Part>,
    },
    /// Bytes between host and drive for the same overwrites, beside F2FS, btrfs and XFS on zoned drives. Everything on the devices is lost
    Peers {
        #[command(flatten)]
        drives: peers::Drives,
        /// Everything on them may go
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Serves a naive filesystem in memory until it is unmounted: what `fs` calls the ceiling
    #[command(hide = true)]
    Ceiling {
        /// Where
        mountpoint: PathBuf,
    },
    /// Write amplification by simulation over addresses alone
    Wa {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        grid: simulator::Grid,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FsPart {
    Sequential,
    Create,
    Fsync,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GcPart {
    Relocation,
    Amplification,
    Pauses,
    Reads,
}

fn main() -> Result<()> {
    match Arguments::parse().bench {
        Bench::Fs { common, arguments } => arguments.run(common.quick, common.json.as_deref()),
        Bench::Basics { common, only } => {
            let wanted = |part| only.is_empty() || only.contains(&part);
            let mut report = Report::new("basics");
            if wanted(FsPart::Sequential) {
                sequential::streams(common.quick, &mut report)?;
            }
            if wanted(FsPart::Create) {
                sequential::creates(common.quick, &mut report)?;
            }
            if wanted(FsPart::Fsync) {
                durability::run(&mut report)?;
            }
            report.finish(common.json.as_deref())
        }
        Bench::Scale { common, arguments } => arguments.run(common.quick, common.json.as_deref()),
        Bench::Gc { common, arguments } => cleaning::run(*arguments, common.quick, common.json.as_deref()),
        Bench::Parts { common, only, utilization, policy } => {
            let wanted = |part| only.is_empty() || only.contains(&part);
            let mut report = Report::new("parts");
            if wanted(GcPart::Relocation) {
                relocation::run(common.quick, &mut report)?;
            }
            if wanted(GcPart::Amplification) {
                amplification::run(common.quick, utilization, &policy, &mut report)?;
            }
            if wanted(GcPart::Pauses) {
                pauses::run(common.quick, utilization, &policy, &mut report)?;
            }
            if wanted(GcPart::Reads) {
                reading::run(common.quick, &mut report)?;
                queueing::run(common.quick, &mut report)?;
            }
            report.finish(common.json.as_deref())
        }
        Bench::Copy { common } => {
            let mut report = Report::new("copy");
            copying::run(common.quick, &mut report)?;
            report.finish(common.json.as_deref())
        }
        Bench::Device { device, overwrite, common, only } => {
            let mut report = Report::new("device");
            device::run(&device, overwrite, &only, common.quick, &mut report)?;
            report.finish(common.json.as_deref())
        }
        Bench::Peers { drives, overwrite, common } => {
            let mut report = Report::new("peers");
            peers::run(&drives, overwrite, common.quick, &mut report)?;
            report.finish(common.json.as_deref())
        }
        Bench::Ceiling { mountpoint } => {
            let mountpoint = mountpoint.canonicalize()?;
            let request = MountRequest { mountpoint, source: "ceiling".into(), allow_other: true, ..MountRequest::default() };
            Ok(Mounted::start(Arc::new(Ceiling::default()), &request, AdaptorOptions::default())?.wait()?)
        }
        Bench::Wa { common, grid } => simulator::run(&grid, common.quick, common.json.as_deref()),
    }
}
