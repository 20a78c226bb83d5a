//! Space for copies: a piece of a head zone that one copy fills, from its plan to its commit.

use crate::addr::Addr;
use crate::format::segment::Role;
use crate::volume::Volume;
use crate::volume::state::{Held, State};
use parking_lot::MutexGuard;
use zns::DeviceId;

impl State {
    /// Is a copy filling the zone where `role` would go on there, or a zone of the other kind that has to end first?
    fn is_head_held(&self, role: Role, device: DeviceId) -> bool {
        let heads = [role, Role::RelocatedByDevice, Role::RelocatedByHost, Role::CopiedByDevice];
        let shares = |held: &Held| held.addr.device() == device && self.zones.entry(held.addr).is_some_and(|e| heads.contains(&e.role));
        self.held.values().any(shares)
    }

    /// Which head of relocation there takes what is of `class`, besides those that hold other copies of the cleaner's.
    fn head_beside(&self, role: Role, class: u8, device: DeviceId) -> Head {
        let mut taken = Vec::new();
        for held in self.held.values().filter(|held| held.addr.device() == device) {
            match held.relocation {
                // Who waits for them must have nothing in flight: they may wait for that.
                None if self.held.values().any(|held| held.relocation.is_some()) => return Head::Own,
                None => return Head::OfUsers,
                // One kind may have to end before the other begins.
                Some((other, _)) if other != role => return Head::Own,
                Some((_, class)) => taken.push(class),
            }
        }
        self.zones.class_beside(device, role, class, |class| taken.contains(&class)).map_or(Head::Own, Head::Free)
    }

    /// Records space that was allocated.
    fn hold(&mut self, (addr, blocks): (Addr, u32), relocation: Option<(Role, u8)>) -> (u64, Held) {
        self.zones.begin_write(addr);
        let held = Held { addr, blocks, relocation };
        let id = self.next_held;
        self.next_held += 1;
        self.held.insert(id, held);
        (id, held)
    }

    /// Takes the space back. `used` blocks hold copies; with `end_zone` the zone is ended (I9), else the rest is available again.
    pub fn let_go(&mut self, id: u64, used: u32, end_zone: bool) {
        let Some(held) = self.held.remove(&id) else { return };
        self.zones.end_write(held.addr);
        if end_zone {
            self.zones.end_zone(held.addr);
            if used < held.blocks {
                // All that the zone had left may have been held: then it was closed before it was written, and is active on its device still.
                self.zones.finish_again(held.addr);
            }
        } else {
            self.zones.give_back(held.addr, used, held.blocks);
        }
    }
}

/// Space for a copy. Whatever ends the copy early, an error or a panic, nobody waits for its head for ever: dropped, it is given back.
#[must_use]
pub(super) struct HeldSpace<'a> {
    volume: &'a Volume,
    id: u64,
    /// The first block of it.
    pub addr: Addr,
    /// How many.
    pub blocks: u32,
    /// As many hold copies, whether they are mapped or not.
    used: u32,
    /// Nobody knows what lies behind those (I9).
    end_zone: bool,
}

impl<'a> HeldSpace<'a> {
    fn new(volume: &'a Volume, (id, held): (u64, Held)) -> Self {
        Self { volume, id, addr: held.addr, blocks: held.blocks, used: 0, end_zone: false }
    }

    /// What it is given back with: so many blocks hold copies, and of what is behind those it is known that it is untouched, or the zone must be ended.
    pub fn set_used(&mut self, used: u32, end_zone: bool) {
        (self.used, self.end_zone) = (used, end_zone);
    }

    /// Somebody else gives it back.
    fn hand_over(self) -> (u64, Addr, u32) {
        let kept = std::mem::ManuallyDrop::new(self);
        (kept.id, kept.addr, kept.blocks)
    }
}

impl Drop for HeldSpace<'_> {
    fn drop(&mut self) {
        self.volume.let_go_space(self.id, self.used, self.end_zone);
    }
}

/// A head of relocation, for the cleaner.
enum Head {
    /// Of this class.
    Free(u8),
    /// The cleaner itself holds all that there are.
    Own,
    /// A copy that users asked for goes on where relocation would, or may.
    OfUsers,
}

/// What the cleaner got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Its number, where, and how many blocks.
    Space(u64, Addr, u32),
    /// What it holds already has to be let go first.
    Own,
    /// No zone can be opened.
    NoZone,
}

impl Volume {
    /// Space for a copy that users asked for at the head of `role`, on `near` if there is any, waiting for a copy that is under way there. `None`: no zone can
    /// be opened.
    pub(super) fn hold_space(&self, role: Role, near: DeviceId, blocks: u32) -> Option<HeldSpace<'_>> {
        let mut state: MutexGuard<'_, State> = self.state.lock();
        let device = loop {
            let device = state.zones.device_for(role, Some(near))?;
            if !state.is_head_held(role, device) {
                break device;
            }
            let _waits = self.calm.await_cleaner();
            self.progress.wait(&mut state);
        };
        let allocated = state.zones.allocate_on(device, role, 0, blocks)?;
        let held = state.hold(allocated, None);
        drop(state);
        let space = HeldSpace::new(self, held);
        self.finish_ended_zones();
        Some(space)
    }

    /// Space for relocation by `role` of what is of a class, beside what the cleaner holds already: chunks that fly side by side have a zone each (I1). Waits
    /// for copies of users, never for one of its own.
    pub(super) fn hold_for_relocation(&self, role: Role, class: u8, near: DeviceId, blocks: u32) -> Hold {
        let mut state: MutexGuard<'_, State> = self.state.lock();
        let (device, class) = loop {
            let Some(device) = state.zones.device_for(role, Some(near)) else { return Hold::NoZone };
            match state.head_beside(role, class, device) {
                Head::Free(class) => break (device, class),
                Head::Own => return Hold::Own,
                Head::OfUsers => self.progress.wait(&mut state),
            }
        };
        let Some(allocated) = state.zones.allocate_in(device, role, class, blocks) else { return Hold::NoZone };
        let held = state.hold(allocated, Some((role, class)));
        drop(state);
        let space = HeldSpace::new(self, held);
        self.finish_ended_zones();
        let (id, addr, blocks) = space.hand_over();
        Hold::Space(id, addr, blocks)
    }

    /// Gives space back after a copy; see [`State::let_go`].
    pub(super) fn let_go_space(&self, id: u64, used: u32, end_zone: bool) {
        self.state.lock().let_go(id, used, end_zone);
        self.progress.notify_all();
        // While a panic unwinds no device is asked for anything, which might panic as well: the next one who holds space, or commits, does it.
        if !std::thread::panicking() {
            self.finish_ended_zones();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::rig::{formatted, make};
    use crate::volume::{GcMode, MountOptions, WriteOptions};
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use zns::ZonedDevice;
    use zns::sim::{SimConfig, SimDrive};

    const DEVICE: DeviceId = DeviceId(0);
    const B: u64 = 4096;

    fn space(volume: &Volume, role: Role) -> (u64, Addr) {
        match volume.hold_for_relocation(role, 0, DEVICE, 16) {
            Hold::Space(id, addr, 16) => (id, addr),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_cleaner_copies_side_by_side_goes_into_a_zone_each() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(256, 1)));
        let heads = volume.state.lock().zones.classes();
        assert_eq!(heads, 3);
        let held: Vec<_> = (0..heads).map(|_| space(&volume, Role::RelocatedByDevice)).collect();
        assert_eq!(held.iter().map(|(_, addr)| addr.zone_base()).collect::<BTreeSet<_>>().len(), 3);
        // It never waits for itself: neither for a zone more, nor for one of the other kind.
        for role in [Role::RelocatedByDevice, Role::RelocatedByHost] {
            assert_eq!(volume.hold_for_relocation(role, 0, DEVICE, 16), Hold::Own);
        }
        let used: Vec<_> = held.iter().map(|(id, addr)| (volume.let_go_space(*id, 10, false), addr.plus(10)).1).collect();
        // One at a time again: what was begun beside is filled first, and no zone more is begun.
        let empty = volume.state.lock().zones.empty_zones();
        for expected in [used[1], used[1].plus(16), used[1].plus(32)] {
            let (id, addr) = space(&volume, Role::RelocatedByDevice);
            assert_eq!(addr, expected);
            volume.let_go_space(id, 16, false);
        }
        assert_eq!(volume.state.lock().zones.empty_zones(), empty);
        volume.state.lock().zones.self_check().expect("the counts agree");
    }

    #[test]
    fn who_has_copies_in_flight_does_not_wait_for_those_of_users() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(256, 1)));
        let (own, _) = space(&volume, Role::RelocatedByDevice);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let space = volume.hold_space(Role::CopiedByDevice, DEVICE, 8).expect("there is room");
                sender.send(space.hand_over().0).expect("somebody listens");
            });
            let waited = receiver.recv_timeout(std::time::Duration::from_millis(50));
            assert!(waited.is_err() && volume.is_cleaner_awaited(), "it takes what the cleaner may need to end");
            volume.let_go_space(own, 16, false);
            let user = receiver.recv().expect("then it is its turn");
            // As if something flew elsewhere.
            let mut state = volume.state.lock();
            let elsewhere = state.hold((Addr::new(DeviceId(0), zns::ZoneId(99), 0), 1), Some((Role::RelocatedByDevice, 0))).0;
            drop(state);
            assert_eq!(volume.hold_for_relocation(Role::RelocatedByDevice, 0, DEVICE, 16), Hold::Own);
            volume.state.lock().held.remove(&elsewhere);
            volume.let_go_space(user, 8, false);
            space(&volume, Role::RelocatedByDevice);
        });
    }

    /// Copies of users count for as long as they last, however long, and while they wait for a head that the cleaner has.
    #[test]
    fn it_is_not_calm_while_a_copy_of_users_lasts() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(256, 1)));
        let (from, to) = (make(&volume, "from"), make(&volume, "to"));
        volume.write(from, 0, &[7; 1 << 20], &WriteOptions::default()).expect("written");
        volume.sync().expect("synced");
        volume.start_background().expect("threads");
        let (own, _) = space(&volume, Role::RelocatedByDevice);
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| volume.copy_file_range(from, 0, to, 0, 1 << 20));
            while !volume.is_cleaner_awaited() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            for _ in 0..20 {
                assert!(!volume.is_calm());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            volume.let_go_space(own, 16, false);
            assert_eq!(copy.join().expect("no panic").expect("copied"), 1 << 20);
        });
        while !volume.is_calm() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        volume.shutdown().expect("ended");
    }

    #[test]
    fn where_few_zones_may_be_active_one_chunk_flies() {
        let limited = SimConfig { max_active: 10, max_open: 10, ..SimConfig::zoned(256, 1) };
        let volume = formatted(&SimDrive::new(limited));
        space(&volume, Role::RelocatedByDevice);
        assert_eq!(volume.hold_for_relocation(Role::RelocatedByDevice, 0, DEVICE, 16), Hold::Own);
    }

    #[test]
    fn cleaning_by_hand_fills_zones_side_by_side_and_loses_nothing() {
        let drive = SimDrive::new(SimConfig::zoned(256, 1));
        drop(formatted(&drive));
        let options = MountOptions { gc: GcMode::Manual, secret: Some([2; 32]), ..MountOptions::default() };
        let volume = Volume::open(vec![drive.open() as Arc<dyn ZonedDevice>], options).expect("mounts");
        volume.start_background().expect("threads");
        let file = make(&volume, "a");
        let block = |at: u64, of: u8| [(at % 251) as u8 ^ of; B as usize];
        for (step, of) in [(1, 1), (2, 2)] {
            for at in (0..8192).step_by(step) {
                volume.write(file, at * B, &block(at, of), &WriteOptions::default()).expect("written");
            }
            volume.sync().expect("synced");
        }
        // Until then users might go on.
        while !volume.is_calm() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let report = volume.gc(true).expect("cleaned");
        assert!(report.emptied > 8 && report.failed == 0 && report.moved >= 12 << 20 && report.offloaded == report.moved, "{report:?}");
        let heads: BTreeSet<u8> = {
            let state = volume.state.lock();
            state.zones.self_check().expect("the counts agree");
            assert!(state.held.is_empty());
            let relocated = state.zones.iter().filter(|(_, e)| e.role == Role::RelocatedByDevice);
            relocated.map(|(_, e)| e.class).collect()
        };
        assert_eq!(heads.len(), 3, "{heads:?}");
        for at in 0..8192 {
            let of = if at % 2 == 0 { 2 } else { 1 };
            assert!(volume.read(file, at * B, B as u32).expect("read")[..] == block(at, of)[..], "block {at}");
        }
        volume.shutdown().expect("ended");
        assert!(drive.violations().is_empty(), "{:?}", drive.violations());
    }
}
