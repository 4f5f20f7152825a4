//! Shape 1: a builder on the build platform with a step for all targets and a step for each, and a final stage with a command of its
//! own on each target's platform.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::{
    Buildx, Context, Image, PLATFORMS, Plan, Repository, engine::runs, farm, machine,
};

const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
WORKDIR /src
COPY . .
RUN : slow-$NONCE && sleep 1 && head -c 32 /dev/urandom | sha256sum > random
ARG TARGETOS
ARG TARGETARCH
RUN : cross-$NONCE-$TARGETARCH && echo $TARGETOS/$TARGETARCH > target && uname -m > built-on
FROM busybox
RUN : final-$NONCE && uname -m > /machine
COPY --from=builder /src /app
ENV GREETING=hello
LABEL org.example.nonce=$NONCE
WORKDIR /app
ENTRYPOINT [\"/bin/cat\"]
CMD [\"/app/target\"]
";

/// The agents that stand for a platform, by their names' first part.
fn stands_for(agent: &str, platform: &str) -> bool {
    let architecture = platform.trim_start_matches("linux/");
    agent
        .rsplit_once('-')
        .is_some_and(|(name, _)| name == architecture)
}

fn check_images(repository: &Repository, nonce: &str) -> Vec<Image> {
    let published = repository.published("latest");
    assert_eq!(published.platforms(), PLATFORMS);
    let images = PLATFORMS.map(|platform| published.image(platform));
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.platform(), *platform);
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/app/target"), *platform);
        assert_eq!(image.file("/app/built-on"), machine("linux/amd64"));
        assert_eq!(image.file("/app/input"), "text");
        let config = &image.config["config"];
        assert_eq!(config["Entrypoint"], json!(["/bin/cat"]));
        assert_eq!(config["Cmd"], json!(["/app/target"]));
        assert_eq!(config["WorkingDir"], "/app");
        assert_eq!(config["Labels"]["org.example.nonce"], nonce);
        let env = config["Env"].as_array().unwrap();
        assert!(env.contains(&json!("GREETING=hello")), "{env:?}");
        // Tools that show an image's layers beside its history need one entry for each.
        let history = image.config["history"].as_array().unwrap();
        let with_layer = history
            .iter()
            .filter(|entry| entry["empty_layer"] != json!(true));
        assert_eq!(with_layer.count(), image.layers().count());
    }
    images.into()
}

fn random_of(images: &[Image]) -> String {
    let all: BTreeSet<_> = images
        .iter()
        .map(|image| image.file("/app/random"))
        .collect();
    assert_eq!(all.len(), 1, "the platforms differ: {all:?}");
    all.into_iter().next().unwrap()
}

/// An edge between two agents is a transfer, and there are no others.
fn check_transfers(plan: &Plan) {
    let agent = |number: u32| plan.numbered(number).agent();
    let mut crossings: BTreeSet<(u32, u32)> = BTreeSet::new();
    for stage in &plan.stages {
        let elsewhere = stage
            .inputs
            .iter()
            .filter(|input| agent(**input) != stage.agent());
        crossings.extend(elsewhere.map(|input| (*input, stage.number)));
    }
    let shown: BTreeSet<(u32, u32)> = plan
        .transfers
        .iter()
        .flat_map(|transfer| {
            transfer
                .to_stages
                .iter()
                .map(move |to| (transfer.from_stage, *to))
        })
        .collect();
    assert_eq!(shown, crossings, "{plan:#?}");
    assert!(plan.transfers.iter().all(|transfer| transfer.bytes > 0));
}

/// A result is exported once, however many agents take it.
fn check_exports(progress: &str) {
    // A vertex's head line is repeated when its output goes on after another's; its number stays.
    let mut numbers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in progress.lines() {
        let (number, what) = line.split_once(' ').unwrap_or_default();
        if what.contains("] exporting ") && what.ends_with("for other agents") {
            numbers.entry(what).or_default().insert(number);
        }
    }
    assert!(!numbers.is_empty(), "{progress}");
    let twice = numbers.iter().find(|(_, vertices)| vertices.len() > 1);
    assert_eq!(twice, None, "{progress}");
}

#[test]
fn every_step_runs_once_on_the_engine_where_it_belongs() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(DOCKERFILE).file("input", "text");
    let nonce = &context.nonce;
    let repository = Repository::of(farm.registry(), "shapes/shared-builder");

    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    random_of(&check_images(&repository, nonce));
    check_exports(built.progress());
    let plan = built.plan();
    let shared = plan.of_kind("shared");
    assert_eq!(shared.len(), 1, "{plan:#?}");
    assert_eq!(shared[0].users, PLATFORMS);
    let once_on = |agent: &str| vec![(agent.to_owned(), 1)];
    assert_eq!(
        runs(farm, &format!("slow-{nonce}")),
        once_on(shared[0].agent())
    );
    let mut cross: BTreeMap<String, usize> = BTreeMap::new();
    for platform in PLATFORMS {
        let stage = plan
            .stages
            .iter()
            .find(|stage| stage.users == [platform] && stage.inputs.contains(&shared[0].number));
        let stage = stage.unwrap_or_else(|| panic!("{platform}: {plan:#?}"));
        // On the build platform itself nothing is crossed: the same stage goes on to the end.
        let kind = match platform {
            "linux/amd64" => "target",
            _ => "cross",
        };
        assert_eq!(stage.kind, kind, "{stage:?}");
        assert!(stands_for(stage.agent(), "linux/amd64"), "{stage:?}");
        *cross.entry(stage.agent().to_owned()).or_default() += 1;
    }
    let ran = runs(farm, &format!("cross-{nonce}"));
    assert_eq!(BTreeMap::from_iter(ran), cross);
    let last = runs(farm, &format!("final-{nonce}"));
    assert_eq!(last.len(), 4, "{last:?}");
    for (platform, (agent, count)) in PLATFORMS.iter().zip(&last) {
        assert!(stands_for(agent, platform), "{last:?}");
        assert_eq!(*count, 1);
        assert!(plan.stages.iter().any(|stage| stage.kind == "target"
            && stage.agent() == agent
            && stage.users == [*platform]));
    }
    assert_eq!(plan.state, "succeeded");
    assert_eq!(plan.platforms, PLATFORMS);
    assert_eq!(plan.digest.as_deref(), Some(built.digest().as_str()));
    assert!(plan.stages.iter().all(|stage| !stage.reason().is_empty()));
    check_transfers(&plan);
}

#[test]
fn without_a_cache_a_shared_step_still_runs_once_for_each_build() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(DOCKERFILE).file("input", "text");
    let repository = Repository::of(farm.registry(), "shapes/no-cache");
    let slow = format!("slow-{}", context.nonce);
    let build = || {
        buildx
            .build(&context)
            .platforms(&PLATFORMS)
            .push(&repository.tag("latest"))
            .args(["--no-cache"])
            .run()
            .succeeded();
        let ran: usize = runs(farm, &slow).iter().map(|(_, count)| count).sum();
        (random_of(&check_images(&repository, &context.nonce)), ran)
    };
    let (first, ran) = build();
    assert_eq!(ran, 1);
    let (second, ran) = build();
    assert_ne!(first, second);
    assert_eq!(ran, 2);
}
