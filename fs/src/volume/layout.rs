//! Laying out a new volume: empty zones, the root directory, the first checkpoint.

use crate::BLOCK;
use crate::core::key::Key;
use crate::core::zones::{MIN_ACTIVE, reserves_for};
use crate::error::{FsError, Result};
use crate::format::item::{Inode, Timestamp};
use crate::format::record::Delta;
use crate::format::superblock::{Features, LogStart, MAX_DEVICES, Member, RING_SLOTS, RING_ZONES, RootPointers, Superblock};
use crate::ids::Ino;
use crate::volume::Volume;
use crate::volume::checkpoint::CheckpointKind;
use crate::volume::options::MountOptions;
use crate::volume::ring::RingCursor;
use gc::placement::Population;
use std::sync::Arc;
use zns::{AlignedBuf, BufSlice, IoClass, Lba, ZoneAction, ZoneId, ZoneInfo, ZoneState, ZonedDevice};

/// What a new volume is made with.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// Up to 64 bytes.
    pub label: String,
    /// Identity of the volume; each member's is derived from it.
    pub uuid: [u8; 16],
    /// Now.
    pub created: Timestamp,
    /// Randomness for the secrets.
    pub secret: [u8; 32],
    /// Owner of the root directory.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Fewest zones of a device.
pub const MIN_ZONES: u32 = 24;
/// Smallest device, in bytes.
pub const MIN_BYTES: u64 = 64 << 20;

impl Volume {
    /// Lays out a volume on `devices`; everything on them is lost.
    ///
    /// # Errors
    /// A device that cannot carry a volume, with the reason; device errors.
    pub fn format(devices: Vec<Arc<dyn ZonedDevice>>, options: &FormatOptions) -> Result<()> {
        check(&devices, options)?;
        let mut rings = Vec::new();
        let mut members = Vec::new();
        for (index, device) in devices.iter().enumerate() {
            wipe(device)?;
            let g = device.geometry();
            let mut uuid = options.uuid;
            uuid[15] ^= index as u8 + 1;
            let member = Member {
                uuid,
                block_size: g.block_size,
                zones: g.zones,
                zone_blocks: g.zone_size_bytes() / BLOCK as u64,
                zone_capacity: (g.zone_capacity_bytes() / BLOCK as u64) as u32,
            };
            rings.push(RingCursor::new(member.zone_capacity));
            members.push(member);
        }
        let zones = members.iter().map(|m| m.zones).sum();
        let smallest = members.iter().map(|m| m.zone_capacity).min().unwrap_or(1);
        let (hash_key, _) = options.secret.split_first_chunk::<16>().expect("32 bytes hold 16");
        let superblock = Superblock {
            features: Features::default(),
            uuid: options.uuid,
            label: options.label.clone(),
            generation: 0,
            device: 0,
            clean: true,
            epoch: 0,
            secret: options.secret,
            hash_key: *hash_key,
            created: options.created,
            next_ino: Ino::ROOT.0,
            clock: 0,
            unwritten: 0,
            population: Population::default(),
            inodes: 0,
            reserves: reserves_for(zones, smallest),
            roots: RootPointers::default(),
            log: LogStart::default(),
            members,
        };
        let mount = MountOptions { secret: Some(options.secret), ..MountOptions::default() };
        let volume = Self::build(devices, rings, superblock, mount)?;
        {
            let mut state = volume.state.lock();
            let empty = Inode::empty(Ino::ROOT, libc::S_IFDIR | 0o755, options.created);
            let root = Inode { uid: options.uid, gid: options.gid, generation: birth_salt(options), ..empty };
            let delta = Delta::Put { key: Key::inode(Ino::ROOT), value: root.encode() };
            state.apply(&delta).map_err(|_| FsError::Internal("a new tree is resident"))?;
        }
        volume.checkpoint_as(CheckpointKind { clean: true })
    }
}

/// The generation of all inodes of a volume. Numbers of inodes are never used twice, but another volume begins with the same ones: a handle of a file server's
/// that was made for the one must lead to nothing in the other. The kernel keeps 32 bits.
fn birth_salt(options: &FormatOptions) -> u64 {
    // The time, too: a UUID may be given, and the same one twice.
    let born = [&options.uuid[..], &options.created.sec.to_le_bytes(), &options.created.nsec.to_le_bytes()].concat();
    u64::from(crc32c::crc32c(&born).max(1))
}

fn check(devices: &[Arc<dyn ZonedDevice>], options: &FormatOptions) -> Result<()> {
    let refuse = |reason: String| Err(FsError::Volume(reason));
    if devices.is_empty() || devices.len() > MAX_DEVICES {
        return refuse(format!("a volume has 1 to {MAX_DEVICES} devices, {} were given", devices.len()));
    }
    if options.label.len() > 64 {
        return refuse("the label is longer than 64 bytes".into());
    }
    for device in devices {
        let (g, label) = (device.geometry(), device.label());
        if g.zones < MIN_ZONES {
            return refuse(format!(
                "{label} has {} zones, a volume needs at least {MIN_ZONES}: use smaller zones or a larger device",
                g.zones
            ));
        }
        if g.size_bytes() < MIN_BYTES {
            return refuse(format!("{label} is smaller than {} MiB", MIN_BYTES >> 20));
        }
        if g.active_limit() < MIN_ACTIVE {
            let limit = g.active_limit();
            return refuse(format!("{label} allows {limit} active zones, a volume needs at least {MIN_ACTIVE}"));
        }
        if !g.zone_capacity_bytes().is_multiple_of(BLOCK as u64) || !g.zone_size_bytes().is_multiple_of(BLOCK as u64) {
            return refuse(format!("the zones of {label} are not a multiple of {BLOCK} bytes"));
        }
    }
    Ok(())
}

/// Empties all zones, and makes old superblocks unreadable.
fn wipe(device: &Arc<dyn ZonedDevice>) -> Result<()> {
    let g = device.geometry().clone();
    if g.software_zones {
        let empty = |zone: u32| ZoneInfo {
            id: ZoneId(zone),
            state: ZoneState::Empty,
            start: g.zone_start(ZoneId(zone)),
            capacity: g.zone_capacity,
            written: zns::Blocks(0),
        };
        device.adopt(&(0..g.zones).map(empty).collect::<Vec<_>>())?;
        let slots = RING_SLOTS.min((g.zone_capacity_bytes() / BLOCK as u64) as u32);
        for zone in 0..RING_ZONES {
            let start = g.zone_start(ZoneId(zone));
            let per_write = (g.max_io_bytes as usize / BLOCK).clamp(1, slots as usize);
            for slot in (0..slots as usize).step_by(per_write) {
                let blocks = per_write.min(slots as usize - slot);
                let lba = Lba(start.0 + (slot * BLOCK) as u64 / u64::from(g.block_size));
                let zeros = BufSlice::whole(AlignedBuf::zeroed(blocks * BLOCK));
                device.write(lba, vec![zeros], IoClass::Foreground)?;
            }
            device.manage(ZoneId(zone), ZoneAction::Reset)?;
        }
        device.flush()?;
        return Ok(());
    }
    for info in device.report(0..g.zones)? {
        match info.state {
            ZoneState::Empty | ZoneState::ReadOnly | ZoneState::Offline => {}
            _ => device.manage(info.id, ZoneAction::Reset)?,
        }
    }
    device.flush()?;
    Ok(())
}
