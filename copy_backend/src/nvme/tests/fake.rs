//! Namespaces over simulated drives, and devices of a volume that stand on them.

use super::super::command::IoCommand;
use super::super::wire::{AdminCommand, Answer, Port, Tag, Wire};
use crate::backend::NoRoad;
use crate::topology::{DevNumber, MadeOf, RealDevice, Seen, System};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use zns::sim::SimDrive;
use zns::{
    AlignedBuf, Backing, Blocks, BufSlice, Completions, CopySource, Geometry, Io, IoClass, Lba, Ticket, ZoneAction, ZoneId, ZoneInfo,
    ZonedDevice,
};

/// What a made-up namespace does instead of what it should.
#[derive(Clone, Copy, Debug)]
pub enum Trick {
    /// This answer, and nothing is done.
    Answer(Answer),
    /// Success, and nothing is done: on a drive that lets its write pointer be where it is.
    DoNothing,
    /// Ranges from this one on fail with this status, the ones before are copied.
    FailAt(usize, u16),
    /// As above, but dword 0 says this.
    FailAtButSay(usize, u16, u32),
    /// Copies something else.
    CopyFromElsewhere,
}

/// A namespace.
pub struct FakeNamespace {
    pub nsid: u32,
    pub drive: SimDrive,
    pub device: Arc<dyn ZonedDevice>,
    pub controller: Mutex<Vec<u8>>,
    pub identify: Mutex<Vec<u8>>,
    /// Host Behavior Support, shared by the namespaces of a controller; `None`: the kernel refuses to set it.
    pub behavior: Arc<Mutex<Option<Vec<u8>>>>,
    pub tricks: Mutex<VecDeque<Trick>>,
    /// All commands, in order.
    pub seen: Mutex<Vec<IoCommand>>,
    pub others: Mutex<HashMap<u32, Arc<FakeNamespace>>>,
    /// Called before each command.
    pub before: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Those of commands that nobody has finished.
    pub answers: Mutex<HashMap<u64, Answer>>,
}

pub fn identify(blocks: u64, block_size: u32, limits: (u16, u32, u8)) -> Vec<u8> {
    let mut data = vec![0u8; 4096];
    data[0..8].copy_from_slice(&blocks.to_le_bytes());
    data[74..76].copy_from_slice(&limits.0.to_le_bytes());
    data[76..80].copy_from_slice(&limits.1.to_le_bytes());
    data[80] = limits.2;
    data[128..132].copy_from_slice(&(block_size.trailing_zeros() << 16).to_le_bytes());
    data
}

pub fn controller(oncs: u16, ocfs: u16) -> Vec<u8> {
    let mut data = vec![0u8; 4096];
    data[520..522].copy_from_slice(&oncs.to_le_bytes());
    data[534..536].copy_from_slice(&ocfs.to_le_bytes());
    data[768..771].copy_from_slice(b"nqn");
    data
}

const SUCCESS: Answer = Answer::Device { status: 0, dw0: 0 };

impl FakeNamespace {
    pub fn new(nsid: u32, drive: SimDrive, limits: (u16, u32, u8), behavior: Arc<Mutex<Option<Vec<u8>>>>) -> Arc<Self> {
        let device = drive.open() as Arc<dyn ZonedDevice>;
        let geometry = device.geometry();
        let blocks = u64::from(geometry.zones) * geometry.zone_size.0;
        let identify = identify(blocks, geometry.block_size, limits);
        Arc::new(Self {
            nsid,
            drive,
            device,
            controller: Mutex::new(controller(1 << 8, 0xf)),
            identify: Mutex::new(identify),
            behavior,
            tricks: Mutex::default(),
            seen: Mutex::default(),
            others: Mutex::default(),
            before: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    fn limits(&self) -> (u64, u64, usize) {
        let data = self.identify.lock();
        (
            u64::from(u16::from_le_bytes([data[74], data[75]])),
            u64::from(u32::from_le_bytes([data[76], data[77], data[78], data[79]])),
            usize::from(data[80]) + 1,
        )
    }

    /// Carries a Copy out as a drive does, range by range.
    fn copy(&self, command: &IoCommand) -> Answer {
        let refuse = |status| Answer::Device { status, dw0: 0 };
        let format = command.cdw10[2] >> 8 & 0xf;
        let wide = format & 1 != 0;
        let across = format & 2 != 0;
        let entry = if wide { 40 } else { 32 };
        let count = (command.cdw10[2] & 0xff) as usize + 1;
        if command.data.len() != entry * count {
            return refuse(0x002);
        }
        if across && self.behavior.lock().as_ref().is_none_or(|data| data[4] & (1 << format) == 0) {
            return refuse(0x4002);
        }
        let ranges: Vec<(u32, u64, u64)> = command
            .data
            .chunks(entry)
            .map(|entry| {
                let nsid = if across { u32::from_le_bytes(entry[0..4].try_into().unwrap()) } else { self.nsid };
                let lba = u64::from_le_bytes(entry[8..16].try_into().unwrap());
                (nsid, lba, u64::from(u16::from_le_bytes([entry[16], entry[17]])) + 1)
            })
            .collect();
        let (max_range, max_command, max_ranges) = self.limits();
        let total: u64 = ranges.iter().map(|range| range.2).sum();
        let trick = self.tricks.lock().pop_front();
        if count > max_ranges || total > max_command || ranges.iter().any(|range| range.2 > max_range) {
            return refuse(0x4183);
        }
        let (fail_at, status, said) = match trick {
            Some(Trick::Answer(answer)) => return answer,
            Some(Trick::DoNothing) => return SUCCESS,
            Some(Trick::FailAt(at, status)) => (at, status, at as u32),
            Some(Trick::FailAtButSay(at, status, say)) => (at, status, say),
            _ => (usize::MAX, 0, 0),
        };
        let mut target = u64::from(command.cdw10[0]) | u64::from(command.cdw10[1]) << 32;
        for (index, &(nsid, lba, blocks)) in ranges.iter().enumerate() {
            if index == fail_at {
                return Answer::Device { status, dw0: said };
            }
            let lba = if matches!(trick, Some(Trick::CopyFromElsewhere)) { lba ^ 1 } else { lba };
            if let Err(status) = self.copy_one(nsid, lba, blocks, target) {
                return Answer::Device { status, dw0: index as u32 };
            }
            target += blocks;
        }
        SUCCESS
    }

    fn copy_one(&self, nsid: u32, lba: u64, blocks: u64, target: u64) -> Result<(), u16> {
        if nsid == self.nsid {
            let source = [CopySource { lba: Lba(lba), blocks: Blocks(blocks) }];
            return self.device.native_copy().unwrap().copy(&source, Lba(target)).map_err(|failure| failure.status.0);
        }
        let other = self.others.lock().get(&nsid).cloned().ok_or(0x00bu16)?;
        let bytes = other.drive.peek(Lba(lba), Blocks(blocks));
        let data = vec![BufSlice::whole(AlignedBuf::from_slice(&bytes))];
        self.device.write(Lba(target), data, IoClass::Copy).map_err(|_| 0x1bc)
    }
}

impl Wire for FakeNamespace {
    fn nsid(&self) -> Result<u32, String> {
        Ok(self.nsid)
    }

    fn admin(&self, command: AdminCommand, data: &mut [u8]) -> Answer {
        let give = |from: &[u8], data: &mut [u8]| {
            let len = from.len().min(data.len());
            data[..len].copy_from_slice(&from[..len]);
            SUCCESS
        };
        match (command.opcode, command.cdw10) {
            (0x06, 0) => give(&self.identify.lock(), data),
            (0x06, 1) => give(&self.controller.lock(), data),
            (0x0a, 0x16) => give(self.behavior.lock().as_deref().unwrap_or(&[0; 512]), data),
            (0x09, 0x16) => match &mut *self.behavior.lock() {
                Some(behavior) => {
                    behavior.copy_from_slice(data);
                    SUCCESS
                }
                None => Answer::Kernel { errno: libc::EACCES },
            },
            _ => Answer::Device { status: 0x4002, dw0: 0 },
        }
    }

    fn start(&self, command: IoCommand) -> Tag {
        if let Some(before) = &*self.before.lock() {
            before();
        }
        assert_eq!(command.nsid, self.nsid, "the kernel refuses commands to another namespace");
        let answer = self.copy(&command);
        let mut seen = self.seen.lock();
        seen.push(command);
        self.answers.lock().insert(seen.len() as u64, answer);
        Tag(seen.len() as u64)
    }

    fn finish(&self, tag: Tag) -> Answer {
        self.answers.lock().remove(&tag.0).expect("each tag is finished once")
    }
}

/// Namespaces by minor number.
#[derive(Default)]
pub struct FakePort(pub HashMap<u32, Arc<FakeNamespace>>);

impl Port for FakePort {
    fn open(&self, device: &RealDevice) -> Result<Arc<dyn Wire>, NoRoad> {
        match self.0.get(&device.number.minor) {
            Some(namespace) => Ok(namespace.clone()),
            None => Err(NoRoad::foreign(format!("{} is not an NVMe namespace", device.name))),
        }
    }
}

/// Block devices by minor number; /dev/nN has minor N.
#[derive(Default)]
pub struct FakeSystem(pub Mutex<HashMap<u32, Seen>>);

impl FakeSystem {
    pub fn put(&self, minor: u32, size: u64, made_of: MadeOf) {
        let name = format!("n{minor}");
        let seen = Seen { path: Path::new("/dev").join(&name), name, size, block_size: 4096, made_of };
        self.0.lock().insert(minor, seen);
    }
}

impl System for FakeSystem {
    fn number_of(&self, path: &Path) -> Result<DevNumber, String> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(DevNumber { major: 259, minor: name[1..].parse().unwrap() })
    }
    fn see(&self, device: DevNumber) -> Result<Seen, String> {
        self.0.lock().get(&device.minor).cloned().ok_or_else(|| "gone".into())
    }
}

/// A device of a volume: a part of a drive, as the kernel would give it, whose own object carries out no copies.
pub struct Standing {
    pub inner: Arc<dyn ZonedDevice>,
    pub geometry: Geometry,
    /// First block used of the drive.
    pub first: u64,
    pub minor: u32,
    /// Copies admitted and not yet ended.
    pub admitted: Mutex<Vec<(Lba, Blocks)>>,
}

impl Standing {
    pub fn whole(namespace: &FakeNamespace, minor: u32) -> Arc<Self> {
        let inner = namespace.drive.open() as Arc<dyn ZonedDevice>;
        let geometry = inner.geometry().clone();
        Arc::new(Self { inner, geometry, first: 0, minor, admitted: Mutex::default() })
    }
    fn first_zone(&self) -> u32 {
        (self.first / self.geometry.zone_size.0) as u32
    }
}

impl ZonedDevice for Standing {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn report(&self, zones: Range<u32>) -> zns::Result<Vec<ZoneInfo>> {
        let first = self.first_zone();
        let mut report = self.inner.report(zones.start + first..zones.end + first)?;
        for zone in &mut report {
            (zone.id, zone.start) = (ZoneId(zone.id.0 - first), Lba(zone.start.0 - self.first));
        }
        Ok(report)
    }
    fn submit(&self, batch: Vec<Io>, class: IoClass) -> zns::Result<Ticket> {
        let shift = |io| match io {
            Io::Read { lba, buf } => Io::Read { lba: Lba(lba.0 + self.first), buf },
            Io::Write { lba, data } => Io::Write { lba: Lba(lba.0 + self.first), data },
        };
        self.inner.submit(batch.into_iter().map(shift).collect(), class)
    }
    fn complete(&self, ticket: Ticket) -> Completions {
        self.inner.complete(ticket)
    }
    fn manage(&self, zone: ZoneId, action: ZoneAction) -> zns::Result<()> {
        self.inner.manage(ZoneId(zone.0 + self.first_zone()), action)
    }
    fn flush(&self) -> zns::Result<()> {
        self.inner.flush()
    }
    fn label(&self) -> String {
        format!("/dev/n{}", self.minor)
    }
    fn backing(&self) -> Option<Backing> {
        let path = self.label().into();
        Some(Backing { path, block_device: true, offset: 0, len: self.geometry.size_bytes(), read_only: false })
    }
    fn admit_copy(&self, target: Lba, blocks: Blocks) -> zns::Result<()> {
        self.admitted.lock().push((target, blocks));
        Ok(())
    }
    fn copy_ended(&self, target: Lba, admitted: Blocks, done: Blocks) {
        assert!(done <= admitted);
        self.admitted.lock().retain(|copy| *copy != (target, admitted));
    }
}
