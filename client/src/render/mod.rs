//! How answers look: pure functions from `model` to text that ends with a line feed. Whatever comes from a farm is cleaned of control
//! characters; colours are put on last, and only if asked for.

mod agent;
mod build;
mod lists;
mod plan;
mod svg;
mod text;
mod timeline;

pub use agent::agent;
pub use build::build;
pub use lists::{Width, agents, builds, contexts, more_builds};
pub use plan::{mermaid as plan_mermaid, svg as plan_svg, tree as plan};
pub use text::{Above, Paint};
pub use timeline::{svg::svg as timeline_svg, timeline};

/// A text of the farm's in one line, without anything that a terminal would act on.
pub fn line(text: &str) -> String {
    text::clean(text)
}

/// An answer as JSON, for programs.
pub fn json<T: serde::Serialize>(answer: &T) -> String {
    // Serializing plain data into memory has nothing to fail at; if it ever had, an empty answer would be wrong JSON and noticed.
    escaped(&serde_json::to_string_pretty(answer).unwrap_or_default())
}

/// An answer as one line of JSON, for programs that read one after the other.
pub fn json_line<T: serde::Serialize>(answer: &T) -> String {
    escaped(&serde_json::to_string(answer).unwrap_or_default())
}

fn escaped(text: &str) -> String {
    // JSON escapes only the characters below space; terminals act on these as well. They can stand in strings alone.
    let mut clean = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => clean.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => clean.push(c),
        }
    }
    clean.push('\n');
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_characters_that_a_terminal_acts_on_and_still_means_the_same() {
        let bad = "a\u{1b}[31m\u{9b}2J\u{7f}\n\"ö";
        let text = json(&bad);
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).expect("JSON"), bad);
        let line = json_line(&[bad, bad]);
        assert_eq!(line.lines().count(), 1);
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
    }
}
