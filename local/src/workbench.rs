//! An engine with a registry that answers for docker.io and holds the base image: what it takes to try one build.

use std::sync::OnceLock;

use crate::{
    base::BaseImage,
    engine::{Engine, EngineOptions},
    error::{Error, Result},
    registry::{Registry, RegistryOptions},
};

/// One engine and its registry; both end when this is dropped or this process ends in whatever way.
#[derive(Debug)]
pub struct Workbench {
    /// Takes the registry for docker.io. First, so that it ends first.
    pub engine: Engine,
    /// Open; holds `library/busybox:latest` for amd64, arm64, ppc64le and s390x.
    pub registry: Registry,
}

impl Workbench {
    /// Starts both and waits until they serve.
    pub fn start() -> Result<Workbench> {
        let registry = Registry::start(RegistryOptions::default())?;
        BaseImage::find_or_make()?.push(&registry)?;
        let engine = Engine::start(EngineOptions {
            mirror: Some(registry.address()),
            ..EngineOptions::default()
        })?;
        Ok(Workbench { engine, registry })
    }

    /// One for all of this process, started at the first call; it ends with the process.
    pub fn shared() -> Result<&'static Workbench> {
        static SHARED: OnceLock<std::result::Result<Workbench, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Workbench::start().map_err(|error| error.to_string()));
        shared.as_ref().map_err(|answer| Error::Peer {
            peer: "the shared engine".to_owned(),
            answer: answer.clone(),
        })
    }
}
