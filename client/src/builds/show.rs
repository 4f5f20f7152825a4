//! `croft builds show`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// Which build.
#[derive(Debug, Args)]
pub struct Show {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(default_value = "latest", value_name = "ID|latest")]
    id: String,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Show {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let build = call.connect().await?.build(&self.id).await?;
        call.print(&match self.format {
            Format::Table => render::build(&build, call.paint, call.now()),
            Format::Json => render::json(&build),
        })
    }
}
