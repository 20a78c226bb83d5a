//! Pictures of `ferryfs-bench gc`: latency over time with the cleaner's work under it, the zones before and after, the traffic by road.

use super::figures::Side;
use super::stage::{Look, Played};
use super::workload::Point;
use crate::pauses::at_share;
use crate::picture::{Group, bars, escape};
use harness::bytes::MIB;
use std::fmt::Write as _;
use std::time::Duration;

/// Pixels: of a diagram without its margins, and of the margins.
const WIDTH: f64 = 900.0;
const TOP: f64 = 60.0;
const LEFT: f64 = 80.0;
/// Slices of time.
const SLICES: usize = 200;
/// Colours of p50, p99 and longest.
const COLOURS: [&str; 3] = ["#4e79a7", "#f28e2b", "#e15759"];

/// Slices of a load: when, p50, p99 and the longest write in microseconds.
fn slices(writes: &[Point], seconds: f64) -> Vec<(f64, [f64; 3])> {
    let mut parts: Vec<Vec<Duration>> = vec![Vec::new(); SLICES];
    for point in writes {
        let slice = (point.at.as_secs_f64() / seconds.max(1e-9) * SLICES as f64) as usize;
        parts[slice.min(SLICES - 1)].push(point.took);
    }
    let one = |(slice, mut times): (usize, Vec<Duration>)| {
        times.sort_unstable();
        let at = (slice as f64 + 0.5) / SLICES as f64 * seconds;
        (!times.is_empty()).then(|| (at, [0.5, 0.99, 1.0].map(|share| at_share(&times, share))))
    };
    parts.into_iter().enumerate().filter_map(one).collect()
}

fn open(title: &str, height: f64) -> String {
    let width = LEFT + WIDTH + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    let _ = writeln!(
        svg,
        r##"<rect width="100%" height="100%" fill="#ffffff"/><text x="{LEFT}" y="25" font-size="15">{}</text>"##,
        escape(title)
    );
    svg
}

/// Latency of writes over time, on a logarithmic scale; under it what the cleaner moved and how many zones were empty.
pub fn latency(title: &str, played: &Played) -> String {
    const UPPER: f64 = 260.0;
    const LOWER: f64 = 120.0;
    let seconds = played.measured.seconds.max(1e-9);
    let slices = slices(&played.measured.writes, seconds);
    let all = || slices.iter().flat_map(|(_, values)| *values).filter(|value| value.is_finite() && *value > 0.0);
    let low = all().fold(f64::INFINITY, f64::min).clamp(0.1, 1e9).log10().floor();
    let high = all().fold(0.0, f64::max).clamp(1.0, 1e12).log10().ceil().max(low + 1.0);
    let x = |at: f64| LEFT + (at / seconds).clamp(0.0, 1.0) * WIDTH;
    let y = |us: f64| TOP + UPPER * (1.0 - ((us.max(0.1).log10() - low) / (high - low)).clamp(0.0, 1.0));
    let mut svg = open(title, TOP + UPPER + LOWER + 100.0);
    for power in low as i32..=high as i32 {
        let at = y(10f64.powi(power));
        let _ = writeln!(svg, r##"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}" stroke="#dddddd"/>"##, LEFT + WIDTH);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{} us</text>"#, LEFT - 6.0, at + 4.0, 10f64.powi(power));
    }
    for (part, (name, colour)) in ["p50", "p99", "longest"].into_iter().zip(COLOURS).enumerate() {
        let line: Vec<String> = slices.iter().map(|(at, values)| format!("{:.1},{:.1}", x(*at), y(values[part]))).collect();
        let _ = writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.2"/>"#, line.join(" "));
        let at = LEFT + 90.0 * part as f64;
        let _ = writeln!(svg, r#"<text x="{at:.1}" y="45" fill="{colour}">{name}</text>"#);
    }
    svg += &activity(&played.looks, TOP + UPPER + 30.0, LOWER, &x);
    let bottom = TOP + UPPER + LOWER + 55.0;
    for tick in 0..=10 {
        let at = seconds * f64::from(tick) / 10.0;
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{bottom:.1}" text-anchor="middle">{at:.1} s</text>"#, x(at));
    }
    svg + "</svg>\n"
}

/// What was moved in each interval as bars, and empty zones as a line.
fn activity(looks: &[Look], top: f64, height: f64, x: &impl Fn(f64) -> f64) -> String {
    let speed = |pair: &[Look]| (pair[1].relocated - pair[0].relocated) as f64 / MIB as f64 / (pair[1].at - pair[0].at).max(1e-3);
    let most = looks.windows(2).map(speed).fold(1.0, f64::max);
    let zones = looks.iter().map(|look| look.empty_zones).max().unwrap_or(0).max(1) as f64;
    let mut svg = String::new();
    for pair in looks.windows(2) {
        let tall = speed(pair) / most * height;
        let (from, to) = (x(pair[0].at), x(pair[1].at));
        let _ = writeln!(
            svg,
            r##"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" fill="#bab0ac"/>"##,
            top + height - tall,
            (to - from).max(0.5)
        );
    }
    let line: Vec<String> =
        looks.iter().map(|look| format!("{:.1},{:.1}", x(look.at), top + height * (1.0 - look.empty_zones as f64 / zones))).collect();
    let _ = writeln!(svg, r##"<polyline points="{}" fill="none" stroke="#59a14f" stroke-width="1.2"/>"##, line.join(" "));
    let _ = writeln!(
        svg,
        r#"<text x="{LEFT}" y="{:.1}">moved by the cleaner, at most {most:.0} MiB/s (grey); empty zones, at most {zones:.0} (green)</text>"#,
        top - 6.0
    );
    svg
}

/// Zones as squares, before and after: the fuller of live blocks the darker; empty ones are white, metadata is outlined.
pub fn zones(title: &str, before: &serde_json::Value, after: &serde_json::Value) -> String {
    const CELL: f64 = 14.0;
    let columns = (WIDTH / 2.0 / CELL) as usize - 2;
    let count = |zones: &serde_json::Value| zones.as_array().map_or(0, Vec::len);
    let rows = count(before).max(count(after)).div_ceil(columns);
    let mut svg = open(title, TOP + 30.0 + rows as f64 * CELL + 30.0);
    for (side, (name, zones)) in [("before", before), ("after", after)].into_iter().enumerate() {
        let left = LEFT / 2.0 + side as f64 * (columns as f64 + 2.0) * CELL;
        let _ = writeln!(svg, r#"<text x="{left:.1}" y="{:.1}">{name}</text>"#, TOP - 6.0);
        for (at, zone) in zones.as_array().into_iter().flatten().enumerate() {
            let (column, row) = ((at % columns) as f64, (at / columns) as f64);
            let (state, role) = (zone["state"].as_str().unwrap_or("?"), zone["role"].as_str().unwrap_or("?"));
            let live = zone["live_share"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0);
            let fill = match state {
                "empty" => "#ffffff".to_owned(),
                // From a pale blue to a dark one.
                _ => format!("rgb({:.0},{:.0},{:.0})", 225.0 - 185.0 * live, 235.0 - 165.0 * live, 245.0 - 115.0 * live),
            };
            let stroke = match (state, role) {
                ("open", _) => "#e15759",
                (_, "user" | "data") => "#bbbbbb",
                ("empty", _) => "#dddddd",
                _ => "#888888",
            };
            let _ = writeln!(
                svg,
                r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{fill}" stroke="{stroke}"><title>zone {at}: {}, {}, {:.0} % live</title></rect>"#,
                left + column * CELL,
                TOP + row * CELL,
                CELL - 2.0,
                CELL - 2.0,
                escape(state),
                escape(role),
                live * 100.0
            );
        }
    }
    svg + "</svg>\n"
}

/// Bytes over the link for each byte of users, by purpose and road.
pub fn traffic(title: &str, sides: &[Side]) -> String {
    const PURPOSES: [(&str, &str); 7] = [
        ("user_written", "users' data"),
        ("relocation_read", "relocation, read"),
        ("relocation_written", "relocation, written"),
        ("user_metadata_read", "metadata of users, read"),
        ("user_metadata_written", "metadata of users, written"),
        ("cleaning_metadata_read", "metadata of cleaning, read"),
        ("cleaning_metadata_written", "metadata of cleaning, written"),
    ];
    let group = |(key, name): (&str, &str)| {
        let bar = |side: &Side| {
            let (bytes, user) = (side.median(key)?, side.median("user_written").filter(|user| *user > 0.0)?);
            Some((side.name.clone(), bytes / user, 0.0))
        };
        Group { name: name.to_owned(), bars: sides.iter().filter_map(bar).collect(), marks: Vec::new() }
    };
    bars(title, &PURPOSES.map(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleaning::workload::Measured;
    use harness::Status;
    use serde_json::json;

    fn played(writes: usize) -> Played {
        let point = |n: usize| Point { at: Duration::from_millis(n as u64), took: Duration::from_micros(10 + n as u64) };
        let measured = Measured { bytes: 1, seconds: 1.0, writes: (0..writes).map(point).collect(), fsyncs: Vec::new() };
        let looks = (0..10).map(|n| Look { at: f64::from(n) / 10.0, relocated: u64::from(n as u32) * MIB, empty_zones: 3 }).collect();
        Played { run: Default::default(), measured, looks, zones: [json!([]), json!([])], status: Status(json!({})) }
    }

    #[test]
    fn pictures_are_whole_and_have_no_number_that_is_none() {
        let zone =
            json!([{ "state": "full", "role": "<user>", "live_share": 0.5 }, { "state": "empty", "role": "data", "live_share": 0.0 }]);
        let side = Side::of("offload", &[[("user_written", 10.0), ("relocation_read", 5.0)].into()]);
        let all = [latency("a & b", &played(1000)), latency("none", &played(0)), zones("z", &zone, &zone), traffic("t", &[side])];
        for svg in &all {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(all[0].contains("a &amp; b") && all[0].matches("<polyline").count() == 4);
        assert_eq!(all[2].matches("<title>").count(), 4);
        assert!(all[2].contains("&lt;user&gt;") && all[3].contains("relocation, read"));
    }

    #[test]
    fn slices_are_the_writes_that_began_in_them() {
        let slices = slices(&played(1000).measured.writes, 1.0);
        assert_eq!(slices.len(), SLICES);
        assert_eq!((slices[0].1[2].round(), slices[199].1[2].round()), (14.0, 1009.0));
    }
}
