//! A disk of the target as a device of a volume: ordinary reads and writes go over the same wire as the copies.

use super::wire::Wire;
use crate::scsi::{Data, ScsiTransport};
use parking_lot::Mutex;
use scsi_target::DiskConfig;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use zns::{
    AlignedBuf, Backing, Blocks, Completions, DeviceError, DeviceKind, Geometry, Io, IoClass, Lba, Result, Ticket, ZoneAction, ZoneId,
    ZoneInfo, ZoneState, ZonedDevice,
};

/// A device with zones in software. Zones are full until a test empties one.
pub struct TargetDisk {
    wire: Wire,
    index: usize,
    geometry: Geometry,
    /// Write pointers, in blocks from the start of the zone.
    written: Mutex<Vec<u64>>,
    done: Mutex<HashMap<u64, Completions>>,
}

impl TargetDisk {
    pub fn new(wire: Wire, index: usize, config: &DiskConfig, zone: u64) -> Self {
        let zones = config.blocks / zone;
        let geometry = Geometry {
            kind: DeviceKind::Conventional,
            block_size: config.block_size,
            zones: zones as u32,
            zone_size: Blocks(zone),
            zone_capacity: Blocks(zone),
            max_open: 0,
            max_active: 0,
            max_io_bytes: 1 << 20,
            software_zones: true,
        };
        Self { wire, index, geometry, written: Mutex::new(vec![zone; zones as usize]), done: Mutex::default() }
    }

    /// Makes a zone ready to be written.
    pub fn empty(&self, zone: u32) {
        self.written.lock()[zone as usize] = 0;
    }

    fn failed(lba: Lba) -> DeviceError {
        DeviceError::Io { lba, errno: libc::EIO }
    }

    fn transfer(&self, operation: u8, lba: Lba, data: Data<'_>, bytes: usize) -> Result<()> {
        let mut cdb = [0; 16];
        cdb[0] = operation;
        cdb[2..10].copy_from_slice(&lba.0.to_be_bytes());
        cdb[10..14].copy_from_slice(&(bytes as u32 / self.geometry.block_size).to_be_bytes());
        match self.wire.execute(&cdb, data, Duration::from_secs(1)) {
            Ok(reply) if reply.status == 0 => Ok(()),
            _ => Err(Self::failed(lba)),
        }
    }

    fn one(&self, io: Io) -> Result<Option<AlignedBuf>> {
        match io {
            Io::Read { lba, mut buf } => {
                let len = buf.len();
                self.transfer(0x88, lba, Data::In(&mut buf), len)?;
                Ok(Some(buf))
            }
            Io::Write { lba, data } => {
                let bytes: Vec<u8> = data.iter().flat_map(|part| part.to_vec()).collect();
                let blocks = Blocks(bytes.len() as u64 / u64::from(self.geometry.block_size));
                self.admit_copy(lba, blocks)?;
                self.transfer(0x8a, lba, Data::Out(&bytes), bytes.len()).map(|()| None)
            }
        }
    }
}

impl ZonedDevice for TargetDisk {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        let written = self.written.lock();
        let info = |zone: u32| ZoneInfo {
            id: ZoneId(zone),
            start: self.geometry.zone_start(ZoneId(zone)),
            capacity: self.geometry.zone_capacity,
            written: Blocks(written[zone as usize]),
            state: if written[zone as usize] == self.geometry.zone_size.0 { ZoneState::Full } else { ZoneState::Closed },
        };
        Ok(zones.map(info).collect())
    }

    fn submit(&self, batch: Vec<Io>, _class: IoClass) -> Result<Ticket> {
        let completions = batch.into_iter().map(|io| self.one(io)).collect();
        let mut done = self.done.lock();
        let id = done.keys().max().map_or(0, |last| last + 1);
        done.insert(id, completions);
        Ok(Ticket(id))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        self.done.lock().remove(&ticket.0).unwrap_or_default()
    }

    fn manage(&self, _zone: ZoneId, _action: ZoneAction) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn backing(&self) -> Option<Backing> {
        let path = PathBuf::from(format!("disk{}", self.index));
        Some(Backing { path, block_device: true, offset: 0, len: self.geometry.size_bytes(), read_only: false })
    }

    fn admit_copy(&self, target: Lba, blocks: Blocks) -> Result<()> {
        let zone = self.geometry.zone_of(target);
        let mut written = self.written.lock();
        let pointer = &mut written[zone.0 as usize];
        let at = target.0 - self.geometry.zone_start(zone).0;
        if *pointer != at || at + blocks.0 > self.geometry.zone_capacity.0 {
            return Err(DeviceError::BadRange { lba: target, blocks: blocks.0, reason: "it is not at the write pointer" });
        }
        *pointer += blocks.0;
        Ok(())
    }

    fn copy_ended(&self, target: Lba, admitted: Blocks, done: Blocks) {
        if done < admitted {
            let zone = self.geometry.zone_of(target);
            let pointer = &mut self.written.lock()[zone.0 as usize];
            // Never ahead: an earlier one may have failed as well.
            *pointer = (*pointer).min(target.0 - self.geometry.zone_start(zone).0 + done.0);
        }
    }

    fn label(&self) -> String {
        format!("disk {}", self.index)
    }
}
