//! A build's course as its engines tell it in passing: to which stage each vertex belongs, and how long results were exported and fetched.
//! Kept while the build lives, for those who ask afterwards where the time went; nothing is decided by it.

use std::collections::HashMap;
use std::time::Duration;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use croft_planner::{Bound, EdgeId, OpDigest, Output, StageId};
use croft_scheduler::AgentId;

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Course {
    places: HashMap<(AgentId, OpDigest), Place>,
    fetched: HashMap<(AgentId, EdgeId), Span>,
    exported: HashMap<Output, Span>,
}

/// Where a vertex belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    stage: StageId,
    /// Whose result it fetches.
    fetches: Option<EdgeId>,
}

/// From its first beginning to its last end, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn took(self) -> Duration {
        Duration::from_millis(self.to.saturating_sub(self.from).unsigned_abs())
    }
}

impl Course {
    /// An agent makes an output of this stage with this definition. What the definition shares with another stage's belongs to the one that
    /// was bound first: it is the one that is taken from.
    pub(super) fn bound(&mut self, stage: StageId, agent: AgentId, bound: &Bound) {
        let own = bound.planned.keys().map(|digest| (digest, None));
        let images = bound
            .images
            .iter()
            .map(|(digest, edge)| (digest, Some(*edge)));
        for (digest, fetches) in images.chain(own) {
            self.places
                .entry((agent, digest.clone()))
                .or_insert(Place { stage, fetches });
        }
    }

    /// Takes in what an agent's engine says of stages. Returns the vertices that belong to one, by their digests on that engine.
    pub(super) fn hear<'a>(
        &mut self,
        agent: AgentId,
        status: &'a StatusResponse,
    ) -> Vec<(&'a str, StageId)> {
        let place = |digest: &str| {
            self.places
                .get(&(agent, OpDigest::new(digest.to_owned())))
                .copied()
        };
        let mut known = Vec::new();
        let mut fetches = Vec::new();
        for vertex in &status.vertexes {
            let Some(place) = place(&vertex.digest) else {
                continue;
            };
            known.push((vertex.digest.as_str(), place.stage));
            fetches.extend(
                place
                    .fetches
                    .map(|edge| (edge, vertex.started, vertex.completed)),
            );
        }
        for step in &status.statuses {
            let edge = place(&step.vertex).and_then(|place| place.fetches);
            fetches.extend(edge.map(|edge| (edge, step.started, step.completed)));
        }
        for (edge, started, completed) in fetches {
            extend(&mut self.fetched, (agent, edge), started, completed);
        }
        known
    }

    /// Takes in what an engine says of an export.
    pub(super) fn hear_export(&mut self, output: Output, status: &StatusResponse) {
        for vertex in &status.vertexes {
            extend(&mut self.exported, output, vertex.started, vertex.completed);
        }
    }

    /// How long an agent's engine fetched and unpacked these results, as far as it did.
    pub(super) fn fetched(&self, agent: AgentId, edges: &[EdgeId]) -> Vec<(EdgeId, Duration)> {
        let took = |edge: &EdgeId| Some((*edge, self.fetched.get(&(agent, *edge))?.took()));
        edges.iter().filter_map(took).collect()
    }

    /// How long it took to export an output.
    pub(super) fn exported(&self, output: Output) -> Option<Duration> {
        self.exported.get(&output).map(|span| span.took())
    }
}

fn extend<K: std::hash::Hash + Eq>(
    spans: &mut HashMap<K, Span>,
    key: K,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
) {
    let Some(from) = started.map(millis) else {
        return;
    };
    let to = completed.map_or(from, millis).max(from);
    let span = spans.entry(key).or_insert(Span { from, to });
    span.from = span.from.min(from);
    span.to = span.to.max(to);
}

fn millis(at: Timestamp) -> i64 {
    at.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(at.nanos) / 1_000_000)
}
