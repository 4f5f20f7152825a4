//! Mistakes of users: each gets the words that BuildKit alone has for it, with the Dockerfile's line and the exit code.

use crate::plain::{both, both_as};
use crate::support::{Buildx, Context, Repository, farm};

const CACHE_ONLY: [&str; 2] = ["--output", "type=cacheonly"];
const TWO: [&str; 4] = [
    "--output",
    "type=cacheonly",
    "--platform",
    "linux/amd64,linux/arm64",
];

#[track_caller]
fn check(dockerfile: &str, arguments: &[&str], says: &[&str]) {
    let context = Context::new(dockerfile);
    let both = both(farm(), &context, arguments);
    let said = both.fail_alike();
    for text in says {
        assert!(said.contains(text), "no {text:?} in:\n{said}");
    }
}

#[test]
fn a_syntax_error_points_at_its_line() {
    check(
        "FROM busybox\nRUN echo $NONCE\nCOPY\n",
        &CACHE_ONLY,
        &[
            "Dockerfile:3",
            ">>> COPY",
            "dockerfile parse error on line 3",
        ],
    );
}

#[test]
fn an_unknown_instruction_is_named() {
    check(
        "FROM busybox\nFROBNICATE $NONCE\n",
        &CACHE_ONLY,
        &["Dockerfile:2", "unknown instruction: FROBNICATE"],
    );
}

#[test]
fn a_failing_command_shows_its_last_words_its_lines_and_its_exit_code() {
    check(
        "FROM busybox\nRUN echo before-$NONCE\n# why not\nRUN seq 1 50 && \\\n  echo last-words && \\\n  exit 7\n",
        &CACHE_ONLY,
        &[
            " > [3/3] RUN seq 1 50 ",
            "T last-words",
            "Dockerfile:4",
            ">>>   exit 7",
            "did not complete successfully: exit code: 7",
        ],
    );
}

#[test]
fn a_failing_command_of_the_shared_builder_is_told_once() {
    check(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE && exit 3\nFROM busybox\nCOPY --from=builder /bin/true /x\n",
        &TWO,
        &["Dockerfile:2", "exit code: 3"],
    );
}

#[test]
fn a_command_that_fails_on_another_agent_than_its_inputs_is_shown_with_its_line() {
    check(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN echo $NONCE > /x\n\
         FROM busybox\nCOPY --from=builder /x /x\nRUN [ \"$(uname -m)\" != aarch64 ] || exit 9\n",
        &TWO,
        &["Dockerfile:5", "exit code: 9", "linux/arm64"],
    );
}

#[test]
fn a_file_that_the_context_lacks_is_named() {
    check(
        "FROM busybox\nRUN : $NONCE\nCOPY no-such-file /x\n",
        &CACHE_ONLY,
        &["Dockerfile:3", "\"/no-such-file\": not found"],
    );
}

#[test]
fn a_file_that_another_stage_lacks_is_named_with_the_line_that_wants_it() {
    check(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE\nFROM busybox\nCOPY --from=builder /no-such-file /x\n",
        &["--output", "type=cacheonly", "--platform", "linux/arm64"],
        &["Dockerfile:4", "\"/no-such-file\": not found"],
    );
}

#[test]
fn a_base_image_that_does_not_exist_is_named() {
    check(
        "FROM busybox:no-such-tag\nRUN : $NONCE\n",
        &CACHE_ONLY,
        &["Dockerfile:1", "busybox:no-such-tag: not found"],
    );
}

#[test]
fn a_base_image_without_the_platform_is_as_with_buildkit() {
    check(
        "FROM busybox\nRUN : $NONCE\n",
        &["--output", "type=cacheonly", "--platform", "linux/riscv64"],
        &["Dockerfile:1", "no match for platform in manifest"],
    );
}

#[test]
fn a_target_that_does_not_exist_is_named() {
    check(
        "FROM busybox AS one\nRUN : $NONCE\n",
        &["--output", "type=cacheonly", "--target", "two"],
        &["two"],
    );
}

#[test]
fn a_missing_secret_is_named() {
    check(
        "FROM busybox\nRUN --mount=type=secret,id=key,required=true : $NONCE\n",
        &CACHE_ONLY,
        &["Dockerfile:2", "secret key: not found"],
    );
}

#[test]
fn a_folder_without_a_dockerfile_is_as_with_buildkit() {
    let context = Context::new("FROM busybox");
    std::fs::remove_file(context.path().join("Dockerfile")).unwrap();
    let said = both(farm(), &context, &CACHE_ONLY).fail_alike();
    assert!(said.contains("Dockerfile: no such file"), "{said}");
}

#[test]
fn a_private_base_image_without_credentials_is_refused_as_by_buildkit() {
    let private = Repository::of(farm().private(), "library/busybox").tag("latest");
    check(
        &format!("FROM {private}\nRUN : $NONCE\n"),
        &CACHE_ONLY,
        &["Dockerfile:1", "401 Unauthorized"],
    );
}

#[test]
fn a_refused_push_names_the_tag() {
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let tag = Repository::of(farm().private(), &context.nonce).tag("1");
    let both = both(farm(), &context, &["--push", "--tag", &tag]);
    // Which of the layers a registry refuses first is by chance.
    let [farm, plain] = [&both.farm, &both.plain].map(|finished| {
        let last = finished.stderr.lines().last().unwrap_or_default();
        let (before, after) = last.split_once("/blobs/").unwrap_or((last, ""));
        (
            before.to_owned(),
            after.rsplit(": ").next().unwrap_or_default().to_owned(),
        )
    });
    assert_eq!(farm, plain);
    assert!(
        farm.0.contains(&format!(
            "failed to push {tag}: unexpected status from HEAD request"
        )),
        "{farm:?}"
    );
    assert_eq!(both.farm.status.code(), both.plain.status.code());
}

#[test]
fn a_push_with_a_wrong_password_is_refused() {
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let private = Repository::of(farm().private(), &context.nonce);
    let buildx = Buildx::of(farm());
    buildx.log_in(&farm().private().address().to_string(), "user", "wrong");
    let both = both_as(
        &buildx,
        farm(),
        &context,
        &["--push", "--tag", &private.tag("1")],
    );
    assert!(
        both.farm.stderr.contains("401 Unauthorized"),
        "{}",
        both.farm.report()
    );
    assert_eq!(both.farm.status.code(), both.plain.status.code());
    assert!(private.tags().is_empty());
}

#[test]
fn the_steps_are_those_of_buildkit() {
    let context = Context::new(
        "FROM busybox AS one\nRUN echo $NONCE > /x\nFROM busybox\nWORKDIR /app\nCOPY --from=one /x .\nCOPY Dockerfile .\n",
    );
    let tag = Repository::of(farm().registry(), &context.nonce).tag("1");
    let both = both(farm(), &context, &["--push", "--tag", &tag]);
    assert!(both.farm.status.success(), "{}", both.farm.report());
    let [mut farm, plain] = both.steps();
    farm.retain(|name| !name.starts_with("[croft] publishing"));
    assert_eq!(farm, plain);
}

#[test]
fn a_warning_of_the_frontend_is_shown() {
    let context = Context::new("FROM busybox\nRUN : $NONCE\nCMD echo hello\n");
    let both = both(farm(), &context, &CACHE_ONLY);
    let warnings = [&both.farm, &both.plain].map(|finished| {
        let lines = finished.stderr.lines();
        let of_warnings = lines.skip_while(|line| !line.contains("warning found"));
        of_warnings.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(warnings[0], warnings[1]);
    assert!(
        warnings[0].concat().contains("JSONArgsRecommended"),
        "{}",
        both.farm.report()
    );
}
