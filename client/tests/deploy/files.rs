//! Reads the files in `deploy/` as systemd, Compose and Kubernetes do, as far as it takes to know what they start.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use serde_norway::Value;

/// A program with exactly its flags and variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Launch {
    /// Puts this machine's address or path for the one in the file. What isn't in the file any more is an error.
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        let mut found = false;
        for text in [&mut self.program]
            .into_iter()
            .chain(&mut self.args)
            .chain(self.env.values_mut())
        {
            found |= text.contains(from);
            *text = text.replace(from, to);
        }
        assert!(found, "nothing names {from} any more: {self:?}");
        self
    }
}

/// A file of `deploy/`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

pub fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// A systemd service: what it starts, and its credentials as (id, file).
pub fn systemd(unit: &str, env_file: &str) -> (Launch, Vec<(String, String)>) {
    let settings: Vec<(String, String)> = assignments(&read(unit));
    let all = |key: &str| -> Vec<String> {
        let found = settings.iter().filter(|(name, _)| name == key);
        found.map(|(_, value)| value.clone()).collect()
    };
    let only = |key: &str| {
        let values = all(key);
        assert_eq!(values.len(), 1, "{unit}: {key}");
        values.into_iter().next().expect("one")
    };
    let mut words = only("ExecStart");
    assert!(
        !words.contains(['"', '\'', '\\', '$']),
        "{unit}: this test splits at spaces alone: {words}"
    );
    let mut words = std::mem::take(&mut words)
        .split_whitespace()
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter();
    let program = words.next().expect("a program");
    let env_path = only("EnvironmentFile");
    assert_eq!(
        Path::new(&env_path).file_name(),
        Path::new(env_file).file_name(),
        "{unit}"
    );
    let credentials = all("LoadCredential").into_iter().map(|value| {
        let (id, path) = value.split_once(':').expect("ID:PATH");
        (id.to_owned(), path.to_owned())
    });
    let launch = Launch {
        program,
        args: words.collect(),
        env: assignments(&read(env_file)).into_iter().collect(),
    };
    (launch, credentials.collect())
}

/// `KEY=VALUE` lines, as in units and environment files.
fn assignments(text: &str) -> Vec<(String, String)> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
    lines
        .map(|line| {
            let (key, value) = line
                .split_once('=')
                .unwrap_or_else(|| panic!("no assignment: {line}"));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Variables as in `.env`.
pub type Variables = BTreeMap<String, String>;

/// The variables of `example.env`, as they are there.
pub fn example_env() -> Variables {
    assignments(&read("example.env")).into_iter().collect()
}

/// A service of `compose.yaml`, and the files of its secrets by their name in the container.
pub fn compose(service: &str, variables: &Variables) -> (Launch, BTreeMap<String, String>) {
    let file: Value = serde_norway::from_str(&read("compose.yaml")).expect("YAML");
    let about = &file["services"][service];
    let target = text(&about["build"]["target"]);
    let mut env = BTreeMap::new();
    if let Some(entries) = about["environment"].as_mapping() {
        env.extend(
            entries
                .iter()
                .map(|(key, value)| (text(key), interpolate(&text(value), variables))),
        );
    }
    let args = list(&about["command"])
        .iter()
        .map(|arg| interpolate(arg, variables))
        .collect();
    let secrets = list(&about["secrets"]).into_iter().map(|name| {
        let file = text(&file["secrets"][name.as_str()]["file"]);
        (name, file)
    });
    (
        Launch {
            program: entrypoint(&target),
            args,
            env,
        },
        secrets.collect(),
    )
}

/// `${NAME}`, `${NAME:?why}` and `${NAME:-default}`.
fn interpolate(text: &str, variables: &Variables) -> String {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once('}').expect("a closing brace");
        let (name, default) = match inner.split_once(':') {
            None => (inner, None),
            Some((name, rule)) => (name, rule.strip_prefix('-')),
        };
        let value = variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
            .or(default);
        out.push_str(value.unwrap_or_else(|| panic!("{name} is not set")));
        out.push_str(rest);
    }
    out
}

/// The program that an image of `Dockerfile` starts.
fn entrypoint(target: &str) -> String {
    let dockerfile = read("Dockerfile");
    let from = format!(" AS {target}\n");
    let (_, stage) = dockerfile
        .split_once(&from)
        .unwrap_or_else(|| panic!("Dockerfile has no stage {target}"));
    let stage = stage.split("\nFROM ").next().unwrap_or_default();
    let entry = stage
        .lines()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "))
        .expect("an entrypoint");
    let words: Vec<String> = serde_json::from_str(entry).expect("a JSON list");
    assert!(
        stage.contains(&format!("/out{} {}", words[0], words[0])),
        "{target}: not copied"
    );
    assert_eq!(words.len(), 1, "flags are in the files that start it");
    words.into_iter().next().expect("one")
}

/// The container `name` of `kubernetes/croft.yaml`; what comes from elsewhere in the cluster is in `from`, by its name there.
pub fn kubernetes(name: &str, from: &BTreeMap<&str, &str>) -> Launch {
    let container = documents("kubernetes/croft.yaml")
        .iter()
        .flat_map(|document| {
            document["spec"]["template"]["spec"]["containers"]
                .as_sequence()
                .cloned()
                .unwrap_or_default()
        })
        .find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("no container {name}"));
    let value = |entry: &Value| match entry["value"].as_str() {
        Some(value) => value.to_owned(),
        None => {
            let source = &entry["valueFrom"];
            let key = match source["fieldRef"]["fieldPath"].as_str() {
                Some(field) => field.to_owned(),
                None => format!(
                    "{}/{}",
                    text(&source["secretKeyRef"]["name"]),
                    text(&source["secretKeyRef"]["key"])
                ),
            };
            from.get(key.as_str())
                .unwrap_or_else(|| panic!("{name}: {key} is not set"))
                .to_string()
        }
    };
    let env = container["env"].as_sequence().cloned().unwrap_or_default();
    let image = text(&container["image"]);
    assert!(image.contains(&format!("/croft/{name}:")), "{image}");
    Launch {
        program: entrypoint(name),
        args: list(&container["args"]),
        env: env
            .iter()
            .map(|entry| (text(&entry["name"]), value(entry)))
            .collect(),
    }
}

fn documents(name: &str) -> Vec<Value> {
    let all = read(name);
    let documents = serde_norway::Deserializer::from_str(&all)
        .map(|one| Value::deserialize(one).expect("YAML"));
    documents.collect()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value:?}"))
        .to_owned()
}

fn list(value: &Value) -> Vec<String> {
    value
        .as_sequence()
        .unwrap_or_else(|| panic!("no list: {value:?}"))
        .iter()
        .map(text)
        .collect()
}
