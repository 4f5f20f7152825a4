//! What agents say: each message is a change in the store first, and then news for those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use croft_buildkit::errors;
use croft_planner::{EdgeId, Output, TargetId};
use croft_proto::v1 as wire;
use croft_scheduler::{AgentId, AttemptId, BuildId, FailureKind, FarmBudget, StageKey, Token};
use prost::Message as _;
use serde_json::json;
use wire::coordinator_message::Message;

use super::build::Rank;
use super::failure::{Failure, Kind, Result};
use super::presence::Linked;
use super::progress::Source;
use super::{Build, Control};
use crate::store::{
    AttemptDone, AttemptEnd, AttemptFailure, Exported, Held, Invalidated, LiveAttempt, Outcome,
    OutputDone, StoreError,
};

impl Control {
    /// An agent took an offer.
    pub async fn accepted(&self, from: &Linked, said: &wire::Accepted) -> Result<()> {
        let Some(held) = held(&said.attempt, said.token) else {
            return Ok(());
        };
        self.stale_is_news(
            from,
            &said.attempt,
            self.store.attempt_accept(from.agent, held).await,
        )
        .map(drop)
    }

    /// What an agent's engine does for a build.
    pub fn progress(&self, from: &Linked, said: &wire::Progress) {
        let Some(build) = said.build.parse().ok().and_then(|id| self.build(id)) else {
            return;
        };
        let Ok(mut status) = StatusResponse::decode(&said.status[..]) else {
            tracing::warn!(agent = %from.name, "progress that can't be read is dropped");
            return;
        };
        for vertex in &mut status.vertexes {
            vertex.error = build.in_clients_words(&vertex.error);
        }
        let source = match said.attempt.is_empty() {
            true => Source::Keeper,
            false => Source::Export {
                id: format!("{}/{}", said.attempt, said.output),
                title: output_of(&said.output).and_then(|output| build.export_title(output)),
            },
        };
        if let Some(planned) = build.planned() {
            match (&source, output_of(&said.output)) {
                (Source::Keeper, _) if build.rank() == Rank::Outer => {
                    for (digest, stage) in planned.course().hear(from.agent, &status) {
                        build.progress().belongs(&from.name, digest, stage);
                    }
                }
                (Source::Export { .. }, Some(output)) => {
                    planned.course().hear_export(output, &status);
                }
                _ => {}
            }
        }
        build.progress().report(&from.name, &source, status);
    }

    /// An output of an attempt is there.
    pub async fn output_ready(&self, from: &Linked, said: wire::OutputReady) -> Result<()> {
        let (Some(held), Some(output)) = (held(&said.attempt, said.token), output_of(&said.output))
        else {
            return Ok(());
        };
        let exported = match exported_digest(&said.exporter_response) {
            None if output == Output::Delivery => Some(Exported {
                digest: String::new(),
                bytes: 0,
                took: None,
                response: said.exporter_response.into_iter().collect(),
            }),
            None => None,
            Some(digest) => {
                let build = self.build_trying(held.attempt).map(|build| build.id());
                let response = said.exporter_response;
                Some(self.exported(build, output, digest, response).await?)
            }
        };
        let done = [OutputDone { output, exported }];
        let stored = self.store.attempt_output(from.agent, held, &done).await;
        self.stale_is_news(from, &said.attempt, stored).map(drop)
    }

    /// An attempt is over.
    pub async fn finished(&self, from: &Linked, said: wire::Finished) -> Result<()> {
        let Some(held) = held(&said.attempt, said.token) else {
            return Ok(());
        };
        let ended = match said.result {
            Some(wire::finished::Result::Done(done)) => {
                let done = AttemptDone {
                    vertices_cached: done.vertices_cached,
                    vertices_run: done.vertices_run,
                    fetched: self.fetched(from.agent, held.attempt),
                    ..AttemptDone::default()
                };
                self.store.attempt_succeed(from.agent, held, &done).await
            }
            Some(wire::finished::Result::Failure(failure)) => {
                if self.yields(from, held, &failure).await? {
                    return Ok(());
                }
                let said = failure.kind();
                let failure = Failure::of_agent(&from.name, &failure);
                if let Some(gone) = self.for_want_of_client(from.agent, held.attempt, &failure) {
                    let kind = FailureKind::Build;
                    return self.attempt_failed(from.agent, held, kind, gone).await;
                }
                let kind = match (failure.kind, said) {
                    (Kind::Build, _) => FailureKind::Build,
                    (_, wire::failure::Kind::StageRegistry) => FailureKind::Registry,
                    (_, wire::failure::Kind::HandedBack) => FailureKind::HandedBack,
                    // What the coordinator had not cancelled and is reported as cancelled is the farm's doing all the same.
                    _ => FailureKind::Farm,
                };
                return self.attempt_failed(from.agent, held, kind, failure).await;
            }
            None => return Ok(()),
        };
        if let Some(end) = self.stale_is_news(from, &said.attempt, ended)? {
            self.after(end, None).await;
        }
        Ok(())
    }

    /// Lets an attempt that went ahead of its inputs give way if it failed over what makes one of them: the attempt that is at that on the
    /// same agent fails over it too, and what it says counts.
    async fn yields(&self, from: &Linked, held: Held, failure: &wire::Failure) -> Result<bool> {
        let Ok(status) = errors::decode(&failure.status) else {
            return Ok(false);
        };
        let failed = errors::failed_vertices(&status);
        let taken = |build: &Arc<Build>| build.takes(held.attempt, from.agent, &failed);
        if !self.builds().values().any(taken) {
            return Ok(false);
        }
        match self
            .store
            .attempt_yield(from.agent, held, &failure.message)
            .await
        {
            Ok(undone) => {
                for attempt in &undone.cancelled {
                    self.cancel_attempt(attempt, "a result that it takes is not made");
                }
                Ok(true)
            }
            // All that it takes was there: the failure is its own.
            Err(error) if error.is_stale() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What an attempt's failure really is, if its build's client is gone and that is why.
    fn for_want_of_client(
        &self,
        agent: AgentId,
        attempt: AttemptId,
        failure: &Failure,
    ) -> Option<Failure> {
        self.build_trying(attempt)?
            .for_want_of_client(agent, attempt, failure)
    }

    /// How long an agent's engine fetched what an attempt takes, as far as it did.
    fn fetched(&self, agent: AgentId, attempt: AttemptId) -> Vec<(EdgeId, Duration)> {
        let Some(build) = self.build_trying(attempt) else {
            return Vec::new();
        };
        let Some((planned, stage)) = build.planned().zip(build.tried(attempt)) else {
            return Vec::new();
        };
        let inputs = planned.plan.stage(stage).map(|stage| &stage.inputs[..]);
        planned.course().fetched(agent, inputs.unwrap_or_default())
    }

    /// The build that an attempt is one of, if it lives.
    fn build_trying(&self, attempt: AttemptId) -> Option<Arc<Build>> {
        let builds = self.builds();
        builds
            .values()
            .find(|build| build.tried(attempt).is_some())
            .cloned()
    }

    /// An agent's keeper ended by itself: what it held is lost.
    pub async fn keeper_closed(&self, from: &Linked, said: &wire::KeeperClosed) -> Result<()> {
        let Ok(build) = said.build.parse::<BuildId>() else {
            return Ok(());
        };
        tracing::warn!(agent = %from.name, %build, reason = said.reason, "a keeper ended");
        self.keeper_lost(build, from.agent, &from.name, &said.reason)
            .await?;
        // So that the agent knows that it may open another.
        self.close_keeper(from.agent, build);
        Ok(())
    }

    /// What only this agent holds of a build is lost: who still needs it gets it made again.
    pub(super) async fn keeper_lost(
        &self,
        build: BuildId,
        agent: AgentId,
        name: &str,
        why: &str,
    ) -> Result<()> {
        let lost = self.store.output_lose_held(build, agent).await?;
        let what = json!({"agent": name, "id": agent, "why": why, "again": lost.stages});
        self.note(Some(build), "results lost", what).await;
        let told = format!("what {name} had made is lost ({why})");
        self.again(build, &lost, &told);
        Ok(())
    }

    /// Tells a build's client what a loss has undone, and the agents that run what came of it.
    pub(super) fn again(&self, build: BuildId, lost: &Invalidated, why: &str) {
        if let (Some(build), false) = (self.build(build), lost.stages.is_empty()) {
            let step = build.progress().step(&format!("[croft] {why}"));
            for stage in &lost.stages {
                // What it waited for before counts no more.
                build.goes_on(*stage);
                step.log(&format!("{} is made again", build.stage_name(*stage)));
            }
        }
        for attempt in &lost.cancelled {
            self.cancel_attempt(attempt, "a result that it takes was lost");
        }
    }

    /// An attempt went wrong, as its agent says or for a reason that the coordinator sees itself. A late report is no fault: the agent is
    /// told by what its next heartbeat does not renew.
    pub(super) async fn attempt_failed(
        &self,
        agent: AgentId,
        held: Held,
        kind: FailureKind,
        failure: Failure,
    ) -> Result<()> {
        let stored = AttemptFailure {
            kind,
            error: failure.message.clone(),
        };
        let budget = match kind {
            FailureKind::Registry => &FarmBudget::REGISTRY,
            FailureKind::Farm | FailureKind::Build | FailureKind::HandedBack => {
                &self.settings.budget
            }
        };
        match self.store.attempt_fail(agent, held, &stored, budget).await {
            Ok(end) => {
                if kind == FailureKind::Registry {
                    self.doubt_inputs(end.attempt.key);
                }
                self.after(end, Some(failure)).await;
            }
            Err(error) if error.is_stale() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// An engine can't export a result that its agent holds: it is made again, elsewhere if that can be.
    pub(super) async fn refuted(
        &self,
        build: &Build,
        edge: EdgeId,
        holder: AgentId,
        failure: Failure,
    ) -> Result<()> {
        let (store, budget) = (&self.store, &self.settings.budget);
        let refuted = store.output_refute(build.id(), edge, holder, &failure.message, budget);
        match refuted.await {
            Ok(end) => {
                self.cancel_attempt(&end.attempt, "a result that it made is no good");
                self.after(end, Some(failure)).await;
                Ok(())
            }
            // It was lost, or exported after all.
            Err(error) if error.is_stale() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The registry is asked for what a stage takes before that is used again.
    fn doubt_inputs(&self, key: StageKey) {
        let Some(build) = self.build(key.build) else {
            return;
        };
        let planned = build.planned();
        if let Some(stage) = planned.and_then(|planned| planned.plan.stage(key.stage)) {
            build.doubt_images(&stage.inputs);
        }
    }

    /// What follows from the end of an attempt.
    pub(super) async fn after(&self, end: AttemptEnd, failure: Option<Failure>) {
        let key = end.attempt.key;
        let build = self.build(key.build);
        match end.outcome {
            Outcome::Done => {}
            Outcome::BuildDone => {
                if let Some(build) = build {
                    build.done();
                }
            }
            Outcome::Retried { after, invalidated } => {
                let why = failure.map(|f| f.message).unwrap_or_default();
                let pause = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                let what = json!({"stage": key.stage, "why": why, "pause_ms": pause, "again": invalidated.stages});
                self.note(Some(key.build), "stage retried", what).await;
                tracing::warn!(build = %key.build, stage = %key.stage, why, ?after, "an attempt is repeated");
                if let Some(build) = build {
                    let name = build.stage_name(key.stage);
                    let step = build
                        .progress()
                        .step(&format!("[croft] {name} is tried again"));
                    step.log(&why);
                    build.goes_on(key.stage);
                }
                let mut others = invalidated;
                others.stages.retain(|stage| *stage != key.stage);
                self.again(key.build, &others, "what came of it is lost with it");
            }
            Outcome::Failed => {
                if let Some(build) = build {
                    let failure = failure.unwrap_or_else(|| {
                        Failure::farm(
                            "an agent was lost, and the farm has tried again often enough",
                        )
                    });
                    build.fail(failure.reworded(|words| build.in_clients_words(words)));
                }
            }
        }
    }

    /// Stops an attempt that the store has ended.
    pub(super) fn cancel_attempt(&self, attempt: &LiveAttempt, reason: &str) {
        let cancel = wire::Cancel {
            attempt: attempt.held.attempt.to_string(),
            reason: reason.to_owned(),
        };
        self.fleet.send(attempt.agent, Message::Cancel(cancel));
    }

    /// Lets an agent drop what it holds of a build. One that is away learns it at its next hello.
    pub(super) fn close_keeper(&self, agent: AgentId, build: BuildId) {
        let close = wire::CloseKeeper {
            build: build.to_string(),
        };
        self.fleet.send(agent, Message::CloseKeeper(close));
    }

    pub(super) fn fleet_changed(&self) {
        self.agents_changed.notify_waiters();
        self.wake();
    }

    /// A late report is no fault: the agent is told by what its next heartbeat does not renew.
    fn stale_is_news<T>(
        &self,
        from: &Linked,
        attempt: &str,
        stored: std::result::Result<T, StoreError>,
    ) -> Result<Option<T>> {
        match stored {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_stale() => {
                tracing::debug!(agent = %from.name, attempt, "a late report changes nothing");
                // Unless it was stored before, and nobody was told.
                self.store.wakes().missed.notify_one();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// An attempt as an agent names it; nothing if it is none of ours.
pub(crate) fn held(attempt: &str, token: u64) -> Option<Held> {
    let attempt: AttemptId = attempt.parse().ok()?;
    Some(Held {
        attempt,
        token: Token(token),
    })
}

/// What the delivery is called towards agents.
const DELIVERY: &str = "delivery";

/// The name of an output towards agents.
pub(super) fn output_name(output: Output) -> String {
    match output {
        Output::Edge(edge) => format!("edge:{}", edge.0),
        Output::Target(target) => format!("target:{}", target.0),
        Output::Delivery => DELIVERY.to_owned(),
    }
}

/// Reads what [`output_name`] wrote.
fn output_of(name: &str) -> Option<Output> {
    if name == DELIVERY {
        return Some(Output::Delivery);
    }
    let (kind, number) = name.split_once(':')?;
    let number = number.parse().ok()?;
    match kind {
        "edge" => Some(Output::Edge(EdgeId(number))),
        "target" => Some(Output::Target(TargetId(number))),
        _ => None,
    }
}

/// The manifest's digest, if the output was exported.
pub(super) fn exported_digest(
    response: &std::collections::HashMap<String, String>,
) -> Option<String> {
    response.get("containerimage.digest").cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_reads_back_as_it_was_named() {
        for output in [
            Output::Edge(EdgeId(7)),
            Output::Target(TargetId(0)),
            Output::Delivery,
        ] {
            assert_eq!(output_of(&output_name(output)), Some(output));
        }
        for bad in ["", "edge", "edge:", "edge:-1", "stage:1"] {
            assert_eq!(output_of(bad), None);
        }
    }
}
