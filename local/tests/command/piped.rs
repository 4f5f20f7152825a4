//! What a script gets of the command differs from what a person sees in nothing but colours.

use crate::support::{Croft, farm};

#[test]
fn a_terminal_gets_colours_and_a_pipe_the_same_words_without_them() {
    let farm = farm();
    let croft = Croft::of(farm);
    let words = ["agents", "ls"];
    let piped = croft.run(words).succeeded().stdout;
    let seen = croft.terminal(words).finish().succeeded();
    let name = farm.agents()[0].name.to_string();
    assert!(piped.contains(&name), "{piped}");
    assert!(
        !piped.chars().any(|c| c.is_control() && c != '\n'),
        "{piped:?}"
    );
    assert!(
        seen.raw.contains(&format!("\u{1b}[1m{name}\u{1b}[0m")),
        "{:?}",
        seen.raw
    );
    assert!(seen.text.contains(&name), "{}", seen.text);

    let plain = Croft::of(farm).env("NO_COLOR", "1");
    let seen = plain.terminal(words).finish().succeeded();
    assert!(!seen.raw.contains('\u{1b}'), "{:?}", seen.raw);
}
