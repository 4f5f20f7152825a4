//! Cells, tables, durations and sizes: the bricks of all output.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::model::Moment;

/// Whether output has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text alone.
    None,
    /// Terminal colours.
    Colours,
}

/// How a text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Bad,
    Busy,
}

impl Tone {
    /// How a state of a build, stage, attempt or agent is meant.
    pub fn of_state(state: &str) -> Self {
        match state {
            "succeeded" | "done" | "connected" => Self::Good,
            "failed" | "lost" | "away" => Self::Bad,
            "planning" | "running" | "publishing" | "offered" | "draining" => Self::Busy,
            _ => Self::Faint,
        }
    }

    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Faint => Some("2"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Busy => Some("33"),
        }
    }
}

impl Paint {
    pub(super) fn put(self, tone: Tone, text: &str) -> String {
        match (self, tone.code()) {
            (Self::Colours, Some(code)) if !text.is_empty() => {
                format!("\u{1b}[{code}m{text}\u{1b}[0m")
            }
            _ => text.to_owned(),
        }
    }
}

/// A text in one line, without anything that a terminal would act on or that would change the order of what is shown.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.trim_end().chars().map(shown).collect()
}

/// A text's lines, each clean; without empty ones at the end.
pub(super) fn clean_lines(text: &str) -> Vec<String> {
    text.trim_end().lines().map(clean).collect()
}

/// One field of a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn painted(&self, paint: Paint) -> String {
        paint.put(self.tone, &self.text)
    }
}

pub(super) fn cell(text: impl AsRef<str>, tone: Tone) -> Cell {
    Cell {
        text: clean(text.as_ref()),
        tone,
    }
}

pub(super) fn plain(text: impl AsRef<str>) -> Cell {
    cell(text, Tone::Plain)
}

/// On which side a column's texts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows under a head, columns as wide as their widest text, and lines that belong to a row below it.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    columns: [(&'static str, Side); COLUMNS],
    rows: Vec<([Cell; COLUMNS], Vec<Cell>)>,
}

/// What is known of a table's lines that were printed before.
#[derive(Debug, Default)]
pub struct Above {
    widths: Vec<usize>,
}

/// How far lines below a row are moved in.
const BELOW: &str = "     ";

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub fn new(columns: [(&'static str, Side); COLUMNS]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: [Cell; COLUMNS]) {
        self.row_with(cells, Vec::new());
    }

    pub fn row_with(&mut self, cells: [Cell; COLUMNS], below: Vec<Cell>) {
        self.rows.push((cells, below));
    }

    /// The table, each line after `margin`.
    pub fn render(&self, paint: Paint, margin: &str) -> String {
        self.render_on(&mut Above::default(), paint, margin)
    }

    /// The table as it goes on below what stands above: its head only where there is nothing yet, and no column narrower than it was.
    pub fn render_on(&self, above: &mut Above, paint: Paint, margin: &str) -> String {
        let head = self.columns.map(|(title, _)| cell(title, Tone::Faint));
        let is_first = above.widths.is_empty();
        let widths: [usize; COLUMNS] = std::array::from_fn(|at| {
            let texts = [&head]
                .into_iter()
                .chain(self.rows.iter().map(|(cells, _)| cells));
            let widest = texts.map(|cells| cells[at].text.chars().count()).max();
            widest
                .max(above.widths.get(at).copied())
                .unwrap_or_default()
        });
        above.widths = widths.to_vec();
        let mut out = String::new();
        let line = |cells: &[Cell; COLUMNS], out: &mut String| {
            out.push_str(margin);
            let last = COLUMNS - 1;
            for (at, cell) in cells.iter().enumerate() {
                let space = " ".repeat(widths[at].saturating_sub(cell.text.chars().count()));
                let text = paint.put(cell.tone, &cell.text);
                match self.columns[at].1 {
                    Side::Right => out.push_str(&format!("{space}{text}")),
                    Side::Left if at == last => out.push_str(&text),
                    Side::Left => out.push_str(&format!("{text}{space}")),
                }
                if at < last {
                    out.push_str("  ");
                }
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        };
        if is_first {
            line(&head, &mut out);
        }
        for (cells, below) in &self.rows {
            line(cells, &mut out);
            for Cell { text, tone } in below {
                out.push_str(&format!("{margin}{BELOW}{}\n", paint.put(*tone, text)));
            }
        }
        out
    }
}

/// The time from `from` to `to`; nothing is before it began, clocks of different hosts notwithstanding.
pub(super) fn between(from: Moment, to: Moment) -> String {
    duration((to.0 - from.0).num_milliseconds().max(0).unsigned_abs())
}

pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}.{}s", milliseconds % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A moment in UTC, to the second.
pub(super) fn moment(Moment(at): Moment) -> String {
    let at: DateTime<Utc> = at;
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A size in decimal units.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // In tenths of the unit, rounded down, without floating point.
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_as_much_detail_as_matters() {
        for (milliseconds, text) in [
            (0, "0.0s"),
            (99, "0.0s"),
            (41_260, "41.2s"),
            (60_000, "1m00s"),
            (3_599_999, "59m59s"),
            (3_600_000, "1h00m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(duration(milliseconds), text);
        }
    }

    #[test]
    fn sizes_are_in_the_largest_unit_that_fits() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (12_345_678_901, "12.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        assert_eq!(
            clean("a\u{1b}]0;x\u{7}\u{9b}2J\tb\r\n"),
            "a\u{fffd}]0;x\u{fffd}\u{fffd}2J b"
        );
        assert_eq!(clean("\u{202e}gnp.exe"), "\u{fffd}gnp.exe");
        assert_eq!(clean_lines("one\ntwo\u{0}\n\n"), ["one", "two\u{fffd}"]);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new([("A", Side::Left), ("B", Side::Right), ("C", Side::Left)]);
        table.row([cell("one", Tone::Good), plain("1"), plain("x")]);
        table.row_with(
            [plain("three"), cell("333", Tone::Bad), plain("")],
            vec![cell("more", Tone::Faint)],
        );
        let text = table.render(Paint::None, " ");
        assert_eq!(
            text,
            " A        B  C\n one      1  x\n three  333\n      more\n"
        );
        let coloured = table.render(Paint::Colours, " ");
        let mut bare = coloured.clone();
        for code in ["\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[0m"] {
            assert!(bare.contains(code), "{code:?}");
            bare = bare.replace(code, "");
        }
        assert_eq!(bare, text);
    }
}
