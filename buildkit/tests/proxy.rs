//! The real buildx against a pass-through proxy in front of a real engine: with both sides of this crate between them, it must
//! build, send contexts and secrets, log in, fail and export as if it spoke to the engine itself.

mod support;

use std::{fs, path::Path, time::Duration};

use croft_buildkit::gateway::BuildRef;
use croft_local::{Access, BaseImage, Registry, RegistryOptions};
use support::buildx::{Bench, failed, succeeded, text};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[tokio::test]
async fn buildx_sees_the_engine_behind_the_proxy() {
    let bench = Bench::start().await;
    let shown = succeeded(bench.buildx(&["inspect", "--bootstrap"]).await);
    assert!(
        shown.contains("running") && shown.contains("linux/"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_context_goes_up_and_a_result_comes_down() {
    let bench = Bench::start().await;
    let nonce = BuildRef::unique().to_string();
    let large: Vec<u8> = (0..24 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(bench.path("context/large"), &large).unwrap();
    let dockerfile = format!(
        "FROM busybox AS run\nCOPY large /\nRUN echo {nonce} > /nonce\nFROM scratch\nCOPY --from=run /large /nonce /\n"
    );
    let shown = succeeded(
        bench
            .build(&dockerfile, &["--output", "type=local,dest=out"])
            .await,
    );
    assert!(
        shown.contains("COPY large /") && shown.contains("DONE"),
        "{shown}"
    );
    assert!(
        read(bench.path("out/large")) == large,
        "the file changed on its way"
    );
    assert_eq!(
        read(bench.path("out/nonce")),
        format!("{nonce}\n").as_bytes()
    );
    assert!(bench.proxy.calls(DIFF_COPY) >= 2 && bench.proxy.calls(SEND) == 1);
}

#[tokio::test]
async fn a_secret_reaches_the_command_that_asks_for_it() {
    let bench = Bench::start().await;
    bench.write("token", "hunter2");
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=secret,id=token echo {} && test \"$(cat /run/secrets/token)\" = hunter2\n",
        BuildRef::unique()
    );
    succeeded(
        bench
            .build(&dockerfile, &["--secret", "id=token,src=token"])
            .await,
    );
    assert_eq!(bench.proxy.calls(SECRET), 1);
}

#[tokio::test]
async fn a_failing_command_is_shown_with_its_line_and_exit_code() {
    let bench = Bench::start().await;
    let dockerfile = format!(
        "FROM busybox\nRUN echo said-{0}\nRUN echo {0} && exit 42\n",
        BuildRef::unique()
    );
    let shown = failed(bench.build(&dockerfile, &[]).await);
    assert!(shown.contains("said-"), "the log is missing: {shown}");
    assert!(
        shown.contains("Dockerfile:3") && shown.contains(">>> RUN echo"),
        "the line is missing: {shown}"
    );
    assert!(shown.contains("exit code: 42"), "{shown}");
}

#[tokio::test]
async fn a_dockerfile_error_is_shown_with_its_line() {
    let bench = Bench::start().await;
    let shown = failed(bench.build("FROM busybox\nNONSENSE here\n", &[]).await);
    assert!(
        shown.contains("Dockerfile:2") && shown.contains("unknown instruction: NONSENSE"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_private_registry_takes_the_clients_credentials_and_nobody_elses() {
    let access = Access::Password("tester".into());
    let registry = Registry::start(RegistryOptions {
        access,
        ..Default::default()
    })
    .unwrap();
    BaseImage::find_or_make().unwrap().push(&registry).unwrap();
    let (bench, stranger) = (Bench::start().await, Bench::start().await);
    let address = registry.address();
    let login = registry.credentials().unwrap();
    let auth = base64(&format!("{}:{}", login.user, login.password));
    bench.write(
        "docker/config.json",
        &format!("{{\"auths\":{{\"{address}\":{{\"auth\":\"{auth}\"}}}}}}"),
    );
    let dockerfile = format!(
        "FROM {address}/library/busybox:latest\nRUN echo {} > /nonce\n",
        BuildRef::unique()
    );
    let image = format!("{address}/test/{}", BuildRef::unique());
    let output = format!("type=registry,name={image}");
    let shown = failed(stranger.build(&dockerfile, &["--output", &output]).await);
    assert!(
        shown.contains("401") || shown.contains("authorization"),
        "{shown}"
    );
    succeeded(
        bench
            .build(
                &dockerfile,
                &["--output", &output, "--metadata-file", "metadata"],
            )
            .await,
    );
    assert!(bench.proxy.calls(CREDENTIALS) > 0);
    assert!(
        String::from_utf8(read(bench.path("metadata")))
            .unwrap()
            .contains("containerimage.digest")
    );
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn an_interrupted_client_leaves_no_build_behind() {
    let bench = Bench::start().await;
    // The command is known by its argument, which nobody else has.
    let random = u32::from_str_radix(&BuildRef::unique().as_str()[..7], 16).unwrap();
    let command = format!("sleep {}", 1_000_000 + random);
    let dockerfile = format!("FROM busybox\nRUN {command}\n");
    {
        let build = bench.build(&dockerfile, &[]);
        tokio::pin!(build);
        tokio::select! {
            output = &mut build => panic!("it ended by itself: {}", text(&output)),
            () = until_running(&command, 1) => {}
        }
    }
    let gone = until_running(&command, 0);
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .unwrap();
}

/// Waits until so many processes of this machine have exactly this command line.
async fn until_running(command: &str, wanted: usize) {
    let line = format!("{}\0", command.replace(' ', "\0"));
    while commands().await.iter().filter(|c| **c == line).count() != wanted {}
}

/// The command lines of all processes.
async fn commands() -> Vec<String> {
    let read = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok())
            .collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}
