//! `croft builds rm`.

use clap::Args;

use crate::{call::Call, cli::Format, error::Error, render};

/// Which builds.
#[derive(Debug, Args)]
pub struct Rm {
    /// Builds that are over: ids, the start of them, or buildx's build references
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Rm {
    /// Removes what can be removed; of what can't, the first reason is the call's.
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let mut farm = call.connect().await?;
        let mut gone = Vec::new();
        let mut failed = Ok(());
        for id in &self.ids {
            match farm.remove_build(id).await {
                Ok(build) => gone.push(build),
                Err(error) if failed.is_ok() => failed = Err(error),
                Err(_) => {}
            }
        }
        call.print(&match self.format {
            Format::Table => gone
                .iter()
                .map(|build| format!("{} is removed\n", render::line(&build.id)))
                .collect(),
            Format::Json => render::json(&gone),
        })?;
        failed
    }
}
