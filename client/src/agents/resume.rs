//! `croft agents resume`.

use clap::Args;

use super::print;
use crate::{call::Call, cli::Format, error::Error};

/// Which agent.
#[derive(Debug, Args)]
pub struct Resume {
    /// The agent's name
    name: String,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Resume {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let agent = call.connect().await?.resume(&self.name).await?;
        print(&agent, self.format, call)
    }
}
