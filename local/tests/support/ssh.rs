//! Agents with a user's ssh keys, and a client that works within any image, for builds that are given such an agent.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::process::{self, eventually};

/// An ssh agent with one key; ended when this is dropped.
#[derive(Debug)]
pub struct SshAgent {
    agent: Child,
    folder: TempDir,
    /// What `ssh-add -L` prints.
    pub key: String,
}

impl SshAgent {
    /// The key has this comment.
    pub fn start(comment: &str) -> SshAgent {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = folder.path().join("key");
        let mut generate = Command::new("ssh-keygen");
        generate.args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]);
        generate.arg(&key);
        process::run(generate).succeeded();
        let public = fs::read_to_string(key.with_extension("pub")).expect("written");

        let socket = folder.path().join("socket");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let started = SshAgent {
            agent: agent.spawn().expect("ssh-agent"),
            folder,
            key: public.trim().to_owned(),
        };
        eventually("ssh-agent listens", || UnixStream::connect(&socket).ok());
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket);
        process::run(add).succeeded();
        started
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// This machine's `ssh-add` with all its libraries, and a script `list` that runs it. The farm's emulated platforms are containers on this
/// machine, so it runs in all of them.
#[derive(Debug)]
pub struct SshClient {
    folder: TempDir,
}

impl SshClient {
    /// `ssh-add` must be in the PATH.
    pub fn find() -> SshClient {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = std::env::var_os("PATH").expect("a PATH");
        let program = std::env::split_paths(&paths)
            .map(|folder| folder.join("ssh-add"))
            .find(|path| path.exists())
            .expect("ssh-add");
        let mut ldd = Command::new("ldd");
        ldd.arg(&program);
        let printed = process::run(ldd).succeeded().stdout;
        let libraries: Vec<_> = printed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        let copy = |path: &PathBuf| {
            let name = path.file_name().expect("a file");
            fs::copy(path, folder.path().join(name)).expect("readable");
            name.to_string_lossy().into_owned()
        };
        copy(&program);
        let names: Vec<_> = libraries.iter().map(copy).collect();
        let loader = names
            .iter()
            .find(|name| name.starts_with("ld-"))
            .expect("a program with libraries");
        let script = format!("exec /client/{loader} --library-path /client /client/ssh-add -L\n");
        fs::write(folder.path().join("list"), script).expect("writable");
        SshClient { folder }
    }

    /// What a build mounts as `/client`; `sh /client/list` prints the keys of the agent at `SSH_AUTH_SOCK`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
