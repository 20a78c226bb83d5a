//! Where a block lies: device, zone and block within the zone, packed into 64 bits.

use std::fmt;
use zns::{DeviceId, ZoneId};

/// Address of a filesystem block. `Addr::NONE` is no address: block 0 of zone 0 of device 0 belongs to the superblock ring.
///
/// Layout, from the top: device (8 bits), zone (28 bits), block within the zone (28 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

const FIELD: u64 = (1 << 28) - 1;

impl Addr {
    /// No address.
    pub const NONE: Addr = Addr(0);

    /// Block `block` of `zone` of `device`.
    pub fn new(device: DeviceId, zone: ZoneId, block: u32) -> Self {
        debug_assert!(u64::from(zone.0) <= FIELD && u64::from(block) <= FIELD);
        Addr(u64::from(device.0) << 56 | (u64::from(zone.0) & FIELD) << 28 | (u64::from(block) & FIELD))
    }
    /// Is this no address?
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
    /// The device.
    pub fn device(self) -> DeviceId {
        DeviceId((self.0 >> 56) as u8)
    }
    /// The zone.
    pub fn zone(self) -> ZoneId {
        ZoneId((self.0 >> 28 & FIELD) as u32)
    }
    /// The block within the zone.
    pub fn block(self) -> u32 {
        (self.0 & FIELD) as u32
    }
    /// The address `n` blocks further in the same zone.
    pub fn plus(self, n: u32) -> Self {
        Addr(self.0 + u64::from(n))
    }
    /// First block of the same zone.
    pub fn zone_base(self) -> Self {
        Addr(self.0 & !FIELD)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.device(), self.zone(), self.block())
    }
}
impl serde::Serialize for Addr {
    /// As it is displayed: device, zone and block within the zone.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
