//! Why a build failed, from the typed errors that come with a status: in one line, and the lines of the Dockerfile that are to blame.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use croft_buildkit::errors;
use serde::Deserialize;
use tonic::{Code, Status};

use super::{error::BuildError, progress};

/// Lines around the ones that are to blame.
const AROUND: usize = 4;
/// Most sources that are shown.
const MOST: usize = 4;
/// What an engine says that wants more of its frontend than that can do.
const NO_CONTEXTS: &str = "unsupported frontend capability moby.buildkit.frontend.contexts";
const NO_GIT_QUERY: &str = "unsupported frontend capability moby.buildkit.frontend.gitquerystring";

/// A build's failure.
#[derive(Debug)]
pub(super) struct Failure {
    /// What it is for the caller.
    pub(super) error: BuildError,
    /// The Dockerfile's lines, each as a block of text.
    pub(super) sources: Vec<String>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    info: Option<Info>,
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    start: Option<Position>,
    #[serde(default)]
    end: Option<Position>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    line: usize,
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self {
            error,
            sources: Vec::new(),
        }
    }
}

impl Failure {
    /// What a call that is a build's said.
    pub(super) fn of(status: &Status) -> Self {
        let message = progress::shown(&status.message().replace(['\n', '\r'], " "));
        // Made on this side: the connection broke.
        if std::error::Error::source(status).is_some() {
            return BuildError::Gone(message).into();
        }
        let error = match status.code() {
            Code::Unimplemented if message.contains(NO_CONTEXTS) => BuildError::Failed(
                "the Dockerfile's frontend knows no --build-context: take its #syntax line out, or name a newer one there (docker/dockerfile:1.4)"
                    .to_owned(),
            ),
            Code::Unimplemented if message.contains(NO_GIT_QUERY) => BuildError::Failed(
                "the Dockerfile's frontend knows no git URLs with a query: write the branch after a #, or name a newer frontend in its #syntax line (docker/dockerfile:1.18)"
                    .to_owned(),
            ),
            _ => BuildError::Failed(message),
        };
        Self {
            error,
            sources: sources(status),
        }
    }
}

fn sources(status: &Status) -> Vec<String> {
    let details = errors::to_rpc(status).details;
    let sources = details
        .iter()
        .filter(|detail| detail.type_url.ends_with("/errdefs.Source+json"))
        .filter_map(|detail| serde_json::from_slice::<Source>(&detail.value).ok());
    sources
        .filter_map(|source| shown(&source))
        .take(MOST)
        .collect()
}

/// A source with its lines to blame marked, as buildx shows it.
fn shown(source: &Source) -> Option<String> {
    let info = source.info.as_ref()?;
    let data = STANDARD.decode(&info.data).ok()?;
    let text = String::from_utf8_lossy(&data);
    let lines: Vec<&str> = text.lines().collect();
    let blamed: Vec<(usize, usize)> = source
        .ranges
        .iter()
        .filter_map(|range| {
            let start = range.start.as_ref()?.line;
            let end = range.end.as_ref().map_or(start, |end| end.line.max(start));
            Some((start, end))
        })
        .collect();
    let first = blamed.iter().map(|&(start, _)| start).min()?;
    let last = blamed.iter().map(|&(_, end)| end).max()?.min(lines.len());
    if first == 0 || first > lines.len() {
        return None;
    }
    let from = first.saturating_sub(AROUND / 2).max(1);
    let until = (last + AROUND / 2).min(lines.len());
    let rule = "--------------------";
    let mut shown = format!("{}:{first}\n{rule}\n", progress::shown(&info.filename));
    for (number, line) in (from..=until).zip(&lines[from - 1..until]) {
        let is_blamed = blamed
            .iter()
            .any(|&(start, end)| (start..=end).contains(&number));
        let mark = if is_blamed { ">>>" } else { "   " };
        shown += format!("{number:4} | {mark} {}", progress::shown(line)).trim_end();
        shown.push('\n');
    }
    shown += rule;
    Some(shown)
}

#[cfg(test)]
mod tests {
    use croft_buildkit::api::{rpc, wkt::Any};

    use super::*;

    fn failed(detail: String) -> Status {
        errors::from_rpc(rpc::Status {
            code: 2,
            message: "process \"false\" did not complete\x1b[2J successfully: exit code: 1".into(),
            details: vec![Any {
                type_url: "github.com/moby/buildkit/errdefs.Source+json".into(),
                value: detail.into_bytes(),
            }],
        })
    }

    #[test]
    fn the_lines_to_blame_are_marked() {
        let data =
            STANDARD.encode("FROM a\nRUN b\nRUN false \\\n  c\x1b]0;x\x07\nRUN d\n\nRUN e\n");
        let failure = Failure::of(&failed(format!(
            r#"{{"info":{{"filename":"Dockerfile","data":"{data}"}},"ranges":[{{"start":{{"line":3}},"end":{{"line":4}}}}]}}"#
        )));
        assert_eq!(
            failure.sources,
            [
                "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> RUN false \\\n   \
              4 | >>>   c\n   5 |     RUN d\n   6 |\n--------------------"
            ]
        );
        assert_eq!(
            failure.error.to_string(),
            "the build failed: process \"false\" did not complete successfully: exit code: 1"
        );
    }

    #[test]
    fn sources_that_make_no_sense_are_left_out() {
        let data = STANDARD.encode("FROM a\n");
        for range in [
            String::new(),
            r#"{"start":{"line":9}}"#.to_owned(),
            r#"{"start":{"line":0}}"#.to_owned(),
            r#"{"start":{"line":18446744073709551615}}"#.to_owned(),
        ] {
            let source = format!(r#"{{"info":{{"data":"{data}"}},"ranges":[{range}]}}"#);
            assert_eq!(Failure::of(&failed(source)).sources, Vec::<String>::new());
        }
    }
}
