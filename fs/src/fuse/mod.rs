//! The FUSE adaptor: a thin translation between the kernel's requests and a filesystem, and nothing else.
//!
//! [`served`] is the seam: whatever implements [`Served`] can stand behind the adaptor (the volume, and the naive
//! filesystem in memory that tests and the benchmark's ceiling use). [`adaptor`] translates requests, [`translate`] the
//! types, [`errno`] the errors; [`control`] is the road by which `ferryfs status|gc|map|zones` reach the daemon.

pub mod adaptor;
mod answers;
pub mod control;
pub mod errno;
mod fileattr;
mod groups;
mod lanes;
pub mod mountpoint;
pub mod served;
pub mod session;
pub mod translate;
mod volume;

pub use adaptor::{Adaptor, AdaptorOptions};
pub use mountpoint::{MountRequest, MountpointError};
pub use served::{Served, WriteOptions};
pub use session::{Mounted, SessionError};
