//! From a device of a volume down to the whole real devices that hold its blocks.
//!
//! A copy command is only ever sent to a whole real device, with addresses of that device: the kernel passes commands that come
//! in through a partition or a device-mapper node on with their addresses as they are, so that they would land somewhere else.
//! Partitions, dm-linear, dm-striped, dm-multipath, md linear and md raid0 are looked through; what changes, checks or mirrors the
//! data (encryption, integrity, raid1 and higher, snapshots, ...) and whatever is unknown is [`Layout::Opaque`], with the reason.
//!
//! Two halves: [`layout`] is arithmetic and pure; [`resolve`] asks the [`System`] what stands on what. The table of a dm device or
//! the members of an md array may be changed while they are in use (pvmove does so), and nobody tells us. So these two are
//! looked through only where [`OffloadBelow`] asks for it, and then [`Stand::unchanged`] is asked before and after each batch
//! of commands. A change that falls between the check and the copy is the risk that is taken by asking for it.

pub mod layout;
mod mapper;
mod raid;
pub mod resolve;
mod sysfs;
#[cfg(test)]
mod tests;

pub use layout::{Layout, Piece};
pub use mapper::TableLine;
pub use resolve::{DevNumber, MadeOf, RealDevice, Seen, Stand, System};
pub use sysfs::LinuxSystem;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use zns::{DeviceId, ZonedDevice};

/// Below which of the kernel's layers copies are sent: `offload_below=dm,md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadBelow {
    /// Device-mapper (linear, striped, multipath).
    pub dm: bool,
    /// md (linear, raid0).
    pub md: bool,
}

impl FromStr for OffloadBelow {
    type Err = String;

    /// `dm`, `md` or both, separated by commas; `none` or nothing for neither.
    fn from_str(words: &str) -> Result<Self, String> {
        let mut below = Self::default();
        for word in words.split(',').map(str::trim) {
            match word {
                "dm" => below.dm = true,
                "md" => below.md = true,
                "" | "none" => {}
                other => return Err(format!("there is no layer {other:?} to send copies below: choose dm, md or both")),
            }
        }
        Ok(below)
    }
}

/// Where the devices of a volume stand, found out when it is first asked and again when it has changed.
pub struct Topology {
    devices: Arc<[Arc<dyn ZonedDevice>]>,
    system: Arc<dyn System>,
    below: OffloadBelow,
    known: Mutex<HashMap<DeviceId, Arc<Stand>>>,
}

impl Topology {
    /// The topology of this computer. Nothing is looked up yet.
    pub fn new(devices: Arc<[Arc<dyn ZonedDevice>]>, below: OffloadBelow) -> Self {
        Self::with_system(devices, below, Arc::new(LinuxSystem))
    }

    /// The topology of another system: for tests.
    pub fn with_system(devices: Arc<[Arc<dyn ZonedDevice>]>, below: OffloadBelow, system: Arc<dyn System>) -> Self {
        Self { devices, system, below, known: Mutex::default() }
    }

    /// Where a device stands.
    pub fn stand(&self, device: DeviceId) -> Arc<Stand> {
        if let Some(stand) = self.known.lock().get(&device) {
            return stand.clone();
        }
        self.look_again(device)
    }

    /// Looks a device up afresh: after [`Stand::unchanged`] has said no.
    pub fn look_again(&self, device: DeviceId) -> Arc<Stand> {
        let stand = match self.devices.get(usize::from(device.0)).and_then(|device| device.backing()) {
            Some(backing) => resolve::stand_of(&*self.system, &backing, self.below),
            None => Stand::elsewhere("it is not a device of the system: its own object carries out its copies"),
        };
        let stand = Arc::new(stand);
        self.known.lock().insert(device, stand.clone());
        stand
    }

    /// Does a device still stand as `stand` says? Costs nothing where no table can change.
    pub fn unchanged(&self, stand: &Stand) -> bool {
        stand.unchanged(&*self.system)
    }
}
