//! What people and programs ask a farm.

use std::sync::Arc;
use std::time::Duration;

use croft_proto::v1 as wire;
use croft_scheduler::fleet::Duty;
use croft_scheduler::{AgentId, BuildId};
use tonic::{Request, Response, Status};
use wire::farm_server::Farm as Service;

use super::{convert, log};
use crate::control::Control;
use crate::store::{AgentRow, BuildFilter, BuildRow, Found, StoreError};

/// Builds in one list where the caller doesn't say.
const USUAL: u32 = 50;
/// Longest reason for cancelling a build, in bytes.
const MAX_REASON: usize = 1000;
/// Builds in one list at most.
const MOST: u32 = 1000;

/// How long an agent's engine may take to say what its cache holds.
const ENGINE: Duration = Duration::from_secs(5);

/// The Farm service.
pub struct Farm {
    control: Arc<Control>,
}

impl Farm {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    async fn find_build(&self, name: &str) -> Result<BuildId, Status> {
        find_build(&self.control, name).await
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

    async fn find_agent(&self, name: &str) -> Result<AgentId, Status> {
        let found = self.control.store().agent_find(name).await;
        found.map_err(status)?.ok_or_else(|| no_agent(name))
    }

    async fn agent(&self, id: AgentId, name: &str) -> Result<wire::Agent, Status> {
        let id = id.to_string();
        let mut agents = self.agents().await?.into_iter();
        agents
            .find(|agent| agent.id == id)
            .ok_or_else(|| no_agent(name))
    }

    async fn set_duty(&self, name: &str, duty: Duty) -> Result<wire::Agent, Status> {
        let id = self.find_agent(name).await?;
        let set = self.control.set_duty(id, duty).await;
        set.map_err(|failure| Status::unavailable(failure.message))?;
        self.agent(id, name).await
    }
}

fn no_agent(name: &str) -> Status {
    Status::not_found(format!("the farm knows no agent {name:?}"))
}

/// The build that a person means.
pub(super) async fn find_build(control: &Control, name: &str) -> Result<BuildId, Status> {
    let found = control.store().build_find(name).await;
    match found.map_err(status)? {
        Found::One(id) => Ok(id),
        Found::Several => Err(Status::invalid_argument(format!(
            "{name:?} fits several builds: give more of the id"
        ))),
        Found::Nothing => Err(Status::not_found(format!("there is no build {name:?}"))),
    }
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn status(error: StoreError) -> Status {
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
            project: given(asked.project),
            platform: given(asked.platform),
            since: asked.since.map(convert::moment).transpose()?,
            published: given(asked.published),
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

    type ReadLogStream = log::Pieces;

    async fn read_log(
        &self,
        request: Request<wire::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let pieces = log::read(Arc::clone(&self.control), request.into_inner()).await?;
        Ok(Response::new(pieces))
    }

    async fn remove_build(
        &self,
        request: Request<wire::RemoveBuildRequest>,
    ) -> Result<Response<wire::RemoveBuildResponse>, Status> {
        let id = self.find_build(&request.into_inner().id).await?;
        let row = self.build_row(id).await?;
        match self.control.remove(id).await {
            Ok(true) => Ok(Response::new(wire::RemoveBuildResponse {
                build: Some(convert::build(&row)),
            })),
            Ok(false) => Err(Status::failed_precondition(format!(
                "build {id} is not over: it is {}; cancel it first",
                row.state
            ))),
            Err(failure) => Err(Status::unavailable(failure.message)),
        }
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<wire::GetAgentResponse>, Status> {
        let name = request.into_inner().agent;
        let id = self.find_agent(&name).await?;
        let store = self.control.store();
        let work = store.agent_work(id).await.map_err(status)?;
        let known = store.agent_cache(id).await.map_err(status)?;
        let usage = tokio::time::timeout(ENGINE, self.control.agent_usage(id)).await;
        Ok(Response::new(wire::GetAgentResponse {
            agent: Some(self.agent(id, &name).await?),
            work: work.iter().map(convert::work).collect(),
            // Agents that are away can't be asked, and that is no reason to say nothing of them.
            cache: usage
                .ok()
                .and_then(Result::ok)
                .map(|records| convert::engine_cache(&records)),
            known_commands: known.commands,
            known_mounts: known.mounts,
        }))
    }

    async fn remove_agent(
        &self,
        request: Request<wire::RemoveAgentRequest>,
    ) -> Result<Response<wire::RemoveAgentResponse>, Status> {
        let name = request.into_inner().agent;
        let id = self.find_agent(&name).await?;
        let agent = self.agent(id, &name).await?;
        let forgotten = self.control.forget_agent(id).await;
        if !forgotten.map_err(|failure| Status::unavailable(failure.message))? {
            let why = match agent.state.as_str() {
                "connected" => "is connected: stop croft-agent there first",
                _ => {
                    "is still counted on by a running build, until its lease ends: try again shortly"
                }
            };
            return Err(Status::failed_precondition(format!("{} {why}", agent.name)));
        }
        Ok(Response::new(wire::RemoveAgentResponse {
            agent: Some(agent),
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
