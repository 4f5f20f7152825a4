//! Registries over plain HTTP, past croft and past buildx.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use croft_local::Registry;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{image::Published, process::PATIENCE};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A repository in a registry.
#[derive(Debug, Clone)]
pub struct Repository {
    registry: SocketAddr,
    login: Option<String>,
    path: String,
}

/// An HTTP answer.
struct Answer {
    status: u16,
    media_type: String,
    location: String,
    body: Vec<u8>,
}

impl Repository {
    /// A repository, with the registry's own credentials if it wants any.
    pub fn of(registry: &Registry, path: &str) -> Repository {
        let login = registry
            .credentials()
            .map(|one| STANDARD.encode(format!("{}:{}", one.user, one.password)));
        Repository {
            registry: registry.address(),
            login,
            path: path.to_owned(),
        }
    }

    /// As it stands in a `--tag`, without the tag.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// With this tag.
    pub fn tag(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name())
    }

    /// What is under a tag or a digest.
    #[track_caller]
    pub fn published(&self, reference: &str) -> Published {
        self.find(reference)
            .unwrap_or_else(|| panic!("no {reference} in {}", self.name()))
    }

    /// The same, if there is anything.
    pub fn find(&self, reference: &str) -> Option<Published> {
        let answer = self.get(&format!("/v2/{}/manifests/{reference}", self.path))?;
        Some(Published {
            repository: self.clone(),
            digest: digest(&answer.body),
            media_type: answer.media_type,
            document: serde_json::from_slice(&answer.body).expect("JSON"),
        })
    }

    /// Its tags.
    pub fn tags(&self) -> Vec<String> {
        let answer = self.get(&format!("/v2/{}/tags/list", self.path));
        let list = answer.map_or(Value::Null, |answer| {
            serde_json::from_slice(&answer.body).expect("JSON")
        });
        let tags = list["tags"].as_array().cloned().unwrap_or_default();
        tags.iter()
            .map(|tag| tag.as_str().expect("a tag").to_owned())
            .collect()
    }

    /// How often this tag was put so far, from the registry's own log.
    pub fn moves(&self, registry: &Registry, tag: &str) -> usize {
        requests(registry, "PUT", &format!("/{}/manifests/{tag}", self.path))
    }

    /// Deletes the manifest of this digest.
    #[track_caller]
    pub fn delete(&self, digest: &str) {
        let path = format!("/v2/{}/manifests/{digest}", self.path);
        let deleted = self.send("DELETE", &path, "", b"");
        assert_eq!(deleted.status, 202, "{deleted:?}");
    }

    /// Whether there is a manifest of this digest.
    pub fn has(&self, digest: &str) -> bool {
        self.get(&format!("/v2/{}/manifests/{digest}", self.path))
            .is_some()
    }

    /// A blob, whose digest is checked.
    #[track_caller]
    pub fn blob(&self, wanted: &str) -> Vec<u8> {
        let answer = self.get(&format!("/v2/{}/blobs/{wanted}", self.path));
        let body = answer
            .unwrap_or_else(|| panic!("no blob {wanted} in {}", self.name()))
            .body;
        assert_eq!(digest(&body), wanted);
        body
    }

    /// Puts an image of one layer there, whose `rootfs` is added to the configuration.
    #[track_caller]
    pub fn put_image(&self, tag: &str, mut config: Value, layer: &[u8]) {
        config["rootfs"] = json!({"type": "layers", "diff_ids": [digest(layer)]});
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(layer).expect("memory");
        let layer = self.put_blob(LAYER, &gzip.finish().expect("memory"));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put_blob(CONFIG, config.to_string().as_bytes()),
            "layers": [layer],
        });
        self.put_manifest(tag, &manifest);
    }

    /// Puts a copy of an image from anywhere there.
    #[track_caller]
    pub fn put_copy(&self, tag: &str, image: &Published) {
        let document = &image.document;
        let layers = document["layers"].as_array().expect("an image");
        for blob in layers.iter().chain([&document["config"]]) {
            let wanted = blob["digest"].as_str().expect("a digest");
            let media_type = blob["mediaType"].as_str().expect("a media type");
            self.put_blob(media_type, &image.repository.blob(wanted));
        }
        self.put_manifest(tag, document);
    }

    /// Gives the blob's descriptor.
    #[track_caller]
    fn put_blob(&self, media_type: &str, blob: &[u8]) -> Value {
        let begun = self.send(
            "POST",
            &format!("/v2/{}/blobs/uploads/", self.path),
            "",
            b"",
        );
        assert_eq!(begun.status, 202, "{begun:?}");
        let (_, place) = begun.location.split_once("/v2/").expect("a location");
        let digest = digest(blob);
        let path = format!("/v2/{place}&digest={digest}");
        let put = self.send("PUT", &path, "application/octet-stream", blob);
        assert_eq!(put.status, 201, "{put:?}");
        json!({"mediaType": media_type, "digest": digest, "size": blob.len()})
    }

    #[track_caller]
    fn put_manifest(&self, tag: &str, manifest: &Value) {
        let path = format!("/v2/{}/manifests/{tag}", self.path);
        let media_type = manifest["mediaType"].as_str().expect("a media type");
        let put = self.send("PUT", &path, media_type, manifest.to_string().as_bytes());
        assert_eq!(put.status, 201, "{put:?}");
    }

    fn get(&self, path: &str) -> Option<Answer> {
        let answer = self.send("GET", path, "", b"");
        match answer.status {
            200 => Some(answer),
            404 => None,
            _ => panic!("{} answers to {path}: {answer:?}", self.registry),
        }
    }

    /// HTTP/1.0, so that the answer is never chunked and ends with the connection.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.registry).expect("the registry listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: {MANIFESTS}\r\n",
            self.registry
        );
        if let Some(login) = &self.login {
            head += &format!("Authorization: Basic {login}\r\n");
        }
        if method != "GET" {
            let length = body.len();
            head += &format!("Content-Type: {media_type}\r\nContent-Length: {length}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).expect("it reads");
        stream.write_all(body).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        Answer::parse(answer)
    }
}

/// The repositories in a registry.
pub fn repositories(registry: &Registry) -> Vec<String> {
    let root = Repository::of(registry, "");
    let list = root.get("/v2/_catalog?n=1000").expect("a catalog");
    let list: Value = serde_json::from_slice(&list.body).expect("JSON");
    let names = list["repositories"].as_array().cloned().unwrap_or_default();
    names
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

/// The requests of this method that a registry has served so far and whose path has this text, from its own log.
pub fn requests(registry: &Registry, method: &str, text: &str) -> usize {
    let log = std::fs::read_to_string(registry.log()).expect("a log");
    let start = format!("\"{method} ");
    let served = |line: &&str| {
        line.split_once(&start)
            .and_then(|(_, rest)| rest.split_once(" HTTP/"))
            .is_some_and(|(path, rest)| {
                // After the quote: the status.
                let status = rest.split(' ').nth(1).unwrap_or_default();
                path.contains(text) && status.starts_with('2')
            })
    };
    log.lines().filter(served).count()
}

/// The digests under which manifests were put into a registry, from its own log.
pub fn pushed(registry: &Registry) -> Vec<String> {
    let log = std::fs::read_to_string(registry.log()).expect("a log");
    let digest = |line: &str| {
        let (_, path) = line.split_once("\"PUT /v2/")?;
        let (_, digest) = path.split_once("/manifests/")?;
        let (digest, rest) = digest.split_once(" HTTP/")?;
        (digest.starts_with("sha256:") && rest.contains("\" 201 ")).then(|| digest.to_owned())
    };
    let all: std::collections::BTreeSet<String> = log.lines().filter_map(digest).collect();
    all.into_iter().collect()
}

/// Of these bytes, as registries name them.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Answer {
    fn parse(mut bytes: Vec<u8>) -> Answer {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("HTTP");
        let body = bytes.split_off(end + 4);
        let head = String::from_utf8(bytes).expect("HTTP");
        let status = head.split(' ').nth(1).expect("a status");
        let header = |wanted: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map_or("", |(_, value)| value)
                .to_owned()
        };
        Answer {
            status: status.parse().expect("a number"),
            media_type: header("content-type"),
            location: header("location"),
            body,
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}
