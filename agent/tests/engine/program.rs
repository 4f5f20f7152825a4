//! The program: what it says when a part is missing, and how it ends.

use std::{path::Path, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use tonic::{
    Status,
    transport::{Certificate, Identity, ServerTlsConfig},
};

use crate::{
    bench,
    coordinator::{Coordinator, Manners, within},
    nonce,
};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_croft-agent"));
    // The developer's own farm is none of these tests' business.
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("CROFT_")) {
        command.env_remove(key);
    }
    command
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to its end; the exit code and the lines that it wrote.
async fn ends(command: &mut Command) -> (Option<i32>, String) {
    let output = within("the program's end", command.output())
        .await
        .expect("it runs");
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("a text"),
    )
}

fn terminate(child: &Child) {
    let id = child.id().expect("it runs").try_into().expect("an id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("a signal");
}

#[tokio::test]
async fn a_missing_engine_is_one_line_that_says_where_it_was_looked_for() {
    let socket = format!("unix:///nowhere/{}.sock", nonce());
    let (code, said) = ends(&mut program(&[
        "--coordinator",
        "http://127.0.0.1:1",
        "--engine",
        &socket,
    ]))
    .await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&socket) && said.lines().count() == 1,
        "{said}"
    );
}

#[tokio::test]
async fn a_refusing_coordinator_is_one_line_that_says_why() {
    let refuses = Some(Status::permission_denied("this agent is not enrolled"));
    let coordinator = Coordinator::start(Manners {
        refuses,
        ..Manners::default()
    })
    .await;
    let engine = bench().await.engine.address();
    let mut command = program(&[
        "--coordinator",
        &coordinator.url(),
        "--engine",
        engine,
        "--log",
        "off",
    ]);
    let (code, said) = ends(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("this agent is not enrolled") && said.lines().count() == 1,
        "{said}"
    );
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_yet_is_waited_for_and_a_signal_ends_the_program_in_good_order()
 {
    // The port is taken, so that nobody else gets it, but nobody answers there until later.
    let later = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = later.local_addr().expect("bound");
    drop(later);
    let engine = bench().await.engine.address();
    let name = format!("agent-{}", nonce());
    let url = format!("http://{address}");
    let mut child = program(&[
        "--coordinator",
        &url,
        "--engine",
        engine,
        "--name",
        &name,
        "--slots",
        "3",
    ])
    .spawn()
    .expect("it runs");
    let lines = child.stderr.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(lines));
    let complaint = within("a complaint", async {
        loop {
            let line = lines.next_line().await.expect("a text").expect("a line");
            if line.contains("trying again") {
                return line;
            }
        }
    })
    .await;
    assert!(complaint.contains(&url), "{complaint}");
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let mut coordinator = Coordinator::start_at(address, Manners::default()).await;
    let mut link = coordinator.link().await;
    assert_eq!(
        (link.hello.name.as_str(), link.hello.slots),
        (name.as_str(), 3)
    );
    terminate(&child);
    link.left().await;
    let status = within("the program's end", child.wait())
        .await
        .expect("its status");
    assert!(status.success(), "{status}");
    reading.await.expect("its lines");
}

fn pem(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a text").to_owned()
}

#[tokio::test]
async fn both_connections_are_mutually_authenticated_when_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        rcgen::CertifiedIssuer::self_signed(params, authority_key).expect("an authority");
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        (
            params
                .signed_by(&key, &authority)
                .expect("a certificate")
                .pem(),
            key.serialize_pem(),
        )
    };
    let (server, server_key) = signed("coordinator.farm");
    let (client, client_key) = signed("agent.farm");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server, server_key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let mut coordinator = Coordinator::start_with_tls(Manners::default(), tls).await;
    let url = format!("https://{}", coordinator.address);
    let engine = bench().await.engine.address();
    let ca = pem(folder.path(), "ca.pem", &authority.pem());
    let (cert, key) = (
        pem(folder.path(), "cert.pem", &client),
        pem(folder.path(), "key.pem", &client_key),
    );
    let trusted = [
        "--coordinator",
        &url,
        "--engine",
        engine,
        "--tls-ca",
        &ca,
        "--tls-server-name",
        "coordinator.farm",
    ];
    let mut child = program(&trusted)
        .args(["--tls-cert", &cert, "--tls-key", &key])
        .spawn()
        .expect("it runs");
    let mut link = coordinator.link().await;
    terminate(&child);
    link.left().await;
    assert!(
        within("its end", child.wait())
            .await
            .expect("its status")
            .success()
    );

    // Without a certificate of its own it is not let in.
    let mut child = program(&trusted).spawn().expect("it runs");
    let lines = child.stderr.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(lines));
    within("a complaint", async {
        while !lines
            .next_line()
            .await
            .expect("a text")
            .expect("a line")
            .contains("trying again")
        {}
    })
    .await;
    assert!(coordinator.nobody_came());
}
