//! What docs/dockerfiles.md and docs/differences.md say of builds is so.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use croft_local::Farm;

use crate::support::{Buildx, Built, Context, Croft, Plan, Repository, farm, farm_of, process};

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A Dockerfile of the documents and the line below it, which says what comes of it.
struct Example {
    dockerfile: String,
    claim: String,
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of the fenced blocks of this language, and what comes behind each.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut rest = document;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, after) = after.split_once('\n').expect("a block");
        let (block, after) = after.split_once("```\n").expect("an end of the block");
        if kind == language {
            found.push((block, after));
        }
        rest = after;
    }
    found
}

fn examples(document: &str) -> Vec<Example> {
    let with_claim = |(block, after): (&str, &str)| Example {
        dockerfile: block.to_owned(),
        claim: after
            .trim_start()
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("> "))
            .unwrap_or_else(|| panic!("nothing is said of\n{block}"))
            .to_owned(),
    };
    blocks(document, "dockerfile")
        .into_iter()
        .map(with_claim)
        .collect()
}

/// Tools that do in a moment what stands in the examples, as an image for all their bases.
struct Tools {
    tag: String,
}

impl Tools {
    fn push(farm: &Farm) -> Tools {
        let context = Context::new("FROM busybox\nCOPY tools /bin/\nENV NONCE=$NONCE\n");
        for (name, script) in [
            // Modules and objects are 2 MB that no compression makes smaller.
            (
                "go",
                "case $1 in\n\
                 mod) mkdir -p /go && head -c 2000000 /dev/urandom > /go/modules ;;\n\
                 build) mkdir -p /root/.cache/go-build && cat /go/modules > /root/.cache/go-build/objects\n\
                 echo built for $GOOS/$GOARCH on $(uname -m) > $3 ;;\n\
                 esac\n",
            ),
            (
                "npm",
                "case $1 in\n\
                 ci) mkdir node_modules && head -c 2000000 /dev/urandom > node_modules/package ;;\n\
                 run) test -e node_modules/package && mkdir dist && echo page > dist/index.html ;;\n\
                 esac\n",
            ),
            (
                "apk",
                "mkdir -p /etc/ssl && uname -m > /etc/ssl/certificates\n",
            ),
        ] {
            let path = format!("tools/{name}");
            context.write(&path, format!("#!/bin/sh -e\n{script}").as_bytes());
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(context.path().join(path), executable).expect("writable");
        }
        let tag = Repository::of(farm.registry(), "shapes/documents/tools").tag(&context.nonce);
        let buildx = Buildx::of(farm);
        let build = buildx.build(&context).platforms(&PLATFORMS).push(&tag);
        build.run().succeeded();
        Tools { tag }
    }

    /// In the place of every base that the Dockerfile names.
    fn arguments(&self, dockerfile: &str) -> Vec<String> {
        let froms = dockerfile
            .lines()
            .filter_map(|line| line.strip_prefix("FROM "));
        let bases = froms.map(|from| {
            let mut words = from.split(' ').filter(|word| !word.starts_with("--"));
            words.next().expect("a base")
        });
        let bases = bases.filter(|base| *base != "scratch");
        bases
            .map(|base| format!("--build-context={base}=docker-image://{}", self.tag))
            .collect()
    }
}

/// All that the examples copy.
fn context(dockerfile: &str) -> Context {
    Context::new(dockerfile)
        .file("go.mod", "module example")
        .file("go.sum", "")
        .file("main.go", "package main")
        .file("web/package.json", "{}")
        .file("web/page.js", "")
        .file("conf/amd64.conf", "amd64")
        .file("conf/arm64.conf", "arm64")
}

fn build(buildx: &Buildx, farm: &Farm, tools: &Tools, dockerfile: &str) -> Built {
    let context = context(dockerfile);
    let repository = Repository::of(farm.registry(), "shapes/documents/app");
    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag(&context.nonce))
        .args(["--no-cache"])
        .args(tools.arguments(dockerfile))
        .run()
        .succeeded();
    assert_eq!(repository.published(&context.nonce).platforms(), PLATFORMS);
    built
}

/// What came of a build, in the documents' words, all but the sizes.
fn said(plan: &Plan) -> String {
    let [shared, cross, target] =
        ["shared", "cross", "target"].map(|kind| plan.of_kind(kind).len());
    let stages = if target == 1 { "stage" } else { "stages" };
    let travels = match plan.transfers.len() {
        0 => "nothing travels.".to_owned(),
        1 => "1 result travels, ".to_owned(),
        many => format!("{many} results travel, "),
    };
    format!("{shared} shared, {cross} cross, {target} target {stages}; {travels}")
}

/// `less than 10 kB.` or `more than 1 MB.`
fn check_size(claim: &str, bytes: u64) {
    let claimed = claim.trim_end_matches('.');
    let words: Vec<_> = claimed.split(' ').collect();
    let [than @ ("less" | "more"), "than", number, unit] = words[..] else {
        panic!("no size: {claim}");
    };
    let unit = match unit {
        "kB" => 1_000,
        "MB" => 1_000_000,
        _ => panic!("no unit: {claim}"),
    };
    let limit = number.parse::<u64>().expect("a number") * unit;
    let right = if than == "less" {
        bytes < limit
    } else {
        bytes > limit
    };
    assert!(right, "{claim}: {bytes} bytes");
}

#[test]
fn the_documents_examples_are_split_as_they_say() {
    // One agent for each platform, so that what travels is no matter of chance.
    let farm = farm_of("amd64,arm64", &[]);
    let buildx = Buildx::of(&farm);
    let tools = Tools::push(&farm);
    let document = document("dockerfiles.md");
    let examples = examples(&document);
    assert!(examples.len() >= 7, "only {}", examples.len());
    let mut wrong = Vec::new();
    let mut shown = None;
    for Example { dockerfile, claim } in &examples {
        let built = build(&buildx, &farm, &tools, dockerfile);
        let plan = built.plan();
        let said = said(&plan);
        match claim.strip_prefix(&said) {
            Some("") => {}
            Some(size) => {
                check_size(
                    size,
                    plan.transfers.iter().map(|transfer| transfer.bytes).sum(),
                );
            }
            None => wrong.push(format!("{dockerfile}> {claim}\nbut: {said}\n")),
        }
        shown.get_or_insert_with(|| show(&farm, &plan.id));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let [(block, _)] = blocks(&document, "")[..] else {
        panic!("one block without a language");
    };
    assert_eq!(comparable(block), comparable(&shown.expect("built")));
}

#[test]
fn the_advice_that_the_document_shows_is_what_its_example_gets() {
    let tools = Tools::push(farm());
    let document = document("dockerfiles.md");
    let [(advice, _)] = blocks(&document, "text")[..] else {
        panic!("one block of text");
    };
    let examples = examples(&document);
    let early = |example: &&Example| example.dockerfile.contains(" AS builder\nARG TARGETOS");
    let example = examples.iter().find(early).expect("an ARG too early");
    let context = context(&example.dockerfile);
    let platforms = PLATFORMS.join(",");
    let croft = Croft::of(farm());
    let mut plan = croft.command(["plan", "--platform", &platforms]);
    plan.args(tools.arguments(&example.dockerfile));
    let printed = process::run({
        plan.arg(context.path());
        plan
    });
    let printed = printed.succeeded().stdout;
    assert!(printed.ends_with(advice), "{printed}");
}

fn show(farm: &Farm, id: &str) -> String {
    let mut command = std::process::Command::new(farm.binaries().croft());
    let address = farm.client_address().to_string();
    command.args(["builds", "show", id, "--addr", &address]);
    process::run(command).succeeded().stdout
}

/// The lines of the tables, without what differs from run to run: the numbers of times, steps and bytes, digests, and the reasons. Not those of
/// the timeline, which are nothing but times.
fn comparable(shown: &str) -> Vec<String> {
    let number = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    let line = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        if words.get(3) == Some(&"done") {
            // Waited, ran, cached, run.
            words.drain(4..8);
        } else if let Some(at) = words.iter().position(|word| word.starts_with("sha256:")) {
            // Size, time, digest.
            words.truncate(at.min(4));
        } else if words.starts_with(&["Travelled"]) {
            words.retain(|word| !number(word));
        }
        words.join(" ")
    };
    let tables = shown.lines().skip_while(|line| !line.contains("KIND"));
    tables
        .take_while(|line| *line != "Timeline")
        .filter(|line| !line.is_empty() && !line.trim_start().starts_with("why "))
        .map(line)
        .collect()
}

#[test]
fn what_is_not_done_yet_is_refused_with_what_to_do_instead() {
    let buildx = Buildx::of(farm());
    let context = Context::new("FROM scratch\nCOPY . /$NONCE\n");
    let table = document("differences.md");
    for (arguments, listed, said) in [
        (
            &["--output=type=image,name=x"][..],
            "`type=image` without `push=true`",
            "add push=true",
        ),
        (
            &[
                "--output=type=image,name=x/a,push=true",
                "--output=type=image,name=x/b,push=true",
            ],
            "several `type=image`",
            "use one with all names in it",
        ),
        (
            &["--cache-to=type=registry,ref=127.0.0.1:1/x"],
            "`--cache-to`",
            "leave --cache-to out",
        ),
        (
            &["--provenance=true"],
            "`--provenance`",
            "Attestations are not supported",
        ),
    ] {
        assert!(table.contains(listed), "{listed} is not in the table");
        let built = buildx.build(&context).args(arguments).run().failed();
        let progress = built.progress();
        assert!(progress.contains(said), "{arguments:?}: {progress}");
    }
    let history = buildx.run(["--builder", crate::support::BUILDER, "history", "ls"]);
    let history = history.failed();
    assert!(table.contains("`docker buildx history`"));
    assert!(
        history.stderr.contains("croft builds"),
        "{}",
        history.report()
    );
}
