//! What the coordinator asks for, in the agent's own words. `convert` makes these from the protocol's messages.

use std::{collections::HashMap, sync::Arc};

use croft_buildkit::{
    api::{
        control::{CacheOptionsEntry, DiskUsageRequest, Exporter, PruneRequest},
        frontend::{self, result::Result as Refs},
        pb,
        sourcepolicy::Policy,
    },
    session::{SessionId, SessionSpec},
};

use crate::ids::{AttemptId, BuildId, OutputId, Token};

/// What every solve of one build needs to know.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// The build.
    pub build: BuildId,
    /// All sessions that the build names; the first is the build's own.
    pub sessions: Vec<SessionSpec>,
    /// Granted entitlements.
    pub entitlements: Vec<String>,
    /// What may be fetched, and what is fetched in its stead.
    pub source_policy: Option<Policy>,
    /// Caches to look into.
    pub cache_imports: Vec<CacheOptionsEntry>,
    /// The W3C trace context of the build.
    pub traceparent: Option<String>,
}

impl BuildContext {
    /// The build's own session.
    pub fn session(&self) -> Option<&SessionId> {
        self.sessions.first().map(|session| &session.id)
    }
}

/// A stage to run under a lease.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The try.
    pub attempt: AttemptId,
    /// Its token.
    pub token: Token,
    /// The stage's name, for people.
    pub stage: String,
    /// The build.
    pub context: Arc<BuildContext>,
    /// What is to come out.
    pub outputs: Vec<Output>,
}

/// One result of a stage.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its name.
    pub id: OutputId,
    /// What to solve; none is the scratch image.
    pub definition: Option<pb::Definition>,
    /// Where it goes; none leaves it with the engine.
    pub export: Option<Export>,
    /// Several results that are handed out together; then there is nothing else.
    pub delivery: Option<Delivery>,
}

impl Output {
    /// All that is to be solved for it.
    pub fn definitions(&self) -> impl Iterator<Item = &pb::Definition> {
        let delivered = self.delivery.iter().flat_map(Delivery::definitions);
        self.definition.iter().chain(delivered)
    }
}

/// Results that the engine's exporters hand out to the client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What is returned to the engine once all references are its own. Until then each has a definition.
    pub result: frontend::Result,
    /// What makes of it what the client wants.
    pub exporters: Vec<Exporter>,
    /// What the client asked a frontend for: the engine compares.
    pub asked: HashMap<String, String>,
}

impl Delivery {
    /// The references of its results.
    pub fn refs(&self) -> Vec<&frontend::Ref> {
        match &self.result.result {
            Some(Refs::Ref(one)) => vec![one],
            Some(Refs::Refs(map)) => map.refs.values().collect(),
            Some(Refs::RefDeprecated(_) | Refs::RefsDeprecated(_)) | None => Vec::new(),
        }
    }

    /// The same, to be put in place.
    pub fn refs_mut(&mut self) -> Vec<&mut frontend::Ref> {
        match &mut self.result.result {
            Some(Refs::Ref(one)) => vec![one],
            Some(Refs::Refs(map)) => map.refs.values_mut().collect(),
            Some(Refs::RefDeprecated(_) | Refs::RefsDeprecated(_)) | None => Vec::new(),
        }
    }

    /// What is to be solved for it: of empty images nothing.
    pub fn definitions(&self) -> impl Iterator<Item = &pb::Definition> {
        let definitions = self.refs().into_iter().filter_map(|one| one.def.as_ref());
        definitions.filter(|definition| !definition.def.is_empty())
    }
}

/// An exporter of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The exporter's type ("image").
    pub kind: String,
    /// Its attributes.
    pub attrs: HashMap<String, String>,
    /// For people.
    pub title: String,
    /// What is exported in place of the output itself: copies of parts of it.
    pub part: Option<pb::Definition>,
}

/// A question that is no attempt.
#[derive(Debug, Clone)]
pub enum Question {
    /// Run a frontend without executing anything.
    Frontend(Arc<BuildContext>, FrontendQuestion),
    /// Ask the gateway.
    Gateway(Arc<BuildContext>, GatewayQuestion),
    /// Export what the keeper holds.
    Export(Arc<BuildContext>, Box<Output>),
    /// How full is the engine's cache?
    DiskUsage(DiskUsageRequest),
    /// Empty the engine's cache.
    Prune(PruneRequest),
}

/// What a frontend is asked.
#[derive(Debug, Clone)]
pub struct FrontendQuestion {
    /// The question.
    pub request: frontend::SolveRequest,
    /// What the client is to get of the answer: the engine has to know these before the frontend runs.
    pub exporters: Vec<Exporter>,
}

/// A read-only question to the gateway.
#[derive(Debug, Clone)]
pub enum GatewayQuestion {
    /// What is this image's configuration?
    ImageConfig(frontend::ResolveImageConfigRequest),
    /// What is this source?
    SourceMeta(frontend::ResolveSourceMetaRequest),
}
