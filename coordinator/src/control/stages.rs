//! The stage registry: where results travel from agent to agent. Says how they are named and exported, and who may read there.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{
    MatchType, Policy, PolicyAction, Rule, Selector,
};
use croft_buildkit::session::SessionResponse;
use croft_buildkit::session::auth::{self, AuthCall, Credentials};
use croft_buildkit::session::grpc_error;
use croft_planner::CutEdge;
use oci_client::Reference;
use serde::Deserialize;
use tonic::Code;

use super::build::Build;
use super::image::OciPlatform;
use crate::registry::{self, Login, Registry, RegistryError};
use crate::store::ImageBlob;

/// No image's config is larger, in bytes.
const CONFIG_LIMIT: usize = 4 << 20;

/// How a result's layers are compressed. It sticks to them wherever they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As users want their images: the layers may become part of one. With these attributes of theirs; without any in the engine's usual way.
    OfImage(BTreeMap<String, String>),
    /// As it takes the least time: the layers are copied from, and none goes further.
    ForTransfer,
}

/// The farm's own registry.
#[derive(Clone)]
pub struct StageRegistry {
    repository: Reference,
    login: Login,
    registry: Registry,
    plain: bool,
}

/// What the manifest of a result names.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

/// Something in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

impl From<&Blob> for ImageBlob {
    fn from(blob: &Blob) -> Self {
        Self {
            digest: blob.digest.clone(),
            bytes: blob.size,
        }
    }
}

impl Manifest {
    /// The compressed bytes of its layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// All that must be there for it to be read.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

impl StageRegistry {
    /// `place` is `host[:port][/prefix]`; results of one project go to one repository below it, as blobs are shared within one only.
    pub fn new(
        place: &str,
        project: &str,
        login: Login,
        plain: &[String],
    ) -> Result<Self, RegistryError> {
        let place = place.trim_end_matches('/');
        let repository = registry::reference(&format!("{place}/{project}"))?;
        if !place.contains([':', '.']) && !place.starts_with("localhost") {
            return Err(RegistryError::BadReference {
                reference: place.to_owned(),
                why: "name the stage registry by its host, as registry.example.com:5000 or 127.0.0.1:5000/prefix".into(),
            });
        }
        let host = registry::host(&repository).to_owned();
        Ok(Self {
            registry: Registry::new(&host, &login, plain),
            plain: plain.contains(&host) || registry::is_loopback(&host),
            repository,
            login,
        })
    }

    /// Its host and port.
    pub fn host(&self) -> &str {
        registry::host(&self.repository)
    }

    /// Where results of this project go, as `host/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host(), self.repository.repository())
    }

    /// A result by its digest, as engines are told of it.
    pub fn image(&self, digest: &str) -> String {
        format!("{}@{digest}", self.repository())
    }

    /// Asks whether the registry is there and lets us in.
    pub async fn check(&self) -> Result<(), RegistryError> {
        let probe = registry::reference(&format!("{}:croft-probe", self.repository()))?;
        self.registry.tag_get(&probe).await.map(drop)
    }

    /// The attributes with which an engine exports a result here. Nothing in them depends on time or place, so the same result has the
    /// same digest.
    pub fn export_attrs(
        &self,
        edge: &CutEdge,
        compression: Compression,
    ) -> BTreeMap<String, String> {
        let platform = OciPlatform {
            os: edge.platform.os().to_owned(),
            architecture: edge.platform.arch().to_owned(),
            variant: edge.platform.variant().to_owned(),
            os_version: edge.platform.os_version().to_owned(),
            os_features: Vec::new(),
        };
        let mut config = serde_json::to_value(&platform).unwrap_or_default();
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": []});
        config["config"] = serde_json::json!({});
        let mut attrs = BTreeMap::from([
            ("name".to_owned(), self.repository()),
            ("push".to_owned(), "true".to_owned()),
            ("push-by-digest".to_owned(), "true".to_owned()),
            ("store".to_owned(), "false".to_owned()),
            ("oci-mediatypes".to_owned(), "true".to_owned()),
            ("source-date-epoch".to_owned(), "0".to_owned()),
            ("containerimage.config".to_owned(), config.to_string()),
        ]);
        match compression {
            Compression::ForTransfer => {
                attrs.insert("compression".to_owned(), "zstd".to_owned());
                attrs.insert("compression-level".to_owned(), "1".to_owned());
            }
            Compression::OfImage(compression) => attrs.extend(compression),
        }
        if self.plain {
            attrs.insert("registry.insecure".to_owned(), "true".to_owned());
        }
        attrs
    }

    /// A client's source policy with one rule more: whatever it denies, results may travel. Of the rules that allow or deny a source the last
    /// one counts.
    pub fn exempt(&self, mut policy: Policy) -> Policy {
        policy.rules.push(Rule {
            action: PolicyAction::Allow.into(),
            selector: Some(Selector {
                identifier: format!("docker-image://{}@*", self.repository()),
                match_type: MatchType::Wildcard.into(),
                constraints: Vec::new(),
            }),
            updates: None,
        });
        policy
    }

    /// Whether a result is there as a whole, with all that its manifest names.
    pub async fn has(&self, digest: &str) -> Result<bool, RegistryError> {
        let manifest = match self.manifest(digest).await {
            Ok(manifest) => manifest,
            Err(RegistryError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let reference = registry::reference(&self.image(digest))?;
        for blob in manifest.blobs() {
            if !self.registry.blob_exists(&reference, &blob.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes a result. Its layers go when the registry collects its garbage.
    pub async fn delete(&self, digest: &str) -> Result<(), RegistryError> {
        let reference = registry::reference(&self.image(digest))?;
        self.registry.manifest_delete(&reference).await
    }

    /// What a result consists of.
    pub async fn manifest(&self, digest: &str) -> Result<Manifest, RegistryError> {
        let reference = registry::reference(&self.image(digest))?;
        let bytes = self.registry.manifest_get(&reference).await?;
        serde_json::from_slice(&bytes).map_err(|error| RegistryError::Other {
            reference: reference.whole(),
            why: error.to_string(),
        })
    }

    /// When and how the layers of a result were made, as the history of the config that its engine wrote. `None` if that has none.
    pub async fn history(
        &self,
        manifest: &Manifest,
    ) -> Result<Option<serde_json::Value>, RegistryError> {
        let config = &manifest.config.digest;
        let config = self
            .registry
            .blob_get(&self.repository, config, CONFIG_LIMIT)
            .await?;
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        Ok(config.get("history").cloned())
    }

    /// The farm's answer to a session's question about credentials, if it is about this registry. A build's engines get them only once
    /// its definitions were found to name nothing here: before that only a user's own reference can be the reason for the question.
    pub fn answer(&self, build: &Build, call: &AuthCall) -> Option<SessionResponse> {
        if call.host() != self.host() {
            return None;
        }
        Some(match (call, &self.login) {
            (AuthCall::Credentials(_), _) if build.planned().is_none() => grpc_error(
                Code::PermissionDenied,
                format!(
                    "{} is the farm's own stage registry, which builds may not read: use an image from another registry",
                    self.host()
                ),
            ),
            (AuthCall::Credentials(_), Login::Password { user, password }) => {
                auth::credentials(Credentials {
                    username: user.clone(),
                    secret: password.clone(),
                })
            }
            (AuthCall::Credentials(_), _) => auth::anonymous(),
            _ => auth::no_token_authority(),
        })
    }
}
