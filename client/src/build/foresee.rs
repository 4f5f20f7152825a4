//! What `croft plan` shares with `croft build`: the same request and the same session, but the farm is asked what would become of it.

use std::sync::Arc;

use croft_proto::{MAX_MESSAGE_BYTES, v1};
use prost::Message as _;
use tonic::Code;

use super::{
    credentials::Registries, environment, error::BuildError, failure::Failure, flags::BuildFlags,
    progress::Progress, read, session::Session, solve::solve_request,
};
use crate::{build::flags::Mode, call::Call, error::Error};

impl BuildFlags {
    /// What would become of a build of these flags.
    ///
    /// # Errors
    /// Those of such a build before anything of it runs.
    pub(crate) async fn foresee(&self, call: &Call) -> Result<v1::PlanBuildResponse, Error> {
        let registries = Arc::new(Registries::of(&environment()));
        let mut request = read(self, &registries)?;
        if request.question.is_some() {
            let why =
                "--call and --check ask the frontend something else than a build: leave them out";
            return Err(BuildError::Usage(why.to_owned()).into());
        }
        let connection = call.connect().await?;
        let session = Session::open(connection.channel(), &mut request, Vec::new(), registries);
        let session = session.await?;
        let solve = solve_request(&request, session.id());
        let mut farm = v1::farm_client::FarmClient::new(connection.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let answer = farm
            .plan_build(v1::PlanBuildRequest {
                solve: solve.encode_to_vec(),
            })
            .await;
        session.close().await;
        match answer {
            Ok(plan) => Ok(plan.into_inner()),
            Err(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
                let why = "this farm makes no plans: its coordinator is older than this croft";
                Err(BuildError::Local(why.to_owned()).into())
            }
            Err(status) => {
                let failure = Failure::of(&status);
                Progress::new(Mode::Quiet).finish(&failure.sources);
                Err(failure.error.into())
            }
        }
    }
}
