//! `croft builds`: which builds there are, how one ran, and ending one.

mod cancel;
mod ls;
mod show;

use clap::Subcommand;

use crate::{call::Call, error::Error};

/// About builds.
#[derive(Debug, Subcommand)]
pub enum Builds {
    /// List builds, newest first
    Ls(ls::Ls),
    /// Show a build's plan as it ran: which stage ran where and why, and what travelled
    Show(show::Show),
    /// End a build that runs
    Cancel(cancel::Cancel),
}

impl Builds {
    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Ls(ls) => ls.run(call).await,
            Self::Show(show) => show.run(call).await,
            Self::Cancel(cancel) => cancel.run(call).await,
        }
    }
}
