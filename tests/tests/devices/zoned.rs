//! Zoned disks that are no NVMe drives: there is no road but the host's, and it is taken, byte for byte, by cleaning, copy_file_range and `ferrycopy`.

use crate::brief::{self, ZONED};
use crate::raw::{copies, fill};
use guest::{Kernel, Machine};
use std::path::PathBuf;
use tests::guest::in_guest;
use tests::guest::stacks::{NullBlock, smr_disk};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A disk of zones of 4 MiB.
fn through_the_host(device: PathBuf) {
    fill(&device, 1, 0, 8 * MIB);
    let said = copies(&device, &[(4 * KIB, MIB), (7 * MIB, 64 * KIB)], &device, 20 * MIB, &[]);
    assert_eq!((said["route"].as_str(), said["offloaded"].as_u64()), (Some("host"), Some(0)), "{said}");
    assert_eq!(said["host_written"].as_u64(), Some(MIB + 64 * KIB), "{said}");
    brief::by_host(&brief::live(&[device], ZONED, &[]), &[]);
}

#[test]
fn null_blk() {
    in_guest(Machine::new(Kernel::Long6_12), &[], || {
        through_the_host(NullBlock { size: 288, zone_size: 4, zone_capacity: 4, ..NullBlock::default() }.create());
    });
}

#[test]
fn smr() {
    in_guest(Machine::new(Kernel::Long6_12), &[], || {
        through_the_host(smr_disk(&["dev_size_mb=288", "zone_size_mb=4", "zone_nr_conv=0", "zone_max_open=16", "sector_size=4096"]));
    });
}
