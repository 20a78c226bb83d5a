//! Tests on real drivers, each in a virtual machine of its own: drives that QEMU emulates and what Linux builds on them.

mod bad_days;
mod brief;
mod contract;
mod copied;
mod crash;
mod fabrics;
mod ferrycopy;
mod layers;
mod life;
mod neighbours;
mod nfs;
mod nvme;
mod passthrough;
mod permission;
mod raw;
mod reflink;
mod scsi;
mod several;
mod tokens;
mod tool;
mod transport;
mod volume;
mod write_pointers;
mod zoned;
