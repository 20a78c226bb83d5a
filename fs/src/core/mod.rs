//! The pure core: metadata in memory, planned changes, and one `apply` for running and for roll-forward.
//!
//! No device, clock, thread or random source here. A function that needs a metadata block which is not resident returns
//! [`Halt::Need`]; the shell loads it and calls again.

pub mod extents;
pub mod halt;
mod items;
pub mod key;
pub mod nodes;
pub mod ops;
pub mod page;
pub mod tree;
pub mod txn;
pub mod zones;

pub use halt::{BlockId, Halt, Planned};
pub use key::{Class, Key};
pub use nodes::NodeStore;
pub use tree::Tree;
pub use txn::{ItemTree, ItemView, Txn};
