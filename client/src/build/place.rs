//! What the name of a context means: a folder, something remote that the farm gets by itself, an OCI layout, or standard input. The rules
//! are BuildKit's (`dfgitutil`, `gitutil`).

use std::path::PathBuf;

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder here.
    Folder(PathBuf),
    /// A git repository.
    Git {
        /// Whether it is reached over SSH.
        ssh: bool,
        /// Whether its options are in a query, which only newer frontends understand.
        query: bool,
    },
    /// A tar archive or a Dockerfile at an HTTP URL.
    Http,
    /// An image in a registry.
    Image,
    /// An image in an OCI layout folder here.
    Layout(Layout),
    /// What comes on standard input.
    Input,
}

/// An image in a folder of OCI's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The folder.
    pub(super) folder: PathBuf,
    /// Which one, by its tag.
    pub(super) tag: Option<String>,
    /// Which one, by its digest.
    pub(super) digest: Option<String>,
}

/// What a context's name means, without a look at the disk: whatever is nothing else is taken for a folder.
pub(super) fn place(name: &str) -> Place {
    if name == "-" {
        return Place::Input;
    }
    if let Some(rest) = name.strip_prefix("oci-layout://") {
        return Place::Layout(layout(rest));
    }
    if name.starts_with("docker-image://") {
        return Place::Image;
    }
    git(name).unwrap_or_else(
        || match name.starts_with("http://") || name.starts_with("https://") {
            true => Place::Http,
            false => Place::Folder(name.into()),
        },
    )
}

fn git(name: &str) -> Option<Place> {
    if name.starts_with("./") || name.starts_with("../") {
        return None;
    }
    let before_fragment = name.split('#').next().unwrap_or(name);
    let (path, query) = match before_fragment.split_once('?') {
        Some((path, query)) => (path, !query.is_empty()),
        None => (before_fragment, false),
    };
    let of = |ssh| Some(Place::Git { ssh, query });
    if name.starts_with("github.com/") {
        return of(false);
    }
    match name.split_once("://") {
        Some((scheme, _)) => match scheme.to_ascii_lowercase().as_str() {
            "ssh" => of(true),
            "git" => of(false),
            "http" | "https" if path.ends_with(".git") => of(false),
            _ => None,
        },
        None => is_scp(path).then(|| of(true)).flatten(),
    }
}

/// `user@host:path`, as scp and git write it. The user can't be left out, or any folder with a colon would be one.
fn is_scp(path: &str) -> bool {
    let Some((login, rest)) = path.split_once(':') else {
        return false;
    };
    let Some((user, host)) = login.split_once('@') else {
        return false;
    };
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    };
    plain(user) && plain(host) && !rest.is_empty()
}

fn layout(rest: &str) -> Layout {
    let mut folder = rest;
    let mut digest = None;
    let mut tag = None;
    if let Some((before, after)) = folder.rsplit_once('@')
        && is_digest(after)
    {
        (folder, digest) = (before, Some(after.to_owned()));
    }
    if let Some((before, after)) = folder.rsplit_once(':')
        && is_tag(after)
    {
        (folder, tag) = (before, Some(after.to_owned()));
    }
    Layout {
        folder: folder.into(),
        tag,
        digest,
    }
}

/// Whether a text is a digest as BuildKit writes them.
pub(super) fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// What is wrong with an image's name, if anything is: `[registry/]repository[:tag][@digest]`. What registries make of it they say themselves.
pub(super) fn flaw_of_name(name: &str) -> Option<&'static str> {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("what follows the @ is no digest");
    }
    let (repository, tag) = match name.rsplit_once(':') {
        // A colon before a slash is that of a port.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some("a tag has letters, digits, dots, dashes and underscores only");
    }
    let mut components = repository.split('/');
    let first = components.next().unwrap_or_default();
    let is_registry = repository.contains('/')
        && (first.contains(['.', ':'])
            || first == "localhost"
            || first.bytes().any(|b| b.is_ascii_uppercase()));
    let path = match is_registry {
        true => components.collect::<Vec<_>>(),
        false => repository.split('/').collect(),
    };
    let fits = |part: &&str| {
        let ends =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(part.chars().next())
            && ends(part.chars().next_back())
            && part.chars().all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
            })
    };
    (path.is_empty() || !path.iter().all(fits)).then_some(
        "a repository's name has small letters, digits, and dots, dashes and underscores between them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_apart_as_buildkit_does() {
        let git = |ssh, query| Place::Git { ssh, query };
        let folder = |name: &str| Place::Folder(name.into());
        for (name, expect) in [
            (".", folder(".")),
            ("-", Place::Input),
            ("a:b", folder("a:b")),
            ("./github.com/x/y", folder("./github.com/x/y")),
            ("github.com/x/y", git(false, false)),
            ("https://h/x.git", git(false, false)),
            ("https://h/x.git#main:sub", git(false, false)),
            ("https://h/x.git?ref=main", git(false, true)),
            ("https://h/x.tar.gz", Place::Http),
            ("http://h/Dockerfile?x=.git", Place::Http),
            ("git://h/x", git(false, false)),
            ("ssh://git@h/x", git(true, false)),
            ("git@h:x/y.git#v1", git(true, false)),
            ("docker-image://alpine", Place::Image),
        ] {
            assert_eq!(place(name), expect, "{name}");
        }
    }

    #[test]
    fn layouts_may_name_a_tag_and_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, folder, tag, wanted) in [
            ("/a/b".to_owned(), "/a/b", None, None),
            ("a:1".to_owned(), "a", Some("1"), None),
            ("a:x/b".to_owned(), "a:x/b", None, None),
            (format!("a@{digest}"), "a", None, Some(&digest)),
            (format!("a:1@{digest}"), "a", Some("1"), Some(&digest)),
        ] {
            let Place::Layout(read) = place(&format!("oci-layout://{name}")) else {
                panic!("{name}")
            };
            assert_eq!(
                (read.folder, read.tag.as_deref(), read.digest.as_ref()),
                (folder.into(), tag, wanted),
                "{name}"
            );
        }
    }

    #[test]
    fn names_of_images_are_checked_before_anything_is_built() {
        for good in [
            "a",
            "a:1",
            "h:5000/a/b",
            "h.x/a_b/c-d:V1.0",
            "localhost/x",
            "Host/x",
        ] {
            assert_eq!(flaw_of_name(good), None, "{good}");
        }
        for bad in [
            "",
            "A",
            "h.x/A",
            "a:",
            "a b",
            "a:b c",
            "a/-x",
            "a@sha256:1",
            "a,b",
            "h:5000/",
        ] {
            assert!(flaw_of_name(bad).is_some(), "{bad}");
        }
    }
}
