//! What would become of a build, without running it: its frontend runs as for a build, its results are split as for a build, and then
//! placement is played through on the fleet as it is. It has no row, nothing of it is stored, and its keeper is closed when it is known.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use croft_planner::{Advice, Plan, Platform};
use croft_scheduler::forecast::{Forecast, Prospect, forecast};
use croft_scheduler::{BuildId, FleetView, Timestamp};

use super::Control;
use super::build::{Build, Request};
use super::failure::{Failure, Result};
use super::planned::Results;
use super::run::{Response, serve_all};

/// Builds that are looked at at once: each has a frontend running.
pub(super) const MAX_PROSPECTS: usize = 64;

/// What would become of a build.
pub struct Foreseen {
    /// How it would be split.
    pub plan: Plan,
    /// What would become of each stage, in the plan's order.
    pub forecasts: Vec<Forecast>,
    /// The fleet that this rests on.
    pub fleet: FleetView,
    /// The platform of its frontend and of commands that name none.
    pub build_platform: Platform,
    /// With what it would be refused, before anything of it ran.
    pub refused: Option<Failure>,
    /// What would make it faster.
    pub advice: Vec<Advice>,
}

impl Control {
    /// Runs the build's frontend, or takes its own definition, and says what would become of it. `read` takes the results apart. If the
    /// caller goes away, so does all that was begun for it.
    pub async fn foresee(
        self: &Arc<Self>,
        request: Request,
        solve: gateway::SolveRequest,
        read: impl FnOnce(gateway::Result) -> Result<Results> + Send + 'static,
    ) -> Result<Foreseen> {
        let request = self.admit(request)?;
        let build = Arc::new(Build::prospect(BuildId(uuid::Uuid::now_v7()), request));
        let _alive = build.cancel_when_dropped("the client is gone");
        let (control, build) = (Arc::clone(self), Arc::clone(&build));
        // Goes on until it has put everything in order.
        let looking = tokio::spawn(async move {
            let looked = tokio::select! {
                looked = control.look(&build, solve, read) => looked,
                reason = build.cancelled() => Err(Failure::cancelled(reason)),
            };
            let over = match &looked {
                Ok(_) => Ok(Response::new()),
                Err(failure) => Err(failure.clone()),
            };
            control.end(&build, &over).await;
            looked
        });
        looking.await.unwrap_or_else(|_| {
            Err(Failure::farm(
                "planning was cut off by a fault of the coordinator",
            ))
        })
    }

    async fn look(
        &self,
        build: &Arc<Build>,
        solve: gateway::SolveRequest,
        read: impl FnOnce(gateway::Result) -> Result<Results>,
    ) -> Result<Foreseen> {
        let _turn = self.prospects.acquire().await;
        let results = read(self.gateway_solve(build, solve).await?)?;
        if results.targets.is_empty() {
            return Err(Failure::invalid(
                "the build has no result: there is nothing to plan",
            ));
        }
        self.begin(build).await?;
        let outputs = build.request.outputs.clone();
        let split = self.split(build, results, outputs).await?;
        let refused = serve_all(&split.plan, &split.fleet).err();
        let id = build.id();
        let (project, planner) = (self.settings.project.clone(), build.planner());
        let plan = split.plan;
        let prospect = Prospect {
            plan: &plan,
            build: id,
            project: project.clone(),
            planner,
        };
        let wanted = prospect.stages(Timestamp(0));
        let (now, fleet, mut stages) = self.store.prospect(&wanted).await?;
        for stage in &mut stages {
            (stage.build_created, stage.ready_since) = (now, now);
        }
        let policy = self.settings.policy.clone();
        let foreseen = tokio::task::spawn_blocking(move || {
            let prospect = Prospect {
                plan: &plan,
                build: id,
                project,
                planner,
            };
            let forecasts = forecast(&prospect, &fleet, &stages, &policy, now);
            Foreseen {
                forecasts,
                advice: plan.advice(),
                build_platform: split.recipe.build_platform,
                plan,
                fleet,
                refused,
            }
        });
        let cut_off = |_| Failure::farm("planning was cut off");
        foreseen.await.map_err(cut_off)
    }
}
