//! Victim policies: which closed segment to clean next.
//!
//! A policy sees [`SegmentInfo`]s only, so the filesystem and the simulator ([`crate::sim`]) use the same code. Data and metadata
//! segments are ranked together by what a reset would give back against what must be moved: a live metadata block costs one host
//! write at the next checkpoint, a live data block costs one copied block, so both count as one block here.
//!
//! One file per policy in `policy/`; a policy never chooses a segment without dead blocks, because moving it gains nothing.

mod age;
mod cost_benefit;
mod declining;
mod greedy;

pub use age::{AgeThreshold, Choices, Fifo, WindowedGreedy};
pub use cost_benefit::{CostBenefit, CostBenefitRoot};
pub use declining::DecliningCost;
pub use greedy::Greedy;

use crate::segment::{SegmentId, SegmentInfo, Seq};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Chooses a victim.
pub trait VictimPolicy: Send + Sync {
    /// The name used in options and reports.
    fn name(&self) -> &'static str;
    /// The segment to clean next, if any is worth it (one without dead blocks never is).
    fn choose(&self, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId>;
}

/// The policies there are, by the names of the `policy=` option.
///
/// `default` is declining cost: with a placement that estimates how often blocks are written it divides the spare space between classes nearly as the optimum does. With uniform
/// overwrites greedy is optimal by theory and declining cost as good by measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Fewest live blocks.
    Greedy,
    /// Rosenblum and Ousterhout's (1 - u) age / (1 + u).
    CostBenefit,
    /// (1 - u) / u * sqrt(age), as the authors of SepBIT have it.
    CostBenefitRoot,
    /// The segment that loses least by being cleaned now, given how often its blocks are written.
    #[default]
    DecliningCost,
    /// Fewest live blocks among the older segments.
    AgeThreshold,
    /// Fewest live blocks in the quarter written first.
    WindowedGreedy,
    /// Fewest live blocks of ten drawn at random.
    DChoices,
    /// Written first.
    Fifo,
}

/// A policy name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no cleaning policy is called {name:?}: choose one of default, {}", Policy::names())]
pub struct UnknownPolicy {
    /// What was asked for.
    pub name: String,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 8] = [
        Policy::Greedy,
        Policy::CostBenefit,
        Policy::CostBenefitRoot,
        Policy::DecliningCost,
        Policy::AgeThreshold,
        Policy::WindowedGreedy,
        Policy::DChoices,
        Policy::Fifo,
    ];

    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::CostBenefit => "cost-benefit",
            Self::CostBenefitRoot => "cost-benefit-root",
            Self::DecliningCost => "declining-cost",
            Self::AgeThreshold => "age-threshold",
            Self::WindowedGreedy => "windowed-greedy",
            Self::DChoices => "d-choices",
            Self::Fifo => "fifo",
        }
    }

    /// Makes it.
    pub fn build(self) -> Box<dyn VictimPolicy> {
        match self {
            Self::Greedy => Box::new(Greedy),
            Self::CostBenefit => Box::new(CostBenefit),
            Self::CostBenefitRoot => Box::new(CostBenefitRoot),
            Self::DecliningCost => Box::new(DecliningCost),
            Self::AgeThreshold => Box::new(AgeThreshold),
            Self::WindowedGreedy => Box::new(WindowedGreedy),
            Self::DChoices => Box::new(Choices),
            Self::Fifo => Box::new(Fifo),
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;
    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        if name == "default" {
            return Ok(Self::default());
        }
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Stream;
    use proptest::prelude::*;
    use zns::{DeviceId, ZoneId};

    fn segments() -> impl Strategy<Value = Vec<SegmentInfo>> {
        let one = (0u32..=64, 1u32..=64, 0u64..1000, 0u8..3, 0u64..1000);
        proptest::collection::vec(one, 0..20).prop_map(|parts| {
            let info = |(zone, (live, capacity, written_at, device, expected)): (usize, (u32, u32, u64, u8, u64))| SegmentInfo {
                id: SegmentId { device: DeviceId(device), zone: ZoneId(zone as u32) },
                stream: if device == 2 { Stream::Metadata } else { Stream::User },
                live: live.min(capacity),
                capacity,
                written_at,
                expected,
            };
            parts.into_iter().enumerate().map(info).collect()
        })
    }

    /// What the policies mean, said as plainly as possible: sort everything, take the first.
    fn naive(policy: Policy, segments: &[SegmentInfo], now: Seq) -> Option<SegmentId> {
        let mut worth: Vec<SegmentInfo> = segments.iter().copied().filter(|s| s.live < s.capacity).collect();
        let age = |s: &SegmentInfo| now.saturating_sub(s.written_at);
        match policy {
            Policy::AgeThreshold => {
                let oldest = worth.iter().map(age).max().unwrap_or(0);
                worth.retain(|s| 2 * age(s) >= oldest);
            }
            Policy::WindowedGreedy => {
                worth.sort_by_key(|s| (s.written_at, s.id));
                worth.truncate(WindowedGreedy::window(worth.len()));
            }
            Policy::DChoices => {
                worth.sort_by_key(|s| (age::lot(s.id, now), s.id));
                worth.truncate(age::CHOICES);
            }
            Policy::Greedy | Policy::CostBenefit | Policy::CostBenefitRoot | Policy::DecliningCost | Policy::Fifo => {}
        }
        worth.sort_by(|a, b| {
            // Compared as exact fractions.
            let order = match policy {
                Policy::Greedy | Policy::AgeThreshold | Policy::WindowedGreedy | Policy::DChoices => {
                    (u128::from(a.live) * u128::from(b.capacity)).cmp(&(u128::from(b.live) * u128::from(a.capacity)))
                }
                Policy::Fifo => a.written_at.cmp(&b.written_at).then(a.id.cmp(&b.id)),
                Policy::CostBenefitRoot => {
                    // Compared as squares, which fit for segments of this size.
                    let top = |s: &SegmentInfo| u128::from(s.capacity - s.live).pow(2) * u128::from(age(s));
                    let bottom = |s: &SegmentInfo| u128::from(s.live).pow(2);
                    let empty = |s: &SegmentInfo| s.live == 0;
                    empty(b).cmp(&empty(a)).then((top(b) * bottom(a)).cmp(&(top(a) * bottom(b))))
                }
                Policy::DecliningCost => {
                    let top = |s: &SegmentInfo| u128::from(s.capacity - s.live).pow(2) * u128::from((2 * s.expected + age(s)).max(1));
                    let bottom = |s: &SegmentInfo| u128::from(s.live) * u128::from(s.capacity);
                    let empty = |s: &SegmentInfo| s.live == 0;
                    empty(b).cmp(&empty(a)).then((top(b) * bottom(a)).cmp(&(top(a) * bottom(b))))
                }
                Policy::CostBenefit => {
                    let top = |s: &SegmentInfo| u128::from(s.capacity - s.live) * u128::from(now.saturating_sub(s.written_at));
                    let bottom = |s: &SegmentInfo| u128::from(s.capacity + s.live);
                    (top(b) * bottom(a)).cmp(&(top(a) * bottom(b)))
                }
            };
            let live = (u128::from(a.live) * u128::from(b.capacity)).cmp(&(u128::from(b.live) * u128::from(a.capacity)));
            order.then(live).then(a.written_at.cmp(&b.written_at)).then(a.id.cmp(&b.id))
        });
        worth.first().map(|s| s.id)
    }

    proptest! {
        #[test]
        fn policies_agree_with_the_naive_oracle(segments in segments(), now in 0u64..2000) {
            for policy in Policy::ALL {
                prop_assert_eq!(policy.build().choose(&segments, now), naive(policy, &segments, now));
            }
        }
    }

    #[test]
    fn names_parse_and_print() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(policy.build().name(), policy.name());
            assert_eq!(serde_json::to_string(&policy).expect("a string"), format!("\"{policy}\""));
        }
        assert_eq!("default".parse(), Ok(Policy::DecliningCost));
        let error = "best".parse::<Policy>().expect_err("not a policy");
        assert_eq!(
            error.to_string(),
            "no cleaning policy is called \"best\": choose one of default, greedy, cost-benefit, cost-benefit-root, declining-cost, age-threshold, windowed-greedy, d-choices, fifo"
        );
    }

    #[test]
    fn a_segment_without_dead_blocks_is_never_chosen() {
        let id = SegmentId { device: DeviceId(0), zone: ZoneId(1) };
        let full = SegmentInfo { id, stream: Stream::User, live: 8, capacity: 8, written_at: 0, expected: 0 };
        for policy in Policy::ALL {
            assert_eq!(policy.build().choose(&[full], 100), None);
        }
    }
}
