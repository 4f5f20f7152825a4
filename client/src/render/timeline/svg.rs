//! A build's timeline as a picture, for documents and browsers.

use super::super::{
    svg::Svg,
    text::{clean, duration},
};
use crate::{
    model::Build,
    timeline::{Phase, Segment, Timeline},
};

const WIDTH: u32 = 960;
/// Where time begins and ends.
const LEFT: u32 = 300;
const RIGHT: u32 = WIDTH - 40;
const ROW: u32 = 24;
const TOP: u32 = 60;

/// Reads on light and dark pages, as it brings its own ground.
const STYLE: &str = "\
text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}
.head{font-size:14px;font-weight:600}.agent,.critical{font-weight:600}.faint{fill:#656d76}
.ground{fill:#fff;stroke:#d0d7de}.line{fill:#eaeef2}.frame{fill:#1f2328}
.planning,.publishing{fill:#8c959f}.queued{fill:#eac54f}.waiting{fill:#d8dee4}.fetching{fill:#54aeff}
.running{fill:#4ac26b}.exporting{fill:#c297ff}.lost{fill:#ff8182}";

struct Row<'a> {
    agent: &'a str,
    what: String,
    critical: bool,
    segments: &'a [Segment],
}

/// The picture.
pub fn svg(build: &Build, timeline: &Timeline) -> String {
    let whole = |segment: &'static str, segments| Row {
        agent: "",
        what: segment.to_owned(),
        critical: false,
        segments,
    };
    let mut rows: Vec<Row<'_>> = Vec::new();
    rows.extend(
        timeline
            .planning
            .iter()
            .map(|segment| whole("planning", std::slice::from_ref(segment))),
    );
    let mut before = "";
    for bar in &timeline.bars {
        rows.push(Row {
            agent: if bar.agent == before { "" } else { &bar.agent },
            what: format!("{} {}", bar.stage, bar.name),
            critical: bar.critical,
            segments: &bar.segments,
        });
        before = &bar.agent;
    }
    rows.extend(
        timeline
            .publishing
            .iter()
            .map(|segment| whole("publishing", std::slice::from_ref(segment))),
    );
    let bottom = TOP + ROW * u32::try_from(rows.len()).unwrap_or(u32::MAX / ROW / 2);
    let place = |at: u64| {
        let wide = u64::from(RIGHT - LEFT) * at.min(timeline.total) / timeline.total.max(1);
        LEFT + u32::try_from(wide).unwrap_or(RIGHT - LEFT)
    };

    let mut svg = Svg::new(WIDTH, bottom + 72, STYLE);
    svg.rounded((0, 0), (WIDTH, bottom + 72), "ground");
    let head = format!(
        "{}: {} in {}",
        build.platforms.join(", "),
        build.state,
        duration(timeline.total)
    );
    svg.text((16, 26), "head", &clean(&head));
    for part in 0..=4 {
        let at = timeline.total * part / 4;
        svg.rect((place(at), TOP), (1, bottom - TOP), "line");
        svg.text((place(at) - 12, TOP - 8), "faint", &duration(at));
    }
    let mut y = TOP;
    for row in &rows {
        let weight = if row.critical { "critical" } else { "plain" };
        svg.text((16, y + 16), "agent", &short(row.agent, 11));
        svg.text((100, y + 16), weight, &short(&row.what, 30));
        for segment in row.segments {
            let (from, to) = (place(segment.from), place(segment.to));
            let width = (to - from).max(1);
            if row.critical {
                svg.rect((from, y + 3), (width, 18), "frame");
            }
            svg.rect((from, y + 5), (width, 14), class(segment.phase));
        }
        y += ROW;
    }
    let mut x = 16;
    for (phase, name) in [
        (Phase::Planning, "planning, publishing"),
        (Phase::Queued, "queued"),
        (Phase::Ahead, "waiting for inputs"),
        (Phase::Fetching, "fetching"),
        (Phase::Running, "running"),
        (Phase::Exporting, "exporting"),
        (Phase::Lost, "lost"),
    ] {
        svg.rect((x, bottom + 16), (12, 12), class(phase));
        svg.text((x + 17, bottom + 26), "faint", name);
        x += 40 + 7 * u32::try_from(name.len()).unwrap_or_default();
    }
    let path: Vec<String> = timeline.critical.iter().map(u32::to_string).collect();
    if !path.is_empty() {
        let path = format!("Framed: the critical path, stages {}", path.join(" → "));
        svg.text((16, bottom + 54), "faint", &path);
    }
    svg.finish()
}

fn class(phase: Phase) -> &'static str {
    match phase {
        Phase::Ahead => "waiting",
        other => other.name(),
    }
}

fn short(text: &str, most: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= most {
        return text;
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}
