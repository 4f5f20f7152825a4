//! `croft agents drain`.

use std::time::Duration;

use clap::Args;

use super::print;
use crate::{call::Call, cli::Format, error::Error};

/// How often it is asked whether an agent is drained.
const LOOK: Duration = Duration::from_millis(500);

/// Which agent, and whether to wait.
#[derive(Debug, Args)]
pub struct Drain {
    /// The agent's name
    name: String,
    /// Wait until it runs nothing and holds nothing that a build needs
    #[arg(long)]
    wait: bool,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Drain {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let mut farm = call.connect().await?;
        let mut agent = farm.drain(&self.name).await?;
        while self.wait && !agent.is_drained() {
            tokio::time::sleep(LOOK).await;
            let agents = farm.agents().await?;
            let same = agents.into_iter().find(|other| other.id == agent.id);
            agent = same.ok_or_else(|| {
                Error::NotFound("the farm does not know the agent any more".to_owned())
            })?;
            if !agent.draining {
                let why = "somebody had it take work again".to_owned();
                return Err(Error::Declined(why));
            }
        }
        print(&agent, self.format, call)
    }
}
