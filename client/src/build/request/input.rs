//! Contexts and the Dockerfile: what is shared from here, what the farm gets by itself, and what comes on standard input.

use std::{
    fs,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use croft_buildkit::session::SessionId;
use serde::Deserialize;

use super::{Request, Surroundings};
use crate::build::{
    error::BuildError,
    flags::BuildFlags,
    place::{self, Layout, Place},
};

/// The longest Dockerfile that is read from standard input, in bytes.
const DOCKERFILE_LIMIT: u64 = 16 << 20;
/// How much of standard input tells an archive from a Dockerfile: the first block of a tar archive.
const LOOK: u64 = 512;
/// Git URLs with a query need this of the frontend.
const GIT_QUERY: &str = "moby.buildkit.frontend.gitquerystring";
/// Named contexts need this.
const CONTEXTS: &str = "moby.buildkit.frontend.contexts+forward";

/// Where the Dockerfile is.
enum Dockerfile {
    /// In the context, under the name that the attribute says.
    InContext(String),
    /// In a folder here.
    Folder(PathBuf, String),
    /// This.
    Text(Vec<u8>),
}

pub(super) fn read(
    flags: &BuildFlags,
    around: &mut Surroundings,
    request: &mut Request,
) -> Result<(), BuildError> {
    let file = flags.file.as_deref().filter(|file| !file.is_empty());
    if file.is_some_and(|file| file.starts_with("http://") || file.starts_with("https://")) {
        return Err(BuildError::usage(
            "--file takes no URL: fetch the Dockerfile and give it with --file -, or give its URL as the context",
        ));
    }
    let mut local = |request: &mut Request, folder: PathBuf| -> Result<Dockerfile, BuildError> {
        if !folder.is_dir() {
            return Err(BuildError::usage(format!(
                "the context {} is no folder: give a folder, a git repository, a URL, or - for standard input",
                flags.context
            )));
        }
        request.shares.shared_key = base_name(&folder);
        request
            .shares
            .folders
            .insert("context".into(), folder.clone());
        match file {
            Some("-") => Ok(Dockerfile::Text(read_dockerfile(&mut around.input)?)),
            Some(file) => {
                let path = around.folder.join(file);
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.ok_or_else(|| {
                    BuildError::usage(format!(
                        "--file {file} names no file: give the Dockerfile's path"
                    ))
                })?;
                let parent = path.parent().unwrap_or(Path::new("/"));
                Ok(Dockerfile::Folder(parent.to_owned(), name.to_owned()))
            }
            None => Ok(Dockerfile::Folder(folder, "Dockerfile".into())),
        }
    };
    let dockerfile = match place::place(&flags.context) {
        Place::Folder(folder) => {
            let folder = if flags.context.is_empty() {
                return Err(BuildError::usage(
                    "the context is missing: give a folder, such as . for this one",
                ));
            } else {
                around.folder.join(folder)
            };
            local(request, folder)?
        }
        // What looks like a remote may be a folder: that wins, as it does for buildx.
        _ if flags.context != "-" && around.folder.join(&flags.context).is_dir() => {
            let folder = around.folder.join(&flags.context);
            local(request, folder)?
        }
        Place::Input => standard_input(file, around, request)?,
        remote @ (Place::Git { .. } | Place::Http) => {
            request.set("context", &flags.context);
            note_git(&remote, request, GIT_QUERY);
            if let Place::Git { ssh: true, .. } = remote
                && request.shares.ssh.is_empty()
            {
                request.shares.ssh.insert("default".into(), None);
            }
            match file {
                Some("-") => Dockerfile::Text(read_dockerfile(&mut around.input)?),
                Some(file) if Path::new(file).is_absolute() => {
                    request.set("dockerfilekey", "dockerfile");
                    let path = Path::new(file);
                    let name = path.file_name().and_then(|name| name.to_str());
                    let parent = path.parent().unwrap_or(Path::new("/"));
                    Dockerfile::Folder(parent.to_owned(), name.unwrap_or("Dockerfile").into())
                }
                file => Dockerfile::InContext(file.unwrap_or("Dockerfile").to_owned()),
            }
        }
        Place::Image | Place::Layout(_) => {
            return Err(BuildError::usage(
                "an image is no context by itself: name it with --build-context name=docker-image://… and give a folder as the context",
            ));
        }
    };
    take_dockerfile(dockerfile, request)?;
    for named in &flags.build_context {
        take_named(named, around, request)?;
    }
    Ok(())
}

fn take_dockerfile(dockerfile: Dockerfile, request: &mut Request) -> Result<(), BuildError> {
    let name = match dockerfile {
        Dockerfile::InContext(name) => name,
        Dockerfile::Text(text) => {
            let folder = temporary()?;
            let path = folder.path().join("Dockerfile");
            fs::write(&path, text).map_err(BuildError::file("write", &path))?;
            let shared = folder.path().to_owned();
            request.shares.folders.insert("dockerfile".into(), shared);
            request.shares.kept.push(folder);
            request.set("dockerfilekey", "dockerfile");
            "Dockerfile".to_owned()
        }
        Dockerfile::Folder(folder, name) => {
            let name = found(&folder, name)?;
            request.shares.folders.insert("dockerfile".into(), folder);
            name
        }
    };
    request.set("filename", name);
    Ok(())
}

/// The Dockerfile's name as it is written on the disk: some write it small.
fn found(folder: &Path, name: String) -> Result<String, BuildError> {
    if folder.join(&name).exists() {
        return Ok(name);
    }
    if name == "Dockerfile" && folder.join("dockerfile").exists() {
        return Ok("dockerfile".to_owned());
    }
    Err(BuildError::usage(format!(
        "there is no {name} in {}: say with --file where the Dockerfile is",
        folder.display()
    )))
}

fn standard_input(
    file: Option<&str>,
    around: &mut Surroundings,
    request: &mut Request,
) -> Result<Dockerfile, BuildError> {
    if file == Some("-") {
        return Err(BuildError::usage(
            "context and Dockerfile cannot both come on standard input: give a file for one",
        ));
    }
    let mut start = Vec::new();
    (&mut around.input)
        .take(LOOK)
        .read_to_end(&mut start)
        .map_err(BuildError::file("read", "standard input"))?;
    if start.is_empty() {
        return Err(BuildError::usage(
            "standard input is empty: pipe a tar archive or a Dockerfile into it",
        ));
    }
    let input = std::mem::replace(&mut around.input, Box::new(std::io::empty()));
    let mut whole: Box<dyn Read + Send> = Box::new(Cursor::new(start.clone()).chain(input));
    if is_archive(&start) {
        request.shares.archive = Some(whole);
        return Ok(Dockerfile::InContext(
            file.unwrap_or("Dockerfile").to_owned(),
        ));
    }
    if file.is_some() {
        return Err(BuildError::usage(
            "what is on standard input is no tar archive, so it is a Dockerfile, and --file names another: leave --file out, or give a context",
        ));
    }
    let text = read_dockerfile(&mut whole)?;
    let empty = temporary()?;
    request
        .shares
        .folders
        .insert("context".into(), empty.path().to_owned());
    request.shares.kept.push(empty);
    Ok(Dockerfile::Text(text))
}

fn read_dockerfile(input: &mut dyn Read) -> Result<Vec<u8>, BuildError> {
    let mut text = Vec::new();
    input
        .take(DOCKERFILE_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(BuildError::file("read", "standard input"))?;
    match text.len() as u64 > DOCKERFILE_LIMIT {
        false => Ok(text),
        true => Err(BuildError::usage(
            "what is on standard input is too long for a Dockerfile, and no tar archive",
        )),
    }
}

/// Whether a stream that begins so is a tar archive, perhaps compressed: in the ways that frontends know.
pub(super) fn is_archive(start: &[u8]) -> bool {
    let compressed: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    if compressed.iter().any(|magic| start.starts_with(magic)) {
        return true;
    }
    let Some(header) = start.get(..512) else {
        return false;
    };
    let (mut sum, field) = (0_u64, &header[148..156]);
    for (at, &byte) in header.iter().enumerate() {
        let inside = (148..156).contains(&at);
        sum += u64::from(if inside { b' ' } else { byte });
    }
    let digits: String = field
        .iter()
        .map(|&byte| byte as char)
        .skip_while(|&c| c == ' ')
        .take_while(|c| c.is_digit(8))
        .collect();
    u64::from_str_radix(&digits, 8) == Ok(sum)
}

fn take_named(named: &str, around: &Surroundings, request: &mut Request) -> Result<(), BuildError> {
    let Some((name, source)) = named
        .split_once('=')
        .filter(|(_, source)| !source.is_empty())
    else {
        return Err(BuildError::usage(format!(
            "--build-context {named}: write name=folder, or name=docker-image://… and the like"
        )));
    };
    let name = familiar(name).ok_or_else(|| {
        BuildError::usage(format!(
            "--build-context {named}: {name:?} can be no context's name: use small letters and digits"
        ))
    })?;
    request.require(CONTEXTS);
    let key = format!("context:{name}");
    match place::place(source) {
        remote @ (Place::Git { .. } | Place::Http | Place::Image) => {
            request.set(key, source);
            note_git(&remote, request, &format!("{GIT_QUERY}+forward"));
        }
        Place::Layout(layout) => {
            let (store, reference) = share_layout(&layout, around, named, request)?;
            request.set(key, format!("oci-layout://{store}{reference}"));
        }
        Place::Folder(_) if source.starts_with("target:") => {
            return Err(BuildError::usage(format!(
                "--build-context {named}: other targets can be named in a bake file alone; use buildx bake, or COPY --from=<stage>"
            )));
        }
        Place::Folder(folder) => {
            let folder = around.path(folder);
            if !folder.is_dir() {
                return Err(BuildError::usage(format!(
                    "--build-context {named}: {} is no folder",
                    folder.display()
                )));
            }
            // These two names are the main context's own.
            let local = match name.as_str() {
                "context" | "dockerfile" => format!("_{name}"),
                _ => name.clone(),
            };
            request.set(key, format!("local:{local}"));
            request.set(format!("sharedkey:localdir:{name}"), base_name(&folder));
            request.shares.folders.insert(local, folder);
        }
        Place::Input => {
            return Err(BuildError::usage(format!(
                "--build-context {named}: only the main context can come on standard input"
            )));
        }
    }
    Ok(())
}

/// Shares a layout under a new name, and gives that and which image of it is meant.
fn share_layout(
    layout: &Layout,
    around: &Surroundings,
    flag: &str,
    request: &mut Request,
) -> Result<(String, String), BuildError> {
    let folder = around.path(&layout.folder);
    let tag = layout.tag.as_deref();
    let digest = match &layout.digest {
        Some(digest) => digest.clone(),
        None => resolve(&folder, Some(tag.unwrap_or("latest")), flag)?,
    };
    let store = SessionId::unique().to_string();
    let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    request
        .shares
        .layouts
        .insert(format!("oci:{store}"), folder);
    Ok((store, format!("{tag}@{digest}")))
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

/// The digest of a tagged image in an OCI layout folder, or of its only one.
pub(super) fn resolve(folder: &Path, tag: Option<&str>, flag: &str) -> Result<String, BuildError> {
    let path = folder.join("index.json");
    let bytes = fs::read(&path).map_err(BuildError::file("read the OCI layout's", &path))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| {
        BuildError::Local(format!("{} is no OCI index: {error}", path.display()))
    })?;
    let named = |entry: &&Entry| {
        let name = entry.annotations.get("org.opencontainers.image.ref.name");
        let name = name.map(String::as_str);
        // Some tools write the tag alone, others the image's whole name.
        name.is_some_and(|name| {
            tag == Some(name) || name.rsplit_once(':').map(|(_, tag)| tag) == tag
        })
    };
    let entry = index.manifests.iter().find(named);
    let only = match &index.manifests[..] {
        [only] => Some(only),
        _ => None,
    };
    let entry = entry
        .or(only)
        .filter(|entry| place::is_digest(&entry.digest));
    entry.map(|entry| entry.digest.clone()).ok_or_else(|| {
        BuildError::usage(format!(
            "{flag}: {} has {} images and none tagged {}: name one by its tag or digest",
            folder.display(),
            index.manifests.len(),
            tag.unwrap_or("latest")
        ))
    })
}

fn note_git(place: &Place, request: &mut Request, capability: &str) {
    if let Place::Git { query: true, .. } = place {
        request.require(capability);
    }
}

/// A context's name as Dockerfiles mean it: it may stand for an image, so Docker Hub's prefixes and `:latest` say nothing.
fn familiar(name: &str) -> Option<String> {
    if place::flaw_of_name(name).is_some() {
        return None;
    }
    let name = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|hub| name.strip_prefix(hub))
        .map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    Some(name.strip_suffix(":latest").unwrap_or(name).to_owned())
}

fn base_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(
        || "/".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn temporary() -> Result<tempfile::TempDir, BuildError> {
    tempfile::tempdir().map_err(BuildError::file("make a folder in", std::env::temp_dir()))
}
