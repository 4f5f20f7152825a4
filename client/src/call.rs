//! What every command is run with: the farm that is meant, and where its answer goes.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    cli::FarmFlags, config::File, connect::Connection, error::Error, model::Moment, render::Paint,
};

/// One call of the command.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which farm, as far as flags and variables say.
    pub flags: FarmFlags,
    /// How standard output is coloured.
    pub paint: Paint,
}

impl Call {
    /// A call about this farm whose answer goes where standard output goes: coloured only on a terminal, and not if NO_COLOR is set.
    pub fn of(flags: FarmFlags) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let paint = if io::stdout().is_terminal() && !refused && !dumb {
            Paint::Colours
        } else {
            Paint::None
        };
        Self { flags, paint }
    }

    /// Connects to the farm's active coordinator.
    ///
    /// # Errors
    /// As [`Connection::open`], and what is wrong with the configuration file.
    pub async fn connect(&self) -> Result<Connection, Error> {
        Connection::open(&File::load()?.farm(&self.flags)?).await
    }

    /// The present: what still runs is shown as of it.
    pub fn now(&self) -> Moment {
        Moment(chrono::Utc::now())
    }

    /// Whether a person looks at standard output.
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Writes to standard output in place of all that a terminal shows; elsewhere as [`Call::print`].
    ///
    /// # Errors
    /// As for [`Call::print`].
    pub fn repaint(&self, text: &str) -> Result<(), Error> {
        match self.is_terminal() {
            // To the top left, clear what is below.
            true => self.print(&format!("\u{1b}[H\u{1b}[J{text}")),
            false => self.print(text),
        }
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
