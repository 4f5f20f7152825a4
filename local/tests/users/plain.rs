//! The same build through the farm and straight on one of its engines, and what both print, made comparable: croft promises the same
//! words once digests, times and agents' names are replaced.

use std::collections::BTreeSet;

use croft_local::Farm;

use crate::support::{Buildx, Context, buildx::BUILDER, process, process::Finished};

/// What came of a build on either side.
#[derive(Debug)]
pub struct Both {
    pub farm: Finished,
    pub plain: Finished,
    agents: Vec<String>,
}

/// Builds a context with these arguments through the farm, and then on the engine of its first agent alone.
pub fn both(farm: &Farm, context: &Context, arguments: &[&str]) -> Both {
    both_as(&Buildx::of(farm), farm, context, arguments)
}

/// The same with what this buildx knows.
pub fn both_as(buildx: &Buildx, farm: &Farm, context: &Context, arguments: &[&str]) -> Both {
    let build = |builder| {
        let mut command = buildx.command(["--builder", builder, "build", "--progress", "plain"]);
        // An attestation of how it was built is made by an engine alone only.
        command
            .arg("--provenance=false")
            .args(arguments)
            .arg(context.path());
        command
    };
    let through_farm = process::run(build(BUILDER));
    let engine = farm.agents()[0].engine();
    let (_, path) = engine.split_once("://").expect("an address");
    let mut plain = build("default");
    plain.env("DOCKER_HOST", format!("unix://{path}"));
    Both {
        farm: through_farm,
        plain: process::run(plain),
        agents: farm
            .agents()
            .iter()
            .map(|agent| agent.name.to_string())
            .collect(),
    }
}

impl Both {
    /// Both must have failed, in the same way and with the same words.
    #[track_caller]
    pub fn fail_alike(&self) -> String {
        assert!(!self.plain.status.success(), "{}", self.plain.report());
        assert_eq!(
            self.farm.status.code(),
            self.plain.status.code(),
            "{}\n{}",
            self.farm.report(),
            self.plain.report()
        );
        let (farm, plain) = (self.normal(&self.farm), self.normal(&self.plain));
        let said = ending(&farm);
        assert_eq!(said, ending(&plain), "\n{farm}\n{plain}");
        assert!(said.contains("ERROR: "), "{farm}");
        said.to_owned()
    }

    /// The steps that either showed, by their names.
    pub fn steps(&self) -> [BTreeSet<String>; 2] {
        [&self.farm, &self.plain].map(|finished| {
            let text = self.normal(finished);
            let names = text.lines().filter_map(|line| line.strip_prefix("#N "));
            names
                .filter(|name| name.starts_with('[') || name.starts_with("exporting to"))
                .map(str::to_owned)
                .collect()
        })
    }

    /// Without what may differ.
    fn normal(&self, finished: &Finished) -> String {
        let mut text = finished.stderr.clone();
        for agent in &self.agents {
            text = text
                .replace(&format!("[{agent} "), "[")
                .replace(&format!("[{agent}] "), "");
        }
        text.lines().map(|line| normal_line(line) + "\n").collect()
    }
}

fn normal_line(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(normal_word).collect();
    // `#4 0.123 text` and, below `------`, `0.123 text`; `#4 DONE 0.1s`.
    for at in 0..words.len().min(2) {
        if is_time(&words[at]) && (at == 0 || words[0] == "#N") {
            words[at] = "T".to_owned();
        }
    }
    words.join(" ")
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

/// The part about the error: from the failed step's last words or the excerpt of the Dockerfile on, or else the last line.
fn ending(text: &str) -> &str {
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
