//! What a client serves in its own session: its folders, secrets, credentials, agents and outputs.
//!
//! [`Services`] is what a build may ask its client for, and nothing else is given: folders, secrets and outputs by name, as many as were
//! named. It is a [`SessionHandler`], so [`Services::open`] is all that is needed to lend it to a farm or to an engine. Which folder is the
//! context, what a secret is called and where passwords are kept is the caller's business.
//!
//! How things are sent and filtered is BuildKit's own way, for buildx's sake: the same build gives the same files.

mod auth;
mod content;
mod files;
mod follow;
mod gopath;
mod ingest;
mod keys;
mod output;
mod packet;
mod patterns;
mod receive;
mod secrets;
mod ssh;
mod upload;
mod walk;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use tokio::io::AsyncRead;
use tonic::{Code, Status, transport::Channel};

pub use self::{
    auth::CredentialSource,
    output::Output,
    secrets::{SECRET_LIMIT, Secret, SecretError},
    ssh::{SshAgent, SshError},
};
use self::{ingest::Ingests, upload::Uploads};
use super::{
    EngineSession, SessionHandler, SessionId, SessionReply, SessionRequest, SessionResponse,
    SessionSpec,
    auth::METHODS as AUTH_METHODS,
    grpc::{grpc_error, status_response},
};
use crate::engine::Engine;

/// What a client serves. Give it what the build may use, then [`Services::open`] it.
#[derive(Default)]
pub struct Services {
    folders: HashMap<String, PathBuf>,
    outputs: HashMap<u32, Output>,
    secrets: HashMap<String, Secret>,
    agents: HashMap<String, SshAgent>,
    layouts: HashMap<String, PathBuf>,
    credentials: Option<Arc<dyn CredentialSource>>,
    uploads: Uploads,
    ingests: Ingests,
    sent: Arc<Sent>,
}

/// How much of the folders was sent so far.
#[derive(Debug, Default)]
pub struct Sent {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    /// Files whose content was asked for and sent.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Their content, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn count(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Services {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a build read a folder as the local source of this name (`context`, `dockerfile`, a named context). What a build's own
    /// patterns leave in is sent, as if root owned it; links are sent as links, and what they lead to outside is not.
    pub fn folder(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.folders.insert(name.into(), path.into());
        self
    }

    /// Takes what the exporter with this index in the solve's list writes; a solve's only exporter is 0.
    pub fn output(mut self, exporter: u32, output: Output) -> Self {
        self.outputs.insert(exporter, output);
        self
    }

    /// Gives a secret to steps that ask for it by this id.
    pub fn secret(mut self, id: impl Into<String>, secret: Secret) -> Self {
        self.secrets.insert(id.into(), secret);
        self
    }

    /// Lets steps that ask for this id (`default` if they name none) use an SSH agent.
    pub fn ssh(mut self, id: impl Into<String>, agent: SshAgent) -> Self {
        self.agents.insert(id.into(), agent);
        self
    }

    /// Answers questions for registry credentials. Without it there are none, and registries are used anonymously.
    pub fn credentials(mut self, source: Arc<dyn CredentialSource>) -> Self {
        self.credentials = Some(source);
        self
    }

    /// Lets a build read the blobs of an OCI layout folder under this store id: what an `oci-layout://` source's `oci.store` attribute,
    /// or a local cache import's store, names.
    pub fn layout(mut self, store: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.layouts.insert(store.into(), path.into());
        self
    }

    /// Lets a build read this stream once, under the URL that is returned: what the frontend is given as `context` when a tar archive or a
    /// Dockerfile comes on standard input.
    pub fn upload(&mut self, content: impl AsyncRead + Send + 'static) -> String {
        self.uploads.add(Box::pin(content))
    }

    /// How much is sent; keep it before the services are opened.
    pub fn sent(&self) -> Arc<Sent> {
        self.sent.clone()
    }

    /// The methods to say when the session is opened, each `/package.Service/Method`: of those services that have something to give.
    pub fn methods(&self) -> Vec<String> {
        let mut methods = AUTH_METHODS.to_vec();
        let mut also = |given: bool, more: &[&'static str]| {
            if given {
                methods.extend(more);
            }
        };
        also(!self.folders.is_empty(), &[files::METHOD]);
        also(!self.outputs.is_empty(), &[output::METHOD]);
        also(ingest::layout(&self.outputs).is_some(), &[ingest::METHOD]);
        also(!self.secrets.is_empty(), &[secrets::METHOD]);
        also(!self.agents.is_empty(), &ssh::METHODS);
        also(!self.layouts.is_empty(), &content::METHODS);
        also(!self.uploads.is_empty(), &[upload::METHOD]);
        methods.into_iter().map(str::to_owned).collect()
    }

    /// What the session says of itself. The shared key decides which of an engine's copies of local sources are brought up to date
    /// instead of sent anew: buildx uses the context folder's name and an id of the machine's own. The id is one that nobody used
    /// ([`SessionId::unique`]).
    pub fn spec(&self, id: SessionId, shared_key: impl Into<String>) -> SessionSpec {
        SessionSpec {
            id,
            name: String::new(),
            shared_key: shared_key.into(),
            methods: self.methods(),
        }
    }

    /// Opens a session over a connection to a farm, or to anything else that has BuildKit's Control service. When this returns, a solve
    /// may name it. It ends when it is dropped or closed, when the other side ends it, or with the connection
    /// ([`EngineSession::closed`]).
    ///
    /// # Errors
    /// What the other side says, or [`Code::Unavailable`] if it doesn't take the session in time.
    pub async fn open(
        self,
        channel: Channel,
        id: SessionId,
        shared_key: impl Into<String>,
    ) -> Result<EngineSession, Status> {
        let spec = self.spec(id, shared_key);
        EngineSession::open_over(channel, &spec, Arc::new(self)).await
    }

    /// Opens a session on an engine; otherwise as [`Services::open`].
    ///
    /// # Errors
    /// As [`Services::open`].
    pub async fn open_on(
        self,
        engine: &Engine,
        id: SessionId,
        shared_key: impl Into<String>,
    ) -> Result<EngineSession, Status> {
        let spec = self.spec(id, shared_key);
        EngineSession::open(engine, &spec, Arc::new(self)).await
    }
}

impl SessionHandler for Services {
    fn handle(&self, request: SessionRequest) -> SessionReply {
        let path = request.uri().path();
        match path {
            files::METHOD => files::answer(&self.folders, &self.sent, request).boxed(),
            output::METHOD => output::answer(&self.outputs, request).boxed(),
            ingest::METHOD => self.ingests.answer(&self.outputs, request).boxed(),
            secrets::METHOD => secrets::answer(self.secrets.clone(), request).boxed(),
            upload::METHOD => self.uploads.answer(&request).boxed(),
            _ if AUTH_METHODS.contains(&path) => {
                auth::answer(self.credentials.clone(), request).boxed()
            }
            _ if ssh::METHODS.contains(&path) => ssh::answer(self.agents.clone(), request).boxed(),
            _ if content::METHODS.contains(&path) => {
                content::answer(self.layouts.clone(), request).boxed()
            }
            _ => {
                let refused = grpc_error(Code::Unimplemented, format!("{path} is not served here"));
                async { refused }.boxed()
            }
        }
    }
}

/// A unary or streaming call's answer, whichever way it ended.
fn response(result: Result<SessionResponse, Status>) -> SessionResponse {
    result.unwrap_or_else(status_response)
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("folders", &self.folders)
            .field("outputs", &self.outputs)
            .field("secrets", &self.secrets.keys())
            .field("agents", &self.agents)
            .field("layouts", &self.layouts)
            .finish_non_exhaustive()
    }
}
