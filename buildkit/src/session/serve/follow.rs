//! Where paths lead that a build follows: a `COPY` of a link needs the link, all that is on the way, and what it leads to. Everything within
//! the folder; a link that leads out of it is resolved as if the folder were the root, as BuildKit does.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{
    gopath::{Glob, clean, clean_within, parent},
    walk::WalkError,
};

/// The paths to include for those that are followed, in order; `None` if one leads to the root, so that they narrow nothing down.
pub(super) fn resolved(root: &Path, followed: &[String]) -> Result<Option<Vec<String>>, WalkError> {
    let mut found = BTreeSet::new();
    // Not by recursion: a chain of links is as long as somebody made it.
    let mut waiting: Vec<String> = followed.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        let path = clean_within(&path);
        follow(root, &path, &mut found, &mut waiting)?;
    }
    let all = found.contains(".");
    Ok((!all).then(|| found.into_iter().collect()))
}

/// Goes along one path up to the first link, whose target is followed later.
fn follow(
    root: &Path,
    path: &str,
    found: &mut BTreeSet<String>,
    waiting: &mut Vec<String>,
) -> Result<(), WalkError> {
    let mut rest = Some(path);
    let mut current = String::new();
    while let Some(way) = rest {
        let (part, after) = match way.split_once('/') {
            Some((part, after)) => (part, Some(after)),
            None => (way, None),
        };
        if !current.is_empty() {
            current.push('/');
        }
        current.push_str(part);
        let targets = targets(root, &current)?;
        rest = after;
        if targets.is_empty() && rest.is_some() {
            continue;
        }
        let place = if current.is_empty() { "." } else { &current };
        if !found.insert(place.to_owned()) {
            return Ok(());
        }
        let after = after.unwrap_or_default();
        waiting.extend(
            targets
                .into_iter()
                .rev()
                .map(|target| format!("{target}/{after}")),
        );
        return Ok(());
    }
    Ok(())
}

/// What the links of this name, or of names of this form, lead to.
fn targets(root: &Path, path: &str) -> Result<Vec<String>, WalkError> {
    let folder = parent(path);
    let name = path.rsplit('/').next().unwrap_or_default();
    if !has_wildcards(name) {
        return Ok(target(root, path)?.into_iter().collect());
    }
    let Ok(glob) = Glob::parse(name) else {
        return Ok(Vec::new());
    };
    let real = root.join(folder);
    let entries = match fs::read_dir(&real) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WalkError::read(real, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| WalkError::read(&real, e))?;
        // Only links count, and a name that is not UTF-8 can't be sent.
        if let Ok(name) = entry.file_name().into_string()
            && glob.matches(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut targets = Vec::new();
    for name in names {
        let path = if folder.is_empty() {
            name
        } else {
            format!("{folder}/{name}")
        };
        targets.extend(target(root, &path)?);
    }
    Ok(targets)
}

/// What a link leads to, within the root; `None` if it is no link.
fn target(root: &Path, path: &str) -> Result<Option<String>, WalkError> {
    if path.is_empty() {
        return Ok(None);
    }
    let real = root.join(path);
    match fs::symlink_metadata(&real) {
        Ok(found) if found.is_symlink() => {}
        Ok(_) => return Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(e) => return Err(WalkError::read(real, e)),
    }
    let to = fs::read_link(&real).map_err(|e| WalkError::read(&real, e))?;
    let to = clean(&to.to_string_lossy());
    Ok(Some(match to.starts_with('/') {
        true => to,
        false => format!("{}/{to}", parent(path)),
    }))
}

fn has_wildcards(name: &str) -> bool {
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}
