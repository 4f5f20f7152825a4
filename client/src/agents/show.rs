//! `croft agents show`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// Which agent.
#[derive(Debug, Args)]
pub struct Show {
    /// The agent's name
    name: String,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Show {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let agent = call.connect().await?.agent(&self.name).await?;
        call.print(&match self.format {
            Format::Table => render::agent(&agent, call.paint, call.now()),
            Format::Json => render::json(&agent),
        })
    }
}
