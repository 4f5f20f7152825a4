//! What is sent of a folder, and what isn't.

use std::{collections::BTreeSet, os::unix::fs::symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    folder
}

fn walked(root: &Path, wanted: &Wanted) -> Result<Vec<Stat>, WalkError> {
    let mut given = Vec::new();
    walk(root, wanted, &|| false, &mut |stat| {
        given.push(stat);
        Ok(())
    })?;
    Ok(given)
}

fn paths(root: &Path, wanted: &Wanted) -> Vec<String> {
    let given = walked(root, wanted).unwrap();
    given.into_iter().map(|stat| stat.path).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn files_come_in_the_order_of_their_names_folder_by_folder() {
    let folder = folder(&["b", "a/c", "a-b", "a.b", "a/b/x"]);
    assert_eq!(
        paths(folder.path(), &Wanted::default()),
        ["a", "a/b", "a/b/x", "a/c", "a-b", "a.b", "b"]
    );
}

#[test]
fn folders_on_the_way_to_what_is_wanted_come_with_it() {
    let folder = folder(&["a/b/keep", "a/b/drop", "c/drop", "z/keep/x"]);
    let wanted = Wanted {
        exclude: strings(&["*", "!**/keep"]),
        ..Wanted::default()
    };
    assert_eq!(
        paths(folder.path(), &wanted),
        ["a", "a/b", "a/b/keep", "z", "z/keep", "z/keep/x"]
    );
    let wanted = Wanted {
        include: strings(&["a/b/*", "c/none"]),
        exclude: strings(&["**/drop"]),
        ..Wanted::default()
    };
    assert_eq!(paths(folder.path(), &wanted), ["a", "a/b", "a/b/keep"]);
}

#[test]
fn links_are_followed_within_the_folder_only() {
    let folder = folder(&["real/deep/file", "other", "dir/x"]);
    let root = folder.path();
    for (link, to) in [
        ("link", "real/deep"),
        ("chain", "link"),
        ("absolute", "/other"),
        ("out", "../../../etc"),
        ("loop", "pool"),
        ("pool", "loop"),
        ("dir/one", "../other"),
    ] {
        symlink(to, root.join(link)).unwrap();
    }
    for (followed, found) in [
        (
            &["chain/file"][..],
            &["chain", "link", "real", "real/deep", "real/deep/file"][..],
        ),
        (&["absolute"], &["absolute", "other"]),
        (&["out/hostname", "../../etc/hostname"], &["out"]),
        (&["loop"], &["loop", "pool"]),
        (&["dir/*"], &["dir", "dir/one", "dir/x", "other"]),
        (&["nothing"], &[]),
    ] {
        let wanted = Wanted {
            follow: strings(followed),
            ..Wanted::default()
        };
        assert_eq!(paths(root, &wanted), found, "{followed:?}");
    }
    let wanted = Wanted {
        follow: strings(&["other", "/"]),
        ..Wanted::default()
    };
    assert_eq!(paths(root, &wanted).len(), 13, "the root is everything");
}

#[test]
fn names_of_one_file_point_at_the_first_that_is_sent() {
    let folder = folder(&["a", "b"]);
    let root = folder.path();
    fs::hard_link(root.join("a"), root.join("c")).unwrap();
    fs::hard_link(root.join("a"), root.join("d")).unwrap();
    let wanted = Wanted {
        exclude: strings(&["a"]),
        ..Wanted::default()
    };
    let given = walked(root, &wanted).unwrap();
    let links: Vec<_> = given.iter().map(|stat| stat.linkname.as_str()).collect();
    assert_eq!(links, ["", "", "c"]);
    assert!(given.iter().all(|stat| stat.uid == 0 && stat.gid == 0));
}

#[test]
fn a_name_that_is_no_text_matters_only_if_it_is_sent() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder(&["a"]);
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff.log"));
    fs::write(odd, "").unwrap();
    let refused = walked(folder.path(), &Wanted::default()).unwrap_err();
    assert!(matches!(refused, WalkError::Name(_)), "{refused}");
    let wanted = Wanted {
        exclude: strings(&["*.log"]),
        ..Wanted::default()
    };
    assert_eq!(paths(folder.path(), &wanted), ["a"]);
}

#[test]
fn attributes_are_sent() {
    let folder = folder(&["a"]);
    let path = folder.path().join("a");
    let flags = rustix::fs::XattrFlags::empty();
    let value = vec![7; 1000];
    if rustix::fs::setxattr(&path, "user.croft", &value, flags).is_ok() {
        let given = walked(folder.path(), &Wanted::default()).unwrap();
        assert_eq!(given[0].xattrs["user.croft"], value);
    }
}

/// Paths of three levels at most, made of few names, so that patterns meet them.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&["a", "b", "ab"][..]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(&["a", "b", "ab", "*", "**", "a*", "?", "[a]"][..]);
    let parts = prop::collection::vec(part, 1..4);
    (parts, any::<bool>()).prop_map(|(parts, taken_back)| {
        let sense = if taken_back { "!" } else { "" };
        format!("{sense}{}", parts.join("/"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Passing over folders must not change what is sent: every file is asked about by itself, and brings the folders that it is in.
    #[test]
    fn passing_over_folders_changes_nothing(
        files in prop::collection::btree_set(path(), 1..12),
        include in prop::collection::vec(pattern(), 0..3),
        exclude in prop::collection::vec(pattern(), 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut all = BTreeSet::new();
        for file in &files {
            let path = folder.path().join(file);
            // A file may be where a folder should be, and the other way round.
            if fs::create_dir_all(path.parent().unwrap()).is_err() {
                continue;
            }
            let _ = fs::File::create_new(path);
            all.extend(file.match_indices('/').map(|(end, _)| file[..end].to_owned()));
            all.insert(file.clone());
        }
        let asked = |patterns: &[String], path: &str| {
            let patterns = Patterns::parse(patterns.iter().map(String::as_str)).unwrap();
            patterns.mean(path)
        };
        let mut expected = BTreeSet::new();
        for path in &all {
            let included = include.is_empty() || asked(&include, path);
            if included && !asked(&exclude, path) {
                expected.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
                expected.insert(path.clone());
            }
        }
        let given = paths(folder.path(), &Wanted { include, exclude, ..Wanted::default() });
        prop_assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
