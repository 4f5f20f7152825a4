//! What each engine itself says that it ran. Under emulation an image can't prove where it was built; its engine's records can.

use std::{collections::BTreeSet, ffi::OsStr, process::Command};

use croft_local::{Farm, FarmAgent};
use serde::Deserialize;

use super::{Buildx, process};

/// A record of an engine's cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    /// Its id in the engine.
    #[serde(rename = "ID")]
    pub id: String,
    /// What made it: `mount / from exec /bin/sh -c …` for a RUN, `pulled from …` for an image.
    pub description: String,
    /// `regular`, `source.local`, `exec.cachemount`, …
    #[serde(rename = "Type")]
    pub kind: String,
    /// Nothing that runs holds it.
    pub reclaimable: bool,
}

/// `docker-buildx` with these arguments against one engine alone.
pub fn alone(
    buildx: &Buildx,
    engine: &str,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
) -> Command {
    let with_builder = |builder: &'static str| {
        let mut command = buildx.command(["--builder", builder]);
        command.args(arguments);
        command
    };
    match engine.strip_prefix("docker+") {
        Some(socket) => {
            let mut command = with_builder("default");
            command.env("DOCKER_HOST", socket);
            command
        }
        None => {
            let create = ["create", "--name", "engine", "--driver", "remote", engine];
            // It may be there already; if it can't be made, the command says so.
            buildx.run(create);
            with_builder("engine")
        }
    }
}

/// The records of an agent's engine, as the engine itself tells them.
pub fn records(agent: &FarmAgent) -> Vec<Record> {
    let du = ["du", "--format", "json"];
    let buildx = Buildx::empty();
    let command = alone(&buildx, agent.engine(), du);
    let printed = process::run(command).succeeded().stdout;
    let parse = |line| {
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{error} in {line} of:\n{printed}"))
    };
    printed.lines().map(parse).collect()
}

/// How often a command with this text ran on each of the farm's engines, by the agents' names; engines where it never ran are left out.
pub fn runs(farm: &Farm, text: &str) -> Vec<(String, usize)> {
    let of_agent = |agent: &FarmAgent| {
        let records = records(agent);
        let ran: BTreeSet<_> = records
            .iter()
            .filter(|record| {
                // A cache mount is described by the command that first used it.
                record.kind != "exec.cachemount"
                    && record.description.contains(" from exec ")
                    && record.description.contains(text)
            })
            .map(|record| &record.id)
            .collect();
        (agent.name.to_string(), ran.len())
    };
    let agents = farm.agents().iter().map(of_agent);
    agents.filter(|(_, ran)| *ran > 0).collect()
}
