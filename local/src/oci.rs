//! OCI images as files (an image layout), and how they get into a registry.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Doing, Error, Result},
    http::{Answer, Request},
    registry::Registry,
};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What names a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Digest(String);

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(format!("sha256:{}", hex::encode(Sha256::digest(bytes))))
}

/// An OCI image layout: a folder of blobs with one root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    folder: PathBuf,
}

/// The parts of an index or a manifest that lead on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Links {
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

impl Layout {
    /// The layout that is in `folder`.
    pub fn open(folder: &Path) -> Layout {
        Layout {
            folder: folder.to_owned(),
        }
    }

    /// A new one without blobs.
    pub fn create(folder: &Path) -> Result<Layout> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).doing("make", &blobs)?;
        let marker = folder.join("oci-layout");
        fs::write(&marker, r#"{"imageLayoutVersion":"1.0.0"}"#).doing("write", &marker)?;
        Ok(Layout::open(folder))
    }

    /// Keeps a blob.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = digest(bytes);
        let path = self.path(&digest);
        fs::write(&path, bytes).doing("write", &path)?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: bytes.len() as u64,
        })
    }

    /// Says where the image starts.
    pub fn set_root(&self, root: &Descriptor, tag: &str) -> Result<()> {
        let mut entry = json!(root);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let path = self.folder.join("index.json");
        fs::write(&path, index.to_string()).doing("write", &path)
    }

    fn root(&self) -> Result<Descriptor> {
        let path = self.folder.join("index.json");
        let links = parse(&fs::read(&path).doing("read", &path)?, &path)?;
        links
            .manifests
            .into_iter()
            .next()
            .ok_or_else(|| broken(&path, "no root"))
    }

    fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).doing("read", &path)
    }

    fn links(&self, digest: &Digest) -> Result<Links> {
        parse(&self.read(digest)?, &self.path(digest))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.0.replace(':', "/"))
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Links> {
    serde_json::from_slice(bytes).map_err(|error| broken(path, &error.to_string()))
}

fn broken(path: &Path, reason: &str) -> Error {
    Error::Peer {
        peer: path.display().to_string(),
        answer: format!("not an OCI image ({reason}); remove it and try again"),
    }
}

/// Copies a layout's image index and all that it names into `repository`, the tag last.
pub(crate) fn push(
    layout: &Layout,
    registry: &Registry,
    repository: &str,
    tag: &str,
) -> Result<()> {
    let root = layout.root()?;
    for manifest in layout.links(&root.digest)?.manifests {
        let links = layout.links(&manifest.digest)?;
        for blob in links.config.iter().chain(&links.layers) {
            push_blob(layout, registry, repository, &blob.digest)?;
        }
        push_manifest(layout, registry, repository, &manifest, &manifest.digest.0)?;
    }
    push_manifest(layout, registry, repository, &root, tag)
}

fn push_blob(
    layout: &Layout,
    registry: &Registry,
    repository: &str,
    digest: &Digest,
) -> Result<()> {
    let path = format!("/v2/{repository}/blobs/{}", digest.0);
    if send(registry, registry.request("HEAD", &path))?.status == 200 {
        return Ok(());
    }
    let path = format!("/v2/{repository}/blobs/uploads/");
    let opened = expect(
        registry,
        202,
        send(registry, registry.request("POST", &path))?,
    )?;
    // The location is a URL or just a path, and has a query already or not.
    let location = opened.header("location").unwrap_or_default();
    let place = location
        .split_once("://")
        .and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
    let place = place.unwrap_or(location);
    let joint = if place.contains('?') { '&' } else { '?' };
    let path = format!("{place}{joint}digest={}", digest.0);
    let bytes = layout.read(digest)?;
    let request = registry
        .request("PUT", &path)
        .header("Content-Type", "application/octet-stream")
        .body(&bytes);
    expect(registry, 201, send(registry, request)?).map(drop)
}

fn push_manifest(
    layout: &Layout,
    registry: &Registry,
    repository: &str,
    manifest: &Descriptor,
    reference: &str,
) -> Result<()> {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let bytes = layout.read(&manifest.digest)?;
    let request = registry
        .request("PUT", &path)
        .header("Content-Type", manifest.media_type.clone())
        .body(&bytes);
    expect(registry, 201, send(registry, request)?).map(drop)
}

fn send(registry: &Registry, request: Request<'_>) -> Result<Answer> {
    request.send(&registry.peer()).doing(
        "ask",
        Path::new(&format!("the registry at {}", registry.address())),
    )
}

fn expect(registry: &Registry, status: u16, answer: Answer) -> Result<Answer> {
    if answer.status == status {
        return Ok(answer);
    }
    Err(Error::Peer {
        peer: format!("the registry at {}", registry.address()),
        answer: answer.summary(),
    })
}
