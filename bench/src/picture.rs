//! Bar charts as SVG, without a library: groups of bars with marks for what is possible.

use std::fmt::Write as _;

/// Bars that belong together.
pub struct Group {
    pub name: String,
    /// Name, height, half of the interval.
    pub bars: Vec<(String, f64, f64)>,
    /// Name and height of lines across the group.
    pub marks: Vec<(String, f64)>,
}

/// Of series, in their order.
pub const COLOURS: [&str; 10] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac"];
const MARKS: [&str; 2] = ["#222222", "#888888"];
/// Pixels: width of a bar, height of the tallest, room above and to the left.
const BAR: f64 = 22.0;
const HEIGHT: f64 = 300.0;
const TOP: f64 = 50.0;
const LEFT: f64 = 60.0;

/// Text as XML has it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Names in the order in which they first appear.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Draws groups of bars from zero up.
pub fn bars(title: &str, groups: &[Group]) -> String {
    let names = distinct(groups.iter().flat_map(|group| group.bars.iter().map(|(name, _, _)| name.as_str())));
    let marks = distinct(groups.iter().flat_map(|group| group.marks.iter().map(|(name, _)| name.as_str())));
    let heights = groups.iter().flat_map(|group| group.bars.iter().map(|(_, height, spread)| height + spread));
    let top = heights.filter(|height| height.is_finite()).fold(1.0, f64::max) * 1.05;
    let y = |value: f64| TOP + HEIGHT * (1.0 - if value.is_finite() { value / top } else { 1.0 });
    let width = LEFT + groups.iter().map(|group| (group.bars.len() as f64 + 1.5) * BAR).sum::<f64>().max(8.0 * BAR) + 300.0;
    let height = TOP + HEIGHT + 150.0;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="12">"#
    );
    let _ = writeln!(
        svg,
        r##"<rect width="100%" height="100%" fill="#ffffff"/><text x="{LEFT}" y="25" font-size="15">{}</text>"##,
        escape(title)
    );
    let step = (top / 6.0).ceil().max(1.0);
    for line in 0..=(top / step) as u32 {
        let (value, at) = (f64::from(line) * step, y(f64::from(line) * step));
        let _ = writeln!(svg, r##"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}" stroke="#dddddd"/>"##, width - 290.0);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{value}</text>"#, LEFT - 6.0, at + 4.0);
    }
    let mut x = LEFT + BAR / 2.0;
    for group in groups {
        let begin = x;
        for (name, value, spread) in &group.bars {
            let colour = COLOURS[names.iter().position(|known| known == name).unwrap_or(0) % COLOURS.len()];
            let (at, middle) = (y(*value), x + BAR / 2.0);
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{at:.1}" width="{:.1}" height="{:.1}" fill="{colour}"><title>{}: {value:.3}</title></rect>"#,
                BAR - 3.0,
                TOP + HEIGHT - at,
                escape(name)
            );
            if *spread > 0.0 {
                let (low, high) = (y(value - spread), y(value + spread));
                let _ = writeln!(svg, r##"<line x1="{middle:.1}" x2="{middle:.1}" y1="{low:.1}" y2="{high:.1}" stroke="#000000"/>"##);
            }
            x += BAR;
        }
        for (name, value) in &group.marks {
            let colour = MARKS[marks.iter().position(|known| known == name).unwrap_or(0) % MARKS.len()];
            let at = y(*value);
            let _ = writeln!(
                svg,
                r#"<line x1="{begin:.1}" x2="{x:.1}" y1="{at:.1}" y2="{at:.1}" stroke="{colour}" stroke-width="2" stroke-dasharray="5 3"><title>{}: {value:.3}</title></line>"#,
                escape(name)
            );
        }
        let (middle, below) = ((begin + x) / 2.0, TOP + HEIGHT + 15.0);
        let name = escape(&group.name);
        let _ = writeln!(
            svg,
            r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="end" transform="rotate(-35 {middle:.1} {below:.1})">{name}</text>"#
        );
        x += BAR * 1.5;
    }
    let colours = names.iter().enumerate().map(|(at, name)| (*name, COLOURS[at % COLOURS.len()]));
    for (row, (name, colour)) in colours.chain(marks.iter().enumerate().map(|(at, name)| (*name, MARKS[at % MARKS.len()]))).enumerate() {
        let (x, y) = (width - 280.0, TOP + 18.0 * row as f64);
        let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="12" height="12" fill="{colour}"/>"#);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, x + 18.0, y + 11.0, escape(name));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_every_bar_is_there() {
        let group = Group {
            name: "a<b>&\"".into(),
            bars: vec![("one".into(), 2.0, 0.1), ("two".into(), f64::NAN, 0.0)],
            marks: vec![("best".into(), 1.0)],
        };
        let svg = bars("t", &[group]);
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;") && !svg.contains("a<b>"));
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(!svg.contains("=\"NaN"));
        assert!(bars("nothing", &[]).ends_with("</svg>\n"));
    }
}
