//! What commands ask of a farm, and what they print of its answers.

use croft_proto::v1::{
    CancelBuildRequest, DrainAgentRequest, ListBuildsRequest, ReadLogRequest, ResumeAgentRequest,
};

use crate::peer::{assert_fails, croft, farm, text};

#[tokio::test]
async fn a_list_asks_for_just_what_its_flags_say() {
    let (peer, address) = farm().await;
    let output = croft(
        &[
            "builds",
            "ls",
            "-n",
            "7",
            "--state",
            "failed,running",
            "--addr",
            &address,
        ],
        &[],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        peer.asked(),
        format!(
            "{:?}",
            ListBuildsRequest {
                limit: 7,
                states: vec!["failed".into(), "running".into()],
                ..ListBuildsRequest::default()
            }
        )
    );
    assert!(
        text(&output.stdout).contains("1m01s"),
        "{}",
        text(&output.stdout)
    );
}

#[tokio::test]
async fn show_asks_for_the_latest_build_by_default_and_orders_its_stages() {
    let (peer, address) = farm().await;
    let output = croft(
        &["builds", "show", "--format", "json", "--addr", &address],
        &[],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(peer.asked(), "\"latest\"");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["stages"][0]["number"], 1);
    assert_eq!(json["stages"][0]["attempts"][0]["agent"], "amd64-1");
    assert_eq!(json["created_at"], "1970-01-01T00:00:00.000Z");
    assert_eq!(json["digest"], serde_json::Value::Null);
    assert_eq!(json["transfers"][0]["bytes"], 1500);
}

#[tokio::test]
async fn agents_as_json_have_their_fields_by_name() {
    let (_, address) = farm().await;
    let output = croft(&["agents", "ls", "--format=json", "--addr", &address], &[]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let agent = json[0].as_object().expect("an object");
    for (name, value) in [
        ("name", serde_json::json!("amd64-1")),
        ("state", "connected".into()),
        ("native_platform", "linux/amd64".into()),
        ("platforms", serde_json::json!(["linux/amd64"])),
        ("emulated_platforms", serde_json::json!([])),
        ("slots", 2.into()),
        ("running", 0.into()),
        ("engine", "".into()),
        ("version", "".into()),
        ("draining", false.into()),
        ("last_seen", serde_json::Value::Null),
        ("disk_total_bytes", 0.into()),
        ("disk_free_bytes", 0.into()),
        ("id", "".into()),
    ] {
        assert_eq!(agent.get(name), Some(&value), "{name}");
    }
}

#[tokio::test]
async fn a_build_is_cancelled_for_a_reason_and_one_that_is_over_is_not() {
    let (peer, address) = farm().await;
    let words = ["builds", "cancel", "019a", "--reason", "wrong branch"];
    let output = croft(&[&words[..], &["--addr", &address]].concat(), &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "019aa6a1-6f02-7c31-9d54-3f1f6f0b7a10 is cancelled\n"
    );
    let asked = CancelBuildRequest {
        id: "019a".to_owned(),
        reason: "wrong branch".to_owned(),
    };
    assert_eq!(peer.asked(), format!("{asked:?}"));
    let over = croft(&["builds", "cancel", "over", "--addr", &address], &[]).await;
    assert_fails(&over, 1, &["croft: it is over"]);
    let which = croft(&["builds", "cancel", "--addr", &address], &[]).await;
    assert_eq!(which.status.code(), Some(2), "not the latest by accident");
}

#[tokio::test]
async fn a_log_is_printed_in_order_or_one_stage_of_it_without_what_a_terminal_acts_on() {
    let (peer, address) = farm().await;
    let all = croft(&["builds", "logs", "--follow", "--addr", &address], &[]).await;
    assert_eq!(all.status.code(), Some(0), "{}", text(&all.stderr));
    let shown = text(&all.stdout);
    let (one, two) = (shown.find("hello"), shown.find("world"));
    assert!(one.is_some() && one < two, "{shown}");
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
    assert_eq!(
        peer.asked(),
        format!(
            "{:?}",
            ReadLogRequest {
                id: "latest".to_owned(),
                after: 0,
                follow: true
            }
        )
    );
    let part = croft(
        &["builds", "logs", "x", "--stage", "2", "--addr", &address],
        &[],
    )
    .await;
    let shown = text(&part.stdout);
    assert!(
        shown.contains("world") && !shown.contains("hello"),
        "{shown}"
    );
    let json = croft(
        &["builds", "logs", "--format", "json", "--addr", &address],
        &[],
    )
    .await;
    for line in text(&json.stdout).lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON");
    }
    let broken = croft(&["builds", "logs", "broken", "--addr", &address], &[]).await;
    assert_fails(&broken, 1, &["lacks a whole piece of the log"]);
}

#[tokio::test]
async fn of_several_builds_those_go_that_can_and_the_first_refusal_is_told() {
    let (_, address) = farm().await;
    let words = ["builds", "rm", "a", "runs", "none", "b", "--addr", &address];
    let output = croft(&words, &[]).await;
    assert_eq!(text(&output.stdout), "a is removed\nb is removed\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cancel it first"));
    let all = croft(&["builds", "rm", "--addr", &address], &[]).await;
    assert_eq!(all.status.code(), Some(2), "not the latest by accident");
}

#[tokio::test]
async fn an_agent_is_shown_and_forgotten_by_its_name() {
    let (_, address) = farm().await;
    let output = croft(&["agents", "show", "amd64-1", "--addr", &address], &[]).await;
    let shown = text(&output.stdout);
    assert!(
        shown.contains("12 commands") && shown.contains("can't be asked"),
        "{shown}"
    );
    let output = croft(&["agents", "rm", "amd64-1", "--addr", &address], &[]).await;
    assert_eq!(text(&output.stdout), "amd64-1 is forgotten\n");
    let refused = croft(&["agents", "rm", "here", "--addr", &address], &[]).await;
    assert_fails(&refused, 1, &["here is connected"]);
}

#[tokio::test]
async fn a_drain_is_waited_for_only_if_one_says_so() {
    let (peer, address) = farm().await;
    let drain = ["agents", "drain", "amd64-1", "--addr", &address];
    let output = croft(&drain, &[]).await;
    assert!(text(&output.stdout).contains("draining"));
    let output = croft(&[&drain[..], &["--wait"]].concat(), &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("drained"));
    let resume = ["agents", "resume", "amd64-1", "--addr", &address];
    let output = croft(&resume, &[]).await;
    assert!(text(&output.stdout).contains("connected"));
    let agent = "amd64-1".to_owned();
    let drained = DrainAgentRequest {
        agent: agent.clone(),
    };
    let resumed = ResumeAgentRequest { agent };
    assert_eq!(
        peer.asked(),
        format!("{drained:?}\n{drained:?}\n{resumed:?}")
    );
}

#[tokio::test]
async fn piped_output_has_no_control_characters() {
    let (_, address) = farm().await;
    for command in [["builds", "show"], ["builds", "ls"], ["agents", "ls"]] {
        let mut args = vec!["--addr", &address];
        args.extend(command);
        let output = croft(&args, &[("TERM", "xterm-256color")]).await;
        let shown = text(&output.stdout);
        assert!(
            !shown.is_empty() && !shown.chars().any(|c| c.is_control() && c != '\n'),
            "{shown:?}"
        );
    }
}
