//! What needs no device. What a real one does is tested in a virtual machine: `tests/tests/devices/contract.rs`.

use super::*;

#[test]
fn paths_that_are_no_zoned_device_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(KernelDevice::open(directory.path().join("none"), false).unwrap_err().errno(), libc::ENOENT);
    assert!(matches!(KernelDevice::open(directory.path(), false), Err(DeviceError::Unusable { .. })));
}

#[test]
fn zones_are_reset_in_runs_that_follow_one_another() {
    let zones = |numbers: &[u32]| numbers.iter().map(|n| ZoneId(*n)).collect::<Vec<_>>();
    let runs = |numbers: &[u32], most| neighbours(&zones(numbers), most).map(<[ZoneId]>::to_vec).collect::<Vec<_>>();
    assert_eq!(runs(&[], 3), Vec::<Vec<ZoneId>>::new());
    assert_eq!(runs(&[3, 4, 5, 6, 9, 11, 12], 3), [zones(&[3, 4, 5]), zones(&[6]), zones(&[9]), zones(&[11, 12])]);
    // Neither what comes twice nor what goes down is a run.
    assert_eq!(runs(&[7, 7, 6, u32::MAX, 0], 3), [zones(&[7]), zones(&[7]), zones(&[6]), zones(&[u32::MAX]), zones(&[0])]);
}
