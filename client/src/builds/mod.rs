//! `croft builds`: which builds there are, how one ran and what it said, and ending and removing them.

mod cancel;
mod logs;
mod ls;
mod rm;
mod show;

use clap::Subcommand;

pub use show::Shown;

use crate::{call::Call, error::Error};

/// About builds.
#[derive(Debug, Subcommand)]
pub enum Builds {
    /// List builds, newest first
    Ls(ls::Ls),
    /// Show a build's plan as it ran: which stage ran where and why, and what travelled
    Show(show::Show),
    /// Print what a build has said, from its beginning
    Logs(logs::Logs),
    /// End a build that runs
    Cancel(cancel::Cancel),
    /// Remove builds that are over: what is known of them, and their logs. What they published stays
    Rm(rm::Rm),
}

impl Builds {
    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Ls(ls) => ls.run(call).await,
            Self::Show(show) => show.run(call).await,
            Self::Logs(logs) => logs.run(call).await,
            Self::Cancel(cancel) => cancel.run(call).await,
            Self::Rm(rm) => rm.run(call).await,
        }
    }
}
