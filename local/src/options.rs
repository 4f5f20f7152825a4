//! What a farm is made of: flags' and variables' text turned into types.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    error::{Error, Result},
    home::Place,
    ports::Ports,
    postgres::Durability,
};

/// The agents of a farm that nothing else was said about: all four architectures, and two of the one that builds.
pub const DEFAULT_AGENTS: &str = "amd64,amd64,arm64,ppc64le,s390x";

/// How a farm is started.
#[derive(Debug, Clone)]
pub struct FarmOptions {
    /// The folder that holds all of it.
    pub place: Place,
    /// The agents: one engine each.
    pub agents: Vec<AgentName>,
    /// Where the ports come from; with a base, the coordinator's client port is the first.
    pub ports: Ports,
    /// Where `croft-coordinator`, `croft-agent` and `croft` are.
    pub binaries: Binaries,
    /// Engines that run already, for the first agents; the others get one of their own.
    pub engines: Vec<EngineAddress>,
    /// Whether the database syncs.
    pub durability: Durability,
    /// How many coordinators there are.
    pub coordinators: Coordinators,
    /// Further flags of the coordinator.
    pub coordinator_flags: Vec<String>,
    /// Further flags of every agent.
    pub agent_flags: Vec<String>,
    /// What is different about some agents.
    pub special: BTreeMap<AgentName, Special>,
}

/// How many coordinators a farm has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Coordinators {
    /// One.
    #[default]
    One,
    /// One that is active, and one that stands by.
    Two,
}

/// What is different about an agent.
#[derive(Debug, Clone, Default)]
pub struct Special {
    /// The platforms that it stands for, its native one first; empty for its architecture's.
    pub platforms: Vec<String>,
    /// What its engine, if it gets one of its own, lets builds be granted beyond what it does anyway: `security.insecure` and the like.
    pub entitlements: Vec<String>,
    /// Where its engine's folder is, if not with the rest of the farm.
    pub engine_place: Option<Place>,
    /// Devices that its engine then has, as `vendor.example/kind=name`: an environment variable `DEVICE` in whatever is given one.
    pub devices: Vec<String>,
}

impl FarmOptions {
    /// The defaults, with what CROFT_AGENTS, CROFT_PORT_BASE, CROFT_USE_ENGINES and CROFT_BIN_DIR say.
    pub fn from_env() -> Result<FarmOptions> {
        let variable =
            |name: &'static str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let ports = match variable("CROFT_PORT_BASE") {
            None => Ports::Free,
            Some(value) => Ports::From(value.parse().map_err(|_| Error::Setting {
                name: "CROFT_PORT_BASE",
                value: value.clone(),
                reason: "not a port".to_owned(),
            })?),
        };
        Ok(FarmOptions {
            place: Place::Temporary,
            agents: agents(
                variable("CROFT_AGENTS")
                    .as_deref()
                    .unwrap_or(DEFAULT_AGENTS),
            )?,
            ports,
            binaries: Binaries::find()?,
            engines: variable("CROFT_USE_ENGINES")
                .map_or(Ok(Vec::new()), |value| engines(&value))?,
            durability: Durability::None,
            coordinators: Coordinators::One,
            coordinator_flags: Vec::new(),
            agent_flags: Vec::new(),
            special: BTreeMap::new(),
        })
    }
}

/// An architecture that a farm's agent can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// x86, 64 bits.
    Amd64,
    /// ARM, 64 bits.
    Arm64,
    /// POWER, 64 bits, little endian.
    Ppc64le,
    /// IBM Z.
    S390x,
}

impl Architecture {
    /// This machine's, if a farm can have it.
    pub fn native() -> Option<Architecture> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Architecture::Amd64),
            "aarch64" => Some(Architecture::Arm64),
            "powerpc64" => Some(Architecture::Ppc64le),
            "s390x" => Some(Architecture::S390x),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
            Architecture::Ppc64le => "ppc64le",
            Architecture::S390x => "s390x",
        })
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [
            Architecture::Amd64,
            Architecture::Arm64,
            Architecture::Ppc64le,
            Architecture::S390x,
        ]
        .into_iter()
        .find(|one| one.to_string() == text)
        .ok_or_else(|| format!("`{text}` is none of amd64, arm64, ppc64le, s390x"))
    }
}

/// An agent's name: its architecture and a number that starts at 1 for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentName {
    /// What it stands for.
    pub architecture: Architecture,
    /// Which of them it is.
    pub number: u32,
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.architecture, self.number)
    }
}

/// `amd64,amd64,arm64` as amd64-1, amd64-2, arm64-1.
pub fn agents(list: &str) -> Result<Vec<AgentName>> {
    let mut numbers = BTreeMap::new();
    list.split(',')
        .map(|text| {
            let architecture = text.trim().parse().map_err(|reason| Error::Setting {
                name: "CROFT_AGENTS",
                value: list.to_owned(),
                reason,
            })?;
            let number = numbers.entry(architecture).or_insert(0);
            *number += 1;
            Ok(AgentName {
                architecture,
                number: *number,
            })
        })
        .collect()
}

/// Where an engine is: `unix://…` or `tcp://…` for buildkitd, `docker+unix://…` for Docker Engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineAddress(String);

impl EngineAddress {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EngineAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix" | "tcp" | "docker+unix", rest)) if !rest.is_empty() => {
                Ok(EngineAddress(text.to_owned()))
            }
            _ => Err(Error::Setting {
                name: "CROFT_USE_ENGINES",
                value: text.to_owned(),
                reason: format!("`{text}` is none of unix://…, tcp://…, docker+unix://…"),
            }),
        }
    }
}

fn engines(list: &str) -> Result<Vec<EngineAddress>> {
    list.split(',').map(|text| text.trim().parse()).collect()
}

/// The farm's own programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// They are in CROFT_BIN_DIR, or beside this program, or for a test one folder up.
    pub fn find() -> Result<Binaries> {
        let given = std::env::var_os("CROFT_BIN_DIR")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        let own = std::env::current_exe().ok();
        let beside = own
            .iter()
            .flat_map(|file| file.ancestors().skip(1).take(2))
            .map(Path::to_owned);
        let candidates: Vec<PathBuf> =
            given.map_or_else(|| beside.collect(), |folder| vec![folder]);
        let names = ["croft-coordinator", "croft-agent", "croft"];
        for folder in &candidates {
            if names.iter().all(|name| folder.join(name).is_file()) {
                // The farm's parts run in folders of their own.
                return Ok(Binaries {
                    folder: std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
                });
            }
        }
        Err(Error::Missing {
            what: format!(
                "{} in {}",
                names.join(", "),
                candidates
                    .first()
                    .map_or("?".into(), |path| path.to_string_lossy())
            ),
            remedy: "cargo build --workspace --bins, or set CROFT_BIN_DIR".to_owned(),
        })
    }

    /// The `croft` command.
    pub fn croft(&self) -> PathBuf {
        self.folder.join("croft")
    }

    /// `croft-coordinator`.
    pub fn coordinator(&self) -> PathBuf {
        self.folder.join("croft-coordinator")
    }

    /// `croft-agent`.
    pub fn agent(&self) -> PathBuf {
        self.folder.join("croft-agent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_one_architecture_are_numbered() {
        let names: Vec<_> = agents(DEFAULT_AGENTS)
            .unwrap()
            .iter()
            .map(AgentName::to_string)
            .collect();
        assert_eq!(
            names,
            ["amd64-1", "amd64-2", "arm64-1", "ppc64le-1", "s390x-1"]
        );
    }

    #[test]
    fn an_unknown_architecture_is_named_in_the_error() {
        assert!(
            agents("amd64,sparc")
                .unwrap_err()
                .to_string()
                .contains("`sparc` is none of amd64")
        );
    }

    #[test]
    fn engines_need_a_known_scheme() {
        let two = engines("unix:///run/a.sock, docker+unix:///run/b.sock").unwrap();
        assert_eq!(two[1].as_str(), "docker+unix:///run/b.sock");
        assert!(engines("/run/docker.sock").is_err());
        assert!(engines("unix://").is_err());
    }
}
