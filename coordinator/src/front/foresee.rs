//! A solve that is only looked at: read, run and answered as the same solve would be, up to the point where something would be stored.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use croft_scheduler::ConnectionId;
use prost::Message as _;
use tonic::Status;

use super::convert;
use crate::control::{Control, Failure, Foreseen};

/// What would become of an encoded `SolveRequest`.
pub async fn foresee(control: &Arc<Control>, solve: &[u8]) -> Result<Foreseen, Status> {
    let solve = api::SolveRequest::decode(solve).map_err(|error| {
        Status::invalid_argument(format!("the request is no solve of BuildKit's: {error}"))
    })?;
    let own = solve.definition.as_ref().is_some_and(|d| !d.def.is_empty());
    if solve.frontend.is_empty() && !own {
        return Err(Status::invalid_argument(
            "a plan needs a frontend or a definition: nobody asks for more by gateway calls",
        ));
    }
    // Builds of one connection keep together; this one isn't among them.
    let connection = ConnectionId(uuid::Uuid::new_v4());
    let failed = |failure: Failure| convert::status(&failure);
    let request = convert::request(&solve, connection).map_err(failed)?;
    let read = |result| {
        convert::results(result, |reference| {
            Ok(reference.def.clone().filter(|d| !d.def.is_empty()))
        })
        .map_err(|status| Failure::invalid(status.message()))
    };
    let foreseen = control.foresee(request, convert::direct(&solve), read);
    foreseen.await.map_err(failed)
}
