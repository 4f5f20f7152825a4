//! One command from its flags to its text: asks the farm, renders the answer.

use crate::{
    config::{Agents, Builds, Cli, Command, Format},
    connect::Connection,
    error::Error,
    model::Moment,
    render::{self, Paint},
};

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
        Command::Agents(Agents::Ls) => {
            let agents = farm.agents().await?;
            Ok(match cli.format {
                Format::Table => render::agents(&agents, paint, now),
                Format::Json => render::json(&agents),
            })
        }
    }
}
