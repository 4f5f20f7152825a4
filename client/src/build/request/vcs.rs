//! Which commit a local context is of, for the frontend and the farm's records. Asks git; where there is none, or the context is in no
//! repository, nothing is known, which hinders no build.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The `vcs:` attributes: revision, source, and where in the repository the shared folders are.
pub(super) fn facts(
    context: &Path,
    folders: &BTreeMap<String, PathBuf>,
) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    if !context.is_dir() {
        return facts;
    }
    let Some(root) = git(context, &["rev-parse", "--show-toplevel"]) else {
        return facts;
    };
    if let Some(commit) = git(context, &["rev-parse", "--verify", "--quiet", "HEAD"]) {
        facts.insert("vcs:revision".to_owned(), commit);
    }
    if let Some(url) = git(context, &["ls-remote", "--get-url"]) {
        // Without a remote git says back what it looked for.
        if url != "origin" {
            facts.insert("vcs:source".to_owned(), without_login(&url));
        }
    }
    for (name, folder) in folders {
        let inside = folder.canonicalize().ok();
        let inside = inside.as_deref().and_then(|f| f.strip_prefix(&root).ok());
        if let Some(inside) = inside.and_then(Path::to_str) {
            let inside = if inside.is_empty() { "." } else { inside };
            facts.insert(format!("vcs:localdir:{name}"), inside.to_owned());
        }
    }
    facts
}

fn git(folder: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// A URL may have a name and a password in it, which are nobody else's business.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) if scheme.starts_with("http") => format!("{scheme}://{}", &rest[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_left_out() {
        for (url, expect) in [
            ("https://user:secret@h/x.git", "https://h/x.git"),
            ("https://h/a@b", "https://h/a@b"),
            ("git@h:x.git", "git@h:x.git"),
            ("ssh://git@h/x", "ssh://git@h/x"),
        ] {
            assert_eq!(without_login(url), expect);
        }
    }
}
