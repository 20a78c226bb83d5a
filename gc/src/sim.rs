//! Address-only simulation: policies and placements without data, devices or threads.
//!
//! Flat arrays only: a logical block is an index, a physical block is an index, a segment is a range of physical blocks. The closed
//! segments lie packed in one list that is kept up to date write by write, so a policy gets it without any copying. Cleaning is lazy: it
//! runs only when no spare segment is left to open, which is what the analytic curves assume.

use crate::placement::{Class, Placement, ReclaimedSegment, RelocatedBlock, UserWrite};
use crate::policy::VictimPolicy;
use crate::segment::{SegmentId, SegmentInfo, Seq, Stream};
use zns::{DeviceId, ZoneId};

/// Marks a physical block without owner, a logical block never written, a segment that is not closed.
const NONE: u32 = u32::MAX;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimConfig {
    /// Segments that count as the volume's space.
    pub segments: u32,
    /// Blocks in a segment.
    pub segment_blocks: u32,
    /// Live share of that space.
    pub utilization: f64,
    /// Segments on top, for open heads and the reserve. At least one per class and two more.
    pub spare: u32,
}

impl SimConfig {
    /// Logical blocks.
    pub fn blocks(&self) -> u32 {
        (f64::from(self.segments) * f64::from(self.segment_blocks) * self.utilization) as u32
    }
}

/// A volume of addresses.
pub struct Simulator<'a> {
    config: SimConfig,
    policy: &'a dyn VictimPolicy,
    placement: &'a mut dyn Placement,
    /// Logical to physical.
    map: Vec<u32>,
    /// Physical to logical; stale where the map disagrees.
    owners: Vec<u32>,
    /// When a user wrote each logical block; empty unless the placement needs it.
    written: Vec<Seq>,
    /// Closed segments, packed.
    closed: Vec<SegmentInfo>,
    /// Where a segment is in `closed`.
    place: Vec<u32>,
    /// Live blocks of the segments that are not closed.
    open_live: Vec<u32>,
    classes: Vec<Class>,
    opened_at: Vec<Seq>,
    free: Vec<u32>,
    /// Open segment and its fill, by class.
    heads: Vec<Option<(u32, u32)>>,
    now: Seq,
    user: u64,
    relocated: u64,
}

/// The simulated volume cannot go on: everything is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no segment has a dead block: the simulated volume is full")]
pub struct Full;

impl<'a> Simulator<'a> {
    /// An empty volume.
    pub fn new(config: SimConfig, policy: &'a dyn VictimPolicy, placement: &'a mut dyn Placement) -> Self {
        let segments = config.segments + config.spare.max(u32::from(placement.classes()) + 2);
        let ages = if placement.needs_ages() { config.blocks() as usize } else { 0 };
        let heads = vec![None; usize::from(placement.classes())];
        Self {
            config,
            policy,
            placement,
            map: vec![NONE; config.blocks() as usize],
            owners: vec![NONE; segments as usize * config.segment_blocks as usize],
            written: vec![Seq::MAX; ages],
            closed: Vec::with_capacity(segments as usize),
            place: vec![NONE; segments as usize],
            open_live: vec![0; segments as usize],
            classes: vec![Class(0); segments as usize],
            opened_at: vec![0; segments as usize],
            free: (0..segments).rev().collect(),
            heads,
            now: 0,
            user: 0,
            relocated: 0,
        }
    }

    /// Logical blocks.
    pub fn blocks(&self) -> u32 {
        self.map.len() as u32
    }

    /// A user writes a block.
    ///
    /// # Errors
    /// Everything is live.
    pub fn write(&mut self, block: u32) -> Result<(), Full> {
        let previous = self.written.get(block as usize).copied().filter(|at| *at != Seq::MAX);
        let class = self.placement.user(&UserWrite { block: u64::from(block), previous, now: self.now });
        self.room(class)?;
        self.forget(block);
        self.put(block, class);
        if let Some(at) = self.written.get_mut(block as usize) {
            *at = self.now;
        }
        self.now += 1;
        self.user += 1;
        Ok(())
    }

    /// A user deletes a block.
    pub fn trim(&mut self, block: u32) {
        self.forget(block);
        self.map[block as usize] = NONE;
    }

    /// Begins to count anew, after warming up.
    pub fn reset_counters(&mut self) {
        (self.user, self.relocated) = (0, 0);
    }

    /// (user + relocated) / user blocks since the counters were reset.
    pub fn write_amplification(&self) -> f64 {
        if self.user == 0 { 1.0 } else { (self.user + self.relocated) as f64 / self.user as f64 }
    }

    /// The class head has room for one block; cleans first when segments are short.
    fn room(&mut self, class: Class) -> Result<(), Full> {
        // Cleaning itself may open one segment per class; more than that is the users'.
        let reserve = usize::from(self.placement.classes());
        while self.heads[usize::from(class.0)].is_none() && self.free.len() <= reserve {
            self.clean()?;
        }
        Ok(())
    }

    fn clean(&mut self) -> Result<(), Full> {
        let victim = self.policy.choose(&self.closed, self.now).ok_or(Full)?.zone.0;
        let info = self.unclose(victim);
        let from = self.classes[victim as usize];
        let first = victim * self.config.segment_blocks;
        if info.live > 0 {
            for at in first..first + self.config.segment_blocks {
                let block = self.owners[at as usize];
                if block != NONE && self.map[block as usize] == at {
                    let written = self.written.get(block as usize).copied();
                    let class = self.placement.relocated(&RelocatedBlock { block: u64::from(block), from, written, now: self.now });
                    self.put(block, class);
                    self.relocated += 1;
                }
            }
        }
        self.placement.reclaimed(&ReclaimedSegment {
            class: from,
            opened_at: self.opened_at[victim as usize],
            live: info.live,
            capacity: info.capacity,
            now: self.now,
        });
        self.open_live[victim as usize] = 0;
        self.free.push(victim);
        Ok(())
    }

    fn forget(&mut self, block: u32) {
        let old = self.map[block as usize];
        if old == NONE {
            return;
        }
        let segment = (old / self.config.segment_blocks) as usize;
        match self.place[segment] {
            NONE => self.open_live[segment] -= 1,
            at => self.closed[at as usize].live -= 1,
        }
    }

    /// Appends a block to the head of its class.
    fn put(&mut self, block: u32, class: Class) {
        let head = usize::from(class.0);
        let (segment, fill) = self.heads[head].take().unwrap_or_else(|| {
            let segment = self.free.pop().expect("the reserve covers every class that cleaning may open");
            self.classes[segment as usize] = class;
            self.opened_at[segment as usize] = self.now;
            (segment, 0)
        });
        let at = segment * self.config.segment_blocks + fill;
        self.owners[at as usize] = block;
        self.map[block as usize] = at;
        self.open_live[segment as usize] += 1;
        if fill + 1 == self.config.segment_blocks {
            self.close(segment);
        } else {
            self.heads[head] = Some((segment, fill + 1));
        }
    }

    fn close(&mut self, segment: u32) {
        self.place[segment as usize] = self.closed.len() as u32;
        self.closed.push(SegmentInfo {
            id: SegmentId { device: DeviceId(0), zone: ZoneId(segment) },
            stream: Stream::User,
            live: self.open_live[segment as usize],
            capacity: self.config.segment_blocks,
            written_at: self.now,
        });
    }

    fn unclose(&mut self, segment: u32) -> SegmentInfo {
        let at = std::mem::replace(&mut self.place[segment as usize], NONE);
        let info = self.closed.swap_remove(at as usize);
        if let Some(moved) = self.closed.get(at as usize) {
            self.place[moved.id.zone.0 as usize] = at;
        }
        info
    }

    /// Counts everything again and compares (I4).
    ///
    /// # Panics
    /// When the arrays disagree.
    pub fn self_check(&self) {
        let mut live = vec![0u32; self.place.len()];
        for (block, at) in self.map.iter().enumerate().filter(|(_, at)| **at != NONE) {
            assert_eq!(self.owners[*at as usize] as usize, block);
            live[(*at / self.config.segment_blocks) as usize] += 1;
        }
        for (segment, place) in self.place.iter().enumerate() {
            if *place != NONE {
                let info = self.closed[*place as usize];
                assert_eq!((info.id.zone.0 as usize, info.live), (segment, live[segment]));
            }
        }
        for (segment, _) in self.heads.iter().flatten() {
            assert_eq!(self.open_live[*segment as usize], live[*segment as usize]);
        }
        assert!(self.free.iter().all(|segment| live[*segment as usize] == 0));
    }
}

/// The write amplification of greedy cleaning under uniform random overwrites at live share `u`: with a = 1/u, the A that solves
/// 1 - 1/A = exp(-a/A). One for an empty volume, infinite for a full one.
pub fn analytic_greedy(u: f64) -> f64 {
    if u <= 0.0 {
        return 1.0;
    }
    if u >= 1.0 {
        return f64::INFINITY;
    }
    // In x = 1/A: f(x) = 1 - x - exp(-x/u) is concave, zero at 0 and at the solution, positive between.
    let f = |x: f64| 1.0 - x - (-x / u).exp();
    let (mut low, mut high) = (1e-9, 1.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if f(middle) > 0.0 { low = middle } else { high = middle }
    }
    1.0 / low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::PlacementKind;
    use crate::policy::Policy;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_analytic_curve_has_the_published_values() {
        for (u, wa) in [(0.70, 1.88), (0.75, 2.20), (0.80, 2.69), (0.85, 3.52), (0.90, 5.18), (0.931, 7.45), (0.95, 10.2)] {
            let found = analytic_greedy(u);
            assert!((found - wa).abs() / wa < 0.005, "u {u}: {found} instead of {wa}");
        }
    }

    fn uniform(config: SimConfig, policy: Policy, placement: PlacementKind, warm: u32, measured: u32) -> f64 {
        let (policy, mut placement) = (policy.build(), placement.build());
        let mut sim = Simulator::new(config, policy.as_ref(), placement.as_mut());
        let blocks = sim.blocks();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..blocks).for_each(|b| sim.write(b).expect("room"));
        (0..warm).for_each(|_| (0..blocks).for_each(|_| sim.write(rng.random_range(0..blocks)).expect("room")));
        sim.reset_counters();
        (0..measured).for_each(|_| (0..blocks).for_each(|_| sim.write(rng.random_range(0..blocks)).expect("room")));
        sim.self_check();
        sim.write_amplification()
    }

    #[test]
    fn greedy_meets_the_analytic_value_at_85_percent() {
        let config = SimConfig { segments: 1200, segment_blocks: 1024, utilization: 0.85, spare: 3 };
        for placement in PlacementKind::ALL {
            let wa = uniform(config, Policy::Greedy, placement, 4, 3);
            let analytic = analytic_greedy(0.85);
            assert!((wa - analytic).abs() / analytic < 0.03, "{placement}: {wa} against {analytic}");
        }
    }

    #[test]
    fn it_converges_at_95_percent_with_every_policy() {
        let config = SimConfig { segments: 200, segment_blocks: 256, utilization: 0.95, spare: 3 };
        for policy in Policy::ALL {
            let wa = uniform(config, policy, PlacementKind::Separate, 3, 2);
            assert!(wa > 8.0 && wa < 13.0, "{policy}: {wa}");
        }
    }

    #[test]
    fn a_full_volume_is_an_error_and_no_loop() {
        let config = SimConfig { segments: 8, segment_blocks: 4, utilization: 1.6, spare: 0 };
        let (policy, mut placement) = (Policy::Greedy.build(), PlacementKind::None.build());
        let mut sim = Simulator::new(config, policy.as_ref(), placement.as_mut());
        let blocks = sim.blocks();
        assert_eq!((0..blocks).find_map(|b| sim.write(b).err()), Some(Full));
        sim.self_check();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_arrays_agree_after_any_writes_and_trims(ops in proptest::collection::vec((0u8..5, 0u32..160), 1..2000)) {
            for placement in PlacementKind::ALL {
                let config = SimConfig { segments: 20, segment_blocks: 10, utilization: 0.8, spare: 4 };
                let (policy, mut placement) = (Policy::CostBenefit.build(), placement.build());
                let mut sim = Simulator::new(config, policy.as_ref(), placement.as_mut());
                for (kind, block) in &ops {
                    match kind {
                        0 => sim.trim(*block),
                        _ => sim.write(*block).expect("room"),
                    }
                }
                sim.self_check();
            }
        }
    }
}
