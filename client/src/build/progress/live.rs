//! Progress on a terminal: steps that ended scroll by, and below them a window shows what runs, with the last lines of each. Each picture
//! is written at once, and only over what the last one covered, so nothing flickers.

use std::{
    io::{self, Write},
    time::Instant,
};

use crossterm::{
    QueueableCommand as _,
    cursor::{MoveToColumn, MoveUp},
    terminal::{BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate},
};

use super::{
    plain::{moment, transfer},
    steps::{Done, News, Step, Steps},
    text::{Keep, clean, cut, width},
};
use crate::render::Paint;

/// Most lines of one step's log in the window.
const TAIL: usize = 6;
/// A window is readable from this width on; narrower terminals get it cut.
const NARROWEST: usize = 10;
/// What turns while something runs.
const WHEEL: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The size of the terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Progress on a terminal.
pub(super) struct Live<W> {
    out: W,
    paint: Paint,
    began: Instant,
    /// When the first step was heard of.
    first: Option<Instant>,
    pictures: usize,
    /// The widths of the window's lines, as they stand there.
    drawn: Vec<usize>,
}

impl<W: Write> Live<W> {
    pub(super) fn new(out: W, paint: Paint, began: Instant) -> Self {
        Self {
            out,
            paint,
            began,
            first: None,
            pictures: 0,
            drawn: Vec::new(),
        }
    }

    /// Shows what happened, and what runs at `now`.
    pub(super) fn take(
        &mut self,
        news: Vec<News>,
        steps: &Steps,
        now: Instant,
        size: Size,
    ) -> io::Result<()> {
        if steps.began.is_some() {
            self.first.get_or_insert(now);
        }
        let mut above = Vec::new();
        for news in news {
            match news {
                News::Ended(id) => above.push(self.ended(steps.step(id), size)),
                News::Warned(_, text) => {
                    let text = clean(text.as_bytes(), Keep::Words);
                    above.push(self.colour("33", &cut(&format!(" ! {text}"), size.columns)));
                }
                News::Began(_) | News::Wrote(..) | News::Moved(..) => {}
            }
        }
        if !above.is_empty() {
            self.draw(&above, steps, now, size)?;
        }
        Ok(())
    }

    /// Draws the window anew.
    pub(super) fn tick(&mut self, steps: &Steps, now: Instant, size: Size) -> io::Result<()> {
        self.draw(&[], steps, now, size)
    }

    /// Says something above the window.
    pub(super) fn say(
        mut self,
        line: &str,
        steps: &Steps,
        now: Instant,
        size: Size,
    ) -> io::Result<Self> {
        self.draw(&[cut(line, size.columns)], steps, now, size)?;
        Ok(self)
    }

    /// Takes the window away, says how it went, and gives back what it wrote to.
    pub(super) fn finish(mut self, steps: &Steps, now: Instant, size: Size) -> io::Result<W> {
        let mut frame = Vec::new();
        self.erase(&mut frame, size)?;
        let (ended, all) = steps.counts();
        let seconds = now.saturating_duration_since(self.began).as_secs_f64();
        let text = format!("{ended} of {all} steps in {seconds:.1}s");
        writeln!(frame, "{}", cut(&text, size.columns))?;
        self.out.write_all(&frame)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn draw(
        &mut self,
        above: &[String],
        steps: &Steps,
        now: Instant,
        size: Size,
    ) -> io::Result<()> {
        let mut frame = Vec::new();
        frame.queue(BeginSynchronizedUpdate)?;
        self.up(&mut frame, size)?;
        let window = self.window(steps, now, size);
        for line in above.iter().chain(&window) {
            frame.write_all(line.as_bytes())?;
            frame.queue(Clear(ClearType::UntilNewLine))?;
            frame.write_all(b"\n")?;
        }
        frame.queue(Clear(ClearType::FromCursorDown))?;
        frame.queue(EndSynchronizedUpdate)?;
        self.drawn = window.iter().map(|line| width(line)).collect();
        self.pictures += 1;
        self.out.write_all(&frame)?;
        self.out.flush()
    }

    fn erase(&mut self, frame: &mut Vec<u8>, size: Size) -> io::Result<()> {
        self.up(frame, size)?;
        frame.queue(Clear(ClearType::FromCursorDown))?;
        self.drawn.clear();
        Ok(())
    }

    /// To the window's first line. Where the terminal became narrower, the lines take more rows than they did.
    fn up(&self, frame: &mut Vec<u8>, size: Size) -> io::Result<()> {
        let columns = size.columns.max(1);
        let rows: usize = self.drawn.iter().map(|w| w.div_ceil(columns).max(1)).sum();
        let rows = rows.min(size.rows.saturating_sub(1));
        frame.queue(MoveToColumn(0))?;
        if let Ok(rows @ 1..) = u16::try_from(rows) {
            frame.queue(MoveUp(rows))?;
        }
        Ok(())
    }

    /// What runs, in fewer lines than the terminal has, each narrower than it is.
    fn window(&self, steps: &Steps, now: Instant, size: Size) -> Vec<String> {
        let columns = size.columns.max(NARROWEST) - 1;
        let rows = size.rows.saturating_sub(2).max(1);
        let elapsed = now.saturating_duration_since(self.began);
        let (ended, all) = steps.counts();
        let running: Vec<&Step> = steps.running().collect();
        let mut lines = Vec::new();
        let room = rows.saturating_sub(1);
        let shown = &running[..running.len().min(room)];
        let hidden = running.len() - shown.len();
        let shown = match hidden {
            0 => shown,
            // Their number takes a line as well.
            _ => &shown[..shown.len().saturating_sub(1)],
        };
        let hidden = running.len() - shown.len();
        let spare = room.saturating_sub(shown.len() + usize::from(hidden > 0));
        let each = (spare / shown.len().max(1)).min(TAIL);
        // Both clocks know when the first step began.
        let since = self.first.map(|first| now.saturating_duration_since(first));
        let farm_now =
            steps.began.unwrap_or_default() + since.unwrap_or_default().as_nanos().cast_signed();
        let wheel = WHEEL[self.pictures % WHEEL.len()];
        for step in shown {
            let time = format!("{:.1}s", step.seconds(farm_now));
            let name = clean(step.name.as_bytes(), Keep::Words);
            let head = spread(&format!(" {wheel} {name}"), &time, columns);
            lines.push(self.colour("36", &head));
            for line in tail(step, each) {
                lines.push(self.colour("2", &cut(&format!("   │ {line}"), columns)));
            }
        }
        if hidden > 0 {
            lines.push(cut(&format!("   … and {hidden} more"), columns));
        }
        let text = format!(
            "building {:.1}s · {ended} of {all} steps · {} running",
            elapsed.as_secs_f64(),
            running.len()
        );
        lines.push(self.colour("1", &cut(&text, columns)));
        lines
    }

    fn ended(&self, step: &Step, size: Size) -> String {
        let name = clean(step.name.as_bytes(), Keep::Words);
        let (mark, colour, end) = if step.is_cancelled() {
            ("-", "33", "cancelled".to_owned())
        } else if !step.error.is_empty() {
            ("✗", "31", "failed".to_owned())
        } else if step.cached {
            ("✓", "32", "cached".to_owned())
        } else {
            ("✓", "32", format!("{:.1}s", step.seconds(0)))
        };
        let columns = size.columns.max(NARROWEST) - 1;
        self.colour(colour, &spread(&format!(" {mark} {name}"), &end, columns))
    }

    fn colour(&self, code: &str, text: &str) -> String {
        match self.paint {
            Paint::Colours => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Paint::None => text.to_owned(),
        }
    }
}

/// A text at the left and one at the right edge, the left one cut if it must.
fn spread(left: &str, right: &str, columns: usize) -> String {
    let room = columns.saturating_sub(width(right) + 1);
    let left = cut(left, room);
    let gap = room - width(&left) + 1;
    cut(&format!("{left}{}{right}", " ".repeat(gap)), columns)
}

/// The last lines of a step: what it moves, then what it wrote.
fn tail(step: &Step, lines: usize) -> Vec<String> {
    let moving = step.transfers.iter().filter(|one| one.done == Done::No);
    let moving = moving.map(transfer);
    let written = step.tail.iter().map(|line| {
        let text = clean(&line.bytes, Keep::Words);
        format!("{} {text}", moment(line.at))
    });
    let all: Vec<String> = moving.chain(written).collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::{
        super::steps::tests::{log, status, vertex},
        *,
    };

    fn lines_of(columns: usize, rows: usize, steps: &Steps) -> Vec<String> {
        let live = Live::new(Vec::new(), Paint::None, Instant::now());
        live.window(steps, live.began, Size { columns, rows })
    }

    #[test]
    fn the_window_fits_any_terminal() {
        let mut steps = Steps::default();
        for number in 0..50 {
            let name = format!("step {number} with a name that is longer than any line 日本語");
            steps.take(&status(
                vec![vertex(&name, Some(0), None)],
                vec![log(&name, 1, b"\x1b[2Jsome\x1b[31m text\n")],
            ));
        }
        for columns in [1, 10, 11, 20, 80, 200] {
            for rows in [1, 2, 3, 5, 24, 100] {
                let lines = lines_of(columns, rows, &steps);
                assert!(lines.len() < rows.max(3), "{rows}: {}", lines.len());
                for line in &lines {
                    assert!(width(line) < columns.max(NARROWEST), "{columns}: {line}");
                    assert!(!line.chars().any(char::is_control), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn what_runs_is_shown_with_its_last_lines() {
        let mut steps = Steps::default();
        steps.take(&status(
            vec![vertex("[amd64-1 build 1/2] RUN x", Some(0), None)],
            vec![log("[amd64-1 build 1/2] RUN x", 1, b"hello\n")],
        ));
        let lines = lines_of(60, 24, &steps);
        assert!(lines[0].contains("[amd64-1 build 1/2] RUN x"), "{lines:?}");
        assert_eq!(lines[1], "   │ 0.100 hello");
        assert!(lines[2].contains("0 of 1 steps · 1 running"), "{lines:?}");
    }
}
