//! An SSH agent of our own, for keys that are files: OpenSSH's, which knows all kinds of keys and asks for their passphrases. Nobody else
//! reaches it, and it ends with who lends it, however that ends.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Starts an agent, gives it the keys, says so with an empty line, and ends it when standard input ends. An interrupt from the terminal is
/// for others.
const SCRIPT: &str = r#"
trap '' INT
ssh-agent -D -a "$SSH_AUTH_SOCK" >/dev/null &
trap "kill $! 2>/dev/null" EXIT
until ssh-add -l >/dev/null 2>&1 || [ $? -eq 1 ]; do
    kill -0 $! || exit 1
    sleep 0.02
done
ssh-add -q -- "$@" && echo && exec 2>&- && cat
"#;

/// A running agent.
#[derive(Debug)]
pub(super) struct Keys {
    shell: Child,
    folder: TempDir,
}

impl Keys {
    /// Starts an agent with these keys. Blocks, for as long as somebody is asked for a passphrase.
    ///
    /// # Errors
    /// What is wrong with the keys, in OpenSSH's words.
    pub(super) fn lend(files: &[PathBuf]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .args(files)
            .env("SSH_AUTH_SOCK", socket(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut keys = Self { shell, folder };
        let mut said = String::new();
        if let Some(output) = &mut keys.shell.stdout {
            // Nothing at all is a failure, of which standard error tells.
            let _ = BufReader::new(output).read_line(&mut said);
        }
        if said == "\n" {
            return Ok(keys);
        }
        let mut why = String::new();
        drop(keys.shell.stdin.take());
        if let Some(errors) = &mut keys.shell.stderr {
            let _ = errors.read_to_string(&mut why);
        }
        Err(why.trim().to_owned())
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("agent")
}

impl Drop for Keys {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It has nothing left to do but to end its agent.
        let _ = self.shell.wait();
    }
}
