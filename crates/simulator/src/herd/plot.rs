//! The picture of a herd: requests a second over time, before and now, one panel a scenario.

use super::{Outcome, Scenario, number};
use std::fmt::Write as _;

/// One scenario's share of the picture.
pub struct Panel {
    /// What the herd lived through.
    pub scenario: Scenario,
    /// With the policy of before.
    pub before: Outcome,
    /// With start-worker's.
    pub ours: Outcome,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 60.0;

/// Colours are those of the page, so that it can be read by day and by night.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2128; --faint: #6b7280; --line: #d0d7de; --paper: #ffffff; --before: #c2410c; --ours: #0369a1; --down: #f3e8e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9aa4b0; --line: #373e47; --paper: #0d1117; --before: #fb923c; --ours: #38bdf8; --down: #2d1f1a; } }
body { background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
svg { width: 100%; height: auto; display: block; } text { fill: var(--faint); font: 11px system-ui, sans-serif; }
h2 { font-size: 1rem; margin: 1.5rem 0 .2rem; } .before { stroke: var(--before); fill: none; } .ours { stroke: var(--ours); fill: none; }
.axis { stroke: var(--line); } .capacity { stroke: var(--faint); stroke-dasharray: 4 3; } .down { fill: var(--down); }
.key b { font-weight: 600; } .key .b { color: var(--before); } .key .o { color: var(--ours); }";

/// The page.
pub fn page(panels: &[Panel]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>A herd of machines</title><style>{STYLE}</style>\n<h1>A herd of machines, and what its service sees</h1>\n<p class=key>Requests a second, over ten seconds each: <b class=b>before</b>, <b class=o>now</b>. The dashed line is what the service can do; while the ground is shaded, it is down, and what goes over the edge is not drawn to scale.</p>\n"
    );
    for panel in panels {
        draw(panel, &mut page);
    }
    page.push_str("</html>\n");
    page
}

fn draw(panel: &Panel, page: &mut String) {
    let Panel { scenario, before, ours } = panel;
    let (before, ours) = (smooth(&before.asked), smooth(&ours.asked));
    // What is of interest: from a little before the first request that counts to the last.
    let busy = |series: &[f64]| {
        let first = series.iter().position(|asked| *asked > 0.0).unwrap_or(0);
        (first, series.iter().rposition(|asked| *asked > 0.0).unwrap_or(first))
    };
    let spans = [busy(&before), busy(&ours)];
    let first = spans.map(|(first, _)| first).into_iter().min().unwrap_or(0);
    let last = spans.map(|(_, last)| last + 2).into_iter().max().unwrap_or(0).min(ours.len() - 1);
    let capacity = scenario.service.capacity;
    // The first moments of an outage are many times what it is about: what counts is what must be seen.
    let from = usize::try_from(scenario.counts_from.as_secs()).unwrap_or(0).clamp(first, last);
    let highest = before[from..=last].iter().chain(&ours[from..=last]).copied().fold(1.0, f64::max);
    let shows_capacity = capacity <= 4.0 * highest;
    let most = if shows_capacity { highest.max(capacity) } else { highest } * 1.1;
    let x = |second: f64| LEFT + (second - number(first)) / number((last - first).max(1)) * (WIDTH - LEFT - 10.0);
    let y = |load: f64| HEIGHT - 22.0 - load.min(most) / most * (HEIGHT - 34.0);
    let _ = write!(
        page,
        "<h2>{}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"requests a second over time\">",
        scenario.name
    );
    let outage = &scenario.service.outage;
    let (from, to) = (outage.start.as_secs_f64().max(number(first)), outage.end.as_secs_f64().min(number(last)));
    if from < to {
        let (left, width) = (x(from), x(to) - x(from));
        let _ = write!(page, "<rect class=down x={left:.1} y=8 width={width:.1} height={:.1} />", y(0.0) - 8.0);
    }
    let _ = write!(page, "<path class=axis d=\"M{LEFT} 8V{:.1}H{:.1}\" fill=none />", y(0.0), WIDTH - 10.0);
    if shows_capacity {
        let _ = write!(page, "<path class=capacity d=\"M{LEFT} {:.1}H{:.1}\" />", y(capacity), WIDTH - 10.0);
    }
    let marks = if shows_capacity { vec![0.0, capacity, highest] } else { vec![0.0, highest] };
    for load in marks {
        // The highest is not written over the capacity.
        if !shows_capacity || load <= capacity || y(capacity) - y(load) > 12.0 {
            let _ = write!(page, "<text x={:.1} y={:.1} text-anchor=end>{load:.0}</text>", LEFT - 6.0, y(load) + 4.0);
        }
    }
    let step = step_of(last - first);
    for second in (first.div_ceil(step) * step..=last.saturating_sub(step / 5)).step_by(step) {
        let label = if step.is_multiple_of(60) { format!("{} min", second / 60) } else { format!("{second} s") };
        let _ = write!(page, "<text x={:.1} y={} text-anchor=middle>{label}</text>", x(number(second)), HEIGHT - 6.0);
    }
    for (series, class) in [(&before, "before"), (&ours, "ours")] {
        let _ = write!(page, "<polyline class={class} stroke-width=1.5 points=\"");
        for (second, load) in series.iter().enumerate().take(last + 1).skip(first) {
            let _ = write!(page, "{:.1},{:.1} ", x(number(second)), y(*load));
        }
        page.push_str("\" />");
    }
    page.push_str("</svg>\n");
}

/// Over ten seconds each: by the second chance alone makes peaks.
fn smooth(asked: &[u32]) -> Vec<f64> {
    let around = |at: usize| {
        let stretch = &asked[at.saturating_sub(4)..(at + 6).min(asked.len())];
        f64::from(stretch.iter().sum::<u32>()) / number(stretch.len())
    };
    (0..asked.len()).map(around).collect()
}

/// Between two labels, in seconds, so that some eight fit.
fn step_of(seconds: usize) -> usize {
    [5, 10, 30, 60, 120, 300, 600, 1200].into_iter().find(|step| seconds / step <= 9).unwrap_or(3600)
}
