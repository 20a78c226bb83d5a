//! A kernel that has less than ours, for one test: requests that it does not know are answered as a kernel answers what it does not know. What the filter
//! sees is what the programs under test really ask; they cannot tell it from a kernel that was built without.
//!
//! Filters are for the calling thread and for what it starts from now on, for ever. A guest ends with its test.

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;
use std::fs;

/// `ioctl(descriptor, request, ..)`: which argument the request is.
const REQUEST: u8 = 1;
/// The group of NVMe's requests, `_IOC_TYPE` of linux/nvme_ioctl.h: 'N'.
const NVME: u64 = 0x4e << 8;
const GROUP: u64 = 0xff << 8;
/// `NVME_IOCTL_IO_CMD` and `NVME_IOCTL_IO64_CMD`: number within the group.
const IO_COMMANDS: [u64; 2] = [0x43, 0x48];
const NUMBER: u64 = 0xff;

/// Takes io_uring away from everybody (Documentation/admin-guide/sysctl/kernel.rst), or gives it back.
///
/// # Panics
/// The kernel cannot.
pub fn io_uring(allowed: bool) {
    let path = "/proc/sys/kernel/io_uring_disabled";
    fs::write(path, if allowed { "0" } else { "2" }).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// NVMe drives can be asked what they are, and take no I/O command from a program: that is a matter of permission.
///
/// # Panics
/// The kernel takes no filter.
pub fn refuse_nvme_commands() {
    IO_COMMANDS.into_iter().for_each(|number| refuse(GROUP | NUMBER, NVME | number, libc::EACCES));
}

/// The kernel knows no request of NVMe's at all.
///
/// # Panics
/// The kernel takes no filter.
pub fn forget_nvme_requests() {
    refuse(GROUP, NVME, libc::ENOTTY);
}

/// Requests that equal `value` under `mask` fail with `errno`.
fn refuse(mask: u64, value: u64, errno: i32) {
    let filter = || -> Result<BpfProgram, seccompiler::BackendError> {
        let condition = SeccompCondition::new(REQUEST, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?;
        let rules = BTreeMap::from([(libc::SYS_ioctl, vec![SeccompRule::new(vec![condition])?])]);
        let refused = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?.try_into()
    };
    let filter = filter().unwrap_or_else(|error| panic!("a filter of ioctls: {error}"));
    seccompiler::apply_filter(&filter).unwrap_or_else(|error| panic!("a filter of ioctls: {error}"));
}
