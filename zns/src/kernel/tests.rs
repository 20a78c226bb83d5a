//! What needs no device. What a real one does is tested in a virtual machine: `tests/tests/devices/contract.rs`.

use super::*;

#[test]
fn writes_of_one_zone_form_a_chain_and_outcomes_find_their_way_back() {
    let mut chains = Chains::default();
    let read = || Transfer::Read { offset: 0, buf: AlignedBuf::zeroed(512) };
    for (index, zone) in [Some(4), None, Some(5), Some(4), None, Some(4)].into_iter().enumerate() {
        chains.add(zone.map(ZoneId), index, read());
    }
    let (order, chains) = chains.into_order();
    assert_eq!(order, [0, 3, 5, 1, 2, 4]);
    assert_eq!(chains.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[test]
fn paths_that_are_no_zoned_device_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(KernelDevice::open(directory.path().join("none"), false).unwrap_err().errno(), libc::ENOENT);
    assert!(matches!(KernelDevice::open(directory.path(), false), Err(DeviceError::Unusable { .. })));
}
