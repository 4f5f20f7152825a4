//! The real buildx in front of a proxy.

use std::{fs, process::Output};

use croft_local::Workbench;
use tempfile::TempDir;

use super::proxy::Running;

/// A proxy, and a buildx that knows of nothing else.
pub struct Bench {
    pub proxy: Running,
    folder: TempDir,
}

impl Bench {
    pub async fn start() -> Self {
        let proxy = Running::start(Workbench::shared().unwrap().engine.address()).await;
        let bench = Self {
            proxy,
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["buildx", "docker", "context"] {
            fs::create_dir(bench.path(folder)).unwrap();
        }
        let address = format!("tcp://{}", bench.proxy.server.address);
        succeeded(
            bench
                .buildx(&[
                    "create", "--name", "proxy", "--driver", "remote", &address, "--use",
                ])
                .await,
        );
        bench
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub async fn buildx(&self, args: &[&str]) -> Output {
        let mut command = croft_local::buildx().unwrap().command();
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("BUILDX_CONFIG", self.path("buildx"))
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    }

    /// Builds `dockerfile` in the context, without cache.
    pub async fn build(&self, dockerfile: &str, args: &[&str]) -> Output {
        self.write("context/Dockerfile", dockerfile);
        self.buildx(
            &[
                &["build", "--progress", "plain", "--no-cache", "context"],
                args,
            ]
            .concat(),
        )
        .await
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

pub fn failed(output: Output) -> String {
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}
