//! What write amplification can be, by formula: greedy cleaning of uniform overwrites, and the best division of the spare space between classes of blocks
//! whose rates are known.
//!
//! Both are limits for many large segments, with nothing charged for those that are open.

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

/// How fast [`analytic_greedy`] falls with a = 1/u.
fn slope(a: f64) -> f64 {
    let y = 1.0 / analytic_greedy(1.0 / a);
    (1.0 - y) / (y * (1.0 - a * (1.0 - y)))
}

/// Blocks that are written equally often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateClass {
    /// Their share of the live blocks.
    pub size: f64,
    /// Their share of the writes.
    pub traffic: f64,
}

/// Cuts a list that is sorted by rate into at most so many classes, such that the sum of sqrt(size * traffic) over the classes is least: with the spare
/// space divided in proportion to that root, its square is what the write amplification is in proportion to. Returns the first index of each class but the
/// first, and that sum for 1, 2 .. `classes` classes.
pub fn partition(bins: &[RateClass], classes: usize) -> Vec<(Vec<usize>, f64)> {
    let sums: Vec<RateClass> = std::iter::once(RateClass { size: 0.0, traffic: 0.0 })
        .chain(bins.iter().scan(RateClass { size: 0.0, traffic: 0.0 }, |sum, bin| {
            *sum = RateClass { size: sum.size + bin.size, traffic: sum.traffic + bin.traffic };
            Some(*sum)
        }))
        .collect();
    let cost = |from: usize, to: usize| ((sums[to].size - sums[from].size) * (sums[to].traffic - sums[from].traffic)).max(0.0).sqrt();
    let n = bins.len();
    // best[to]: the least sum for the first `to` bins; cuts[k][to]: where its last class begins.
    let mut best: Vec<f64> = (0..=n).map(|to| cost(0, to)).collect();
    let mut cuts: Vec<Vec<usize>> = vec![vec![0; n + 1]];
    let mut found = vec![(Vec::new(), best[n])];
    for k in 1..classes {
        let mut next = best.clone();
        let mut cut = vec![0; n + 1];
        for to in 1..=n {
            next[to] = f64::INFINITY;
            for (from, before) in best.iter().enumerate().take(to) {
                let sum = before + cost(from, to);
                if sum < next[to] {
                    (next[to], cut[to]) = (sum, from);
                }
            }
        }
        cuts.push(cut);
        best = next;
        let mut bounds = Vec::new();
        let mut to = n;
        for cut in cuts[1..=k].iter().rev() {
            to = cut[to];
            bounds.push(to);
        }
        bounds.retain(|bound| *bound > 0);
        bounds.reverse();
        bounds.dedup();
        found.push((bounds, best[n]));
    }
    found
}

/// The least write amplification at live share `u` when blocks are kept apart by their known rates, each class with the share of the spare space that is
/// best for all.
pub fn known_rates(classes: &[RateClass], u: f64) -> f64 {
    if u >= 1.0 {
        return f64::INFINITY;
    }
    let classes: Vec<RateClass> = classes.iter().copied().filter(|class| class.size > 0.0).collect();
    // A class gains traffic * slope(a) / size from more space; where all gain the same, no exchange helps. A class without traffic needs none.
    let space_of = |class: &RateClass, gain: f64| {
        let (mut low, mut high) = (1.0 + 1e-6, 1e4);
        if class.traffic * slope(low) < gain * class.size {
            return low;
        }
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if class.traffic * slope(middle) > gain * class.size { low = middle } else { high = middle }
        }
        low
    };
    let total = |gain: f64| classes.iter().map(|class| class.size * space_of(class, gain)).sum::<f64>();
    let (mut low, mut high) = (-40.0f64, 40.0f64);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if total(middle.exp()) > 1.0 / u { low = middle } else { high = middle }
    }
    let gain = high.exp();
    classes.iter().map(|class| class.traffic * analytic_greedy(1.0 / space_of(class, gain))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_analytic_curve_has_the_published_values() {
        for (u, wa) in [(0.70, 1.88), (0.75, 2.20), (0.80, 2.69), (0.85, 3.52), (0.90, 5.18), (0.931, 7.45), (0.95, 10.2)] {
            let found = analytic_greedy(u);
            assert!((found - wa).abs() / wa < 0.005, "u {u}: {found} instead of {wa}");
        }
    }

    #[test]
    fn hot_and_cold_have_the_known_optimum() {
        for (traffic, size, wa) in [(0.8, 0.2, 2.52), (0.9, 0.1, 1.76), (0.95, 0.05, 1.33)] {
            let classes = [RateClass { size, traffic }, RateClass { size: 1.0 - size, traffic: 1.0 - traffic }];
            let found = known_rates(&classes, 0.85);
            assert!((found - wa).abs() / wa < 0.01, "{traffic}/{size}: {found} instead of {wa}");
        }
        let alike = [RateClass { size: 0.5, traffic: 0.5 }; 2];
        assert!((known_rates(&alike, 0.85) - analytic_greedy(0.85)).abs() < 0.01);
    }

    #[test]
    fn a_partition_is_the_best_of_all() {
        let bins: Vec<RateClass> =
            [(0.1, 0.5), (0.1, 0.3), (0.3, 0.1), (0.2, 0.07), (0.3, 0.03)].map(|(size, traffic)| RateClass { size, traffic }).to_vec();
        let cost = |bounds: &[usize]| {
            let ends: Vec<usize> = bounds.iter().copied().chain([bins.len()]).collect();
            let mut from = 0;
            let mut sum = 0.0;
            for to in ends {
                let of = |f: fn(&RateClass) -> f64| bins[from..to].iter().map(f).sum::<f64>();
                sum += (of(|b| b.size) * of(|b| b.traffic)).sqrt();
                from = to;
            }
            sum
        };
        let found = partition(&bins, 3);
        assert_eq!(found[0].0, Vec::<usize>::new());
        for (bounds, sum) in &found {
            assert!((cost(bounds) - sum).abs() < 1e-9);
        }
        let best = (1..5).flat_map(|a| (a + 1..5).map(move |b| [a, b])).map(|bounds| cost(&bounds)).fold(f64::INFINITY, f64::min);
        assert!((found[2].1 - best).abs() < 1e-9);
    }
}
