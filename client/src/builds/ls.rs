//! `croft builds ls`.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use croft_proto::v1;

use crate::{call::Call, connect::Connection, error::Error, model::Build, render};

/// Which builds.
#[derive(Debug, Args)]
pub struct Ls {
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only builds in this state; may be given several times
    #[arg(long = "state", value_enum, value_delimiter = ',')]
    states: Vec<BuildState>,
    /// Only builds of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only builds for this platform, among others
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Only builds that came then or later: a time like 2026-11-21T09:00:00Z, a day, or an age like 90s, 15m, 6h, 7d
    #[arg(long, value_name = "TIME|AGE", value_parser = since)]
    since: Option<Since>,
    /// Only builds that published this: registry/repository:tag, or registry/repository under any tag
    #[arg(long, value_name = "REFERENCE")]
    published: Option<String>,
    /// Go on until Ctrl-C, with a line for each build that comes or changes; the newest is last then, and JSON has a build on each line
    #[arg(long, short)]
    follow: bool,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

/// How often builds that are followed are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// For people
    Table,
    /// For people with wide windows: more columns
    Wide,
    /// For programs: fields keep their names and meanings, new ones may come
    Json,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Moment(DateTime<Utc>),
    Ago(TimeDelta),
}

fn since(text: &str) -> Result<Since, String> {
    let wrong =
        || format!("{text:?} is no time: write 2026-11-21T09:00:00Z, 2026-11-21, 15m or 7d");
    if let Ok(moment) = text.parse::<DateTime<Utc>>() {
        return Ok(Since::Moment(moment));
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(Since::Moment(day.and_time(NaiveTime::MIN).and_utc()));
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let count = text
        .strip_suffix(unit)
        .and_then(|digits| digits.parse::<i64>().ok());
    let ago = count
        .filter(|count| *count >= 0)
        .and_then(|count| match unit {
            's' => TimeDelta::try_seconds(count),
            'm' => TimeDelta::try_minutes(count),
            'h' => TimeDelta::try_hours(count),
            'd' => TimeDelta::try_days(count),
            _ => None,
        });
    ago.map(Since::Ago).ok_or_else(wrong)
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
        let now = call.now();
        let since = self.since.and_then(|since| match since {
            Since::Moment(moment) => Some(moment),
            // Further back than there is time: all of it.
            Since::Ago(ago) => now.0.checked_sub_signed(ago),
        });
        let asked = v1::ListBuildsRequest {
            limit: self.limit,
            states: states.collect(),
            project: self.project.unwrap_or_default(),
            platform: self.platform.unwrap_or_default(),
            since: since.map(|since| prost_types::Timestamp {
                seconds: since.timestamp(),
                nanos: since.timestamp_subsec_nanos().cast_signed(),
            }),
            published: self.published.unwrap_or_default(),
        };
        let mut farm = call.connect().await?;
        if self.follow {
            return follow(&mut farm, asked, self.format, call).await;
        }
        let builds = farm.builds(asked).await?;
        call.print(&match self.format {
            ListFormat::Table => render::builds(&builds, render::Width::Narrow, call.paint, now),
            ListFormat::Wide => render::builds(&builds, render::Width::Wide, call.paint, now),
            ListFormat::Json => render::json(&builds),
        })
    }
}

/// Prints each build as it is now, and again when it is another.
async fn follow(
    farm: &mut Connection,
    asked: v1::ListBuildsRequest,
    format: ListFormat,
    call: &Call,
) -> Result<(), Error> {
    let mut known = Known::default();
    let mut above = render::Above::default();
    loop {
        let listed = farm.builds(asked.clone()).await?;
        let mut left = Vec::new();
        for id in known.missing(&listed) {
            match farm.build(&id).await {
                Ok(build) => left.push(build.build),
                // Somebody has removed it.
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let news = known.news(listed, left);
        let mut more =
            |width| render::more_builds(&news, &mut above, width, call.paint, call.now());
        let text = match format {
            _ if news.is_empty() => String::new(),
            ListFormat::Table => more(render::Width::Narrow),
            ListFormat::Wide => more(render::Width::Wide),
            ListFormat::Json => news.iter().map(render::json_line).collect(),
        };
        // An empty text too: nobody may be reading any more.
        call.print(&text)?;
        tokio::time::sleep(LOOK).await;
    }
}

/// What was printed of builds that are followed.
#[derive(Default)]
struct Known(HashMap<String, Build>);

impl Known {
    /// Those that were running and are listed no more: what became of them is still wanted, though the list is of others.
    fn missing(&self, listed: &[Build]) -> Vec<String> {
        let is_listed = |id: &str| listed.iter().any(|build| build.id == id);
        let running = self.0.values().filter(|build| build.finished_at.is_none());
        let missing = running.filter(|build| !is_listed(&build.id));
        missing.map(|build| build.id.clone()).collect()
    }

    /// What is new in a list, and in what became of builds that have left it; the oldest first. Of others that have left nothing is known
    /// from now on.
    fn news(&mut self, listed: Vec<Build>, left: Vec<Build>) -> Vec<Build> {
        let before = std::mem::take(&mut self.0);
        let over = left.iter().filter(|build| build.finished_at.is_some());
        let over: HashSet<_> = over.map(|build| build.id.clone()).collect();
        let mut news = Vec::new();
        for build in listed.into_iter().chain(left) {
            if before.get(&build.id) != Some(&build) {
                news.push(build.clone());
            }
            if !over.contains(&build.id) {
                self.0.insert(build.id.clone(), build);
            }
        }
        news.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        news
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::Moment;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ls: Ls,
    }

    fn build(id: &str, state: &str, created: i64) -> Build {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).map(Moment);
        Build {
            id: id.into(),
            client_ref: String::new(),
            project: String::new(),
            state: state.into(),
            created_at: at(created),
            started_at: None,
            finished_at: at(created + 9).filter(|_| state != "running"),
            platforms: Vec::new(),
            error: None,
            published: Vec::new(),
            digest: None,
        }
    }

    #[test]
    fn a_build_is_told_when_it_comes_changes_or_ends_and_not_again() {
        let mut known = Known::default();
        let told = |news: Vec<Build>| -> Vec<_> {
            let news = news.into_iter();
            news.map(|build| format!("{} {}", build.id, build.state))
                .collect()
        };
        let running = || vec![build("b", "running", 2), build("a", "running", 1)];
        assert_eq!(
            told(known.news(running(), vec![])),
            ["a running", "b running"]
        );
        assert!(known.news(running(), vec![]).is_empty());
        // With `--state running`, one that is over is in the list no more.
        let listed = vec![build("c", "running", 3), build("a", "running", 1)];
        assert_eq!(known.missing(&listed), ["b"]);
        let left = vec![build("b", "failed", 2)];
        assert_eq!(
            told(known.news(listed.clone(), left)),
            ["b failed", "c running"]
        );
        assert!(known.missing(&listed).is_empty());
        assert!(known.news(listed, vec![]).is_empty());
        // One that newer ones push out of a short list runs on.
        let listed = vec![build("c", "running", 3)];
        assert_eq!(known.missing(&listed), ["a"]);
        let left = || vec![build("a", "running", 1)];
        assert!(known.news(listed.clone(), left()).is_empty());
        assert_eq!(known.missing(&listed), ["a"]);
        // What was removed is not asked for again.
        assert!(known.news(listed.clone(), vec![]).is_empty());
        assert!(known.missing(&listed).is_empty());
    }

    #[test]
    fn states_are_listed_with_commas_or_one_by_one() {
        let words = ["ls", "--state", "running,failed", "--state", "cancelled"];
        let line = Line::try_parse_from(words).expect("good flags");
        use BuildState::{Cancelled, Failed, Running};
        assert_eq!(line.ls.states, [Running, Failed, Cancelled]);
    }

    #[test]
    fn since_when_is_a_time_a_day_or_an_age() {
        let day = "2026-11-21T00:00:00Z".parse().expect("a time");
        for (text, meant) in [
            ("2026-11-21T00:00:00Z", Since::Moment(day)),
            ("2026-11-21T01:00:00+01:00", Since::Moment(day)),
            ("2026-11-21", Since::Moment(day)),
            ("90s", Since::Ago(TimeDelta::seconds(90))),
            ("7d", Since::Ago(TimeDelta::days(7))),
        ] {
            assert_eq!(since(text), Ok(meant), "{text}");
        }
        for text in ["", "d", "-1d", "1w", "99999999999999999d", "1\u{f6}"] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_state_s_flag_is_its_name_on_the_wire() {
        for state in BuildState::value_variants() {
            let shown = state.to_possible_value().expect("shown");
            assert_eq!(shown.get_name(), state.name());
        }
    }
}
