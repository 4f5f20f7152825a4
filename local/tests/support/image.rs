//! Images as they stand in a registry: what a puller would get.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::registry::Repository;

/// A manifest or a manifest list.
#[derive(Debug, Clone)]
pub struct Published {
    pub(super) repository: Repository,
    /// Of the bytes that the registry has.
    pub digest: String,
    /// As the registry tells it.
    pub media_type: String,
    /// All of it.
    pub document: Value,
}

impl Published {
    /// Whether it is a manifest list.
    pub fn is_list(&self) -> bool {
        self.document["manifests"].is_array()
    }

    /// The platforms of a manifest list, in its order.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests().iter().map(platform).collect()
    }

    /// The descriptors of a manifest list.
    #[track_caller]
    pub fn manifests(&self) -> &[Value] {
        let list = self.document["manifests"].as_array();
        list.unwrap_or_else(|| panic!("not a manifest list: {}", self.document))
    }

    /// The list's descriptor for a platform.
    #[track_caller]
    pub fn descriptor(&self, wanted: &str) -> &Value {
        let mut found = self
            .manifests()
            .iter()
            .filter(|descriptor| platform(descriptor) == wanted);
        let one = found
            .next()
            .unwrap_or_else(|| panic!("no {wanted} in {}", self.document));
        assert!(found.next().is_none(), "{wanted} twice");
        one
    }

    /// The image for a platform.
    #[track_caller]
    pub fn image(&self, wanted: &str) -> Image {
        let descriptor = self.descriptor(wanted);
        let manifest = self
            .repository
            .published(descriptor["digest"].as_str().expect("a digest"));
        assert_eq!(descriptor["mediaType"], manifest.media_type.as_str());
        Image::of(manifest)
    }

    /// The image that it is, if it is no list.
    #[track_caller]
    pub fn bare_image(&self) -> Image {
        assert!(!self.is_list(), "a manifest list: {}", self.document);
        Image::of(self.clone())
    }
}

/// Normalised as BuildKit does: `linux/arm64`, `linux/arm/v7`.
fn platform(descriptor: &Value) -> String {
    let part = |name: &str| descriptor["platform"][name].as_str().unwrap_or("?");
    let name = format!("{}/{}", part("os"), part("architecture"));
    match descriptor["platform"]["variant"].as_str() {
        None => name,
        Some("v8") if name.ends_with("/arm64") => name,
        Some(variant) => format!("{name}/{variant}"),
    }
}

/// An image, unpacked.
#[derive(Debug)]
pub struct Image {
    /// Its manifest.
    pub manifest: Published,
    /// Its configuration, all of it.
    pub config: Value,
    root: TempDir,
}

impl Image {
    #[track_caller]
    fn of(manifest: Published) -> Image {
        let blob = |descriptor: &Value| {
            manifest
                .repository
                .blob(descriptor["digest"].as_str().expect("a digest"))
        };
        let config = serde_json::from_slice(&blob(&manifest.document["config"])).expect("JSON");
        let root = tempfile::tempdir().expect("a temporary folder");
        for layer in layers(&manifest.document) {
            unpack(&blob(layer), root.path());
        }
        Image {
            manifest,
            config,
            root,
        }
    }

    /// `os/architecture` of the configuration.
    pub fn platform(&self) -> String {
        let part = |name: &str| self.config[name].as_str().unwrap_or("?");
        format!("{}/{}", part("os"), part("architecture"))
    }

    /// The descriptors of its layers.
    pub fn layers(&self) -> impl Iterator<Item = &Value> {
        layers(&self.manifest.document)
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A file's text without the white space around it.
    #[track_caller]
    pub fn file(&self, path: &str) -> String {
        let path = self.root().join(path.trim_start_matches('/'));
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// `-rwxr-xr-x 1000/1000`: what the last layer that has this path (no slash in front, one behind a folder) says of it. Unpacked here
    /// files don't have their owners.
    #[track_caller]
    pub fn owner_and_mode(&self, path: &str) -> String {
        let lists = self.layers().map(|layer| {
            let digest = layer["digest"].as_str().expect("a digest");
            let tar = tar(
                &["-tvz", "--numeric-owner"],
                &self.manifest.repository.blob(digest),
            );
            String::from_utf8(tar).expect("a list")
        });
        let last = lists.filter_map(|list| {
            let mut words = list
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            // Mode, owner, size, date, time, path; a link goes on with `-> target`.
            let words = words.find(|words| words.get(5) == Some(&path))?;
            Some(words[..2].join(" "))
        });
        last.last()
            .unwrap_or_else(|| panic!("no {path} in any layer"))
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.root().join(path.trim_start_matches('/')).exists()
    }
}

/// BuildKit writes null where there are none.
fn layers(manifest: &Value) -> impl Iterator<Item = &Value> {
    manifest["layers"].as_array().into_iter().flatten()
}

/// Lays a layer over what is there. The tests' images delete nothing, so there are no whiteouts to follow.
#[track_caller]
fn unpack(layer: &[u8], root: &Path) {
    let root = root.to_str().expect("a path in UTF-8");
    // Windows' layers have keywords of their own.
    let quiet = "--warning=no-unknown-keyword";
    tar(&["-xz", "--no-same-owner", quiet, "-C", root], layer);
}

/// What `tar` prints with this archive as its input.
#[track_caller]
fn tar(arguments: &[&str], archive: &[u8]) -> Vec<u8> {
    let mut tar = Command::new("tar")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar");
    let mut input = tar.stdin.take().expect("piped");
    thread::scope(|scope| {
        // It prints while it reads.
        scope.spawn(move || input.write_all(archive).expect("tar reads"));
        let output = tar.wait_with_output().expect("our child");
        assert!(output.status.success(), "tar {arguments:?}");
        output.stdout
    })
}
