//! What the coordinator asks that is no attempt: it has no lease, and nobody asks again if the answer gets lost.

use std::sync::Arc;

use croft_buildkit::{engine::Engine, trace::TraceContext};
use croft_proto::v1::{self, answer::Answer};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    convert, deliver,
    failure::{Failure, StageRegistry},
    ids::RequestId,
    keeper::{Keeper, Keepers},
    stage, telemetry, vertices,
    work::{BuildContext, FrontendQuestion, GatewayQuestion, Question},
};

/// What is needed to answer.
pub struct Answers<'a> {
    /// For questions about builds.
    pub keepers: &'a Arc<Keepers>,
    /// For questions about the engine.
    pub engine: &'a Engine,
    /// For whose fault it is.
    pub stages: &'a StageRegistry,
    /// Where answers go; waits while nobody takes them.
    pub to: &'a mpsc::Sender<v1::Answer>,
}

impl Answers<'_> {
    /// Answers one question, with a failure if need be.
    pub async fn answer(&self, id: &RequestId, question: Question) {
        let answer = match question {
            Question::Frontend(context, question) => self
                .frontend(&context, question)
                .await
                .map(Answer::FrontendResult),
            Question::Gateway(context, question) => self
                .gateway(&context, question)
                .await
                .map(Answer::GatewayResponse),
            Question::Export(context, output) => self
                .export(&context, id, &output)
                .await
                .map(Answer::Exported),
            Question::DiskUsage(request) => {
                let usage = self
                    .engine
                    .control()
                    .disk_usage(request)
                    .await
                    .map_err(of_engine);
                usage.map(|usage| Answer::DiskUsage(usage.into_inner().encode_to_vec()))
            }
            Question::Prune(request) => self
                .prune(id, request)
                .await
                .map(|()| Answer::End(v1::End {})),
        };
        self.say(
            id,
            answer.unwrap_or_else(|failure| Answer::Failure(convert::failure(failure))),
        )
        .await;
    }

    async fn say(&self, id: &RequestId, answer: Answer) {
        // If the link is gone, so is the one who asked.
        let _ = self
            .to
            .send(v1::Answer {
                request: id.as_str().to_owned(),
                answer: Some(answer),
            })
            .await;
    }

    async fn frontend(
        &self,
        context: &Arc<BuildContext>,
        question: FrontendQuestion,
    ) -> Result<Vec<u8>, Failure> {
        let FrontendQuestion {
            mut request,
            exporters,
        } = question;
        request.evaluate = false;
        let keeper = self.keepers.open(context).await?;
        in_keeper(&keeper, async |trace| {
            deliver::check(&keeper.engine(trace), exporters)
                .await
                .map_err(of_engine)?;
            let job = keeper.job(trace).await.map_err(of_engine)?;
            match job.solve(request).await {
                Ok(response) => {
                    keeper.hold(job, None);
                    Ok(response.result.unwrap_or_default().encode_to_vec())
                }
                Err(status) => {
                    // The next try would meet the same error while the engine still has this job.
                    job.close().await;
                    Err(of_engine(status))
                }
            }
        })
        .await
    }

    async fn gateway(
        &self,
        context: &Arc<BuildContext>,
        question: GatewayQuestion,
    ) -> Result<Vec<u8>, Failure> {
        let keeper = self.keepers.open(context).await?;
        in_keeper(&keeper, async |trace| {
            let job = keeper.job(trace).await.map_err(of_engine)?;
            let mut bridge = job.bridge();
            let answer = match question {
                GatewayQuestion::ImageConfig(asked) => bridge
                    .resolve_image_config(asked)
                    .await
                    .map(|answer| answer.into_inner().encode_to_vec()),
                GatewayQuestion::SourceMeta(asked) => bridge
                    .resolve_source_meta(asked)
                    .await
                    .map(|answer| answer.into_inner().encode_to_vec()),
            };
            job.close().await;
            answer.map_err(of_engine)
        })
        .await
    }

    async fn export(
        &self,
        context: &Arc<BuildContext>,
        id: &RequestId,
        output: &crate::work::Output,
    ) -> Result<v1::Exported, Failure> {
        let keeper = self.keepers.find(&context.build);
        let keeper =
            keeper.ok_or_else(|| Failure::farm("this agent holds nothing of the build"))?;
        if let Some(definition) = &output.definition
            && !vertices::result(definition).is_some_and(|result| keeper.holds(&result))
        {
            // To solve it anew would make another artifact of the same name.
            return Err(Failure::farm("this agent does not hold that result"));
        }
        in_keeper(&keeper, async |trace| {
            let exported = stage::export(&keeper, id.as_str(), output, trace).await;
            exported
                .map(convert::exported)
                .map_err(|status| Failure::of_output(&status, output, self.stages))
        })
        .await
    }

    async fn prune(
        &self,
        id: &RequestId,
        request: croft_buildkit::api::control::PruneRequest,
    ) -> Result<(), Failure> {
        let mut pruned = self
            .engine
            .control()
            .prune(request)
            .await
            .map_err(of_engine)?
            .into_inner();
        while let Some(record) = pruned.message().await.map_err(of_engine)? {
            self.say(id, Answer::Pruned(record.encode_to_vec())).await;
        }
        Ok(())
    }
}

/// Works as long as the keeper is open.
async fn in_keeper<T>(
    keeper: &Keeper,
    work: impl AsyncFnOnce(Option<&TraceContext>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let trace = telemetry::engine_trace(keeper.context().traceparent.as_deref());
    tokio::select! {
        biased;
        () = keeper.closed() => Err(keeper.end()),
        done = work(trace.as_ref()) => done,
    }
}

fn of_engine(status: Status) -> Failure {
    Failure::of_engine(&status)
}
