//! What a build is made from, as bytes: written when it is planned, read by a coordinator that goes on with it.
//!
//! No secrets: no credentials, nothing that a session answered, of the client's attributes only those that are needed once there is a plan,
//! as people put tokens into build arguments, and only those cache imports whose attributes can't be keys. Going on with a build is
//! [`super::restore`]'s.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard_buildkit_proto::moby::buildkit::v1::CacheOptionsEntry;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use croft_planner::{Limits, Plan, PlanError, PlanInput, PlanOptions, Platform, Target};
use croft_proto::v1 as wire;
use croft_scheduler::{AgentId, BuildId, ConnectionId};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::build::{Rank, Request};
use super::deliver;
use super::image::{OciPlatform, Shape};
use super::outputs::Outputs;
use super::planned::{ResultTarget, Results};

/// Of the format. It grows when an older coordinator would take what is written for something else.
const VERSION: u32 = 1;
/// Where the JSON is, beside the definitions.
const KEY: &str = "croft.plan";
/// The attributes that are needed once there is a plan.
const KEPT_ATTRS: [&str; 1] = ["build-arg:SOURCE_DATE_EPOCH"];
/// The kind of cache imports whose access comes from the session. Those of others carry tokens and keys; to do without costs time only.
const KEPT_IMPORTS: &str = "registry";

/// Everything that the plan of a build depends on, and all else that it takes to go on with it.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// What the client asked for.
    pub request: Request,
    /// Whether the build stands for itself.
    pub rank: Rank,
    /// The builds that were made for this one before.
    pub children: Vec<BuildId>,
    /// The sessions as agents announce them to their engines.
    pub sessions: Vec<wire::Session>,
    /// The shared key of each session that was known before the definitions were read.
    pub shared_keys: BTreeMap<String, String>,
    /// The agent that ran the frontend.
    pub planner: Option<AgentId>,
    /// Where results travel: part of the definitions that take them.
    pub stages: String,
    /// The native platform of the engine that ran the frontend.
    pub build_platform: Platform,
    /// What each agent of the fleet ran natively.
    pub natives: Vec<(Platform, Vec<Platform>)>,
    /// Whose build it is.
    pub project: String,
    /// What came of the frontend, without the definitions.
    pub results: Results,
    /// The definitions.
    pub input: PlanInput,
}

/// Why a recipe can't be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecipeError {
    /// Written by another version of croft.
    #[error("it was planned by another version of croft (format {0}, not {VERSION})")]
    Version(u32),
    /// Not what a coordinator writes.
    #[error("what is stored of it can't be read: {0}")]
    Unreadable(String),
}

impl Recipe {
    /// The plan that it leads to, the same each time.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let options = PlanOptions {
            build_platform: self.build_platform.clone(),
            homes: self.natives.iter().cloned().collect(),
            project: self.project.clone(),
            shared_keys: self.shared_keys.clone(),
            limits: Limits::default(),
        };
        let plan = croft_planner::plan(self.input.clone(), &options)?;
        Ok(match self.request.outputs.delivery() {
            Some(delivery) => plan.delivering(deliver::requirements(delivery)),
            None => plan,
        })
    }

    /// Writes it down.
    pub fn encode(self) -> Vec<u8> {
        // Nothing in it that JSON can't say.
        let json = serde_json::to_vec(&Written::of(&self)).unwrap_or_default();
        let refs = self.input.targets.into_iter().map(|target| {
            let reference = gateway::Ref {
                id: String::new(),
                def: target.definition,
            };
            (target.name, reference)
        });
        gateway::Result {
            metadata: HashMap::from([(KEY.to_owned(), json)]),
            attestations: HashMap::new(),
            result: Some(gateway::result::Result::Refs(gateway::RefMap {
                refs: refs.collect(),
            })),
        }
        .encode_to_vec()
    }

    /// Reads what [`Recipe::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(default)]
            version: u32,
        }
        let unreadable = |error: &dyn std::fmt::Display| RecipeError::Unreadable(error.to_string());
        let whole = gateway::Result::decode(bytes).map_err(|e| unreadable(&e))?;
        let json = whole.metadata.get(KEY).map_or(&[][..], |json| json);
        let Version { version } = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
        if version != VERSION {
            return Err(RecipeError::Version(version));
        }
        let written: Written = serde_json::from_slice(json).map_err(|e| unreadable(&e))?;
        let refs = match whole.result {
            Some(gateway::result::Result::Refs(map)) => map.refs,
            _ => return Err(unreadable(&"it has no definitions")),
        };
        written.with(refs)
    }
}

/// The part that is JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    client_ref: String,
    session: String,
    connection: ConnectionId,
    outputs: Outputs,
    entitlements: Vec<String>,
    source_policy: Text64,
    cache_imports: Vec<Text64>,
    attrs: BTreeMap<String, String>,
    traceparent: String,
    rank: Rank,
    children: Vec<BuildId>,
    sessions: Vec<WrittenSession>,
    shared_keys: BTreeMap<String, String>,
    planner: Option<AgentId>,
    stages: String,
    build_platform: Platform,
    natives: Vec<(Platform, Vec<Platform>)>,
    project: String,
    shape: Shape,
    listed: Vec<usize>,
    targets: Vec<WrittenTarget>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSession {
    id: String,
    name: String,
    shared_key: String,
    methods: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WrittenTarget {
    name: String,
    planned_for: Platform,
    platform: Option<OciPlatform>,
    config: Option<Text64>,
    base_config: Option<Text64>,
}

/// Bytes, as base64.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Text64(Vec<u8>);

impl Clone for Text64 {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<Text64> for String {
    fn from(bytes: Text64) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Text64 {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

impl Written {
    fn of(recipe: &Recipe) -> Self {
        let asked = &recipe.request;
        let kept = asked
            .attrs
            .iter()
            .filter(|(key, _)| KEPT_ATTRS.contains(&key.as_str()));
        let imports = asked.cache_imports.iter().filter(|bytes| {
            CacheOptionsEntry::decode(&bytes[..]).is_ok_and(|import| import.r#type == KEPT_IMPORTS)
        });
        let sessions = recipe.sessions.iter().map(|session| WrittenSession {
            id: session.id.clone(),
            name: session.name.clone(),
            shared_key: session.shared_key.clone(),
            methods: session.methods.clone(),
        });
        let targets = recipe.input.targets.iter().zip(&recipe.results.targets);
        let targets = targets.map(|(planned, result)| WrittenTarget {
            name: result.name.clone(),
            planned_for: planned.platform.clone(),
            platform: result.platform.clone(),
            config: result.config.clone().map(Text64),
            base_config: result.base_config.clone().map(Text64),
        });
        Self {
            version: VERSION,
            client_ref: asked.client_ref.clone(),
            session: asked.session.clone(),
            connection: asked.connection,
            outputs: asked.outputs.clone(),
            entitlements: asked.entitlements.clone(),
            source_policy: Text64(asked.source_policy.clone()),
            cache_imports: imports.cloned().map(Text64).collect(),
            attrs: kept.map(|(k, v)| (k.clone(), v.clone())).collect(),
            traceparent: asked.traceparent.clone(),
            rank: recipe.rank,
            children: recipe.children.clone(),
            sessions: sessions.collect(),
            shared_keys: recipe.shared_keys.clone(),
            planner: recipe.planner,
            stages: recipe.stages.clone(),
            build_platform: recipe.build_platform.clone(),
            natives: recipe.natives.clone(),
            project: recipe.project.clone(),
            shape: recipe.results.shape,
            listed: recipe.results.listed.clone(),
            targets: targets.collect(),
        }
    }

    fn with(self, mut refs: HashMap<String, gateway::Ref>) -> Result<Recipe, RecipeError> {
        let mut input = PlanInput::default();
        let mut results = Results {
            shape: self.shape,
            targets: Vec::new(),
            listed: self.listed,
        };
        for target in self.targets {
            let reference = refs.remove(&target.name).ok_or_else(|| {
                RecipeError::Unreadable(format!("target {:?} has no definition", target.name))
            })?;
            input.targets.push(Target {
                name: target.name.clone(),
                platform: target.planned_for,
                definition: reference.def,
            });
            results.targets.push(ResultTarget {
                name: target.name,
                platform: target.platform,
                definition: None,
                config: target.config.map(|text| text.0),
                base_config: target.base_config.map(|text| text.0),
            });
        }
        let sessions = self.sessions.into_iter().map(|session| wire::Session {
            id: session.id,
            name: session.name,
            shared_key: session.shared_key,
            methods: session.methods,
        });
        Ok(Recipe {
            request: Request {
                client_ref: self.client_ref,
                session: self.session,
                connection: self.connection,
                outputs: self.outputs,
                entitlements: self.entitlements,
                source_policy: self.source_policy.0,
                cache_imports: self.cache_imports.into_iter().map(|text| text.0).collect(),
                attrs: self.attrs,
                traceparent: self.traceparent,
            },
            rank: self.rank,
            children: self.children,
            sessions: sessions.collect(),
            shared_keys: self.shared_keys,
            planner: self.planner,
            stages: self.stages,
            build_platform: self.build_platform,
            natives: self.natives,
            project: self.project,
            results,
            input,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bollard_buildkit_proto::pb;
    use uuid::Uuid;

    use super::*;

    fn import(kind: &str) -> Vec<u8> {
        let entry = CacheOptionsEntry {
            r#type: kind.to_owned(),
            attrs: [("secret_access_key".to_owned(), "hunter2".to_owned())].into(),
        };
        entry.encode_to_vec()
    }

    fn recipe() -> Recipe {
        let attrs = [
            ("name", "r.example/app:1"),
            ("push", "true"),
            ("annotation-index.a", "b"),
        ];
        let attrs = BTreeMap::from(attrs.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let definition = pb::Definition {
            def: vec![vec![1, 2], vec![3]],
            ..pb::Definition::default()
        };
        let names = ["linux/amd64", "linux/arm64"];
        let targets = names.map(|name| Target {
            name: name.to_owned(),
            platform: name.parse().unwrap(),
            definition: (name == "linux/arm64").then(|| definition.clone()),
        });
        let results = names.map(|name| ResultTarget {
            name: name.to_owned(),
            platform: Some(OciPlatform {
                os: "linux".to_owned(),
                architecture: name.replace("linux/", ""),
                ..OciPlatform::default()
            }),
            definition: None,
            config: Some(b"{\"os\":\"linux\"}".to_vec()),
            base_config: None,
        });
        Recipe {
            request: Request {
                client_ref: "k3x".to_owned(),
                session: "s".to_owned(),
                connection: ConnectionId(Uuid::new_v4()),
                outputs: Outputs::parse(&[("image".to_owned(), attrs)]).unwrap(),
                entitlements: vec!["network.host".to_owned()],
                source_policy: vec![0, 255],
                cache_imports: ["registry", "s3"].map(import).to_vec(),
                attrs: BTreeMap::from([
                    ("build-arg:SOURCE_DATE_EPOCH".to_owned(), "0".to_owned()),
                    ("build-arg:TOKEN".to_owned(), "hunter2".to_owned()),
                ]),
                traceparent: String::new(),
            },
            rank: Rank::Outer,
            children: vec![BuildId(Uuid::new_v4())],
            sessions: vec![wire::Session {
                id: "s".to_owned(),
                shared_key: "key".to_owned(),
                ..wire::Session::default()
            }],
            shared_keys: BTreeMap::from([("s".to_owned(), "key".to_owned())]),
            planner: Some(AgentId(Uuid::new_v4())),
            stages: "stages.example/p".to_owned(),
            build_platform: amd64.clone(),
            natives: vec![(amd64.clone(), vec![amd64])],
            project: "p".to_owned(),
            results: Results {
                shape: Shape::Index,
                targets: results.to_vec(),
                listed: vec![1, 0, 1],
            },
            input: PlanInput {
                targets: targets.to_vec(),
            },
        }
    }

    #[test]
    fn a_recipe_reads_back_as_it_was_written_but_for_what_may_be_secret() {
        let mut recipe = recipe();
        let bytes = recipe.clone().encode();
        recipe.request.attrs.remove("build-arg:TOKEN");
        recipe.request.cache_imports.truncate(1);
        let read = Recipe::decode(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{recipe:?}"));
    }

    #[test]
    fn what_another_version_wrote_is_told_from_what_nobody_wrote() {
        let rewritten = |json: &str| {
            let mut whole = gateway::Result::decode(&recipe().encode()[..]).unwrap();
            whole
                .metadata
                .insert(KEY.to_owned(), json.as_bytes().to_vec());
            Recipe::decode(&whole.encode_to_vec()).unwrap_err()
        };
        assert!(matches!(
            rewritten("{\"version\":2}"),
            RecipeError::Version(2)
        ));
        // As it was before there were versions.
        assert!(matches!(
            rewritten("{\"targets\":[]}"),
            RecipeError::Version(0)
        ));
        assert!(matches!(
            rewritten("{\"version\":1}"),
            RecipeError::Unreadable(_)
        ));
        assert!(matches!(
            Recipe::decode(b"the plan's source"),
            Err(RecipeError::Unreadable(_))
        ));
    }
}
