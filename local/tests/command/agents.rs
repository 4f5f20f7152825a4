//! Agents: what one can, runs and holds, and forgetting one that is gone for good.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Buildx, Context, Croft, agent, farm, farm_of, process::eventually};

#[test]
fn an_agent_says_what_its_engine_holds_and_is_not_forgotten_while_it_is_connected() {
    let farm = farm();
    let croft = Croft::of(farm);
    let name = farm.agents()[0].name.to_string();
    let shown = croft.run(["agents", "show", &name, "--format", "json"]);
    let agent: Value = serde_json::from_str(&shown.succeeded().stdout).expect("JSON");
    assert_eq!(agent["name"], name.as_str());
    assert_eq!(agent["state"], "connected");
    assert!(agent["cache"]["bytes"].is_u64(), "{agent:#}");
    assert!(agent["work"].is_array() && agent["labels"].is_object());
    let seen = croft
        .terminal(["agents", "show", &name])
        .finish()
        .succeeded();
    assert!(
        seen.text.contains(&format!("Agent {name}")),
        "{}",
        seen.text
    );
    let refused = croft.run(["agents", "rm", &name]).failed();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("stop croft-agent there first"),
        "{}",
        refused.stderr
    );
    let unknown = croft.run(["agents", "rm", "nobody"]).failed();
    assert_eq!(unknown.status.code(), Some(3));
}

#[test]
fn an_agent_that_is_gone_is_forgotten_and_its_builds_still_name_it() {
    let farm = farm_of("amd64,arm64", &[]);
    let context = Context::new("FROM --platform=linux/arm64 busybox\nRUN : $NONCE\n");
    let buildx = Buildx::of(&farm);
    let built = buildx
        .build(&context)
        .args(["--output", "type=cacheonly"])
        .run()
        .succeeded();
    let agent = farm.agents().last().expect("two agents");
    let name = agent.name.to_string();
    let _stopped = agent::stop(&farm, &name, Signal::SIGKILL);
    let croft = Croft::of(&farm);
    eventually("the agent is forgotten", || {
        let said = croft.run(["agents", "rm", &name]);
        said.status.success().then_some(())
    });
    let listed = croft.run(["agents", "ls"]).succeeded().stdout;
    assert!(!listed.contains(&name), "{listed}");
    assert_eq!(croft.run(["agents", "show", &name]).status.code(), Some(3));
    let plan = built.plan();
    assert!(plan.agents().contains(name.as_str()), "{plan:?}");
}
