//! Which farm is asked: by flags, variables and the names in the configuration file.

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::peer::{assert_fails, croft, farm, text};

#[tokio::test]
async fn the_farm_s_address_comes_from_the_variable_or_the_flag_in_every_form() {
    let (_, address) = farm().await;
    for form in [
        address.clone(),
        format!("tcp://{address}"),
        format!("http://{address}/"),
    ] {
        for output in [
            croft(&["agents", "ls"], &[("CROFT_ADDR", &form)]).await,
            croft(
                &["--addr", &form, "agents", "ls"],
                &[("CROFT_ADDR", "nobody.invalid:1")],
            )
            .await,
        ] {
            assert_eq!(
                output.status.code(),
                Some(0),
                "{form}: {}",
                text(&output.stderr)
            );
            assert!(text(&output.stdout).contains("amd64-1"));
        }
    }
}

#[tokio::test]
async fn a_named_farm_is_used_until_a_flag_says_otherwise() {
    let (_, address) = farm().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("croft/config.toml");
    let file = [("CROFT_CONFIG", file.to_str().expect("a path"))];
    let run = async |words: &[&str]| croft(words, &file).await;

    let empty = run(&["context", "ls"]).await;
    assert!(text(&empty.stdout).contains("croft context add"));
    assert_fails(
        &run(&["context", "show"]).await,
        2,
        &["no context is in use"],
    );
    for (name, at) in [("one", address.as_str()), ("two", "127.0.0.1:1")] {
        let added = run(&["context", "add", name, "--addr", at]).await;
        assert_eq!(added.status.code(), Some(0), "{}", text(&added.stderr));
    }
    let agents = run(&["agents", "ls"]).await;
    assert!(
        text(&agents.stdout).contains("amd64-1"),
        "{}",
        text(&agents.stderr)
    );
    let two = run(&["agents", "ls", "--context", "two"]).await;
    assert_fails(&two, 4, &["127.0.0.1:1"]);
    assert_fails(
        &run(&["agents", "ls", "--context", "three"]).await,
        2,
        &["three", "there are one, two", "croft context add"],
    );
    let used = run(&["context", "use", "two"]).await;
    assert_eq!(text(&used.stdout), "two is in use\n");
    let listed = run(&["context", "ls", "--format", "json"]).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[1]["name"], "two");
    assert_eq!(listed[1]["in_use"], true);
    // The address says which farm, whatever is in use.
    let agents = run(&["agents", "ls", "--addr", &address]).await;
    assert!(text(&agents.stdout).contains("amd64-1"));
    let gone = run(&["context", "rm", "two"]).await;
    assert_eq!(text(&gone.stdout), "two is removed\n");

    std::fs::write(
        file[0].1,
        "context = \"one\"\n\n[contexts.one]\nadresses = []\n",
    )
    .expect("written");
    assert_fails(
        &run(&["agents", "ls"]).await,
        2,
        &["config.toml:4:", "adresses"],
    );
}

#[tokio::test]
async fn of_several_coordinators_the_active_one_is_asked() {
    let (_, address) = farm().await;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let standby = listener.local_addr().expect("bound").to_string();
    let router = Server::builder().add_service(health);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    for all in [
        format!("127.0.0.1:1,{standby},{address}"),
        format!("{standby},{address}"),
    ] {
        let output = croft(&["agents", "ls", "--addr", &all], &[]).await;
        assert!(
            text(&output.stdout).contains("amd64-1"),
            "{}",
            text(&output.stderr)
        );
    }
    let nobody = format!("{standby},{standby}");
    let output = croft(&["agents", "ls", "--addr", &nobody], &[]).await;
    assert_fails(&output, 4, &["no coordinator of", "is active"]);
}
