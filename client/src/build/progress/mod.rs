//! How a build's progress is shown, on standard error. Each way is a module of its own; what a step is, and what its log may do to a
//! terminal, is the same for all.

mod json;
mod live;
mod plain;
mod steps;
mod text;

use std::{
    io::{self, IsTerminal as _, Write},
    time::{Duration, Instant},
};

use croft_buildkit::api::control::StatusResponse;

use self::{
    live::{Live, Size},
    plain::Plain,
    steps::Steps,
    text::{Keep, clean},
};
use super::flags::Mode;
use crate::render::Paint;

/// A display that nobody tells anything moves on this often.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Lines of a failed step's log that are shown again at the end.
const LAST_LINES: usize = 20;

/// Where it is written.
pub(crate) type Sink = Box<dyn Write + Send>;

/// A build's progress.
pub(crate) struct Progress {
    steps: Steps,
    view: View,
    warnings: usize,
}

enum View {
    Plain(Plain<Sink>),
    Live(Live<Sink>),
    Json(Sink),
    Quiet(Sink),
    None,
    /// Nobody reads any more, which is no reason to give a build up.
    Gone,
}

impl Progress {
    /// Progress on standard error, as it is asked for.
    pub(super) fn new(mode: Mode) -> Self {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let colours = terminal && !dumb && set("NO_COLOR").is_none();
        let paint = if colours { Paint::Colours } else { Paint::None };
        let keep = if colours { Keep::Colours } else { Keep::Words };
        let out: Sink = Box::new(stderr);
        let view = match mode {
            Mode::Auto if terminal && !dumb => View::Live(Live::new(out, paint, Instant::now())),
            Mode::Tty => View::Live(Live::new(out, paint, Instant::now())),
            Mode::Auto | Mode::Plain => View::Plain(Plain::new(out, keep)),
            Mode::Json => View::Json(out),
            Mode::Quiet => View::Quiet(out),
            Mode::None => View::None,
        };
        Self::with(view)
    }

    /// A log line by line, on whatever is given.
    pub(crate) fn log(out: Sink, paint: Paint) -> Self {
        let keep = match paint {
            Paint::Colours => Keep::Colours,
            Paint::None => Keep::Words,
        };
        Self::with(View::Plain(Plain::new(out, keep)))
    }

    /// A log for programs, on whatever is given.
    pub(crate) fn log_json(out: Sink) -> Self {
        Self::with(View::Json(out))
    }

    fn with(view: View) -> Self {
        Self {
            steps: Steps::default(),
            view,
            warnings: 0,
        }
    }

    /// Whether nobody reads it any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.view, View::Gone)
    }

    /// Takes a status message in.
    pub(crate) fn take(&mut self, status: &StatusResponse) {
        self.warnings += status.warnings.len();
        let now = Instant::now();
        let steps = &mut self.steps;
        let shown = match &mut self.view {
            View::Json(out) => writeln!(out, "{}", json::line(status)).and_then(|()| out.flush()),
            View::Plain(plain) => {
                let news = steps.take(status);
                plain.take(news, steps, now)
            }
            View::Live(live) => {
                let news = steps.take(status);
                live.take(news, steps, now, size())
            }
            View::Quiet(_) | View::None | View::Gone => {
                steps.take(status);
                Ok(())
            }
        };
        self.look(shown);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        let shown = match &mut self.view {
            View::Plain(plain) => plain.tick(&self.steps, now),
            View::Live(live) => live.tick(&self.steps, now, size()),
            View::Json(_) | View::Quiet(_) | View::None | View::Gone => Ok(()),
        };
        self.look(shown);
    }

    /// Says something to the user beside the progress.
    pub(super) fn say(&mut self, text: &str) {
        let (now, size) = (Instant::now(), size());
        let view = std::mem::replace(&mut self.view, View::Gone);
        let line = clean(text.as_bytes(), Keep::Words);
        let said = match view {
            View::Live(live) => live.say(&line, &self.steps, now, size).map(View::Live),
            View::Plain(plain) => plain.say(&line).map(View::Plain),
            View::Quiet(mut out) => writeln!(out, "{line}").map(|()| View::Quiet(out)),
            // Programs read these.
            other @ (View::Json(_) | View::None | View::Gone) => Ok(other),
        };
        if let Ok(view) = said {
            self.view = view;
        }
    }

    /// Ends the display; of a build that failed, shows the failed steps' last lines and the `sources` again.
    pub(crate) fn finish(self, sources: &[String]) {
        let steps = &self.steps;
        let ended = match self.view {
            View::Plain(plain) => plain.finish(steps),
            View::Live(live) => live.finish(steps, Instant::now(), size()),
            View::Quiet(out) => Ok(out),
            View::Json(_) | View::None | View::Gone => return,
        };
        // A display that can't be written to any more has nobody to tell.
        if let Ok(mut out) = ended {
            let _ = summary(&mut out, steps, sources, self.warnings).and_then(|()| out.flush());
        }
    }

    fn look(&mut self, shown: io::Result<()>) {
        if shown.is_err() {
            self.view = View::Gone;
        }
    }
}

fn summary(
    out: &mut dyn Write,
    steps: &Steps,
    sources: &[String],
    warnings: usize,
) -> io::Result<()> {
    for step in steps.failed() {
        let name = clean(step.name.as_bytes(), Keep::Words);
        writeln!(out, "------\n > {name}:")?;
        let skip = step.tail.len().saturating_sub(LAST_LINES);
        for line in step.tail.iter().skip(skip) {
            let text = clean(&line.bytes, Keep::Words);
            writeln!(out, "{} {text}", plain::moment(line.at))?;
        }
        writeln!(out, "------")?;
    }
    for source in sources {
        writeln!(out, "{source}")?;
    }
    match warnings {
        0 => Ok(()),
        1 => writeln!(out, "1 warning, above"),
        n => writeln!(out, "{n} warnings, above"),
    }
}

/// The terminal's size; what most have, if it can't be told.
fn size() -> Size {
    let (columns, rows) = crossterm::terminal::size().unwrap_or_default();
    match (columns, rows) {
        (0, _) | (_, 0) => Size {
            columns: 80,
            rows: 24,
        },
        (columns, rows) => Size {
            columns: columns.into(),
            rows: rows.into(),
        },
    }
}

/// One line that someone else wrote, fit to be shown.
pub(super) fn shown(text: &str) -> String {
    clean(text.as_bytes(), Keep::Words)
}
