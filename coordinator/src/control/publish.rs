//! Publishing: when every platform's manifest is in the user's registry, the index goes there by digest, and the tags move last.
//!
//! Engines have pushed the manifests by digest already. What moves, and what the tags pointed at before, is in the store before the
//! first tag moves.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use oci_client::Reference;

use super::build::{Build, Planned};
use super::failure::{Failure, Kind, Result};
use super::image::{Descriptor, ImageOutput, OciPlatform, PlatformManifest, Shape};
use super::progress::Phase;
use super::{Control, Sessions};
use crate::registry::{self, Login, Registry, RegistryError};
use crate::store::NewPublication;

/// The client's credentials for the registries of its image. Fetched when the build is planned, in memory for its life only.
pub(super) struct Logins(HashMap<String, Registry>);

impl Logins {
    /// Asks the build's session for each registry of the output.
    pub(super) async fn fetch(
        sessions: &Sessions,
        build: &Build,
        image: &ImageOutput,
        plain: &[String],
    ) -> Result<Self> {
        let mut registries = HashMap::new();
        let session = sessions.get(&build.request.session);
        for reference in &image.references {
            let host = registry::host(reference).to_owned();
            if registries.contains_key(&host) {
                continue;
            }
            let login = match &session {
                None => Login::Anonymous,
                Some(session) => {
                    let asked = session.credentials(auth_host(&host)).await;
                    login(asked.map_err(|status| {
                        Failure::invalid(format!(
                            "the client's credentials for {host} can't be had: {}",
                            status.message()
                        ))
                    })?)
                }
            };
            let connection = Registry::new(&host, &login, plain);
            registries.insert(host, connection);
        }
        Ok(Self(registries))
    }

    fn of(&self, reference: &Reference) -> Result<&Registry> {
        self.0
            .get(registry::host(reference))
            .ok_or_else(|| Failure::farm("a registry was not logged in to"))
    }
}

/// Docker Hub's credentials are kept under its API's name.
fn auth_host(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        host => host,
    }
}

fn login(credentials: Option<croft_buildkit::session::auth::Credentials>) -> Login {
    match credentials {
        None => Login::Anonymous,
        Some(c) if c.username.is_empty() => Login::Token(c.secret),
        Some(c) => Login::Password {
            user: c.username,
            password: c.secret,
        },
    }
}

impl Control {
    /// Publishes what the engines have pushed. Returns the response's keys.
    pub(super) async fn publish(
        &self,
        build: &Build,
        planned: &Planned,
        image: &ImageOutput,
        logins: &Logins,
        pushed: &[BTreeMap<String, String>],
    ) -> Result<BTreeMap<String, String>> {
        let (manifest, mut response) = match planned.results.shape {
            Shape::Bare => bare(image, logins, pushed).await?,
            Shape::Index => index(image, planned, pushed)?,
        };
        response.insert("image.name".into(), image.names.clone());
        let what = match planned.results.shape {
            Shape::Bare => "manifest",
            Shape::Index => "manifest list",
        };
        let step = build
            .progress()
            .step(&format!("[croft] publishing {what} {}", manifest.digest));
        for platform in planned.results.repeated() {
            step.warn(&format!("Duplicate platform result requested {platform:?}"));
        }
        let outcome = self.push(build, image, logins, &manifest, &step).await;
        if let Err(failure) = &outcome {
            step.fail(&failure.message);
        }
        outcome.map(|()| response)
    }

    async fn push(
        &self,
        build: &Build,
        image: &ImageOutput,
        logins: &Logins,
        manifest: &Manifest,
        step: &super::progress::Step,
    ) -> Result<()> {
        for repository in image.repositories() {
            let by_digest = repository.clone_with_digest(manifest.digest.clone());
            let name = format!("pushing {}", by_digest.whole());
            step.status(&name, Phase::Begun);
            logins
                .of(&repository)?
                .manifest_put(&by_digest, &manifest.media_type, manifest.bytes.clone())
                .await
                .map_err(refused)?;
            step.status(&name, Phase::Done);
        }
        if image.by_digest {
            return Ok(());
        }
        let mut intents = Vec::new();
        for reference in &image.references {
            let previous = logins
                .of(reference)?
                .tag_get(reference)
                .await
                .map_err(refused)?;
            intents.push(NewPublication {
                repository: format!("{}/{}", registry::host(reference), reference.repository()),
                tag: Some(reference.tag().unwrap_or("latest").to_owned()),
                digest: manifest.digest.clone(),
                previous,
            });
        }
        self.store.publication_intend(build.id(), &intents).await?;
        for (reference, intent) in image.references.iter().zip(&intents) {
            let name = format!("tagging {}", reference.whole());
            step.status(&name, Phase::Begun);
            let put = logins
                .of(reference)?
                .manifest_put(reference, &manifest.media_type, manifest.bytes.clone())
                .await;
            let (repository, tag) = (&intent.repository, intent.tag.as_deref());
            match &put {
                Ok(()) => {
                    self.store
                        .publication_done(build.id(), repository, tag)
                        .await?
                }
                Err(error) => {
                    let why = error.to_string();
                    self.store
                        .publication_leave(build.id(), repository, tag, &why)
                        .await?;
                }
            }
            put.map_err(|error| {
                let mut failure = refused(error);
                failure.message =
                    format!("{}{}", failure.message, moved(&image.references, reference));
                failure
            })?;
            step.status(&name, Phase::Done);
        }
        Ok(())
    }
}

/// Says how far the tags came, for the one whose push broke off between two of them.
fn moved(all: &[Reference], failed: &Reference) -> String {
    let at = all.iter().position(|r| r == failed).unwrap_or(0);
    let list = |tags: &[Reference]| {
        tags.iter()
            .map(Reference::whole)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match at {
        0 => "; no tag was moved".to_owned(),
        at => format!(
            "; moved already: {}; not moved: {}",
            list(&all[..at]),
            list(&all[at..])
        ),
    }
}

fn refused(error: RegistryError) -> Failure {
    Failure {
        kind: Kind::Build,
        message: format!("failed to push {error}"),
        status: None,
    }
}

/// What the tags are to point at.
struct Manifest {
    media_type: String,
    digest: String,
    bytes: Bytes,
}

type Published = (Manifest, BTreeMap<String, String>);

async fn bare(
    image: &ImageOutput,
    logins: &Logins,
    pushed: &[BTreeMap<String, String>],
) -> Result<Published> {
    let response = pushed
        .first()
        .ok_or_else(|| Failure::invalid("the build has no result to publish"))?;
    let descriptor = descriptor(response)?;
    let first = &image.references[0];
    let reference = first.clone_with_digest(descriptor.digest.clone());
    let bytes = logins
        .of(first)?
        .manifest_get(&reference)
        .await
        .map_err(refused)?;
    let manifest = Manifest {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        bytes,
    };
    Ok((manifest, response.clone()))
}

fn index(
    image: &ImageOutput,
    planned: &Planned,
    pushed: &[BTreeMap<String, String>],
) -> Result<Published> {
    let mut images = Vec::new();
    for (response, target) in pushed.iter().zip(&planned.results.targets) {
        let platform = target.platform.clone().unwrap_or_default();
        images.push(PlatformManifest {
            name: platform_name(&platform),
            platform,
            descriptor: descriptor(response)?,
        });
    }
    let listed = planned.results.listed.iter();
    let manifests: Vec<_> = listed
        .filter_map(|place| images.get(*place).cloned())
        .collect();
    let bytes = image.index(&manifests);
    let descriptor = image.index_descriptor(&bytes);
    let json = serde_json::to_vec(&descriptor).unwrap_or_default();
    let response = BTreeMap::from([
        (
            "containerimage.digest".to_owned(),
            descriptor.digest.clone(),
        ),
        (
            "containerimage.descriptor".to_owned(),
            registry::base64(&json),
        ),
    ]);
    let manifest = Manifest {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        bytes: bytes.into(),
    };
    Ok((manifest, response))
}

/// A platform as the farm writes it everywhere.
pub(super) fn platform_name(platform: &OciPlatform) -> String {
    croft_planner::Platform::new(
        &platform.os,
        &platform.architecture,
        &platform.variant,
        &platform.os_version,
    )
    .to_string()
}

/// The descriptor of what an engine pushed, without what it noted there for itself.
fn descriptor(response: &BTreeMap<String, String>) -> Result<Descriptor> {
    let broken = || Failure::farm("an engine pushed an image and did not say which");
    let text = response
        .get("containerimage.descriptor")
        .ok_or_else(broken)?;
    let json = registry::from_base64(text).ok_or_else(broken)?;
    let mut descriptor: Descriptor = serde_json::from_slice(&json).map_err(|_| broken())?;
    descriptor.annotations.clear();
    descriptor.platform = None;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_that_broke_off_says_which_tags_moved() {
        let all: Vec<Reference> = ["r.io/a:1", "r.io/a:2", "r.io/a:3"]
            .map(|r| registry::reference(r).unwrap())
            .to_vec();
        assert_eq!(moved(&all, &all[0]), "; no tag was moved");
        assert_eq!(
            moved(&all, &all[1]),
            "; moved already: r.io/a:1; not moved: r.io/a:2, r.io/a:3"
        );
    }

    #[test]
    fn credentials_for_docker_hub_are_asked_for_under_the_name_that_clients_keep_them() {
        assert_eq!(auth_host("docker.io"), "registry-1.docker.io");
        assert_eq!(auth_host("localhost:5000"), "localhost:5000");
    }
}
