//! Results as images in the stage registry. A known one is given to a further stage only after the registry was asked for it; what it has
//! lost is made again; and while it is away stages wait for it, as no engine gets further than we do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use croft_planner::{EdgeId, Output};
use croft_scheduler::{BuildId, FailureKind, FarmBudget, Retry, retry};
use serde_json::json;

use super::Control;
use super::build::Build;
use super::failure::{Failure, Kind, Result};
use crate::store::{Exported, Push};

/// For so long an image is taken to be where it was.
const FRESH: Duration = Duration::from_secs(60);
/// A registry that loses one result so often keeps nothing.
const LOSSES: u32 = 5;

/// What is spent on engines that can't export a result that they are said to hold, before it is taken for no good.
const REFUSALS: FarmBudget = FarmBudget {
    failures: 3,
    first_wait: Duration::from_millis(250),
    longest_wait: Duration::from_secs(1),
};

/// What is known of a build's images.
#[derive(Default)]
pub(super) struct Images(HashMap<EdgeId, Image>);

#[derive(Default)]
struct Image {
    /// When it was seen last.
    seen: Option<Instant>,
    asking: bool,
    /// Why the registry gave no answer, as long as it gives none.
    away: Option<String>,
    /// Questions in a row that had no answer.
    unanswered: u32,
    /// How often it was lost.
    lost: u32,
    /// How often it could not be handed over.
    failed_exports: u32,
    /// How often that was the fault of the engine that holds it.
    refusals: u32,
}

/// What follows when a result could not be handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handover {
    /// Another try, after this wait.
    Again(Duration),
    /// Its engine has broken it: it is made again.
    Refuted,
    /// Nothing: the build has failed.
    Failed,
}

/// Whether a stage may be given its inputs' images.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Supply {
    /// All of them have been seen lately.
    There,
    /// The registry is being asked.
    Asked,
    /// It doesn't answer, for this reason.
    Away(String),
}

impl Build {
    /// An image was seen in the registry.
    fn image_seen(&self, edge: EdgeId) {
        let mut live = self.lock();
        let image = live.images.0.entry(edge).or_default();
        (image.seen, image.away, image.unanswered) = (Some(Instant::now()), None, 0);
    }

    /// An engine could not get all of these: the registry is asked before they are used again.
    pub(super) fn doubt_images(&self, edges: &[EdgeId]) {
        let mut live = self.lock();
        for edge in edges {
            live.images.0.entry(*edge).or_default().seen = None;
        }
    }

    /// Claims the question for an image. False if it is being asked.
    fn begin_asking(&self, edge: EdgeId) -> bool {
        let mut live = self.lock();
        !std::mem::replace(&mut live.images.0.entry(edge).or_default().asking, true)
    }

    fn end_asking(&self, edge: EdgeId) {
        self.lock().images.0.entry(edge).or_default().asking = false;
    }

    /// The registry did not answer. Returns for how long it is left alone.
    fn image_unanswered(&self, edge: EdgeId, why: String) -> Duration {
        let mut live = self.lock();
        let image = live.images.0.entry(edge).or_default();
        let before = image.unanswered;
        (image.away, image.unanswered) = (Some(why), before.saturating_add(1));
        let tireless = FarmBudget {
            failures: u32::MAX,
            ..FarmBudget::REGISTRY
        };
        match retry(&tireless, before, FailureKind::Registry) {
            Retry::After(pause) => pause,
            Retry::No => tireless.longest_wait,
        }
    }

    /// A result could not be handed over. Only what the engine says itself speaks against the result: an agent that is away for a moment
    /// has it still, and a registry that takes nothing takes no other either.
    pub(super) fn export_failed(&self, edge: EdgeId, failure: &Failure) -> Handover {
        let mut live = self.lock();
        let image = live.images.0.entry(edge).or_default();
        let (budget, count, at_last) = match failure.kind {
            // A path that is to be copied isn't there.
            Kind::Build => return Handover::Failed,
            _ if failure.is_of_engine() => (&REFUSALS, &mut image.refusals, Handover::Refuted),
            _ => (
                &FarmBudget::REGISTRY,
                &mut image.failed_exports,
                Handover::Failed,
            ),
        };
        let before = *count;
        *count = before.saturating_add(1);
        match retry(budget, before, FailureKind::Farm) {
            Retry::After(pause) => Handover::Again(pause),
            Retry::No => {
                // The next engine that makes it starts afresh.
                *count = 0;
                at_last
            }
        }
    }

    /// Returns how often it was lost by now.
    fn image_lost(&self, edge: EdgeId) -> u32 {
        let mut live = self.lock();
        let image = live.images.0.entry(edge).or_default();
        (image.seen, image.away, image.unanswered) = (None, None, 0);
        image.lost = image.lost.saturating_add(1);
        image.lost
    }
}

/// Sees to it that the registry is asked for those of a stage's images that were not seen lately.
pub(super) fn supply(
    control: &Arc<Control>,
    build: &Arc<Build>,
    images: &[(EdgeId, String)],
) -> Supply {
    let doubtful: Vec<_> = {
        let live = build.lock();
        let fresh = |edge: &EdgeId| {
            let seen = live.images.0.get(edge).and_then(|image| image.seen);
            seen.is_some_and(|seen| seen.elapsed() < FRESH)
        };
        images.iter().filter(|(edge, _)| !fresh(edge)).collect()
    };
    if doubtful.is_empty() {
        return Supply::There;
    }
    for (edge, digest) in &doubtful {
        if build.begin_asking(*edge) {
            let asking = ask(
                Arc::clone(control),
                Arc::clone(build),
                *edge,
                digest.clone(),
            );
            tokio::spawn(asking);
        }
    }
    let live = build.lock();
    let away = |(edge, _): &&(EdgeId, String)| live.images.0.get(edge)?.away.clone();
    doubtful
        .iter()
        .find_map(away)
        .map_or(Supply::Asked, Supply::Away)
}

/// Asks for one image, and has it made again if it is lost. When there is an answer its consumers are placed anew.
async fn ask(control: Arc<Control>, build: Arc<Build>, edge: EdgeId, digest: String) {
    let asked = async {
        match control.stages.has(&digest).await {
            Ok(true) => build.image_seen(edge),
            Ok(false) => {
                if let Err(failure) = control.image_lost(&build, edge, &digest).await {
                    tracing::warn!(build = %build.id(), %edge, %failure, "that an image is lost can't be stored");
                }
            }
            Err(error) => {
                tracing::warn!(build = %build.id(), %edge, %error, "a stage waits for the stage registry");
                let pause = build.image_unanswered(edge, error.to_string());
                control.wake();
                tokio::time::sleep(pause).await;
            }
        }
    };
    tokio::select! {
        () = asked => {}
        _ = build.cancelled() => {}
    }
    build.end_asking(edge);
    control.wake();
}

impl Control {
    /// The registry has lost the image of a result: unless its agent still holds it, the result is made again, and what came of it.
    async fn image_lost(&self, build: &Arc<Build>, edge: EdgeId, digest: &str) -> Result<()> {
        let lost = match self.store.output_lose_image(build.id(), edge, digest).await {
            Ok(lost) => lost,
            // It was undone meanwhile, for another reason.
            Err(error) if error.is_stale() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let cut = build.planned().and_then(|planned| planned.plan.edge(edge));
        let name = cut.map(|edge| edge.name.as_str()).unwrap_or_default();
        tracing::warn!(build = %build.id(), %edge, digest, again = lost.stages.len(), "the stage registry has lost an image");
        let what = json!({"edge": edge, "digest": digest, "again": lost.stages});
        self.note(Some(build.id()), "image lost", what).await;
        let why = format!("the stage registry has lost {name}");
        self.again(build.id(), &lost, &why);
        if build.image_lost(edge) >= LOSSES {
            build.fail(Failure::farm(format!("{why} {LOSSES} times")));
        }
        Ok(())
    }

    /// An engine has exported something. A result is looked at in the stage registry at once, and written down whatever becomes of its attempt,
    /// so that it is deleted one day. Not knowing its size costs a good placement at most.
    pub(super) async fn exported(
        &self,
        build: Option<BuildId>,
        output: Output,
        digest: String,
        response: HashMap<String, String>,
    ) -> Result<Exported> {
        let mut bytes = 0;
        let live = build.and_then(|id| self.build(id));
        let planned = live.as_ref().and_then(|build| build.planned());
        let took = planned.and_then(|planned| planned.course().exported(output));
        if let Output::Edge(edge) = output {
            let mut blobs = Vec::new();
            match self.stages.manifest(&digest).await {
                Ok(manifest) => {
                    bytes = manifest.bytes();
                    blobs.extend(manifest.blobs().map(Into::into));
                    if let Some(build) = &live {
                        build.image_seen(edge);
                        self.note_history(build, edge, &manifest).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the size of a stage image can't be told");
                }
            }
            let project = &self.settings.project;
            let push = match live {
                Some(_) => Push::Fresh,
                // An agent says after each reconnect what it doesn't know to be known.
                None => Push::Late,
            };
            self.store.image_put(project, &digest, &blobs, push).await?;
        }
        Ok(Exported {
            digest,
            bytes,
            took,
            response: response.into_iter().collect(),
        })
    }
}
