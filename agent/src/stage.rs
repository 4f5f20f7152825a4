//! Running a stage on the engine: solve each output in the build's keeper, export what is to travel. Leases, slots and what the coordinator
//! hears of it are others' work.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use croft_buildkit::{
    api::{
        control::{CacheOptions, Exporter, SolveRequest},
        frontend,
    },
    gateway::BuildRef,
    trace::TraceContext,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tonic::Status;

use crate::{
    failure::{Failure, StageRegistry, is_mere_cancellation},
    ids::OutputId,
    keeper::{Job, Keeper, LAST_WORDS},
    ledger::Tally,
    vertices,
    work::{Offer, Output},
};

/// What an exporter answered.
pub type ExporterResponse = HashMap<String, String>;

/// Makes all outputs of a stage, at once; `ready` hears of each as it comes. The first real error ends the others. What was made is held
/// by the keeper; of a stage that failed nothing is, so that the next try starts clean.
pub async fn run(
    keeper: &Arc<Keeper>,
    offer: &Offer,
    stages: &StageRegistry,
    trace: Option<&TraceContext>,
    ready: impl Fn(&OutputId, ExporterResponse),
) -> Result<Tally, Failure> {
    let definitions = || {
        offer
            .outputs
            .iter()
            .filter_map(|output| output.definition.as_ref())
    };
    let vertices: HashSet<_> = definitions().flat_map(vertices::digests).collect();
    keeper.expect(&vertices);
    let cuts = keeper.cuts();
    let job = keeper
        .job(trace)
        .await
        .map_err(|status| Failure::of_engine(&status))?;
    if let Err(mut failure) = make_all(keeper, &job, offer, stages, trace, ready).await {
        if keeper.cuts() > cuts {
            failure.blame_tunnel();
        }
        // The next try may come at once, and would meet the same error while the engine still has this job.
        job.close().await;
        return Err(failure);
    }
    let results: Vec<_> = definitions().filter_map(vertices::result).collect();
    let tally = keeper.tally(&vertices, &results).await;
    keeper.hold(job, results);
    Ok(tally)
}

async fn make_all(
    keeper: &Keeper,
    job: &Job,
    offer: &Offer,
    stages: &StageRegistry,
    trace: Option<&TraceContext>,
    ready: impl Fn(&OutputId, ExporterResponse),
) -> Result<(), Failure> {
    let mut outputs: FuturesUnordered<_> = offer
        .outputs
        .iter()
        .map(async |output| (output, make(keeper, job, offer, output, trace).await))
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
    keeper: &Keeper,
    job: &Job,
    offer: &Offer,
    output: &Output,
    trace: Option<&TraceContext>,
) -> Result<ExporterResponse, Status> {
    if let Some(definition) = &output.definition {
        job.solve(frontend::SolveRequest {
            definition: Some(definition.clone()),
            evaluate: true,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..Default::default()
        })
        .await?;
    }
    export(keeper, offer.attempt.as_str(), output, trace).await
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
    let context = keeper.context();
    let solve = BuildRef::unique();
    let request = SolveRequest {
        r#ref: solve.to_string(),
        // An empty definition is the scratch image; none at all would open a gateway job.
        definition: Some(output.definition.clone().unwrap_or_default()),
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
        entitlements: context.entitlements.clone(),
        source_policy: context.source_policy.clone(),
        internal: true,
        ..Default::default()
    };
    let mut control = keeper.engine(trace).control();
    let mut watch = std::pin::pin!(keeper.watch_export(&solve, of.to_owned(), output.id.clone()));
    let solving = control.solve(request);
    tokio::pin!(solving);
    let mut watched = false;
    let solved = loop {
        tokio::select! {
            biased;
            solved = &mut solving => break solved,
            () = &mut watch, if !watched => watched = true,
        }
    };
    if !watched {
        let _ = tokio::time::timeout(LAST_WORDS, watch).await;
    }
    Ok(solved?.into_inner().exporter_response)
}
