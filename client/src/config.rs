//! The command line: what can be asked, of which farm, and in which form the answer comes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::address::FarmAddress;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the command line is wrong
  3  the farm knows no such thing
  4  the farm cannot be reached

Colours are left out where standard output is no terminal, or NO_COLOR is set.";

/// Looks into a croft build farm and operates it: its builds and its agents.
#[derive(Debug, Parser)]
#[command(name = "croft", version, after_help = EXIT_CODES, infer_subcommands = false)]
pub struct Cli {
    /// Which farm.
    #[command(flatten)]
    pub farm: Farm,
    /// In which form answers are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the farm is and how to trust it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Farm")]
pub struct Farm {
    /// The coordinator's client port, as host:port, tcp://host:port, http://… or https://…
    #[arg(
        long,
        global = true,
        env = "CROFT_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8372"
    )]
    pub addr: FarmAddress,
    /// The authority that signed the coordinator's certificate (PEM); switches TLS on
    #[arg(long, global = true, env = "CROFT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate that we show the coordinator (PEM)
    #[arg(long, global = true, env = "CROFT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, global = true, env = "CROFT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The name in the coordinator's certificate, where it is not the address's host
    #[arg(
        long,
        global = true,
        env = "CROFT_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub tls_server_name: Option<String>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: fields keep their names and meanings, new ones may come
    Json,
}

/// What can be asked about.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds: which there are, and how one ran
    #[command(subcommand)]
    Builds(Builds),
    /// Agents: which there are, and what they run
    #[command(subcommand)]
    Agents(Agents),
}

/// About builds.
#[derive(Debug, Subcommand)]
pub enum Builds {
    /// List builds, newest first
    Ls(BuildsLs),
    /// Show a build's plan as it ran: which stage ran where and why, and what travelled
    Show(BuildsShow),
    /// End a build that runs
    Cancel(BuildsCancel),
}

/// Which builds.
#[derive(Debug, Args)]
pub struct BuildsLs {
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Only builds in this state; may be given several times
    #[arg(long = "state", value_enum, value_delimiter = ',')]
    pub states: Vec<BuildState>,
}

/// The states of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BuildState {
    Planning,
    Running,
    Publishing,
    Succeeded,
    Failed,
    Cancelled,
}

impl BuildState {
    /// The state as croft.v1 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which build.
#[derive(Debug, Args)]
pub struct BuildsShow {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(default_value = "latest", value_name = "ID|latest")]
    pub id: String,
}

/// Which build, and why.
#[derive(Debug, Args)]
pub struct BuildsCancel {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(value_name = "ID|latest")]
    pub id: String,
    /// Why, for the people whose build it is
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// About agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List agents by name, those that are away too
    Ls,
    /// Have an agent finish what it runs and take no new work
    Drain(AgentsDrain),
    /// Have an agent that was drained take work again
    Resume(AgentsResume),
}

/// Which agent, and whether to wait.
#[derive(Debug, Args)]
pub struct AgentsDrain {
    /// The agent's name
    pub name: String,
    /// Wait until it runs nothing and holds nothing that a build needs
    #[arg(long)]
    pub wait: bool,
}

/// Which agent.
#[derive(Debug, Args)]
pub struct AgentsResume {
    /// The agent's name
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_farm_may_stand_behind_the_command() {
        let cli = Cli::try_parse_from([
            "croft", "agents", "ls", "--addr", "farm:1", "--format", "json",
        ])
        .expect("good flags");
        assert_eq!(
            (cli.farm.addr.to_string().as_str(), cli.format),
            ("farm:1", Format::Json)
        );
    }

    #[test]
    fn states_are_listed_with_commas_or_one_by_one() {
        let cli = Cli::try_parse_from([
            "croft",
            "builds",
            "ls",
            "--state",
            "running,failed",
            "--state",
            "cancelled",
        ]);
        let Command::Builds(Builds::Ls(ls)) = cli.expect("good flags").command else {
            panic!("not builds ls")
        };
        assert_eq!(
            ls.states,
            [
                BuildState::Running,
                BuildState::Failed,
                BuildState::Cancelled
            ]
        );
    }

    #[test]
    fn a_state_s_flag_is_its_name_on_the_wire() {
        for state in BuildState::value_variants() {
            assert_eq!(
                state.to_possible_value().expect("shown").get_name(),
                state.name()
            );
        }
    }
}
