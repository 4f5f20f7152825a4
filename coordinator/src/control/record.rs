//! What is written down of a build for those who come later: its progress, and what its plan was made from.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use croft_planner::{PlanInput, PlanOptions, Platform};
use croft_scheduler::{BuildId, FleetView};
use prost::Message as _;
use serde::Serialize;

use super::Control;
use super::build::Build;
use crate::store::Store;

/// A build's progress is appended when so many bytes wait …
const CHUNK: usize = 64 << 10;
/// … or when the first of them has waited so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the build's progress to the store until it ends. Each append is a run of `StatusResponse` messages, each behind its length.
pub(super) fn start(store: &Store, build: &Build) {
    let (store, id) = (store.clone(), build.id());
    let mut reader = build.progress().reader();
    tokio::spawn(async move {
        let mut chunk = Vec::new();
        loop {
            let Some(status) = reader.next().await else {
                return;
            };
            chunk.extend(status.encode_length_delimited_to_vec());
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            let mut open = true;
            while open && chunk.len() < CHUNK {
                tokio::select! {
                    () = &mut pause => break,
                    status = reader.next() => match status {
                        Some(status) => chunk.extend(status.encode_length_delimited_to_vec()),
                        None => open = false,
                    },
                }
            }
            if let Err(error) = store.log_append(id, &chunk).await {
                tracing::warn!(build = %id, %error, "some of a build's progress is not recorded");
            }
            chunk.clear();
            if !open {
                return;
            }
        }
    });
}

impl Control {
    /// Notes that something happened, to a build or to the farm, that no row of its own tells: for those who ask later why it took longer.
    pub(super) async fn note(&self, build: Option<BuildId>, kind: &str, data: serde_json::Value) {
        if let Err(error) = self.store.event_append(build, kind, &data).await {
            tracing::warn!(kind, %error, "an event is not recorded");
        }
    }
}

#[derive(Serialize)]
struct Source<'a> {
    targets: Vec<(&'a str, &'a Platform)>,
    build_platform: &'a Platform,
    homes: Vec<(&'a Platform, Vec<&'a Platform>)>,
    project: &'a str,
    shared_keys: &'a BTreeMap<String, String>,
}

/// Everything that the plan depends on, as bytes: the definitions, and the rest beside them as JSON. The same fleet and definitions give
/// the same plan again.
pub(super) fn source(input: &PlanInput, options: &PlanOptions, fleet: &FleetView) -> Vec<u8> {
    let agents = fleet.agents.iter();
    let rest = Source {
        targets: input
            .targets
            .iter()
            .map(|t| (t.name.as_str(), &t.platform))
            .collect(),
        build_platform: &options.build_platform,
        homes: agents
            .map(|a| (&a.native, a.platforms.iter().collect()))
            .collect(),
        project: &options.project,
        shared_keys: &options.shared_keys,
    };
    let refs = input.targets.iter().map(|target| {
        let reference = gateway::Ref {
            id: String::new(),
            def: target.definition.clone(),
        };
        (target.name.clone(), reference)
    });
    gateway::Result {
        metadata: HashMap::from([(
            "croft.plan".to_owned(),
            serde_json::to_vec(&rest).unwrap_or_default(),
        )]),
        attestations: HashMap::new(),
        result: Some(gateway::result::Result::Refs(gateway::RefMap {
            refs: refs.collect(),
        })),
    }
    .encode_to_vec()
}
