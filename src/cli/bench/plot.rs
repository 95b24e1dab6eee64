//! Latency drawn: by percentile, with an axis of nines, and over time.

use std::fmt::Write as _;

use super::report::milliseconds;
use super::tally::Tally;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
/// From one plot to the next.
const STEP: f64 = HEIGHT + 90.0;
const COLORS: [&str; 4] = ["#1f6feb", "#d1242f", "#1a7f37", "#8250df"];

/// A line: its name and its points.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// One picture with both plots of every side that has latencies.
pub fn svg(title: &str, sides: &[(&'static str, Tally)]) -> String {
    let sides: Vec<_> = sides.iter().filter(|(_, tally)| !tally.latency.is_empty()).collect();
    let by_percentile = sides.iter().map(|(name, tally)| {
        let steps = tally.latency.iter_quantiles(5);
        let steps = steps.filter(|step| step.quantile_iterated_to() < 1.0);
        let points = steps.map(|step| {
            let nines = -(1.0 - step.quantile_iterated_to()).log10();
            (nines, milliseconds(step.value_iterated_to()))
        });
        Line { name: (*name).to_owned(), points: points.collect() }
    });
    let by_percentile: Vec<Line> = by_percentile.collect();
    let mut over_time = vec![];
    for (name, tally) in &sides {
        for (what, of) in [("p50", 0), ("p99", 1), ("max", 2)] {
            let points = tally.seconds.iter().enumerate().map(|(at, second)| {
                let value = [second.p50, second.p99, second.max][of];
                (at as f64, milliseconds(value))
            });
            over_time.push(Line { name: format!("{name} {what}"), points: points.collect() });
        }
    }
    let height = 2.0 * STEP + TOP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title),
    );
    let nines = |x: f64| match x as u32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        n => format!("99{}{} %", if n > 2 { "." } else { "" }, "9".repeat(n as usize - 2)),
    };
    plot(&mut out, TOP, "latency, ms, by percentile", &by_percentile, nines);
    let seconds = |x: f64| format!("{x:.0} s");
    plot(&mut out, TOP + STEP, "latency, ms, in each second", &over_time, seconds);
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws lines with a linear x axis and a logarithmic y axis.
fn plot(out: &mut String, top: f64, title: &str, lines: &[Line], label: impl Fn(f64) -> String) {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|(_, y)| *y > 0.0);
    let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max).ceil();
    let low = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min).log10().floor();
    let high = points().map(|(_, y)| *y).fold(0.0, f64::max).log10().ceil();
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, escape(title));
    if !(low.is_finite() && high.is_finite()) {
        return;
    }
    let high = high.max(low + 1.0);
    let (width, bottom) = (WIDTH - LEFT - RIGHT, top + HEIGHT);
    let x_of = |x: f64| LEFT + width * x / x_max;
    let y_of = |y: f64| bottom - HEIGHT * (y.log10() - low) / (high - low);
    for power in low as i32..=high as i32 {
        let (value, y) = (10_f64.powi(power), y_of(10_f64.powi(power)));
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
        );
    }
    let step = (x_max / 10.0).ceil();
    for x in (0..=(x_max / step) as u32).map(|n| f64::from(n) * step) {
        let at = x_of(x);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            label(x),
        );
    }
    for (at, line) in lines.iter().enumerate() {
        let color = COLORS[at % COLORS.len()];
        let points = line.points.iter().filter(|(_, y)| *y > 0.0);
        let points: Vec<String> =
            points.map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{}</text>",
            points.join(" "),
            LEFT + 10.0 + 110.0 * at as f64,
            bottom + 36.0,
            escape(&line.name),
        );
    }
}
