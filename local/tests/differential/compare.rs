//! Two published images, or lists of them, held beside each other: all that a puller gets but the times at which it was made.

use std::{collections::BTreeSet, io::Read as _};

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::{
    support::{Published, Repository},
    tree::Tree,
};

/// What is different between what the farm published and what one engine did; empty if nothing is.
#[track_caller]
pub fn differences(farm: &Side, plain: &Side) -> Vec<String> {
    let mut told = Vec::new();
    let (one, two) = (&farm.published, &plain.published);
    if one.is_list() != two.is_list() || one.media_type != two.media_type {
        return vec![format!(
            "published by the farm: {}; by one engine: {}",
            one.media_type, two.media_type
        )];
    }
    if !one.is_list() {
        image("", farm, plain, &mut told);
        return told;
    }
    let [list, other] = [one, two].map(|published| list(&published.document));
    values("index", &list, &other, &mut told);
    if one.manifests().len() == two.manifests().len() {
        for at in 0..one.manifests().len() {
            let platform = one.platforms()[at].clone();
            image(&platform, &farm.of_list(at), &plain.of_list(at), &mut told);
        }
    }
    told
}

/// What one of the two published.
#[derive(Debug)]
pub struct Side {
    repository: Repository,
    published: Published,
    /// When the tests began, in seconds after 1970.
    since: u64,
}

impl Side {
    /// What is under a tag or a digest; what was modified later than `since` was made by the build.
    #[track_caller]
    pub fn of(repository: &Repository, reference: &str, since: u64) -> Side {
        Side {
            repository: repository.clone(),
            published: repository.published(reference),
            since,
        }
    }

    #[track_caller]
    fn of_list(&self, at: usize) -> Side {
        let descriptor = &self.published.manifests()[at];
        Side::of(&self.repository, text(&descriptor["digest"]), self.since)
    }

    #[track_caller]
    fn config(&self) -> Value {
        let blob = self
            .repository
            .blob(text(&self.published.document["config"]["digest"]));
        serde_json::from_slice(&blob).expect("JSON")
    }

    #[track_caller]
    fn tree(&self) -> Tree {
        let layers = self.published.document["layers"].as_array();
        let layers = layers.into_iter().flatten().map(|descriptor| {
            let blob = self.repository.blob(text(&descriptor["digest"]));
            let kind = text(&descriptor["mediaType"]);
            assert!(kind.ends_with("gzip"), "a layer is {kind}");
            let mut tar = Vec::new();
            GzDecoder::new(blob.as_slice())
                .read_to_end(&mut tar)
                .expect("gzip");
            tar
        });
        Tree::of(&layers.collect::<Vec<_>>(), self.since)
    }
}

#[track_caller]
fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

fn image(platform: &str, farm: &Side, plain: &Side, told: &mut Vec<String>) {
    let at = |what: &str| format!("{platform} {what}").trim_start().to_owned();
    let [one, two] = [farm, plain].map(|side| manifest(&side.published.document));
    values(&at("manifest"), &one, &two, told);
    let [one, two] = [farm, plain].map(|side| config(side.config()));
    values(&at("config"), &one, &two, told);
    let files = farm.tree().differences(&plain.tree(), ["farm", "plain"]);
    told.extend(files.into_iter().map(|line| at(&line)));
}

/// An index without what follows from the layers.
fn list(document: &Value) -> Value {
    let mut document = document.clone();
    for descriptor in document["manifests"].as_array_mut().into_iter().flatten() {
        without(descriptor, &["digest", "size"]);
    }
    document
}

/// A manifest without what follows from the layers.
fn manifest(document: &Value) -> Value {
    let mut document = document.clone();
    without(&mut document["config"], &["digest", "size"]);
    for descriptor in document["layers"].as_array_mut().into_iter().flatten() {
        without(descriptor, &["digest", "size"]);
    }
    document
}

/// A config without times and with the number of its layers in the place of their digests.
fn config(mut config: Value) -> Value {
    without(&mut config, &["created"]);
    for entry in config["history"].as_array_mut().into_iter().flatten() {
        without(entry, &["created"]);
    }
    let layers = config["rootfs"]["diff_ids"].as_array().map(Vec::len);
    config["rootfs"]["diff_ids"] = json!(layers);
    config
}

fn without(value: &mut Value, names: &[&str]) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !names.contains(&name.as_str()));
    }
}

/// One line for each field that differs.
fn values(at: &str, one: &Value, two: &Value, told: &mut Vec<String>) {
    match (one, two) {
        (Value::Object(one), Value::Object(two)) => {
            let names: BTreeSet<_> = one.keys().chain(two.keys()).collect();
            for name in names {
                let [one, two] = [one, two].map(|fields| fields.get(name).unwrap_or(&Value::Null));
                values(&format!("{at}.{name}"), one, two, told);
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (index, (one, two)) in one.iter().zip(two).enumerate() {
                values(&format!("{at}[{index}]"), one, two, told);
            }
        }
        _ if one == two => {}
        _ => told.extend([format!("{at} farm: {one}"), format!("{at} plain: {two}")]),
    }
}

#[test]
fn everything_but_times_and_digests_is_held_beside_each_other() {
    let base = json!({
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["A=1"], "User": "x"},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "RUN"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
    });
    let told = |change: fn(&mut Value)| {
        let mut other = base.clone();
        change(&mut other);
        let mut told = Vec::new();
        values("config", &config(base.clone()), &config(other), &mut told);
        told.len()
    };
    assert_eq!(told(|other| other["created"] = json!("now")), 0);
    assert_eq!(
        told(|other| other["history"][0]["created"] = json!("now")),
        0
    );
    assert_eq!(
        told(|other| other["rootfs"]["diff_ids"][0] = json!("sha256:11")),
        0
    );
    assert_eq!(told(|other| other["rootfs"]["diff_ids"] = json!([])), 2);
    assert_eq!(told(|other| other["config"]["Env"][0] = json!("A=2")), 2);
    assert_eq!(
        told(|other| other["config"]["Env"] = json!(["A=1", "B=2"])),
        2
    );
    assert_eq!(told(|other| without(&mut other["config"], &["User"])), 2);
    assert_eq!(told(|other| other["config"]["New"] = json!(1)), 2);
}
