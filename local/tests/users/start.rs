//! A part that is missing at start: one line that says what and how to fix it, and nothing is left half started.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use croft_local::{Engine, EngineOptions, ImageStore};

use crate::programs::{Flags, agent};
use crate::support::{farm, process};

#[test]
fn a_database_that_is_away_is_named_with_its_address() {
    let mut flags = Flags::good();
    let free = croft_local::Ports::Free.draw().unwrap();
    flags.database = format!("postgres://croft:hidden@{free}/croft");
    let refused = flags.run();
    refused.refused_in_one_line(&[&free.to_string(), "no PostgreSQL answers", "--database-url"]);
    assert!(!refused.stderr.contains("hidden"));
}

#[test]
fn a_wrong_database_password_is_said_and_not_shown() {
    let mut flags = Flags::good();
    let (before, host) = flags.database.split_once('@').expect("a URL");
    let (user, _) = before.rsplit_once(':').expect("a password");
    flags.database = format!("{user}:guessed@{host}");
    let refused = flags.run();
    refused.refused_in_one_line(&["password authentication failed", "--database-url"]);
    assert!(!refused.stderr.contains("guessed"));
}

#[test]
fn a_database_that_does_not_exist_is_named() {
    let mut flags = Flags::good();
    flags.database.push_str("_missing");
    flags
        .run()
        .refused_in_one_line(&["_missing", "does not exist", "--database-url"]);
}

#[test]
fn a_database_url_that_is_none_is_explained() {
    let mut flags = Flags::good();
    flags.database = "mysql://secret@host/x".to_owned();
    let refused = flags.run();
    refused.refused_in_one_line(&["postgres://"]);
    assert!(!refused.stderr.contains("secret"));
}

#[test]
fn a_stage_registry_that_is_away_is_named_and_waited_for() {
    let mut flags = Flags::good();
    let free = croft_local::Ports::Free.draw().unwrap();
    flags.stages = format!("{free}/croft");
    let mut coordinator = flags.start();
    let said = coordinator.wait_for(|line| line.contains("the stage registry is away"));
    assert!(said.contains(&free.to_string()), "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[test]
fn a_wrong_stage_registry_password_is_said_and_not_shown() {
    let mut flags = Flags::good();
    flags.password = Some(flags.file("wrong", "guessed").into());
    let refused = flags.run();
    refused.refused_in_one_line(&["stage registry", "password"]);
    assert!(!refused.stderr.contains("guessed"));
}

#[test]
fn a_stage_registry_that_wants_a_password_and_gets_none_is_explained() {
    let mut flags = Flags::good();
    flags.password = None;
    flags
        .run()
        .refused_in_one_line(&["stage registry", "password"]);
}

#[test]
fn a_password_file_that_is_missing_is_named() {
    let mut flags = Flags::good();
    flags.password = Some("/nowhere/password".into());
    flags.run().refused_in_one_line(&["/nowhere/password"]);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let flags = Flags::good();
    let _taken = TcpListener::bind(flags.agents).unwrap();
    flags
        .run()
        .refused_in_one_line(&[&flags.agents.to_string(), "--agent-addr"]);
}

#[test]
fn an_open_port_without_tls_is_refused_with_what_to_do() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut flags = Flags::good();
        flags.clients = address.parse().unwrap();
        let refused = flags.run();
        refused.refused_in_one_line(&[
            "--client-addr",
            "--tls-cert",
            "--tls-client-ca",
            "127.0.0.1",
        ]);
    }
}

#[test]
fn certificates_that_are_none_are_named() {
    let flags = Flags::good();
    let file = flags.file("not-a-certificate", "nothing");
    let flags = flags.with(&[
        "--tls-cert",
        &file,
        "--tls-key",
        &file,
        "--tls-client-ca",
        &file,
    ]);
    flags.run().refused_in_one_line(&[&file]);
}

#[test]
fn a_bad_flag_is_named() {
    for (flag, value) in [
        ("--agent-wait", "soon"),
        ("--project", "My Project"),
        ("--build-platform", "linux"),
        ("--lease", "never"),
    ] {
        let finished = Flags::good().with(&[flag, value]).run();
        assert_eq!(finished.status.code(), Some(2), "{}", finished.report());
        for text in [flag, value] {
            assert!(finished.stderr.contains(text), "{}", finished.report());
        }
    }
}

#[test]
fn a_log_filter_that_is_none_is_explained() {
    let refused = Flags::good().with(&["--log", "croft=loud"]).run();
    refused.refused_in_one_line(&["--log", "croft=loud", "info,croft=debug"]);
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let coordinator = format!("http://{}", farm().agent_address());
    let (command, _state) = agent("unix:///nowhere/buildkitd.sock", &coordinator, &[]);
    process::run(command).refused_in_one_line(&["/nowhere/buildkitd.sock"]);
}

#[test]
fn a_docker_engine_without_the_containerd_image_store_is_told_what_to_switch_on() {
    let engine = Engine::start(EngineOptions {
        name: "engine-graph".to_owned(),
        images: ImageStore::Graph,
        ..EngineOptions::default()
    })
    .unwrap_or_else(|error| panic!("{error}"));
    if engine.address().starts_with("unix://") {
        // A buildkitd has no such choice.
        return;
    }
    let coordinator = format!("http://{}", farm().agent_address());
    let (command, _state) = agent(engine.address(), &coordinator, &[]);
    process::run(command).refused_in_one_line(&["containerd-snapshotter", "daemon.json"]);
}

#[test]
fn a_coordinator_that_is_away_is_waited_for_and_an_address_that_is_none_is_not() {
    let engine = farm().agents()[0].engine();
    let (command, _state) = agent(engine, "farm.example:8373", &[]);
    process::run(command).refused_in_one_line(&["http"]);

    let flags = Flags::good();
    let (command, _state) = agent(engine, &format!("http://{}", flags.agents), &[]);
    let mut running = process::start(command);
    running.wait_for(|line| line.contains(&flags.agents.to_string()));
    let mut coordinator = flags.start();
    coordinator.wait_for(|line| line.contains("an agent joined"));
}

#[test]
fn croft_names_a_coordinator_that_does_not_answer() {
    let free = croft_local::Ports::Free.draw().unwrap();
    let croft: &Path = &farm().binaries().croft();
    let mut command = Command::new(croft);
    command
        .args(["builds", "ls", "--addr", &free.to_string()])
        .stdin(Stdio::null());
    process::run(command).refused_in_one_line(&[&free.to_string()]);
}
