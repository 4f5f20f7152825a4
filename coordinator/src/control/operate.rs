//! What operators ask for: builds cancelled, agents drained. And the builds that nobody asked to end, but their deadline.

use croft_scheduler::fleet::Duty;
use croft_scheduler::{AgentId, BuildId};
use serde_json::json;

use super::Control;
use super::failure::{Failure, Result};
use crate::store::{BuildEnd, StoreError};

impl Control {
    /// Ends a build that lives. Its client hears the reason; what runs of it is cancelled. False if it was over already.
    pub async fn cancel(&self, build: BuildId, reason: &str) -> Result<bool> {
        let live = self.build(build);
        if let Some(live) = &live {
            live.cancel(reason);
        } else {
            // Nobody drives it, so it is not in anybody's way.
            match self
                .store
                .build_end(build, BuildEnd::Cancelled { reason })
                .await
            {
                Ok(cancelled) => {
                    for attempt in &cancelled {
                        self.cancel_attempt(attempt, reason);
                    }
                }
                Err(error) if error.is_stale() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.note(Some(build), "cancelled", json!({"why": reason}))
            .await;
        tracing::info!(%build, reason, "a build is cancelled");
        Ok(true)
    }

    /// Deletes a build that is over, with all that is known of it. False if it isn't over.
    pub async fn remove(&self, build: BuildId) -> Result<bool> {
        // What comes later of its log would have nowhere to go.
        if self.build(build).is_none() {
            self.recorded(build).await;
        }
        let removed = not_stale(self.store.build_remove(build).await)?;
        if removed {
            self.note(None, "build removed", json!({"id": build})).await;
        }
        Ok(removed)
    }

    /// Forgets an agent until it connects again. False if it is connected, or a running build counts on it.
    pub async fn forget_agent(&self, agent: AgentId) -> Result<bool> {
        let forgotten = not_stale(self.store.agent_forget(agent).await)?;
        if forgotten {
            self.note(None, "agent forgotten", json!({"id": agent}))
                .await;
            self.fleet_changed();
        }
        Ok(forgotten)
    }

    /// Has an agent take no new work, or take it again; it stays so when it goes and comes back.
    pub async fn set_duty(&self, agent: AgentId, duty: Duty) -> Result<()> {
        match self.store.agent_duty(agent, duty).await {
            Ok(()) => {}
            Err(error) if error.is_stale() => {
                return Err(Failure::invalid("the farm has no such agent"));
            }
            Err(error) => return Err(error.into()),
        }
        let what = match duty {
            Duty::Draining => "agent drained",
            Duty::Active => "agent resumed",
        };
        self.note(None, what, json!({"id": agent})).await;
        self.fleet_changed();
        Ok(())
    }

    /// Ends the builds that have taken longer than they may.
    pub(super) async fn end_overdue(&self) -> Result<()> {
        for build in self.store.build_overdue().await? {
            let allowed = self.settings.build_deadline.unwrap_or_default();
            let reason = format!(
                "the build took longer than this farm allows ({} s)",
                allowed.as_secs()
            );
            self.cancel(build, &reason).await?;
        }
        Ok(())
    }
}

/// Whether something was changed.
fn not_stale(changed: std::result::Result<(), StoreError>) -> Result<bool> {
    match changed {
        Ok(()) => Ok(true),
        Err(error) if error.is_stale() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
