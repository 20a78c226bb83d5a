//! Tests on real drivers, each in a virtual machine of its own: drives that QEMU emulates and what Linux builds on them.

mod contract;
