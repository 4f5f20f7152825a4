//! Dispatch: ready stages to agents. One loop looks at a snapshot, lets the scheduler decide, commits each decision in the store, and then
//! sends the offer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use croft_planner::{Binding, Bound, EdgeId, Output, Stage};
use croft_proto::v1 as wire;
use croft_scheduler::place::{Decision, ReadyStage, Reason, Refusal, Supply, place};
use croft_scheduler::{AgentId, AttemptId, FailureKind, FleetView, StageKey};
use prost::Message as _;
use wire::coordinator_message::Message;

use super::Control;
use super::build::{Build, Tell};
use super::events::output_name;
use super::exports::{export, export_of_edge, export_of_target};
use super::failure::{Failure, Result};
use super::planned::Planned;
use super::{deliver, images};
use crate::store::{self, Epoch, Hold, NewAttempt, Snapshot, Wants};

/// How often the loop looks though nobody woke it: a wake may be missed.
const POLL: Duration = Duration::from_secs(1);
/// How long it leaves a database alone that is away.
const AWAY: Duration = Duration::from_millis(500);
/// Stages that one round decides about.
const BATCH: u32 = 500;

/// The dispatch loop.
pub(super) async fn run(control: Arc<Control>) {
    let mut next = POLL;
    loop {
        let _ = tokio::time::timeout(next, control.store.wakes().placement.notified()).await;
        next = match pass(&control).await {
            Ok(pause) => pause.map_or(POLL, |pause| pause.min(POLL)),
            Err(failure) => {
                if control.store.is_closed() {
                    return;
                }
                tracing::warn!(%failure, "nothing is placed");
                tokio::time::sleep(AWAY).await;
                POLL
            }
        };
    }
}

/// Gives the time until the first pause of a stage ends that is to be tried again.
async fn pass(control: &Arc<Control>) -> Result<Option<Duration>> {
    let mut snapshot = control.store.snapshot(BATCH).await?;
    snapshot
        .ready
        .retain(|stage| !stage.is_ahead() || may_go_ahead(control, stage));
    let now = snapshot.now;
    let paused = snapshot.ready.iter().filter(|stage| stage.not_before > now);
    let paused = paused.map(|stage| stage.not_before.since(now)).min();
    // The database knows parts of a millisecond.
    let paused = paused.map(|pause| pause + Duration::from_millis(1));
    if snapshot.ready.is_empty() {
        return Ok(paused);
    }
    for stage in &mut snapshot.ready {
        if let Some(agent) = only_reader(control, stage.key) {
            stage.pinned = Some(agent);
        }
    }
    let policy = &control.settings.policy;
    let mut holds = Vec::new();
    let mut feeding = false;
    for decision in place(&snapshot.fleet, &snapshot.ready, policy, snapshot.now) {
        let key = decision.key();
        let Some(build) = control.build(key.build) else {
            continue;
        };
        let Some(planned) = build.planned() else {
            continue;
        };
        let Some(stage) = planned.plan.stage(key.stage) else {
            continue;
        };
        match decision {
            Decision::Placed { exports, .. } if !exports.is_empty() => {
                build.goes_on(key.stage);
                for edge in exports {
                    export(control, &build, edge, &snapshot);
                }
            }
            Decision::Placed { agent, reason, .. } => {
                let offer = Offering {
                    build: &build,
                    planned,
                    key,
                    stage,
                    agent,
                };
                match images::supply(control, &build, &offer.images(&snapshot)) {
                    images::Supply::There => build.goes_on(key.stage),
                    images::Supply::Asked => continue,
                    images::Supply::Away(why) => {
                        let why = format!("the stage registry ({why})");
                        holds.push(wait_for_registry(control, &build, stage, key, why).await?);
                        continue;
                    }
                }
                offer.make(control, &snapshot, &reason).await?;
                feeding |= !stage.outputs.is_empty();
            }
            // It waits for other stages still, and nobody needs to know more.
            Decision::Held {
                why: Refusal::Inputs,
                ..
            } => {}
            Decision::Held { why, .. } => {
                holds.push(hold(control, &build, stage, key, &why).await?)
            }
        }
    }
    holds.retain(|hold| snapshot.holds.get(&hold.key) != Some(hold));
    if !holds.is_empty() {
        control.store.stage_hold(&holds).await?;
    }
    if feeding {
        // What takes the results of these may go to their agents at once.
        control.wake();
    }
    Ok(paused)
}

/// The agent that ran the build's frontend, where a stage needs what only that one's engine has read: a context from a client's pipe.
fn only_reader(control: &Control, key: StageKey) -> Option<AgentId> {
    let build = control.build(key.build)?;
    let stage = build.planned()?.plan.stage(key.stage)?;
    stage.reads_once.then(|| build.planner())?
}

/// Whether a stage that waits for results may go to the agent that is making them: what it is to solve there is known then.
fn may_go_ahead(control: &Control, stage: &ReadyStage) -> bool {
    let build = control.build(stage.key.build);
    let Some(planned) = build.as_ref().and_then(|build| build.planned()) else {
        return false;
    };
    let mut coming = stage
        .inputs
        .iter()
        .filter(|input| input.supply != Supply::There);
    coming.all(|input| {
        let output = Output::Edge(input.edge);
        input
            .held_on
            .is_some_and(|agent| planned.may_go_ahead_of(output, agent))
    })
}

/// Writes down and tells why a stage waits; ends its build where it waits in vain.
async fn hold(
    control: &Control,
    build: &Build,
    stage: &Stage,
    key: StageKey,
    why: &Refusal,
) -> Result<Hold> {
    let text = why.to_string();
    let wants = match why.is_for_want_of_an_agent() {
        true => Wants::Agent,
        false => Wants::Slot,
    };
    let tell = match wants {
        Wants::Agent => Tell::Client,
        Wants::Slot => Tell::Nobody,
    };
    let waited = build.waits(key.stage, &stage.name, &text, tell);
    if why.is_for_ever() {
        in_vain(control, build, key, Failure::unservable(&text)).await?;
    } else if wants == Wants::Agent && waited >= control.settings.agent_wait {
        let text = format!("{text} (waited {} s)", waited.as_secs());
        in_vain(control, build, key, Failure::unservable(text)).await?;
    }
    Ok(Hold {
        key,
        why: text,
        wants,
    })
}

/// The same for a stage that could go to an agent, if the registry had its inputs for it.
async fn wait_for_registry(
    control: &Control,
    build: &Build,
    stage: &Stage,
    key: StageKey,
    why: String,
) -> Result<Hold> {
    let waited = build.waits(key.stage, &stage.name, &why, Tell::Client);
    if waited >= control.settings.agent_wait {
        let text = format!("{why} (waited {} s)", waited.as_secs());
        in_vain(control, build, key, Failure::farm(text)).await?;
    }
    Ok(Hold {
        key,
        why,
        wants: Wants::Agent,
    })
}

/// Ends a build one of whose stages waits for what won't come.
async fn in_vain(control: &Control, build: &Build, key: StageKey, why: Failure) -> Result<()> {
    match control.store.stage_fail(key).await {
        Ok(()) => build.fail(why),
        // It goes on after all.
        Err(error) if error.is_stale() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// A stage on its way to an agent.
struct Offering<'a> {
    build: &'a Arc<Build>,
    planned: &'a Planned,
    key: StageKey,
    stage: &'a Stage,
    agent: AgentId,
}

impl Offering<'_> {
    /// Commits the placement, then sends the offer.
    async fn make(&self, control: &Control, snapshot: &Snapshot, reason: &Reason) -> Result<()> {
        let Some(epoch) = control.fleet.epoch(self.agent) else {
            return Ok(());
        };
        let Some(bindings) = self.bindings(control, snapshot) else {
            // An input moved between the snapshot and now: the next round sees where it is.
            control.wake();
            return Ok(());
        };
        let attempt = NewAttempt {
            id: AttemptId(uuid::Uuid::now_v7()),
            key: self.key,
            agent: self.agent,
            epoch: Epoch(i64::try_from(epoch).unwrap_or(i64::MAX)),
            reason: reason.to_string(),
            bindings: bindings
                .iter()
                .map(|(edge, binding)| store::Binding {
                    edge: *edge,
                    digest: match binding {
                        Binding::Held(_) => None,
                        Binding::Image { reference, .. } => reference
                            .rsplit_once('@')
                            .map(|(_, digest)| digest.to_owned()),
                    },
                })
                .collect(),
        };
        let offered = match control
            .store
            .attempt_offer(&attempt, &control.settings.leases)
            .await
        {
            Ok(offered) => offered,
            Err(error) if error.is_stale() => {
                control.wake();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let held = store::Held {
            attempt: attempt.id,
            token: offered.token,
        };
        // Definitions may be large: other builds' tasks go on meanwhile.
        let written =
            tokio::task::block_in_place(|| self.outputs(control, &snapshot.fleet, &bindings));
        let outputs = match written {
            Ok(outputs) => outputs,
            Err(failure) => {
                // Planned and bound by the same hands: another try would fail the same way.
                return control
                    .attempt_failed(self.agent, held, FailureKind::Build, failure)
                    .await;
            }
        };
        tracing::info!(
            build = %self.key.build, stage = %self.key.stage, name = self.stage.name,
            agent = control.fleet.name(self.agent).as_deref().unwrap_or_default(),
            reason = attempt.reason, "a stage is placed"
        );
        self.build.joins(self.agent);
        self.build.offered(attempt.id, self.key.stage);
        let offer = wire::Offer {
            attempt: attempt.id.to_string(),
            token: offered.token.0,
            stage: self.stage.name.clone(),
            context: Some(self.build.context()),
            outputs,
        };
        if !control.fleet.send(self.agent, Message::Offer(offer)) {
            let why = Failure::farm("the agent went away before the offer reached it");
            return control
                .attempt_failed(self.agent, held, FailureKind::Farm, why)
                .await;
        }
        Ok(())
    }

    /// The inputs that it takes from the stage registry, with their digests.
    fn images(&self, snapshot: &Snapshot) -> Vec<(EdgeId, String)> {
        let image = |edge: &EdgeId| {
            let place = snapshot.places.get(&(self.key.build, *edge))?;
            let own = place.agent == Some(self.agent)
                && self
                    .planned
                    .bound(Output::Edge(*edge), self.agent)
                    .is_some();
            (!own).then_some((*edge, place.digest.clone()?))
        };
        self.stage.inputs.iter().filter_map(image).collect()
    }

    /// What stands for each input: the agent's own result where its keeper holds it or is about to, else the image. `None` if one is at
    /// neither place.
    fn bindings(
        &self,
        control: &Control,
        snapshot: &Snapshot,
    ) -> Option<BTreeMap<EdgeId, Binding>> {
        let bind = |edge: EdgeId| {
            let cut = self.planned.plan.edge(edge)?;
            let place = snapshot.places.get(&(self.key.build, edge))?;
            let held = self.planned.bound(Output::Edge(edge), self.agent);
            let binding = match (held, &place.digest) {
                (Some(bound), _) if place.agent == Some(self.agent) => Binding::Held(bound),
                (_, Some(digest)) => Binding::Image {
                    reference: control.stages.image(digest),
                    platform: cut.platform.clone(),
                },
                _ => return None,
            };
            Some((edge, binding))
        };
        self.stage.inputs.iter().copied().map(bind).collect()
    }

    fn outputs(
        &self,
        control: &Control,
        fleet: &FleetView,
        bindings: &BTreeMap<EdgeId, Binding>,
    ) -> Result<Vec<wire::Output>> {
        let mut outputs = Vec::new();
        for output in self.planned.plan.outputs_of(self.stage) {
            if let (Output::Delivery, Some(delivery)) = (output, self.planned.outputs.delivery()) {
                let delivery = deliver::written(self.build, self.planned, delivery, bindings)?;
                outputs.push(wire::Output {
                    id: output_name(output),
                    delivery: Some(delivery),
                    ..wire::Output::default()
                });
                continue;
            }
            let bound = self
                .planned
                .plan
                .bind(output, bindings)
                .map_err(|error| Failure::farm(format!("a stage can't be written: {error}")))?;
            let bound = Arc::new(bound);
            outputs.push(wire::Output {
                id: output_name(output),
                definition: match bound.root {
                    Some(_) => bound.definition.encode_to_vec(),
                    None => Vec::new(),
                },
                export: self.export_of(control, fleet, &bound),
                delivery: None,
            });
            self.planned.bind(output, self.agent, bound);
        }
        Ok(outputs)
    }

    /// How the agent is to export an output at once: a target as the client asked, an edge if a consumer runs on another home.
    fn export_of(
        &self,
        control: &Control,
        fleet: &FleetView,
        bound: &Bound,
    ) -> Option<wire::Export> {
        match bound.output {
            Output::Edge(edge) => {
                let edge = self.planned.plan.edge(edge)?;
                let native = fleet
                    .agents
                    .iter()
                    .find(|a| a.id == self.agent)
                    .map(|a| &a.native);
                let elsewhere = edge.consumers.iter().any(|consumer| {
                    let home = self.planned.plan.likely_home(*consumer);
                    home.is_some_and(|home| Some(home.platform()) != native)
                });
                elsewhere.then(|| export_of_edge(control, self.build, self.planned, edge, bound))
            }
            Output::Target(target) => {
                let image = self.planned.outputs.image()?;
                let target = self.planned.plan.target(target)?;
                Some(export_of_target(self.build, self.planned, image, target))
            }
            Output::Delivery => None,
        }
    }
}
