//! That no statement is left out, read from the sources: a new one without racers fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What changes something and has no racers, and why.
const ALONE: [(&str, &str); 3] = [
    ("event_append", "adds a row, whatever else there is"),
    ("log_append", "adds a row, whatever else there is"),
    (
        "agent_cache_forget",
        "takes hints away, on which nothing depends",
    ),
];

/// The words behind `before` up to something that is in no name.
fn names<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(before).map(move |(at, _)| {
        let rest = &text[at + before.len()..];
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric());
        &rest[..end.unwrap_or(rest.len())]
    })
}

fn sources(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let code = files.filter(|path| path.is_file());
    code.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Each function of the store, by its name: the text up to the next one, without comments.
fn functions() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for source in sources("src/store") {
        let lines = source
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        for function in code.split("async fn ").skip(1) {
            let name = names(function, "").next().unwrap_or_default();
            all.insert(name.to_owned(), function.to_owned());
        }
    }
    all
}

/// The functions that change rows or lock them, themselves or through others.
fn changing(functions: &BTreeMap<String, String>) -> BTreeSet<&str> {
    let writes = |text: &str| {
        ["UPDATE ", "INSERT INTO ", "DELETE FROM "]
            .iter()
            .any(|word| text.contains(word))
    };
    let calls = |text: &str, name: &str| {
        let called = format!("{name}(");
        text.match_indices(&called)
            .any(|(at, _)| !text[..at].ends_with(|c: char| c == '_' || c.is_alphanumeric()))
    };
    let direct = functions.iter().filter(|(_, text)| writes(text));
    let mut found: BTreeSet<&str> = direct.map(|(name, _)| &**name).collect();
    loop {
        let more = functions.iter().filter(|(name, text)| {
            !found.contains(&***name) && found.iter().any(|known| calls(text, known))
        });
        let more: Vec<_> = more.map(|(name, _)| &**name).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// The calls within what runs at once in the races.
fn raced() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for source in sources("tests/store/races")
        .iter()
        .chain(&sources("tests/store"))
    {
        for word in ["race!(", "meet!(", "once!(", "tokio::join!("] {
            for (at, _) in source.match_indices(word) {
                let rest = &source[at + word.len()..];
                let mut open = 1;
                let end = rest.find(|c| {
                    open += i32::from(c == '(') - i32::from(c == ')');
                    open == 0
                });
                let racers = &rest[..end.unwrap_or(rest.len())];
                all.extend(names(racers, ".").map(str::to_owned));
                // What stands for a call with many words.
                all.extend(
                    racers
                        .contains("try_offer(")
                        .then(|| "attempt_offer".to_owned()),
                );
            }
        }
    }
    all
}

#[test]
fn every_statement_that_changes_something_has_racers() {
    let functions = functions();
    let public: BTreeSet<String> = sources("src/store")
        .iter()
        .flat_map(|source| {
            names(source, "pub async fn ")
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let changing: BTreeSet<&str> = changing(&functions)
        .into_iter()
        .filter(|name| public.contains(*name))
        .collect();
    assert!(changing.len() > 30, "they are not found: {changing:?}");
    let raced = raced();
    let alone: BTreeSet<&str> = ALONE.iter().map(|(name, _)| *name).collect();
    let left_out: Vec<_> = changing
        .iter()
        .filter(|name| !raced.contains(**name) && !alone.contains(**name))
        .collect();
    assert!(left_out.is_empty(), "without racers: {left_out:?}");
    let needless: Vec<_> = alone
        .iter()
        .filter(|name| !changing.contains(**name) || raced.contains(**name))
        .collect();
    assert!(needless.is_empty(), "no exceptions any more: {needless:?}");
}
