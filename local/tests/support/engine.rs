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

/// The records of an agent's engine, as the engine itself tells them. For a farm of the test's own: see [`records_of`].
pub fn records(agent: &FarmAgent) -> Vec<Record> {
    read(agent, &[])
}

/// Those that this text describes. Of the others none is asked for: while an engine counts a cache mount it holds it, and a build that
/// comes for it meanwhile gets another one.
pub fn records_of(agent: &FarmAgent, text: &str) -> Vec<Record> {
    read(agent, &["--filter", &format!("description~={text:?}")])
}

fn read(agent: &FarmAgent, filter: &[&str]) -> Vec<Record> {
    let du = ["du", "--format", "json"];
    let buildx = Buildx::empty();
    let command = alone(&buildx, agent.engine(), du.iter().chain(filter));
    let printed = process::run(command).succeeded().stdout;
    let parse = |line| {
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{error} in {line} of:\n{printed}"))
    };
    printed.lines().map(parse).collect()
}

/// The records of commands with this text. An engine has two for what a command wrote and tells of the one that is in use: while a keeper
/// is closed it may tell of both or none, so they are read until they stay as they are.
fn settled(agent: &FarmAgent, text: &str) -> BTreeSet<String> {
    let read = || {
        let records = records_of(agent, text).into_iter();
        let ran = records.filter(|record| {
            // A cache mount is described by the command that first used it.
            record.kind != "exec.cachemount" && record.description.contains(" from exec ")
        });
        ran.map(|record| record.id).collect::<BTreeSet<_>>()
    };
    let mut before = read();
    loop {
        let now = read();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// How often a command with this text ran on each of the farm's engines, by the agents' names; engines where it never ran are left out.
pub fn runs(farm: &Farm, text: &str) -> Vec<(String, usize)> {
    let agents = farm.agents().iter();
    let ran = agents.map(|agent| (agent.name.to_string(), settled(agent, text).len()));
    ran.filter(|(_, ran)| *ran > 0).collect()
}
