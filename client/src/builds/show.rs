//! `croft builds show`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    call::Call,
    error::Error,
    model::{BuildDetail, Moment},
    render,
    timeline::{Spent, Timeline},
};

/// How often a build that is followed is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Which build.
#[derive(Debug, Args)]
pub struct Show {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(default_value = "latest", value_name = "ID|latest")]
    id: String,
    /// Wait until the build is over; on a terminal, show how it stands meanwhile
    #[arg(long, short)]
    follow: bool,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

/// How a build is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For programs: fields keep their names and meanings, new ones may come
    Json,
    /// Its timeline as a picture
    Svg,
}

/// A build for programs.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    #[serde(flatten)]
    build: &'a BuildDetail,
    /// The stages that nothing could have been shorter than, first to last.
    critical_path: Vec<u32>,
    /// Where the time went.
    spent: Spent,
}

impl<'a> Shown<'a> {
    /// A build; what still runs, as of `now`.
    pub fn of(build: &'a BuildDetail, now: Moment) -> Self {
        let timeline = Timeline::of(build, now);
        Self {
            build,
            spent: timeline.as_ref().map(|one| one.spent).unwrap_or_default(),
            critical_path: timeline.map(|one| one.critical).unwrap_or_default(),
        }
    }
}

impl Show {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let mut farm = call.connect().await?;
        let mut build = farm.build(&self.id).await?;
        // Not whatever is the latest by then.
        let id = build.build.id.clone();
        while self.follow && build.build.finished_at.is_none() {
            if self.format == Form::Table && call.is_terminal() {
                call.repaint(&self.text(&build, call))?;
            }
            tokio::time::sleep(LOOK).await;
            build = farm.build(&id).await?;
        }
        let text = self.text(&build, call);
        match self.follow && self.format == Form::Table {
            true => call.repaint(&text),
            false => call.print(&text),
        }
    }

    fn text(&self, build: &BuildDetail, call: &Call) -> String {
        let now = call.now();
        let timeline = Timeline::of(build, now);
        match self.format {
            Form::Table => {
                let mut text = render::build(build, call.paint, now);
                if let Some(timeline) = timeline.filter(|_| !build.stages.is_empty()) {
                    text.push('\n');
                    text.push_str(&render::timeline(&timeline, call.paint));
                }
                text
            }
            Form::Json => render::json(&Shown::of(build, now)),
            Form::Svg => match timeline {
                Some(timeline) => render::timeline_svg(&build.build, &timeline),
                None => String::new(),
            },
        }
    }
}
