//! From a path to a layout: what stands on what, asked layer by layer.
//!
//! Pure over a [`System`], so that every shape can be tested without the devices.

use super::OffloadBelow;
use super::layout::{Layout, Mapping, Piece, Segment};
use super::mapper::{self, TableLine};
use super::raid::{self, Array};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zns::Backing;

/// Layers on layers: more are a loop or a joke.
const DEEPEST: u32 = 16;

/// The number by which the kernel knows a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNumber {
    /// Of the driver.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
}

impl DevNumber {
    /// From `MAJOR:MINOR`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for DevNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A whole device with nothing of the kernel's layers below it: where commands may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealDevice {
    /// Its number.
    pub number: DevNumber,
    /// The kernel's name of it ("nvme0n1", "sda").
    pub name: String,
    /// Its node in /dev.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Bytes in a logical block.
    pub block_size: u32,
}

/// What the system says of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The kernel's name of it.
    pub name: String,
    /// Its node in /dev.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Bytes in a logical block.
    pub block_size: u32,
    /// What it is made of.
    pub made_of: MadeOf,
}

/// What a block device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeOf {
    /// A driver's own device.
    Itself,
    /// A part of a disk, from byte `start` on.
    Partition {
        /// The disk.
        disk: DevNumber,
        /// Bytes from its start.
        start: u64,
    },
    /// A device-mapper table, and how many events it has had (a new table is one); or why it cannot be read.
    Mapper(Result<(u32, Vec<TableLine>), String>),
    /// An md array.
    Array(Array),
}

/// Where block devices are looked up.
pub trait System: Send + Sync {
    /// The number of the block device at a path.
    ///
    /// # Errors
    /// In words.
    fn number_of(&self, path: &Path) -> Result<DevNumber, String>;
    /// What a device is.
    ///
    /// # Errors
    /// In words.
    fn see(&self, device: DevNumber) -> Result<Seen, String>;
}

/// Where a device of a volume stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    layout: Arc<Layout>,
    /// First byte used of the device at the top.
    offset: u64,
    /// The layers on the way whose tables may change, as they were.
    changeable: Vec<(DevNumber, Seen)>,
    /// It is no block device of the system at all.
    elsewhere: bool,
}

impl Stand {
    /// A device below which nobody may look.
    pub fn opaque(reason: impl Into<String>) -> Self {
        Self { layout: Arc::new(Layout::Opaque(reason.into())), offset: 0, changeable: Vec::new(), elsewhere: false }
    }

    /// Something else than a block device: roads of block devices have nothing to say about it.
    pub fn elsewhere(reason: impl Into<String>) -> Self {
        Self { elsewhere: true, ..Self::opaque(reason) }
    }

    /// Is it something else than a block device?
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// The pieces of a range in bytes of the volume's device, in order.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub fn pieces(&self, range: Range<u64>) -> Result<Vec<Piece>, String> {
        let end = self.offset.checked_add(range.end).ok_or("an address overflows")?;
        self.layout.translate(self.offset + range.start.min(range.end)..end)
    }

    /// The real devices below, each once.
    ///
    /// # Errors
    /// Why nobody may look there, in words.
    pub fn devices(&self) -> Result<Vec<Arc<RealDevice>>, String> {
        self.layout.devices()
    }

    /// The names of the layers on the way whose tables may change; empty for a disk or a partition.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.changeable.iter().map(|(_, seen)| seen.name.as_str())
    }

    /// Are all tables on the way what they were?
    pub(super) fn unchanged(&self, system: &dyn System) -> bool {
        self.changeable.iter().all(|(device, seen)| system.see(*device).as_ref() == Ok(seen))
    }
}

/// Finds out where a device stands.
pub(super) fn stand_of(system: &dyn System, backing: &Backing, below: OffloadBelow) -> Stand {
    if !backing.block_device {
        return Stand::elsewhere(format!("{} is a regular file: its blocks belong to the filesystem it is in", backing.path.display()));
    }
    let number = match system.number_of(&backing.path) {
        Ok(number) => number,
        Err(reason) => return Stand::opaque(reason),
    };
    let mut search = Search { system, below, found: HashMap::new(), changeable: Vec::new() };
    let layout = search.layout(number, 0);
    Stand { layout, offset: backing.offset, changeable: search.changeable, elsewhere: false }
}

struct Search<'a> {
    system: &'a dyn System,
    below: OffloadBelow,
    /// Looked up before: the segments of a volume often lie on the same device.
    found: HashMap<DevNumber, Arc<Layout>>,
    changeable: Vec<(DevNumber, Seen)>,
}

impl Search<'_> {
    fn layout(&mut self, number: DevNumber, depth: u32) -> Arc<Layout> {
        if let Some(layout) = self.found.get(&number) {
            return layout.clone();
        }
        let found = if depth > DEEPEST { Err(format!("{number} lies under too many layers")) } else { self.look(number, depth) };
        let layout = Arc::new(found.unwrap_or_else(Layout::Opaque));
        self.found.insert(number, layout.clone());
        layout
    }

    fn look(&mut self, number: DevNumber, depth: u32) -> Result<Layout, String> {
        let seen = self.system.see(number)?;
        let name = seen.name.clone();
        let about = |reason: String| format!("{name}: {reason}");
        match &seen.made_of {
            MadeOf::Itself => {
                let Seen { name, path, size, block_size, .. } = seen;
                Ok(Layout::Real(Arc::new(RealDevice { number, name, path, size, block_size })))
            }
            MadeOf::Partition { disk, start } => {
                let below = self.layout(*disk, depth + 1);
                let whole = Segment { len: seen.size, on: Mapping::Linear { below, offset: *start } };
                Ok(Layout::Segments(vec![whole]))
            }
            MadeOf::Mapper(_) if !self.below.dm => Err(about(not_asked("a device-mapper device", "dm"))),
            MadeOf::Mapper(table) => {
                self.changeable.push((number, seen.clone()));
                let (_, table) = table.clone().map_err(&about)?;
                mapper::layout_of(&table, &mut |device| self.layout(device, depth + 1)).map_err(about)
            }
            MadeOf::Array(_) if !self.below.md => Err(about(not_asked("an md array", "md"))),
            MadeOf::Array(array) => {
                self.changeable.push((number, seen.clone()));
                raid::layout_of(array, &mut |device| self.layout(device, depth + 1)).map_err(about)
            }
        }
    }
}

fn not_asked(what: &str, layer: &str) -> String {
    format!("{what} may change under a running copy, so nothing is sent below it unless offload_below={layer} asks for it")
}
