//! A git server on loopback, for what Dockerfiles and clients fetch.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::process::{self, eventually};

/// `git daemon` on loopback with one repository: a tag `first`, and a commit after it on `main`. Ended when this is dropped.
#[derive(Debug)]
pub struct Git {
    daemon: Child,
    port: u16,
    _folder: TempDir,
    /// The commit that `main` is at.
    pub head: String,
}

impl Git {
    /// The repository's file `sub/file` says `first` or `second` and this text.
    pub fn serve(text: &str) -> Git {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repository = folder.path().join("repository");
        git(
            folder.path(),
            &["init", "--quiet", "--initial-branch=main", "repository"],
        );
        for round in ["first", "second"] {
            fs::create_dir_all(repository.join("sub")).expect("writable");
            let file = repository.join("sub/file");
            fs::write(file, format!("{round} {text}\n")).expect("writable");
            git(&repository, &["add", "."]);
            git(&repository, &["commit", "--quiet", "--message", round]);
            if round == "first" {
                git(&repository, &["tag", "first"]);
            }
        }
        let head = git(&repository, &["rev-parse", "HEAD"]);
        let programs = git(&repository, &["--exec-path"]);
        let base = format!("--base-path={}", folder.path().display());
        let (daemon, port) = eventually("git daemon has a port", || {
            // Nobody else may take it before the daemon does; if somebody did, it ends and another one is tried.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let port = free.local_addr().expect("bound").port();
            drop(free);
            // `git daemon` would start it as a child, which would outlive a killed parent.
            let mut daemon = Command::new(Path::new(&programs).join("git-daemon"))
                .args(["--export-all", "--listen=127.0.0.1"])
                .arg(format!("--port={port}"))
                .arg(&base)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("git");
            let up = eventually("git daemon listens or ends", || {
                let ended = daemon.try_wait().expect("our child").is_some();
                let listens = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                (ended || listens).then_some(!ended)
            });
            up.then_some((daemon, port))
        });
        Git {
            daemon,
            port,
            _folder: folder,
            head,
        }
    }

    /// `git://host:port/repository`.
    pub fn address(&self) -> String {
        format!("git://127.0.0.1:{}/repository", self.port)
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// git as nobody has configured it.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=test", "-c", "user.email=test@example.com"])
        .args(arguments);
    command
}

#[track_caller]
fn git(folder: &Path, arguments: &[&str]) -> String {
    let finished = process::run(command(folder, arguments)).succeeded();
    finished.stdout.trim().to_owned()
}
