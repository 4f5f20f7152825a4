//! `croft builds cancel`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// Which build, and why.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(value_name = "ID|latest")]
    id: String,
    /// Why, for the people whose build it is
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Cancel {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let mut farm = call.connect().await?;
        let build = farm.cancel(&self.id, &self.reason).await?;
        call.print(&match self.format {
            Format::Table => format!("{} is cancelled\n", render::line(&build.id)),
            Format::Json => render::json(&build),
        })
    }
}
