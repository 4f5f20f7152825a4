//! How a build's course is shown: on a terminal, piped, for programs; and how it ends when something fails or is wanted no more.

use crate::build::{NOWHERE, build, words_of};
use crate::support::{Context, Croft, builds, farm, process::eventually};

fn failing() -> Context {
    Context::new(
        "FROM busybox\nRUN echo before-$NONCE\nRUN printf '\\033[2Jlast\\033]0;words\\007 of it\\n' && exit 7\n",
    )
}

#[test]
fn a_failed_build_shows_the_line_and_the_last_words_and_no_control_characters() {
    let croft = Croft::of(farm());
    let failed = build(&croft, &failing(), &[NOWHERE]).failed();
    assert_eq!(failed.status.code(), Some(1));
    let said = &failed.stderr;
    for text in [
        "Dockerfile:3",
        ">>> RUN printf",
        "last of it",
        "ERROR: process",
        "croft: the build failed: ",
        "did not complete successfully: exit code: 7",
    ] {
        assert!(said.contains(text), "no {text:?} in {said}");
    }
    assert!(
        !said.chars().any(|c| c.is_control() && c != '\n'),
        "{said:?}"
    );
    assert_eq!(failed.stdout, "");
}

#[test]
fn the_line_of_a_very_long_dockerfile_is_shown() {
    let croft = Croft::of(farm());
    let comments = "# a line that says nothing\n".repeat(4000);
    let context = Context::new(&format!(
        "FROM busybox\n{comments}RUN echo $NONCE && exit 7\n"
    ));
    let failed = build(&croft, &context, &[NOWHERE]).failed();
    assert!(
        failed.stderr.contains("Dockerfile:4002"),
        "{}",
        failed.report()
    );
    assert!(
        failed.stderr.contains("exit code: 7"),
        "{}",
        failed.report()
    );
}

#[test]
fn plain_progress_reads_as_buildx_s_does() {
    let croft = Croft::of(farm());
    let context = Context::new("FROM busybox\nRUN echo hello-$NONCE\n");
    let built = build(&croft, &context, &[NOWHERE, "--progress=plain"]).succeeded();
    let lines: Vec<&str> = built.stderr.lines().collect();
    let hello = format!(" hello-{}", context.nonce);
    let line = lines
        .iter()
        .find(|l| l.ends_with(&hello) && !l.contains("RUN"));
    let line = line.unwrap_or_else(|| panic!("{}", built.report()));
    let (number, rest) = line.split_once(' ').unwrap();
    assert!(
        rest.split(' ').next().unwrap().parse::<f64>().is_ok(),
        "{line}"
    );
    let named = |l: &&&str| l.starts_with(&format!("{number} [")) && l.contains("RUN echo hello");
    assert!(lines.iter().any(|l| named(&l)), "{}", built.report());
    let done = format!("{number} DONE ");
    assert!(
        lines.iter().any(|l| l.starts_with(&done)),
        "{}",
        built.report()
    );
    let again = build(&croft, &context, &[NOWHERE, "--progress=plain"]).succeeded();
    assert!(again.stderr.contains(" CACHED\n"), "{}", again.report());
}

#[test]
fn progress_for_programs_is_one_object_per_line() {
    let croft = Croft::of(farm());
    let context = Context::new("FROM busybox\nRUN echo hello-$NONCE\n");
    let built = build(&croft, &context, &[NOWHERE, "--progress=rawjson"]).succeeded();
    let mut names = Vec::new();
    for line in built.stderr.lines() {
        let status: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let vertexes = status["vertexes"].as_array().cloned().unwrap_or_default();
        names.extend(
            vertexes
                .iter()
                .map(|v| v["name"].as_str().unwrap_or_default().to_owned()),
        );
    }
    assert!(
        names.iter().any(|name| name.contains("RUN echo hello")),
        "{names:?}"
    );
}

#[test]
fn a_terminal_shows_what_runs_and_keeps_what_ran() {
    let croft = Croft::of(farm());
    let context = Context::new("FROM busybox\nRUN echo working-$NONCE && sleep 3\n");
    let mut terminal = croft.terminal(words_of(context.path(), &[NOWHERE]));
    let working = format!("working-{}", context.nonce);
    terminal.wait_for(|screen| {
        let log = screen
            .lines()
            .any(|l| l.trim_start().starts_with('│') && l.contains(&working));
        log && screen.contains("1 running")
    });
    terminal.resize(10, 30);
    let seen = terminal.finish().succeeded();
    let last = seen.text.lines().last().unwrap_or_default();
    assert!(last.contains("steps in"), "{}", seen.text);
    assert!(seen.text.contains('✓'), "{}", seen.text);
    assert!(!seen.text.contains(" running"), "{}", seen.text);
}

#[test]
fn a_failed_build_on_a_terminal_says_why_and_obeys_no_container() {
    let croft = Croft::of(farm()).env("NO_COLOR", "1");
    let seen = croft
        .terminal(words_of(failing().path(), &[NOWHERE]))
        .finish();
    assert_eq!(seen.code, Some(1));
    for text in [
        "Dockerfile:3",
        ">>> RUN printf",
        "last of it",
        "exit code: 7",
    ] {
        assert!(seen.text.contains(text), "no {text:?} in {}", seen.text);
    }
    for code in ["\u{1b}[2J", "\u{1b}]0;", "\u{1b}[31m", "\u{7}"] {
        assert!(!seen.raw.contains(code), "{:?}", seen.raw);
    }
}

#[test]
fn ctrl_c_cancels_the_build_at_the_farm() {
    let farm = farm();
    let croft = Croft::of(farm);
    let context = Context::new("FROM busybox\nRUN echo working-$NONCE && sleep 100\n");
    let mut terminal = croft.terminal(words_of(context.path(), &[NOWHERE]));
    let working = format!("working-{}", context.nonce);
    terminal.wait_for(|screen| {
        screen
            .lines()
            .any(|l| l.contains('│') && l.contains(&working))
    });
    terminal.interrupt();
    let seen = terminal.finish();
    assert_eq!(seen.code, Some(130), "{}", seen.text);
    assert!(
        seen.text.contains("the build is cancelled"),
        "{}",
        seen.text
    );
    let plan = eventually("the farm knows the build", || {
        builds::find(farm, &context.nonce)
    });
    assert_eq!(plan.state, "cancelled");
}

#[test]
fn the_frontend_is_asked_and_its_verdict_is_the_exit_code() {
    let croft = Croft::of(farm());
    let good =
        Context::new("FROM busybox AS first\nARG WORD=x\nRUN echo $WORD\nFROM first AS second\n");
    let checked = build(&croft, &good, &["--check"]).succeeded();
    assert_eq!(checked.stdout, "Check complete, no warnings found.\n");
    let targets = build(&croft, &good, &["--call=targets"]).succeeded();
    assert!(targets.stdout.contains("second"), "{}", targets.report());
    let outline = build(&croft, &good, &["--call=outline,format=json"]).succeeded();
    let outline: serde_json::Value = serde_json::from_str(&outline.stdout).expect("JSON");
    assert_eq!(outline["args"][0]["name"], "WORD");

    let bad = Context::new("from busybox as First\nRUN echo x\n");
    let checked = build(&croft, &bad, &["--check"]).failed();
    assert_eq!(checked.status.code(), Some(1), "{}", checked.report());
    assert!(
        checked.stdout.contains("StageNameCasing"),
        "{}",
        checked.report()
    );
    let ignored = ["--call=check,ignorestatus=true"];
    build(&croft, &bad, &ignored).succeeded();
}
