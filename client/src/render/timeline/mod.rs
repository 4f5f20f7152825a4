//! A build's timeline for the terminal: a line for each stage, grouped by agent, and where the time went.

pub(super) mod svg;

use super::text::{Paint, Tone, clean, duration};
use crate::timeline::{Phase, Segment, Timeline};

/// How many characters stand for the whole time.
const WIDTH: u64 = 60;
/// The longest name of an agent or a stage that is shown whole.
const NAME: usize = 18;

/// The timeline; nothing for a build in which no time has passed.
pub fn timeline(timeline: &Timeline, paint: Paint) -> String {
    if timeline.total == 0 {
        return String::new();
    }
    let mut out = paint.put(Tone::Strong, "Timeline");
    out.push('\n');
    let mut lines = Vec::new();
    let whole = |name: &str, segment: &Segment| Line {
        agent: String::new(),
        what: name.to_owned(),
        segments: vec![*segment],
        critical: true,
    };
    lines.extend(timeline.planning.iter().map(|s| whole("planning", s)));
    let mut before = "";
    for bar in &timeline.bars {
        lines.push(Line {
            agent: match bar.agent == before {
                true => String::new(),
                false => clean(&bar.agent),
            },
            what: format!("{} {}", bar.stage, clean(&bar.kind)),
            segments: bar.segments.clone(),
            critical: bar.critical,
        });
        before = &bar.agent;
    }
    lines.extend(timeline.publishing.iter().map(|s| whole("publishing", s)));
    let widest = |of: fn(&Line) -> &str| {
        let widths = lines.iter().map(|line| of(line).chars().count());
        widths.max().unwrap_or_default().min(NAME)
    };
    let (agents, whats) = (widest(|line| &line.agent), widest(|line| &line.what));
    for line in &lines {
        let mark = if line.critical { "*" } else { " " };
        let took: u64 = line.segments.iter().map(|s| s.to - s.from).sum();
        out.push_str(&format!(
            "  {}  {}  {mark} {}  {:>6}\n",
            paint.put(Tone::Strong, &fit(&line.agent, agents)),
            fit(&line.what, whats),
            drawn(&line.segments, timeline.total, paint),
            duration(took),
        ));
    }
    let signs = [
        Phase::Queued,
        Phase::Ahead,
        Phase::Fetching,
        Phase::Running,
        Phase::Exporting,
        Phase::Lost,
    ];
    let drawn: Vec<Phase> = timeline
        .bars
        .iter()
        .flat_map(|bar| &bar.segments)
        .map(|segment| segment.phase)
        .collect();
    let legend: Vec<String> = signs
        .into_iter()
        .filter(|phase| drawn.contains(phase))
        .map(|phase| format!("{} {}", sign(phase), phase.name()))
        .chain(["* critical path".to_owned()])
        .collect();
    let legend = format!("  {}", legend.join("   "));
    out.push_str(&paint.put(Tone::Faint, &legend));
    out.push_str("\n  ");
    let spent = timeline.spent;
    let parts: Vec<String> = [
        (Phase::Planning, spent.planning_ms),
        (Phase::Queued, spent.queued_ms),
        (Phase::Fetching, spent.fetching_ms),
        (Phase::Running, spent.running_ms),
        (Phase::Exporting, spent.exporting_ms),
        (Phase::Publishing, spent.publishing_ms),
    ]
    .into_iter()
    .filter(|(_, took)| *took > 0)
    .map(|(phase, took)| format!("{} {}", phase.name(), duration(took)))
    .collect();
    let path: Vec<String> = timeline.critical.iter().map(u32::to_string).collect();
    let along = match path.len() {
        0 => String::new(),
        1 => format!(" (stage {})", path[0]),
        _ => format!(" (stages {})", path.join(" → ")),
    };
    out.push_str(&format!(
        "Where {} went{along}: {}\n",
        duration(timeline.total),
        parts.join(", ")
    ));
    out
}

struct Line {
    agent: String,
    what: String,
    segments: Vec<Segment>,
    critical: bool,
}

/// A character for each part of the time: the phase that has the most of it.
fn drawn(segments: &[Segment], total: u64, paint: Paint) -> String {
    let mut out = String::new();
    for at in 0..WIDTH {
        let (from, to) = (at * total / WIDTH, (at + 1) * total / WIDTH);
        let share = |s: &Segment| s.to.min(to).saturating_sub(s.from.max(from));
        // A moment too short to fill any of it is shown where it begins.
        let instant = |s: &&Segment| s.from >= from && s.from < to && s.to > s.from;
        let most = segments.iter().max_by_key(|segment| share(segment));
        let shown = most
            .filter(|s| share(s) * 2 >= (to - from).max(1))
            .or_else(|| segments.iter().find(instant));
        match shown {
            Some(segment) => {
                out.push_str(&paint.put(tone(segment.phase), &sign(segment.phase).to_string()));
            }
            None => out.push(' '),
        }
    }
    out
}

fn sign(phase: Phase) -> char {
    match phase {
        Phase::Queued => '·',
        Phase::Ahead => '-',
        Phase::Fetching => '<',
        Phase::Running => '█',
        Phase::Exporting => '>',
        Phase::Planning | Phase::Publishing => '▒',
        Phase::Lost => 'x',
    }
}

fn tone(phase: Phase) -> Tone {
    match phase {
        Phase::Running => Tone::Good,
        Phase::Lost => Tone::Bad,
        Phase::Fetching | Phase::Exporting => Tone::Busy,
        Phase::Planning | Phase::Publishing | Phase::Queued | Phase::Ahead => Tone::Faint,
    }
}

/// The text in just so many characters.
fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length > width {
        let kept: String = text.chars().take(width.saturating_sub(1)).collect();
        return format!("{kept}…");
    }
    format!("{text}{}", " ".repeat(width - length))
}
