//! `croft agents ls`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// All of them.
#[derive(Debug, Args)]
pub struct Ls {
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Ls {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let agents = call.connect().await?.agents().await?;
        call.print(&match self.format {
            Format::Table => render::agents(&agents, call.paint, call.now()),
            Format::Json => render::json(&agents),
        })
    }
}
