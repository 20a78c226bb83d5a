//! Newtypes of the filesystem.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Inode number. The root directory is 1; 0 is nobody's.
    Ino
}
id! {
    /// Name of a metadata node, independent of where it lies. 0 is nobody's.
    NodeId
}
id! {
    /// A block of a file, in filesystem blocks from its start.
    FileBlock
}

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}
