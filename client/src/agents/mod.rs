//! `croft agents`: which agents there are, what they run, and having them take no work.

mod drain;
mod ls;
mod resume;

use clap::Subcommand;

use crate::{call::Call, cli::Format, error::Error, model::Agent, render};

/// About agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List agents by name, those that are away too
    Ls(ls::Ls),
    /// Have an agent finish what it runs and take no new work
    Drain(drain::Drain),
    /// Have an agent that was drained take work again
    Resume(resume::Resume),
}

impl Agents {
    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Ls(ls) => ls.run(call).await,
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
