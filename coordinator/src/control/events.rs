//! What agents say: each message is a change in the store first, and then news for those who wait for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use croft_buildkit::errors;
use croft_planner::{EdgeId, Output, TargetId};
use croft_proto::v1 as wire;
use croft_scheduler::fleet::Health;
use croft_scheduler::{AgentId, AttemptId, BuildId, FailureKind, Token};
use prost::Message as _;
use serde_json::json;
use tokio::sync::mpsc;
use wire::coordinator_message::Message;

use super::failure::{Failure, Kind, Result};
use super::progress::Source;
use super::{Build, Control};
use crate::store::{
    AttemptDone, AttemptEnd, AttemptFailure, Disk, Epoch, Exported, Heartbeat, Held, Hello,
    LiveAttempt, Outcome, OutputDone, StoreError,
};

/// An agent's present connection.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: Arc<str>,
    /// Which of its connections.
    pub epoch: u64,
}

impl Linked {
    fn epoch(&self) -> Epoch {
        Epoch(i64::try_from(self.epoch).unwrap_or(i64::MAX))
    }
}

/// What an agent says when it connects.
pub struct Joining {
    /// What it is.
    pub hello: Hello,
    /// The attempts that it runs.
    pub running: Vec<Held>,
    /// The builds that it holds a keeper for.
    pub keepers: Vec<BuildId>,
}

impl Control {
    /// Takes in an agent's connection. What the farm believes that it runs and it doesn't is given up at once; keepers of builds that are
    /// over are closed.
    pub async fn agent_joins(
        &self,
        joining: Joining,
    ) -> Result<(Linked, mpsc::Receiver<wire::CoordinatorMessage>)> {
        let new = AgentId(uuid::Uuid::now_v7());
        let link = self.store.agent_hello(new, &joining.hello).await?;
        let linked = Linked {
            agent: link.id,
            name: joining.hello.name.as_str().into(),
            epoch: u64::try_from(link.epoch.0).unwrap_or_default(),
        };
        match self.settle_in(&linked, &joining).await {
            Ok(messages) => Ok((linked, messages)),
            Err(failure) => {
                // From its hello on the farm counts on it.
                self.agent_leaves(&linked).await;
                Err(failure)
            }
        }
    }

    /// Brings what the farm believes of an agent that has just come into line with what the agent says.
    async fn settle_in(
        &self,
        linked: &Linked,
        joining: &Joining,
    ) -> Result<mpsc::Receiver<wire::CoordinatorMessage>> {
        // Before anything can be offered over this connection: what is offered later it can't know yet.
        let runs: HashSet<Held> = joining.running.iter().copied().collect();
        for attempt in self.store.attempt_live(Some(linked.agent)).await? {
            if !runs.contains(&attempt.held) {
                let why = "the agent came back without it";
                let (agent, held) = (attempt.agent, attempt.held);
                self.attempt_failed(agent, held, FailureKind::Farm, Failure::farm(why))
                    .await?;
            }
        }
        let messages = self.fleet.connect(linked.agent, linked.epoch, &linked.name);
        let terms = &self.settings.leases;
        let millis = |d: std::time::Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        self.fleet.send(
            linked.agent,
            Message::Welcome(wire::Welcome {
                agent: linked.agent.to_string(),
                heartbeat_ms: millis(terms.heartbeat),
                lease_ms: millis(terms.lease),
                now: Some(std::time::SystemTime::now().into()),
                stage_registry: self.stages.repository(),
            }),
        );
        let kept: HashSet<BuildId> = joining.keepers.iter().copied().collect();
        for build in &kept {
            if self.build(*build).is_none() {
                self.close_keeper(linked.agent, *build);
            }
        }
        let live: Vec<Arc<Build>> = self.builds().values().cloned().collect();
        for build in live {
            if build.agents().contains(&linked.agent) && !kept.contains(&build.id()) {
                self.keeper_lost(build.id(), linked.agent).await?;
            }
        }
        self.fleet_changed();
        let what = json!({"agent": &*linked.name, "id": linked.agent, "epoch": linked.epoch});
        self.note(None, "agent joined", what).await;
        Ok(messages)
    }

    /// An agent's connection ended. What it runs stays its own until the leases end.
    pub async fn agent_leaves(&self, from: &Linked) {
        if !self.fleet.disconnect(from.agent, from.epoch) {
            return;
        }
        tracing::info!(agent = %from.name, "an agent is away");
        let what = json!({"agent": &*from.name, "id": from.agent, "epoch": from.epoch});
        self.note(None, "agent away", what).await;
        match self.store.agent_away(from.agent, from.epoch()).await {
            Ok(()) => {}
            Err(error) if error.is_stale() => {}
            Err(error) => {
                tracing::warn!(agent = %from.name, %error, "that the agent is away can't be stored")
            }
        }
        self.fleet_changed();
    }

    /// An agent lives: its leases are renewed.
    pub async fn heartbeat(&self, from: &Linked, beat: &wire::Heartbeat) -> Result<()> {
        let health = match beat.engine_healthy {
            true => Health::Healthy,
            false => Health::Unhealthy,
        };
        let disk = beat.disk.map(|disk| Disk {
            total: disk.total_bytes,
            free: disk.free_bytes,
        });
        self.store
            .agent_heartbeat(from.agent, from.epoch(), &Heartbeat { health, disk })
            .await?;
        let held: Vec<Held> = beat
            .running
            .iter()
            .filter_map(|held| self::held(&held.attempt, held.token))
            .collect();
        let renewed = match held.is_empty() {
            true => Vec::new(),
            false => {
                let terms = &self.settings.leases;
                self.store.attempt_renew(from.agent, &held, terms).await?
            }
        };
        let attempts = renewed.iter().map(ToString::to_string).collect();
        self.fleet
            .send(from.agent, Message::Renewed(wire::Renewed { attempts }));
        Ok(())
    }

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
                title: output_of(&said.output)
                    .map(|output| build.export_title(output))
                    .unwrap_or_default(),
            },
        };
        build.progress().report(&from.name, &source, status);
    }

    /// An output of an attempt is there.
    pub async fn output_ready(&self, from: &Linked, said: wire::OutputReady) -> Result<()> {
        let (Some(held), Some(output)) = (held(&said.attempt, said.token), output_of(&said.output))
        else {
            return Ok(());
        };
        let exported = match exported_digest(&said.exporter_response) {
            None => None,
            Some(digest) => Some(Exported {
                bytes: match output {
                    Output::Edge(_) => self.stage_bytes(&digest).await,
                    Output::Target(_) => 0,
                },
                digest,
                response: BTreeMap::from_iter(said.exporter_response),
            }),
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
                    ..AttemptDone::default()
                };
                self.store.attempt_succeed(from.agent, held, &done).await
            }
            Some(wire::finished::Result::Failure(failure)) => {
                if self.yields(from, held, &failure).await? {
                    return Ok(());
                }
                let failure = Failure::of_agent(&from.name, &failure);
                let kind = match failure.kind {
                    Kind::Build => FailureKind::Build,
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

    /// An agent's keeper ended by itself: what it held is lost.
    pub async fn keeper_closed(&self, from: &Linked, said: &wire::KeeperClosed) -> Result<()> {
        let Ok(build) = said.build.parse::<BuildId>() else {
            return Ok(());
        };
        tracing::warn!(agent = %from.name, %build, reason = said.reason, "a keeper ended");
        self.keeper_lost(build, from.agent).await?;
        // So that the agent knows that it may open another.
        self.close_keeper(from.agent, build);
        Ok(())
    }

    async fn keeper_lost(&self, build: BuildId, agent: AgentId) -> Result<()> {
        let lost = self.store.output_lose_held(build, agent).await?;
        let what = json!({"agent": agent, "again": lost.stages});
        self.note(Some(build), "results lost", what).await;
        for attempt in &lost.cancelled {
            self.cancel_attempt(attempt, "a result that it takes was lost");
        }
        Ok(())
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
        let budget = &self.settings.budget;
        match self.store.attempt_fail(agent, held, &stored, budget).await {
            Ok(end) => self.after(end, Some(failure)).await,
            Err(error) if error.is_stale() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
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
                }
                for attempt in &invalidated.cancelled {
                    self.cancel_attempt(attempt, "a result that it takes was lost");
                }
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

    fn fleet_changed(&self) {
        self.agents_changed.notify_waiters();
        self.wake();
    }

    /// The size of a stage image. Not knowing it costs a good placement at most.
    pub(super) async fn stage_bytes(&self, digest: &str) -> u64 {
        match self.stages.bytes(digest).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "the size of a stage image can't be told");
                0
            }
        }
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

/// The name of an output towards agents.
pub(super) fn output_name(output: Output) -> String {
    match output {
        Output::Edge(edge) => format!("edge:{}", edge.0),
        Output::Target(target) => format!("target:{}", target.0),
    }
}

/// Reads what [`output_name`] wrote.
fn output_of(name: &str) -> Option<Output> {
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
        for output in [Output::Edge(EdgeId(7)), Output::Target(TargetId(0))] {
            assert_eq!(output_of(&output_name(output)), Some(output));
        }
        for bad in ["", "edge", "edge:", "edge:-1", "stage:1"] {
            assert_eq!(output_of(bad), None);
        }
    }
}
