//! Tests on real drivers, each in a virtual machine of its own: drives that QEMU emulates and what Linux builds on them.

mod bad_days;
mod contract;
mod crash;
mod ferrycopy;
mod life;
mod neighbours;
mod scsi;
mod volume;
