//! Retention: what is old goes, and what is too much, the oldest first; never what a build that lives needs. Once an hour and at the start,
//! and soon again after a look that failed.
//!
//! Builds, logs and hints are the store's own. Images are deleted in the stage registry by their digests; the layers that nothing refers to
//! any more it frees itself, when its operator has it collect garbage.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Control;
use super::failure::{Failure, Result};
use crate::registry::RegistryError;
use crate::store::{ImageBlob, StageImage, StageImages, StoreError};

/// From the end of one look to the next.
const PACE: Duration = Duration::from_secs(3600);
/// From the end of one that failed; doubled with each that fails in a row, up to the usual pace.
const AGAIN: Duration = Duration::from_secs(60);
/// Rows that one statement takes: it holds nobody up.
const BATCH: u32 = 500;
/// Builds that one statement takes, with all that belongs to them.
const BUILDS: u32 = 20;
/// What was used so lately stays, however little room there is.
pub const LATELY: Duration = Duration::from_secs(24 * 3600);
/// A registry that refuses so many deletions in a row refuses them all.
const REFUSALS: u32 = 5;

/// How long things are kept, and how much of them.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Builds that ended, and hints for placement.
    pub builds: Duration,
    /// How many builds that ended.
    pub max_builds: u64,
    /// Logs of builds that ended.
    pub logs: Duration,
    /// Bytes of all logs.
    pub max_log_bytes: u64,
    /// Images in the stage registry since they were last used; no less than [`LATELY`].
    pub images: Duration,
    /// Bytes of these.
    pub max_image_bytes: u64,
}

/// What a look at the stage registry came to.
#[derive(Debug, Default)]
struct Collected {
    images: u64,
    bytes: u64,
    /// Images that it would not delete.
    refused: u64,
    why: Option<RegistryError>,
}

/// The retention loop.
pub(super) async fn run(control: Arc<Control>) {
    let mut told = Told::Nothing;
    let mut again = AGAIN;
    loop {
        let looked = look(&control, &mut told).await;
        if control.store.is_closed() {
            return;
        }
        tokio::time::sleep(pause(looked, &mut again)).await;
    }
}

/// How a look went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// What was to go is gone, or stays for a reason that will not pass by itself.
    Done,
    /// The database or the stage registry was away.
    Failed,
}

/// From the end of a look to the next; `again` is what it is after a failure.
fn pause(looked: Look, again: &mut Duration) -> Duration {
    match looked {
        Look::Done => {
            *again = AGAIN;
            PACE
        }
        Look::Failed => {
            let pause = *again;
            *again = (pause * 2).min(PACE);
            tracing::info!(
                seconds = pause.as_secs(),
                "what is old is looked for again after a pause"
            );
            pause
        }
    }
}

/// One look: at the database's own, and at the stage registry whatever came of that.
async fn look(control: &Control, told: &mut Told) -> Look {
    let mut looked = Look::Done;
    if let Err(failure) = rows(control).await {
        tracing::warn!(%failure, "what is old stays for now");
        looked = Look::Failed;
    }
    match images(control, *told).await {
        Ok(now) => *told = now,
        Err(failure) => {
            tracing::warn!(%failure, "what is old in the stage registry stays for now");
            looked = Look::Failed;
        }
    }
    looked
}

/// Rows that go by age or number.
async fn rows(control: &Control) -> Result<()> {
    let (store, keep) = (&control.store, &control.settings.retention);
    let builds = all(|| store.build_expire(keep.builds, BUILDS)).await?
        + all(|| store.build_expire_beyond(keep.max_builds, BUILDS)).await?;
    all(|| store.build_forget_plans(BUILDS)).await?;
    let logs = all(|| store.log_expire(keep.logs, BATCH)).await?
        + store.log_shrink(keep.max_log_bytes).await?;
    all(|| store.event_expire(keep.builds, BATCH)).await?;
    all(|| store.cache_expire(keep.builds, BATCH)).await?;
    if builds + logs > 0 {
        tracing::info!(builds, logs, "old builds and pieces of logs were deleted");
        let what = json!({"builds": builds, "logs": logs});
        control.note(None, "rows retired", what).await;
    }
    Ok(())
}

/// Batch after batch, until there is nothing more; how much it was.
async fn all<F>(batch: impl Fn() -> F) -> Result<u64>
where
    F: Future<Output = std::result::Result<u64, StoreError>>,
{
    let mut sum = 0;
    loop {
        match batch().await? {
            0 => return Ok(sum),
            some => sum += some,
        }
    }
}

/// What the operator knows by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// That the registry deletes nothing.
    NoDeletion,
}

/// Images that go by age, and then, while there are too many bytes of them, by last use. It fails when the database or the registry is away.
async fn images(control: &Control, told: Told) -> Result<Told> {
    let keep = &control.settings.retention;
    let mut collected = Collected::default();
    collect(control, keep.images.max(LATELY), None, &mut collected).await?;
    let before = control.store.image_total(&control.settings.project).await?;
    if collected.why.is_none() && before.bytes > keep.max_image_bytes {
        let excess = before.bytes - keep.max_image_bytes;
        collect(control, LATELY, Some(excess), &mut collected).await?;
    }
    let left = control.store.image_total(&control.settings.project).await?;
    if collected.images > 0 || collected.refused > 0 {
        report(control, &collected, left).await;
    }
    heard(collected.why, told)
}

/// What the registry's last refusal, if there was one, comes to: a failed look if it may soon think otherwise, else what the operator knows.
fn heard(why: Option<RegistryError>, told: Told) -> Result<Told> {
    match why {
        None => Ok(Told::Nothing),
        Some(why @ RegistryError::Away { .. }) => Err(Failure::farm(why.to_string())),
        Some(RegistryError::NoDeletion { .. }) if told == Told::NoDeletion => Ok(told),
        Some(why) => {
            tracing::warn!(%why, "the stage registry keeps what is old");
            Ok(match why {
                RegistryError::NoDeletion { .. } => Told::NoDeletion,
                _ => Told::Nothing,
            })
        }
    }
}

async fn report(control: &Control, collected: &Collected, left: StageImages) {
    let Collected {
        images,
        bytes,
        refused,
        why,
    } = collected;
    tracing::info!(
        images,
        bytes,
        refused,
        kept_images = left.images,
        kept_bytes = left.bytes,
        "old images were deleted in the stage registry: its own garbage collection frees what they alone consisted of"
    );
    let what = json!({
        "images": images, "bytes": bytes, "refused": refused, "why": why.as_ref().map(ToString::to_string),
        "kept_images": left.images, "kept_bytes": left.bytes,
    });
    control.note(None, "stage images retired", what).await;
}

/// Deletes images that nothing has used for so long: all, or as many as it takes to free so many bytes.
async fn collect(
    control: &Control,
    unused: Duration,
    excess: Option<u64>,
    collected: &mut Collected,
) -> Result<()> {
    let project = &control.settings.project;
    let enough = collected.bytes.saturating_add(excess.unwrap_or(u64::MAX));
    let mut after: Option<String> = None;
    let mut in_a_row = 0;
    while collected.bytes < enough {
        // One at a time: what is asked for just before it is deleted has hardly come to be used meanwhile.
        let next = control
            .store
            .image_unused(project, unused, after.as_deref())
            .await?;
        let Some(image) = next else {
            return Ok(());
        };
        match delete(control, &image).await? {
            Ok(bytes) => {
                collected.images += 1;
                collected.bytes += bytes;
                in_a_row = 0;
            }
            Err(why) => {
                collected.refused += 1;
                in_a_row += 1;
                let hopeless = matches!(
                    why,
                    RegistryError::NoDeletion { .. } | RegistryError::Away { .. }
                );
                collected.why = Some(why);
                if hopeless || in_a_row >= REFUSALS {
                    return Ok(());
                }
                // It stays, and the next one is looked for behind it.
                after = Some(image.digest);
            }
        }
    }
    Ok(())
}

/// Deletes one image, first in the registry: what is deleted there and not forgotten here is met again at the next look. Returns the bytes of
/// what no other image consists of; the inner error is the registry's.
async fn delete(
    control: &Control,
    image: &StageImage,
) -> Result<std::result::Result<u64, RegistryError>> {
    let project = &control.settings.project;
    let digest = &image.digest;
    if !image.described {
        // So that it can be said what is freed.
        match control.stages.manifest(digest).await {
            Ok(manifest) => {
                let blobs: Vec<ImageBlob> = manifest.blobs().map(Into::into).collect();
                control
                    .store
                    .image_describe(project, digest, &blobs)
                    .await?;
            }
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    match control.stages.delete(digest).await {
        Ok(()) | Err(RegistryError::NotFound { .. }) => {}
        Err(error) => return Ok(Err(error)),
    }
    let freed = match control.store.image_forget(project, digest).await {
        Ok(freed) => freed,
        Err(error) if error.is_stale() => 0,
        Err(error) => return Err(error.into()),
    };
    // A build that made the very same bytes just now asks for them before it gives them to anybody.
    for (build, edge) in control.store.image_users(project, digest).await? {
        if let Some(build) = control.build(build) {
            build.doubt_images(&[edge]);
        }
    }
    Ok(Ok(freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The minutes from each of these looks to the next.
    fn pauses(looks: &[Look]) -> Vec<u64> {
        let mut again = AGAIN;
        let pauses = looks.iter().map(|look| pause(*look, &mut again));
        pauses.map(|pause| pause.as_secs() / 60).collect()
    }

    #[test]
    fn a_look_that_fails_is_made_again_soon_and_one_that_does_not_in_an_hour() {
        use Look::{Done, Failed};
        assert_eq!(
            pauses(&[Done, Failed, Failed, Done, Failed, Done]),
            [60, 1, 2, 60, 1, 60]
        );
    }

    #[test]
    fn a_registry_that_is_away_is_asked_again_soon_and_one_that_refuses_is_not() {
        let reference = || "farm/results".to_owned();
        let why = || "as it says".to_owned();
        let away = RegistryError::Away {
            reference: reference(),
            why: why(),
        };
        assert!(heard(Some(away), Told::Nothing).is_err());
        let refused = RegistryError::Refused {
            reference: reference(),
            why: why(),
        };
        let never = RegistryError::NoDeletion {
            reference: reference(),
        };
        let heard = |why| heard(why, Told::Nothing).ok();
        assert_eq!(heard(Some(refused)), Some(Told::Nothing));
        assert_eq!(heard(Some(never)), Some(Told::NoDeletion));
        assert_eq!(heard(None), Some(Told::Nothing));
    }

    #[test]
    fn looks_that_go_on_failing_come_to_be_as_rare_as_others_and_not_rarer() {
        assert_eq!(pauses(&[Look::Failed; 8]), [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
