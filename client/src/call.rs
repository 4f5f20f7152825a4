//! What every command is run with: the farm that is meant, and where its answer goes.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{cli::Farm, connect::Connection, error::Error, model::Moment, render::Paint};

/// One call of the command.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which farm.
    pub farm: Farm,
    /// How standard output is coloured.
    pub paint: Paint,
}

impl Call {
    /// A call about this farm whose answer goes where standard output goes: coloured only on a terminal, and not if NO_COLOR is set.
    pub fn of(farm: Farm) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let paint = if io::stdout().is_terminal() && !refused && !dumb {
            Paint::Colours
        } else {
            Paint::None
        };
        Self { farm, paint }
    }

    /// Connects to the farm's active coordinator.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn connect(&self) -> Result<Connection, Error> {
        Connection::open(&self.farm).await
    }

    /// The present: what still runs is shown as of it.
    pub fn now(&self) -> Moment {
        Moment(chrono::Utc::now())
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Error::Output`]; [`Error::NobodyReads`] if the reader has seen enough, like `head`, which is no failure but an end.
    pub fn print(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::NobodyReads),
            written => Ok(written?),
        }
    }
}
