//! `croft builds ls`.

use clap::{Args, ValueEnum};

use crate::{call::Call, cli::Format, error::Error, render};

/// Which builds.
#[derive(Debug, Args)]
pub struct Ls {
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only builds in this state; may be given several times
    #[arg(long = "state", value_enum, value_delimiter = ',')]
    states: Vec<BuildState>,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// The states of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BuildState {
    Planning,
    Running,
    Publishing,
    Succeeded,
    Failed,
    Cancelled,
}

impl BuildState {
    /// The state as croft.v1 writes it.
    fn name(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Ls {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let states = self.states.iter().map(|state| state.name().to_owned());
        let mut farm = call.connect().await?;
        let builds = farm.builds(self.limit, states.collect()).await?;
        call.print(&match self.format {
            Format::Table => render::builds(&builds, call.paint, call.now()),
            Format::Json => render::json(&builds),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ls: Ls,
    }

    #[test]
    fn states_are_listed_with_commas_or_one_by_one() {
        let words = ["ls", "--state", "running,failed", "--state", "cancelled"];
        let line = Line::try_parse_from(words).expect("good flags");
        use BuildState::{Cancelled, Failed, Running};
        assert_eq!(line.ls.states, [Running, Failed, Cancelled]);
    }

    #[test]
    fn a_state_s_flag_is_its_name_on_the_wire() {
        for state in BuildState::value_variants() {
            let shown = state.to_possible_value().expect("shown");
            assert_eq!(shown.get_name(), state.name());
        }
    }
}
