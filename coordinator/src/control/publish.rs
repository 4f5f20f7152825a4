//! Publishing: when every platform's manifest is in the user's registry, the index goes there by digest, and the tags move last.
//!
//! Engines have pushed the manifests by digest already. What moves, and what the tags pointed at before, is in the store before the
//! first tag moves.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use oci_client::Reference;

use super::build::Build;
use super::failure::{Failure, Result};
use super::image::{Descriptor, ImageOutput, OciPlatform, PlatformManifest, Shape};
use super::planned::Planned;
use super::progress::{Phase, Step};
use super::{Control, Sessions, Settings};
use crate::registry::{self, Login, Registry, RegistryError};
use crate::store::{NewPublication, PublicationRow, PublicationState};

/// As whom each repository of an image is written to: with the client's credentials, fetched when the build is planned and in memory for its
/// life only, or with the coordinator's own where the client has none.
pub(super) struct Logins(HashMap<String, Registry>);

impl Logins {
    /// Asks the build's session for each registry of the output.
    pub(super) async fn fetch(
        sessions: &Sessions,
        build: &Build,
        image: &ImageOutput,
        settings: &Settings,
    ) -> Result<Self> {
        let mut hosts = HashMap::new();
        let mut repositories = HashMap::new();
        let session = sessions.get(&build.request.session);
        for reference in image.repositories() {
            let host = registry::host(&reference);
            if !hosts.contains_key(host) {
                let login = match &session {
                    None => Login::Anonymous,
                    Some(session) => {
                        let asked = session.credentials(auth_host(host)).await;
                        login(asked.map_err(|status| {
                            Failure::invalid(format!(
                                "the client's credentials for {host} can't be had: {}",
                                status.message()
                            ))
                        })?)
                    }
                };
                hosts.insert(host.to_owned(), login);
            }
            let login = match &hosts[host] {
                Login::Anonymous => settings.registry_secrets.of(&reference),
                clients => Some(clients),
            };
            let login = login.unwrap_or(&Login::Anonymous);
            let connection = Registry::new(host, login, &settings.plain_registries);
            repositories.insert(repository(&reference), connection);
        }
        Ok(Self(repositories))
    }

    fn of(&self, reference: &Reference) -> Result<&Registry> {
        self.0
            .get(&repository(reference))
            .ok_or_else(|| Failure::farm("a registry was not logged in to"))
    }
}

/// A repository's name, its registry included.
fn repository(reference: &Reference) -> String {
    format!("{}/{}", registry::host(reference), reference.repository())
}

/// Docker Hub's credentials are kept under its API's name.
pub(super) fn auth_host(host: &str) -> &str {
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
        order: &Order<'_>,
        pushed: &[BTreeMap<String, String>],
    ) -> Result<BTreeMap<String, String>> {
        let Order {
            build,
            planned,
            image,
            ..
        } = *order;
        let (manifest, mut response) = match planned.results.shape {
            Shape::Bare => bare(order, pushed).await?,
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
        let outcome = self.push(order, &manifest, &step).await;
        if let Err(failure) = &outcome {
            step.fail(&failure.message);
        }
        outcome.map(|()| response)
    }

    async fn push(&self, order: &Order<'_>, manifest: &Manifest, step: &Step) -> Result<()> {
        let Order { image, logins, .. } = *order;
        let refused = |error| refused(order.build, error);
        // A bare manifest is there already: an engine made and pushed it.
        let missing = match order.planned.results.shape {
            Shape::Bare => Vec::new(),
            Shape::Index => image.repositories(),
        };
        for repository in missing {
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
        let intents = self.intents(order, manifest).await?;
        let mut left = Vec::new();
        for (reference, intent) in image.references.iter().zip(&intents) {
            let name = format!("tagging {}", reference.whole());
            step.status(&name, Phase::Begun);
            match self.tag(order, reference, intent, manifest).await? {
                Ok(()) => step.status(&name, Phase::Done),
                Err(TagError::Refused(error)) => {
                    let mut failure = refused(error);
                    failure.message =
                        format!("{}{}", failure.message, moved(&image.references, reference));
                    return Err(failure);
                }
                Err(TagError::Left(why)) => left.push(why),
            }
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(Failure::build(left.join("; "))),
        }
    }

    /// What each tag is to become and was before, in the order of the references: as it is stored, or stored now.
    async fn intents(&self, order: &Order<'_>, manifest: &Manifest) -> Result<Vec<PublicationRow>> {
        let mut intents = Vec::new();
        for reference in &order.image.references {
            let repository = repository(reference);
            let tag = Some(reference.tag().unwrap_or("latest").to_owned());
            let begun = order
                .begun
                .iter()
                .find(|row| row.publication.repository == repository && row.publication.tag == tag);
            intents.push(match begun {
                Some(row) if row.publication.digest != manifest.digest => {
                    return Err(Failure::farm(format!(
                        "{repository} was to get {}, and this version of croft makes {} of the same images: start the build again",
                        row.publication.digest, manifest.digest
                    )));
                }
                Some(row) => row.clone(),
                None => PublicationRow {
                    publication: NewPublication {
                        repository,
                        tag,
                        digest: manifest.digest.clone(),
                        previous: order
                            .logins
                            .of(reference)?
                            .tag_get(reference)
                            .await
                            .map_err(|error| refused(order.build, error))?,
                    },
                    state: PublicationState::Intended,
                    error: None,
                },
            });
        }
        let new = intents.iter().map(|intent| intent.publication.clone());
        if order.begun.is_empty() {
            let new: Vec<_> = new.collect();
            self.store
                .publication_intend(order.build.id(), &new)
                .await?;
        }
        Ok(intents)
    }

    /// Moves one tag. Where an earlier coordinator may have been at it before: it is ours, then that is done; it is what it was before, then
    /// it is moved; it is anything else, then it is left.
    async fn tag(
        &self,
        order: &Order<'_>,
        reference: &Reference,
        intent: &PublicationRow,
        manifest: &Manifest,
    ) -> Result<std::result::Result<(), TagError>> {
        let registry = order.logins.of(reference)?;
        let PublicationRow {
            publication,
            state,
            error,
        } = intent;
        match state {
            PublicationState::Published => return Ok(Ok(())),
            PublicationState::Left => {
                let why = error.clone().unwrap_or_default();
                return Ok(Err(TagError::Left(why)));
            }
            PublicationState::Intended => {}
        }
        let put = async {
            if !order.begun.is_empty() {
                let now = registry.tag_get(reference).await?;
                if now.as_ref() == Some(&manifest.digest) {
                    return Ok(());
                }
                if now != publication.previous {
                    return Err(TagError::taken(reference, now));
                }
            }
            let bytes = manifest.bytes.clone();
            registry
                .manifest_put(reference, &manifest.media_type, bytes)
                .await?;
            Ok(())
        };
        let put: std::result::Result<(), TagError> = put.await;
        let (id, tag) = (order.build.id(), publication.tag.as_deref());
        let repository = &publication.repository;
        match &put {
            Ok(()) => self.store.publication_done(id, repository, tag).await?,
            Err(error) => {
                let why = error.to_string();
                self.store
                    .publication_leave(id, repository, tag, &why)
                    .await?;
            }
        }
        Ok(put)
    }
}

/// What is published, for whom, and how far that is.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    /// The build.
    pub build: &'a Build,
    /// Its plan.
    pub planned: &'a Planned,
    /// What it publishes.
    pub image: &'a ImageOutput,
    /// As whom.
    pub logins: &'a Logins,
    /// The tags that an earlier coordinator was about to move; empty if there was none.
    pub begun: &'a [PublicationRow],
}

/// Why a tag was not moved.
#[derive(Debug, thiserror::Error)]
enum TagError {
    /// The registry didn't let us.
    #[error(transparent)]
    Refused(#[from] RegistryError),
    /// Somebody else did meanwhile.
    #[error("{0}")]
    Left(String),
}

impl TagError {
    fn taken(reference: &Reference, now: Option<String>) -> Self {
        let now = now.map_or("is gone".to_owned(), |now| format!("points at {now} now"));
        Self::Left(format!(
            "{} was left alone: somebody else changed it while the coordinator was away, and it {now}",
            reference.whole()
        ))
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

fn refused(build: &Build, error: RegistryError) -> Failure {
    let failure = Failure::build(format!("failed to push {error}"));
    match error {
        RegistryError::Refused { .. } => build.refused(failure),
        _ => failure,
    }
}

/// What the tags are to point at.
struct Manifest {
    media_type: String,
    digest: String,
    bytes: Bytes,
}

type Published = (Manifest, BTreeMap<String, String>);

async fn bare(order: &Order<'_>, pushed: &[BTreeMap<String, String>]) -> Result<Published> {
    let response = pushed
        .first()
        .ok_or_else(|| Failure::invalid("the build has no result to publish"))?;
    let descriptor = descriptor(response)?;
    let first = &order.image.references[0];
    let reference = first.clone_with_digest(descriptor.digest.clone());
    let bytes = order
        .logins
        .of(first)?
        .manifest_get(&reference)
        .await
        .map_err(|error| refused(order.build, error))?;
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
