//! Agents that come, are heard, and go. What they say of their work is `events`'.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use croft_proto::v1 as wire;
use croft_scheduler::{AgentId, AttemptId, BuildId, FailureKind};
use serde_json::json;
use wire::coordinator_message::Message;

use super::failure::{Failure, Result};
use super::fleet::Ends;
use super::{Build, Control};
use crate::store::{Epoch, Heartbeat, Held, Hello, StoreError};

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
    /// How it is.
    pub beat: Heartbeat,
    /// The attempts that it runs.
    pub running: Vec<Held>,
    /// The builds that it holds a keeper for.
    pub keepers: Vec<BuildId>,
}

/// How long a heartbeat waits to be stored, at most.
const HEARTBEAT: Duration = Duration::from_secs(2);

impl Control {
    /// Takes in an agent's connection. What the farm believes that it runs and it doesn't is given up at once; keepers of builds that are
    /// over are closed.
    pub async fn agent_joins(&self, joining: Joining) -> Result<(Linked, Ends)> {
        if self.store.away_for().is_some() {
            return Err(Failure::farm("the farm's database is away"));
        }
        let new = AgentId(uuid::Uuid::now_v7());
        let link = self.store.agent_hello(new, &joining.hello).await?;
        // Before anything can be offered to it.
        self.store
            .agent_heartbeat(link.id, link.epoch, &joining.beat)
            .await?;
        let linked = Linked {
            agent: link.id,
            name: joining.hello.name.as_str().into(),
            epoch: u64::try_from(link.epoch.0).unwrap_or_default(),
        };
        match self.settle_in(&linked, &joining).await {
            Ok(ends) => Ok((linked, ends)),
            Err(failure) => {
                // From its hello on the farm counts on it.
                self.agent_leaves(&linked).await;
                Err(failure)
            }
        }
    }

    /// Brings what the farm believes of an agent that has just come into line with what the agent says.
    async fn settle_in(&self, linked: &Linked, joining: &Joining) -> Result<Ends> {
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
        let ends = self.fleet.connect(linked.agent, linked.epoch, &linked.name);
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
            match self.build(*build) {
                // An earlier coordinator may have had it opened.
                Some(build) => build.joins(linked.agent),
                None => self.close_keeper(linked.agent, *build),
            }
        }
        let live: Vec<Arc<Build>> = self.builds().values().cloned().collect();
        for build in live {
            if build.agents().contains(&linked.agent) && !kept.contains(&build.id()) {
                let why = "it came back without that";
                self.keeper_lost(build.id(), linked.agent, &linked.name, why)
                    .await?;
            }
        }
        self.fleet_changed();
        let what = json!({"agent": &*linked.name, "id": linked.agent, "epoch": linked.epoch});
        self.note(None, "agent joined", what).await;
        Ok(ends)
    }

    /// An agent's connection ended. What it runs stays its own until the leases end, and so does what it holds.
    pub async fn agent_leaves(&self, from: &Linked) {
        self.agent_away(from, "its link ended").await;
    }

    /// Takes an agent for away, and cuts the link if it still has this one.
    pub(super) async fn agent_away(&self, from: &Linked, why: &str) {
        if !self.fleet.disconnect(from.agent, from.epoch) {
            return;
        }
        match self.store.agent_away(from.agent, from.epoch()).await {
            Ok(()) => {
                tracing::info!(agent = %from.name, why, "an agent is away");
                let what = json!({"agent": &*from.name, "id": from.agent, "epoch": from.epoch, "why": why});
                self.note(None, "agent away", what).await;
            }
            Err(error) if error.is_stale() || error.is_closed() => {}
            Err(error) => {
                tracing::warn!(agent = %from.name, %error, "that the agent is away can't be stored")
            }
        }
        self.fleet_changed();
    }

    /// An agent lives: its leases are renewed.
    pub async fn heartbeat(&self, from: &Linked, beat: &Heartbeat, held: &[Held]) -> Result<()> {
        let renewed = match self.store_heartbeat(from, beat, held).await {
            Ok(renewed) => renewed,
            // Nobody can take from it what it runs while nothing can be decided.
            Err(StoreError::Away(_)) if self.may_come_back() => {
                held.iter().map(|held| held.attempt).collect()
            }
            Err(error) => return Err(error.into()),
        };
        let attempts = renewed.iter().map(ToString::to_string).collect();
        self.fleet
            .send(from.agent, Message::Renewed(wire::Renewed { attempts }));
        Ok(())
    }

    async fn store_heartbeat(
        &self,
        from: &Linked,
        beat: &Heartbeat,
        held: &[Held],
    ) -> std::result::Result<Vec<AttemptId>, StoreError> {
        // What else it says comes behind this, the next heartbeat too, so it doesn't wait long.
        let terms = &self.settings.leases;
        let store = self.store.hurried(HEARTBEAT.min(terms.heartbeat / 4))?;
        if store
            .agent_heartbeat(from.agent, from.epoch(), beat)
            .await?
        {
            self.fleet_changed();
        }
        match held.is_empty() {
            true => Ok(Vec::new()),
            false => store.attempt_renew(from.agent, held, terms).await,
        }
    }

    /// Whether a database that doesn't answer has not been away for too long. After that agents are to look for another coordinator: it may
    /// be this one that is cut off.
    fn may_come_back(&self) -> bool {
        let away = self.store.away_for().unwrap_or_default();
        away < self.store.patience()
    }
}
