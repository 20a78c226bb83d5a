//! Newtypes with units. A device block is the device's logical block (512 or 4096 bytes); an `Lba`
//! counts device blocks from the start of the device.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A device within a volume: its index in the volume's device table.
    DeviceId(u8)
}
number! {
    /// A zone of one device, counted from 0.
    ZoneId(u32)
}
number! {
    /// A logical block address, in device blocks from the start of the device.
    Lba(u64)
}
number! {
    /// A number of device blocks.
    Blocks(u64)
}

impl Add<Blocks> for Lba {
    type Output = Lba;
    fn add(self, n: Blocks) -> Lba {
        Lba(self.0 + n.0)
    }
}
impl Sub<Lba> for Lba {
    type Output = Blocks;
    /// The distance from `earlier` to `self`; callers guarantee the order.
    fn sub(self, earlier: Lba) -> Blocks {
        Blocks(self.0 - earlier.0)
    }
}
impl Add for Blocks {
    type Output = Blocks;
    fn add(self, n: Blocks) -> Blocks {
        Blocks(self.0 + n.0)
    }
}
impl Sub for Blocks {
    type Output = Blocks;
    fn sub(self, n: Blocks) -> Blocks {
        Blocks(self.0 - n.0)
    }
}
impl AddAssign for Blocks {
    fn add_assign(&mut self, n: Blocks) {
        self.0 += n.0;
    }
}
