//! Registries over plain HTTP, past croft and past buildx.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use croft_local::Registry;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{image::Published, process::PATIENCE};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

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

    fn get(&self, path: &str) -> Option<Answer> {
        let answer = get(self.registry, path, self.login.as_deref());
        match answer.status {
            200 => Some(answer),
            404 => None,
            status => panic!(
                "{} answers {status} to {path}: {}",
                self.registry,
                String::from_utf8_lossy(&answer.body)
            ),
        }
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

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// HTTP/1.0, so that the answer is never chunked and ends with the connection.
fn get(address: SocketAddr, path: &str, login: Option<&str>) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the registry listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let login = login.map_or(String::new(), |login| {
        format!("Authorization: Basic {login}\r\n")
    });
    let head =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {MANIFESTS}\r\n{login}\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("HTTP");
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).expect("HTTP");
    let status = head.split(' ').nth(1).expect("a status");
    let media_type = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or("", |(_, value)| value);
    Answer {
        status: status.parse().expect("a number"),
        media_type: media_type.to_owned(),
        body,
    }
}
