//! What people and programs ask a farm.

use std::sync::Arc;

use croft_proto::v1 as wire;
use croft_scheduler::BuildId;
use croft_scheduler::fleet::Duty;
use tonic::{Request, Response, Status};
use wire::farm_server::Farm as Service;

use super::convert;
use crate::control::Control;
use crate::store::{AgentRow, BuildFilter, BuildRow, Found, StoreError};

/// Builds in one list where the caller doesn't say.
const USUAL: u32 = 50;
/// Longest reason for cancelling a build, in bytes.
const MAX_REASON: usize = 1000;
/// Builds in one list at most.
const MOST: u32 = 1000;

/// The Farm service.
pub struct Farm {
    control: Arc<Control>,
}

impl Farm {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// The build that a person means.
    async fn find_build(&self, name: &str) -> Result<BuildId, Status> {
        match self
            .control
            .store()
            .build_find(name)
            .await
            .map_err(status)?
        {
            Found::One(id) => Ok(id),
            Found::Several => Err(Status::invalid_argument(format!(
                "{name:?} fits several builds: give more of the id"
            ))),
            Found::Nothing => Err(Status::not_found(format!("there is no build {name:?}"))),
        }
    }

    async fn build_row(&self, id: BuildId) -> Result<BuildRow, Status> {
        let row = self.control.store().build_get(id).await.map_err(status)?;
        row.ok_or_else(|| Status::not_found(format!("there is no build {id}")))
    }

    async fn agents(&self) -> Result<Vec<wire::Agent>, Status> {
        let store = self.control.store();
        let rows = store.agent_list().await.map_err(status)?;
        let held = store.agent_holdings().await.map_err(status)?;
        let agent = |row: &AgentRow| convert::agent(row, held.get(&row.id).copied().unwrap_or(0));
        Ok(rows.iter().map(agent).collect())
    }

    async fn set_duty(&self, name: &str, duty: Duty) -> Result<wire::Agent, Status> {
        let none = || Status::not_found(format!("the farm knows no agent {name:?}"));
        let found = self.control.store().agent_find(name).await;
        let id = found.map_err(status)?.ok_or_else(none)?;
        let set = self.control.set_duty(id, duty).await;
        set.map_err(|failure| Status::unavailable(failure.message))?;
        let id = id.to_string();
        let mut agents = self.agents().await?.into_iter();
        agents.find(|agent| agent.id == id).ok_or_else(none)
    }
}

fn status(error: StoreError) -> Status {
    Status::unavailable(format!("the farm's database: {error}"))
}

#[tonic::async_trait]
impl Service for Farm {
    async fn list_builds(
        &self,
        request: Request<wire::ListBuildsRequest>,
    ) -> Result<Response<wire::ListBuildsResponse>, Status> {
        let asked = request.into_inner();
        let states = asked.states.iter().map(|text| {
            text.parse().map_err(|_| {
                Status::invalid_argument(format!(
                    "{text:?} is no state of a build: use planning, running, publishing, succeeded, failed or cancelled"
                ))
            })
        });
        let filter = BuildFilter {
            states: states.collect::<Result<_, _>>()?,
            limit: match asked.limit {
                0 => USUAL,
                limit => limit.min(MOST),
            },
        };
        let rows = self
            .control
            .store()
            .build_list(&filter)
            .await
            .map_err(status)?;
        let builds = rows.iter().map(convert::build).collect();
        Ok(Response::new(wire::ListBuildsResponse { builds }))
    }

    async fn get_build(
        &self,
        request: Request<wire::GetBuildRequest>,
    ) -> Result<Response<wire::GetBuildResponse>, Status> {
        let name = request.into_inner().id;
        let id = self.find_build(&name).await?;
        let store = self.control.store();
        match store.build_view(id).await.map_err(status)? {
            Some(view) => Ok(Response::new(convert::build_whole(&view))),
            None => Err(Status::not_found(format!("there is no build {name:?}"))),
        }
    }

    async fn list_agents(
        &self,
        _: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let agents = self.agents().await?;
        Ok(Response::new(wire::ListAgentsResponse { agents }))
    }

    async fn cancel_build(
        &self,
        request: Request<wire::CancelBuildRequest>,
    ) -> Result<Response<wire::CancelBuildResponse>, Status> {
        let asked = request.into_inner();
        let reason = match asked.reason.trim() {
            "" => "it was cancelled over the farm's API".to_owned(),
            why if why.len() <= MAX_REASON => format!("it was cancelled: {why}"),
            _ => {
                return Err(Status::invalid_argument(format!(
                    "a reason has at most {MAX_REASON} bytes"
                )));
            }
        };
        let id = self.find_build(&asked.id).await?;
        let row = self.build_row(id).await?;
        let over = || {
            Status::failed_precondition(format!(
                "there is nothing to cancel: build {id} is over, it has {}",
                row.state
            ))
        };
        if row.state.is_final() {
            return Err(over());
        }
        let cancelled = self.control.cancel(id, &reason).await;
        if !cancelled.map_err(|failure| Status::unavailable(failure.message))? {
            return Err(over());
        }
        let build = convert::build(&self.build_row(id).await?);
        Ok(Response::new(wire::CancelBuildResponse {
            build: Some(build),
        }))
    }

    async fn plan_build(
        &self,
        request: Request<wire::PlanBuildRequest>,
    ) -> Result<Response<wire::PlanBuildResponse>, Status> {
        let asked = request.into_inner();
        let foreseen = crate::front::foresee(&self.control, &asked.solve).await?;
        Ok(Response::new(super::plan::planned(&foreseen)))
    }

    async fn drain_agent(
        &self,
        request: Request<wire::DrainAgentRequest>,
    ) -> Result<Response<wire::DrainAgentResponse>, Status> {
        let name = request.into_inner().agent;
        let agent = Some(self.set_duty(&name, Duty::Draining).await?);
        Ok(Response::new(wire::DrainAgentResponse { agent }))
    }

    async fn resume_agent(
        &self,
        request: Request<wire::ResumeAgentRequest>,
    ) -> Result<Response<wire::ResumeAgentResponse>, Status> {
        let name = request.into_inner().agent;
        let agent = Some(self.set_duty(&name, Duty::Active).await?);
        Ok(Response::new(wire::ResumeAgentResponse { agent }))
    }
}
