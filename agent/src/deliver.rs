//! Handing results out: a gateway build with the client's exporters returns what the keeper holds, so that the engine makes of it what it
//! always does, and sends it through the client's session.

use std::sync::Arc;

use croft_buildkit::{
    api::{
        control::Exporter,
        frontend::{self, result::Result as Refs},
    },
    engine::Engine,
    gateway::{BuildRef, ExporterResponse, Gateway, GatewaySpec},
    trace::TraceContext,
};
use futures::future::try_join_all;
use tonic::Status;

use crate::{
    ids::OutputId,
    keeper::Keeper,
    stage::{solve, watched},
    work::Delivery,
};

/// Brings all results to the engine, and then hands them out: as long as one is missing, the client has been sent nothing. `of` is the
/// attempt that it belongs to.
pub async fn deliver(
    keeper: &Arc<Keeper>,
    of: &str,
    output: &OutputId,
    delivery: &Delivery,
    trace: Option<&TraceContext>,
) -> Result<ExporterResponse, Status> {
    let definitions = delivery.definitions();
    try_join_all(definitions.map(|definition| solve(keeper, definition, trace))).await?;
    let context = keeper.context();
    let spec = GatewaySpec {
        build: Some(BuildRef::unique()),
        session: context.session().cloned(),
        entitlements: keeper.entitlements(),
        source_policy: context.source_policy.clone(),
        cache_imports: context.cache_imports.clone(),
        exporters: delivery.exporters.clone(),
        asked: delivery.asked.clone(),
    };
    let gateway = Gateway::open(&keeper.engine(trace), spec).await?;
    let watch = keeper.watch_export(gateway.build(), of.to_owned(), output.clone());
    watched(hand_out(&gateway, delivery.clone()), watch).await
}

/// Has the engine look at what a client wants, each by itself, as not every engine takes several: it reads attributes when a build is opened,
/// and these builds are given up before anything comes of them.
pub async fn check(engine: &Engine, exporters: Vec<Exporter>) -> Result<(), Status> {
    let looks = exporters.into_iter().map(|exporter| async {
        let spec = GatewaySpec {
            exporters: vec![exporter],
            ..GatewaySpec::default()
        };
        Gateway::open(engine, spec).await.map(drop)
    });
    try_join_all(looks).await.map(drop)
}

async fn hand_out(gateway: &Gateway, mut delivery: Delivery) -> Result<ExporterResponse, Status> {
    for reference in delivery.refs_mut() {
        let definition = reference.def.take().filter(|one| !one.def.is_empty());
        // The empty image has no id. The engine wants to see a reference all the same, and an empty one would be left out.
        *reference = frontend::Ref {
            def: Some(Default::default()),
            id: match definition {
                Some(definition) => solved(gateway, definition).await?,
                None => String::new(),
            },
        };
    }
    gateway.finish(delivery.result).await
}

/// The engine's name for what a definition makes.
async fn solved(
    gateway: &Gateway,
    definition: croft_buildkit::api::pb::Definition,
) -> Result<String, Status> {
    let request = frontend::SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    match gateway
        .solve(request)
        .await?
        .result
        .and_then(|it| it.result)
    {
        Some(Refs::Ref(reference)) => Ok(reference.id),
        _ => Err(Status::internal(
            "the engine answered a definition with something else than one result",
        )),
    }
}
