//! Looks for a secret wherever croft could have left it: in every part's log, in every row of the database, on every command line.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use croft_local::Farm;

/// Nothing of the farm may know the secret.
#[track_caller]
pub fn nobody_wrote_down(farm: &Farm, secret: &str) {
    for (part, log) in farm.logs() {
        let text = String::from_utf8_lossy(&fs::read(&log).expect("a log")).into_owned();
        assert!(!has(&text, secret), "the log of {part} has it");
    }
    for (table, rows) in rows(farm) {
        assert!(!has(&rows, secret), "the table {table} has it");
    }
    let told = command_lines(secret);
    assert!(told.is_empty(), "on a command line: {told:?}");
}

/// Looks at all command lines again and again while `work` runs.
#[track_caller]
pub fn no_command_line_has<T>(secret: &str, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let (done, told, looks) = thread::scope(|scope| {
        let eyes = scope.spawn(|| {
            let (mut told, mut looks) = (BTreeSet::new(), 0);
            while !over.load(Ordering::Acquire) {
                told.extend(command_lines(secret));
                looks += 1;
            }
            (told, looks)
        });
        let done = work();
        over.store(true, Ordering::Release);
        let (told, looks) = eyes.join().expect("it looks");
        (done, told, looks)
    });
    assert!(looks > 1, "nobody looked");
    assert!(told.is_empty(), "on a command line: {told:?}");
    done
}

/// All tables' rows as text; bytes as far as they are text.
pub fn rows(farm: &Farm) -> Vec<(String, String)> {
    let ask = |statement: &str| {
        farm.postgres()
            .query(farm.database_url(), statement)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let tables =
        ask("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'");
    assert!(tables.lines().any(|table| table == "builds"), "{tables}");
    let all = |table: &str| {
        let rows = ask(&format!(
            "SET bytea_output = 'escape'; SELECT t::text FROM \"{table}\" AS t"
        ));
        (table.to_owned(), rows)
    };
    tables.lines().map(all).collect()
}

/// The command lines of this machine that have the secret.
fn command_lines(secret: &str) -> Vec<String> {
    commands(|command| has(command, secret))
}

/// The command lines of this machine's processes that satisfy `wanted`.
pub fn commands(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let command = |process: fs::DirEntry| {
        let bytes = fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    processes
        .filter_map(command)
        .filter(|command| wanted(command))
        .collect()
}

/// Whether the text has the secret, plain or in a form in which it travels.
fn has(text: &str, secret: &str) -> bool {
    text.contains(secret) || text.contains(STANDARD.encode(secret).trim_end_matches('='))
}
