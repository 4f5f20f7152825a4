//! What the flags ask for, as BuildKit's API wants it: a frontend with its attributes, exporters, caches, and what the client's session
//! has to share for it. Reads the flags, the environment, standard input and this machine's folders; speaks to no farm.
//!
//! The names of attributes are those that buildx and BuildKit's clients use (`build/opt.go`, `client/solve.go`).

mod call;
mod input;
mod node;
mod output;
mod steps;
mod vcs;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use croft_buildkit::{gateway::BuildRef, session::SessionId};
use tempfile::TempDir;

pub use self::{
    call::{Form, Question, Verdict},
    output::{Destination, Exporter},
};
use super::{error::BuildError, flags::BuildFlags, words};

/// What a build is made from besides its flags.
pub struct Surroundings {
    /// Where relative paths begin.
    pub folder: PathBuf,
    /// The environment.
    pub variables: HashMap<String, String>,
    /// Standard input.
    pub input: Box<dyn Read + Send>,
    /// What is known of standard output.
    pub output: StandardOutput,
    /// Build arguments about proxies that the user's Docker configuration gives to every build.
    pub proxies: BTreeMap<String, String>,
}

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardOutput {
    /// A terminal, for which archives are nothing.
    Terminal,
    /// A file or a pipe.
    Other,
}

/// A build to be asked for.
pub struct Request {
    /// The build's reference, which the client chooses.
    pub reference: BuildRef,
    /// The frontend: `dockerfile.v0`, or `gateway.v0` for one that is an image.
    pub frontend: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
    /// What becomes of the result; the exporter's index in the list is its name in the session.
    pub exporters: Vec<Exporter>,
    /// Where cache is looked for.
    pub cache_from: Vec<Cache>,
    /// Where cache is put.
    pub cache_to: Vec<Cache>,
    /// What the build may do beyond the ordinary.
    pub entitlements: Vec<String>,
    /// A question for the frontend, instead of a build.
    pub question: Option<Question>,
    /// Attestations that are wanted, by type; only farms that can make them take these.
    pub attestations: BTreeMap<String, String>,
    /// What the session has to share.
    pub shares: Shares,
}

/// A cache, as BuildKit names one.
#[derive(Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its type: `registry`, `local` and so on.
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

/// What a build may ask its client for.
#[derive(Default)]
pub struct Shares {
    /// The session's id.
    pub session: Option<SessionId>,
    /// Decides which copies of local folders on the engines are brought up to date instead of sent anew.
    pub shared_key: String,
    /// Folders, by the names of local sources.
    pub folders: BTreeMap<String, PathBuf>,
    /// Where secrets are, by id.
    pub secrets: BTreeMap<String, SecretPlace>,
    /// SSH agents by id: at a socket, or the user's own.
    pub ssh: BTreeMap<String, Option<PathBuf>>,
    /// OCI layout folders, by the names of their stores.
    pub layouts: BTreeMap<String, PathBuf>,
    /// A tar archive on standard input that is the context.
    pub archive: Option<Box<dyn Read + Send>>,
    /// Folders that are needed as long as the build.
    pub(super) kept: Vec<TempDir>,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable(String),
}

/// Attributes may be tokens and keys, and build arguments whatever people put there.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("reference", &self.reference)
            .field("frontend", &self.frontend)
            .field("attrs", &self.attrs.keys())
            .field("exporters", &self.exporters)
            .field("cache_from", &self.cache_from)
            .field("cache_to", &self.cache_to)
            .field("entitlements", &self.entitlements)
            .field("question", &self.question)
            .field("shares", &self.shares)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("kind", &self.kind)
            .field("attrs", &self.attrs.keys())
            .finish()
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares")
            .field("shared_key", &self.shared_key)
            .field("folders", &self.folders)
            .field("secrets", &self.secrets)
            .field("ssh", &self.ssh)
            .field("layouts", &self.layouts)
            .field("archive", &self.archive.is_some())
            .finish_non_exhaustive()
    }
}

impl Surroundings {
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A path as the user means it.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }
}

impl Request {
    /// Reads what is asked for. Standard input is read if the flags name it.
    ///
    /// # Errors
    /// Flags that are wrong or ask for what croft can't do, and files that can't be used.
    pub fn read(flags: &BuildFlags, around: &mut Surroundings) -> Result<Self, BuildError> {
        if flags.no_cache && !flags.no_cache_filter.is_empty() {
            return Err(BuildError::usage(
                "--no-cache and --no-cache-filter cannot be used together: leave one out",
            ));
        }
        let question = call::question(flags)?;
        let args = build_args(flags, around)?;
        let mut request = Self {
            reference: BuildRef::unique(),
            frontend: "dockerfile.v0".to_owned(),
            attrs: BTreeMap::new(),
            exporters: output::exporters(flags, around)?,
            cache_from: caches(&flags.cache_from, around)?,
            cache_to: caches(&flags.cache_to, around)?,
            entitlements: steps::entitlements(flags)?,
            question,
            attestations: output::attestations(flags)?,
            shares: Shares {
                session: Some(SessionId::unique()),
                secrets: steps::secrets(flags, around)?,
                ssh: steps::ssh(flags, around)?,
                ..Shares::default()
            },
        };
        request.take_build_args(args)?;
        for label in &flags.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            key_of(label, key)?;
            request.set(format!("label:{key}"), value);
        }
        input::read(flags, around, &mut request)?;
        request.take_node(around);
        steps::attrs(flags, &mut request.attrs)?;
        let platforms = platforms(flags, around);
        if !platforms.is_empty() {
            request.set("platform", platforms.join(","));
        }
        if flags.pull {
            request.set("image-resolve-mode", "pull");
        }
        if let Some(target) = flags.target.as_deref().filter(|target| !target.is_empty()) {
            request.set("target", target);
        }
        if !flags.no_cache_filter.is_empty() {
            request.set("no-cache", flags.no_cache_filter.join(","));
        }
        if flags.no_cache {
            request.set("no-cache", "");
        }
        request.take_caches()?;
        output::check_platforms(&request.exporters, platforms.len())?;
        let facts = vcs::facts(&around.path(&flags.context), &request.shares.folders);
        request.attrs.extend(facts);
        Ok(request)
    }

    fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.attrs.insert(key.into(), value.into());
    }

    /// Notes that a frontend must be able to do something, or refuse.
    fn require(&mut self, capability: &str) {
        let all = self.attrs.entry("frontend.caps".to_owned()).or_default();
        if all.split(',').any(|one| one == capability) {
            return;
        }
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(capability);
    }

    fn take_build_args(&mut self, args: BTreeMap<String, String>) -> Result<(), BuildError> {
        if let Some(line) = args.get("BUILDKIT_SYNTAX") {
            let line = line.trim();
            let Some(image) = line.split(' ').next().filter(|image| !image.is_empty()) else {
                return Err(BuildError::usage(
                    "--build-arg BUILDKIT_SYNTAX= names no image of a frontend: give one, or leave it out",
                ));
            };
            self.frontend = "gateway.v0".to_owned();
            self.set("source", image);
            self.set("cmdline", line);
        }
        let wanted = |name: &str| args.get(name).and_then(|value| words::truth(value));
        if wanted("BUILDKIT_MULTI_PLATFORM") == Some(true) {
            self.set("multi-platform", "true");
        }
        if wanted("BUILDKIT_INLINE_CACHE") == Some(true) {
            self.cache_to.push(Cache {
                kind: "inline".to_owned(),
                attrs: BTreeMap::new(),
            });
        }
        for (name, value) in args {
            self.set(format!("build-arg:{name}"), value);
        }
        Ok(())
    }

    /// Folders of the same name on two machines are not the same folder.
    fn take_node(&mut self, around: &Surroundings) {
        let node = node::id(around);
        if !self.shares.shared_key.is_empty() {
            self.shares.shared_key += &format!(":{node}");
        }
        for (key, value) in &mut self.attrs {
            if key.starts_with("sharedkey:localdir:") {
                *value += &format!(":{node}");
            }
        }
    }

    /// The frontend is told of caches as well, and local ones are shared.
    fn take_caches(&mut self) -> Result<(), BuildError> {
        if self.cache_from.is_empty() {
            return Ok(());
        }
        for cache in &mut self.cache_from {
            if cache.kind != "local" {
                continue;
            }
            let folder = cache
                .attrs
                .get("src")
                .filter(|src| !src.is_empty())
                .cloned();
            let Some(folder) = folder else {
                return Err(BuildError::usage(
                    "--cache-from type=local needs the folder: add src=…",
                ));
            };
            if !cache.attrs.contains_key("digest") {
                let tag = cache.attrs.get("tag").map_or("latest", String::as_str);
                let digest = input::resolve(Path::new(&folder), Some(tag), "--cache-from")?;
                cache.attrs.insert("digest".to_owned(), digest);
            }
            self.shares
                .layouts
                .insert(format!("local:{folder}"), folder.into());
        }
        let told: Vec<_> = self
            .cache_from
            .iter()
            .map(|cache| serde_json::json!({"Type": cache.kind, "Attrs": cache.attrs}))
            .collect();
        self.set("cache-imports", serde_json::Value::from(told).to_string());
        Ok(())
    }
}

/// `a` of `a=b`, which may not be nothing.
fn key_of(whole: &str, key: &str) -> Result<(), BuildError> {
    match key.is_empty() {
        false => Ok(()),
        true => Err(BuildError::usage(format!(
            "{whole:?} has no name before the =: write name=value"
        ))),
    }
}

/// Build arguments: those without a value are the environment's, and are left out where that has none.
fn build_args(
    flags: &BuildFlags,
    around: &Surroundings,
) -> Result<BTreeMap<String, String>, BuildError> {
    let mut args = BTreeMap::new();
    for arg in &flags.build_arg {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), around.variable(arg)),
        };
        key_of(arg, name)?;
        if let Some(value) = value {
            args.insert(name.to_owned(), value.to_owned());
        }
    }
    let epoch = "SOURCE_DATE_EPOCH";
    if let Some(value) = around.variable(epoch).filter(|value| !value.is_empty()) {
        args.entry(epoch.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    for (name, value) in &around.proxies {
        if !args.keys().any(|given| given.eq_ignore_ascii_case(name)) {
            args.insert(name.clone(), value.clone());
        }
    }
    Ok(args)
}

fn platforms(flags: &BuildFlags, around: &Surroundings) -> Vec<String> {
    let default = around
        .variable("DOCKER_DEFAULT_PLATFORM")
        .map(str::to_owned);
    let given = match flags.platform.is_empty() {
        true => default.as_slice(),
        false => &flags.platform,
    };
    let mut platforms = Vec::new();
    for name in given.iter().flat_map(|list| list.split(',')) {
        let name = match name.trim() {
            "" => continue,
            "local" => format!("linux/{}", own_architecture()),
            name => name.to_owned(),
        };
        if !platforms.contains(&name) {
            platforms.push(name);
        }
    }
    platforms
}

/// This machine's architecture as images name it.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "x86" => "386",
        other => other,
    }
}

fn caches(given: &[String], around: &Surroundings) -> Result<Vec<Cache>, BuildError> {
    let mut caches = Vec::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let wrong = |why: &str| BuildError::usage(format!("the cache {text:?} {why}"));
        let fields = words::fields(text).ok_or_else(|| wrong("has a quote in the wrong place"))?;
        if !text.contains('=') {
            caches.extend(fields.into_iter().map(|image| Cache {
                kind: "registry".to_owned(),
                attrs: BTreeMap::from([("ref".to_owned(), image)]),
            }));
            continue;
        }
        let mut attrs = BTreeMap::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(wrong("is no list of key=value"));
            };
            attrs.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let Some(kind) = attrs.remove("type").filter(|kind| !kind.is_empty()) else {
            return Err(wrong("has no type: add type=registry, type=local, …"));
        };
        if kind == "gha" && !take_github(&mut attrs, around) {
            continue;
        }
        if let Some(folder) = attrs.get_mut("src").filter(|_| kind == "local") {
            *folder = around.path(&*folder).display().to_string();
        }
        caches.push(Cache { kind, attrs });
    }
    Ok(caches)
}

/// What a job of GitHub Actions knows of its cache; elsewhere there is none, and the flag means nothing, as for buildx.
fn take_github(attrs: &mut BTreeMap<String, String>, around: &Surroundings) -> bool {
    let newer = around
        .variable("ACTIONS_CACHE_SERVICE_V2")
        .is_some_and(|on| words::truth(on) == Some(true));
    let newer = attrs.get("version").map_or(newer, |version| version == "2");
    let mut default = |key: &str, names: &[&str]| {
        let value = names.iter().find_map(|name| around.variable(name));
        if let (false, Some(value)) = (attrs.contains_key(key), value) {
            attrs.insert(key.to_owned(), value.to_owned());
        }
    };
    default("token", &["ACTIONS_RUNTIME_TOKEN"]);
    if newer {
        default("url_v2", &["ACTIONS_RESULTS_URL"]);
    }
    default("url", &["ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL"]);
    let has = |key: &str| attrs.get(key).is_some_and(|value| !value.is_empty());
    has("token") && (has("url") || has("url_v2"))
}

#[cfg(test)]
mod tests;
