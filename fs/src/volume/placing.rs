//! Placement by temperature (`placement=adaptive`, the default): which class of head takes what users write and what is relocated.
//!
//! What a block is expected to do is what was expected of the zone that it lies in ([`gc::placement::ZoneEstimates`]), so nothing is kept for a block, and what
//! is kept for a zone is in the segment table: durable with each checkpoint, and made again from the mappings when the log is rolled forward. A run of dirty blocks goes to
//! one class whole, so that classes cut no file into more pieces than there would be without.

use crate::addr::Addr;
use crate::core::extents::extent_parts;
use crate::core::halt::{Halt, Planned};
use crate::core::key::Key;
use crate::core::ops::WriteHint;
use crate::core::zones::ZoneTable;
use crate::format::item::Inode;
use crate::ids::{FileBlock, Ino};
use crate::volume::options::MountOptions;
use crate::volume::state::State;
use gc::PlacementKind;
use gc::placement::{Shape, ZoneEstimates};

/// Extents of a run that are looked at: the rest of it is taken to be like these.
const PARTS: usize = 64;

/// What a run of blocks is expected to do, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heat {
    /// Blocks of users until it is written again; none: nobody estimates.
    pub interval: Option<f64>,
    /// The class of its head.
    pub class: u8,
}

impl Heat {
    const NONE: Self = Self { interval: None, class: 0 };
}

/// The estimates of a mount, if its placement has any; the zone table is told how many classes there are.
pub(super) fn estimates(options: &MountOptions, zones: &mut ZoneTable) -> Option<ZoneEstimates> {
    let kind: PlacementKind = options.placement.parse().unwrap_or_default();
    // Where there is one class, nobody asks what blocks are expected to do.
    if kind != PlacementKind::Adaptive || zones.most_classes() == 1 {
        return None;
    }
    zones.set_classes(Some(zones.most_classes()));
    let blocks = |(addr, _): (Addr, &crate::format::segment::SegmentEntry)| u64::from(zones.capacity(addr.device()));
    let space = zones.iter().map(blocks).sum();
    let segment = zones.iter().map(|(addr, _)| zones.capacity(addr.device())).max().unwrap_or(1);
    Some(ZoneEstimates::new(Shape { space, segment, heads: zones.classes(), charged: true }))
}

impl State {
    /// Cuts classes anew when it is time.
    pub(super) fn plan_classes(&mut self) {
        let unplaced = self.unplaced();
        let Some(estimates) = &mut self.estimates else { return };
        let now = self.zones.clock();
        if estimates.is_plan_due(now) {
            estimates.plan(now, self.zones.contents());
        }
        self.zones.set_active_classes(estimates.active(), unplaced);
    }

    /// What blocks of a file that are written now are expected to do, by where they lay.
    ///
    /// # Errors
    /// [`Halt::Need`] for a block that is not resident, which mapping them needs, too. What is damaged says nothing of them.
    pub(super) fn heat(&self, ino: Ino, block: FileBlock, blocks: u32) -> Planned<Heat> {
        let Some(estimates) = &self.estimates else { return Ok(Heat::NONE) };
        let end = FileBlock(block.0.saturating_add(blocks.into()));
        let parts = match extent_parts(&self.tree, ino, block, end, PARTS) {
            Ok((parts, _)) => parts,
            Err(Halt::Need(id)) => return Err(Halt::Need(id)),
            Err(Halt::Fail(_)) => Vec::new(),
        };
        let now = self.zones.clock();
        let (mut seen, mut rate) = (0.0, 0.0);
        for part in parts.iter().filter(|part| !part.is_unwritten()) {
            let lived = self.zones.placed_at(part.addr).map(|placed| now.saturating_sub(placed));
            seen += f64::from(part.blocks);
            rate += f64::from(part.blocks) / estimates.rewritten(self.zones.expected(part.addr), lived);
        }
        let new = || estimates.rewritten(None, None) * self.hint(ino).map_or(1.0, WriteHint::factor);
        let interval = if seen > 0.0 { seen / rate } else { new() };
        Ok(Heat { interval: Some(interval), class: estimates.class(interval).0 })
    }

    /// What was said of a file. No block is loaded for that.
    fn hint(&self, ino: Ino) -> Option<WriteHint> {
        let value = self.tree.get(&Key::inode(ino)).ok()??;
        WriteHint::of(&Inode::decode(ino, value)?)
    }

    /// What is alive in a victim is expected to do.
    pub(super) fn heat_of_victim(&self, victim: Addr) -> Heat {
        let Some(estimates) = &self.estimates else { return Heat::NONE };
        let middle = victim.zone_base().plus(self.zones.capacity(victim.device()) / 2);
        let lived = self.zones.placed_at(middle).map_or(0, |placed| self.zones.clock().saturating_sub(placed));
        let interval = estimates.survived(self.zones.expected(victim), lived);
        Heat { interval: Some(interval), class: estimates.class(interval).0 }
    }

    /// Blocks were put at `addr`.
    pub(super) fn note_put(&mut self, addr: Addr, blocks: u32, interval: Option<f64>) {
        if let Some(interval) = interval {
            self.zones.note_put(addr, blocks, interval);
        }
    }
}
