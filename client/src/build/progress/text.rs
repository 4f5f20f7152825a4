//! Text that others wrote, made fit to be shown: containers may print anything, and a terminal does what it is told.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What may stay in a text besides what one can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Colours and the like: a terminal's SGR sequences.
    Colours,
    /// Nothing.
    Words,
}

/// Ends all colours.
const RESET: &str = "\u{1b}[0m";
/// Tabs stand at multiples of this.
const TAB: usize = 8;

/// One line as it may be shown. What a carriage return would overwrite is left out; a line that leaves a colour on ends it.
pub(super) fn clean(line: &[u8], keep: Keep) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\n', '\r']);
    // Progress bars write the same line again and again.
    let line = line
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let mut clean = String::with_capacity(line.len());
    let mut coloured = false;
    let mut column = 0;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => match characters.next() {
                Some('[') => coloured |= control(&mut characters, keep, &mut clean),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut characters),
                Some(' '..='/') => {
                    characters.find(|c| !(' '..='/').contains(c));
                }
                _ => {}
            },
            '\u{9b}' => coloured |= control(&mut characters, keep, &mut clean),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut characters),
            '\t' => {
                let spaces = TAB - column % TAB;
                clean.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c if c.is_control() || turns_text(c) => {}
            c => {
                clean.push(c);
                column += c.width().unwrap_or(0);
            }
        }
    }
    if coloured {
        clean.push_str(RESET);
    }
    clean
}

/// Characters that have a terminal show text in another order than it is written.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A control sequence behind its introducer: kept if it is a colour and colours may stay.
fn control(characters: &mut std::str::Chars<'_>, keep: Keep, clean: &mut String) -> bool {
    let mut parameters = String::new();
    for c in characters.by_ref() {
        match c {
            'm' if keep == Keep::Colours
                && parameters.len() <= 32
                && parameters
                    .bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b';' | b':')) =>
            {
                clean.push_str(&format!("\u{1b}[{parameters}m"));
                return true;
            }
            '@'..='~' => return false,
            // Anything else in a sequence ends it as well, or it would swallow the rest.
            ' '..='?' => parameters.push(c),
            _ => return false,
        }
    }
    false
}

/// A string for the terminal (a title, a link), which ends with BEL or ST.
fn skip_string(characters: &mut std::str::Chars<'_>) {
    while let Some(c) = characters.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                characters.next();
                return;
            }
            _ => {}
        }
    }
}

/// How many columns a clean text takes; colours take none.
pub(super) fn width(text: &str) -> usize {
    if !text.contains('\u{1b}') {
        return text.width();
    }
    pieces(text)
        .filter(|piece| !piece.starts_with('\u{1b}'))
        .map(|piece| piece.width())
        .sum()
}

/// A clean text cut to so many columns, with an ellipsis where something is missing.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(1);
    let mut short = String::new();
    let mut coloured = false;
    'all: for piece in pieces(text) {
        if piece.starts_with('\u{1b}') {
            coloured = true;
            short.push_str(piece);
            continue;
        }
        for c in piece.chars() {
            let width = c.width().unwrap_or(0);
            if width > room {
                break 'all;
            }
            room -= width;
            short.push(c);
        }
    }
    if columns > 0 {
        short.push('…');
    }
    if coloured {
        short.push_str(RESET);
    }
    short
}

/// Colours and what is between them, in turn.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match rest.starts_with('\u{1b}') {
            true => rest.find('m').map_or(rest.len(), |at| at + 1),
            false => rest.find('\u{1b}').unwrap_or(rest.len()),
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// Bytes as people read them.
pub(super) fn bytes(count: i64) -> String {
    let mut size = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if size < 1000.0 {
            return match unit {
                "B" => format!("{count}B"),
                _ => format!("{size:.2}{unit}"),
            };
        }
        size /= 1000.0;
    }
    format!("{size:.2}TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_are_left_of_what_a_terminal_would_act_on() {
        for (line, colours, words) in [
            ("plain ö", "plain ö", "plain ö"),
            ("\u{1b}[31mred", "\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2Jgone\u{1b}[1;1H", "gone", "gone"),
            ("\u{1b}]0;title\u{7}x", "x", "x"),
            (
                "\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\",
                "link",
                "link",
            ),
            ("\u{1b}P1;2q~~\u{1b}\\x", "x", "x"),
            ("\u{9b}31mred", "\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{9d}0;title\u{9c}x", "x", "x"),
            ("\u{1b}(0x", "x", "x"),
            ("\u{1b}cx", "x", "x"),
            ("\u{1b}[?1049hx", "x", "x"),
            ("\u{1b}[>4;2mx", "x", "x"),
            ("\u{1b}[31", "", ""),
            ("\u{1b}", "", ""),
            ("\u{1b}[\u{1b}[31mx", "[31mx", "[31mx"),
            ("a\u{8}\u{8}b\u{7}\u{0}", "ab", "ab"),
            ("10%\r20%\r\n", "20%", "20%"),
            ("a\tb", "a       b", "a       b"),
            ("\u{202e}evil", "evil", "evil"),
        ] {
            assert_eq!(clean(line.as_bytes(), Keep::Colours), colours, "{line:?}");
            assert_eq!(clean(line.as_bytes(), Keep::Words), words, "{line:?}");
        }
        assert_eq!(clean(b"\xffx", Keep::Words), "\u{fffd}x");
    }

    #[test]
    fn whatever_bytes_come_no_control_characters_stay() {
        let mut seed: u32 = 7;
        for _ in 0..20_000 {
            let line: Vec<u8> = (0..12)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\x1b[]P\\0;m1Hx\x9b\xc2\x9d\x07 (\r\t"[(seed >> 16) as usize % 19]
                })
                .collect();
            let clean = clean(&line, Keep::Words);
            assert!(!clean.chars().any(char::is_control), "{line:?}: {clean:?}");
        }
    }

    #[test]
    fn texts_are_cut_by_what_is_seen_of_them() {
        for (text, columns, expect) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("\u{1b}[31mabcd\u{1b}[0m", 3, "\u{1b}[31mab…\u{1b}[0m"),
            ("\u{1b}[31mabc\u{1b}[0m", 3, "\u{1b}[31mabc\u{1b}[0m"),
            ("a", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expect, "{text:?} {columns}");
        }
    }
}
