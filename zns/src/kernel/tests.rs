//! What needs no device. What a real one does is tested in a virtual machine: `tests/tests/devices/contract.rs`.

use super::*;

#[test]
fn paths_that_are_no_zoned_device_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(KernelDevice::open(directory.path().join("none"), false).unwrap_err().errno(), libc::ENOENT);
    assert!(matches!(KernelDevice::open(directory.path(), false), Err(DeviceError::Unusable { .. })));
}
