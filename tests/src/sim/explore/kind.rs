//! The kinds of volumes, and the small filesystem on each from which every sequence starts.

use crate::sim::model::{Model, ROOT};
use crate::sim::operation::Operation;
use crate::sim::subject::{Subject, observe};
use crate::sim::world::root_only;
use fs::format::item::Timestamp;
use fs::volume::{AtimeMode, Clock, FormatOptions, GcMode, MountOptions, Volume};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use zns::image::{ImageDevice, ImageOptions};
use zns::native_copy::CopyLimits;
use zns::sim::{SimConfig, SimDrive, SimMedium, Still};
use zns::{Blocks, ZonedDevice};

/// On what a volume lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeKind {
    /// A file that poses as a ZNS drive.
    ImageZns,
    /// A file taken as a plain disk.
    ImageConventional,
    /// A zoned drive with a Copy of its own.
    Zoned,
    /// A disk of 512-byte blocks with a Copy of its own.
    Conventional,
    /// Two zoned drives, one of 512-byte blocks.
    TwoZoned,
    /// A zoned drive and a disk.
    ZonedAndConventional,
}

/// A volume with something in it, not mounted.
pub struct Base {
    /// Of which kind.
    pub kind: VolumeKind,
    /// What its devices hold.
    pub media: Vec<Still>,
    /// What it holds.
    pub model: Model,
    /// The time.
    pub now: i64,
}

/// Identities of what every volume starts with.
pub mod ids {
    use crate::sim::model::Id;
    /// Directory `A`.
    pub const A: Id = 1;
    /// File `foo`.
    pub const FOO: Id = 2;
    /// File `A/bar`.
    pub const BAR: Id = 3;
    /// File `big`, of which little is in one piece.
    pub const BIG: Id = 4;
    /// Directory `E`, empty.
    pub const EMPTY: Id = 5;
}

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct Hands(Arc<AtomicI64>);

impl Hands {
    /// It is `now`.
    pub fn at(now: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }

    /// A second passes.
    pub fn tick(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// In seconds.
    pub fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How simulated volumes are mounted; mounts with different numbers are different epochs.
pub fn mount_options(hands: &Hands, number: u8) -> MountOptions {
    let hands = hands.clone();
    let placement = if number.is_multiple_of(2) { "adaptive" } else { "separate" };
    MountOptions {
        gc: GcMode::Manual,
        placement: placement.into(),
        cache_size: 4 << 20,
        atime: AtimeMode::None.into(),
        clock: Clock(Arc::new(move || Timestamp { sec: hands.now(), nsec: 0 })),
        secret: Some([number; 32]),
        ..MountOptions::default()
    }
}

/// Small, so that buffers are: large ones are the kernel's, page by page.
const MAX_IO: u32 = 48 << 10;
const COPY: CopyLimits = CopyLimits { mssrl: 16, mcl: 24, ranges: 4 };

fn zoned(seed: u64) -> SimConfig {
    SimConfig { zone_size: Blocks(512), zone_capacity: Blocks(32), copy: Some(COPY), max_io_bytes: MAX_IO, ..SimConfig::zoned(56, seed) }
}

fn in_sectors(config: SimConfig) -> SimConfig {
    let times = |blocks: Blocks| Blocks(blocks.0 * u64::from(config.block_size / 512));
    let copy = config.copy.map(|limits| CopyLimits { mssrl: limits.mssrl * 8, mcl: limits.mcl * 8, ..limits });
    SimConfig { block_size: 512, zone_size: times(config.zone_size), zone_capacity: times(config.zone_capacity), copy, ..config }
}

fn conventional(seed: u64) -> SimConfig {
    // Zones in software may be as small as a test wants; 64 MiB is the least that a volume takes.
    let zone = Blocks(64);
    SimConfig { block_size: 4096, zone_size: zone, zone_capacity: zone, max_io_bytes: MAX_IO, ..SimConfig::conventional(256, seed) }
}

impl VolumeKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::ImageZns, Self::ImageConventional, Self::Zoned, Self::Conventional, Self::TwoZoned, Self::ZonedAndConventional];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageZns => "image, profile zns",
            Self::ImageConventional => "image, conventional",
            Self::Zoned => "zoned",
            Self::Conventional => "conventional",
            Self::TwoZoned => "two devices, both zoned",
            Self::ZonedAndConventional => "two devices, zoned and conventional",
        }
    }

    /// Devices that hold nothing.
    pub fn fresh(self) -> Vec<SimMedium> {
        let drive = |config: SimConfig| SimMedium::Drive(SimDrive::new(config));
        match self {
            Self::ImageZns => {
                let options = ImageOptions {
                    size: 64 << 20,
                    zone_size: 1 << 20,
                    zone_capacity: Some(128 << 10),
                    copy: Some(COPY),
                    ..ImageOptions::default()
                };
                let (file, _) = ImageDevice::create_simulated(&options).expect("such an image is possible");
                vec![SimMedium::File(file)]
            }
            Self::ImageConventional => vec![drive(conventional(1))],
            Self::Zoned => vec![drive(zoned(1))],
            Self::Conventional => vec![drive(in_sectors(SimConfig { copy: Some(COPY), ..conventional(1) }))],
            Self::TwoZoned => vec![drive(zoned(1)), drive(in_sectors(zoned(2)))],
            Self::ZonedAndConventional => vec![drive(zoned(1)), drive(in_sectors(SimConfig { copy: Some(COPY), ..conventional(2) }))],
        }
    }

    /// A volume of this kind with two directories and three files, in which something died that can be cleaned away.
    ///
    /// # Panics
    /// If any of that fails.
    pub fn base(self) -> Base {
        let media = self.fresh();
        let hands = Hands::at(1_700_000_000);
        let created = Timestamp { sec: hands.now(), nsec: 0 };
        let format = FormatOptions { label: "crash".into(), uuid: [7; 16], created, secret: [1; 32], uid: ROOT, gid: 0 };
        Volume::format(open(&media, false).expect("opened"), &format).expect("formatted");
        let volume = Volume::open(open(&media, false).expect("opened"), mount_options(&hands, 2)).expect("mounted");
        let mut subject = Subject::new(volume.clone(), root_only());
        let mut model = Model::new(hands.now());
        for op in beginning() {
            let now = hands.tick();
            op.apply(&mut model, now).unwrap_or_else(|refusal| panic!("{op:?}: {refusal:?}"));
            subject.apply(&op).unwrap_or_else(|error| panic!("{}: {op:?}: {error}", self.name()));
        }
        volume.shutdown().expect("unmounted");
        drop((subject, volume));
        let volume = Volume::open(open(&media, true).expect("opened"), MountOptions { read_only: true, ..mount_options(&hands, 3) });
        let found = observe(&volume.expect("mounted")).expect("observed");
        assert!(found.errors.is_empty() && found.model.digest() == model.digest(), "{:?}", model.differences(&found.model));
        Base { kind: self, media: media.iter().map(SimMedium::still).collect(), model, now: hands.now() }
    }
}

/// Handles on media.
///
/// # Errors
/// An image that cannot be opened.
pub fn open(media: &[SimMedium], read_only: bool) -> zns::Result<Vec<Arc<dyn ZonedDevice>>> {
    media.iter().map(|medium| medium.open(read_only)).collect()
}

fn beginning() -> Vec<Operation> {
    let write =
        |id, offset: u64, len: usize| Operation::Write { id, offset, len, stamp: offset + u64::from(id) + 1, append: false, sync: false };
    let create = |parent, name: &[u8], id| Operation::Create { parent, name: name.to_vec(), id };
    let mkdir = |name: &[u8], id| Operation::Mkdir { parent: ROOT, name: name.to_vec(), id };
    let mut ops = vec![
        mkdir(b"A", ids::A),
        mkdir(b"E", ids::EMPTY),
        create(ROOT, b"foo", ids::FOO),
        write(ids::FOO, 0, 10_000),
        create(ids::A, b"bar", ids::BAR),
        write(ids::BAR, 0, 5_000),
        Operation::SetXattr { id: ids::FOO, name: b"user.base".to_vec(), len: 30, stamp: 3 },
        create(ROOT, b"big", ids::BIG),
        write(ids::BIG, 0, 30 * 4096),
        Operation::Sync,
    ];
    // Zones of which a part is dead.
    for block in (0..30).step_by(2) {
        ops.push(write(ids::BIG, block * 4096, 4096));
        ops.extend((block % 10 == 0).then_some(Operation::Sync));
    }
    ops.push(Operation::Checkpoint);
    ops
}
