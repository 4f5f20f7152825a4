//! `croft agents rm`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// Which agent.
#[derive(Debug, Args)]
pub struct Rm {
    /// The name of an agent that is away
    name: String,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Rm {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let agent = call.connect().await?.remove_agent(&self.name).await?;
        call.print(&match self.format {
            Format::Table => format!("{} is forgotten\n", render::line(&agent.name)),
            Format::Json => render::json(&agent),
        })
    }
}
