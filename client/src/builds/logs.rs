//! `croft builds logs`.

use std::{collections::HashSet, io};

use clap::{Args, ValueEnum};
use croft_buildkit::api::control::StatusResponse;
use croft_proto::v1;

use crate::{build::progress::Progress, call::Call, error::Error};

/// Which build.
#[derive(Debug, Args)]
pub struct Logs {
    /// The build's id, the start of it, buildx's build reference, or `latest`
    #[arg(default_value = "latest", value_name = "ID|latest")]
    id: String,
    /// Go on until the build is over
    #[arg(long, short)]
    follow: bool,
    /// Only what this stage of it says, by its number in `croft builds show`
    #[arg(long, value_name = "NUMBER")]
    stage: Option<u32>,
    /// In which form the log is printed
    #[arg(long, value_enum, default_value_t = Form::Plain)]
    format: Form,
}

/// How a log is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As `docker buildx build --progress plain`
    Plain,
    /// A line of JSON for each message, as `docker buildx build --progress rawjson`
    Json,
}

impl Logs {
    pub(super) async fn run(self, call: &Call) -> Result<(), Error> {
        let mut farm = call.connect().await?;
        let asked = v1::ReadLogRequest {
            id: self.id,
            after: 0,
            follow: self.follow,
        };
        let mut log = farm.log(asked).await?;
        let mut part = self.stage.map(Part::new);
        let mut shown = match self.format {
            Form::Plain => Progress::log(Box::new(io::stdout()), call.paint),
            Form::Json => Progress::log_json(Box::new(io::stdout())),
        };
        while let Some(piece) = log
            .message()
            .await
            .map_err(|status| farm.explain(&status))?
        {
            let mut rest = &piece.data[..];
            while !rest.is_empty() {
                let message = take(&mut rest)?;
                let status = match &mut part {
                    Some(part) => part.of(message)?,
                    None => decode(message)?,
                };
                shown.take(&status);
            }
            if shown.is_gone() {
                return Err(Error::NobodyReads);
            }
        }
        shown.finish(&[]);
        Ok(())
    }
}

/// The next message, which stands behind its length.
fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let malformed = || Error::Malformed("a whole piece of the log");
    let length = prost::decode_length_delimiter(&mut *rest).map_err(|_| malformed())?;
    let (message, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *rest = after;
    Ok(message)
}

fn decode<M: prost::Message + Default>(message: &[u8]) -> Result<M, Error> {
    M::decode(message).map_err(|_| Error::Malformed("a readable piece of the log"))
}

/// What belongs to one stage.
struct Part {
    stage: u32,
    vertices: HashSet<String>,
}

impl Part {
    fn new(stage: u32) -> Self {
        Self {
            stage,
            vertices: HashSet::new(),
        }
    }

    fn of(&mut self, message: &[u8]) -> Result<StatusResponse, Error> {
        let extras: v1::LogExtras = decode(message)?;
        let own = extras.stages.into_iter().filter(|v| v.stage == self.stage);
        self.vertices.extend(own.map(|v| v.vertex));
        let mut status: StatusResponse = decode(message)?;
        let of = |vertex: &String| self.vertices.contains(vertex);
        status.vertexes.retain(|vertex| of(&vertex.digest));
        status.statuses.retain(|one| of(&one.vertex));
        status.logs.retain(|log| of(&log.vertex));
        status.warnings.retain(|warning| of(&warning.vertex));
        Ok(status)
    }
}
