//! Who may take which zone.

use super::*;

const CAPACITY: u32 = 256;

fn member(zones: u32) -> Member {
    Member { uuid: [1; 16], block_size: 4096, zones, zone_blocks: u64::from(CAPACITY), zone_capacity: CAPACITY }
}

fn table(devices: &[u32]) -> ZoneTable {
    let zones = devices.iter().sum();
    ZoneTable::new(&devices.iter().map(|zones| member(*zones)).collect::<Vec<_>>(), reserves_for(zones, CAPACITY), u32::MAX)
}

/// Takes zones until users have as many blocks left.
fn leave(table: &mut ZoneTable, blocks: u64) {
    while table.writable() > blocks {
        table.allocate(Role::Metadata, u32::MAX).expect("above the floor of metadata");
    }
}

#[test]
fn relocation_leaves_what_is_granted_to_users() {
    let mut zones = table(&[64]);
    leave(&mut zones, u64::from(CAPACITY));
    assert_eq!(zones.writable(), u64::from(CAPACITY));
    zones.grant(CAPACITY.into());
    while zones.allocate(Role::RelocatedByDevice, u32::MAX).is_some() {}
    assert!(zones.has_place_for(CAPACITY.into()), "the grant is worth nothing");
    assert_eq!(zones.preview(Role::User, CAPACITY.into()).iter().map(|(_, blocks)| blocks).sum::<u32>(), CAPACITY);
    // A checkpoint may take it: then whoever holds the grant finds out before anything is put.
    while zones.empty_zones() > zones.floor(Role::User) {
        zones.allocate(Role::Metadata, u32::MAX).expect("above the floor of metadata");
    }
    assert!(!zones.has_place_for(1));
}

#[test]
fn what_is_copied_goes_on_on_its_device_and_elsewhere_when_that_is_full() {
    let mut zones = table(&[40, 30]);
    let near = Some(DeviceId(1));
    for role in [Role::RelocatedByDevice, Role::CopiedByDevice, Role::RelocatedByHost] {
        for device in [0, 1, 0] {
            let device = DeviceId(device);
            assert_eq!(zones.device_for(role, Some(device)), Some(device));
            let (addr, _) = zones.allocate_on(device, role, 10).expect("there is room");
            assert_eq!(addr.device(), device);
        }
    }
    // Until the second device has nothing left.
    while zones.device_for(Role::RelocatedByDevice, near) == near {
        zones.allocate_on(DeviceId(1), Role::RelocatedByDevice, u32::MAX).expect("there is room");
    }
    assert_eq!(zones.devices[1].empty_count, 0);
    assert_eq!(zones.device_for(Role::RelocatedByDevice, near), Some(DeviceId(0)));
    zones.self_check().expect("the counts agree");
}

#[test]
fn a_second_open_zone_of_a_role_is_ended_when_the_table_is_loaded() {
    let mut before = table(&[64]);
    let page = |table: &ZoneTable| table.store_page(0);
    before.allocate(Role::User, 10).expect("there is room");
    let other = before.open(Role::User).expect("there is room");
    let mut after = table(&[64]);
    after.load_page(0, &page(&before)[..]).expect("a page");
    assert!(after.head(Role::User).is_some_and(|head| head.zone_base() != other));
    assert_eq!(after.entry(other).map(|entry| entry.phase), Some(Phase::Closed));
    assert_eq!(after.take_to_finish(), [other]);
}

#[test]
fn more_that_dies_than_lived_is_damage_and_no_panic() {
    let mut zones = table(&[64]);
    let (addr, _) = zones.allocate(Role::User, 10).expect("there is room");
    zones.add_live(addr, 10);
    zones.sub_live(addr, 4);
    let dead = Addr::new(addr.device(), zns::ZoneId(addr.zone().0 + 1), 0);
    let entry =
        crate::format::segment::SegmentEntry { phase: Phase::Closed, role: Role::Metadata, ..crate::format::segment::SegmentEntry::EMPTY };
    zones.set_entry(dead, entry);
    assert!(zones.is_resettable(dead) && zones.reset_candidates(&[]) == [dead]);
    assert_eq!((zones.miscounted(), zones.is_incomplete()), (None, false));
    zones.sub_live(addr, 7);
    assert_eq!((zones.miscounted(), zones.is_incomplete()), (Some(addr.zone_base()), true));
    assert_eq!(zones.entry(addr).map(|entry| entry.live), Some(0));
    // What can be wrong of one zone can be wrong of all: nothing is emptied by its count any more.
    assert!(!zones.is_resettable(dead) && zones.reset_candidates(&[]).is_empty() && zones.dead_zones() == 0);
}
