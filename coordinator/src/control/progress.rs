//! One build's progress: what its agents' engines report, made into one story that a client can follow from any point.
//!
//! Readers hold a position in a bounded log, so a reader that stalls costs nothing: what it missed is replaced by the present state of
//! each vertex. What a vertex is called for people (which agent ran it) is decided here; the engine's own words are not changed.

mod reader;
mod step;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::WarnRequest;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexWarning};
use croft_planner::StageId;
use prost::Message as _;
use tokio::sync::watch;

use super::outputs::MAX_EXPORTERS;
use crate::registry;

pub use reader::Reader;
pub use step::{Phase, Step};

/// The log is cut at its old end beyond this many bytes (as encoded).
const LOG_BYTES: usize = 8 << 20;
/// Vertices of one build that are told apart; more are dropped, as no display could show them.
const MAX_VERTICES: usize = 50_000;
/// By this text clients tell a vertex that was given up from one that failed.
const CANCELED: &str = "context canceled";
/// Longest text of a status, name or error that is kept, in bytes.
const MAX_TEXT: usize = 16 << 10;

/// Where a report comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The build's keeper on the agent: the frontend and the stages.
    Keeper,
    /// An export beside it: the name of what is exported, for people.
    Export {
        /// Tells this export from others of the build.
        id: String,
        /// What its vertex is called; `None`: as the engine calls it.
        title: Option<String>,
    },
}

/// The progress of one build. Shared by the loops that write it and the clients that read it.
pub struct Progress {
    inner: Mutex<Inner>,
    /// Position after the newest entry; `None` when no more will come.
    end: watch::Sender<Option<u64>>,
}

#[derive(Default)]
struct Inner {
    log: VecDeque<Entry>,
    /// Position of the log's first entry.
    first: u64,
    bytes: usize,
    /// The present state of each vertex, in order of appearance, under its digest for the client.
    vertices: Vec<Vertex>,
    places: HashMap<String, usize>,
    /// Who reported a vertex of an agent first: later reports by others are repetitions.
    owners: HashMap<String, Source>,
    sessions: HashSet<String>,
    /// The stages of vertices, by their digests for the client.
    stages: HashMap<String, StageId>,
    /// Vertices may have been told before, to somebody else.
    resumed: bool,
    closed: bool,
}

#[derive(Clone)]
struct Entry {
    status: Arc<StatusResponse>,
    bytes: usize,
}

/// How a story ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that was begun is done.
    Complete,
    /// What was under way was given up.
    BrokenOff,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            end: watch::Sender::new(Some(0)),
        }
    }
}

impl Progress {
    /// The rest of a story whose beginning an earlier coordinator has told: of what had begun then, more may be said.
    pub fn resumed() -> Self {
        let progress = Self::default();
        progress.lock().resumed = true;
        progress
    }

    /// The build's sessions: engines name exporters' vertices after them.
    pub fn sessions(&self, ids: impl IntoIterator<Item = String>) {
        self.lock().sessions.extend(ids);
    }

    /// Says to which stage a vertex of an agent's engine belongs.
    pub fn belongs(&self, agent: &str, digest: &str, stage: StageId) {
        let digest = Self::client_digest(agent, digest);
        let mut inner = self.lock();
        if inner.stages.len() < MAX_VERTICES {
            inner.stages.insert(digest, stage);
        }
    }

    /// To which stage a vertex belongs, by its digest for the client.
    pub fn stage_of(&self, digest: &str) -> Option<StageId> {
        self.lock().stages.get(digest).copied()
    }

    /// Takes in what an agent's engine said.
    pub fn report(&self, agent: &str, source: &Source, status: StatusResponse) {
        let mut inner = self.lock();
        let status = inner.told_apart(agent, source, status);
        self.push(&mut inner, status);
    }

    /// A step of the coordinator's own (waiting, publishing). It is over when the handle is dropped.
    pub fn step(self: &Arc<Self>, name: &str) -> Step {
        let digest = registry::digest(format!("croft step {name} {}", nanos(now())).as_bytes());
        let vertex = Vertex {
            digest,
            name: name.to_owned(),
            started: Some(now()),
            ..Vertex::default()
        };
        let step = Step {
            progress: Arc::clone(self),
            vertex,
        };
        step.send();
        step
    }

    /// Takes in a warning of the client's own gateway function.
    pub fn warn(&self, warning: WarnRequest) {
        let mut inner = self.lock();
        let warning = VertexWarning {
            vertex: warning.digest,
            level: warning.level,
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
            info: warning.info,
            ranges: warning.ranges,
        };
        self.push(
            &mut inner,
            StatusResponse {
                warnings: vec![warning],
                ..StatusResponse::default()
            },
        );
    }

    /// Ends the story: vertices that were left open are closed, readers come to their end.
    pub fn close(&self, ending: Ending) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let open: Vec<Vertex> = inner
            .vertices
            .iter()
            .filter(|v| v.started.is_some() && v.completed.is_none())
            .map(|v| Vertex {
                completed: Some(now()),
                error: match ending {
                    Ending::Complete => String::new(),
                    Ending::BrokenOff => CANCELED.to_owned(),
                },
                ..v.clone()
            })
            .collect();
        if !open.is_empty() {
            self.push(
                &mut inner,
                StatusResponse {
                    vertexes: open,
                    ..StatusResponse::default()
                },
            );
        }
        inner.closed = true;
        self.end.send_replace(None);
    }

    /// The engine's digest of a vertex as the client knows it.
    pub fn client_digest(agent: &str, digest: &str) -> String {
        registry::digest(format!("{agent} {digest}").as_bytes())
    }

    /// Reads from the beginning.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            progress: Arc::clone(self),
            end: self.end.subscribe(),
            next: 0,
        }
    }

    fn push(&self, inner: &mut Inner, status: StatusResponse) {
        let empty = status.vertexes.is_empty()
            && status.statuses.is_empty()
            && status.logs.is_empty()
            && status.warnings.is_empty();
        if empty || inner.closed {
            return;
        }
        inner.remember(&status.vertexes);
        let bytes = status.encoded_len();
        inner.bytes += bytes;
        inner.log.push_back(Entry {
            status: Arc::new(status),
            bytes,
        });
        while inner.bytes > LOG_BYTES && inner.log.len() > 1 {
            if let Some(old) = inner.log.pop_front() {
                inner.bytes -= old.bytes;
                inner.first += 1;
            }
        }
        let end = inner.first + inner.log.len() as u64;
        self.end.send_replace(Some(end));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Renames vertices so that agents and exports don't collide, and drops repetitions.
    fn told_apart(
        &mut self,
        agent: &str,
        source: &Source,
        mut status: StatusResponse,
    ) -> StatusResponse {
        let exporters: HashSet<String> = match source {
            Source::Keeper => HashSet::new(),
            Source::Export { .. } => self
                .sessions
                .iter()
                .flat_map(|session| {
                    (0..MAX_EXPORTERS).map(move |at| format!("{session}-export-{at}"))
                })
                .map(|id| registry::digest(id.as_bytes()))
                .collect(),
        };
        let rename = |digest: &str| match source {
            Source::Export { id, .. } if exporters.contains(digest) => {
                Progress::client_digest(&format!("{agent} {id}"), digest)
            }
            _ => Progress::client_digest(agent, digest),
        };
        status.vertexes.retain_mut(|vertex| {
            let exports = exporters.contains(&vertex.digest);
            vertex.digest = rename(&vertex.digest);
            vertex.inputs.iter_mut().for_each(|i| *i = rename(i));
            clip(&mut vertex.name);
            clip(&mut vertex.error);
            if let (
                true,
                Source::Export {
                    title: Some(title), ..
                },
            ) = (exports, source)
            {
                vertex.name.clone_from(title);
            }
            vertex.name = with_agent(agent, &vertex.name);
            if !self.places.contains_key(&vertex.digest) && self.vertices.len() >= MAX_VERTICES {
                return false;
            }
            let owner = self
                .owners
                .entry(vertex.digest.clone())
                .or_insert_with(|| source.clone());
            owner == source
        });
        let (owners, resumed) = (&mut self.owners, self.resumed);
        let mut known = |digest: &String| match resumed {
            true => {
                owners
                    .entry(digest.clone())
                    .or_insert_with(|| source.clone())
                    == source
            }
            false => owners.get(digest) == Some(source),
        };
        status.statuses.retain_mut(|s| {
            s.vertex = rename(&s.vertex);
            clip(&mut s.name);
            clip(&mut s.id);
            known(&s.vertex)
        });
        status.logs.retain_mut(|log| {
            log.vertex = rename(&log.vertex);
            known(&log.vertex)
        });
        status.warnings.retain_mut(|warning| {
            warning.vertex = rename(&warning.vertex);
            true
        });
        status
    }

    fn remember(&mut self, vertices: &[Vertex]) {
        for vertex in vertices {
            match self.places.get(&vertex.digest) {
                Some(&place) => self.vertices[place] = vertex.clone(),
                None => {
                    self.places
                        .insert(vertex.digest.clone(), self.vertices.len());
                    self.vertices.push(vertex.clone());
                }
            }
        }
    }
}

/// A vertex's name with the agent that has it: buildx's own way of naming nodes.
fn with_agent(agent: &str, name: &str) -> String {
    match name.strip_prefix('[') {
        Some(rest) => format!("[{agent} {rest}"),
        None => format!("[{agent}] {name}"),
    }
}

fn clip(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&i| text.is_char_boundary(i));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn nanos(t: Timestamp) -> i128 {
    i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos)
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::VertexLog;

    use super::*;

    fn vertex(digest: &str, name: &str) -> StatusResponse {
        StatusResponse {
            vertexes: vec![Vertex {
                digest: digest.into(),
                name: name.into(),
                started: Some(now()),
                ..Vertex::default()
            }],
            ..StatusResponse::default()
        }
    }

    fn export(id: &str) -> Source {
        Source::Export {
            id: id.into(),
            title: Some(format!("exporting image {id}")),
        }
    }

    async fn all(progress: &Arc<Progress>) -> Vec<Vertex> {
        let mut reader = progress.reader();
        let mut vertices = Vec::new();
        while let Some(status) = reader.next().await {
            vertices.extend(status.vertexes.clone());
        }
        vertices
    }

    #[tokio::test]
    async fn the_same_vertex_on_two_agents_is_two_vertices_that_name_them() {
        let progress = Arc::new(Progress::default());
        progress.report(
            "a",
            &Source::Keeper,
            vertex("sha256:1", "[linux/amd64 1/2] RUN x"),
        );
        progress.report(
            "b",
            &Source::Keeper,
            vertex("sha256:1", "[linux/amd64 1/2] RUN x"),
        );
        progress.close(Ending::Complete);
        let vertices = all(&progress).await;
        assert_eq!(vertices[0].name, "[a linux/amd64 1/2] RUN x");
        assert_eq!(vertices[1].name, "[b linux/amd64 1/2] RUN x");
        assert_ne!(vertices[0].digest, vertices[1].digest);
    }

    #[tokio::test]
    async fn what_an_export_repeats_is_dropped_but_two_exports_stay_apart() {
        let progress = Arc::new(Progress::default());
        progress.sessions(["s".to_owned()]);
        let exporter = registry::digest(b"s-export-0");
        progress.report("a", &Source::Keeper, vertex("sha256:1", "[x] RUN"));
        progress.report("a", &export("1"), vertex("sha256:1", "[x] RUN"));
        progress.report("a", &export("1"), vertex(&exporter, "exporting to image"));
        progress.report("a", &export("2"), vertex(&exporter, "exporting to image"));
        progress.close(Ending::Complete);
        let names: Vec<String> = all(&progress)
            .await
            .into_iter()
            .filter(|v| v.completed.is_none())
            .map(|v| v.name)
            .collect();
        assert_eq!(
            names,
            [
                "[a x] RUN",
                "[a] exporting image 1",
                "[a] exporting image 2"
            ]
        );
    }

    #[tokio::test]
    async fn a_reader_that_fell_behind_sees_how_each_vertex_stands() {
        let progress = Arc::new(Progress::default());
        let mut slow = progress.reader();
        progress.report("a", &Source::Keeper, vertex("sha256:1", "one"));
        let line = vec![b'x'; 64 << 10];
        for _ in 0..(2 * LOG_BYTES / line.len()) {
            progress.report(
                "a",
                &Source::Keeper,
                StatusResponse {
                    logs: vec![VertexLog {
                        vertex: "sha256:1".into(),
                        msg: line.clone(),
                        ..VertexLog::default()
                    }],
                    ..StatusResponse::default()
                },
            );
        }
        assert!(progress.lock().bytes <= LOG_BYTES);
        let first = slow.next().await.unwrap();
        assert_eq!(first.vertexes[0].name, "[a] one");
    }

    #[tokio::test]
    async fn a_closed_story_leaves_no_vertex_running() {
        let progress = Arc::new(Progress::default());
        progress.report("a", &Source::Keeper, vertex("sha256:1", "one"));
        progress.close(Ending::Complete);
        progress.report("a", &Source::Keeper, vertex("sha256:2", "late"));
        let vertices = all(&progress).await;
        assert_eq!(vertices.len(), 2);
        assert!(vertices[1].completed.is_some());
        assert_eq!(vertices[1].error, "");
    }

    #[tokio::test]
    async fn what_ran_when_a_story_broke_off_was_canceled() {
        let progress = Arc::new(Progress::default());
        progress.report("a", &Source::Keeper, vertex("sha256:1", "one"));
        progress.close(Ending::BrokenOff);
        assert_eq!(all(&progress).await[1].error, CANCELED);
    }
}
