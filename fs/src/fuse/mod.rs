//! The FUSE adaptor: a thin translation between the kernel's requests and a filesystem, and nothing else.
//!
//! [`served`] is the seam: whatever implements [`Served`] can stand behind the adaptor (the volume, and the naive
//! filesystem in memory that tests and the benchmark's ceiling use). [`wire`] is the protocol to the byte, [`channel`] the connection that it goes over, [`ring`] another road of
//! the same connection; [`adaptor`] and [`files`] answer requests, [`translate`] has the types, [`errno`] the errors; [`control`] is the road by which `ferryfs status|gc|map|zones` reach the daemon.

mod adaptor;
mod answers;
mod blockmount;
mod channel;
pub mod control;
pub mod errno;
mod fileattr;
mod files;
mod groups;
mod handshake;
mod lanes;
mod listing;
pub mod mountpoint;
mod rhythm;
mod ring;
pub mod served;
pub mod session;
mod syncs;
pub mod translate;
mod volume;
pub mod wire;

pub use adaptor::AdaptorOptions;
pub use mountpoint::{MountRequest, MountpointError};
pub use ring::Transport;
pub use served::{Served, WriteOptions};
pub use session::{Mounted, SessionError};
