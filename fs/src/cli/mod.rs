//! The `ferryfs` command.

pub mod background;
pub mod client;
pub mod daemon;
pub mod devices;
pub mod failure;
pub mod logging;
pub mod options;
pub mod signals;
pub mod size;
pub mod umount;
