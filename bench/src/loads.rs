//! Loads of the simulator: which block is written or deleted next.

use crate::traces::Format;
use gc::theory::RateClass;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::str::FromStr;

/// How blocks are chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    Uniform,
    Zipf(f64),
    /// Zipf, where the hottest fifth is permuted whenever a hundredth of the working set has been written.
    Drift(f64),
    HotCold {
        traffic: f64,
        space: f64,
    },
    /// Sequential runs over all blocks, mixed with uniform writes: the share of the latter.
    Mixed(f64),
    /// Uniform writes where such a share of the operations deletes a run of blocks instead.
    Trim(f64),
    Trace {
        format: Format,
        path: PathBuf,
    },
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| -> Result<f64, String> {
            let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
            if number.is_finite() && number >= 0.0 { Ok(number) } else { Err(format!("{number} is out of range")) }
        };
        let percent = |text: &str| -> Result<f64, String> {
            let percent = number(text)?;
            if percent > 0.0 && percent < 100.0 { Ok(percent / 100.0) } else { Err(format!("{percent} is not a share of 100")) }
        };
        match kind {
            "uniform" if rest.is_empty() => Ok(Load::Uniform),
            "zipf" => Ok(Load::Zipf(number(rest)?)),
            "drift" => Ok(Load::Drift(number(rest)?)),
            "mixed" => Ok(Load::Mixed(percent(rest)?)),
            "trim" => Ok(Load::Trim(percent(rest)?)),
            "hotcold" => {
                let (traffic, space) = rest.split_once('/').ok_or("hotcold takes TRAFFIC/SPACE, as in hotcold:90/10")?;
                Ok(Load::HotCold { traffic: percent(traffic)?, space: percent(space)? })
            }
            "trace" => {
                // A name may hold colons: only a known format before the first one counts.
                let (format, path) = match rest.split_once(':').map(|(format, path)| (format.parse::<Format>(), path)) {
                    Some((Ok(format), path)) => (format, path),
                    _ => (Format::Guess, rest),
                };
                if path.is_empty() {
                    return Err("trace takes a file, as in trace:FILE or trace:msr:FILE".into());
                }
                Ok(Load::Trace { format, path: path.into() })
            }
            _ => Err(format!(
                "no load `{text}`: uniform, zipf:ALPHA, drift:ALPHA, hotcold:TRAFFIC/SPACE, mixed:RANDOM, trim:SHARE or trace:[FORMAT:]FILE"
            )),
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Load::Uniform => write!(f, "uniform"),
            Load::Zipf(alpha) => write!(f, "zipf:{alpha}"),
            Load::Drift(alpha) => write!(f, "drift:{alpha}"),
            Load::HotCold { traffic, space } => write!(f, "hotcold:{}/{}", traffic * 100.0, space * 100.0),
            Load::Mixed(random) => write!(f, "mixed:{}", random * 100.0),
            Load::Trim(share) => write!(f, "trim:{}", share * 100.0),
            Load::Trace { format: Format::Guess, path } => write!(f, "trace:{}", path.display()),
            Load::Trace { format, path } => write!(f, "trace:{format}:{}", path.display()),
        }
    }
}

impl Load {
    /// Size and traffic of blocks by rate, hottest first, where they are known and constant: what the optimum with known rates is computed from.
    pub fn rates(&self, blocks: u32) -> Option<Vec<RateClass>> {
        match self {
            Load::Uniform => Some(vec![RateClass { size: 1.0, traffic: 1.0 }]),
            Load::HotCold { traffic, space } => {
                Some(vec![RateClass { size: *space, traffic: *traffic }, RateClass { size: 1.0 - space, traffic: 1.0 - traffic }])
            }
            Load::Zipf(alpha) => {
                // Ranks in ranges that grow by an eighth.
                let weight = |rank: u32| f64::from(rank + 1).powf(-alpha);
                let total: f64 = (0..blocks).map(weight).sum();
                let mut classes = Vec::new();
                let mut from = 0u32;
                while from < blocks {
                    let to = (from + 1 + from / 8).min(blocks);
                    let traffic = (from..to).map(weight).sum::<f64>() / total;
                    classes.push(RateClass { size: f64::from(to - from) / f64::from(blocks), traffic });
                    from = to;
                }
                Some(classes)
            }
            _ => None,
        }
    }
}

/// Something that a user does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Write(u32),
    Trim(u32),
}

/// Walker's alias table: draws ranks with given weights in constant time.
struct Alias {
    keep: Vec<f32>,
    other: Vec<u32>,
}

impl Alias {
    fn zipf(ranks: u32, alpha: f64) -> Alias {
        let weights: Vec<f64> = (0..ranks).map(|rank| f64::from(rank + 1).powf(-alpha)).collect();
        let scale = f64::from(ranks) / weights.iter().sum::<f64>();
        let mut left: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..ranks).partition(|rank| left[*rank as usize] < 1.0);
        let mut table = Alias { keep: vec![1.0; ranks as usize], other: (0..ranks).collect() };
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            table.keep[poor as usize] = left[poor as usize] as f32;
            table.other[poor as usize] = rich;
            left[rich as usize] -= 1.0 - left[poor as usize];
            if left[rich as usize] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        table
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> u32 {
        let rank = rng.random_range(0..self.keep.len() as u32);
        if rng.random::<f32>() < self.keep[rank as usize] { rank } else { self.other[rank as usize] }
    }
}

/// Blocks in a sequential run, and in a run that is deleted.
const RUN: u32 = 256;

/// Draws blocks.
pub struct Source {
    rng: ChaCha8Rng,
    load: Load,
    blocks: u32,
    /// Empty unless Zipf.
    alias: Alias,
    /// Which block has which rank.
    ranked: Vec<u32>,
    drawn: u64,
    /// What is left of a run: from, to, and whether it deletes.
    run: (u32, u32, bool),
    cursor: u32,
}

impl Source {
    /// Of a synthetic load. A trace is not drawn: [`crate::traces`].
    pub fn new(load: &Load, blocks: u32, seed: u64) -> Source {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ranked: Vec<u32> = (0..blocks).collect();
        shuffle(&mut ranked, &mut rng);
        let alias = match load {
            Load::Zipf(alpha) | Load::Drift(alpha) => Alias::zipf(blocks, *alpha),
            _ => Alias { keep: Vec::new(), other: Vec::new() },
        };
        Source { rng, load: load.clone(), blocks, alias, ranked, drawn: 0, run: (0, 0, false), cursor: 0 }
    }

    pub fn next(&mut self) -> Operation {
        self.drawn += 1;
        Operation::Write(match self.load {
            Load::Uniform | Load::Trace { .. } => self.rng.random_range(0..self.blocks),
            Load::Zipf(_) => self.ranked[self.alias.draw(&mut self.rng) as usize],
            Load::Drift(_) => {
                if self.drawn.is_multiple_of(u64::from(self.blocks / 100).max(1)) {
                    let hot = self.ranked.len() / 5;
                    shuffle(&mut self.ranked[..hot], &mut self.rng);
                }
                self.ranked[self.alias.draw(&mut self.rng) as usize]
            }
            Load::HotCold { traffic, space } => {
                let hot = ((f64::from(self.blocks) * space) as u32).clamp(1, self.blocks - 1);
                let rank = match self.rng.random_bool(traffic) {
                    true => self.rng.random_range(0..hot),
                    false => self.rng.random_range(hot..self.blocks),
                };
                self.ranked[rank as usize]
            }
            Load::Mixed(random) => return self.mixed(random),
            Load::Trim(share) => return self.trimming(share),
        })
    }

    /// Runs follow one another over all blocks; after each block of a run, uniform writes in proportion.
    fn mixed(&mut self, random: f64) -> Operation {
        if self.rng.random_bool(random) {
            return Operation::Write(self.rng.random_range(0..self.blocks));
        }
        let at = self.cursor;
        self.cursor = (at + 1) % self.blocks;
        Operation::Write(at)
    }

    /// Runs are deleted so often that such a share of the operations are deletions.
    fn trimming(&mut self, share: f64) -> Operation {
        let (from, to, deleting) = self.run;
        if from < to && deleting {
            self.run.0 += 1;
            return Operation::Trim(from);
        }
        let run = RUN.min(self.blocks);
        if self.rng.random_bool(share / (share + f64::from(run) * (1.0 - share))) {
            let from = self.rng.random_range(0..=self.blocks - run);
            self.run = (from + 1, from + run, true);
            return Operation::Trim(from);
        }
        Operation::Write(self.rng.random_range(0..self.blocks))
    }
}

fn shuffle(list: &mut [u32], rng: &mut ChaCha8Rng) {
    for at in (1..list.len()).rev() {
        list.swap(at, rng.random_range(0..=at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_parsed_and_named() {
        for text in ["uniform", "zipf:0.8", "drift:1", "hotcold:90/10", "mixed:30", "trim:5", "trace:a:b.csv", "trace:msr:x"] {
            assert_eq!(text.parse::<Load>().unwrap().to_string(), text);
        }
        for text in
            ["", "zipf:", "zipf:x", "hotcold:90", "hotcold:0/10", "uniform:1", "trace:", "trace:msr:", "mixed:0", "trim:100", "other"]
        {
            assert!(text.parse::<Load>().is_err(), "{text}");
        }
    }

    #[test]
    fn sources_draw_every_block_with_its_weight() {
        for (load, hottest) in [(Load::Uniform, 0.01), (Load::Zipf(1.0), 0.19), (Load::HotCold { traffic: 0.9, space: 0.1 }, 0.09)] {
            let mut source = Source::new(&load, 100, 1);
            let mut counts = [0u32; 100];
            for _ in 0..100_000 {
                let Operation::Write(block) = source.next() else { panic!("nothing is deleted") };
                counts[block as usize] += 1;
            }
            let most = f64::from(*counts.iter().max().unwrap()) / 100_000.0;
            assert!(counts.iter().all(|count| *count > 0) && (most - hottest).abs() < 0.01, "{load}: {most}");
            let rates = load.rates(100).unwrap();
            let sum = |of: fn(&RateClass) -> f64| rates.iter().map(of).sum::<f64>();
            assert!((sum(|c| c.size) - 1.0).abs() < 1e-9 && (sum(|c| c.traffic) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn mixtures_have_the_shares_they_name() {
        let mut source = Source::new(&Load::Trim(0.2), 4096, 1);
        let trims = (0..400_000).filter(|_| matches!(source.next(), Operation::Trim(_))).count() as f64 / 400_000.0;
        assert!((trims - 0.2).abs() < 0.03, "{trims}");
        let mut source = Source::new(&Load::Mixed(0.3), 1 << 20, 1);
        let mut last = 0;
        let mut following = 0;
        for _ in 0..100_000 {
            let Operation::Write(block) = source.next() else { panic!("nothing is deleted") };
            following += u32::from(block == last);
            last = block + 1;
        }
        // A block of the run follows another one directly if no uniform write comes between.
        assert!((f64::from(following) / 100_000.0 - 0.49).abs() < 0.02, "{following}");
    }
}
