//! A little file system, and copies in it as BuildKit's engine makes them: enough of both to tell whether a part of a result looks to
//! those who read it as the whole does. Times, owners and hard links are left out: they go wherever a file's mode goes.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::{ExecOp, FileAction, FileActionCopy, FileOp, file_action::Action};

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(u8),
    Link(String),
    Folder(Folder),
}

/// A folder with its mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    pub mode: u32,
    pub children: BTreeMap<String, Node>,
}

/// What an engine would have refused to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

/// The parts of a path, cleaned without looking at links.
fn parts(path: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

impl Folder {
    /// What is at a path none of whose parts is a link.
    pub fn at(&self, path: &[String]) -> Option<Node> {
        let mut here = Node::Folder(self.clone());
        for part in path {
            here = match here {
                Node::Folder(folder) => folder.children.get(part)?.clone(),
                _ => return None,
            };
        }
        Some(here)
    }

    /// The path with all links in it followed, within this root. What isn't there is taken for no link.
    pub fn resolved(&self, path: &str) -> Result<Vec<String>, Refused> {
        let mut done: Vec<String> = Vec::new();
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            done.push(part);
            if let Some(Node::Link(target)) = self.at(&done) {
                links += 1;
                if links > 40 {
                    return refused("too many links");
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        Ok(done)
    }

    fn resolved_but_the_end(&self, path: &str) -> Result<Vec<String>, Refused> {
        let mut all = parts(path);
        let Some(last) = all.pop() else {
            return Ok(Vec::new());
        };
        let mut folder = self.resolved(&all.join("/"))?;
        folder.push(last);
        Ok(folder)
    }

    /// Makes folders that aren't there. A link on the way would lead an engine elsewhere, so there may be none.
    fn make_all(&mut self, path: &[String]) -> Result<(), Refused> {
        let mut here = self;
        for part in path {
            let child = here.children.entry(part.clone()).or_insert_with(|| {
                Node::Folder(Folder {
                    mode: 0o755,
                    ..Folder::default()
                })
            });
            here = match child {
                Node::Folder(folder) => folder,
                Node::File(_) => return refused(format!("{part} is no folder")),
                Node::Link(_) => panic!("a copy would go through a link at {path:?}"),
            };
        }
        Ok(())
    }

    fn folder_mut(&mut self, path: &[String]) -> Option<&mut Folder> {
        let mut here = self;
        for part in path {
            here = match here.children.get_mut(part)? {
                Node::Folder(folder) => folder,
                _ => return None,
            };
        }
        Some(here)
    }
}

/// One name against a shell's pattern of `*`, `?` and letters.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            fits(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, name)| fits(pattern, name))
        }
        ([b'?', rest @ ..], [_, name @ ..]) => fits(rest, name),
        ([letter, rest @ ..], [first, name @ ..]) => letter == first && fits(rest, name),
        _ => false,
    }
}

/// Whether a path, or one above it, fits one of the patterns of an include or exclude list.
fn listed(patterns: &[String], path: &[String]) -> bool {
    patterns.iter().any(|pattern| {
        let pattern = parts(pattern);
        path.len() >= pattern.len()
            && pattern
                .iter()
                .zip(path)
                .all(|(pattern, name)| fits(pattern.as_bytes(), name.as_bytes()))
    })
}

fn copy_action(from: &Folder, onto: &mut Folder, copy: &FileActionCopy) -> Result<(), Refused> {
    let is_pattern = |part: &String| part.contains(['*', '?', '[']);
    let src = parts(&copy.src);
    let first = src
        .iter()
        .position(is_pattern)
        .filter(|_| copy.allow_wildcard);
    let sources = match first {
        None => vec![src.join("/")],
        Some(first) => {
            let folder = src[..first].join("/");
            let folder = match copy.follow_symlink {
                true => from.resolved(&folder)?,
                false => from.resolved_but_the_end(&folder)?,
            };
            let pattern = &src[first..];
            let mut found = Vec::new();
            match from.at(&folder) {
                None => return refused(format!("{folder:?} is not there")),
                Some(Node::Folder(folder_node)) => matches(&folder_node, pattern, &[], &mut found),
                Some(_) => {}
            }
            if found.is_empty() && !copy.allow_empty_wildcard {
                return refused("nothing fits");
            }
            let absolute = |path: Vec<String>| [folder.clone(), path].concat().join("/");
            found.into_iter().map(absolute).collect()
        }
    };
    sources
        .iter()
        .try_for_each(|source| copy_one(from, source, onto, copy))
}

/// The paths that fit, those under one that fits left out.
fn matches(folder: &Folder, pattern: &[String], at: &[String], found: &mut Vec<Vec<String>>) {
    for (name, child) in &folder.children {
        let path = [at, std::slice::from_ref(name)].concat();
        if path.len() == pattern.len() && listed(&[pattern.join("/")], &path) {
            found.push(path);
        } else if let Node::Folder(child) = child {
            matches(child, pattern, &path, found);
        }
    }
}

fn copy_one(
    from: &Folder,
    source: &str,
    onto: &mut Folder,
    copy: &FileActionCopy,
) -> Result<(), Refused> {
    let mut dest = onto.resolved(&copy.dest)?;
    let parent = dest.len().saturating_sub(1);
    if !copy.create_dest_path && onto.at(&dest[..parent]).is_none() {
        return refused("where it should go is not there");
    }
    let ensured = match copy.dest.ends_with('/') {
        true => dest.clone(),
        false => dest[..parent].to_vec(),
    };
    onto.make_all(&ensured)?;
    let resolved = match copy.follow_symlink {
        true => from.resolved(source)?,
        false => from.resolved_but_the_end(source)?,
    };
    let Some(node) = from.at(&resolved) else {
        return refused(format!("{source} is not there"));
    };
    let is_folder = matches!(node, Node::Folder(_));
    let there = onto.at(&dest);
    let into = match (&there, is_folder) {
        (Some(_), true) => !copy.dir_copy_contents,
        (Some(Node::Folder(_)), false) => true,
        _ => false,
    };
    if into {
        // The root has no name, so that it goes where it is told.
        dest.extend(parts(source).pop());
    }
    let made = match copy.dir_copy_contents && is_folder && there.is_none() {
        true => dest.len(),
        false => dest.len().saturating_sub(1),
    };
    onto.make_all(&dest[..made])?;
    let mut copier = Copier {
        copy,
        onto,
        pending: Vec::new(),
    };
    copier.copy(&node, &[], &dest, Existing::Stays)
}

/// What becomes of a folder's mode that is there already.
#[derive(Clone, Copy, PartialEq)]
enum Existing {
    Stays,
    Replaced,
}

struct Copier<'a> {
    copy: &'a FileActionCopy,
    onto: &'a mut Folder,
    /// Folders on the way that are made only if something in them is copied.
    pending: Vec<(Vec<String>, u32)>,
}

impl Copier<'_> {
    fn copy(
        &mut self,
        node: &Node,
        at: &[String],
        dest: &[String],
        existing: Existing,
    ) -> Result<(), Refused> {
        let wanted = at.is_empty()
            || ((self.copy.include_patterns.is_empty() || listed(&self.copy.include_patterns, at))
                && !listed(&self.copy.exclude_patterns, at));
        if wanted {
            for (path, mode) in std::mem::take(&mut self.pending) {
                self.make(&path, mode, existing)?;
            }
        }
        let Node::Folder(folder) = node else {
            return match wanted {
                true => self.put(node, dest),
                false => Ok(()),
            };
        };
        let before = self.pending.clone();
        match wanted {
            true => self.make(dest, folder.mode, existing)?,
            false => self.pending.push((dest.to_vec(), folder.mode)),
        }
        if listed(&self.copy.exclude_patterns, at) && !at.is_empty() {
            self.pending = before;
            return Ok(());
        }
        for (name, child) in &folder.children {
            let name = std::slice::from_ref(name);
            let (at, dest) = ([at, name].concat(), [dest, name].concat());
            self.copy(child, &at, &dest, Existing::Replaced)?;
        }
        // What was made of them is made; the others are of no use beyond here.
        self.pending.retain(|pending| before.contains(pending));
        Ok(())
    }

    fn make(&mut self, dest: &[String], mode: u32, existing: Existing) -> Result<(), Refused> {
        let Some((name, parent)) = dest.split_last() else {
            return Ok(());
        };
        let there = self.onto.at(dest);
        let parent = self.onto.folder_mut(parent).expect("it was made");
        match there {
            None => {
                let made = Folder {
                    mode,
                    ..Folder::default()
                };
                parent.children.insert(name.clone(), Node::Folder(made));
            }
            Some(Node::Folder(_)) => {
                if let (Existing::Replaced, Some(Node::Folder(folder))) =
                    (existing, parent.children.get_mut(name))
                {
                    folder.mode = mode;
                }
            }
            Some(_) => return refused("no folder there"),
        }
        Ok(())
    }

    fn put(&mut self, node: &Node, dest: &[String]) -> Result<(), Refused> {
        if matches!(self.onto.at(dest), Some(Node::Folder(_))) {
            return refused("a folder is there");
        }
        let (name, parent) = dest.split_last().expect("a file has a name");
        let parent = self.onto.folder_mut(parent).expect("it was made");
        parent.children.insert(name.clone(), node.clone());
        Ok(())
    }
}

/// What a command finds in its own places of the paths of `input` that are mounted there.
pub fn mounted(exec: &ExecOp, input: &Folder) -> Result<Folder, Refused> {
    let mut found = Folder::default();
    for mount in exec.mounts.iter().filter(|mount| mount.input == 0) {
        let Some(node) = input.at(&input.resolved(&mount.selector)?) else {
            return refused(format!("{} is not there", mount.selector));
        };
        found.children.insert(mount.dest.clone(), node);
    }
    Ok(found)
}

/// What a file op makes of its inputs (its first output).
pub fn run(op: &FileOp, inputs: &[Folder]) -> Result<Folder, Refused> {
    let scratch = || Folder {
        mode: 0o755,
        ..Folder::default()
    };
    let mut made: Vec<Folder> = Vec::new();
    for FileAction {
        input,
        secondary_input,
        action,
        ..
    } in &op.actions
    {
        let at = |place: i64, made: &[Folder]| match usize::try_from(place) {
            Err(_) => scratch(),
            Ok(place) if place < inputs.len() => inputs[place].clone(),
            Ok(place) => made[place - inputs.len()].clone(),
        };
        let mut onto = at(*input, &made);
        match action {
            Some(Action::Copy(copy)) => {
                copy_action(&at(*secondary_input, &made), &mut onto, copy)?;
            }
            Some(Action::Mkdir(mkdir)) => onto.make_all(&parts(&mkdir.path))?,
            other => panic!("no test makes {other:?}"),
        }
        made.push(onto);
    }
    let output = op.actions.iter().position(|action| action.output == 0);
    Ok(made.swap_remove(output.expect("an output")))
}
