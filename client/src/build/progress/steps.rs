//! What is known of a build's steps, from BuildKit's status messages: names, times, logs. Steps of a progress group count as one. What is
//! kept is bounded: the last lines of each step that runs or failed.

use std::collections::{HashMap, VecDeque};

use croft_buildkit::api::{
    control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning},
    wkt::Timestamp,
};

/// Lines of a step that are kept for the end.
const TAIL: usize = 20;
/// A line longer than this is taken for several, in bytes.
const LINE_LIMIT: usize = 32 << 10;

/// A moment on the farm's clock, in nanoseconds.
type Nanos = i128;

/// A step's place in the list.
pub(super) type StepId = usize;

/// All steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    all: Vec<Step>,
    by_digest: HashMap<String, StepId>,
    by_group: HashMap<String, StepId>,
    /// The farm's clock when the first step began.
    pub(super) began: Option<i128>,
}

/// A step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) cached: bool,
    pub(super) error: String,
    /// What it moves: layers that are pulled or pushed.
    pub(super) transfers: Vec<Transfer>,
    /// Its last lines, each with the seconds since its start.
    pub(super) tail: VecDeque<Line>,
    partial: Vec<u8>,
    partial_at: Nanos,
    /// When parts of it ran, by vertex and start.
    intervals: Vec<Interval>,
    members: HashMap<String, Member>,
    /// A group of nothing but weak members is not worth showing.
    shown: Shown,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Waits,
    Runs,
    Ended,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Shown {
    #[default]
    Yes,
    NotYet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    vertex: String,
    start: Nanos,
    end: Option<Nanos>,
}

#[derive(Debug, Default)]
struct Member {
    cached: bool,
    error: String,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Seconds since the step began.
    pub(super) at: f64,
    /// As it came, without its end.
    pub(super) bytes: Vec<u8>,
}

/// Something that a step moves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transfer {
    pub(super) id: String,
    pub(super) current: i64,
    pub(super) total: i64,
    /// Seconds so far, or that it took.
    pub(super) seconds: f64,
    pub(super) done: Done,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    No,
    Yes,
}

/// What a status message tells that was not known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    /// A step began, or began again.
    Began(StepId),
    /// It wrote a line.
    Wrote(StepId, Line),
    /// It moved on with this transfer.
    Moved(StepId, Transfer),
    /// It warns.
    Warned(StepId, String),
    /// It ended.
    Ended(StepId),
}

impl Steps {
    pub(super) fn step(&self, id: StepId) -> &Step {
        &self.all[id]
    }

    /// Steps that run, as they began.
    pub(super) fn running(&self) -> impl Iterator<Item = &Step> {
        self.all
            .iter()
            .filter(|step| step.state == State::Runs && step.shown == Shown::Yes)
    }

    /// How many ended, and how many there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let shown = || self.all.iter().filter(|step| step.shown == Shown::Yes);
        let ended = shown().filter(|step| step.state == State::Ended).count();
        (ended, shown().count())
    }

    /// Steps that failed by themselves, not because others did.
    pub(super) fn failed(&self) -> impl Iterator<Item = &Step> {
        self.all
            .iter()
            .filter(|step| !step.error.is_empty() && !step.is_cancelled())
    }

    /// Takes a status message in.
    pub(super) fn take(&mut self, status: &StatusResponse) -> Vec<News> {
        let mut news = Vec::new();
        for vertex in &status.vertexes {
            self.take_vertex(vertex, &mut news);
        }
        for transfer in &status.statuses {
            self.take_transfer(transfer, &mut news);
        }
        for warning in &status.warnings {
            self.take_warning(warning, &mut news);
        }
        for log in &status.logs {
            self.take_log(log, &mut news);
        }
        // Ends come after what was written before.
        for vertex in &status.vertexes {
            self.end(vertex, &mut news);
        }
        news
    }

    fn take_vertex(&mut self, vertex: &Vertex, news: &mut Vec<News>) {
        let id = match &vertex.progress_group {
            Some(group) => {
                let known = self.by_group.get(&group.id).copied();
                let id = known.unwrap_or_else(|| {
                    self.all.push(Step {
                        name: group.name.clone(),
                        shown: Shown::NotYet,
                        ..Step::default()
                    });
                    self.by_group.insert(group.id.clone(), self.all.len() - 1);
                    self.all.len() - 1
                });
                if !group.weak && vertex.started.is_some() {
                    self.all[id].shown = Shown::Yes;
                }
                id
            }
            None => {
                let known = self.by_digest.get(&vertex.digest).copied();
                known.unwrap_or_else(|| {
                    self.all.push(Step::default());
                    self.all.len() - 1
                })
            }
        };
        self.by_digest.insert(vertex.digest.clone(), id);
        let step = &mut self.all[id];
        if vertex.progress_group.is_none() {
            step.name.clone_from(&vertex.name);
        }
        let Some(start) = vertex.started.as_ref().map(nanos) else {
            return;
        };
        self.began.get_or_insert(start);
        let interval = Interval {
            vertex: vertex.digest.clone(),
            start,
            end: vertex.completed.as_ref().map(nanos),
        };
        let same = |i: &&mut Interval| i.start == start && i.vertex == vertex.digest;
        match step.intervals.iter_mut().find(same) {
            Some(known) => known.end = interval.end.or(known.end),
            None => step.intervals.push(interval),
        }
        let member = Member {
            cached: vertex.cached,
            error: vertex.error.clone(),
        };
        step.members.insert(vertex.digest.clone(), member);
        step.cached = step.members.values().all(|member| member.cached);
        let error = step
            .members
            .values()
            .find(|member| !member.error.is_empty());
        step.error = error.map(|member| member.error.clone()).unwrap_or_default();
        if !step.error.is_empty() {
            step.shown = Shown::Yes;
        }
        if step.state != State::Runs && step.intervals.iter().any(|i| i.end.is_none())
            || step.state == State::Waits
        {
            step.state = State::Runs;
            if step.shown == Shown::Yes {
                news.push(News::Began(id));
            }
        }
    }

    fn end(&mut self, vertex: &Vertex, news: &mut Vec<News>) {
        let Some(&id) = self.by_digest.get(&vertex.digest) else {
            return;
        };
        let step = &mut self.all[id];
        if step.state != State::Runs || step.intervals.iter().any(|i| i.end.is_none()) {
            return;
        }
        step.state = State::Ended;
        if let Some(line) = step.take_partial() {
            step.keep(line.clone());
            news.push(News::Wrote(id, line));
        }
        if step.error.is_empty() {
            step.tail = VecDeque::new();
        }
        step.transfers = Vec::new();
        if step.shown == Shown::Yes {
            news.push(News::Ended(id));
        }
    }

    fn take_transfer(&mut self, status: &VertexStatus, news: &mut Vec<News>) {
        let Some(&id) = self.by_digest.get(&status.vertex) else {
            return;
        };
        let started = status.started.as_ref().map(nanos);
        let until = status.completed.as_ref().or(status.timestamp.as_ref());
        let seconds = match (started, until) {
            (Some(start), Some(until)) => seconds(nanos(until) - start),
            _ => 0.0,
        };
        let transfer = Transfer {
            id: status.id.clone(),
            current: status.current,
            total: status.total,
            seconds,
            done: match status.completed.is_some() {
                true => Done::Yes,
                false => Done::No,
            },
        };
        let step = &mut self.all[id];
        match step.transfers.iter_mut().find(|t| t.id == transfer.id) {
            Some(known) => known.clone_from(&transfer),
            None => step.transfers.push(transfer.clone()),
        }
        if step.shown == Shown::Yes {
            news.push(News::Moved(id, transfer));
        }
    }

    fn take_warning(&mut self, warning: &VertexWarning, news: &mut Vec<News>) {
        if let Some(&id) = self.by_digest.get(&warning.vertex) {
            let text = String::from_utf8_lossy(&warning.short).into_owned();
            news.push(News::Warned(id, text));
        }
    }

    fn take_log(&mut self, log: &VertexLog, news: &mut Vec<News>) {
        let Some(&id) = self.by_digest.get(&log.vertex) else {
            return;
        };
        let step = &mut self.all[id];
        let at = log.timestamp.as_ref().map_or(0, nanos);
        for piece in log.msg.split_inclusive(|&byte| byte == b'\n') {
            if step.partial.is_empty() {
                step.partial_at = at;
            }
            for part in piece.chunks(LINE_LIMIT) {
                step.partial.extend_from_slice(part);
                if part.ends_with(b"\n") || step.partial.len() >= LINE_LIMIT {
                    let line = step.take_partial().expect("something was just added");
                    step.keep(line.clone());
                    if step.shown == Shown::Yes {
                        news.push(News::Wrote(id, line));
                    }
                }
            }
        }
    }
}

impl Step {
    /// Whether it was cut off because something else failed, or the user wanted the build no more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    /// How long it ran, in seconds; as of `now` on the farm's clock if it still does.
    pub(super) fn seconds(&self, now: i128) -> f64 {
        let mut spans: Vec<(Nanos, Nanos)> = self
            .intervals
            .iter()
            .map(|i| (i.start, i.end.unwrap_or(now).max(i.start)))
            .collect();
        spans.sort_unstable();
        let mut total = 0;
        let mut until = Nanos::MIN;
        for (start, end) in spans {
            total += (end - start.max(until).min(end)).max(0);
            until = until.max(end);
        }
        seconds(total)
    }

    fn take_partial(&mut self) -> Option<Line> {
        if self.partial.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.partial);
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        let start = self.intervals.iter().map(|i| i.start).min();
        let at = start.map_or(0.0, |start| seconds(self.partial_at - start).max(0.0));
        Some(Line { at, bytes })
    }

    fn keep(&mut self, line: Line) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

fn nanos(time: &Timestamp) -> Nanos {
    Nanos::from(time.seconds) * 1_000_000_000 + Nanos::from(time.nanos)
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
pub(super) mod tests {
    use croft_buildkit::api::pb::ProgressGroup;

    use super::*;

    pub(crate) fn at(tenths: i64) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 1000 + tenths / 10,
            nanos: (tenths % 10) as i32 * 100_000_000,
        })
    }

    pub(crate) fn vertex(name: &str, started: Option<i64>, completed: Option<i64>) -> Vertex {
        Vertex {
            digest: format!("sha256:{name}"),
            name: name.to_owned(),
            started: started.and_then(at),
            completed: completed.and_then(at),
            ..Vertex::default()
        }
    }

    pub(crate) fn log(name: &str, tenths: i64, text: &[u8]) -> VertexLog {
        VertexLog {
            vertex: format!("sha256:{name}"),
            timestamp: at(tenths),
            stream: 1,
            msg: text.to_vec(),
        }
    }

    pub(crate) fn status(vertexes: Vec<Vertex>, logs: Vec<VertexLog>) -> StatusResponse {
        StatusResponse {
            vertexes,
            logs,
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_line_is_told_when_it_is_whole_or_its_step_ends() {
        let mut steps = Steps::default();
        let line = |at, text: &str| {
            let bytes = text.as_bytes().to_vec();
            News::Wrote(0, Line { at, bytes })
        };
        let began = steps.take(&status(
            vec![vertex("a", Some(0), None)],
            vec![log("a", 5, b"one\ntw")],
        ));
        assert_eq!(began, [News::Began(0), line(0.5, "one")]);
        let more = steps.take(&status(vec![], vec![log("a", 6, b"o\nthree")]));
        assert_eq!(more, [line(0.5, "two")]);
        let end = steps.take(&status(vec![vertex("a", Some(0), Some(20))], vec![]));
        assert_eq!(end, [line(0.6, "three"), News::Ended(0)]);
        assert_eq!(steps.step(0).seconds(0), 2.0);
        assert_eq!(steps.counts(), (1, 1));
    }

    #[test]
    fn what_is_kept_of_a_log_is_bounded_and_long_lines_are_several() {
        let mut steps = Steps::default();
        steps.take(&status(vec![vertex("a", Some(0), None)], vec![]));
        for _ in 0..100 {
            steps.take(&status(vec![], vec![log("a", 1, &[b'x'; 10_000])]));
        }
        let step = steps.step(0);
        let kept: usize = step.tail.iter().map(|line| line.bytes.len()).sum();
        assert!(kept <= TAIL * (LINE_LIMIT + 10_000), "{kept}");
        assert!(step.partial.len() < LINE_LIMIT);
        assert!(step.tail.len() > 1);
    }

    #[test]
    fn a_group_is_one_step_from_its_first_to_its_last() {
        let mut steps = Steps::default();
        let grouped = |name: &str, started, completed| Vertex {
            progress_group: Some(ProgressGroup {
                id: "g".into(),
                name: "COPY --link".into(),
                weak: false,
            }),
            ..vertex(name, started, completed)
        };
        let first = steps.take(&status(vec![grouped("a", Some(0), None)], vec![]));
        assert_eq!(first, [News::Began(0)]);
        let both = vec![grouped("a", Some(0), Some(10)), grouped("b", Some(5), None)];
        assert_eq!(steps.take(&status(both, vec![])), []);
        let last = steps.take(&status(vec![grouped("b", Some(5), Some(30))], vec![]));
        assert_eq!(last, [News::Ended(0)]);
        assert_eq!((steps.step(0).seconds(0), steps.counts()), (3.0, (1, 1)));
        assert_eq!(steps.step(0).name, "COPY --link");
    }

    #[test]
    fn what_was_cut_off_did_not_fail() {
        let mut steps = Steps::default();
        let failed = |name: &str, error: &str| Vertex {
            error: error.into(),
            ..vertex(name, Some(0), Some(1))
        };
        let both = vec![
            failed("a", "exit code: 1"),
            failed("b", "x: context canceled"),
        ];
        steps.take(&status(both, vec![]));
        let names: Vec<_> = steps.failed().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["a"]);
    }
}
