//! Steps of the coordinator's own, as a build's client sees them beside those of engines.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};

use super::{Progress, now};

/// A step of the coordinator's own in the build's progress.
pub struct Step {
    pub(super) progress: Arc<Progress>,
    pub(super) vertex: Vertex,
}

impl Step {
    /// Something within the step, shown below it with its own clock: begun now, and done when `done`.
    pub fn status(&self, name: &str, stage: Phase) {
        let at = now();
        let status = VertexStatus {
            id: name.to_owned(),
            vertex: self.vertex.digest.clone(),
            name: name.to_owned(),
            timestamp: Some(at),
            started: Some(at),
            completed: (stage == Phase::Done).then_some(at),
            ..VertexStatus::default()
        };
        self.push(StatusResponse {
            statuses: vec![status],
            ..StatusResponse::default()
        });
    }

    /// A warning, which buildx shows below the step and again at the end.
    pub fn warn(&self, text: &str) {
        self.push(StatusResponse {
            warnings: vec![VertexWarning {
                vertex: self.vertex.digest.clone(),
                level: 1,
                short: text.as_bytes().to_vec(),
                ..VertexWarning::default()
            }],
            ..StatusResponse::default()
        });
    }

    /// A line of text below the step.
    pub fn log(&self, line: &str) {
        self.push(StatusResponse {
            logs: vec![VertexLog {
                vertex: self.vertex.digest.clone(),
                timestamp: Some(now()),
                stream: 1,
                msg: format!("{line}\n").into_bytes(),
            }],
            ..StatusResponse::default()
        });
    }

    /// Ends the step with an error.
    pub fn fail(mut self, error: &str) {
        error.clone_into(&mut self.vertex.error);
    }

    pub(super) fn send(&self) {
        self.push(StatusResponse {
            vertexes: vec![self.vertex.clone()],
            ..StatusResponse::default()
        });
    }

    fn push(&self, status: StatusResponse) {
        let mut inner = self.progress.lock();
        self.progress.push(&mut inner, status);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.vertex.completed = Some(now());
        self.send();
    }
}

/// How far something within a [`Step`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It began.
    Begun,
    /// It is over.
    Done,
}
