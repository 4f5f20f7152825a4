//! What the client wants published and how it looks: exporter attributes in, attributes for each platform's engine and the index out.
//!
//! Pure. Pushing is [`super::publish`]'s. The rules are BuildKit's own (`exporter/containerimage`), so that what croft publishes is what
//! one engine would have published.

mod annotation;

use std::collections::BTreeMap;

use oci_client::Reference;
use serde::{Deserialize, Serialize};

use crate::registry::{self, RegistryError};
use annotation::{Annotation, Level, pairs};

/// An `image` exporter with `push=true`. Stored as the attributes that it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct ImageOutput {
    /// The names just as the client wrote them, comma-joined: they go back to it.
    pub names: String,
    /// The same, read.
    pub references: Vec<Reference>,
    /// The media types of the manifests and the index, one family for all.
    pub family: Family,
    /// Push nothing but digests: no tag moves.
    pub by_digest: bool,
    given: BTreeMap<String, String>,
    /// Attributes that engines understand by themselves (compression and the like).
    attrs: BTreeMap<String, String>,
    annotations: Vec<Annotation>,
}

/// OCI's media types or Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `application/vnd.oci.image.*`
    Oci,
    /// `application/vnd.docker.distribution.*`
    Docker,
}

impl Family {
    /// The media type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Family::Oci => "application/vnd.oci.image.index.v1+json",
            Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }
}

/// Why an output can't be had. Each text says what to do instead.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// An exporter that the farm doesn't have.
    #[error(
        "output of type {0:?} is not supported by this farm: use image (with push=true), local, tar, oci or docker"
    )]
    Unsupported(String),
    /// More than one image that is pushed.
    #[error(
        "several image outputs in one build are not supported by this farm: use one with all names in it"
    )]
    SeveralImages,
    /// More outputs than anybody has a use for.
    #[error("one build can have {0} outputs at most")]
    TooMany(usize),
    /// Docker's archives hold one platform.
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerIndex,
    /// An image that is to be stored nowhere.
    #[error(
        "an image output without push has no place to go in a farm of several engines: add push=true, or take the image out with type=oci or type=docker"
    )]
    NotPushed,
    /// `push=true` without a name.
    #[error("the image has no name to be pushed under: add a tag with -t, or name=… to the output")]
    NoName,
    /// A name that can't be read.
    #[error(transparent)]
    Name(#[from] RegistryError),
    /// A value that is no boolean.
    #[error("non-bool value {value:?} specified for {key}")]
    NotBool {
        /// The attribute.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// An annotation key that BuildKit would refuse.
    #[error("unrecognized annotation type {0}")]
    Annotation(String),
    /// An annotation for a platform that isn't built.
    #[error("invalid annotation: no platform {0} found in source")]
    AnnotationPlatform(String),
    /// Docker's index has no place for annotations.
    #[error("cannot export annotations with \"oci-mediatypes=false\"")]
    AnnotationFamily,
    /// A bare manifest has no index.
    #[error("index annotations not supported for single platform export")]
    AnnotationBare,
}

impl TryFrom<BTreeMap<String, String>> for ImageOutput {
    type Error = OutputError;

    fn try_from(given: BTreeMap<String, String>) -> Result<Self, OutputError> {
        Self::parse(&given)
    }
}

impl From<ImageOutput> for BTreeMap<String, String> {
    fn from(image: ImageOutput) -> Self {
        image.given
    }
}

impl ImageOutput {
    /// Reads the attributes of an image output.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, OutputError> {
        let mut attrs = given.clone();
        let push = take_bool(&mut attrs, "push")?.unwrap_or(false);
        let by_digest = take_bool(&mut attrs, "push-by-digest")?.unwrap_or(false);
        let family = match take_bool(&mut attrs, "oci-mediatypes")? {
            Some(false) => Family::Docker,
            Some(true) | None => Family::Oci,
        };
        if !push && !by_digest {
            return Err(OutputError::NotPushed);
        }
        // Where an engine would keep the image is the farm's business.
        for key in ["store", "unpack", "name-canonical", "dangling-name-prefix"] {
            attrs.remove(key);
        }
        let names = attrs.remove("name").unwrap_or_default();
        let references = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(registry::reference)
            .collect::<Result<Vec<_>, _>>()?;
        if references.is_empty() {
            return Err(OutputError::NoName);
        }
        let mut annotations = Vec::new();
        let mut rest = BTreeMap::new();
        for (key, value) in attrs {
            match Annotation::parse(&key, &value)? {
                Some(annotation) => annotations.push(annotation),
                None => {
                    rest.insert(key, value);
                }
            }
        }
        let above_manifest = annotations.iter().any(|a| a.level != Level::Manifest);
        if family == Family::Docker && above_manifest {
            return Err(OutputError::AnnotationFamily);
        }
        Ok(Self {
            names,
            references,
            family,
            by_digest,
            given: given.clone(),
            attrs: rest,
            annotations,
        })
    }

    /// The attributes that engines understand by themselves (compression and the like).
    pub fn attrs(&self) -> &BTreeMap<String, String> {
        &self.attrs
    }

    /// The repositories, each once, in the order of the names.
    pub fn repositories(&self) -> Vec<Reference> {
        let mut seen = Vec::<Reference>::new();
        for reference in &self.references {
            let known = seen.iter().any(|r| {
                r.registry() == reference.registry() && r.repository() == reference.repository()
            });
            if !known {
                seen.push(reference.clone());
            }
        }
        seen
    }

    /// An engine's error in the client's words: engines push to repositories, the client named tags there.
    pub fn as_named(&self, error: &str) -> String {
        const PUSH: &str = "failed to push ";
        if self.by_digest {
            return error.to_owned();
        }
        let names = self.names.split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        for (reference, name) in self.references.iter().zip(names) {
            let repository = format!("{}/{}", reference.registry(), reference.repository());
            let pushed = error
                .strip_prefix(PUSH)
                .and_then(|rest| rest.strip_prefix(&repository));
            if let Some(why) = pushed.filter(|why| why.starts_with(':')) {
                return format!("{PUSH}{name}{why}");
            }
        }
        error.to_owned()
    }

    /// Checks what only the list of platforms can tell.
    pub fn check(&self, platforms: &[String], shape: Shape) -> Result<(), OutputError> {
        for annotation in &self.annotations {
            if let Some(platform) = &annotation.platform
                && !platforms.contains(platform)
            {
                return Err(OutputError::AnnotationPlatform(platform.clone()));
            }
            let of_index = matches!(annotation.level, Level::Index | Level::IndexDescriptor);
            if shape == Shape::Bare && of_index {
                return Err(OutputError::AnnotationBare);
            }
        }
        Ok(())
    }

    /// The attributes with which one engine exports one platform's image and pushes it by digest.
    pub fn engine_attrs(&self, platform: &str) -> BTreeMap<String, String> {
        let mut attrs = self.attrs.clone();
        let names: Vec<String> = self
            .repositories()
            .iter()
            .map(|r| format!("{}/{}", r.registry(), r.repository()))
            .collect();
        attrs.insert("name".into(), names.join(","));
        attrs.insert("push".into(), "true".into());
        attrs.insert("push-by-digest".into(), "true".into());
        attrs.insert("store".into(), "false".into());
        let oci = self.family == Family::Oci;
        attrs.insert("oci-mediatypes".into(), oci.to_string());
        for annotation in self.on(Level::Manifest, platform) {
            attrs.insert(
                format!("annotation-manifest.{}", annotation.key),
                annotation.value.clone(),
            );
        }
        attrs
    }

    /// The index over the platforms' manifests, as the bytes that are pushed.
    pub fn index(&self, manifests: &[PlatformManifest]) -> Vec<u8> {
        let index = Index {
            schema_version: 2,
            media_type: self.family.index().to_owned(),
            manifests: manifests
                .iter()
                .map(|manifest| Descriptor {
                    annotations: pairs(self.on(Level::ManifestDescriptor, &manifest.name)),
                    platform: Some(manifest.platform.clone()),
                    ..manifest.descriptor.clone()
                })
                .collect(),
            annotations: pairs(self.annotations.iter().filter(|a| a.level == Level::Index)),
        };
        serde_json::to_vec_pretty(&index).unwrap_or_default()
    }

    /// The descriptor of what was published, as it goes back to the client.
    pub fn index_descriptor(&self, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: self.family.index().to_owned(),
            digest: registry::digest(bytes),
            size: bytes.len() as u64,
            annotations: pairs(
                self.annotations
                    .iter()
                    .filter(|a| a.level == Level::IndexDescriptor),
            ),
            platform: None,
        }
    }

    fn on<'a>(&'a self, level: Level, platform: &'a str) -> impl Iterator<Item = &'a Annotation> {
        let general = self.annotations.iter().filter(|a| a.platform.is_none());
        let own = self
            .annotations
            .iter()
            .filter(move |a| a.platform.as_deref() == Some(platform));
        general.chain(own).filter(move |a| a.level == level)
    }
}

/// Whether an index or a bare manifest is published. A frontend that returns one unnamed result gets a bare manifest; one that returns a
/// map gets an index, even over a single platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One manifest, no index.
    Bare,
    /// An index.
    Index,
}

/// One platform's image as an engine pushed it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlatformManifest {
    /// The platform's name, normalised.
    pub name: String,
    /// The platform as the index shows it.
    pub platform: OciPlatform,
    /// What the engine answered.
    pub descriptor: Descriptor,
}

/// An OCI content descriptor, with its fields in the order in which Go's types have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Media type of what it points at.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// sha256 of what it points at.
    pub digest: String,
    /// Bytes of what it points at.
    pub size: u64,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
}

/// A platform as image indexes and frontends write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciPlatform {
    /// GOARCH
    pub architecture: String,
    /// GOOS
    pub os: String,
    /// Windows' build number.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Rarely used.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// GOARM and the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

#[derive(Serialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: String,
    manifests: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Takes a boolean out of attributes, by the rules of Go's `strconv.ParseBool`; an empty value means true, as buildx has it.
fn take_bool(attrs: &mut BTreeMap<String, String>, key: &str) -> Result<Option<bool>, OutputError> {
    let Some(value) = attrs.remove(key) else {
        return Ok(None);
    };
    match value.as_str() {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(OutputError::NotBool {
            key: key.to_owned(),
            value,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn image(list: &[(&str, &str)]) -> Result<ImageOutput, OutputError> {
        let mut all = attrs(list);
        all.insert("push".into(), "true".into());
        ImageOutput::parse(&all)
    }

    #[test]
    fn engines_push_each_repository_once_by_digest_without_tags() {
        let image = image(&[("name", "localhost:1/a:x,localhost:1/a:y,localhost:1/b:z")]).unwrap();
        let attrs = image.engine_attrs("linux/amd64");
        assert_eq!(attrs["name"], "localhost:1/a,localhost:1/b");
        assert_eq!(attrs["push-by-digest"], "true");
        assert_eq!(attrs["oci-mediatypes"], "true");
        assert_eq!(
            image.names,
            "localhost:1/a:x,localhost:1/a:y,localhost:1/b:z"
        );
        assert_eq!(image.references.len(), 3);
    }

    #[test]
    fn annotations_go_where_they_belong_and_the_platforms_own_win() {
        let image = image(&[
            ("name", "localhost:1/a"),
            ("annotation.a", "all"),
            ("annotation-manifest[linux/arm64/v8].a", "arm"),
            ("annotation-index.i", "index"),
            ("annotation-manifest-descriptor.d", "desc"),
            ("annotation-index-descriptor.r", "resp"),
        ])
        .unwrap();
        assert_eq!(
            image.engine_attrs("linux/arm64")["annotation-manifest.a"],
            "arm"
        );
        assert_eq!(
            image.engine_attrs("linux/amd64")["annotation-manifest.a"],
            "all"
        );
        let descriptor = Descriptor {
            media_type: "m".into(),
            digest: "sha256:0".into(),
            size: 1,
            annotations: BTreeMap::new(),
            platform: None,
        };
        let index = image.index(&[PlatformManifest {
            name: "linux/arm64".into(),
            platform: OciPlatform {
                architecture: "arm64".into(),
                os: "linux".into(),
                ..OciPlatform::default()
            },
            descriptor,
        }]);
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["annotations"]["i"], "index");
        assert_eq!(index["manifests"][0]["annotations"]["d"], "desc");
        assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
        assert_eq!(image.index_descriptor(b"x").annotations["r"], "resp");
        assert!(matches!(
            image.check(&["linux/amd64".into()], Shape::Index),
            Err(OutputError::AnnotationPlatform(p)) if p == "linux/arm64"
        ));
        assert!(matches!(
            image.check(&["linux/arm64".into()], Shape::Bare),
            Err(OutputError::AnnotationBare)
        ));
    }

    #[test]
    fn what_the_farm_cannot_do_is_refused_with_what_to_do_instead() {
        let one = |list: &[(&str, &str)]| ImageOutput::parse(&attrs(list)).unwrap_err().to_string();
        assert!(one(&[("name", "a")]).contains("push=true"));
        assert!(one(&[("push", "true")]).contains("-t"));
        assert!(one(&[("push", "perhaps")]).contains("non-bool"));
        assert!(one(&[("push", ""), ("name", "UPPER CASE")]).contains("reference"));
        let docker = image(&[
            ("name", "a"),
            ("oci-mediatypes", "false"),
            ("annotation-index.x", "y"),
        ]);
        assert!(matches!(docker, Err(OutputError::AnnotationFamily)));
    }
}
