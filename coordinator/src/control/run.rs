//! A build from its results to its end: plan, wait for the stages, publish, and say how it ended.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use croft_planner::{Output, Plan, PlanInput, Platform, Stage, Target};
use croft_scheduler::{BuildId, FleetView, all_servable, build_platform, servable};
use serde_json::json;

use super::build::{Build, Rank, Request};
use super::failure::{Failure, Kind, Result};
use super::outputs::Outputs;
use super::planned::{Planned, Results};
use super::progress::Ending;
use super::publish::{Logins, Order, platform_name};
use super::recipe::Recipe;
use super::{Control, config, record};
use crate::store::{AgentRow, BuildEnd, NewBuild, PlanRows, PublicationRow};

/// What goes back to the client.
pub type Response = BTreeMap<String, String>;

impl Control {
    /// Gives the build its row and waits for its session. Does nothing the second time.
    pub(super) async fn begin(&self, build: &Arc<Build>) -> Result<()> {
        build
            .begun
            .get_or_try_init(|| async {
                let asked = &build.request;
                self.remember(build);
                if !asked.session.is_empty() {
                    self.sessions.wait(&asked.session).await.ok_or_else(|| {
                        Failure::invalid(format!("no active session for {}", asked.session))
                    })?;
                    build.name_sessions(&self.sessions, [asked.session.as_str()]);
                }
                if build.rank() == Rank::Prospect {
                    return Ok(());
                }
                let platforms = asked.attrs.get("platform").map(String::as_str);
                let row = NewBuild {
                    id: build.id(),
                    client_ref: asked.client_ref.clone(),
                    project: self.settings.project.clone(),
                    priority: 0,
                    platforms: platforms
                        .unwrap_or_default()
                        .split(',')
                        .filter(|p| !p.is_empty())
                        .map(str::to_owned)
                        .collect(),
                    session: asked.session.clone(),
                    connection: asked.connection,
                    frontend: asked.attrs.get("source").cloned().unwrap_or_default(),
                    deadline: self.settings.build_deadline,
                };
                self.store.build_insert(&row).await?;
                if build.rank() == Rank::Outer {
                    record::start(self, build);
                }
                tracing::info!(build = %build.id(), client_ref = %asked.client_ref, "a build begins");
                Ok(())
            })
            .await
            .map(drop)
    }

    /// Makes some results now, for a client that wants to see that they can be made: a build within the build, which publishes nothing.
    /// What its agents hold stays until the outer one ends, so nothing is run again when the client returns these results.
    pub async fn evaluate(&self, build: &Arc<Build>, results: Results) -> Result<()> {
        self.begin(build).await?;
        let child = Arc::new(build.within(BuildId(uuid::Uuid::now_v7())));
        build.adopt(Arc::clone(&child));
        let outcome = tokio::select! {
            outcome = self.produce(&child, results, Outputs::Keep) => outcome,
            reason = build.cancelled() => Err(Failure::cancelled(reason)),
        };
        self.store_end(&child, &outcome).await;
        outcome.map(drop)
    }

    /// Makes the results, publishes them, and ends the build, however it went.
    pub async fn complete(&self, build: &Arc<Build>, results: Result<Results>) -> Result<Response> {
        let outcome = match results {
            Ok(results) => {
                self.produce(build, results, build.request.outputs.clone())
                    .await
            }
            Err(failure) => Err(failure),
        };
        self.end(build, &outcome).await;
        outcome
    }

    async fn produce(
        &self,
        build: &Arc<Build>,
        results: Results,
        outputs: Outputs,
    ) -> Result<Response> {
        let nothing = results.targets.iter().all(|t| t.definition.is_none());
        if results.targets.is_empty() || (nothing && outputs == Outputs::Keep) {
            return Ok(Response::new());
        }
        self.begin(build).await?;
        let logins = self.logins(build, &outputs).await?;
        let planned = tokio::select! {
            planned = self.plan(build, results, outputs) => planned?,
            reason = build.cancelled() => return Err(Failure::cancelled(reason)),
        };
        self.finish(build, planned, logins.as_ref()).await
    }

    /// Who the build is towards the registries that it publishes to.
    pub(super) async fn logins(&self, build: &Build, outputs: &Outputs) -> Result<Option<Logins>> {
        Ok(match outputs.image() {
            None => None,
            Some(image) => Some(Logins::fetch(&self.sessions, build, image, &self.settings).await?),
        })
    }

    /// Waits until all stages of a build that runs are done, and publishes.
    pub(super) async fn finish(
        &self,
        build: &Build,
        planned: &Planned,
        logins: Option<&Logins>,
    ) -> Result<Response> {
        self.wait(build).await?;
        self.store.build_publish(build.id()).await?;
        self.deliver(build, planned, logins, &[]).await
    }

    /// Publishes a build whose stages are done. `begun` is what an earlier coordinator was about to do.
    pub(super) async fn deliver(
        &self,
        build: &Build,
        planned: &Planned,
        logins: Option<&Logins>,
        begun: &[PublicationRow],
    ) -> Result<Response> {
        let delivered = match planned.outputs.delivery() {
            Some(_) => self.delivered(build).await?,
            None => Response::new(),
        };
        let (Some(image), Some(logins)) = (planned.outputs.image(), logins) else {
            return Ok(delivered);
        };
        let pushed = self.pushed(build, planned).await?;
        let order = Order {
            build,
            planned,
            image,
            logins,
            begun,
        };
        let published = tokio::select! {
            response = self.publish(&order, &pushed) => response?,
            reason = build.cancelled() => return Err(Failure::cancelled(reason)),
        };
        Ok(match planned.outputs.delivery() {
            Some(delivery) => delivery.with_image(delivered, published),
            None => published,
        })
    }

    /// What the engine answered that handed the results out.
    async fn delivered(&self, build: &Build) -> Result<Response> {
        let outputs = self.store.output_list(build.id()).await?;
        let row = outputs.iter().find(|row| row.output == Output::Delivery);
        let response = row.and_then(|row| serde_json::from_value(row.response.clone()?).ok());
        response.ok_or_else(|| {
            Failure::farm("what was handed out is not there though its stage is done")
        })
    }

    /// What engines answered when they pushed the targets, in the targets' order.
    async fn pushed(&self, build: &Build, planned: &Planned) -> Result<Vec<Response>> {
        let outputs = self.store.output_list(build.id()).await?;
        let response = |target: &croft_planner::PlannedTarget| {
            let row = outputs
                .iter()
                .find(|row| row.output == Output::Target(target.id))?;
            serde_json::from_value(row.response.clone()?).ok()
        };
        let responses = planned.plan.targets().iter().map(response);
        responses.collect::<Option<_>>().ok_or_else(|| {
            Failure::farm("a platform's image is not there though its stage is done")
        })
    }

    /// Splits results into stages and stores these. From then on the dispatch loop has them.
    async fn plan<'a>(
        &self,
        build: &'a Arc<Build>,
        results: Results,
        outputs: Outputs,
    ) -> Result<&'a Planned> {
        let Split {
            mut recipe,
            plan,
            fleet,
        } = self.split(build, results, outputs).await?;
        serve_all(&plan, &fleet)?;
        let sources = plan.stages().iter().flat_map(|s| &s.local_sources);
        let named: BTreeSet<&str> = sources.map(|s| s.session.as_str()).collect();
        build.name_sessions(
            &self.sessions,
            named.into_iter().filter(|id| !id.is_empty()),
        );
        recipe.sessions = build.sessions();

        // Known before it is stored: as soon as it is stored it may be placed.
        let (results, outputs) = (recipe.results.clone(), recipe.request.outputs.clone());
        let planned = build.set_planned(Planned::new(plan, results, outputs))?;
        let build_platform = recipe.build_platform.clone();
        let rows = PlanRows {
            build_platform: &build_platform,
            source: &recipe.encode(),
            stages: planned.plan.stages(),
            edges: planned.plan.edges(),
            targets: planned.plan.targets(),
            delivery: planned.plan.delivery(),
        };
        self.store.build_plan(build.id(), &rows).await?;
        Ok(planned)
    }

    /// Splits results into stages. Nothing is stored, and nobody has looked yet whether the farm can run them.
    pub(super) async fn split(
        &self,
        build: &Build,
        mut results: Results,
        outputs: Outputs,
    ) -> Result<Split> {
        let fleet = AgentRow::fleet(&self.store.agent_list().await?);
        let platform = self.build_platform(build, &fleet)?;
        let mut targets = Vec::new();
        for result in &mut results.targets {
            let target = match &result.platform {
                Some(given) => platform_name(given)
                    .parse()
                    .map_err(|e: croft_planner::PlatformError| Failure::invalid(e.to_string()))?,
                None => platform.clone(),
            };
            let platform = result.platform.get_or_insert_with(|| oci(&target));
            result
                .config
                .get_or_insert_with(|| config::unsaid(platform));
            if let Some(definition) = &result.definition {
                self.refuse_definition(definition)?;
            }
            targets.push(Target {
                name: result.name.clone(),
                platform: target,
                definition: result.definition.take(),
            });
        }
        if let Some(delivery) = outputs.delivery() {
            delivery
                .check(results.shape)
                .map_err(|e| Failure::build(e.to_string()))?;
        }
        if let Some(image) = outputs.image() {
            let names: Vec<String> = targets.iter().map(|t| t.platform.to_string()).collect();
            image
                .check(&names, results.shape)
                .map_err(|e| Failure::invalid(e.to_string()))?;
        }
        let agents = fleet.agents.iter();
        let recipe = Recipe {
            request: Request {
                outputs,
                ..build.request.clone()
            },
            rank: build.rank(),
            children: build.children().iter().map(|child| child.id()).collect(),
            sessions: build.sessions(),
            shared_keys: build.shared_keys(),
            planner: build.planner(),
            stages: self.stages.repository(),
            build_platform: platform,
            natives: agents
                .map(|a| (a.native.clone(), a.platforms.iter().cloned().collect()))
                .collect(),
            project: self.settings.project.0.clone(),
            results,
            input: PlanInput { targets },
        };
        // Definitions may be large, and nothing here waits: not a task for the threads that serve everybody.
        let (recipe, plan) = tokio::task::spawn_blocking(move || {
            let plan = recipe.plan();
            (recipe, plan)
        })
        .await
        .map_err(|_| Failure::farm("planning was cut off"))?;
        let plan = plan.map_err(|error| Failure::invalid(error.to_string()))?;
        refuse_ungranted(build, plan.stages())?;
        Ok(Split {
            recipe,
            plan,
            fleet,
        })
    }

    /// Waits until every stage is done.
    async fn wait(&self, build: &Build) -> Result<()> {
        let mut changes = build.changes();
        loop {
            changes.mark_unchanged();
            if let Some(failure) = build.failure() {
                return Err(failure);
            }
            if build.is_done() {
                return Ok(());
            }
            tokio::select! {
                _ = changes.changed() => {}
                reason = build.cancelled() => return Err(Failure::cancelled(reason)),
            }
        }
    }

    /// Says how the build ended, and lets everybody go who holds something of it.
    pub(super) async fn end(&self, build: &Build, outcome: &Result<Response>) {
        self.store_end(build, outcome).await;
        let mut keepers = Vec::new();
        for part in build.children().iter().map(AsRef::as_ref).chain([build]) {
            let agents = part.agents().into_iter();
            keepers.extend(agents.map(|agent| (agent, part.id())));
            part.over();
            self.forget(part);
        }
        let beside = match outcome {
            Ok(_) if build.rank() == Rank::Outer => self.beside(build),
            // What failed sticks as long as it is held.
            Ok(_) | Err(_) => HashSet::new(),
        };
        for (agent, build) in self.estates.settle(build.id(), keepers, beside) {
            self.close_keeper(agent, build);
        }
        build.progress().close(match outcome {
            Ok(_) => Ending::Complete,
            Err(_) => Ending::BrokenOff,
        });
    }

    /// The builds that run on the same connection.
    fn beside(&self, build: &Build) -> HashSet<BuildId> {
        let builds = self.builds();
        let beside = builds.values().filter(|other| {
            other.rank() == Rank::Outer && other.request.connection == build.request.connection
        });
        beside.map(|other| other.id()).collect()
    }

    async fn store_end(&self, build: &Build, outcome: &Result<Response>) {
        if build.begun.get().is_some() && build.rank() != Rank::Prospect {
            self.store_end_of(build.id(), outcome).await;
        }
    }

    /// The same for a build of which there is but a row.
    pub(super) async fn store_end_of(&self, build: BuildId, outcome: &Result<Response>) {
        let response;
        let end = match outcome {
            Ok(keys) => {
                response = json!(keys);
                BuildEnd::Succeeded {
                    response: &response,
                    digest: keys.get("containerimage.digest").map(String::as_str),
                }
            }
            Err(failure) if failure.kind == Kind::Cancelled => BuildEnd::Cancelled {
                reason: &failure.message,
            },
            Err(failure) => BuildEnd::Failed {
                error: &failure.message,
            },
        };
        let error = outcome.as_ref().err().map(|f| f.message.as_str());
        match self.store.build_end(build, end).await {
            Ok(cancelled) => {
                tracing::info!(%build, error, "a build ended");
                for attempt in cancelled {
                    self.cancel_attempt(&attempt, "the build is over");
                }
            }
            // It isn't over: whoever takes over goes on with it.
            Err(fault) if fault.is_closed() => {}
            Err(fault) => {
                tracing::error!(%build, %fault, "the end of a build can't be stored")
            }
        }
    }

    /// The native platform of the engine that ran the frontend, or of the one that would have.
    fn build_platform(&self, build: &Build, fleet: &FleetView) -> Result<Platform> {
        let planner = build.planner();
        let native = fleet
            .agents
            .iter()
            .find(|a| Some(a.id) == planner)
            .map(|a| a.native.clone());
        native
            .or_else(|| build_platform(fleet, self.settings.build_platform.as_ref()))
            .ok_or_else(Failure::no_agents)
    }
}

/// How a build is split, and what that was decided on.
pub(super) struct Split {
    pub recipe: Recipe,
    pub plan: Plan,
    pub fleet: FleetView,
}

/// Whether each stage has an agent that could run it, if all were there and idle.
pub(super) fn serve_all(plan: &Plan, fleet: &FleetView) -> Result<()> {
    let needed: BTreeSet<&Platform> = plan.stages().iter().flat_map(|s| &s.platforms).collect();
    servable(fleet, needed)
        .map(drop)
        .and_then(|()| {
            let stages = plan.stages().iter();
            all_servable(fleet, stages.map(|s| (&s.platforms, &s.requirements)))
        })
        .map_err(|never| Failure::unservable(never.to_string()))
}

/// What a step needs beyond the ordinary its build must have been granted: in BuildKit's words, but before anything runs. Whether a device
/// must be granted only its engine knows.
fn refuse_ungranted(build: &Build, stages: &[Stage]) -> Result<()> {
    let granted = &build.request.entitlements;
    for stage in stages {
        let needed = &stage.requirements.entitlements;
        if let Some(missing) = needed.iter().find(|needed| !granted.contains(needed)) {
            return Err(Failure::build(format!(
                "failed to load LLB: {missing} is not allowed"
            )));
        }
    }
    Ok(())
}

fn oci(platform: &Platform) -> super::image::OciPlatform {
    super::image::OciPlatform {
        os: platform.os().to_owned(),
        architecture: platform.arch().to_owned(),
        variant: platform.variant().to_owned(),
        os_version: platform.os_version().to_owned(),
        os_features: Vec::new(),
    }
}
