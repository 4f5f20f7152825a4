//! Running a stage on the engine: solve each output in the build's keeper, export what is to travel. Leases, slots and what the coordinator
//! hears of it are others' work.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use croft_buildkit::{
    api::{
        control::{CacheOptions, Exporter, SolveRequest},
        frontend, pb,
    },
    gateway::{BuildRef, ExporterResponse},
    trace::TraceContext,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tonic::Status;

use crate::{
    deliver,
    failure::{Failure, StageRegistry, is_mere_cancellation},
    ids::OutputId,
    keeper::{Keeper, LAST_WORDS},
    ledger::Tally,
    vertices,
    work::{Export, Offer, Output},
};

/// How long is waited before a push is repeated that met others: what is pushed is held, and most of it is there.
const PUSH_PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Makes all outputs of a stage, at once; `ready` hears of each as it comes, and the keeper holds it from then on, whatever becomes of the
/// others. The first real error ends those that are not there yet.
pub async fn run(
    keeper: &Arc<Keeper>,
    offer: &Offer,
    stages: &StageRegistry,
    trace: Option<&TraceContext>,
    ready: impl Fn(&OutputId, ExporterResponse),
) -> Result<Tally, Failure> {
    let definitions = || offer.outputs.iter().flat_map(Output::definitions);
    let vertices: HashSet<_> = definitions().flat_map(vertices::digests).collect();
    let claim = keeper.expect(&vertices);
    let cuts = keeper.cuts();
    if let Err(mut failure) = make_all(keeper, offer, stages, trace, ready).await {
        if keeper.cuts() > cuts {
            failure.blame_tunnel();
        }
        return Err(failure);
    }
    let results: Vec<_> = definitions().filter_map(vertices::result).collect();
    Ok(keeper.tally(&vertices, &claim, &results).await)
}

async fn make_all(
    keeper: &Arc<Keeper>,
    offer: &Offer,
    stages: &StageRegistry,
    trace: Option<&TraceContext>,
    ready: impl Fn(&OutputId, ExporterResponse),
) -> Result<(), Failure> {
    let mut outputs: FuturesUnordered<_> = offer
        .outputs
        .iter()
        .map(async |output| (output, make(keeper, offer, output, trace).await))
        .collect();
    let mut given_up = Ok(());
    while let Some((output, made)) = outputs.next().await {
        match made {
            Ok(response) => ready(&output.id, response),
            // Something else went wrong, which is told elsewhere, and probably by the next output.
            Err(status) if is_mere_cancellation(&status) => {
                given_up = Err(Failure::of_engine(&status))
            }
            Err(status) => return Err(Failure::of_output(&status, output, stages)),
        }
    }
    given_up
}

async fn make(
    keeper: &Arc<Keeper>,
    offer: &Offer,
    output: &Output,
    trace: Option<&TraceContext>,
) -> Result<ExporterResponse, Status> {
    if let Some(delivery) = &output.delivery {
        return deliver::deliver(keeper, offer.attempt.as_str(), &output.id, delivery, trace).await;
    }
    if let Some(definition) = &output.definition {
        solve(keeper, definition, trace).await?;
    }
    export(keeper, offer.attempt.as_str(), output, trace).await
}

/// Solves a definition in a job of its own, which is held if that went well.
pub(crate) async fn solve(
    keeper: &Arc<Keeper>,
    definition: &pb::Definition,
    trace: Option<&TraceContext>,
) -> Result<(), Status> {
    let job = keeper.job(trace).await?;
    let request = frontend::SolveRequest {
        definition: Some(definition.clone()),
        evaluate: true,
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    match job.solve(request).await {
        Ok(_) => {
            keeper.hold(job, vertices::result(definition));
            Ok(())
        }
        Err(status) => {
            // The next try may come at once, and would meet the same error while the engine still has this job.
            job.close().await;
            Err(status)
        }
    }
}

/// Exports what the keeper holds, if the output is to be exported at all. `of` is the attempt or the request that it belongs to.
pub async fn export(
    keeper: &Keeper,
    of: &str,
    output: &Output,
    trace: Option<&TraceContext>,
) -> Result<ExporterResponse, Status> {
    let Some(export) = &output.export else {
        return Ok(ExporterResponse::new());
    };
    let mut pauses = PUSH_PAUSES.into_iter();
    loop {
        match export_once(keeper, of, output, export, trace).await {
            Err(status) if is_push_race(&status) => match pauses.next() {
                Some(pause) => {
                    tracing::info!(error = status.message(), "a push is repeated");
                    tokio::time::sleep(pause).await;
                }
                None => return Err(status),
            },
            other => return other,
        }
    }
}

/// Whether a registry lost sight of a blob that it has just been given. CNCF's does for a moment when somebody else uploads the same one to
/// the same repository, as the platforms of an image do that have a layer in common.
fn is_push_race(status: &Status) -> bool {
    let message = status.message();
    message.starts_with("failed to push ")
        && [
            "blob unknown to registry",
            "provided digest did not match uploaded content",
        ]
        .iter()
        .any(|text| message.contains(text))
}

async fn export_once(
    keeper: &Keeper,
    of: &str,
    output: &Output,
    export: &Export,
    trace: Option<&TraceContext>,
) -> Result<ExporterResponse, Status> {
    let context = keeper.context();
    let solve = BuildRef::unique();
    let request = SolveRequest {
        r#ref: solve.to_string(),
        // An empty definition is the scratch image; none at all would open a gateway job.
        definition: Some(
            export
                .part
                .as_ref()
                .or(output.definition.as_ref())
                .cloned()
                .unwrap_or_default(),
        ),
        exporters: vec![Exporter {
            r#type: export.kind.clone(),
            attrs: export.attrs.clone(),
        }],
        // For engines before 0.13, which know one exporter only.
        exporter_deprecated: export.kind.clone(),
        exporter_attrs_deprecated: export.attrs.clone(),
        session: context
            .session()
            .map(ToString::to_string)
            .unwrap_or_default(),
        cache: Some(CacheOptions {
            imports: context.cache_imports.clone(),
            ..Default::default()
        }),
        entitlements: keeper.entitlements(),
        source_policy: context.source_policy.clone(),
        internal: true,
        ..Default::default()
    };
    let mut control = keeper.engine(trace).control();
    let watch = keeper.watch_export(&solve, of.to_owned(), output.id.clone());
    let solved = watched(control.solve(request), watch).await?;
    Ok(solved.into_inner().exporter_response)
}

/// Solves while somebody listens to what the engine says, and waits a moment for the last words.
pub(crate) async fn watched<T>(
    solving: impl Future<Output = T>,
    watch: impl Future<Output = ()>,
) -> T {
    let (mut solving, mut watch) = (pin!(solving), pin!(watch));
    let mut heard = false;
    let solved = loop {
        tokio::select! {
            biased;
            solved = &mut solving => break solved,
            () = &mut watch, if !heard => heard = true,
        }
    };
    if !heard {
        let _ = tokio::time::timeout(LAST_WORDS, watch).await;
    }
    solved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_push_that_met_another_is_repeated() {
        for (message, race) in [
            (
                "failed to push r.example/x: errors:\nunknown: blob unknown to registry - sha256:00\n",
                true,
            ),
            (
                "failed to push r.example/x: errors:\nunknown: provided digest did not match uploaded content\n",
                true,
            ),
            ("failed to push r.example/x: 401 Unauthorized", false),
            (
                "process \"/bin/sh -c echo blob unknown to registry\" did not complete successfully: exit code: 1",
                false,
            ),
        ] {
            assert_eq!(is_push_race(&Status::unknown(message)), race, "{message}");
        }
    }
}
