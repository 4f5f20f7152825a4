//! How results leave the engine that made them: what an export is to look like, and having an agent export what it holds for others.

use std::sync::Arc;

use croft_planner::{Bound, CutEdge, EdgeId, Output, PlannedTarget};
use croft_proto::v1 as wire;
use croft_scheduler::AgentId;
use prost::Message as _;
use wire::answer::Answer;
use wire::request::Request as Ask;

use super::Control;
use super::build::Build;
use super::deliver;
use super::events::{exported_digest, output_name};
use super::failure::{Failure, Result};
use super::image::ImageOutput;
use super::images::Handover;
use super::planned::Planned;
use super::stages::Compression;
use crate::store::{OutputState, Snapshot};

/// How an edge's result goes to the stage registry.
pub(super) fn export_of_edge(
    control: &Control,
    build: &Build,
    planned: &Planned,
    edge: &CutEdge,
    bound: &Bound,
) -> wire::Export {
    let part = planned.plan.part_of(bound);
    let compression = match part {
        Some(_) => Compression::ForTransfer,
        // Layers of a whole root end up in the user's image as they are compressed here.
        None => Compression::OfImage(build.request.outputs.compression()),
    };
    let mut attrs = control.stages.export_attrs(edge, compression);
    if let Some(config) = deliver::config_of_edge(planned, edge.id) {
        // The engine says in it when each layer was made, and that is handed out with the layers.
        attrs.insert("containerimage.config".to_owned(), config);
        attrs.remove("source-date-epoch");
    }
    wire::Export {
        r#type: "image".to_owned(),
        attrs: attrs.into_iter().collect(),
        title: build
            .export_title(Output::Edge(edge.id))
            .unwrap_or_default(),
        definition: part.map(|part| part.encode_to_vec()).unwrap_or_default(),
    }
}

/// How a target's image goes to the user's registries.
pub(super) fn export_of_target(
    build: &Build,
    planned: &Planned,
    image: &ImageOutput,
    target: &PlannedTarget,
) -> wire::Export {
    let mut attrs = image.engine_attrs(&target.platform.to_string());
    let result = planned.results.targets.get(target.id.index());
    let config = result.and_then(|r| r.config.as_deref());
    let base = result.and_then(|r| r.base_config.as_deref());
    for (key, value) in [
        ("containerimage.config", config),
        ("containerimage.base.config", base),
    ] {
        if let Some(text) = value.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            attrs.insert(key.to_owned(), text.to_owned());
        }
    }
    if let Some(epoch) = build.request.attrs.get("build-arg:SOURCE_DATE_EPOCH") {
        attrs
            .entry("source-date-epoch".to_owned())
            .or_insert_with(|| epoch.clone());
    }
    wire::Export {
        r#type: "image".to_owned(),
        attrs: attrs.into_iter().collect(),
        title: build
            .export_title(Output::Target(target.id))
            .unwrap_or_default(),
        definition: Vec::new(),
    }
}

/// Has the agent that holds a result export it for others, unless that is under way. When it is there the stage is placed anew.
pub(super) fn export(
    control: &Arc<Control>,
    build: &Arc<Build>,
    edge: EdgeId,
    snapshot: &Snapshot,
) {
    let holder = snapshot
        .ready
        .iter()
        .filter(|stage| stage.key.build == build.id())
        .flat_map(|stage| &stage.inputs)
        .find(|input| input.edge == edge)
        .and_then(|input| input.held_on);
    let Some(holder) = holder else { return };
    if !build.begin_export(edge) {
        return;
    }
    let (control, build) = (Arc::clone(control), Arc::clone(build));
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = export_held(&control, &build, edge, holder) => outcome,
            reason = build.cancelled() => Err(Failure::cancelled(reason)),
        };
        if let Err(failure) = outcome {
            tracing::warn!(build = %build.id(), %edge, %failure, "a result can't be handed over");
            match build.export_failed(edge, &failure) {
                Handover::Again(pause) => {
                    let title = build.export_title(Output::Edge(edge));
                    let title = title.unwrap_or_default();
                    let step = build
                        .progress()
                        .step(&format!("[croft] {title}: tried again"));
                    step.log(&failure.message);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = build.cancelled() => {}
                    }
                }
                Handover::Refuted => {
                    if let Err(error) = control.refuted(&build, edge, holder, failure).await {
                        tracing::warn!(build = %build.id(), %edge, %error, "that a result is no good can't be stored");
                    }
                }
                Handover::Failed => build.fail(failure),
            }
        }
        build.end_export(edge);
        control.wake();
    });
}

async fn export_held(
    control: &Control,
    build: &Build,
    edge: EdgeId,
    holder: AgentId,
) -> Result<()> {
    let lost = || Failure::farm("the result's definition is not known any more");
    let planned = build.planned().ok_or_else(lost)?;
    let cut = planned.plan.edge(edge).ok_or_else(lost)?;
    let outputs = control.store.output_list(build.id()).await?;
    let still_held = outputs.iter().any(|row| {
        row.output == Output::Edge(edge)
            && row.state == OutputState::Held
            && row.agent == Some(holder)
    });
    if !still_held {
        // It was exported (or lost) after the snapshot was taken.
        return Ok(());
    }
    let bound = planned.bound(Output::Edge(edge), holder).ok_or_else(lost)?;
    let question = Ask::Export(wire::ExportHeld {
        context: Some(build.context()),
        output: Some(wire::Output {
            id: output_name(Output::Edge(edge)),
            definition: bound.definition.encode_to_vec(),
            export: Some(export_of_edge(control, build, planned, cut, &bound)),
            delivery: None,
        }),
    });
    let Answer::Exported(answer) = control.fleet.ask(holder, question)?.one().await? else {
        return Err(Failure::farm(
            "the agent answered something else than an export",
        ));
    };
    let digest = exported_digest(&answer.exporter_response)
        .ok_or_else(|| Failure::farm("an engine exported a result and did not say which"))?;
    let response = answer.exporter_response;
    let exported = control
        .exported(Some(build.id()), Output::Edge(edge), digest, response)
        .await?;
    control
        .store
        .output_export(build.id(), edge, holder, &exported)
        .await?;
    Ok(())
}
