//! Builds whose client went with an earlier coordinator: what they do without it, and how they end when they can't.
//!
//! They go on as far as they need no session. What an engine asks the client for is refused, but for credentials: there it is told to try
//! with the farm's own, or with none, as many registries let everybody in.

use croft_buildkit::session::auth::{self, AuthCall};
use croft_buildkit::session::{SessionResponse, grpc_error};
use croft_scheduler::{AgentId, AttemptId};
use tonic::Code;

use super::build::{Build, Client};
use super::failure::Failure;

/// Why such a build ends before it is done.
const GONE: &str = "the coordinator was restarted and the client is gone";
/// Of what registries say to those whom they turn away.
const TURNED_AWAY: [&str; 4] = ["401", "403", "denied", "authoriz"];
/// What engines say of a command that failed by itself: it may have printed anything.
const COMMAND_FAILED: &str = "did not complete successfully";

/// What was wanted of a client that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want {
    /// An agent's engine called its session for this, and was refused.
    Call(AgentId, &'static str),
    /// An engine asked for credentials for this registry, and was given none.
    Credentials(String),
}

impl Build {
    /// Whether the client went with an earlier coordinator.
    pub(super) fn is_alone(&self) -> bool {
        self.client == Client::Gone
    }

    /// Answers a call of a session whose client is gone. `None` if that is only just so: then the build ends over it anyway.
    pub fn answer_alone(&self, agent: AgentId, path: &str) -> Option<SessionResponse> {
        if !self.is_alone() {
            return None;
        }
        let what = wanted(path);
        self.wants(Want::Call(agent, what));
        // Agents know the first words.
        let message = format!("no active session: {}", refused(what));
        // An engine asks for ever whether a blob that is unavailable can be written now.
        let code = match path {
            WRITE => Code::FailedPrecondition,
            _ => Code::Unavailable,
        };
        Some(grpc_error(code, message))
    }

    /// Answers an engine's question about credentials when the client is gone.
    pub fn answer_credentials_alone(&self, call: &AuthCall) -> Option<SessionResponse> {
        if !self.is_alone() {
            return None;
        }
        Some(match call {
            AuthCall::Credentials(_) => {
                self.wants(Want::Credentials(call.host().to_owned()));
                auth::anonymous()
            }
            _ => auth::no_token_authority(),
        })
    }

    /// What an attempt's failure really is if the build failed for want of its client: nobody's fault, and of no use to repeat.
    pub(super) fn for_want_of_client(
        &self,
        agent: AgentId,
        attempt: AttemptId,
        failure: &Failure,
    ) -> Option<Failure> {
        if !self.is_alone() {
            return None;
        }
        let said = &failure.message;
        let stage = self.tried(attempt)?;
        let by_itself = said.contains(COMMAND_FAILED);
        let wanted = self.lock().wanted.clone();
        let what = wanted.iter().find_map(|want| match want {
            // A command that is refused the agent for its keys fails by itself.
            Want::Call(by, what) if by_itself => {
                (*by == agent && *what == SSH).then(|| (*what).to_owned())
            }
            Want::Call(_, what) => said.contains(&refused(what)).then(|| (*what).to_owned()),
            Want::Credentials(host) => {
                let turned_away = TURNED_AWAY.iter().any(|text| said.contains(text));
                let there = said.contains(host.as_str()) && turned_away;
                (there && !by_itself).then(|| format!("its credentials for {host}"))
            }
        })?;
        Some(self.gone(&format!("{} needs {what}", self.stage_name(stage))))
    }

    /// What it really is that a registry refused to let the coordinator do.
    pub(super) fn refused(&self, failure: Failure) -> Failure {
        match self.is_alone() {
            true => self.gone(&format!(
                "its credentials would be needed ({})",
                failure.message
            )),
            false => failure,
        }
    }

    fn wants(&self, want: Want) {
        self.lock().wanted.insert(want);
    }

    fn gone(&self, what: &str) -> Failure {
        let what = self.in_clients_words(what);
        Failure::cancelled(format!("{GONE}: {what}"))
    }
}

const SSH: &str = "its ssh agent";
/// The call with which engines fill a layout.
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const OUTPUT: &str = "its folder for the output";

/// What engines are told that call its session.
fn refused(what: &str) -> String {
    format!("the client is gone with {what}")
}

/// What a call of a session is for, to people.
fn wanted(path: &str) -> &'static str {
    if path == WRITE {
        return OUTPUT;
    }
    match path.trim_start_matches('/').split('/').next() {
        Some("moby.filesync.v1.FileSync" | "moby.upload.v1.Upload") => "its files",
        Some("moby.filesync.v1.FileSend") => OUTPUT,
        Some("moby.buildkit.secrets.v1.Secrets") => "its secrets",
        Some("moby.sshforward.v1.SSH") => SSH,
        Some("containerd.services.content.v1.Content") => "its OCI layouts",
        _ => "its session",
    }
}
