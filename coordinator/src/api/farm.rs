//! What people and programs ask a farm.

use std::sync::Arc;

use croft_proto::v1 as wire;
use tonic::{Request, Response, Status};
use wire::farm_server::Farm as Service;

use super::convert;
use crate::control::Control;
use crate::store::{BuildFilter, Found, StoreError};

/// Builds in one list where the caller doesn't say.
const USUAL: u32 = 50;
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
        let store = self.control.store();
        let id = match store.build_find(&name).await.map_err(status)? {
            Found::One(id) => id,
            Found::Several => {
                return Err(Status::invalid_argument(format!(
                    "{name:?} fits several builds: give more of the id"
                )));
            }
            Found::Nothing => return Err(Status::not_found(format!("there is no build {name:?}"))),
        };
        match store.build_view(id).await.map_err(status)? {
            Some(view) => Ok(Response::new(convert::build_whole(&view))),
            None => Err(Status::not_found(format!("there is no build {name:?}"))),
        }
    }

    async fn list_agents(
        &self,
        _: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let rows = self.control.store().agent_list().await.map_err(status)?;
        let agents = rows.iter().map(convert::agent).collect();
        Ok(Response::new(wire::ListAgentsResponse { agents }))
    }
}
