//! A path that isn't there is the mistake of the instruction that names it: whatever was cut out for it, and wherever, the user reads
//! what one engine says, with the instruction's lines.

use std::{process::Command, thread};

use crate::support::{
    BUILDER, Buildx, Context, PLATFORMS,
    engine::alone,
    farm, farm_of, frontend, process,
    words::{ending, excerpt_and_error, normal},
};

const TARGET: &str = "linux/arm64";

/// The excerpt of the Dockerfile and the error.
type Said = [String; 2];

/// What the farm says of this build, and one engine alone.
fn both(context: &Context, arguments: &[&str]) -> [Said; 2] {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let with = |mut command: Command| {
        command.args(["--progress=plain", "--provenance=false"]);
        command.args(["--output=type=cacheonly"]).args(arguments);
        command.arg(context.path());
        excerpt_and_error(&normal(&process::run(command), farm)).map(str::to_owned)
    };
    [
        with(buildx.command(["--builder", BUILDER, "build"])),
        with(alone(&buildx, farm.agents()[0].engine(), ["build"])),
    ]
}

/// What is different; nothing if both name the instruction and give the same reason.
fn difference(instruction: &str, [farm, plain]: [Said; 2]) -> Option<String> {
    let ([excerpt, error], [plain_excerpt, plain_error]) = (&farm, &plain);
    let first = instruction.lines().next().expect("a line");
    // An engine sometimes leaves the excerpt out when several platforms fail by the same step.
    let is_right = error.starts_with("ERROR: ")
        && error == plain_error
        && excerpt.contains(&format!(">>> {first}\n"))
        && (plain_excerpt.is_empty() || excerpt == plain_excerpt);
    (!is_right).then(|| told(instruction, [farm, plain]))
}

fn told(instruction: &str, [farm, plain]: [Said; 2]) -> String {
    let [farm, plain] = [farm, plain].map(|said| said.concat());
    format!("{instruction}\n--- farm\n{farm}\n--- one engine\n{plain}")
}

/// An instruction of a stage for [`TARGET`], which takes from the amd64 stage `builder`, below these lines.
fn in_a_target(before: &str, instruction: &str) -> Context {
    Context::new(&format!(
        "{before}FROM --platform=linux/amd64 busybox AS builder\n\
         RUN : $NONCE && mkdir /out && echo > /out/there && ln -s nowhere /out/nothing && ln -s out /way\n\
         FROM busybox\nRUN : own-$NONCE\nCOPY --from=builder /out/there /there\n{instruction}\nRUN : last-$NONCE\n"
    ))
}

/// Each of these must be told as by one engine.
#[track_caller]
fn check(instructions: &[&str]) {
    all(instructions, |instruction| {
        let context = in_a_target("", instruction);
        difference(instruction, both(&context, &["--platform", TARGET]))
    });
}

/// No instruction may have anything told of it.
#[track_caller]
fn all(instructions: &[&str], one: impl Fn(&str) -> Option<String> + Sync) {
    // Builds wait more than they compute.
    const AT_ONCE: usize = 3;
    let mut wrong = Vec::new();
    for some in instructions.chunks(AT_ONCE) {
        let told = thread::scope(|scope| {
            let builds: Vec<_> = some
                .iter()
                .map(|instruction| scope.spawn(|| one(instruction)))
                .collect();
            builds
                .into_iter()
                .map(|build| build.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        wrong.extend(told.into_iter().flatten());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_path_that_is_copied_from_another_machine_s_stage_is_told_as_by_one_engine() {
    check(&[
        "COPY --from=builder /out/missing /x",
        "COPY --from=builder /nowhere/*.so /x/",
        "COPY --from=builder /out/nothing /x",
        "COPY --from=builder /way/missing /x",
        "COPY --link --from=builder /out/missing /x",
        "COPY --chown=nobody:nogroup --chmod=600 --from=builder /out/missing /x",
        "COPY --exclude=*.o --from=builder /missing /x/",
        "COPY --from=builder /out/there /out/missing /x/",
        "COPY --from=builder \\\n  /out/missing \\\n  /x",
        "ADD --chown=1:2 missing.tar.gz /x/",
    ]);
}

#[test]
fn a_path_that_two_instructions_name_is_told_with_the_lines_of_both() {
    let [one, other] = ["x", "y"].map(|to| format!("COPY --from=builder /out/missing /{to}"));
    let context = in_a_target("", &format!("{one}\n{other}"));
    let buildx = Buildx::of(farm());
    let built = buildx.build(&context).platforms(&[TARGET]).run().failed();
    let said = ending(built.progress());
    for instruction in [one, other] {
        assert!(said.contains(&format!(">>> {instruction}\n")), "{said}");
    }
}

#[test]
fn a_path_that_is_mounted_from_another_machine_s_stage_is_told_as_by_one_engine() {
    check(&[
        "RUN --mount=type=bind,from=builder,source=/missing,target=/mnt ls /mnt",
        "RUN --mount=from=builder,source=/out/missing,target=/mnt,rw ls /mnt",
        "RUN --mount=type=bind,from=builder,source=/out/there,target=/one \\\n  --mount=type=bind,from=builder,source=/out/missing,target=/two \\\n  ls /one /two",
        "RUN --mount=type=cache,from=builder,source=/missing,target=/mnt ls /mnt",
    ]);
}

/// Whether such a path must be there is a matter of the engine's version.
#[test]
fn a_path_that_is_copied_with_its_parents_is_missed_where_one_engine_misses_it() {
    let tag = frontend::push(&Buildx::of(farm()), farm(), "shapes/missing/frontend");
    let before = format!("# syntax={tag}\n");
    let instructions = [
        "COPY --parents --from=builder /out/missing /x/",
        "COPY --parents --from=builder /out/./missing /x/",
        "COPY --parents --from=builder /nowhere/./missing /x/",
        "COPY --parents --exclude=*.o --from=builder /out/there /out/missing /x/",
    ];
    all(&instructions, |instruction| {
        let context = in_a_target(&before, instruction);
        let [farm, plain] = both(&context, &["--platform", TARGET]);
        (farm != plain).then(|| told(instruction, [farm, plain]))
    });
}

/// The context goes from one agent to the others, cut to what they read.
#[test]
fn a_path_that_the_context_lacks_is_told_as_by_one_engine() {
    let extra = Context::new("").file("there", "");
    let extra = format!("--build-context=extra={}", extra.path().display());
    let platforms = PLATFORMS[1..].join(",");
    let arguments = ["--platform", &platforms, &extra];
    let one = |instruction: &str| {
        let context = Context::new(&format!(
            "FROM busybox\nRUN : own-$NONCE\nCOPY there /there\n{instruction}\nRUN : last-$NONCE\n"
        ))
        .file("there", "");
        difference(instruction, both(&context, &arguments))
    };
    all(
        &[
            "COPY missing /x",
            "COPY there missing /x/",
            "COPY sub/*.so /x/",
            "COPY --link missing /x",
            "COPY --from=extra missing /x",
            "ADD missing.tar.gz /x/",
            "RUN --mount=type=bind,source=missing,target=/mnt ls /mnt",
            "RUN --mount=type=bind,from=extra,source=missing,target=/mnt ls /mnt",
        ],
        one,
    );
}

#[test]
fn a_path_that_is_missing_on_the_agent_that_holds_the_rest_ends_the_build() {
    let farm = farm_of("amd64,amd64", &["--slots", "1"]);
    let buildx = Buildx::of(&farm);
    // The first target fills the agent that has the result, so that the second has to fetch its part of it.
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE && echo > /amd64\n\
         FROM --platform=$BUILDPLATFORM busybox AS cross\nARG TARGETARCH\n\
         COPY --from=builder /$TARGETARCH /x\nRUN : cross-$NONCE && sleep 600\n\
         FROM scratch\nCOPY --from=cross /x /x\n",
    );
    let failed = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"])
        .run()
        .failed();
    let said = ending(failed.progress());
    assert!(
        said.contains("\"/arm64\": not found"),
        "{}",
        failed.progress()
    );
    assert!(said.contains(">>> COPY --from=builder"), "{said}");
}
