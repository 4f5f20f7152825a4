//! What `croft builds ls` says.

use std::process::Command;

use croft_local::Farm;
use serde_json::Value;

use super::{Plan, process};

/// All builds, as they are told.
pub fn listed(farm: &Farm) -> Vec<Value> {
    let mut command = Command::new(farm.binaries().croft());
    let address = farm.client_address().to_string();
    command.args(["builds", "ls", "--format", "json", "--addr", &address]);
    let printed = process::run(command).succeeded().stdout;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// A text of one of these.
#[track_caller]
pub fn text(build: &Value, key: &str) -> String {
    build[key].as_str().expect("a text").to_owned()
}

/// The clients' refs of the builds that are not over.
pub fn running(farm: &Farm) -> Vec<String> {
    let builds = listed(farm);
    let live = builds.iter().filter(|build| build["finished_at"].is_null());
    live.map(|build| text(build, "client_ref")).collect()
}

/// The build with a stage whose name has this text.
pub fn find(farm: &Farm, stage: &str) -> Option<Plan> {
    let croft = farm.binaries().croft();
    let address = farm.client_address().to_string();
    listed(farm)
        .iter()
        // Others may be removed meanwhile.
        .filter_map(|build| Plan::find(&croft, &address, &text(build, "id")))
        .find(|plan| plan.stages.iter().any(|one| one.name.contains(stage)))
}
