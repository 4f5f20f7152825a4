//! Handing results out: what the agent is told that composes an output of all targets' results, and what its engine may send the client.
//!
//! It is a stage of the plan like any other (`croft_planner::Plan::delivering`): placed, leased, repeated and recovered as all are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use croft_buildkit::session::SessionRequest;
use croft_planner::{Binding, EdgeId, PlannedTarget, Requirements};
use croft_proto::{DELETES, DELIVERS, v1 as wire};
use http::HeaderValue;
use prost::Message as _;
use serde_json::json;
use serde_json::value::RawValue;
use tonic::Status;

use super::Control;
use super::build::Build;
use super::failure::{Failure, Result};
use super::image::Shape;
use super::outputs::{Delivery, Exporter};
use super::planned::{Planned, ResultTarget};
use super::stages::Manifest;

/// The call with which engines send outputs to a client.
const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Which of a solve's exporters sends, by its place.
const PLACE: &str = "buildkit-attachable-exporter-id";
/// A client's content stores; all but the calls that read would change one.
const CONTENT: &str = "/containerd.services.content.v1.Content/";
const READS: [&str; 5] = ["Info", "Read", "List", "Status", "ListStatuses"];
/// Which of them is meant, and the one into which layouts are written.
const STORE: &str = "buildkit-attachable-store-id";
const WRITTEN: &str = "export";
/// What an engine can that takes several exporters in one solve.
const SEVERAL: &str = "exporter.multiple";

/// What the agent must be able to do.
pub(super) fn requirements(delivery: &Delivery) -> Requirements {
    let several = (delivery.exporters.len() > 1).then_some(SEVERAL);
    let deletes = delivery.exporters.iter().any(Exporter::deletes);
    Requirements {
        caps: [DELIVERS]
            .into_iter()
            .chain(several)
            .chain(deletes.then_some(DELETES))
            .map(str::to_owned)
            .collect(),
        ..Requirements::default()
    }
}

impl Control {
    /// Notes the history of a result that is handed out as an image. Without it the layers seem to be as old as the engine's copy of them.
    pub(super) async fn note_history(&self, build: &Build, edge: EdgeId, manifest: &Manifest) {
        let Some(planned) = build.planned() else {
            return;
        };
        if config_of_edge(planned, edge).is_none() {
            return;
        }
        match self.stages().history(manifest).await {
            Ok(history) => planned.made(edge, history.unwrap_or_default()),
            Err(error) => {
                tracing::warn!(build = %build.id(), %edge, %error, "when the layers of a result were made can't be told");
            }
        }
    }
}

/// Writes what the agent is to hand out.
pub(super) fn written(
    build: &Build,
    planned: &Planned,
    delivery: &Delivery,
    bindings: &BTreeMap<EdgeId, Binding>,
) -> Result<wire::Delivery> {
    let mut metadata = HashMap::new();
    let mut refs = HashMap::new();
    let mut bare = None;
    for target in planned.plan.targets() {
        let bound = planned
            .plan
            .bind_delivery(target.id, bindings)
            .map_err(|error| Failure::farm(format!("an output can't be written: {error}")))?;
        let reference = gateway::Ref {
            id: String::new(),
            // The empty image has one with nothing in it.
            def: Some(bound.definition),
        };
        if let Some(result) = planned.results.targets.get(target.id.index()) {
            metadata.extend(configs(planned, target, result));
            refs.insert(result.name.clone(), reference.clone());
        }
        bare = Some(reference);
    }
    if let Some(platforms) = platforms(planned) {
        metadata.insert("refs.platforms".to_owned(), platforms);
    }
    let result = gateway::Result {
        metadata,
        attestations: HashMap::new(),
        result: match planned.results.shape {
            Shape::Index => Some(gateway::result::Result::Refs(gateway::RefMap { refs })),
            Shape::Bare => bare.map(gateway::result::Result::Ref),
        },
    };
    Ok(wire::Delivery {
        result: result.encode_to_vec(),
        exporters: exporters(build, delivery),
        asked: asked(build),
    })
}

/// What the client is to get, for engines to look at before anything runs.
pub(super) fn foreseen(build: &Build) -> Vec<Vec<u8>> {
    let delivery = build.request.outputs.delivery();
    delivery.map_or_else(Vec::new, |delivery| exporters(build, delivery))
}

fn exporters(build: &Build, delivery: &Delivery) -> Vec<Vec<u8>> {
    let exporters = delivery.exporters.iter();
    exporters
        .map(|exporter| as_asked(build, exporter).encode_to_vec())
        .collect()
}

/// What engines compare results with.
fn asked(build: &Build) -> HashMap<String, String> {
    let attrs = build.request.attrs.iter();
    let compared = attrs.filter(|(name, _)| *name == "platform" || name.starts_with("label:"));
    compared
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The exporter as an engine would have had it from the client.
fn as_asked(build: &Build, exporter: &Exporter) -> control::Exporter {
    let mut attrs: HashMap<_, _> = exporter.attrs.clone().into_iter().collect();
    if let Some(epoch) = build.request.attrs.get("build-arg:SOURCE_DATE_EPOCH") {
        attrs
            .entry("source-date-epoch".to_owned())
            .or_insert_with(|| epoch.clone());
    }
    control::Exporter {
        r#type: exporter.kind.clone(),
        attrs,
    }
}

/// A target's config and that of its base, under the keys under which a frontend gives them.
fn configs(
    planned: &Planned,
    target: &PlannedTarget,
    result: &ResultTarget,
) -> Vec<(String, Vec<u8>)> {
    let key = |name: &str| match planned.results.shape {
        Shape::Index => format!("{name}/{}", result.name),
        Shape::Bare => name.to_owned(),
    };
    let made = planned.plan.delivered(target.id);
    let made = made.and_then(|edge| planned.history(edge));
    let config = result.config.clone();
    let config = config.map(|config| match made {
        Some(history) => with_history(&config, &history).unwrap_or(config),
        None => config,
    });
    let config = config.map(|config| (key("containerimage.config"), config));
    let base = result.base_config.clone();
    let base = base.map(|base| (key("containerimage.base.config"), base));
    config.into_iter().chain(base).collect()
}

/// The config with the history of an image that was made of the same layers: when each was made only the engine knew that made it.
/// All else keeps its bytes. `None` if that isn't the history of this config.
fn with_history(config: &[u8], history: &serde_json::Value) -> Option<Vec<u8>> {
    let mut config: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(config).ok()?;
    let said = config.get("history").map_or("[]", |said| said.get());
    let said: Option<Vec<serde_json::Value>> = serde_json::from_str(said).ok()?;
    if history.as_array()?.len() < said.map_or(0, |said| said.len()) {
        return None;
    }
    let history = RawValue::from_string(history.to_string()).ok()?;
    config.insert("history".to_owned(), history);
    serde_json::to_vec(&config).ok()
}

/// The config with which an edge's result goes to the stage registry, if it is handed out as an image: that of the first target that it is of.
pub(super) fn config_of_edge(planned: &Planned, edge: EdgeId) -> Option<String> {
    planned.outputs.delivery().filter(|d| d.has_images())?;
    let target = planned.plan.delivered_by(edge).next()?;
    let config = planned.results.targets.get(target.index())?.config.clone();
    config.and_then(|config| String::from_utf8(config).ok())
}

/// The targets in the frontend's order, as it gave them. `None` where it said nothing.
fn platforms(planned: &Planned) -> Option<Vec<u8>> {
    let results = &planned.results;
    let listed = results.listed.iter();
    let listed: Option<Vec<_>> = listed
        .filter_map(|place| results.targets.get(*place))
        .map(|target| {
            let named = results.shape == Shape::Index || !target.name.is_empty();
            named.then(|| json!({"ID": target.name, "Platform": target.platform}))
        })
        .collect();
    Some(json!({ "Platforms": listed? }).to_string().into_bytes())
}

/// What engines have sent the client.
#[derive(Default)]
pub(super) struct Sent(BTreeSet<usize>);

impl Build {
    /// Looks at a call of a session before it goes to the client: an engine that sends an output names the exporter by its place among
    /// those that it was given, the client knows it by its place among all.
    pub fn admit_call(&self, request: &mut SessionRequest) -> std::result::Result<(), Status> {
        let delivery = self
            .planned()
            .and_then(|planned| planned.outputs.delivery());
        if let Some(call) = request.uri().path().strip_prefix(CONTENT) {
            let store = request.headers().get(STORE);
            let admitted = admits_content_call(delivery, call, store);
            return admitted.then_some(()).ok_or_else(|| {
                Status::permission_denied("nothing of this build is to be written there")
            });
        }
        if request.uri().path() != SEND {
            return Ok(());
        }
        let place = request.headers().get(PLACE);
        let place = place.map_or(Some(0), |place| place.to_str().ok()?.parse().ok());
        let exporter = delivery
            .zip(place)
            .and_then(|(d, at): (_, usize)| d.exporters.get(at));
        let exporter =
            exporter.ok_or_else(|| Status::permission_denied("the client wants no such output"))?;
        if !exporter.is_repeatable() && !self.lock().sent.0.insert(exporter.place) {
            return Err(Status::failed_precondition(format!(
                "an agent was lost while it sent the client its {} output, which can't be sent twice: start the build again",
                exporter.kind
            )));
        }
        let place = HeaderValue::from(exporter.place);
        request.headers_mut().insert(PLACE, place);
        Ok(())
    }
}

/// Whether an engine may make this call to a content store of a client's: it reads, or it fills the layout that the client wants.
fn admits_content_call(
    delivery: Option<&Delivery>,
    call: &str,
    store: Option<&HeaderValue>,
) -> bool {
    let fills = delivery.is_some_and(|d| d.exporters.iter().any(Exporter::fills_layout));
    READS.contains(&call) || fills && store.is_some_and(|store| store == WRITTEN)
}

#[cfg(test)]
mod tests {
    use super::super::outputs::Outputs;
    use super::*;

    /// What a client wants that names this one exporter.
    fn outputs(kind: &str, attrs: &[(&str, &str)]) -> Outputs {
        let attrs = attrs.iter();
        let attrs = attrs.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Outputs::parse(&[(kind.to_owned(), attrs.collect())]).unwrap()
    }

    #[test]
    fn clients_content_stores_are_read_and_only_a_layout_that_is_wanted_is_written() {
        let (export, other) = (
            HeaderValue::from_static("export"),
            HeaderValue::from_static("oci:x"),
        );
        let layout = outputs("oci", &[("tar", "false")]);
        let archive = outputs("oci", &[]);
        let folder = outputs("local", &[("tar", "false")]);
        for wanted in [layout.delivery(), archive.delivery(), None] {
            for call in ["Info", "Read"] {
                assert!(admits_content_call(wanted, call, Some(&other)));
            }
        }
        for call in ["Write", "Abort"] {
            assert!(admits_content_call(layout.delivery(), call, Some(&export)));
            for (wanted, store) in [
                (layout.delivery(), Some(&other)),
                (layout.delivery(), None),
                (archive.delivery(), Some(&export)),
                (folder.delivery(), Some(&export)),
                (None, Some(&export)),
            ] {
                assert!(
                    !admits_content_call(wanted, call, store),
                    "{call} {store:?}"
                );
            }
        }
    }

    #[test]
    fn what_only_newer_engines_can_hand_out_is_required_of_them() {
        let caps = |outputs: &Outputs| requirements(outputs.delivery().unwrap()).caps;
        assert!(caps(&outputs("local", &[("mode", " Delete")])).contains(DELETES));
        for attrs in [&[][..], &[("mode", "copy")]] {
            assert!(!caps(&outputs("local", attrs)).contains(DELETES));
        }
        assert!(!caps(&outputs("oci", &[("mode", "delete")])).contains(DELETES));
    }

    #[test]
    fn a_history_is_put_in_and_all_else_of_a_config_stays_as_it_is() {
        let config = br#"{"os":"linux","config":{"Env":["A=\u003e"],"Cmd":null},"history":[{"created_by":"x"}]}"#;
        let history = json!([{"created": "2023-11-14T22:13:20Z", "created_by": "x"}]);
        let put = with_history(config, &history).unwrap();
        assert_eq!(
            String::from_utf8(put).unwrap(),
            r#"{"config":{"Env":["A=\u003e"],"Cmd":null},"history":[{"created":"2023-11-14T22:13:20Z","created_by":"x"}],"os":"linux"}"#
        );
        assert_eq!(with_history(config, &json!([])), None);
        assert_eq!(with_history(b"[]", &history), None);
    }
}
