//! What buildx prints, made comparable: croft promises the same words as one engine alone once digests, times and agents' names are
//! replaced.

use croft_local::Farm;

use super::Finished;

/// What a command printed as progress, without what may differ between a farm and one engine.
pub fn normal(finished: &Finished, farm: &Farm) -> String {
    let mut text = finished.stderr.clone();
    for agent in farm.agents() {
        let agent = &agent.name;
        text = text
            .replace(&format!("[{agent} "), "[")
            .replace(&format!("[{agent}] "), "");
    }
    text.lines().map(|line| normal_line(line) + "\n").collect()
}

/// The part about the error: from the failed step's last words or the excerpt of the Dockerfile on, or else the last line.
pub fn ending(text: &str) -> &str {
    let mut at = 0;
    let mut before = 0;
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            "------" => return &text[at..],
            // The line above says where in the Dockerfile.
            "--------------------" => return &text[before..],
            _ if line.starts_with("ERROR: ") => return &text[at..],
            _ => {}
        }
        before = at;
        at += line.len();
    }
    ""
}

/// The excerpt of the Dockerfile, if there is one, and the error. What is above, a step's last words, is of the platform that happened
/// to fail first.
pub fn excerpt_and_error(text: &str) -> [&str; 2] {
    let ending = ending(text);
    let error = ending.rfind("ERROR: ").unwrap_or(0);
    let (above, error) = ending.split_at(error);
    let rule = above.find("--------------------\n").unwrap_or(0);
    // The line above says where in the Dockerfile.
    let start = above[..rule].trim_end().rfind('\n').map_or(0, |at| at + 1);
    let excerpt = if rule == 0 { "" } else { &above[start..] };
    [excerpt, error]
}

fn normal_line(line: &str) -> String {
    // Two calls of the client's fail with the same error, and it tells of the one that it hears of first.
    let line = line.replace("failed to run Build function: ", "failed to solve: ");
    let mut words: Vec<String> = line.split(' ').map(normal_word).collect();
    // `#4 0.123 text` and, below `------`, `0.123 text`; `#4 DONE 0.1s`.
    for at in 0..words.len().min(2) {
        if is_time(&words[at]) && (at == 0 || words[0] == "#N") {
            words[at] = "T".to_owned();
        }
    }
    sorted_rules(words.join(" "))
}

/// BuildKit names the rules that a Dockerfile breaks in any order.
fn sorted_rules(line: String) -> String {
    match line.split_once("lint violation found for rules: ") {
        Some((before, rules)) => {
            let mut rules: Vec<_> = rules.split(", ").collect();
            rules.sort_unstable();
            format!("{before}RULES: {}", rules.join(", "))
        }
        None => line,
    }
}

fn normal_word(word: &str) -> String {
    if word.strip_prefix('#').is_some_and(is_number) {
        return "#N".to_owned();
    }
    // An engine's name for a snapshot: two random ids.
    if let Some((one, other)) = word.split_once("::")
        && [one, other.trim_end_matches(':')]
            .iter()
            .all(|id| id.len() == 25)
    {
        return "ID".to_owned();
    }
    match word.split_once("sha256:") {
        Some((before, rest)) => {
            let digits = rest
                .find(|c: char| !c.is_ascii_hexdigit())
                .unwrap_or(rest.len());
            format!("{before}DIGEST{}", &rest[digits..])
        }
        None => word.to_owned(),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_time(word: &str) -> bool {
    word.split_once('.')
        .is_some_and(|(whole, rest)| is_number(whole) && is_number(rest))
}

#[test]
fn only_what_may_differ_is_replaced() {
    for (line, normal) in [
        ("#12 0.345 hello 1.5", "#N T hello 1.5"),
        ("0.345 hello", "T hello"),
        ("\"/x@sha256:00ff\": not found", "\"/x@DIGEST\": not found"),
        (
            "of ref cljz5wyndclxqqyqh2an788pq::rdy3kda3mlckv2e4j2cz2uuzf: \"/x\"",
            "of ref ID \"/x\"",
        ),
        (">>> RUN exit 7", ">>> RUN exit 7"),
        (
            "ERROR: lint violation found for rules: UndefinedVar, JSONArgsRecommended",
            "ERROR: RULES: JSONArgsRecommended, UndefinedVar",
        ),
    ] {
        assert_eq!(normal_line(line), normal);
    }
    assert_eq!(
        ending("a\nD:3\n--------------------\nERROR: x\n"),
        "D:3\n--------------------\nERROR: x\n"
    );
    assert_eq!(ending("a\n------\n > b\n"), "------\n > b\n");
    assert_eq!(ending("a\nERROR: x\n"), "ERROR: x\n");
}

#[test]
fn of_a_failure_the_excerpt_and_the_error_are_compared() {
    let excerpt = "Dockerfile:2\n--------------------\n 2 | >>> RUN x\n--------------------\n";
    let step = "#1 x\n------\n > [linux/amd64 2/2] RUN x:\nT said\n------\n";
    let error = "ERROR: it failed\n";
    assert_eq!(
        excerpt_and_error(&format!("{step}{excerpt}{error}")),
        [excerpt, error]
    );
    assert_eq!(excerpt_and_error(&format!("{step}{error}")), ["", error]);
    assert_eq!(
        excerpt_and_error(&format!("#1 x\n{excerpt}{error}")),
        [excerpt, error]
    );
    assert_eq!(excerpt_and_error(&format!("#1 x\n{error}")), ["", error]);
}
