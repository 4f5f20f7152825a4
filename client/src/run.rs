//! One command from its flags to its text: asks the farm, renders the answer.

use std::time::Duration;

use crate::{
    config::{Agents, Builds, Cli, Command, Format},
    connect::Connection,
    error::Error,
    model::{Agent, Moment},
    render::{self, Paint},
};

/// How often it is asked whether an agent is drained.
const DRAIN_LOOK: Duration = Duration::from_millis(500);

/// One agent as it stands.
fn one(format: Format, agent: &Agent, paint: Paint, now: Moment) -> String {
    match format {
        Format::Table => render::agents(std::slice::from_ref(agent), paint, now),
        Format::Json => render::json(agent),
    }
}

/// Asks the farm what the command line asks for and gives the text for standard output. Running builds are shown as of `now`.
///
/// # Errors
/// Whatever keeps the answer from being there, the farm's own refusals included.
pub async fn run(cli: &Cli, paint: Paint, now: Moment) -> Result<String, Error> {
    let mut farm = Connection::open(&cli.farm).await?;
    match &cli.command {
        Command::Builds(Builds::Ls(ls)) => {
            let states = ls
                .states
                .iter()
                .map(|state| state.name().to_owned())
                .collect();
            let builds = farm.builds(ls.limit, states).await?;
            Ok(match cli.format {
                Format::Table => render::builds(&builds, paint, now),
                Format::Json => render::json(&builds),
            })
        }
        Command::Builds(Builds::Show(show)) => {
            let build = farm.build(&show.id).await?;
            Ok(match cli.format {
                Format::Table => render::plan(&build, paint, now),
                Format::Json => render::json(&build),
            })
        }
        Command::Builds(Builds::Cancel(cancel)) => {
            let build = farm.cancel(&cancel.id, &cancel.reason).await?;
            Ok(match cli.format {
                Format::Table => format!("{} is cancelled\n", build.id),
                Format::Json => render::json(&build),
            })
        }
        Command::Agents(Agents::Drain(drain)) => {
            let mut agent = farm.drain(&drain.name).await?;
            while drain.wait && !agent.is_drained() {
                tokio::time::sleep(DRAIN_LOOK).await;
                let agents = farm.agents().await?;
                let same = agents.into_iter().find(|other| other.id == agent.id);
                agent = same.ok_or_else(|| {
                    Error::NotFound("the farm does not know the agent any more".to_owned())
                })?;
                if !agent.draining {
                    return Err(Error::Declined(
                        "somebody had it take work again".to_owned(),
                    ));
                }
            }
            Ok(one(cli.format, &agent, paint, now))
        }
        Command::Agents(Agents::Resume(resume)) => {
            let agent = farm.resume(&resume.name).await?;
            Ok(one(cli.format, &agent, paint, now))
        }
        Command::Agents(Agents::Ls) => {
            let agents = farm.agents().await?;
            Ok(match cli.format {
                Format::Table => render::agents(&agents, paint, now),
                Format::Json => render::json(&agents),
            })
        }
    }
}
