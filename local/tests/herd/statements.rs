//! What a farm's coordinator asks of its database, as PostgreSQL's own log and counters tell it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
};

use croft_local::Farm;

use crate::support::process::eventually;

/// What begins each entry of the log from now on: whose statement it is.
const PREFIX: &str = "croft-asks [%a] ";

/// Counts from when it was made.
pub struct Statements<'a> {
    farm: &'a Farm,
    log: u64,
    written: u64,
}

/// What was counted.
#[derive(Debug, Clone)]
pub struct Counted {
    /// How often each statement was carried out, by its text.
    pub statements: BTreeMap<String, u64>,
    /// How much the database wrote to its log of changes, in bytes.
    pub written: u64,
}

impl Counted {
    /// All statements.
    pub fn total(&self) -> u64 {
        self.statements.values().sum()
    }
}

/// Has the farm's database log all statements, until its end.
pub fn log_all(farm: &Farm) {
    let change = |statement: &str| {
        let changed = farm.postgres().query(farm.database_url(), statement);
        changed.expect("it answers");
    };
    change(&format!("ALTER SYSTEM SET log_line_prefix = '{PREFIX}'"));
    change("ALTER SYSTEM SET log_parameter_max_length = 0");
    change("ALTER SYSTEM SET log_statement = 'all'");
    change("SELECT pg_reload_conf()");
    // Each connection takes it in when it is asked for something the next time; the coordinator asks all the time.
    let before = Statements::of(farm);
    eventually("statements are logged", || {
        (before.counted().total() > 0).then_some(())
    });
}

impl<'a> Statements<'a> {
    /// Counts those of a farm whose statements are logged.
    pub fn of(farm: &'a Farm) -> Statements<'a> {
        Statements {
            farm,
            log: std::fs::metadata(farm.postgres().log())
                .expect("a log")
                .len(),
            written: written(farm),
        }
    }

    /// What there was until now.
    pub fn counted(&self) -> Counted {
        let mut log = File::open(self.farm.postgres().log()).expect("a log");
        log.seek(SeekFrom::Start(self.log)).expect("a file");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("a text");
        let mut statements = BTreeMap::new();
        for entry in text.split("croft-asks [").skip(1) {
            // A prepared one has a name before its text.
            let Some((whose, said)) = entry.split_once("] LOG:  ") else {
                continue;
            };
            if !whose.starts_with("croft-coordinator term ") {
                continue;
            }
            let asked = said
                .strip_prefix("execute ")
                .or_else(|| said.strip_prefix("statement: "));
            if let Some(asked) = asked {
                let words = asked.split_whitespace();
                let words: Vec<_> = words.filter(|word| !word.ends_with(':')).collect();
                *statements.entry(words.join(" ")).or_insert(0) += 1;
            }
        }
        Counted {
            statements,
            written: written(self.farm) - self.written,
        }
    }
}

fn written(farm: &Farm) -> u64 {
    let bytes = farm.postgres().query(
        farm.database_url(),
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')",
    );
    let bytes = bytes.expect("it answers");
    bytes.trim().parse().expect("a number")
}
