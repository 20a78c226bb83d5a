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
    assert_eq!(zones.preview(&[(0, CAPACITY.into())]).iter().map(|place| place.blocks).sum::<u32>(), CAPACITY);
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
            let (addr, _) = zones.allocate_on(device, role, 0, 10).expect("there is room");
            assert_eq!(addr.device(), device);
        }
    }
    // Until the second device has nothing left.
    while zones.device_for(Role::RelocatedByDevice, near) == near {
        zones.allocate_on(DeviceId(1), Role::RelocatedByDevice, 0, u32::MAX).expect("there is room");
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
    assert!(zones.is_resettable(dead) && zones.reset_candidates(&[]).iter().map(|zone| zone.addr).eq([dead]));
    assert_eq!((zones.miscounted(), zones.is_incomplete()), (None, false));
    zones.sub_live(addr, 7);
    assert_eq!((zones.miscounted(), zones.is_incomplete()), (Some(addr.zone_base()), true));
    assert_eq!(zones.entry(addr).map(|entry| entry.live), Some(0));
    // What can be wrong of one zone can be wrong of all: nothing is emptied by its count any more.
    assert!(!zones.is_resettable(dead) && zones.reset_candidates(&[]).is_empty() && zones.dead_zones() == 0);
}

/// A log may move extents as long as an item can say, of many files, into one zone.
#[test]
fn more_that_lives_in_a_zone_than_can_be_counted_is_no_panic() {
    let mut zones = table(&[64]);
    let (addr, _) = zones.allocate(Role::User, 10).expect("there is room");
    (0..17).for_each(|_| zones.add_live(addr, 1 << 28));
    assert_eq!(zones.entry(addr).map(|entry| entry.live), Some(u32::MAX));
    assert!(!zones.is_resettable(addr));
}

/// How many zones of each role and class are open, each at most once (on each device, where every device has a head).
fn open_zones(table: &ZoneTable) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    let open = table.iter().filter(|(_, e)| e.phase == Phase::Open && !matches!(e.role, Role::Ring | Role::Log));
    let mut count = 0;
    for (addr, e) in open {
        let device = is_on_each_device(e.role).then_some(addr.device());
        assert!(seen.insert((e.role, e.class, device)), "two open zones of {:?} {}", e.role, e.class);
        count += 1;
    }
    count
}

#[test]
fn classes_are_as_many_as_active_zones_and_space_allow() {
    let most = |zones: u32, active: u32| ZoneTable::new(&[member(zones)], reserves_for(zones, CAPACITY), active).most_classes();
    for (active, classes) in [(6, 1), (8, 1), (9, 1), (10, 1), (11, 2), (12, 2), (13, 3), (14, 3), (15, 4), (u32::MAX, 4)] {
        assert_eq!(most(256, active), classes, "{active} active zones");
    }
    // What heads of relocation have begun and not filled must not be missed by users.
    for zones in 24..300 {
        let table = table(&[zones]);
        let all = zones * CAPACITY - 2 * CAPACITY;
        let kept = all - table.total() as u32 - table.reserves.zones() as u32 * CAPACITY;
        assert!(kept >= (PARTLY_FILLED + u32::from(table.most_classes()) - 1) * CAPACITY - CAPACITY / 2, "{zones} zones");
    }
}

#[test]
fn a_class_whose_zone_is_full_goes_where_another_has_room_when_little_is_empty() {
    let mut zones = table(&[128]);
    zones.set_classes(Some(3), true);
    zones.set_active_classes(3, 0);
    let mut heads = [Addr::NONE; 3];
    for class in [0, 1, 2] {
        heads[usize::from(class)] = zones.allocate_for_users(class, 1).expect("there is room").0;
    }
    assert_eq!(open_zones(&zones), 3);
    while zones.empty_zones() > zones.users_floor() {
        zones.allocate(Role::Metadata, u32::MAX).expect("above its floor");
    }
    assert_eq!(zones.allocate_for_users(2, u32::MAX), Some((heads[2].plus(1), CAPACITY - 1)));
    // The nearest one, and not one of the zones that cleaning counts on.
    assert_eq!(zones.allocate_for_users(2, 10), Some((heads[1].plus(1), 10)));
    // A class that is not used any more is filled before all others.
    zones.set_active_classes(1, 0);
    assert_eq!(zones.allocate_for_users(0, 10), Some((heads[1].plus(11), 10)));
}

#[test]
fn heads_of_all_classes_are_found_again_and_what_is_too_many_is_ended() {
    let mut before = table(&[128]);
    before.set_classes(Some(3), true);
    before.set_active_classes(3, 0);
    let (users, _) = before.allocate_for_users(2, 10).expect("there is room");
    let (moved, _) = before.allocate_on(DeviceId(0), Role::RelocatedByDevice, 1, 10).expect("there is room");
    before.note_put(users, 0, 5000.0);
    assert_eq!(before.expected(users), None, "nothing was put");
    before.note_put(users, 10, 5000.0);
    let strange = before.open(Role::User).expect("there is room");
    before.zone_mut(strange).entry.class = 9;
    let mut pages = vec![before.store_page(0), before.store_page(1)];
    let mut after = table(&[128]);
    for page in [1, 0] {
        after.load_page(page, &pages.pop().expect("two pages")[..]).expect("a page");
    }
    assert_eq!(after.expected(users), before.expected(users));
    assert!(after.expected(users).is_some_and(|interval| (interval / 5000.0).log2().abs() < 0.1));
    assert_eq!(after.take_to_finish(), [strange]);
    // Without a placement they are filled first.
    assert_eq!(after.allocate(Role::User, 5), Some((users.plus(10), 5)));
    assert_eq!(after.allocate_on(DeviceId(0), Role::RelocatedByDevice, 0, 5), Some((moved.plus(10), 5)));
    after.self_check().expect("the counts agree");
}

#[test]
fn the_two_roads_of_relocation_share_what_may_be_active() {
    let mut zones = table(&[128]);
    zones.set_classes(Some(3), true);
    zones.set_active_classes(3, 0);
    let device = DeviceId(0);
    for class in [2, 1, 0] {
        zones.allocate_on(device, Role::RelocatedByDevice, class, 1).expect("there is room");
        zones.allocate_on(device, Role::RelocatedByHost, class, 1).expect("there is room");
        zones.allocate_for_users(class, 1).expect("there is room");
    }
    // Of either road one of the first class; of the others one in all.
    assert_eq!(open_zones(&zones), 3 + 2 + 2);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]
    #[test]
    fn what_users_were_promised_is_placed_as_foreseen_whatever_the_classes(
        devices in 1usize..3,
        ops in proptest::collection::vec((0u8..8, 0u8..3, 1u32..700, 0u8..3, 1u32..400), 1..120),
    ) {
        let mut zones = table(&[100, 70][..devices]);
        zones.set_classes(Some(3), true);
        for (kind, class, blocks, other, more) in ops {
            let near = DeviceId(u8::from(devices > 1 && blocks % 2 == 0));
            match kind {
                0 => zones.set_active_classes(class + 1, 0),
                1 | 2 => {
                    let role = if kind == 1 { Role::RelocatedByDevice } else { Role::RelocatedByHost };
                    if let Some(device) = zones.device_for(role, Some(near)) {
                        proptest::prop_assert!(zones.allocate_on(device, role, class, blocks).is_some());
                    }
                }
                3 => { zones.allocate(Role::Metadata, blocks); }
                _ => {
                    let wanted = [(class, u64::from(blocks)), (other, u64::from(more))];
                    let fits = zones.has_place_for(u64::from(blocks + more));
                    let places = zones.preview(&wanted);
                    let placed: u32 = places.iter().map(|place| place.blocks).sum();
                    proptest::prop_assert!(placed == blocks + more || !fits, "{placed} of {} blocks", blocks + more);
                    for place in places {
                        proptest::prop_assert_eq!(zones.allocate_for_users(place.class, place.blocks), Some((place.addr, place.blocks)));
                        proptest::prop_assert_eq!(zones.entry(place.addr).map(|e| e.class), Some(place.head));
                    }
                }
            }
            open_zones(&zones);
            zones.self_check().expect("the counts agree");
        }
    }
}

#[test]
fn a_class_opens_no_zone_where_its_device_has_none_and_goes_where_there_is_room() {
    let mut zones = table(&[100, 70]);
    zones.set_classes(Some(zones.most_classes()), true);
    zones.set_active_classes(3, 0);
    let (near, role) = (DeviceId(1), Role::RelocatedByDevice);
    while zones.devices[1].empty_count > 1 {
        zones.allocate_on(near, role, 0, u32::MAX).expect("there is room");
    }
    let (head, _) = zones.allocate_on(near, role, 0, 1).expect("there is room");
    assert!(zones.classes() > 1 && zones.writable() > 2 * u64::from(CAPACITY) && zones.devices[1].empty_count == 0);
    assert_eq!(zones.device_for(role, Some(near)), Some(near));
    assert_eq!(zones.allocate_on(near, role, zones.classes() - 1, 10), Some((head.plus(1), 10)));
}

/// With zones that are large beside the marks, half of two of them would be more than lies between quiet and forced.
#[test]
fn what_further_heads_hold_is_counted_out_by_and_by() {
    const LARGE: u32 = 65_536;
    let large = Member { zone_blocks: u64::from(LARGE), zone_capacity: LARGE, ..member(200) };
    for by_hand in [false, true] {
        let mut zones = ZoneTable::new(&[large], reserves_for(200, LARGE), u32::MAX);
        zones.set_classes(Some(3), true);
        let pacer = gc::Pacer::new(zones.pace());
        if by_hand {
            // Heads of classes that are not in use, as cleaning by hand leaves them.
            for class in [1, 2] {
                zones.allocate_in(DeviceId(0), Role::RelocatedByDevice, class, 1).expect("there is room");
            }
        }
        while zones.room(0).ahead > pacer.config().high + i64::from(LARGE) / 2 {
            zones.allocate(Role::User, 1000).expect("users have room");
        }
        if !by_hand {
            zones.set_active_classes(3, 0);
        }
        assert_eq!(zones.classes_in_use(), if by_hand { 1 } else { 3 });
        let (mut before, mut total) = (zones.room(0).ahead, 0);
        let first = before;
        assert_eq!(pacer.pressure(before), gc::Pressure::Quiet);
        loop {
            zones.advance_clock(64);
            let now = zones.room(0).ahead;
            assert!(before - now <= 16, "{} blocks at once", before - now);
            total += 64;
            if now == before {
                break;
            }
            before = now;
        }
        // By and by it is all of it.
        assert_eq!(first - before, i64::from(LARGE));
        assert!((4 * LARGE..4 * LARGE + 128).contains(&total));
        // When they are no more, at once.
        zones.set_active_classes(1, 0);
        zones.end_all_heads();
        let (ended, held) = (zones.room(0).ahead, zones.held_quarters);
        zones.advance_clock(1);
        assert_eq!((zones.room(0).ahead, zones.held_quarters), (ended, 0), "of {held}");
    }
}

#[test]
fn the_reserve_holds_two_checkpoints_of_all_that_may_be_dirty() {
    const MIB: u64 = 256;
    let bound = |blocks: u64, capacity: u32| {
        let reserves = reserves_for((blocks / u64::from(capacity)) as u32, capacity);
        // What a checkpoint writes besides, headers and pages of tables, is an eighth.
        let two = 2 * (u64::from(reserves.dirty_blocks) + u64::from(reserves.dirty_blocks) / 8);
        let held = u64::from(reserves.checkpoint_zones) * u64::from(capacity);
        assert!(held >= two && held <= two + 3 * u64::from(capacity), "{blocks} in zones of {capacity}: {reserves:?}");
        u64::from(reserves.dirty_blocks)
    };
    for capacity in [256, 1024, 4096, 16_384] {
        let bounds: Vec<u64> = (28..=45).map(|log| bound((1 << log) / 4096, capacity)).collect();
        assert!(bounds.is_sorted(), "{bounds:?}");
        assert!((256..=65_536).contains(&bounds[0]) && bounds.last() == Some(&65_536), "{bounds:?}");
    }
    // All leaves of a small volume; what half of the default cache holds; more where hardly anything is lost by it.
    assert_eq!([1024, 4096, 1 << 20, 25 << 20].map(|size| bound(size * MIB, 4096)), [5461, 16_384, 65_536, 65_536]);
}

/// Roll-forward meets a release and then what was put into the zone afterwards; nobody opens the zone in between.
#[test]
fn a_zone_that_the_log_gave_back_and_filled_again_says_nothing_of_what_it_held_before() {
    let mut zones = table(&[64]);
    zones.set_classes(Some(1), true);
    let (addr, blocks) = zones.allocate(Role::User, u32::MAX).expect("there is room");
    zones.note_put(addr, blocks, 10.0);
    zones.advance_clock(1000);
    zones.note_released(addr);
    let entry =
        SegmentEntry { role: Role::User, phase: Phase::Open, written: 8, written_at: 1000, ..*zones.entry(addr).expect("it is there") };
    zones.set_entry(addr, entry);
    zones.note_put(addr, 8, 5000.0);
    assert_eq!(zones.entry(addr).map(|entry| entry.opened_at), Some(1000));
    let interval = zones.expected(addr).expect("expected");
    assert!((interval / 5000.0).log2().abs() < 0.1, "{interval}");
}

/// What lay in a zone that failed goes elsewhere or dies, and then nobody can use its place.
#[test]
fn the_dead_blocks_of_a_zone_that_failed_are_no_space() {
    let mut zones = table(&[64]);
    let whole = zones.total();
    let (failed, _) = zones.allocate(Role::User, 100).expect("there is room");
    zones.add_live(failed, 100);
    zones.retire(failed);
    assert_eq!(zones.total(), whole - u64::from(CAPACITY - 100));
    zones.self_check().expect("the counts agree");
    let free = zones.total() - zones.used(0);
    // Some goes elsewhere: as much is in use, and there is less.
    let (other, _) = zones.allocate(Role::User, 60).expect("there is room");
    zones.add_live(other, 60);
    zones.sub_live(failed, 60);
    assert_eq!(zones.total() - zones.used(0), free - 60);
    zones.self_check().expect("the counts agree");
    // The rest dies: as much is free as before.
    zones.sub_live(failed, 40);
    assert_eq!((zones.total(), zones.total() - zones.used(0)), (whole - u64::from(CAPACITY), free - 60));
    zones.self_check().expect("the counts agree");
}

#[test]
fn a_log_zone_that_failed_is_not_held_and_the_log_has_its_reserve_for_others() {
    let mut zones = table(&[64]);
    let reserve = zones.reserves.log_zones;
    for _ in 0..3 * reserve {
        let failed = zones.open(Role::Log).expect("there is room");
        assert_eq!(zones.log_claim(), reserve - 1);
        zones.retire(failed);
        zones.retire(failed);
        assert_eq!(zones.log_claim(), reserve, "it may open as many as before");
        zones.self_check().expect("the counts agree");
    }
    // A mount counts in the same way.
    let pages: Vec<_> = (0..ZoneTable::page_count(&[member(64)])).map(|page| zones.store_page(page)).collect();
    let mut again = table(&[64]);
    for (page, bytes) in (0..).zip(&pages) {
        again.load_page(page, &bytes[..]).expect("a sound page");
    }
    again.loaded(zones.clock(), 0, Population::default());
    assert_eq!(again.log_claim(), reserve);
    again.self_check().expect("the counts agree");
}
