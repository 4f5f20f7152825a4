//! BuildKit's wire types into the farm's own and back. Nothing that a peer sends is trusted to be whole.

use std::collections::{BTreeMap, HashMap};

use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::buildkit::v1::types;
use bollard_buildkit_proto::pb;
use croft_scheduler::ConnectionId;
use prost::Message as _;
use serde::Deserialize;
use tonic::{Code, Status};

use super::maps;
use crate::control::image::{OciPlatform, Shape};
use crate::control::{Failure, Kind, Outputs, Request, ResultTarget, Results};

/// The one place where a failure becomes what a BuildKit client reads.
pub fn status(failure: &Failure) -> Status {
    if let Some(status) = &failure.status {
        return status.clone();
    }
    let code = match failure.kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Build => Code::Unknown,
        Kind::Farm | Kind::StageRegistry => Code::Unavailable,
        Kind::Unservable => Code::FailedPrecondition,
        Kind::Cancelled => Code::Cancelled,
    };
    Status::new(code, failure.message.clone())
}

/// What a solve asks for. Old fields count only where the new ones are empty.
pub fn request(
    solve: &control::SolveRequest,
    connection: ConnectionId,
) -> Result<Request, Failure> {
    let mut exporters: Vec<(String, BTreeMap<String, String>)> = solve
        .exporters
        .iter()
        .map(|e| (e.r#type.clone(), sorted(&e.attrs)))
        .collect();
    if exporters.is_empty() && !solve.exporter_deprecated.is_empty() {
        exporters.push((
            solve.exporter_deprecated.clone(),
            sorted(&solve.exporter_attrs_deprecated),
        ));
    }
    let outputs = Outputs::parse(&exporters).map_err(|e| Failure::invalid(e.to_string()))?;
    if solve.enable_session_exporter {
        return Err(Failure::invalid(
            "exporters chosen by the session are not supported by this farm",
        ));
    }
    if !solve.source_policy_session.is_empty() {
        return Err(Failure::invalid(
            "a source policy that is decided by the session is not supported by this farm: give it as a file",
        ));
    }
    let cache = solve.cache.clone().unwrap_or_default();
    if !cache.exports.is_empty() || !cache.export_ref_deprecated.is_empty() {
        return Err(Failure::invalid(
            "cache export is not supported by this farm: its agents keep their caches; leave --cache-to out",
        ));
    }
    let mut cache_imports: Vec<Vec<u8>> = cache.imports.iter().map(|e| e.encode_to_vec()).collect();
    if cache_imports.is_empty() {
        cache_imports.extend(cache.import_refs_deprecated.iter().map(|reference| {
            control::CacheOptionsEntry {
                r#type: "registry".into(),
                attrs: HashMap::from([("ref".into(), reference.clone())]),
            }
            .encode_to_vec()
        }));
    }
    Ok(Request {
        client_ref: solve.r#ref.clone(),
        session: solve.session.clone(),
        connection,
        outputs,
        entitlements: solve.entitlements.clone(),
        source_policy: solve
            .source_policy
            .as_ref()
            .map(|p| p.encode_to_vec())
            .unwrap_or_default(),
        cache_imports,
        attrs: sorted(&solve.frontend_attrs),
        traceparent: String::new(),
    })
}

/// The request of a solve that names its frontend itself, as the gateway would have it.
pub fn direct(solve: &control::SolveRequest) -> gateway::SolveRequest {
    let mut request = gateway::SolveRequest {
        definition: solve.definition.clone(),
        frontend: solve.frontend.clone(),
        frontend_opt: solve.frontend_attrs.clone(),
        frontend_inputs: solve.frontend_inputs.clone(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    };
    maps::request(&mut request);
    request
}

/// A gateway result with each reference looked up.
pub fn results(
    result: gateway::Result,
    mut lookup: impl FnMut(&gateway::Ref) -> Result<Option<pb::Definition>, Status>,
) -> Result<Results, Status> {
    use gateway::result::Result as R;
    let metadata = result.metadata;
    let by_id = |id: String| gateway::Ref { id, def: None };
    match result.result {
        None => Ok(Results {
            shape: Shape::Bare,
            targets: Vec::new(),
            listed: Vec::new(),
        }),
        Some(R::RefDeprecated(id)) => bare(&metadata, lookup(&by_id(id))?),
        Some(R::Ref(reference)) => bare(&metadata, lookup(&reference)?),
        Some(R::RefsDeprecated(map)) => {
            let refs = map.refs.into_iter().map(|(k, id)| (k, by_id(id))).collect();
            indexed(&metadata, refs, lookup)
        }
        Some(R::Refs(map)) => indexed(&metadata, map.refs, lookup),
    }
}

#[derive(Deserialize)]
struct Platforms {
    #[serde(rename = "Platforms", default)]
    platforms: Vec<PlatformEntry>,
}

#[derive(Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: OciPlatform,
}

type Metadata = HashMap<String, Vec<u8>>;

fn platforms(metadata: &Metadata) -> Result<Vec<PlatformEntry>, Status> {
    let Some(bytes) = metadata.get("refs.platforms") else {
        return Ok(Vec::new());
    };
    serde_json::from_slice::<Platforms>(bytes)
        .map(|p| p.platforms)
        .map_err(|error| {
            Status::invalid_argument(format!(
                "refs.platforms of the result can't be read: {error}"
            ))
        })
}

fn of_platform(metadata: &Metadata, key: &str, id: &str) -> Option<Vec<u8>> {
    metadata
        .get(&format!("{key}/{id}"))
        .or_else(|| metadata.get(key))
        .cloned()
}

fn bare(metadata: &Metadata, definition: Option<pb::Definition>) -> Result<Results, Status> {
    let mut platforms = platforms(metadata)?;
    if platforms.len() > 1 {
        return Err(Status::invalid_argument(
            "cannot export multiple platforms without multi-platform enabled",
        ));
    }
    let entry = platforms.pop();
    let id = entry.as_ref().map(|e| e.id.clone()).unwrap_or_default();
    let config = of_platform(metadata, "containerimage.config", &id);
    let platform = entry.map(|e| e.platform).or_else(|| {
        let config: OciPlatform = serde_json::from_slice(config.as_deref()?).ok()?;
        (!config.os.is_empty() && !config.architecture.is_empty()).then_some(config)
    });
    Ok(Results {
        shape: Shape::Bare,
        targets: vec![ResultTarget {
            name: id.clone(),
            platform,
            definition,
            base_config: of_platform(metadata, "containerimage.base.config", &id),
            config,
        }],
        listed: vec![0],
    })
}

fn indexed(
    metadata: &Metadata,
    mut refs: HashMap<String, gateway::Ref>,
    mut lookup: impl FnMut(&gateway::Ref) -> Result<Option<pb::Definition>, Status>,
) -> Result<Results, Status> {
    let platforms = platforms(metadata)?;
    if platforms.is_empty() && !refs.is_empty() {
        return Err(Status::invalid_argument(
            "unable to export multiple refs, missing platforms mapping",
        ));
    }
    let mut targets: Vec<ResultTarget> = Vec::new();
    let mut listed = Vec::new();
    for entry in platforms {
        if let Some(known) = targets.iter().position(|target| target.name == entry.id) {
            listed.push(known);
            continue;
        }
        listed.push(targets.len());
        let reference = refs.remove(&entry.id).ok_or_else(|| {
            Status::invalid_argument(format!("failed to find ref for ID {}", entry.id))
        })?;
        targets.push(ResultTarget {
            definition: lookup(&reference)?,
            config: of_platform(metadata, "containerimage.config", &entry.id),
            base_config: of_platform(metadata, "containerimage.base.config", &entry.id),
            name: entry.id,
            platform: Some(entry.platform),
        });
    }
    Ok(Results {
        shape: Shape::Index,
        targets,
        listed,
    })
}

/// Replaces an engine's references by ours, keeping what each stands for.
pub fn renamed(
    result: gateway::Result,
    mut keep: impl FnMut(Option<pb::Definition>) -> Result<String, Status>,
) -> Result<gateway::Result, Status> {
    use gateway::result::Result as R;
    let mut rename = |reference: gateway::Ref| {
        let definition = reference.def.filter(|d| !d.def.is_empty());
        let id = match (&definition, reference.id.is_empty()) {
            (None, true) => String::new(),
            _ => keep(definition.clone())?,
        };
        Ok::<_, Status>(gateway::Ref {
            id,
            def: definition,
        })
    };
    let refs = match result.result {
        Some(R::Ref(reference)) => Some(R::Ref(rename(reference)?)),
        Some(R::Refs(map)) => {
            let refs = map
                .refs
                .into_iter()
                .map(|(key, reference)| Ok((key, rename(reference)?)))
                .collect::<Result<HashMap<_, _>, Status>>()?;
            Some(R::Refs(gateway::RefMap { refs }))
        }
        None => None,
        Some(R::RefDeprecated(_) | R::RefsDeprecated(_)) => {
            return Err(Status::internal(
                "the engine answered with references that carry no definition",
            ));
        }
    };
    Ok(gateway::Result {
        metadata: result.metadata,
        attestations: HashMap::new(),
        result: refs,
    })
}

/// The same result with its references by name only.
pub fn without_definitions(result: &gateway::Result) -> gateway::Result {
    use gateway::result::Result as R;
    let bare = |reference: &gateway::Ref| gateway::Ref {
        id: reference.id.clone(),
        def: None,
    };
    let refs = result.result.as_ref().map(|result| match result {
        R::Ref(reference) => R::Ref(bare(reference)),
        R::Refs(map) => {
            let refs = map.refs.iter().map(|(key, one)| (key.clone(), bare(one)));
            R::Refs(gateway::RefMap {
                refs: refs.collect(),
            })
        }
        R::RefDeprecated(_) | R::RefsDeprecated(_) => result.clone(),
    });
    gateway::Result {
        result: refs,
        metadata: result.metadata.clone(),
        attestations: HashMap::new(),
    }
}

/// The farm as the one worker that clients see: native platforms first.
pub fn worker(platforms: &[croft_planner::Platform]) -> types::WorkerRecord {
    types::WorkerRecord {
        id: "croft".into(),
        labels: HashMap::from([("croft.farm".into(), "true".into())]),
        platforms: platforms
            .iter()
            .map(croft_planner::Platform::to_pb)
            .collect(),
        buildkit_version: Some(version()),
        ..types::WorkerRecord::default()
    }
}

/// Who we say that we are.
pub fn version() -> types::BuildkitVersion {
    types::BuildkitVersion {
        package: "croft".into(),
        version: concat!("v", env!("CARGO_PKG_VERSION")).into(),
        revision: String::new(),
    }
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> pb::Definition {
        pb::Definition {
            def: vec![vec![1]],
            ..pb::Definition::default()
        }
    }

    fn refs(ids: &[&str]) -> gateway::result::Result {
        let refs = ids
            .iter()
            .map(|id| {
                let reference = gateway::Ref {
                    id: (*id).into(),
                    def: None,
                };
                ((*id).to_owned(), reference)
            })
            .collect();
        gateway::result::Result::Refs(gateway::RefMap { refs })
    }

    #[test]
    fn an_index_has_the_platforms_in_the_frontends_order_with_their_configs() {
        let metadata = HashMap::from([
            (
                "refs.platforms".to_owned(),
                br#"{"Platforms":[{"ID":"linux/s390x","Platform":{"architecture":"s390x","os":"linux"}},
                    {"ID":"linux/arm/v7","Platform":{"architecture":"arm","os":"linux","variant":"v7"}}]}"#
                    .to_vec(),
            ),
            ("containerimage.config/linux/s390x".to_owned(), b"{}".to_vec()),
        ]);
        let result = gateway::Result {
            metadata,
            result: Some(refs(&["linux/arm/v7", "linux/s390x"])),
            ..gateway::Result::default()
        };
        let results = results(result, |_| Ok(Some(definition()))).unwrap();
        assert_eq!(results.shape, Shape::Index);
        assert_eq!(results.targets[0].name, "linux/s390x");
        assert_eq!(results.targets[0].config.as_deref(), Some(&b"{}"[..]));
        assert_eq!(results.targets[1].platform.as_ref().unwrap().variant, "v7");
    }

    #[test]
    fn a_platform_that_was_asked_for_twice_is_made_once_and_listed_twice() {
        let metadata = HashMap::from([(
            "refs.platforms".to_owned(),
            br#"{"Platforms":[{"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}},
                {"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}},
                {"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}}]}"#
                .to_vec(),
        )]);
        let result = gateway::Result {
            metadata,
            result: Some(refs(&["linux/amd64", "linux/arm64"])),
            ..gateway::Result::default()
        };
        let results = results(result, |_| Ok(Some(definition()))).unwrap();
        let names: Vec<_> = results.targets.iter().map(|target| &target.name).collect();
        assert_eq!(names, ["linux/arm64", "linux/amd64"]);
        assert_eq!(results.listed, [0, 1, 0]);
    }

    #[test]
    fn a_bare_result_takes_its_platform_from_its_config() {
        let result = gateway::Result {
            metadata: HashMap::from([(
                "containerimage.config".to_owned(),
                br#"{"architecture":"arm64","os":"linux","config":{}}"#.to_vec(),
            )]),
            result: Some(gateway::result::Result::Ref(gateway::Ref::default())),
            ..gateway::Result::default()
        };
        let results = results(result, |_| Ok(None)).unwrap();
        assert_eq!(results.shape, Shape::Bare);
        let platform = results.targets[0].platform.as_ref().unwrap();
        assert_eq!(platform.architecture, "arm64");
    }

    #[test]
    fn results_that_cannot_be_published_are_refused() {
        let missing = gateway::Result {
            result: Some(refs(&["linux/amd64"])),
            ..gateway::Result::default()
        };
        assert!(results(missing, |_| Ok(None)).is_err());
        let garbage = gateway::Result {
            metadata: HashMap::from([("refs.platforms".to_owned(), b"[".to_vec())]),
            result: Some(refs(&["linux/amd64"])),
            ..gateway::Result::default()
        };
        assert!(results(garbage, |_| Ok(None)).is_err());
    }
}
