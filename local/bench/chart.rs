//! The picture: the farm's figures as multiples of one engine's, as an SVG that is legible on light and on dark pages.

use crate::{
    outcome::{Mark, Row},
    report::Report,
};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 58.0;
const BAR: f64 = 16.0;
const STEP: f64 = 34.0;
/// A second bar stands below the first.
const SECOND: f64 = 18.0;

const STYLE: &str = "\
    text { fill: #1f2937 } .small { fill: #4b5563; font-size: 11.5px } .farm { fill: #2563eb } .four { fill: #9ca3af } \
    .one { stroke: #1f2937; stroke-width: 1.4 } .mark { stroke: #dc2626; stroke-width: 2 }
    @media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .small { fill: #9ca3af } .farm { fill: #60a5fa } \
    .four { fill: #6b7280 } .one { stroke: #e5e7eb } .mark { stroke: #f87171 } }";

/// Draws the figures that are compared with one engine's.
pub fn draw(report: &Report) -> String {
    let compared = |(_, row): &&(&str, Row)| row.ratio().is_some() && row.mark != Mark::None;
    let rows: Vec<_> = report.rows().filter(compared).collect();
    let ratios = rows
        .iter()
        .flat_map(|(_, row)| [row.ratio(), row.four_nodes_ratio(), mark(row)]);
    let longest = ratios.flatten().fold(1.0, f64::max);
    let unit = (WIDTH - LEFT - RIGHT) / longest;
    let at = |ratio: f64| LEFT + ratio * unit;

    let mut body = String::new();
    let mut y = TOP;
    for (case, row) in &rows {
        let ratio = row.ratio().unwrap_or_default();
        let middle = y + BAR - 4.0;
        body += &format!(
            "<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{case}: {}</text>\n",
            LEFT - 10.0,
            row.label
        );
        body += &bar("farm", y, ratio, at(ratio));
        if let Some(mark) = mark(row) {
            let (x, from, to) = (at(mark), y - 3.0, y + BAR + 3.0);
            body += &format!("<path class=\"mark\" d=\"M{x:.1} {from:.0} V{to:.0}\"/>\n");
        }
        if let Some(four) = row.four_nodes_ratio() {
            y += SECOND;
            body += &bar("four", y, four, at(four));
        }
        y += STEP;
    }
    let (one, bottom) = (at(1.0), y - STEP + BAR + 6.0);
    let height = bottom + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"ui-sans-serif, Helvetica, Arial, sans-serif\" font-size=\"13\">\n\
         <title>The farm's figures as multiples of one engine's</title>\n\
         <style>{STYLE}</style>\n\
         <text class=\"small\" x=\"{one:.1}\" y=\"40\" text-anchor=\"middle\">one engine</text>\n\
         <path class=\"one\" d=\"M{one:.1} 46 V{bottom:.0}\"/>\n\
         <rect class=\"farm\" x=\"14\" y=\"10\" width=\"14\" height=\"11\"/><text class=\"small\" x=\"34\" y=\"20\">farm</text>\n\
         <rect class=\"four\" x=\"84\" y=\"10\" width=\"14\" height=\"11\"/><text class=\"small\" x=\"104\" y=\"20\">buildx over four nodes</text>\n\
         <path class=\"mark\" d=\"M250 8 V23\"/><text class=\"small\" x=\"258\" y=\"20\">the mark</text>\n\
         {body}</svg>\n"
    )
}

fn bar(class: &str, y: f64, ratio: f64, end: f64) -> String {
    let (width, text, middle) = (end - LEFT, end + 6.0, y + BAR - 4.0);
    format!(
        "<rect class=\"{class}\" x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR:.0}\"/>\
         <text class=\"small\" x=\"{text:.1}\" y=\"{middle:.0}\">{ratio:.2}</text>\n"
    )
}

/// The mark as a multiple of the other side's figure.
fn mark(row: &Row) -> Option<f64> {
    match row.mark {
        Mark::AtMost { times, plus } => Some(times + plus / row.other()?),
        Mark::AtLeast { times } => Some(times),
        Mark::Limit(_) | Mark::None => None,
    }
}
