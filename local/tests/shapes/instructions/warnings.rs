//! What the frontend has to say about a Dockerfile: `# check=` lines and warnings reach the user as from one engine alone.

use crate::support::{
    BUILDER, Buildx, Context, Finished, engine::alone, engine::runs, farm, process,
};

/// This build through the farm, and by one engine.
fn both(context: &Context, arguments: &[&str]) -> [Finished; 2] {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let with = |mut command: std::process::Command| {
        command.args(["--progress", "plain", "--provenance=false"]);
        command.args(arguments).arg(context.path());
        process::run(command)
    };
    let engine = farm.agents()[0].engine();
    [
        with(buildx.command(["--builder", BUILDER, "build"])),
        with(alone(&buildx, engine, ["build"])),
    ]
}

/// The lines from the first that has `start` on, without empty ones, and without buildx's own words on the lack of an output.
fn from<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let kept = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("WARNING: No output"));
    kept.skip_while(|line| !line.contains(start)).collect()
}

const CASING: &str = "\
# check=skip=JSONArgsRecommended
FROM busybox as lower
ARG API_TOKEN
MAINTAINER somebody
CMD echo
WORKDIR relative
";

/// BuildKit tells them in any order.
fn warnings(text: &str) -> Vec<&str> {
    let told = from(text, "warnings found").into_iter();
    let mut told: Vec<_> = told
        .filter_map(|line| Some(line.split_once(" - ")?.1))
        .collect();
    told.sort();
    told
}

#[test]
fn warnings_are_shown_once_with_their_lines() {
    let context = Context::new(&format!("{CASING}RUN : warned-$NONCE\n"));
    let [told, plain] = both(&context, &["--platform=linux/amd64"]).map(Finished::succeeded);
    let told = warnings(&told.stderr);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told, warnings(&plain.stderr));

    // For several platforms there is nothing to compare it with, as no engine alone can build them.
    let buildx = Buildx::of(farm());
    let build = buildx.build(&context);
    let built = build.platforms(&["linux/arm64", "linux/s390x"]).run();
    assert_eq!(warnings(built.succeeded().progress()), told);
}

#[test]
fn a_dockerfile_that_wants_no_warnings_fails_before_anything_runs() {
    let context = Context::new(
        "# check=error=true;skip=SecretsUsedInArgOrEnv\nFROM busybox as lower\nRUN : checked-$NONCE\n",
    );
    let [told, plain] = both(&context, &[]).map(Finished::failed);
    let end = from(&told.stderr, "ERROR: ");
    assert_eq!(end, from(&plain.stderr, "ERROR: "));
    assert!(end.join("\n").contains("FromAsCasing"), "{end:?}");
    assert!(runs(farm(), &format!("checked-{}", context.nonce)).is_empty());
}

#[test]
fn a_check_alone_prints_what_one_engine_prints() {
    let context = Context::new(CASING);
    let [told, plain] = both(&context, &["--call=check"]);
    assert_eq!(told.status.code(), plain.status.code());
    assert!(told.stdout.contains("FromAsCasing"), "{}", told.report());
    assert_eq!(told.stdout, plain.stdout);
}
