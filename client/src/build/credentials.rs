//! Registry credentials as `docker login` and `podman login` left them: in their files, or with the helpers that these name. They are
//! looked up when a registry is asked about, are in memory alone, and no message has them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use croft_buildkit::session::{BoxError, auth::Credentials, serve::CredentialSource};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex};

/// Docker Hub as engines name it, as Docker's files do, and as Podman's do.
const HUB: [&str; 4] = [
    "registry-1.docker.io",
    "https://index.docker.io/v1/",
    "docker.io",
    "index.docker.io",
];
/// A helper that takes longer asks somebody who isn't there.
const HELPER_WITHIN: Duration = Duration::from_secs(60);
/// What a helper may answer at most, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// What helpers answer where they know no credentials.
const NOT_FOUND: &str = "credentials not found";

/// The user's registries.
pub struct Registries {
    files: Vec<PathBuf>,
    path: Option<String>,
    /// Helpers may ask their users, so they are asked once for each registry.
    known: Mutex<HashMap<String, Option<Credentials>>>,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Why credentials can't be had, though they may be there.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file that can't be read.
    #[error("{} can't be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that says nothing that one could use. Its text may have passwords in it, so only the place is said.
    #[error("{} is no configuration of registries: line {line}, column {column}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// An entry whose password isn't written as it should be.
    #[error("what {} has for {host} can't be read: log in again", path.display())]
    Entry {
        /// Where.
        path: PathBuf,
        /// For which registry.
        host: String,
    },
    /// A helper that isn't there or fails.
    #[error("the helper {program} that {} names {why}", path.display())]
    Helper {
        /// Where.
        path: PathBuf,
        /// Which.
        program: String,
        /// What it did.
        why: String,
    },
}

/// A file of Docker's or Podman's.
#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    auths: HashMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
    proxies: HashMap<String, Proxy>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Proxy {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    ftp_proxy: String,
    all_proxy: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl Registries {
    /// The registries of the user whose environment this is.
    pub fn of(variables: &HashMap<String, String>) -> Self {
        let named = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let home = named("HOME").map(PathBuf::from);
        let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let configuration = named("XDG_CONFIG_HOME").map(PathBuf::from);
        let files = [
            named("REGISTRY_AUTH_FILE").map(PathBuf::from),
            named("DOCKER_CONFIG")
                .map(|folder| Path::new(folder).join("config.json"))
                .or_else(|| in_home(".docker/config.json")),
            named("XDG_RUNTIME_DIR").map(|folder| Path::new(folder).join("containers/auth.json")),
            configuration
                .or_else(|| in_home(".config"))
                .map(|folder| folder.join("containers/auth.json")),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            path: named("PATH").cloned(),
            known: Mutex::default(),
        }
    }

    /// Build arguments for the proxies that Docker's configuration gives to every build.
    ///
    /// # Errors
    /// Docker's configuration can't be read.
    pub fn proxies(&self) -> Result<BTreeMap<String, String>, CredentialsError> {
        let mut arguments = BTreeMap::new();
        for path in &self.files {
            let Some(proxy) = read(path)?.and_then(|mut file| file.proxies.remove("default"))
            else {
                continue;
            };
            for (name, value) in [
                ("HTTP_PROXY", proxy.http_proxy),
                ("HTTPS_PROXY", proxy.https_proxy),
                ("NO_PROXY", proxy.no_proxy),
                ("FTP_PROXY", proxy.ftp_proxy),
                ("ALL_PROXY", proxy.all_proxy),
            ] {
                if !value.is_empty() {
                    arguments.insert(name.to_ascii_lowercase(), value.clone());
                    arguments.insert(name.to_owned(), value);
                }
            }
            break;
        }
        Ok(arguments)
    }

    /// What to say to a registry; none where it is used anonymously. The first file that knows it counts.
    ///
    /// # Errors
    /// A file or a helper that can't be used.
    pub async fn lookup(&self, host: &str) -> Result<Option<Credentials>, CredentialsError> {
        let mut known = self.known.lock().await;
        if let Some(found) = known.get(host) {
            return Ok(found.clone());
        }
        let mut found = None;
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            found = self.in_file(path, &file, host).await?;
            if found.is_some() {
                break;
            }
        }
        known.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    async fn in_file(
        &self,
        path: &Path,
        file: &File,
        host: &str,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let names = names(host);
        let helper = names.iter().find_map(|&name| {
            let (_, helper) = file.helpers.iter().find(|(key, _)| is(key, name))?;
            Some((name, helper.as_str()))
        });
        if let Some((name, helper)) = helper {
            // Podman says so where a registry is kept out of its store.
            if !helper.is_empty()
                && let Some(found) = self.ask(path, helper, name).await?
            {
                return Ok(Some(found));
            }
        } else if !file.store.is_empty() {
            for name in asked(host) {
                if let Some(found) = self.ask(path, &file.store, name).await? {
                    return Ok(Some(found));
                }
            }
        }
        let entries = || file.auths.iter();
        for &name in &names {
            let entry = file
                .auths
                .get(name)
                .or_else(|| entries().find(|(key, _)| is(key, name)).map(|(_, e)| e));
            if let Some(entry) = entry
                && let Some(found) = entry.read().map_err(|()| CredentialsError::Entry {
                    path: path.to_owned(),
                    host: host.to_owned(),
                })?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Asks a helper for one registry.
    async fn ask(
        &self,
        path: &Path,
        helper: &str,
        name: &str,
    ) -> Result<Option<Credentials>, CredentialsError> {
        let program = format!("docker-credential-{helper}");
        let failed = |why: String| CredentialsError::Helper {
            path: path.to_owned(),
            program: program.clone(),
            why,
        };
        // A name with a slash would be a path.
        if helper.contains('/') {
            return Err(failed("is no program's name".to_owned()));
        }
        let mut command = Command::new(&program);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => failed(
                    "is not there: install it, or take its name out and log in again".to_owned(),
                ),
                _ => failed(format!("does not start: {error}")),
            })?;
        let input = child.stdin.take();
        let asked = async move {
            if let Some(mut input) = input {
                // One that answers without reading is no failure.
                let _ = input.write_all(name.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(HELPER_WITHIN, asked)
            .await
            .map_err(|_| failed(format!("gave no answer within {HELPER_WITHIN:?}")))?
            .map_err(|error| failed(format!("can't be heard: {error}")))?;
        if !output.status.success() {
            // Helpers complain on standard output. It is not their answer, which would have a password in it.
            let said = String::from_utf8_lossy(&output.stdout);
            if said.contains(NOT_FOUND) {
                return Ok(None);
            }
            let said: String = said.trim().chars().filter(|c| !c.is_control()).collect();
            let said: String = said.chars().take(300).collect();
            return Err(failed(format!("failed for {name}: {said}")));
        }
        if output.stdout.len() > ANSWER_LIMIT {
            return Err(failed("says far too much".to_owned()));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|_| failed("answered what can't be read".to_owned()))?;
        Ok(match answer.username.as_str() {
            _ if answer.secret.is_empty() => None,
            // It is an identity token then.
            "<token>" => Some(Credentials {
                username: String::new(),
                secret: answer.secret,
            }),
            _ => Some(Credentials {
                username: answer.username,
                secret: answer.secret,
            }),
        })
    }
}

#[tonic::async_trait]
impl CredentialSource for Registries {
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>, BoxError> {
        Ok(self.lookup(host).await?)
    }
}

impl Entry {
    /// Nothing if the entry is empty, as where a helper keeps the password.
    fn read(&self) -> Result<Option<Credentials>, ()> {
        let credentials = |username: &str, secret: &str| {
            Some(Credentials {
                username: username.to_owned(),
                secret: secret.to_owned(),
            })
        };
        if !self.identitytoken.is_empty() {
            return Ok(credentials("", &self.identitytoken));
        }
        if self.auth.is_empty() {
            return Ok(match self.password.is_empty() {
                true => None,
                false => credentials(&self.username, &self.password),
            });
        }
        let decoded = STANDARD.decode(self.auth.trim()).map_err(drop)?;
        let text = String::from_utf8(decoded).map_err(drop)?;
        let (username, password) = text.split_once(':').ok_or(())?;
        // Docker has had zero bytes at its end.
        let password = password.trim_matches('\0');
        Ok(match password.is_empty() {
            true => None,
            false => credentials(username, password),
        })
    }
}

/// Names under which a registry may be written down, the best first.
fn names(host: &str) -> Vec<&str> {
    match HUB.contains(&host) {
        true => HUB[1..].to_vec(),
        false => vec![host],
    }
}

/// Names for which a store is asked: Docker's for the Hub, and what `docker login` was given elsewhere.
fn asked(host: &str) -> Vec<&str> {
    match HUB.contains(&host) {
        true => HUB[1..3].to_vec(),
        false => vec![host],
    }
}

/// Whether a file's key means this registry. Old ones are URLs. Those of a part of a registry, which Podman has, are left out: engines ask
/// for a registry as a whole.
fn is(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let Some(rest) = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
    else {
        return false;
    };
    rest.split('/').next() == Some(name)
}

fn read(path: &Path) -> Result<Option<File>, CredentialsError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(source) => {
            return Err(CredentialsError::File {
                path: path.to_owned(),
                source,
            });
        }
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| CredentialsError::Form {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A home with these files; its path is searched before the machine's.
    fn home(files: &[(&str, &str)]) -> (tempfile::TempDir, Registries) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if name.starts_with("bin/") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let at = |path: &str| folder.path().join(path).display().to_string();
        let search = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
        let variables = HashMap::from([
            ("HOME".to_owned(), at("")),
            ("XDG_RUNTIME_DIR".to_owned(), at("run")),
            ("PATH".to_owned(), search),
        ]);
        let registries = Registries::of(&variables);
        (folder, registries)
    }

    async fn found(registries: &Registries, host: &str) -> Option<(String, String)> {
        let found = registries.lookup(host).await.unwrap();
        found.map(|one| (one.username, one.secret))
    }

    fn pair(user: &str, secret: &str) -> Option<(String, String)> {
        Some((user.to_owned(), secret.to_owned()))
    }

    #[tokio::test]
    async fn docker_s_and_podman_s_logins_are_found_and_docker_s_counts_first() {
        let auth = |text: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(text));
        let docker = format!(
            r#"{{"auths":{{"h:5000":{},"https://old.example/v1/":{},"https://index.docker.io/v1/":{},"both":{},"t":{{"identitytoken":"tok"}}}}}}"#,
            auth("u:p:w"),
            auth("o:p"),
            auth("hub:p"),
            auth("docker:p")
        );
        let podman = format!(
            r#"{{"auths":{{"both":{},"q":{},"x/name/space":{}}}}}"#,
            auth("podman:p"),
            auth("q:p"),
            auth("n:p")
        );
        let (_home, registries) = home(&[
            (".docker/config.json", &docker),
            ("run/containers/auth.json", &podman),
        ]);
        for (host, expect) in [
            ("h:5000", pair("u", "p:w")),
            ("old.example", pair("o", "p")),
            ("registry-1.docker.io", pair("hub", "p")),
            ("both", pair("docker", "p")),
            ("q", pair("q", "p")),
            ("t", pair("", "tok")),
            ("x", None),
            ("nobody", None),
        ] {
            assert_eq!(found(&registries, host).await, expect, "{host}");
        }
    }

    #[tokio::test]
    async fn helpers_are_asked_once_for_each_registry() {
        let helper = "#!/bin/sh\nread host\necho $host >> \"$(dirname \"$0\")/asked\"\ncase $host in\n\
            h) echo '{\"Username\":\"u\",\"Secret\":\"s\"}';;\n\
            t) echo '{\"Username\":\"<token>\",\"Secret\":\"tok\"}';;\n\
            bad) echo 'the vault is sealed'; exit 1;;\n\
            *) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
        let (folder, registries) = home(&[
            ("bin/docker-credential-store", helper),
            (
                ".docker/config.json",
                r#"{"credsStore":"store","credHelpers":{"other":"gone"},"auths":{"h":{}}}"#,
            ),
        ]);
        for _ in 0..2 {
            assert_eq!(found(&registries, "h").await, pair("u", "s"));
            assert_eq!(found(&registries, "t").await, pair("", "tok"));
            assert_eq!(found(&registries, "unknown").await, None);
        }
        let asked = fs::read_to_string(folder.path().join("bin/asked")).unwrap();
        assert_eq!(asked, "h\nt\nunknown\n");
        let error = registries.lookup("bad").await.unwrap_err().to_string();
        assert!(error.contains("the vault is sealed"), "{error}");
        let error = registries.lookup("other").await.unwrap_err().to_string();
        assert!(error.contains("docker-credential-gone"), "{error}");
        assert!(error.contains("install it"), "{error}");
    }

    #[tokio::test]
    async fn no_message_has_a_password() {
        for text in [
            r#"{"auths":{"h":{"auth":"aHVudGVyMg"}}}"#,
            r#"{"auths":{"h":{"password":"hunter2","username":7}}}"#,
            r#"{"auths":{"h":{"auth":"hunter2!"}}}"#,
        ] {
            let (_home, registries) = home(&[(".docker/config.json", text)]);
            let error = registries.lookup("h").await.unwrap_err();
            let shown = format!("{error} {error:?} {registries:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("config.json"), "{shown}");
        }
        let entry = r#"{"auths":{"h":{"username":"u","password":"hunter2"}}}"#;
        let (_home, registries) = home(&[(".docker/config.json", entry)]);
        let one = registries.lookup("h").await.unwrap();
        assert!(one.is_some());
        assert!(!format!("{one:?} {registries:?}").contains("hunter2"));
    }

    #[test]
    fn proxies_of_docker_s_configuration_become_build_arguments() {
        let (_home, registries) = home(&[(
            ".docker/config.json",
            r#"{"proxies":{"default":{"httpProxy":"http://p","noProxy":"x"}}}"#,
        )]);
        let proxies = registries.proxies().unwrap();
        let names: Vec<_> = proxies.keys().map(String::as_str).collect();
        assert_eq!(names, ["HTTP_PROXY", "NO_PROXY", "http_proxy", "no_proxy"]);
    }
}
