//! Going on where an earlier coordinator was: what it left in the store becomes builds that live again, and their agents find them when they
//! come back.
//!
//! Nobody is asked: plans are made again from their recipes, and definitions are bound again as they were, attempt by attempt. How a build
//! without a client is carried on with is [`super::alone`]'s, what becomes of agents' attempts [`super::events`]'.

use std::collections::BTreeMap;
use std::sync::Arc;

use croft_planner::{Binding, Output, Plan};
use croft_scheduler::{AgentId, BuildId, BuildState, StageState};
use serde_json::json;

use super::Control;
use super::build::{Build, Rank};
use super::failure::{Failure, Result};
use super::planned::Planned;
use super::recipe::Recipe;
use super::record;
use super::run::Response;
use crate::store::{AttemptRow, BuildRow, BuildView, OutputRow, OutputState, PublicationRow};

impl Control {
    /// What a coordinator that starts finds of an earlier one: nobody is connected, attempts run on, builds go on.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        self.store.agent_all_away().await?;
        // Their agents get the time to come back.
        let adopted = self.store.attempt_adopt(&self.settings.leases).await?;
        let live = self.store.build_live().await?;
        if !live.is_empty() {
            let builds = live.len();
            tracing::info!(
                builds,
                attempts = adopted,
                "an earlier coordinator's work goes on"
            );
        }
        for row in &live {
            let what = json!({"state": row.state.as_str()});
            self.note(Some(row.id), "coordinator restarted", what).await;
            match self.reopen(row).await? {
                Ok(resumed) => self.resume(resumed),
                Err(failure) => {
                    self.store_end_of(row.id, &Err(failure)).await;
                }
            }
        }
        Ok(())
    }

    /// A build as it was when the coordinator ended; the inner error is why it can't go on.
    async fn reopen(&self, row: &BuildRow) -> Result<Result<Resumed>> {
        if row.state == BuildState::Planning {
            return Ok(Err(Failure::cancelled(
                "the coordinator was restarted while the build was being planned, and the client is gone: start it again",
            )));
        }
        let source = self.store.build_plan_source(row.id).await?;
        let view = self.store.build_view(row.id).await?;
        let (Some(source), Some(view)) = (source, view) else {
            return Ok(Err(Failure::farm(
                "the coordinator was restarted, and what the build was made from is not there",
            )));
        };
        let stages = self.stages.clone();
        let image = move |digest: &str| stages.image(digest);
        let repository = self.stages.repository();
        // Definitions may be large: not a task for the threads that serve everybody.
        let replayed = tokio::task::spawn_blocking(move || {
            Resumed::replay(&source, view, &repository, &image)
        })
        .await
        .unwrap_or_else(|_| Err(Failure::farm("planning was cut off")));
        let resumed = match replayed {
            Ok(resumed) => resumed,
            Err(failure) => return Ok(Err(failure)),
        };
        for child in &resumed.children {
            let Some(view) = self.store.build_view(*child).await? else {
                continue;
            };
            let child = Arc::new(resumed.build.within(*child));
            for attempt in &view.attempts {
                child.joins(attempt.agent);
            }
            resumed.build.adopt(child);
        }
        Ok(Ok(resumed))
    }

    /// Drives a build from where it was to its end.
    fn resume(self: &Arc<Self>, resumed: Resumed) {
        let Resumed { build, stands, .. } = resumed;
        for part in build.children().iter().chain([&build]) {
            self.remember(part);
        }
        record::start(self, &build);
        let control = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = control.go_on(&build, &stands).await;
            control.end(&build, &outcome).await;
        });
    }

    async fn go_on(&self, build: &Build, stands: &Stands) -> Result<Response> {
        let planned = build
            .planned()
            .ok_or_else(|| Failure::farm("the build has no plan"))?;
        let logins = self.logins(build, &planned.outputs).await?;
        match stands {
            Stands::Running => self.finish(build, planned, logins.as_ref()).await,
            Stands::Publishing(begun) => self.deliver(build, planned, logins.as_ref(), begun).await,
        }
    }
}

/// A build that goes on.
struct Resumed {
    build: Arc<Build>,
    stands: Stands,
    /// Builds that were made for it before it had a plan.
    children: Vec<BuildId>,
}

/// Where a build stood.
enum Stands {
    /// Its stages are run.
    Running,
    /// Its stages are done. These tags were to be moved.
    Publishing(Vec<PublicationRow>),
}

impl Resumed {
    /// Makes the plan again, and brings it to where the build stands. `image` names a result in the stage registry.
    fn replay(
        source: &[u8],
        view: BuildView,
        repository: &str,
        image: &dyn Fn(&str) -> String,
    ) -> Result<Self> {
        let lost = |why: &str| {
            Failure::farm(format!(
                "the coordinator was restarted and can't go on with the build: {why}; start it again"
            ))
        };
        let recipe = Recipe::decode(source).map_err(|error| lost(&error.to_string()))?;
        if recipe.rank == Rank::Within {
            return Err(Failure::cancelled(
                "the coordinator was restarted and the client that evaluated this is gone",
            ));
        }
        if recipe.stages != repository {
            return Err(lost(&format!(
                "its results are in {} and no longer in {repository}",
                recipe.stages
            )));
        }
        let plan = recipe.plan().map_err(|error| lost(&error.to_string()))?;
        if !is_of(&plan, &view) {
            return Err(lost(
                "this version of croft splits it into other stages than the one that began it",
            ));
        }
        let Recipe {
            request,
            children,
            sessions,
            planner,
            results,
            ..
        } = recipe;
        let planned = Planned::new(plan, results, request.outputs.clone());
        for attempt in in_order(&view.attempts) {
            rebind(&planned, attempt, image);
        }
        if let Some(output) = view
            .outputs
            .iter()
            .find(|output| is_nameless(&planned, output))
        {
            let name = &output.name;
            return Err(lost(&format!("how {name} was made is not known any more")));
        }
        let build = Build::resumed(view.build.id, request, sessions, planned);
        build.set_planner(planner);
        for agent in planner
            .into_iter()
            .chain(view.attempts.iter().map(|a| a.agent))
        {
            build.joins(agent);
        }
        for attempt in &view.attempts {
            build.offered(attempt.id, attempt.stage);
        }
        if view
            .stages
            .iter()
            .all(|stage| stage.state == StageState::Done)
        {
            build.done();
        }
        let mut stages = view.stages.iter();
        if let Some(failed) = stages.find(|stage| stage.state == StageState::Failed) {
            // It ended there, but for saying so.
            let tries = in_order(&view.attempts).filter(|a| a.stage == failed.number);
            let why = tries.last().and_then(|attempt| attempt.error.clone());
            build.fail(Failure::build(why.unwrap_or_else(|| {
                format!("{} found no agent that could run it", failed.name)
            })));
        }
        Ok(Self {
            build: Arc::new(build),
            stands: match view.build.state {
                BuildState::Publishing => Stands::Publishing(view.publications),
                _ => Stands::Running,
            },
            children,
        })
    }
}

/// Whether these are the plan's stages and outputs.
fn is_of(plan: &Plan, view: &BuildView) -> bool {
    let stages = plan.stages().iter().map(|s| (s.id, s.digest.as_str()));
    let stored = view.stages.iter().map(|s| (s.number, s.digest.as_str()));
    let edges = plan
        .edges()
        .iter()
        .map(|e| (Output::Edge(e.id), e.producer));
    let targets = plan
        .targets()
        .iter()
        .map(|t| (Output::Target(t.id), t.stage));
    let delivery = plan.delivery().map(|s| (Output::Delivery, s.id));
    let outputs: BTreeMap<_, _> = edges.chain(targets).chain(delivery).collect();
    let known: BTreeMap<_, _> = view.outputs.iter().map(|o| (o.output, o.stage)).collect();
    stages.eq(stored) && outputs == known
}

/// Whether an agent holds this for others, and nobody knows under which definition.
fn is_nameless(planned: &Planned, output: &OutputRow) -> bool {
    let edge = matches!(output.output, Output::Edge(_));
    let held = (output.state == OutputState::Held).then_some(output.agent);
    held.flatten()
        .is_some_and(|agent| edge && planned.bound(output.output, agent).is_none())
}

/// Attempts in the order in which they were offered.
fn in_order(attempts: &[AttemptRow]) -> impl Iterator<Item = &AttemptRow> {
    let mut all: Vec<_> = attempts.iter().collect();
    all.sort_by_key(|attempt| attempt.token);
    all.into_iter()
}

/// Writes an attempt's definitions again, from those of the attempts before it. One that can't be written takes from a result that has been
/// lost since: nobody asks for it.
fn rebind(planned: &Planned, attempt: &AttemptRow, image: &dyn Fn(&str) -> String) {
    let Some(stage) = planned.plan.stage(attempt.stage) else {
        return;
    };
    let agent: AgentId = attempt.agent;
    let bindings = attempt.bindings.iter().filter_map(|binding| {
        let cut = planned.plan.edge(binding.edge)?;
        let bound = match &binding.digest {
            None => Binding::Held(planned.bound(Output::Edge(binding.edge), agent)?),
            Some(digest) => Binding::Image {
                reference: image(digest),
                platform: cut.platform.clone(),
            },
        };
        Some((binding.edge, bound))
    });
    let bindings: BTreeMap<_, _> = bindings.collect();
    for output in planned.plan.outputs_of(stage) {
        if let Ok(bound) = planned.plan.bind(output, &bindings) {
            planned.bind(output, agent, Arc::new(bound));
        }
    }
}
