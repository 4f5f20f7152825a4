//! Why a build, or a question to an agent, failed: one type for the control loops; the edges turn it into what their clients understand.

use super::progress::Progress;
use croft_proto::v1 as wire;

/// A failure with whose fault it is.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whose fault.
    pub kind: Kind,
    /// One line for people.
    pub message: String,
    /// What the engine answered, with its typed details; vertices are named as the client knows them.
    pub status: Option<tonic::Status>,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can't be served as it is.
    Invalid,
    /// The build's own: a command failed, a file is missing.
    Build,
    /// The farm's own; trying again may help.
    Farm,
    /// The stage registry's, which is the farm's too; trying again later may help, elsewhere it doesn't.
    StageRegistry,
    /// Nothing in the farm can do this.
    Unservable,
    /// Someone stopped it.
    Cancelled,
}

/// What most of the control loops return.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            status: None,
        }
    }

    /// The request can't be served as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// The build's own fault.
    pub fn build(message: impl Into<String>) -> Self {
        Self::new(Kind::Build, message)
    }

    /// The farm's own fault.
    pub fn farm(message: impl Into<String>) -> Self {
        Self::new(Kind::Farm, message)
    }

    /// Nothing in the farm can do this.
    pub fn unservable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unservable, message)
    }

    /// The farm is empty.
    pub fn no_agents() -> Self {
        Self::unservable(
            "no agent has joined this farm yet: start croft-agent beside an engine and point it here",
        )
    }

    /// Someone stopped it.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(Kind::Cancelled, message)
    }

    /// What an agent reported. Digests in the engine's details become those under which the client saw the vertices.
    pub fn of_agent(agent: &str, failure: &wire::Failure) -> Self {
        let kind = match failure.kind() {
            wire::failure::Kind::Build => Kind::Build,
            wire::failure::Kind::Cancelled => Kind::Cancelled,
            wire::failure::Kind::StageRegistry => Kind::StageRegistry,
            wire::failure::Kind::Farm
            | wire::failure::Kind::HandedBack
            | wire::failure::Kind::Unspecified => Kind::Farm,
        };
        let status = (!failure.status.is_empty())
            .then(|| croft_buildkit::errors::decode(&failure.status).ok())
            .flatten()
            .map(|status| {
                croft_buildkit::errors::rewrite_vertices(&status, |digest| {
                    Progress::client_digest(agent, digest)
                })
            });
        Self {
            kind,
            message: failure.message.clone(),
            status,
        }
    }

    /// Whether it is an engine that failed, as it said itself.
    pub fn is_of_engine(&self) -> bool {
        self.kind == Kind::Farm && self.status.is_some()
    }

    /// The same in other words.
    pub fn reworded(self, words: impl Fn(&str) -> String) -> Self {
        Self {
            message: words(&self.message),
            status: self
                .status
                .map(|status| croft_buildkit::errors::reworded(&status, &words)),
            ..self
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::farm(format!("the farm's database: {error}"))
    }
}

/// Reads a BuildKit message that an agent or client passed as bytes.
pub fn decode<M: prost::Message + Default>(what: &str, bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|error| Failure::invalid(format!("{what} can't be read: {error}")))
}
