//! What buildx shows while the farm builds.

use std::collections::BTreeMap;

use crate::support::{Buildx, Context, farm};

const PLATFORMS: [&str; 2] = ["linux/arm64", "linux/s390x"];
const AGENTS: [&str; 2] = ["arm64-1", "s390x-1"];

/// The vertices of a plain progress: each one's name and the last that was said of its state.
fn vertices(progress: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut states = BTreeMap::new();
    for line in progress.lines() {
        let Some((number, text)) = line.strip_prefix('#').and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        if text.starts_with('[') {
            names.insert(number.to_owned(), text.to_owned());
        }
        for state in ["DONE", "CACHED", "ERROR", "CANCELED"] {
            if text.starts_with(state) {
                states.insert(number.to_owned(), state.to_owned());
            }
        }
    }
    let state = |number: &String| states.get(number).cloned().unwrap_or_default();
    names
        .iter()
        .map(|(number, name)| (name.clone(), state(number)))
        .collect()
}

#[test]
fn each_step_is_shown_with_its_agent_and_its_output_and_is_cached_the_next_time() {
    let buildx = Buildx::of(farm());
    let context = Context::new(
        "FROM busybox AS first\nRUN : seen-$NONCE && echo output of $(uname -m)\nCOPY Dockerfile /here\nFROM busybox\nCOPY --from=first /here /there\n",
    );
    let build = || {
        let built = buildx
            .build(&context)
            .platforms(&PLATFORMS)
            .run()
            .succeeded();
        built.progress().to_owned()
    };
    let steps = |progress: &str, state: &str| {
        let vertices = vertices(progress);
        for (platform, agent) in PLATFORMS.iter().zip(AGENTS) {
            let seen = format!("seen-{}", context.nonce);
            for step in [
                &format!("[{agent} {platform} first 2/3] RUN : {seen}"),
                &format!("[{agent} {platform} first 3/3] COPY Dockerfile /here"),
                &format!("[{agent} {platform} stage-1 2/2] COPY --from=first /here /there"),
            ] {
                let found: Vec<_> = vertices
                    .iter()
                    .filter(|(name, _)| name.starts_with(step.as_str()))
                    .collect();
                assert_eq!(found.len(), 1, "{step}: {progress}");
                assert_eq!(found[0].1, state, "{step}: {progress}");
            }
            let base = format!("[{agent} {platform} ");
            assert!(
                vertices.keys().any(|name| name.starts_with(&base)
                    && name.contains("FROM docker.io/library/busybox")),
                "{progress}"
            );
        }
        // None is left without an end, and none is without somebody who ran it.
        for (name, state) in &vertices {
            assert!(!state.is_empty(), "{name} has no end: {progress}");
            let by = name[1..].split([' ', ']']).next().unwrap();
            assert!(
                by == "internal" || by == "croft" || by.ends_with(|c: char| c.is_ascii_digit()),
                "{name}: {progress}"
            );
        }
        assert!(
            vertices
                .keys()
                .any(|name| name.contains("load build context")),
            "{progress}"
        );
    };

    let first = build();
    steps(&first, "DONE");
    for machine in ["aarch64", "s390x"] {
        let output = format!("output of {machine}");
        assert_eq!(first.matches(&output).count(), 1, "{first}");
    }

    let second = build();
    steps(&second, "CACHED");
    assert!(!second.contains("output of aarch64"), "{second}");
}
