//! What each engine itself says that it ran. Under emulation an image can't prove where it was built; its engine's records can.

use std::collections::BTreeSet;

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

/// The records of an agent's engine, as the engine itself tells them.
pub fn records(agent: &FarmAgent) -> Vec<Record> {
    let buildx = Buildx::empty();
    let du = ["du", "--format", "json"];
    let command = match agent.engine().strip_prefix("docker+") {
        Some(socket) => {
            let mut command = buildx.command(["--builder", "default"].into_iter().chain(du));
            command.env("DOCKER_HOST", socket);
            command
        }
        None => {
            let create = [
                "create",
                "--name",
                "engine",
                "--driver",
                "remote",
                agent.engine(),
            ];
            buildx.run(create).succeeded();
            buildx.command(["--builder", "engine"].into_iter().chain(du))
        }
    };
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
                record.description.contains(" from exec ") && record.description.contains(text)
            })
            .map(|record| &record.id)
            .collect();
        (agent.name.to_string(), ran.len())
    };
    let agents = farm.agents().iter().map(of_agent);
    agents.filter(|(_, ran)| *ran > 0).collect()
}
