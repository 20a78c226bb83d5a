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

    /// Grants up to `blocks` blocks at the head of `role` there; the head must not be held.
    fn hold(&mut self, role: Role, class: u8, device: DeviceId, blocks: u32) -> Option<(u64, Held)> {
        let (addr, blocks) = self.zones.allocate_on(device, role, class, blocks)?;
        self.zones.begin_write(addr);
        let held = Held { addr, blocks };
        let id = self.next_held;
        self.next_held += 1;
        self.held.insert(id, held);
        Some((id, held))
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

impl Volume {
    /// Space for a copy at the head of `role` (for what is relocated, of its class), on `near` if there is any, waiting for a copy that is under way there. `None`: no zone can
    /// be opened.
    pub(super) fn hold_space(&self, role: Role, class: u8, near: DeviceId, blocks: u32) -> Option<(u64, Addr, u32)> {
        let mut state: MutexGuard<'_, State> = self.state.lock();
        let device = loop {
            let device = state.zones.device_for(role, Some(near))?;
            if !state.is_head_held(role, device) {
                break device;
            }
            self.progress.wait(&mut state);
        };
        let (id, held) = state.hold(role, class, device, blocks)?;
        drop(state);
        self.finish_ended_zones();
        Some((id, held.addr, held.blocks))
    }

    /// Gives space back after a copy; see [`State::let_go`].
    pub(super) fn let_go_space(&self, id: u64, used: u32, end_zone: bool) {
        self.state.lock().let_go(id, used, end_zone);
        self.progress.notify_all();
        self.finish_ended_zones();
    }
}
