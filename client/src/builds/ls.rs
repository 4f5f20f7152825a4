//! `croft builds ls`.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use croft_proto::v1;

use crate::{call::Call, error::Error, render};

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
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

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
        let builds = call.connect().await?.builds(asked).await?;
        call.print(&match self.format {
            ListFormat::Table => render::builds(&builds, render::Width::Narrow, call.paint, now),
            ListFormat::Wide => render::builds(&builds, render::Width::Wide, call.paint, now),
            ListFormat::Json => render::json(&builds),
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
