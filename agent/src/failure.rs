//! Why something failed, and whose fault that is: what the coordinator needs to decide whether to try again elsewhere.

use croft_buildkit::{
    api::pb::{self, op::Op as Kind},
    errors::{self, Fault},
};
use prost::Message;
use tonic::Status;

use crate::{stop::StopReason, work::Output};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The build's: it would fail anywhere.
    Build,
    /// The farm's: elsewhere, or later, it may work.
    Farm,
    /// The stage registry's: later it may work.
    StageRegistry,
    /// Nobody's: the coordinator wanted it so.
    Cancelled,
    /// Nobody's: the agent is being stopped.
    HandedBack,
}

/// A failure, ready to be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault.
    pub blame: Blame,
    /// One line for people.
    pub message: String,
    /// The engine's own status, encoded with all its details; empty if there was none.
    pub status: Vec<u8>,
}

impl Failure {
    /// The farm's own, without an engine's word.
    pub fn farm(message: impl Into<String>) -> Self {
        Self {
            blame: Blame::Farm,
            message: message.into(),
            status: Vec::new(),
        }
    }

    /// The end of what an agent that is being stopped does not do.
    pub fn handed_back(message: impl Into<String>) -> Self {
        Self {
            blame: Blame::HandedBack,
            ..Self::farm(message)
        }
    }

    /// The end of what was told to stop.
    pub fn stopped(reason: StopReason) -> Self {
        let (blame, message) = match reason {
            StopReason::Cancelled(reason) => (Blame::Cancelled, reason),
            StopReason::LeaseLost => (Blame::Cancelled, "the lease was lost".to_owned()),
            StopReason::AgentEnds => (Blame::HandedBack, "the agent was stopped".to_owned()),
        };
        Self {
            blame,
            message,
            status: Vec::new(),
        }
    }

    /// What an engine answered to something that has nothing to do with stage images.
    pub fn of_engine(status: &Status) -> Self {
        let blame = match errors::fault(status) {
            Fault::Build => Blame::Build,
            // Nobody on this side cancelled, or the answer would not have been waited for: the engine did.
            Fault::Engine | Fault::Session | Fault::Cancelled => Blame::Farm,
        };
        Self {
            blame,
            message: one_line(status.message()),
            status: errors::encode(status),
        }
    }

    /// Session calls were cut off meanwhile: unless it was a command that failed, that is why.
    pub fn blame_tunnel(&mut self) {
        if self.blame == Blame::Build && !self.message.contains(COMMAND_FAILED) {
            self.blame = Blame::Farm;
        }
    }

    /// The engine's disk was nearly full meanwhile: unless it was something else than a command that failed, that may be why.
    pub fn blame_disk(&mut self) {
        if self.blame == Blame::Build && self.message.contains(COMMAND_FAILED) {
            self.blame = Blame::Farm;
            self.message += " (while the engine's disk was nearly full)";
        }
    }

    /// What an engine answered to the solving or the export of `output`. `stages` are the farm's own images, whose registry is the
    /// farm's to keep going.
    pub fn of_output(status: &Status, output: &Output, stages: &StageRegistry) -> Self {
        let mut failure = Self::of_engine(status);
        if stages.is_to_blame(status, output) {
            failure.blame = Blame::StageRegistry;
        }
        failure
    }
}

/// What engines say of a command that failed by itself. It may have printed anything, and its exit code is its own.
const COMMAND_FAILED: &str = "did not complete successfully";

/// What engines say when their own disk is full, whatever they wrote to it.
const DISK_FULL: &str = "no space left on device";

/// Whether an answer only says that something else was given up.
pub fn is_mere_cancellation(status: &Status) -> bool {
    errors::fault(status) == Fault::Cancelled
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where stage images are: `host[:port][/path]`, or unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageRegistry(Option<String>);

impl From<String> for StageRegistry {
    fn from(place: String) -> Self {
        let place = place.trim_end_matches('/');
        Self((!place.is_empty()).then(|| place.to_owned()))
    }
}

impl StageRegistry {
    /// Whether `image` is one of the farm's stage images.
    fn holds(&self, image: &str) -> bool {
        self.0
            .as_deref()
            .and_then(|place| image.strip_prefix(place))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@', ':']))
    }

    fn is_to_blame(&self, status: &Status, output: &Output) -> bool {
        let Some(place) = &self.0 else { return false };
        let host = place.split('/').next().unwrap_or(place);
        let said = status.message();
        if !said.contains(host) || [COMMAND_FAILED, DISK_FULL].iter().any(|s| said.contains(s)) {
            return false;
        }
        let pushes = output
            .export
            .as_ref()
            .and_then(|export| export.attrs.get("name"))
            .is_some_and(|names| names.split(',').any(|name| self.holds(name.trim())));
        pushes
            || output
                .definitions()
                .any(|definition| self.feeds(definition))
    }

    fn feeds(&self, definition: &pb::Definition) -> bool {
        definition
            .def
            .iter()
            .filter_map(|op| pb::Op::decode(op.as_slice()).ok())
            .any(|op| match op.op {
                Some(Kind::Source(source)) => source
                    .identifier
                    .strip_prefix("docker-image://")
                    .is_some_and(|image| self.holds(image)),
                _ => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Export;

    const PUSH_REFUSED: &str =
        "failed to push stages.farm:5000/p/x: unexpected status: 500 Internal Server Error";

    fn output(export_to: Option<&str>, from: Option<&str>) -> Output {
        let source = from.map(|from| {
            let source = pb::SourceOp {
                identifier: format!("docker-image://{from}"),
                ..Default::default()
            };
            let op = pb::Op {
                op: Some(Kind::Source(source)),
                ..Default::default()
            };
            pb::Definition {
                def: vec![op.encode_to_vec()],
                ..Default::default()
            }
        });
        let export = export_to.map(|name| Export {
            kind: "image".into(),
            attrs: [("name".to_owned(), name.to_owned())].into(),
            title: String::new(),
            part: None,
        });
        Output {
            id: "o".to_owned().into(),
            definition: source,
            export,
            delivery: None,
        }
    }

    fn check(message: &str, output: &Output, expect: Blame) {
        let stages = StageRegistry::from("stages.farm:5000/p".to_owned());
        assert_eq!(
            Failure::of_output(&Status::unknown(message), output, &stages).blame,
            expect,
            "{message}"
        );
    }

    #[test]
    fn a_stage_registry_that_fails_or_has_lost_an_image_is_told_apart() {
        check(
            PUSH_REFUSED,
            &output(Some("stages.farm:5000/p/x"), None),
            Blame::StageRegistry,
        );
        let pull =
            "failed to resolve source metadata for stages.farm:5000/p/x@sha256:00: not found";
        check(
            pull,
            &output(
                Some("user.example/app"),
                Some("stages.farm:5000/p/x@sha256:00"),
            ),
            Blame::StageRegistry,
        );
        let away = Status::unavailable("dial tcp: lookup stages.farm:5000: no such host");
        let stages = StageRegistry::from("stages.farm:5000/p".to_owned());
        let output = output(Some("stages.farm:5000/p/x"), None);
        assert_eq!(
            Failure::of_output(&away, &output, &stages).blame,
            Blame::StageRegistry
        );
    }

    #[test]
    fn the_repository_that_the_coordinator_names_is_the_stage_registrys_too() {
        let place = "stages.farm:5000/croft/default";
        let stages = StageRegistry::from(place.to_owned());
        let image = format!("{place}@sha256:00");
        for output in [output(Some(place), None), output(None, Some(&image))] {
            let failed = Status::unknown(format!("failed to push or pull {place}: 503"));
            assert_eq!(
                Failure::of_output(&failed, &output, &stages).blame,
                Blame::StageRegistry
            );
        }
    }

    #[test]
    fn an_engine_without_room_for_a_stage_image_is_not_its_registrys_fault() {
        let full = Status::unknown(
            "failed to copy: stages.farm:5000/p/x@sha256:00: write /blobs: no space left on device",
        );
        let stages = StageRegistry::from("stages.farm:5000/p".to_owned());
        let output = output(None, Some("stages.farm:5000/p/x@sha256:00"));
        assert_ne!(
            Failure::of_output(&full, &output, &stages).blame,
            Blame::StageRegistry
        );
    }

    #[test]
    fn a_users_own_registry_is_not() {
        check(
            "failed to push user.example/app: 403 Forbidden",
            &output(Some("user.example/app"), None),
            Blame::Build,
        );
        // Another project of the same registry.
        check(
            PUSH_REFUSED,
            &output(Some("stages.farm:5000/pp/x"), None),
            Blame::Build,
        );
    }

    #[test]
    fn a_command_that_speaks_of_the_stage_registry_fails_by_itself() {
        let message = "process \"/bin/sh -c wget stages.farm:5000\" did not complete successfully: exit code: 1";
        check(
            message,
            &output(None, Some("stages.farm:5000/p/x@sha256:00")),
            Blame::Build,
        );
    }

    #[test]
    fn a_command_that_fails_on_a_full_disk_is_tried_again_and_a_file_that_is_missing_is_not() {
        let after = |message: &str| {
            let mut failure = Failure::of_engine(&Status::unknown(message));
            failure.blame_disk();
            failure.blame
        };
        let command = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2";
        assert_eq!(after(command), Blame::Farm);
        assert_eq!(after("\"/x\": not found"), Blame::Build);
    }

    #[test]
    fn without_a_stage_registry_nothing_is_its_fault() {
        let output = output(Some("stages.farm:5000/p/x"), None);
        let failure = Failure::of_output(
            &Status::unknown(PUSH_REFUSED),
            &output,
            &StageRegistry::from(String::new()),
        );
        assert_eq!(failure.blame, Blame::Build);
    }

    #[test]
    fn the_engines_word_is_kept_whole_and_the_message_is_one_line() {
        let status = Status::not_found("no such\n  file");
        let failure = Failure::of_engine(&status);
        assert_eq!(failure.message, "no such file");
        assert_eq!(
            errors::decode(&failure.status).expect("a status").message(),
            status.message()
        );
    }
}
