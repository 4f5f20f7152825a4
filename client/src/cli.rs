//! The command line's frame: which farm, and which command. Each command has a module of its own with its flags and what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    address::FarmAddress,
    agents::Agents,
    build::flags::BuildFlags,
    builds::Builds,
    call::Call,
    contexts::Contexts,
    error::Error,
    manual::{Completion, Man},
    plan::PlanFlags,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it failed
  2    the command line or the configuration file is wrong
  3    the farm knows no such thing
  4    the farm cannot be reached
  130  Ctrl-C ended a build

Colours are left out where standard output is no terminal, or NO_COLOR is set.";

/// Builds images of several architectures on a croft farm, looks into the farm and operates it.
#[derive(Debug, Parser)]
#[command(name = "croft", version, after_help = EXIT_CODES, infer_subcommands = false)]
pub struct Cli {
    /// Which farm.
    #[command(flatten)]
    pub farm: FarmFlags,
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the farm is and how to trust it: what the configuration file says is changed by this.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Farm")]
pub struct FarmFlags {
    /// The farm of this name in the configuration file, instead of the one in use
    #[arg(long, global = true, env = "CROFT_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// The client port of the farm's coordinator, as host:port, tcp://host:port, http://… or https://…; of several coordinators all, with
    /// commas. Without it, and without a context in use, it is 127.0.0.1:8372
    #[arg(
        long,
        global = true,
        env = "CROFT_ADDR",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub addr: Vec<FarmAddress>,
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

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image on the farm, as docker buildx build does, without Docker
    Build(Box<BuildFlags>),
    /// Show how a build would be split and placed, what would travel, and what would make it faster, without running it
    #[command(after_help = PlanFlags::AFTER_HELP)]
    Plan(Box<PlanFlags>),
    /// Builds: which there are, and how one ran
    #[command(subcommand)]
    Builds(Builds),
    /// Agents: which there are, and what they run
    #[command(subcommand)]
    Agents(Agents),
    /// Farms by name
    #[command(subcommand)]
    Context(Contexts),
    /// Print what completes croft's commands in a shell
    Completion(Completion),
    /// Write a man page for each command into a folder
    #[command(hide = true)]
    Man(Man),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// What kept it from being done.
    pub async fn run(self) -> Result<(), Error> {
        let call = Call::of(self.farm);
        match self.command {
            Command::Build(build) => build.run(&call).await,
            Command::Plan(plan) => plan.run(&call).await,
            Command::Builds(builds) => builds.run(&call).await,
            Command::Agents(agents) => agents.run(&call).await,
            Command::Context(contexts) => contexts.run(&call),
            Command::Completion(completion) => completion.run(&call),
            Command::Man(man) => man.run(),
        }
    }
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
        let cli = Cli::try_parse_from(["croft", "agents", "ls", "--addr", "farm:1"]);
        assert_eq!(cli.expect("good flags").farm.addr[0].to_string(), "farm:1");
    }
}
