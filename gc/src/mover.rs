//! The engine as the relocator sees it: one request into one zone, carried by the device or by the host.

use crate::error::Result;
use copy_backend::{CopyEngine, CopyRequest, CopyResult, RoadPreference, SourceRange, Target};
use serde::Serialize;
use std::sync::Arc;
use zns::{DeviceId, IoClass};

/// Who carries the payload. It decides the kind of zone the payload lands in: a zone that receives device copies receives nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// The device copies by itself.
    Device,
    /// The host reads and writes.
    Host,
}

/// A request: the sources land at the target one behind the other.
#[derive(Clone, Debug)]
pub struct Load {
    /// What to copy; each within one zone.
    pub sources: Vec<SourceRange>,
    /// The write pointer of the destination zone.
    pub target: Target,
    /// CRC32C of each 4096-byte block over all sources, or empty.
    pub checksums: Vec<u32>,
    /// Who carries it.
    pub carrier: Carrier,
}

/// A load on its way: called once, it waits for the end.
pub type Carrying<'a> = Box<dyn FnOnce() -> copy_backend::Result<CopyResult> + 'a>;

/// Carries payload.
pub trait Mover: Send + Sync {
    /// Who should carry the next load from the one device to the other, as far as is known now.
    ///
    /// # Errors
    /// The host is forbidden and no device can.
    fn carrier(&self, from: DeviceId, to: DeviceId) -> copy_backend::Result<Carrier>;

    /// Carries a load and waits.
    ///
    /// # Errors
    /// Only when it could not even begin, or a device is gone; what failed half-way is told by the result.
    fn carry(&self, load: Load) -> copy_backend::Result<CopyResult>;

    /// Begins to carry a load; the zone that it goes to takes nothing else before its end. Who cannot do that carries it when the end is waited for.
    fn start(&self, load: Load) -> Carrying<'_> {
        Box::new(move || self.carry(load))
    }

    /// Commands issued for cleaning so far, on all roads.
    fn commands(&self) -> u64;
}

macro_rules! forward {
    ($($pointer:ty),*) => { $(
        impl<M: Mover + ?Sized> Mover for $pointer {
            fn carrier(&self, from: DeviceId, to: DeviceId) -> copy_backend::Result<Carrier> {
                (**self).carrier(from, to)
            }
            fn carry(&self, load: Load) -> copy_backend::Result<CopyResult> {
                (**self).carry(load)
            }
            fn start(&self, load: Load) -> Carrying<'_> {
                (**self).start(load)
            }
            fn commands(&self) -> u64 {
                (**self).commands()
            }
        }
    )* };
}
forward!(&M, Arc<M>);

impl Mover for CopyEngine {
    fn carrier(&self, from: DeviceId, to: DeviceId) -> copy_backend::Result<Carrier> {
        Ok(match self.road_for(from, to)? {
            RoadPreference::Offload => Carrier::Device,
            RoadPreference::Host => Carrier::Host,
        })
    }

    fn carry(&self, load: Load) -> copy_backend::Result<CopyResult> {
        self.copy(request(load))
    }

    fn start(&self, load: Load) -> Carrying<'_> {
        let begun = self.begin(request(load));
        Box::new(move || begun?.finish())
    }

    fn commands(&self) -> u64 {
        self.counters(IoClass::Cleaning).commands
    }
}

fn request(load: Load) -> CopyRequest {
    let road = match load.carrier {
        Carrier::Device => RoadPreference::Offload,
        Carrier::Host => RoadPreference::Host,
    };
    let Load { sources, target, checksums, .. } = load;
    CopyRequest { sources, target, class: IoClass::Cleaning, checksums, road }
}

/// A check the relocator makes of every answer: no more done than was asked.
pub(crate) fn sane(result: CopyResult, sources: usize) -> Result<CopyResult> {
    if result.sources_done > sources {
        let reason = format!("the copy engine reports {} of {sources} sources done", result.sources_done);
        return Err(crate::CleanError::Internal(reason));
    }
    Ok(result)
}
