//! Finding out what an engine is and can do. What that is worth to the farm is decided elsewhere.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error as _,
};

use futures::future::try_join_all;
use tonic::Status;

use super::{Address, Engine, EngineError, connect};
use crate::{
    api::{
        apicaps::ApiCap,
        control::{Exporter, InfoRequest, ListWorkersRequest},
        pb,
        types::{CdiDevice, WorkerRecord},
    },
    errors,
    gateway::{Gateway, GatewaySpec},
};

/// Labels that only moby's worker has start so.
const MOBY_LABELS: &str = "org.mobyproject.buildkit.worker.moby.";
/// Moby's worker has this label with the containerd image store only; buildx tells the two apart by it as well.
const SNAPSHOTTER_LABEL: &str = "org.mobyproject.buildkit.worker.snapshotter";

/// Devices that say so answer to this name too.
const DEVICE_CLASS: &str = "org.mobyproject.buildkit.device.class";

/// What a build may be granted beyond the ordinary, in BuildKit's words.
const ENTITLEMENTS: [&str; 3] = ["network.host", "security.insecure", "device"];

/// The program that BuildKit runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker Engine.
    Docker,
    /// BuildKit's own daemon.
    Buildkitd,
}

/// Where results are kept, and so what can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageStore {
    /// All exporters, pushing by digest, several platforms.
    Containerd,
    /// Docker Engine's older store: none of these.
    DockerGraph,
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// Where it answered.
    pub address: Address,
    /// The program.
    pub kind: EngineKind,
    /// The program's version as it words it itself; empty if it doesn't.
    pub version: String,
    /// What it can run. The first is native, and what a frontend takes as BUILDPLATFORM. Never empty.
    pub platforms: Vec<pb::Platform>,
    /// The worker's labels.
    pub labels: HashMap<String, String>,
    /// What a definition's `metadata.caps` may ask for.
    pub llb_caps: BTreeSet<String>,
    /// What a frontend may ask of the gateway.
    pub frontend_caps: BTreeSet<String>,
    /// What its configuration lets builds be granted: `network.host`, `security.insecure`, `device`.
    pub entitlements: BTreeSet<String>,
    /// The names under which a command may ask for the devices that it has and lets builds be given.
    pub devices: BTreeSet<String>,
    /// Whether its exporter `local` can have a client delete what is not in the result (`mode=delete`).
    pub deletes: bool,
    /// Where it keeps results.
    pub image_store: ImageStore,
}

impl EngineInfo {
    /// Whether a build may be granted `entitlement` here; `device=vendor.example/gpu=0` is a kind of `device`.
    pub fn allows(&self, entitlement: &str) -> bool {
        let kind = entitlement.split('=').next().unwrap_or_default();
        self.entitlements.contains(kind)
    }

    /// Refuses an engine whose results can't reach other engines; the error says what to switch on.
    pub fn require_image_exporter(&self) -> Result<(), EngineError> {
        match self.image_store {
            ImageStore::Containerd => Ok(()),
            ImageStore::DockerGraph => Err(EngineError::NoContainerdStore(self.address.clone())),
        }
    }
}

pub(super) async fn read(engine: &Engine) -> Result<EngineInfo, EngineError> {
    let workers = engine
        .control()
        .list_workers(ListWorkersRequest::default())
        .await;
    let worker = workers
        .map_err(|s| not_buildkit(engine, s))?
        .into_inner()
        .record
        .into_iter()
        .next()
        .filter(|w| !w.platforms.is_empty())
        .ok_or_else(|| EngineError::NoWorker(engine.address().clone()))?;
    let version = match version(engine).await {
        Ok(version) => version,
        Err(status) if errors::is_engine_fault(&status) => {
            return Err(engine.refused("Info", status));
        }
        Err(_) => String::new(),
    };
    let gateway = Gateway::open(engine, GatewaySpec::default())
        .await
        .map_err(|s| engine.refused("a gateway build", s))?;
    let (kind, image_store) = classify(engine.address(), &worker);
    let entitlements = entitlements(engine)
        .await
        .map_err(|s| engine.refused("a gateway build", s))?;
    let info = EngineInfo {
        address: engine.address().clone(),
        kind,
        version,
        platforms: worker.platforms,
        labels: worker.labels,
        llb_caps: enabled(&gateway.pong().llb_caps),
        frontend_caps: enabled(&gateway.pong().frontend_api_caps),
        devices: worker
            .cdi_devices
            .iter()
            .filter(|device| device.auto_allow || entitlements.contains("device"))
            .flat_map(names)
            .collect(),
        entitlements,
        deletes: knows_modes(engine)
            .await
            .map_err(|s| engine.refused("a gateway build", s))?,
        image_store,
    };
    gateway
        .close()
        .await
        .map_err(|s| engine.refused("the end of a gateway build", s))?;
    Ok(info)
}

/// What listens there answered its first call with `status`.
fn not_buildkit(engine: &Engine, status: Status) -> EngineError {
    if status.source().is_some() {
        EngineError::NotBuildkit {
            address: engine.address().clone(),
            status,
        }
    } else {
        engine.refused("ListWorkers", status)
    }
}

/// Docker Engine's version where it can be asked, else BuildKit's.
async fn version(engine: &Engine) -> Result<String, Status> {
    if let Address::DockerUnix(path) = engine.address()
        && let Ok(version) = connect::docker_version(path).await
    {
        return Ok(version);
    }
    let info = engine.control().info(InfoRequest {}).await?.into_inner();
    Ok(info.buildkit_version.map(|v| v.version).unwrap_or_default())
}

/// No call tells which entitlements an engine's configuration allows; but it refuses a build that asks for another.
async fn entitlements(engine: &Engine) -> Result<BTreeSet<String>, Status> {
    let tries = ENTITLEMENTS.map(|entitlement| async move {
        let spec = GatewaySpec {
            entitlements: vec![entitlement.to_owned()],
            ..GatewaySpec::default()
        };
        match Gateway::open(engine, spec).await {
            Ok(gateway) => gateway.close().await.map(|()| Some(entitlement.to_owned())),
            Err(status) if errors::is_engine_fault(&status) => Err(status),
            Err(_) => Ok(None),
        }
    });
    Ok(try_join_all(tries).await?.into_iter().flatten().collect())
}

/// Whether the exporter `local` has modes, of which deleting is one: no call tells, but engines where it has refuse one that there is not, and
/// others pay no attention.
async fn knows_modes(engine: &Engine) -> Result<bool, Status> {
    let none = HashMap::from([("mode".to_owned(), "none".to_owned())]);
    let spec = GatewaySpec {
        exporters: vec![Exporter {
            r#type: "local".to_owned(),
            attrs: none,
        }],
        ..GatewaySpec::default()
    };
    match Gateway::open(engine, spec).await {
        // Whoever returned a result to it would have it exported.
        Ok(gateway) => {
            drop(gateway);
            Ok(false)
        }
        Err(status) if errors::is_engine_fault(&status) => Err(status),
        Err(status) => Ok(status.message().contains("mode")),
    }
}

/// BuildKit finds a device by its own name, as any or as all of its kind, and by its class.
fn names(device: &CdiDevice) -> Vec<String> {
    let mut names = vec![device.name.clone()];
    if let Some((kind, _)) = device.name.split_once('=') {
        names.extend([kind.to_owned(), format!("{kind}=*")]);
    }
    names.extend(device.annotations.get(DEVICE_CLASS).cloned());
    names
}

fn enabled(caps: &[ApiCap]) -> BTreeSet<String> {
    caps.iter()
        .filter(|c| c.enabled)
        .map(|c| c.id.clone())
        .collect()
}

fn classify(address: &Address, worker: &WorkerRecord) -> (EngineKind, ImageStore) {
    let docker = matches!(address, Address::DockerUnix(_))
        || worker.labels.keys().any(|k| k.starts_with(MOBY_LABELS));
    match (docker, worker.labels.contains_key(SNAPSHOTTER_LABEL)) {
        (false, _) => (EngineKind::Buildkitd, ImageStore::Containerd),
        (true, true) => (EngineKind::Docker, ImageStore::Containerd),
        (true, false) => (EngineKind::Docker, ImageStore::DockerGraph),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(labels: &[&str]) -> WorkerRecord {
        let labels = labels
            .iter()
            .map(|l| (l.to_string(), "x".to_owned()))
            .collect();
        WorkerRecord {
            labels,
            ..Default::default()
        }
    }

    #[test]
    fn a_docker_engine_without_the_containerd_store_is_recognized() {
        const GATEWAY: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
        let docker: Address = "docker+unix:///run/docker.sock".parse().unwrap();
        let other: Address = "unix:///run/some.sock".parse().unwrap();
        for (address, labels, expect) in [
            (
                &docker,
                &[GATEWAY, SNAPSHOTTER_LABEL][..],
                (EngineKind::Docker, ImageStore::Containerd),
            ),
            (
                &docker,
                &[GATEWAY],
                (EngineKind::Docker, ImageStore::DockerGraph),
            ),
            (&docker, &[], (EngineKind::Docker, ImageStore::DockerGraph)),
            (
                &other,
                &[GATEWAY],
                (EngineKind::Docker, ImageStore::DockerGraph),
            ),
            (
                &other,
                &[SNAPSHOTTER_LABEL],
                (EngineKind::Buildkitd, ImageStore::Containerd),
            ),
        ] {
            assert_eq!(
                classify(address, &worker(labels)),
                expect,
                "{address} {labels:?}"
            );
        }
    }

    #[test]
    fn a_device_has_all_names_under_which_buildkit_finds_it() {
        let device = |name: &str, class: Option<&str>| CdiDevice {
            name: name.to_owned(),
            annotations: class
                .map(|class| (DEVICE_CLASS.to_owned(), class.to_owned()))
                .into_iter()
                .collect(),
            ..CdiDevice::default()
        };
        assert_eq!(
            names(&device("vendor.example/gpu=0", Some("gpu"))),
            [
                "vendor.example/gpu=0",
                "vendor.example/gpu",
                "vendor.example/gpu=*",
                "gpu"
            ]
        );
        // One that is only set up once somebody asks for it has no name beyond its kind.
        assert_eq!(names(&device("docker.com/gpu", None)), ["docker.com/gpu"]);
    }

    #[test]
    fn the_refusal_of_such_an_engine_says_what_to_switch_on() {
        let address: Address = "docker+unix:///run/docker.sock".parse().unwrap();
        let text = EngineError::NoContainerdStore(address).to_string();
        assert!(
            text.contains(r#""features": {"containerd-snapshotter": true}"#)
                && text.contains("/run/docker.sock")
        );
    }
}
