//! An image's files as a model: its layers applied in memory, whiteouts included, so that owners, devices and attributes can be compared
//! without making any of them on this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Read,
};

use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};

/// The one extended attribute that travels with a result from engine to engine.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// What a path is, all but its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    kind: Kind,
    /// With setuid, setgid and sticky.
    mode: u32,
    owner: (u64, u64),
    /// Seconds since 1970; none where it was made by a build, which is at another time on either side.
    modified: Option<u64>,
    /// The raw value of `security.capability`.
    capability: Option<String>,
    /// The other names of the same file.
    others: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    File {
        size: u64,
        hash: String,
        start: String,
    },
    Link(String),
    Character(u32, u32),
    Block(u32, u32),
    Pipe,
}

/// The files of an image, by their paths without a slash in front.
#[derive(Debug, Default)]
pub struct Tree {
    /// A path's place in `nodes`: the names of one file share one.
    paths: BTreeMap<String, usize>,
    nodes: Vec<Node>,
}

impl Tree {
    /// The layers (uncompressed tars), lowest first, applied. What was modified at `since` (seconds after 1970) or later was made by the build.
    #[track_caller]
    pub fn of(layers: &[Vec<u8>], since: u64) -> Tree {
        let mut tree = Tree::default();
        for layer in layers {
            tree.hide(layer);
            let mut archive = Archive::new(layer.as_slice());
            for entry in archive.entries().expect("a tar") {
                tree.add(entry.expect("a tar's entry"), since);
            }
        }
        tree
    }

    /// Takes away what a layer's whiteouts name. They mean the layers below, wherever in the tar they stand.
    fn hide(&mut self, layer: &[u8]) {
        let mut archive = Archive::new(layer);
        for entry in archive.entries().expect("a tar") {
            let path = path_of(&entry.expect("a tar's entry"));
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == OPAQUE {
                self.clear(folder);
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                let hidden = below(folder, hidden);
                self.clear(&hidden);
                self.paths.remove(&hidden);
            }
        }
    }

    fn add<R: Read>(&mut self, mut entry: Entry<'_, R>, since: u64) {
        let path = path_of(&entry);
        let (_, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name.starts_with(WHITEOUT) {
            return;
        }
        let header = entry.header().clone();
        let kind = header.entry_type();
        if kind == EntryType::Link {
            let target = link_of(&entry);
            let same = *self
                .paths
                .get(clean(&target))
                .unwrap_or_else(|| panic!("{path} links to {target}, which is not there"));
            self.put(path, same);
            return;
        }
        let number = |value: std::io::Result<Option<u32>>| {
            value.expect("a number").expect("a device has one")
        };
        let device = || (number(header.device_major()), number(header.device_minor()));
        let modified = header.mtime().expect("a time");
        let mut node = Node {
            kind: Kind::Folder,
            mode: header.mode().expect("a mode") & 0o7777,
            owner: (
                header.uid().expect("a user"),
                header.gid().expect("a group"),
            ),
            modified: (modified < since).then_some(modified),
            capability: capability(&mut entry),
            others: BTreeSet::new(),
        };
        node.kind = match kind {
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Link(link_of(&entry)),
            EntryType::Char => Kind::Character(device().0, device().1),
            EntryType::Block => Kind::Block(device().0, device().1),
            EntryType::Fifo => Kind::Pipe,
            EntryType::Regular | EntryType::Continuous => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("a file's content");
                let start = &content[..content.len().min(120)];
                Kind::File {
                    size: content.len() as u64,
                    hash: hex::encode(Sha256::digest(&content)),
                    start: String::from_utf8_lossy(start).into_owned(),
                }
            }
            other => panic!("{path} is a {other:?}"),
        };
        self.nodes.push(node);
        self.put(path, self.nodes.len() - 1);
    }

    fn put(&mut self, path: String, node: usize) {
        if self.nodes[node].kind != Kind::Folder {
            self.clear(&path);
        }
        self.paths.insert(path, node);
    }

    /// Takes away all that is below a folder.
    fn clear(&mut self, folder: &str) {
        let start = below(folder, "");
        self.paths
            .retain(|path, _| path.is_empty() || !path.starts_with(&start));
    }

    /// Everything by its path.
    pub fn nodes(&self) -> BTreeMap<&str, Node> {
        let mut names: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (path, node) in &self.paths {
            names.entry(*node).or_default().insert(path.clone());
        }
        let complete = |(path, node): (&'_ String, &usize)| {
            let mut others = names[node].clone();
            others.remove(path);
            Node {
                others,
                ..self.nodes[*node].clone()
            }
        };
        self.paths
            .iter()
            .map(|(path, node)| (path.as_str(), complete((path, node))))
            .collect()
    }

    /// What is different in another tree, one line for each path and side.
    pub fn differences(&self, other: &Tree, names: [&str; 2]) -> Vec<String> {
        let (one, two) = (self.nodes(), other.nodes());
        let paths: BTreeSet<&str> = one.keys().chain(two.keys()).copied().collect();
        let tell = |node: Option<&Node>| node.map_or("nothing".to_owned(), Node::to_string);
        paths
            .into_iter()
            .filter(|path| one.get(path) != two.get(path))
            .flat_map(|path| {
                [(names[0], one.get(path)), (names[1], two.get(path))]
                    .map(|(name, node)| format!("/{path} {name}: {}", tell(node)))
            })
            .collect()
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn clean(path: &str) -> &str {
    path.trim_start_matches("./")
        .trim_matches('/')
        .trim_end_matches("/.")
}

fn path_of<R: Read>(entry: &Entry<'_, R>) -> String {
    let path = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
    match clean(&path) {
        "." => String::new(),
        path => path.to_owned(),
    }
}

fn link_of<R: Read>(entry: &Entry<'_, R>) -> String {
    let target = entry.link_name_bytes().expect("a link has a target");
    String::from_utf8(target.into_owned()).expect("UTF-8")
}

fn capability<R: Read>(entry: &mut Entry<'_, R>) -> Option<String> {
    let mut extensions = entry.pax_extensions().expect("readable")?;
    extensions.find_map(|extension| {
        let extension = extension.expect("a PAX record");
        (extension.key_bytes() == CAPABILITY.as_bytes())
            .then(|| hex::encode(extension.value_bytes()))
    })
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Folder => write!(f, "folder")?,
            Kind::File { size, hash, start } => {
                write!(f, "file of {size} bytes {} {start:?}", &hash[..8])?;
            }
            Kind::Link(target) => write!(f, "link to {target}")?,
            Kind::Character(major, minor) => write!(f, "character device {major},{minor}")?,
            Kind::Block(major, minor) => write!(f, "block device {major},{minor}")?,
            Kind::Pipe => write!(f, "pipe")?,
        }
        let (user, group) = self.owner;
        write!(f, ", mode {:o}, owner {user}:{group}", self.mode)?;
        match self.modified {
            Some(seconds) => write!(f, ", modified {seconds}")?,
            None => write!(f, ", modified by the build")?,
        }
        if let Some(capability) = &self.capability {
            write!(f, ", capability {capability}")?;
        }
        if !self.others.is_empty() {
            write!(
                f,
                ", also {}",
                self.others.iter().cloned().collect::<Vec<_>>().join(" ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    /// `path kind text`: `d` a folder, `f` a file, `l` a link, `h` another name, each changed at 5 seconds after 1970.
    fn layer(entries: &[(&str, char, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(5);
            header.set_size(0);
            match kind {
                'd' => header.set_entry_type(EntryType::Directory),
                'f' => header.set_size(text.len() as u64),
                'l' => header.set_entry_type(EntryType::Symlink),
                _ => header.set_entry_type(EntryType::Link),
            }
            match kind {
                'd' | 'f' => {
                    header.set_path(path).unwrap();
                    header.set_cksum();
                    builder.append(&header, text.as_bytes()).unwrap();
                }
                _ => builder.append_link(&mut header, path, text).unwrap(),
            }
        }
        builder.into_inner().unwrap()
    }

    fn paths(layers: &[Vec<u8>]) -> Vec<String> {
        let tree = Tree::of(layers, 10);
        tree.paths.into_keys().collect()
    }

    #[test]
    fn whiteouts_take_away_what_is_below_them_and_nothing_of_their_own_layer() {
        let low = layer(&[
            ("a", 'd', ""),
            ("a/x", 'f', "1"),
            ("a/y", 'f', "1"),
            ("ab", 'f', "1"),
        ]);
        let file = layer(&[("a/.wh.x", 'f', "")]);
        assert_eq!(paths(&[low.clone(), file]), ["a", "a/y", "ab"]);
        let folder = layer(&[(".wh.a", 'f', "")]);
        assert_eq!(paths(&[low.clone(), folder]), ["ab"]);
        let opaque = layer(&[
            ("a", 'd', ""),
            ("a/z", 'f', "2"),
            ("a/.wh..wh..opq", 'f', ""),
        ]);
        assert_eq!(paths(&[low.clone(), opaque]), ["a", "a/z", "ab"]);
        let file_for_folder = layer(&[("a", 'f', "2")]);
        assert_eq!(paths(&[low, file_for_folder]), ["a", "ab"]);
    }

    #[test]
    fn every_property_counts_as_a_difference() {
        let tree = |entries: &[(&str, char, &str)]| Tree::of(&[layer(entries)], 10);
        let base = [
            ("a", 'f', "1"),
            ("b", 'f', "1"),
            ("l", 'l', "a"),
            ("d", 'd', ""),
        ];
        assert!(
            tree(&base)
                .differences(&tree(&base), ["one", "two"])
                .is_empty()
        );
        for changed in [
            ("b", 'f', "2"),
            ("b", 'f', ""),
            ("b", 'l', "a"),
            ("b", 'd', ""),
            ("b", 'h', "a"),
            ("l", 'l', "b"),
            ("new", 'f', ""),
        ] {
            let mut entries = base.to_vec();
            entries.push(changed);
            let told = tree(&base).differences(&tree(&entries), ["one", "two"]);
            assert!(!told.is_empty(), "{changed:?}");
        }
        let headers: [fn(&mut Node); 4] = [
            |node| node.mode = 0o4755,
            |node| node.owner = (0, 1),
            |node| node.modified = None,
            |node| node.capability = Some("01".to_owned()),
        ];
        for change in headers {
            let mut other = tree(&base);
            change(&mut other.nodes[0]);
            assert_eq!(tree(&base).differences(&other, ["one", "two"]).len(), 2);
        }
    }
}
