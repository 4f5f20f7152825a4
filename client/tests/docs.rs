//! What `docs/` says of flags, variables and defaults is what the programs say.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use croft_local::Binaries;

/// A flag's variable and default; empty if there is none.
type Flags = BTreeMap<String, (String, String)>;

/// The flags in a program's `--help`.
fn of_help(program: &Path, subcommand: &[&str]) -> Flags {
    let output = Command::new(program)
        .env_clear()
        .args(subcommand)
        .arg("--help")
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let mut flags = Flags::new();
    let mut current = None;
    for line in help.lines().map(str::trim) {
        // Values are listed as `- value: …`.
        if line.starts_with('-') && !line.starts_with("- ") {
            // `-h, --help` or `--flag <VALUE>`.
            let long = line.split_once("--").map_or("", |(_, long)| long);
            let name = long.split([' ', ',']).next().unwrap_or_default();
            current = (!matches!(name, "" | "help" | "version")).then(|| format!("--{name}"));
            flags.extend(
                current
                    .iter()
                    .map(|flag| (flag.clone(), Default::default())),
            );
        }
        // On a line of its own, or behind the text.
        if let Some(about) = current.as_ref().and_then(|flag| flags.get_mut(flag)) {
            let (_, behind) = line.split_once("[env: ").unwrap_or_default();
            if let Some((variable, _)) = behind.split_once(']') {
                about.0 = variable.trim_end_matches('=').to_owned();
            }
            if let Some(default) = bracketed(line, "default: ") {
                about.1 = default.to_owned();
            }
        }
    }
    flags
}

fn bracketed<'a>(line: &'a str, what: &str) -> Option<&'a str> {
    line.strip_prefix('[')?
        .strip_prefix(what)?
        .strip_suffix(']')
}

/// The flags in the table below a program's heading.
fn of_docs(program: &str) -> Flags {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate.md");
    let text = fs::read_to_string(path).expect("docs/operate.md");
    let heading = format!("\n### {program}\n");
    let (_, section) = text
        .split_once(&heading)
        .expect("a section for each program");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let cells: Vec<&str> = row
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            (
                cells[1].to_owned(),
                (cells[2].to_owned(), cells[3].to_owned()),
            )
        })
        .collect()
}

fn check(name: &str, program: &Path, subcommand: &[&str]) {
    let (said, written) = (of_help(program, subcommand), of_docs(name));
    assert!(!said.is_empty(), "{name}: no flags were read");
    assert_eq!(
        written, said,
        "docs/operate.md (left) and {name} --help (right) differ"
    );
}

#[test]
fn the_documents_know_every_flag_of_the_coordinator() {
    check(
        "croft-coordinator",
        &Binaries::find().expect("the programs").coordinator(),
        &[],
    );
}

#[test]
fn the_documents_know_every_flag_of_the_agent() {
    check(
        "croft-agent",
        &Binaries::find().expect("the programs").agent(),
        &[],
    );
}

#[test]
fn the_documents_know_every_flag_of_croft() {
    check("croft", Path::new(env!("CARGO_BIN_EXE_croft")), &[]);
}

/// `CROFT_BLESS=1 cargo test -p croft-client --test docs pages` (`make docs`) writes them anew.
#[test]
fn the_pages_of_the_commands_are_what_the_command_says_of_itself() {
    let folder = croft_client::manual::folder();
    let pages = croft_client::manual::pages();
    if std::env::var_os("CROFT_BLESS").is_some() {
        fs::create_dir_all(&folder).expect("a folder");
        for old in fs::read_dir(&folder).expect("a folder").flatten() {
            fs::remove_file(old.path()).expect("a page");
        }
        for (name, text) in &pages {
            fs::write(folder.join(name), text).expect("written");
        }
    }
    for (name, text) in &pages {
        let written = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            written == *text,
            "docs/commands/{name} is old: run `make docs`"
        );
    }
    let there = fs::read_dir(&folder).expect("docs/commands").count();
    assert_eq!(
        there,
        pages.len(),
        "docs/commands has a page of no command: run `make docs`"
    );
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "docs/start.md",
        "docs/operate.md",
        "docs/promises.md",
        "docs/dockerfiles.md",
        "docs/differences.md",
        "docs/json.md",
        "docs/commands/README.md",
        "examples/README.md",
    ];
    for document in documents {
        let path = root.join(document);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let there = target.starts_with("https://")
                || path.parent().expect("a folder").join(target).exists();
            assert!(there, "{document} links to {target}, which is not there");
        }
    }
}
