//! How commands end that come to nothing.

use tokio::net::TcpListener;

use crate::peer::{assert_fails, croft, farm, text};

#[tokio::test]
async fn each_failure_has_its_exit_code_and_one_line_that_says_what_to_do() {
    let (_, address) = farm().await;
    for (id, code, parts) in [
        ("nothing", 3, ["no build nothing", "croft builds ls"]),
        ("01", 2, ["croft:", "several builds start with 01"]),
        ("empty", 1, ["lacks the build", "versions"]),
        ("broken", 1, ["the database is away", "log"]),
        ("forbidden", 1, ["not yours", "--tls-cert"]),
        ("missing", 1, ["does not speak croft.v1", "--addr"]),
    ] {
        assert_fails(
            &croft(&["builds", "show", id, "--addr", &address], &[]).await,
            code,
            &parts,
        );
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        &["builds"][..],
        &["builds", "ls", "--limit", "0"],
        &["builds", "ls", "--state", "gone"],
        &["agents", "ls", "--addr", "unix:///x"],
        &["agents", "ls", "--format", "yaml"],
        &[
            "--tls-ca",
            "/x",
            "--addr",
            "http://127.0.0.1:1",
            "agents",
            "ls",
        ],
        &["--addr", "https://127.0.0.1:1", "agents", "ls"],
    ] {
        let output = croft(args, &[]).await;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(text(&output.stdout), "");
    }
    let help = text(&croft(&["--help"], &[]).await.stdout);
    assert!(
        help.contains("Exit codes:") && help.contains("CROFT_ADDR"),
        "{help}"
    );
}

#[tokio::test]
async fn a_farm_that_is_not_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let output = croft(&["agents", "ls", "--addr", &address], &[]).await;
    assert_fails(
        &output,
        4,
        &[&address, "refused", "start the coordinator", "CROFT_ADDR"],
    );
}

#[tokio::test]
async fn a_peer_that_is_no_farm_at_all_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    let output = croft(&["agents", "ls", "--addr", &address], &[]).await;
    assert_fails(&output, 4, &[&address, "--addr"]);
}
