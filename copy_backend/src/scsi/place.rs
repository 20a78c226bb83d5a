//! From a copy command to moves between logical units.
//!
//! Both SCSI roads stand on this: it opens each disk below the devices of a volume once, asks it who it is and what it can
//! do, and translates a command into runs of blocks between whole units.

use crate::backend::{CopyCommand, NoRoad, SourceRange};
use crate::plan;
use crate::scsi::extended_copy::MAX_SEGMENT_BLOCKS;
use crate::scsi::operating_parameters::{self, OperatingParameters};
use crate::scsi::sg_io::SgDevice;
use crate::scsi::third_party::ThirdPartyCopy;
use crate::scsi::transport::{Data, ScsiTransport};
use crate::scsi::unit::{self, Unit};
use crate::topology::{DevNumber, Piece, RealDevice, Stand, Topology};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use zns::{Blocks, DeviceId, ZonedDevice};

/// How a disk is opened for commands; another one in tests.
pub type Opener = dyn Fn(&RealDevice) -> Result<Arc<dyn ScsiTransport>, String> + Send + Sync;

/// The disks below a device, each once.
pub type Disks = Vec<Arc<Place>>;

/// Commands of one road that run side by side.
pub const THREADS: usize = 4;

/// One disk, with what was learnt about it.
pub struct Place {
    /// The unit.
    pub unit: Unit,
    /// The kernel's name of it.
    pub name: String,
    /// What EXTENDED COPY may carry; or why there is none.
    pub xcopy: Result<XcopyLimits, String>,
    /// What it says of tokens; or why it takes none.
    pub tokens: Result<ThirdPartyCopy, String>,
    /// It understands IMMED, as far as is known.
    pub immediate: AtomicBool,
    /// The next identifier of a list.
    list_id: AtomicU32,
    /// Lets as many EXTENDED COPYs in as the copy manager says it takes at once.
    pub gate: Gate,
}

/// Limits of EXTENDED COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XcopyLimits {
    /// List identifiers may be left out.
    pub no_list_id: bool,
    /// Most CSCD descriptors.
    pub cscds: u16,
    /// Most segments in one command.
    pub segments: u32,
    /// Most blocks in one segment.
    pub segment_blocks: u32,
}

impl Place {
    fn probe(device: &RealDevice, transport: Arc<dyn ScsiTransport>) -> Result<Self, String> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", device.name);
        let unit = Unit::probe(transport).map_err(|error| about(&error))?;
        if unit.capacity.block_size != device.block_size {
            let (says, kernel) = (unit.capacity.block_size, device.block_size);
            return Err(format!("{} says that its blocks have {says} bytes, the kernel says {kernel}", device.name));
        }
        let (xcopy, concurrent) = match xcopy_limits(&unit) {
            Ok((limits, concurrent)) => (Ok(limits), concurrent),
            Err(reason) => (Err(about(&reason)), None),
        };
        let tokens = token_limits(&unit).map_err(|reason| about(&reason));
        let gate = Gate::new(concurrent.map_or(THREADS, usize::from));
        // Another program may use identifiers of its own on the same path: ours begin where they hardly will.
        let list_id = AtomicU32::new(std::process::id().wrapping_mul(0x9e37_79b1));
        Ok(Self { unit, name: device.name.clone(), xcopy, tokens, immediate: AtomicBool::new(true), list_id, gate })
    }

    /// A fresh list identifier.
    pub fn list_id(&self) -> u32 {
        self.list_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// What EXTENDED COPY may carry on a unit, and how many may run at once.
fn xcopy_limits(unit: &Unit) -> Result<(XcopyLimits, Option<u8>), String> {
    if !unit.inquiry.third_party_copy {
        return Err("it takes no part in third-party copies (its 3PC bit is clear)".into());
    }
    let mut answer = vec![0; operating_parameters::ALLOCATION as usize];
    let asked = unit.run("RECEIVE COPY OPERATING PARAMETERS", &operating_parameters::command(), Data::In(&mut answer), unit::SHORT);
    let len = asked.map_err(|error| error.to_string())?;
    let parameters = OperatingParameters::parse(&answer[..len.min(answer.len())]).map_err(|error| error.to_string())?;
    if !parameters.block_to_block {
        return Err("its EXTENDED COPY does not move blocks between disks that are named by designators".into());
    }
    let room = parameters.max_list_bytes.map_or(u32::from(u16::MAX), |bytes| bytes.saturating_sub(64)) / 28;
    let segments = u32::from(parameters.max_segments).min(room);
    let block = unit.capacity.block_size;
    // Where no length of a segment is said, ordinary transfers may have one.
    let ordinary = || unit.block_limits().ok().flatten().and_then(|limits| limits.max_transfer);
    let blocks = parameters.max_segment_bytes.map_or_else(ordinary, |bytes| Some(bytes / block));
    let segment_blocks = blocks.unwrap_or(u32::MAX).min(MAX_SEGMENT_BLOCKS as u32);
    if segments == 0 || segment_blocks == 0 || parameters.max_cscds == 0 {
        return Err("its limits for EXTENDED COPY are zero".into());
    }
    let limits = XcopyLimits { no_list_id: parameters.no_list_id, cscds: parameters.max_cscds, segments, segment_blocks };
    Ok((limits, parameters.concurrent))
}

fn token_limits(unit: &Unit) -> Result<ThirdPartyCopy, String> {
    match unit.third_party() {
        Ok(Some(page)) if page.limits.is_some() => Ok(page),
        Ok(_) => Err("it knows no tokens (no limits of tokens in its page 8Fh)".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of commands that may pass at once.
#[derive(Debug)]
pub struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Gate {
    fn new(most: usize) -> Self {
        Self { free: Mutex::new(most.max(1)), freed: Condvar::new() }
    }

    /// Waits for its turn, and calls.
    pub fn pass<T>(&self, call: impl FnOnce() -> T) -> T {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        drop(free);
        let leave = Leave(self);
        let result = call();
        drop(leave);
        result
    }
}

/// Opens the gate again, also for one that panics.
struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// A run of blocks from one unit to another.
#[derive(Clone)]
pub struct Move {
    /// From here.
    pub from: Arc<Place>,
    /// First block there.
    pub from_lba: u64,
    /// To here.
    pub to: Arc<Place>,
    /// First block there.
    pub to_lba: u64,
    /// How many.
    pub blocks: u64,
    /// It ends source number so many of the command.
    pub ends_range: Option<usize>,
}

impl Move {
    /// Takes up to `blocks` blocks off its beginning; the rest stays.
    pub fn take(&mut self, blocks: u64) -> Self {
        let blocks = blocks.min(self.blocks);
        let whole = blocks == self.blocks;
        let taken = Self { blocks, ends_range: self.ends_range.filter(|_| whole), ..self.clone() };
        self.from_lba += blocks;
        self.to_lba += blocks;
        self.blocks -= blocks;
        taken
    }
}

/// The disks below a volume.
pub struct Places {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    topology: Arc<Topology>,
    open: Box<Opener>,
    known: Mutex<HashMap<DevNumber, Arc<Place>>>,
}

impl Places {
    /// The disks of this computer. Nothing is opened yet.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>, topology: Arc<Topology>) -> Self {
        let open = |device: &RealDevice| {
            let opened = SgDevice::open(&device.path, false);
            let opened = opened.map_err(|error| zns::permission::not_opened_io(&device.path, true, &error).to_string())?;
            Ok(Arc::new(opened) as Arc<dyn ScsiTransport>)
        };
        Self::with_opener(devices, topology, Box::new(open))
    }

    /// Disks that are opened by `open`: for tests.
    pub fn with_opener(devices: Arc<[Arc<dyn ZonedDevice>]>, topology: Arc<Topology>, open: Box<Opener>) -> Self {
        Self { devices, topology, open, known: Mutex::default() }
    }

    /// A device of the volume.
    pub fn device(&self, id: DeviceId) -> Option<&Arc<dyn ZonedDevice>> {
        self.devices.get(usize::from(id.0))
    }

    fn place(&self, device: &RealDevice) -> Result<Arc<Place>, NoRoad> {
        if !device.name.starts_with("sd") {
            return Err(NoRoad::foreign(format!("{} is not a SCSI disk", device.name)));
        }
        if let Some(place) = self.known.lock().get(&device.number) {
            return Ok(place.clone());
        }
        let place = Arc::new(Place::probe(device, (self.open)(device)?)?);
        self.known.lock().insert(device.number, place.clone());
        Ok(place)
    }

    /// The disks below a device, each once.
    ///
    /// # Errors
    /// Why there are none, or why they cannot be used.
    pub fn below(&self, id: DeviceId) -> Result<Disks, NoRoad> {
        let device = self.device(id).ok_or_else(|| format!("there is no device {id}"))?;
        if device.backing().is_none_or(|backing| !backing.block_device) {
            return Err(NoRoad::foreign(format!("{} is not a block device", device.label())));
        }
        let real = self.topology.stand(id).devices()?;
        real.iter().map(|device| self.place(device)).collect()
    }

    /// The disks below two devices, all with blocks of one size: what both roads ask for first.
    ///
    /// # Errors
    /// Why no SCSI road leads from one to the other.
    pub fn pair(&self, from: DeviceId, to: DeviceId) -> Result<(Disks, Disks), NoRoad> {
        let (sources, targets) = (self.below(from)?, self.below(to)?);
        let block = targets.first().map(|place| place.unit.capacity.block_size);
        let other = sources.iter().chain(&targets).find(|place| Some(place.unit.capacity.block_size) != block);
        match (other, block) {
            (Some(other), Some(block)) => {
                let size = other.unit.capacity.block_size;
                Err(format!("{} has blocks of {size} bytes and the destination blocks of {block}", other.name).into())
            }
            (_, None) => Err("there is no disk below the destination".into()),
            (None, Some(_)) => Ok((sources, targets)),
        }
    }

    /// Where the devices of a command stand now; a changed table is looked up again first.
    pub fn stands(&self, command: &CopyCommand) -> Option<(Arc<Stand>, Arc<Stand>)> {
        let current = |id: DeviceId| {
            let stand = self.topology.stand(id);
            if self.topology.unchanged(&stand) { stand } else { self.topology.look_again(id) }
        };
        Some((current(command.sources.first()?.device), current(command.target.device)))
    }

    /// Do they still stand there? What was copied while a table changed is worth nothing.
    pub fn unchanged(&self, stands: &(Arc<Stand>, Arc<Stand>)) -> bool {
        self.topology.unchanged(&stands.0) && self.topology.unchanged(&stands.1)
    }

    /// A command as moves between whole units, in order.
    ///
    /// # Errors
    /// What cannot be translated, in words.
    pub fn moves(&self, command: &CopyCommand, stands: &(Arc<Stand>, Arc<Stand>)) -> Result<VecDeque<Move>, String> {
        let device = |id| self.device(id).ok_or_else(|| format!("there is no device {id}"));
        let to_block = u64::from(device(command.target.device)?.geometry().block_size);
        let mut at = command.target.lba.0 * to_block;
        let mut moves = VecDeque::new();
        for (index, source) in command.sources.iter().enumerate() {
            if command.sources.first().map(|first| first.device) != Some(source.device) {
                return Err("the sources of a command lie on different devices".into());
            }
            let geometry = device(source.device)?.geometry();
            let bytes = plan::bytes_of(source, geometry);
            let start = source.lba.0 * u64::from(geometry.block_size);
            let from = stands.0.pieces(start..start + bytes)?;
            let to = stands.1.pieces(at..at + bytes)?;
            at += bytes;
            self.pair_pieces(from, to, index, &mut moves)?;
        }
        Ok(moves)
    }

    fn pair_pieces(&self, from: Vec<Piece>, to: Vec<Piece>, index: usize, moves: &mut VecDeque<Move>) -> Result<(), String> {
        let (mut from, mut to) = (VecDeque::from(from), VecDeque::from(to));
        while let (Some(source), Some(target)) = (from.front_mut(), to.front_mut()) {
            let bytes = source.len.min(target.len);
            let (source_place, target_place) =
                (self.place(&source.device).map_err(|why| why.reason)?, self.place(&target.device).map_err(|why| why.reason)?);
            let block = u64::from(target_place.unit.capacity.block_size);
            if ![source.offset, target.offset, bytes].iter().all(|n| n.is_multiple_of(block)) || bytes == 0 {
                return Err("a piece is not a whole number of blocks".into());
            }
            moves.push_back(Move {
                from: source_place,
                from_lba: source.offset / block,
                to: target_place,
                to_lba: target.offset / block,
                blocks: bytes / block,
                ends_range: None,
            });
            for piece in [source, target] {
                (piece.offset, piece.len) = (piece.offset + bytes, piece.len - bytes);
            }
            if from.front().is_some_and(|piece| piece.len == 0) {
                from.pop_front();
            }
            if to.front().is_some_and(|piece| piece.len == 0) {
                to.pop_front();
            }
        }
        if let Some(last) = moves.back_mut() {
            last.ends_range = Some(index);
        }
        if from.is_empty() && to.is_empty() { Ok(()) } else { Err("source and destination are mapped to different lengths".into()) }
    }

    /// Blocks of the destination that the first `ranges` sources of a command fill.
    pub fn filled(&self, command: &CopyCommand, ranges: usize) -> Blocks {
        let Some(to) = self.device(command.target.device) else { return Blocks(0) };
        let bytes = |source: &SourceRange| self.device(source.device).map_or(0, |from| plan::bytes_of(source, from.geometry()));
        Blocks(command.sources.iter().take(ranges).map(bytes).sum::<u64>() / u64::from(to.geometry().block_size))
    }
}
