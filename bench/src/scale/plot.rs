//! Costs against size, both on logarithmic scales.

use crate::picture::{COLOURS, escape};
use serde::Serialize;
use std::fmt::Write as _;

/// Pixels: of the diagram, and left of it and above it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 50.0;

/// One cost.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Of what.
    pub name: String,
    /// Sizes, and seconds there.
    pub points: Vec<(f64, f64)>,
}

/// The costs of one part.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// Of the part, in names of files.
    pub name: &'static str,
    /// What there are more of from left to right.
    pub axis: &'static str,
    /// Costs.
    pub curves: Vec<Curve>,
}

/// Powers of ten that hold all of `values`.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    if !low.is_finite() {
        return (0, 1);
    }
    let low = low.log10().floor() as i32;
    (low, (high.log10().ceil() as i32).max(low + 1))
}

fn time(power: i32) -> String {
    let (unit, below) = match power {
        ..-6 => ("ns", -9),
        -6..-3 => ("us", -6),
        -3..0 => ("ms", -3),
        _ => ("s", 0),
    };
    format!("{} {unit}", 10f64.powi(power - below))
}

impl Plot {
    /// As SVG.
    pub fn picture(&self) -> String {
        let shown = |curve: &Curve| -> Vec<(f64, f64)> {
            let is_shown = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0 && point.0.is_finite() && point.1.is_finite();
            curve.points.iter().filter(is_shown).copied().collect()
        };
        let all: Vec<(f64, f64)> = self.curves.iter().flat_map(shown).collect();
        let (left, right) = decades(all.iter().map(|point| point.0));
        let (bottom, top) = decades(all.iter().map(|point| point.1));
        let x = |size: f64| LEFT + WIDTH * (size.log10() - f64::from(left)) / f64::from(right - left);
        let y = |seconds: f64| TOP + HEIGHT * (1.0 - (seconds.log10() - f64::from(bottom)) / f64::from(top - bottom));
        let (width, height) = (LEFT + WIDTH + 300.0, TOP + HEIGHT + 60.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        );
        let title = escape(&format!("Costs against the number of {}", self.axis));
        let _ =
            writeln!(svg, r##"<rect width="100%" height="100%" fill="#ffffff"/><text x="{LEFT}" y="25" font-size="15">{title}</text>"##);
        for power in bottom..=top {
            let at = y(10f64.powi(power));
            let _ = writeln!(svg, r##"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}" stroke="#dddddd"/>"##, LEFT + WIDTH);
            let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, LEFT - 6.0, at + 4.0, time(power));
        }
        for power in left..=right {
            let (at, below) = (x(10f64.powi(power)), TOP + HEIGHT);
            let _ = writeln!(svg, r##"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{below:.1}" stroke="#dddddd"/>"##);
            let _ = writeln!(svg, r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#, below + 18.0, 10f64.powi(power));
        }
        for (number, curve) in self.curves.iter().enumerate() {
            let (colour, name) = (COLOURS[number % COLOURS.len()], escape(&curve.name));
            let points: Vec<(f64, f64)> = shown(curve).into_iter().map(|(size, seconds)| (x(size), y(seconds))).collect();
            let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#, line.join(" "));
            for ((x, y), (size, seconds)) in points.iter().zip(shown(curve)) {
                let _ = writeln!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5" fill="{colour}"><title>{name}: {seconds:.3e} s at {size}</title></circle>"#
                );
            }
            let (x, y) = (LEFT + WIDTH + 20.0, TOP + 18.0 * number as f64);
            let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="12" height="12" fill="{colour}"/>"#);
            let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}">{name}</text>"#, x + 18.0, y + 11.0);
        }
        svg + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_show_every_point_that_has_a_place() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve { name: name.into(), points: points.to_vec() };
        let curves =
            vec![curve("a<b", &[(100.0, 2e-5), (1000.0, 3e-5)]), curve("mount", &[(100.0, 0.0), (1000.0, f64::NAN), (1000.0, 0.5)])];
        let svg = Plot { name: "files", axis: "files", curves }.picture();
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polyline").count()), (3, 2), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains(">10 us<") && svg.contains(">1 s<") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains(r#"cx="80.0""#) && svg.contains(r#"cx="720.0""#), "sizes from edge to edge: {svg}");
        let none = Plot { name: "files", axis: "files", curves: Vec::new() }.picture();
        assert!(!none.contains("NaN") && !none.contains("inf"), "{none}");
    }
}
