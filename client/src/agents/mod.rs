//! `croft agents`: which agents there are, what they run and hold, having them take no work, and forgetting them.

mod drain;
mod ls;
mod resume;
mod rm;
mod show;

use clap::Subcommand;

use crate::{call::Call, cli::Format, error::Error, model::Agent, render};

/// About agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List agents by name, those that are away too
    Ls(ls::Ls),
    /// Show an agent: what it can run, what it runs, and what it holds
    Show(show::Show),
    /// Have an agent finish what it runs and take no new work
    Drain(drain::Drain),
    /// Have an agent that was drained take work again
    Resume(resume::Resume),
    /// Forget an agent that is away for good. If it connects again, it is an agent again
    Rm(rm::Rm),
}

impl Agents {
    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Ls(ls) => ls.run(call).await,
            Self::Show(show) => show.run(call).await,
            Self::Rm(rm) => rm.run(call).await,
            Self::Drain(drain) => drain.run(call).await,
            Self::Resume(resume) => resume.run(call).await,
        }
    }
}

/// One agent as it stands.
fn print(agent: &Agent, format: Format, call: &Call) -> Result<(), Error> {
    call.print(&match format {
        Format::Table => render::agents(std::slice::from_ref(agent), call.paint, call.now()),
        Format::Json => render::json(agent),
    })
}
