//! Where a build's time went: what each stage did when, on which agent, and the chain of stages that nothing could have been shorter than.
//! Pure: the same for the terminal, for JSON and for pictures.

use serde::Serialize;

use crate::model::{Attempt, BuildDetail, Moment, Stage};

/// What a stage, or the build as a whole, does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The frontend runs and the build is split.
    Planning,
    /// All is there that it needs, but no agent has begun.
    Queued,
    /// It went to its agent ahead of its inputs, and waits for them within the engine.
    Ahead,
    /// Its engine fetches results of other stages.
    Fetching,
    /// Its commands run.
    Running,
    /// Its results go to a registry.
    Exporting,
    /// The index is pushed and tags are moved.
    Publishing,
    /// A try that came to nothing.
    Lost,
}

impl Phase {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Queued => "queued",
            Self::Ahead => "waiting for inputs",
            Self::Fetching => "fetching",
            Self::Running => "running",
            Self::Exporting => "exporting",
            Self::Publishing => "publishing",
            Self::Lost => "lost",
        }
    }
}

/// A phase, in milliseconds after the build began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// What.
    pub phase: Phase,
    /// From when.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

/// One stage's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// The stage's number.
    pub stage: u32,
    /// The stage's kind.
    pub kind: String,
    /// What it does, for people.
    pub name: String,
    /// Its agent; that of its last try.
    pub agent: String,
    /// In the order of time.
    pub segments: Vec<Segment>,
    /// Whether it is on the critical path.
    pub critical: bool,
}

impl Bar {
    fn end(&self) -> u64 {
        self.segments.iter().map(|s| s.to).max().unwrap_or_default()
    }

    fn begin(&self) -> u64 {
        let begins = self.segments.iter().map(|segment| segment.from);
        begins.min().unwrap_or_default()
    }
}

/// Where the time of a build went, in milliseconds. The parts make up the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// Until the plan was there.
    pub planning_ms: u64,
    /// On the critical path, until an agent began.
    pub queued_ms: u64,
    /// On the critical path, fetching results of other stages.
    pub fetching_ms: u64,
    /// On the critical path, running.
    pub running_ms: u64,
    /// On the critical path, exporting results.
    pub exporting_ms: u64,
    /// After the last stage.
    pub publishing_ms: u64,
}

/// A build's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// How long the build took, or has taken so far, in milliseconds.
    pub total: u64,
    /// Until its plan was there.
    pub planning: Option<Segment>,
    /// Stages that have begun or could, by agent, and on each in the order in which they began.
    pub bars: Vec<Bar>,
    /// After its last stage.
    pub publishing: Option<Segment>,
    /// The stages of the critical path, first to last.
    pub critical: Vec<u32>,
    /// Where the time went.
    pub spent: Spent,
}

impl Timeline {
    /// The timeline of a build; what still runs, as of `now`. `None` if nobody knows when it began.
    pub fn of(detail: &BuildDetail, now: Moment) -> Option<Timeline> {
        let clock = Clock {
            zero: detail.build.created_at?,
            end: detail.build.finished_at.unwrap_or(now),
        };
        let total = clock.at(clock.end);
        let planned = detail.build.started_at.map(|at| clock.at(at));
        let planning = Segment {
            phase: Phase::Planning,
            from: 0,
            to: planned.unwrap_or(total),
        };
        let mut bars: Vec<Bar> = detail
            .stages
            .iter()
            .map(|stage| bar(stage, &clock))
            .filter(|bar| !bar.segments.is_empty())
            .collect();
        let critical = critical(detail, &bars);
        for bar in &mut bars {
            bar.critical = critical.contains(&bar.stage);
        }
        let stages_end = bars.iter().map(Bar::end).max();
        let all_done = detail.stages.iter().all(|stage| stage.state == "done");
        let publishing = stages_end.filter(|end| all_done && *end < total);
        let publishing = publishing.map(|from| Segment {
            phase: Phase::Publishing,
            from,
            to: total,
        });
        bars.sort_by(|a, b| (&a.agent, a.begin(), a.stage).cmp(&(&b.agent, b.begin(), b.stage)));
        let spent = spent(total, planning, &critical, &bars);
        Some(Timeline {
            total,
            planning: Some(planning).filter(|segment| segment.to > 0),
            bars,
            publishing,
            critical,
            spent,
        })
    }
}

/// Milliseconds since the build began; nothing is before that or after its end, clocks of different hosts notwithstanding.
struct Clock {
    zero: Moment,
    end: Moment,
}

impl Clock {
    fn at(&self, moment: Moment) -> u64 {
        let since = moment.min(self.end).0 - self.zero.0;
        since.num_milliseconds().max(0).unsigned_abs()
    }
}

fn bar(stage: &Stage, clock: &Clock) -> Bar {
    let mut segments = Vec::new();
    let mut add = |phase, from: u64, to: u64| {
        if from < to {
            segments.push(Segment { phase, from, to });
        }
    };
    if let Some((last, earlier)) = stage.attempts.split_last() {
        for attempt in earlier {
            if let (Some(from), Some(to)) = (attempt.started_at, attempt.finished_at) {
                add(Phase::Lost, clock.at(from), clock.at(to));
            }
        }
        if matches!(last.state.as_str(), "failed" | "cancelled" | "lost") {
            let from = last.started_at.or(last.created_at);
            if let (Some(from), Some(to)) = (from, last.finished_at) {
                add(Phase::Lost, clock.at(from), clock.at(to));
            }
        } else {
            tried(stage, last, clock, &mut add);
        }
    } else if let (Some(ready), "ready") = (stage.ready_at, stage.state.as_str()) {
        add(Phase::Queued, clock.at(ready), clock.at(clock.end));
    }
    let agent = stage.attempts.last().map(|attempt| attempt.agent.clone());
    Bar {
        stage: stage.number,
        kind: stage.kind.clone(),
        name: stage.name.clone(),
        agent: agent.unwrap_or_default(),
        segments,
        critical: false,
    }
}

/// The phases of a try that went well, or that runs.
fn tried(stage: &Stage, attempt: &Attempt, clock: &Clock, add: &mut impl FnMut(Phase, u64, u64)) {
    let earlier_ends = stage.attempts.iter().rev().skip(1);
    let earlier_end = earlier_ends.filter_map(|attempt| attempt.finished_at).max();
    let ready = stage.ready_at.max(earlier_end).map(|at| clock.at(at));
    let started = attempt.started_at.map(|at| clock.at(at));
    let end = clock.at(attempt.finished_at.unwrap_or(clock.end));
    let Some(start) = started else {
        if let Some(ready) = ready {
            add(Phase::Queued, ready, end);
        }
        return;
    };
    let ready = ready.unwrap_or(start);
    add(Phase::Queued, ready, start);
    let inputs = ready.clamp(start, end);
    add(Phase::Ahead, start, inputs);
    let fetched = inputs.saturating_add(attempt.fetch_ms).min(end);
    add(Phase::Fetching, inputs, fetched);
    // Exports that overlap are one.
    let mut exports: Vec<(u64, u64)> = stage
        .exports
        .iter()
        .filter_map(|export| {
            let to = clock.at(export.finished_at?);
            Some((to.saturating_sub(export.took_ms).max(fetched), to))
        })
        .collect();
    exports.sort_unstable();
    let mut at = fetched;
    for (from, to) in exports {
        add(Phase::Running, at, from.min(end));
        add(Phase::Exporting, from.max(at), to);
        at = at.max(to);
    }
    add(Phase::Running, at, end);
}

/// The stage that ended last, what it waited for longest, and so on to the first.
fn critical(detail: &BuildDetail, bars: &[Bar]) -> Vec<u32> {
    let last_of = |numbers: &mut dyn Iterator<Item = &Bar>| {
        let last = numbers.max_by_key(|bar| (bar.end(), std::cmp::Reverse(bar.stage)));
        last.map(|bar| bar.stage)
    };
    let mut path = Vec::new();
    let mut next = last_of(&mut bars.iter());
    while let Some(number) = next.filter(|number| !path.contains(number)) {
        path.push(number);
        let stage = detail.stages.iter().find(|stage| stage.number == number);
        let inputs = stage.map(|stage| &stage.inputs[..]).unwrap_or_default();
        next = last_of(&mut bars.iter().filter(|bar| inputs.contains(&bar.stage)));
    }
    path.reverse();
    path
}

/// Goes along the critical path: each moment belongs to one phase of it.
fn spent(total: u64, planning: Segment, critical: &[u32], bars: &[Bar]) -> Spent {
    let mut spent = Spent {
        planning_ms: planning.to,
        ..Spent::default()
    };
    let mut at = planning.to;
    for number in critical {
        let bar = bars.iter().find(|bar| bar.stage == *number);
        let mut segments: Vec<Segment> = bar.map(|bar| bar.segments.clone()).unwrap_or_default();
        segments.sort_by_key(|segment| segment.from);
        for segment in segments {
            if segment.to <= at {
                continue;
            }
            // What nobody accounts for was spent on deciding and on messages.
            spent.queued_ms += segment.from.saturating_sub(at);
            let took = segment.to - segment.from.max(at);
            match segment.phase {
                Phase::Queued | Phase::Ahead => spent.queued_ms += took,
                Phase::Fetching => spent.fetching_ms += took,
                Phase::Exporting => spent.exporting_ms += took,
                Phase::Planning | Phase::Running | Phase::Publishing | Phase::Lost => {
                    spent.running_ms += took;
                }
            }
            at = segment.to;
        }
    }
    spent.publishing_ms = total.saturating_sub(at);
    spent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Build, Export};

    fn at(ms: i64) -> Option<Moment> {
        chrono::DateTime::from_timestamp_millis(1_000_000 + ms).map(Moment)
    }

    /// A stage with one try on this agent; times after the build began.
    fn stage(number: u32, inputs: &[u32], agent: &str, times: [i64; 3], exported: i64) -> Stage {
        let [ready, started, finished] = times;
        Stage {
            number,
            name: format!("step {number}"),
            kind: "target".to_owned(),
            state: "done".to_owned(),
            home: None,
            users: vec![],
            waiting_for: None,
            inputs: inputs.to_vec(),
            ready_at: at(ready),
            exports: vec![Export {
                name: "out".to_owned(),
                finished_at: at(exported),
                took_ms: 100,
                target: false,
            }],
            attempts: vec![Attempt {
                id: String::new(),
                agent: agent.to_owned(),
                state: "succeeded".to_owned(),
                reason: String::new(),
                created_at: at(started),
                started_at: at(started),
                finished_at: at(finished),
                error: None,
                vertices_cached: 0,
                vertices_run: 1,
                fetch_ms: 50 * inputs.len() as u64,
            }],
        }
    }

    fn build(stages: Vec<Stage>, finished: i64) -> BuildDetail {
        BuildDetail {
            build: Build {
                id: "b".to_owned(),
                client_ref: String::new(),
                project: String::new(),
                state: "succeeded".to_owned(),
                created_at: at(0),
                started_at: at(200),
                finished_at: at(finished),
                platforms: vec![],
                error: None,
                published: vec![],
                digest: None,
            },
            stages,
            transfers: vec![],
            events: vec![],
        }
    }

    fn of(detail: &BuildDetail) -> Timeline {
        Timeline::of(detail, at(0).expect("a moment")).expect("it began")
    }

    fn phases(timeline: &Timeline, stage: u32) -> Vec<(Phase, u64, u64)> {
        let bar = timeline.bars.iter().find(|bar| bar.stage == stage);
        let segments = bar.expect("it is there").segments.iter();
        segments.map(|s| (s.phase, s.from, s.to)).collect()
    }

    #[test]
    fn a_stage_is_queued_fetches_runs_and_exports() {
        let first = stage(0, &[], "a", [200, 300, 1000], 1000);
        let second = stage(1, &[0], "b", [1000, 1100, 2000], 2200);
        let timeline = of(&build(vec![first, second], 2500));
        use Phase::{Exporting, Fetching, Queued, Running};
        assert_eq!(
            phases(&timeline, 0),
            [
                (Queued, 200, 300),
                (Running, 300, 900),
                (Exporting, 900, 1000)
            ]
        );
        assert_eq!(
            phases(&timeline, 1),
            [
                (Queued, 1000, 1100),
                (Fetching, 1100, 1150),
                (Running, 1150, 2000),
                (Exporting, 2100, 2200),
            ],
            "an export may be asked for later"
        );
    }

    #[test]
    fn all_of_the_time_is_accounted_for_along_the_stages_that_were_waited_for() {
        let detail = build(
            vec![
                stage(0, &[], "a", [200, 300, 1000], 1000),
                stage(1, &[], "b", [200, 300, 400], 400),
                stage(2, &[0, 1], "a", [1000, 1100, 2000], 2000),
                stage(3, &[1], "b", [400, 500, 900], 900),
            ],
            2300,
        );
        let timeline = of(&detail);
        assert_eq!(timeline.critical, [0, 2]);
        assert_eq!(
            timeline.spent,
            Spent {
                planning_ms: 200,
                queued_ms: 200,
                fetching_ms: 100,
                running_ms: 600 + 700,
                exporting_ms: 200,
                publishing_ms: 300,
            }
        );
        assert_eq!(200 + 200 + 100 + 600 + 700 + 200 + 300, timeline.total);
    }

    #[test]
    fn a_stage_that_went_ahead_waits_for_its_inputs_and_not_for_its_agent() {
        let ahead = stage(1, &[], "a", [900, 250, 1500], 1500);
        let timeline = of(&build(vec![ahead], 1500));
        assert_eq!(phases(&timeline, 1)[0], (Phase::Ahead, 250, 900));
    }

    #[test]
    fn clocks_that_disagree_make_no_time_before_the_build_or_after_it() {
        let odd = stage(1, &[], "a", [-500, -400, 9000], 9000);
        let timeline = of(&build(vec![odd], 1000));
        let bar = &timeline.bars[0];
        assert!(bar.end() <= 1000 && timeline.spent.publishing_ms <= 1000);
    }
}
