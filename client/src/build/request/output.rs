//! Results: exporters with their attributes, where what they send goes here, tags, annotations, and attestations.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{StandardOutput, Surroundings};
use crate::build::{error::BuildError, flags::BuildFlags, place, words};

/// What becomes of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exporter {
    /// BuildKit's name for it: `image`, `local`, `tar`, `oci`, `docker`.
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
    /// Where what it sends goes.
    pub destination: Destination,
}

/// Where an exporter's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nothing comes back to the client.
    Elsewhere,
    /// Into a folder.
    Folder(PathBuf),
    /// Into a folder, in which nothing else is to be left.
    Mirror(PathBuf),
    /// Into a folder of OCI's layout, as an image that is added to those that are there.
    Layout(PathBuf),
    /// Into a file.
    File(PathBuf),
    /// To standard output.
    Output,
    /// Into this machine's Docker or Podman.
    Load,
}

pub(super) fn exporters(
    flags: &BuildFlags,
    around: &Surroundings,
) -> Result<Vec<Exporter>, BuildError> {
    let mut exporters = Vec::new();
    let mut nothing = false;
    for text in flags.output.iter().filter(|text| !text.is_empty()) {
        match exporter(text, flags, around)? {
            Some(exporter) => exporters.push(exporter),
            None => nothing = true,
        }
    }
    if nothing && !exporters.is_empty() {
        return Err(BuildError::usage(
            "--output=type=cacheonly is no output at all: leave the others, or it, out",
        ));
    }
    if flags.push {
        take_push(&mut exporters);
    }
    let loads = |e: &Exporter| e.destination == Destination::Load;
    if flags.load && !exporters.iter().any(loads) {
        exporters.push(Exporter {
            kind: "docker".to_owned(),
            attrs: BTreeMap::new(),
            destination: Destination::Load,
        });
    }
    let streams = |e: &&Exporter| e.destination == Destination::Output;
    if exporters.iter().filter(streams).count() > 1 {
        return Err(BuildError::usage(
            "only one output can go to standard output: give the others a dest=…",
        ));
    }
    let fills = |e: &&Exporter| matches!(e.destination, Destination::Layout(_));
    if exporters.iter().filter(fills).count() > 1 {
        return Err(BuildError::usage(
            "only one output can have tar=false: make archives of the others",
        ));
    }
    let has_file = |e: &Exporter| matches!(e.kind.as_str(), "local" | "tar");
    if flags.iidfile.is_some() && exporters.iter().any(has_file) {
        return Err(BuildError::usage(
            "--iidfile is about images, and outputs of type local and tar are none: leave one out",
        ));
    }
    name(flags, &mut exporters)?;
    let annotations = annotations(&flags.annotation)?;
    for exporter in &mut exporters {
        exporter.attrs.extend(annotations.clone());
    }
    Ok(exporters)
}

/// One `--output`; none if its type says that there is to be none.
fn exporter(
    text: &str,
    flags: &BuildFlags,
    around: &Surroundings,
) -> Result<Option<Exporter>, BuildError> {
    let wrong = |why: &str| BuildError::usage(format!("--output {text}: {why}"));
    let fields = words::fields(text).ok_or_else(|| wrong("a quote is in the wrong place"))?;
    let mut attrs = BTreeMap::new();
    let mut dest = None;
    let mut kind = String::new();
    match &fields[..] {
        [only] if only == "-" => (kind, dest) = ("tar".to_owned(), Some("-".to_owned())),
        [only] if only == text && !only.starts_with("type=") => {
            (kind, dest) = ("local".to_owned(), Some(only.clone()));
        }
        fields => {
            for field in fields {
                let (key, value) = field
                    .split_once('=')
                    .ok_or_else(|| wrong("write type=… and further options as key=value"))?;
                match key.trim().to_ascii_lowercase().as_str() {
                    "type" => kind = value.to_owned(),
                    "dest" => dest = Some(value.to_owned()),
                    key => {
                        attrs.insert(key.to_owned(), value.to_owned());
                    }
                }
            }
        }
    }
    let dest = dest.filter(|dest| !dest.is_empty());
    let destination = match kind.as_str() {
        "" => {
            return Err(wrong(
                "the type is missing: add type=registry, local, tar, oci or docker",
            ));
        }
        "cacheonly" => return Ok(None),
        "registry" => {
            kind = "image".to_owned();
            attrs.insert("push".to_owned(), "true".to_owned());
            attrs
                .entry("unpack".to_owned())
                .or_insert_with(|| "false".to_owned());
            Destination::Elsewhere
        }
        "image" => Destination::Elsewhere,
        "local" => {
            let path = folder(dest.as_deref(), around).map_err(wrong)?;
            let mode = attrs.get("mode").map_or("", |mode| mode.trim());
            match mode.to_ascii_lowercase().as_str() {
                "" | "copy" => Destination::Folder(path),
                "delete" if may_delete(&path, flags, around) => Destination::Mirror(path),
                "delete" => {
                    return Err(wrong(&format!(
                        "whatever else is in {} would be deleted: give a folder below the working folder, or say that you mean it with --allow={DELETE}",
                        path.display()
                    )));
                }
                _ => return Err(wrong("there are the modes copy and delete")),
            }
        }
        "tar" => stream(dest.as_deref().or(Some("-")), around).map_err(|why| wrong(&why))?,
        "oci" | "docker" => {
            if attrs.contains_key("context") {
                return Err(wrong(
                    "context=… is not supported: set DOCKER_HOST or DOCKER_CONTEXT instead",
                ));
            }
            if attrs.get("tar").and_then(|tar| words::truth(tar)) == Some(false) {
                Destination::Layout(folder(dest.as_deref(), around).map_err(wrong)?)
            } else {
                let dest = dest.as_deref().or((kind == "oci").then_some("-"));
                stream(dest, around).map_err(|why| wrong(&why))?
            }
        }
        other => {
            return Err(wrong(&format!(
                "{other:?} is no type of output: use registry, image, local, tar, oci or docker"
            )));
        }
    };
    if kind == "image" && dest.is_some() {
        return Err(wrong("an image goes to its registry: leave dest out"));
    }
    Ok(Some(Exporter {
        kind,
        attrs,
        destination,
    }))
}

fn folder(dest: Option<&str>, around: &Surroundings) -> Result<PathBuf, &'static str> {
    let dest = dest.ok_or("dest is missing: add the folder, dest=…")?;
    if dest == "-" {
        return Err("a folder cannot go to standard output: give one as dest, or make an archive");
    }
    let path = around.path(dest);
    match path.exists() && !path.is_dir() {
        true => Err("dest is a file: give a folder"),
        false => Ok(path),
    }
}

/// What allows a build to delete files of its client's outside of the working folder. The name is buildx's.
pub(super) const DELETE: &str = "buildx.local.delete";

/// Whether what is in a folder may be deleted: if it is one below the working folder, or if the user says so.
fn may_delete(path: &Path, flags: &BuildFlags, around: &Surroundings) -> bool {
    let allowed = flags.allow.iter().any(|name| name == DELETE);
    let inside = || {
        let working = resolved(&around.folder)?;
        let below = resolved(path)?
            .strip_prefix(working)
            .ok()?
            .components()
            .count()
            > 0;
        below.then_some(())
    };
    allowed || inside().is_some()
}

/// Where a path leads, as far as it is there. `None` if that can't be told.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path;
    let found = loop {
        match std::fs::canonicalize(there) {
            Ok(found) => break found,
            // A link that leads nowhere is there all the same.
            Err(_) if there.is_symlink() => return None,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                missing.push(there.file_name()?);
                there = there.parent()?;
            }
            Err(_) => return None,
        }
    };
    Some(found.join(missing.into_iter().rev().collect::<PathBuf>()))
}

fn stream(dest: Option<&str>, around: &Surroundings) -> Result<Destination, String> {
    match dest {
        None => Ok(Destination::Load),
        Some("-") if around.output == StandardOutput::Terminal => Err(
            "an archive is nothing for a terminal: give a file, dest=…, or redirect standard output"
                .to_owned(),
        ),
        Some("-") => Ok(Destination::Output),
        Some(dest) => {
            let path = around.path(dest);
            match path.is_dir() {
                true => Err("dest is a folder: give a file".to_owned()),
                false => Ok(Destination::File(path)),
            }
        }
    }
}

/// `--push` makes image outputs push; without one it adds one.
fn take_push(exporters: &mut Vec<Exporter>) {
    if !exporters.iter().any(|e| e.kind == "image") {
        exporters.push(Exporter {
            kind: "image".to_owned(),
            attrs: BTreeMap::new(),
            destination: Destination::Elsewhere,
        });
    }
    for exporter in exporters.iter_mut().filter(|e| e.kind == "image") {
        let attrs = &mut exporter.attrs;
        attrs.insert("push".to_owned(), "true".to_owned());
        attrs
            .entry("unpack".to_owned())
            .or_insert_with(|| "false".to_owned());
    }
}

fn name(flags: &BuildFlags, exporters: &mut [Exporter]) -> Result<(), BuildError> {
    for tag in &flags.tag {
        if let Some(flaw) = place::flaw_of_name(tag) {
            return Err(BuildError::usage(format!(
                "--tag {tag} can be no image's name: {flaw}"
            )));
        }
    }
    for exporter in exporters {
        let attrs = &mut exporter.attrs;
        let takes_names = matches!(exporter.kind.as_str(), "image" | "oci" | "docker");
        if takes_names && !flags.tag.is_empty() {
            attrs.insert("name".to_owned(), flags.tag.join(","));
        }
        let pushes = attrs.get("push").and_then(|push| words::truth(push)) == Some(true);
        if exporter.kind == "image" && pushes && attrs.get("name").is_none_or(String::is_empty) {
            return Err(BuildError::usage(
                "an image is pushed under a name, and there is none: add --tag registry/repository:tag",
            ));
        }
    }
    Ok(())
}

/// A `docker` archive has one image; where several platforms are wanted, OCI's has an index.
pub(super) fn check_platforms(exporters: &[Exporter], platforms: usize) -> Result<(), BuildError> {
    let single = exporters.iter().find(|e| e.kind == "docker");
    match single {
        Some(e) if platforms > 1 && e.destination != Destination::Load => Err(BuildError::usage(
            "an archive of type docker has one image, and there are several platforms: use type=oci",
        )),
        _ => Ok(()),
    }
}

/// Annotations as exporters' attributes.
fn annotations(given: &[String]) -> Result<BTreeMap<String, String>, BuildError> {
    let mut annotations = BTreeMap::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let wrong = |why: &str| BuildError::usage(format!("--annotation {text}: {why}"));
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("write key=value"))?;
        let Some((levels, key)) = key.split_once(':') else {
            annotations.insert(format!("annotation.{key}"), value.to_owned());
            continue;
        };
        for level in levels.split(',') {
            let (kind, platform) = match level.strip_suffix(']').and_then(|l| l.split_once('[')) {
                Some((kind, platform)) => (kind, Some(platform)),
                None => (level, None),
            };
            let attribute = match (kind, platform) {
                ("manifest" | "manifest-descriptor", Some(platform)) => {
                    format!("annotation-{kind}[{platform}].{key}")
                }
                ("manifest" | "manifest-descriptor", None) => format!("annotation-{kind}.{key}"),
                ("index" | "index-descriptor", _) => format!("annotation-{kind}.{key}"),
                _ => {
                    return Err(wrong(
                        "before the colon goes manifest, index, manifest-descriptor or index-descriptor",
                    ));
                }
            };
            annotations.insert(attribute, value.to_owned());
        }
    }
    Ok(annotations)
}

/// Attestations that are wanted, each with its options as one line. The first of a type counts.
pub(super) fn attestations(flags: &BuildFlags) -> Result<BTreeMap<String, String>, BuildError> {
    let short = |kind: &str, value: &Option<String>| {
        let value = value.as_deref().filter(|value| !value.is_empty())?;
        Some(match words::truth(value) {
            Some(on) => format!("type={kind},disabled={}", !on),
            None => format!("type={kind},{value}"),
        })
    };
    let all = flags.attest.iter().cloned();
    let all = all.chain(short("provenance", &flags.provenance));
    let mut seen = BTreeMap::new();
    for text in all.chain(short("sbom", &flags.sbom)) {
        let wrong = || {
            BuildError::usage(format!(
                "the attestation {text:?} can't be read: write type=sbom or type=provenance, and options as key=value"
            ))
        };
        let mut kind = None;
        let mut off = false;
        let mut options = BTreeMap::new();
        for field in words::fields(&text).ok_or_else(wrong)? {
            let (key, value) = field.split_once('=').ok_or_else(wrong)?;
            match key.trim().to_ascii_lowercase().as_str() {
                "type" => kind = Some(value.to_owned()),
                "disabled" => off = words::truth(value).ok_or_else(wrong)?,
                _ => {
                    options.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        let kind = kind.filter(|kind| !kind.is_empty()).ok_or_else(wrong)?;
        let pairs = options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let line = words::line(std::iter::once(("type", kind.as_str())).chain(pairs));
        seen.entry(kind).or_insert((!off).then_some(line));
    }
    let wanted = seen.into_iter().filter_map(|(k, line)| Some((k, line?)));
    Ok(wanted.collect())
}
