//! How much of a cut edge's result its consumers need (DESIGN.md, "Cut edges are narrowed"). What an op says it reads is exact, or it is
//! taken to read everything. How the part is made is for [`crate::chain`].
//!
//! A part must look to its consumers as the whole would. They find what they read under the path that they name, links on the way to it
//! resolved. So two paths of which one lies under the other can't be in one part, as a link within the one may lead out of it: they are cut
//! apart.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;

use crate::{
    NarrowPath, Narrowing, OpId,
    graph::Graph,
    op::{Op, decode},
};

/// What an op needs of one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All of it: it goes on from it, or nobody knows.
    Whole,
    /// What is under these paths.
    Reads(BTreeSet<Read>),
}

/// A path of an input that an op reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Read {
    /// Absolute and cleaned.
    pub path: String,
    pub links: Links,
    pub name: Name,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

/// What a link at the end of a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Links {
    /// What it points at.
    Followed,
    /// Itself.
    Kept,
    /// Itself, unless it points at an archive.
    Unpacked,
}

/// What `*`, `?` and `[` in a path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// Letters like others.
    Plain,
    /// A pattern.
    Pattern,
}

/// No file system has longer paths.
const MAX_PATH: usize = 4096;
/// Each path is a copy of its own on the producer's side.
const MAX_PATHS: usize = 1000;
/// Each cut is an image of its own. Beyond these the whole is the simpler one.
const MAX_CUTS: usize = 4;

/// A path to be cut out, and who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub path: NarrowPath,
    pub readers: BTreeSet<OpId>,
}

/// What must be cut out for those who read a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing less than the whole will do.
    Whole,
    /// These parts, in the order of their paths.
    Parts(Vec<Part>),
}

impl Cut {
    /// All that a source has, copied: what several stages read of it is never exported as it is.
    fn all_of_a_source(readers: impl IntoIterator<Item = OpId>) -> Self {
        let path = NarrowPath {
            path: "/".to_owned(),
            follow_links: true,
            include: Vec::new(),
            exclude: Vec::new(),
        };
        let readers = readers.into_iter().collect();
        Self::Parts(vec![Part { path, readers }])
    }

    pub fn narrowing(&self) -> Narrowing {
        match self {
            Self::Whole => Narrowing::Whole,
            Self::Parts(parts) => {
                Narrowing::Paths(parts.iter().map(|part| part.path.clone()).collect())
            }
        }
    }
}

/// A cut, and the ops beyond it that take what it leaves.
pub(crate) struct Shared {
    pub cut: Cut,
    /// Those whose input it is.
    pub takers: BTreeSet<OpId>,
}

/// How each crossing (an op's output that other stages need) is to be cut. `takers` are the ops beyond; each of them takes one of the cuts.
pub(crate) fn cuts(
    graph: &Graph,
    crossings: impl IntoIterator<Item = ((OpId, u32), impl IntoIterator<Item = OpId>)>,
) -> BTreeMap<(OpId, u32), Vec<Shared>> {
    let mut needs: BTreeMap<(OpId, u32), BTreeMap<OpId, Need>> = BTreeMap::new();
    let mut readers: BTreeMap<OpId, BTreeSet<(OpId, u32)>> = BTreeMap::new();
    for (crossing, takers) in crossings {
        for taker in takers {
            readers.entry(taker).or_default().insert(crossing);
        }
    }
    // Each reader is decoded once, however much it reads.
    for (reader, crossings) in readers {
        let op = &graph.ops[reader.index()];
        for (input, need) in op.inputs.iter().zip(of_inputs(op)) {
            if crossings.contains(input) {
                let known = needs.entry(*input).or_default().remove(&reader);
                let need = known.map_or(need.clone(), |known| known.and(need));
                needs.entry(*input).or_default().insert(reader, need);
            }
        }
    }
    let all = |((op, output), needs): ((OpId, u32), BTreeMap<OpId, Need>)| {
        let shared = cut_apart(graph, &needs).unwrap_or_else(|| {
            let takers: BTreeSet<OpId> = needs.into_keys().collect();
            let cut = match graph.ops[op.index()].facts.varies {
                None => Cut::Whole,
                Some(_) => Cut::all_of_a_source(takers.iter().copied()),
            };
            vec![Shared { cut, takers }]
        });
        ((op, output), shared)
    };
    needs.into_iter().map(all).collect()
}

/// What an op needs of each of its inputs, in their order.
pub(crate) fn of_inputs(op: &Op) -> Vec<Need> {
    let mut needs = Needs(vec![None; op.inputs.len()]);
    match decode(&op.bytes).ok().and_then(|op| op.op) {
        Some(pb::op::Op::File(file)) => file.actions.iter().for_each(|action| needs.action(action)),
        Some(pb::op::Op::Exec(exec)) => exec.mounts.iter().for_each(|mount| needs.mount(mount)),
        _ => {}
    }
    // What nobody speaks of may be needed in a way that isn't known.
    needs
        .0
        .into_iter()
        .map(|need| need.unwrap_or(Need::Whole))
        .collect()
}

impl Need {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Reads(mut reads), Self::Reads(more)) => {
                reads.extend(more);
                Self::Reads(reads)
            }
            _ => Self::Whole,
        }
    }
}

/// The needs found so far, by input.
struct Needs(Vec<Option<Need>>);

impl Needs {
    fn at(&mut self, input: i64) -> Option<&mut Option<Need>> {
        // Negative ones are scratch, and greater ones actions of the same op.
        usize::try_from(input)
            .ok()
            .and_then(|place| self.0.get_mut(place))
    }

    fn whole(&mut self, input: i64) {
        if let Some(need) = self.at(input) {
            *need = Some(Need::Whole);
        }
    }

    fn read(&mut self, input: i64, read: Read) {
        match self.at(input) {
            None | Some(Some(Need::Whole)) => {}
            Some(Some(Need::Reads(reads))) => drop(reads.insert(read)),
            Some(need @ None) => *need = Some(Need::Reads(BTreeSet::from([read]))),
        }
    }

    fn action(&mut self, action: &pb::FileAction) {
        use pb::file_action::Action;
        self.whole(action.input);
        let owner = match &action.action {
            Some(Action::Copy(copy)) => {
                self.read(action.secondary_input, copied(copy));
                copy.owner.as_ref()
            }
            other => {
                self.whole(action.secondary_input);
                match other {
                    Some(Action::Mkfile(file)) => file.owner.as_ref(),
                    Some(Action::Mkdir(dir)) => dir.owner.as_ref(),
                    Some(Action::Symlink(link)) => link.owner.as_ref(),
                    _ => None,
                }
            }
        };
        let Some(owner) = owner else { return };
        for (user, file) in [(&owner.user, "/etc/passwd"), (&owner.group, "/etc/group")] {
            if let Some(pb::user_opt::User::ByName(named)) =
                user.as_ref().and_then(|user| user.user.as_ref())
            {
                self.read(named.input, Read::plain(file));
            }
        }
    }

    fn mount(&mut self, mount: &pb::Mount) {
        const NO_OUTPUT: i64 = -1;
        let selector = cleaned(&mount.selector);
        // Engines follow links before they go back, unlike in what is copied.
        let goes_back = mount.selector.split('/').any(|part| part == "..");
        let is_a_part = mount.mount_type == i32::from(pb::MountType::Bind)
            && selector != "/"
            && !goes_back
            && mount.dest != "/"
            && (mount.readonly || mount.output == NO_OUTPUT);
        match is_a_part {
            true => self.read(mount.input, Read::plain(&selector)),
            false => self.whole(mount.input),
        }
    }
}

impl Read {
    fn plain(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            links: Links::Followed,
            name: Name::Plain,
            include: Vec::new(),
            exclude: Vec::new(),
        }
    }
}

fn copied(copy: &pb::FileActionCopy) -> Read {
    Read {
        path: cleaned(&copy.src),
        links: match (
            copy.follow_symlink,
            copy.attempt_unpack_docker_compatibility,
        ) {
            (true, _) => Links::Followed,
            (false, true) => Links::Unpacked,
            (false, false) => Links::Kept,
        },
        name: match copy.allow_wildcard {
            true => Name::Pattern,
            false => Name::Plain,
        },
        include: copy.include_patterns.clone(),
        exclude: copy.exclude_patterns.clone(),
    }
}

/// The path from `/`, without `.`, `..`, doubled slashes and those at its end.
pub(crate) fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The folder that a path is in; `/` is in itself.
pub(crate) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        None | Some(("", _)) => "/",
        Some((parent, _)) => parent,
    }
}

/// Whether a path of a [`NarrowPath`] ends in a pattern. No other path with these letters is ever narrowed.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// What one read takes to be cut out. `None` if only the whole will do.
fn narrow_path(read: &Read) -> Option<NarrowPath> {
    let follow_links = match read.links {
        Links::Followed => true,
        Links::Kept => false,
        Links::Unpacked => return None,
    };
    let is_readable = read.path.len() <= MAX_PATH && !read.path.contains('\\');
    let may_have_letters = read.name == Name::Pattern && !is_pattern(parent(&read.path));
    if !is_readable || (is_pattern(&read.path) && !may_have_letters) {
        return None;
    }
    Some(NarrowPath {
        path: read.path.clone(),
        follow_links,
        include: read.include.clone(),
        exclude: read.exclude.clone(),
    })
}

/// The cuts for these readers. `None` if only the whole will do.
fn cut_apart(graph: &Graph, needs: &BTreeMap<OpId, Need>) -> Option<Vec<Shared>> {
    // In an order that doesn't hang on that of the targets.
    let mut readers: Vec<OpId> = needs.keys().copied().collect();
    readers.sort_by_key(|reader| &graph.ops[reader.index()].digest);
    let mut pieces: Vec<Piece> = Vec::new();
    for reader in readers {
        let Need::Reads(reads) = &needs[&reader] else {
            return None;
        };
        let mut own = Piece::default();
        for path in reads.iter().map(narrow_path) {
            own = own.with(path?, reader)?;
        }
        match pieces.iter().position(|piece| piece.goes_with(&own)) {
            Some(place) => pieces[place].join(own),
            None if pieces.len() == MAX_CUTS => return None,
            None => pieces.push(own),
        }
    }
    pieces.into_iter().map(Piece::finish).collect()
}

/// Paths that can be cut out together.
#[derive(Default)]
struct Piece {
    parts: BTreeMap<(String, bool), Part>,
    /// What the paths take up: themselves, or the folder of a pattern, which may stand for anything there.
    taken: BTreeMap<String, (String, bool)>,
    takers: BTreeSet<OpId>,
}

impl Piece {
    /// Takes in a path. `None` if it lies under another, or another under it.
    fn with(mut self, path: NarrowPath, reader: OpId) -> Option<Self> {
        self.takers.insert(reader);
        let key = (path.path.clone(), path.follow_links);
        if let Some(part) = self.parts.get_mut(&key) {
            part.join(path, [reader]);
            return Some(self);
        }
        let taken = match is_pattern(&path.path) {
            true => parent(&path.path),
            false => &path.path,
        };
        if self.is_taken(taken) {
            return None;
        }
        self.taken.insert(taken.to_owned(), key.clone());
        let readers = BTreeSet::from([reader]);
        self.parts.insert(key, Part { path, readers });
        Some(self)
    }

    fn is_taken(&self, path: &str) -> bool {
        let mut above =
            std::iter::successors(Some(path), |path| (*path != "/").then(|| parent(path)));
        let below = format!("{}/", path.trim_end_matches('/'));
        above.any(|path| self.taken.contains_key(path))
            || self
                .taken
                .range(below.clone()..)
                .next()
                .is_some_and(|(path, _)| path.starts_with(&below))
    }

    /// Whether no path of the one lies under another of the other.
    fn goes_with(&self, other: &Self) -> bool {
        let mut new = other
            .taken
            .iter()
            .filter(|(_, key)| !self.parts.contains_key(*key));
        new.all(|(path, _)| !self.is_taken(path))
    }

    fn join(&mut self, other: Self) {
        self.takers.extend(other.takers);
        self.taken.extend(other.taken);
        for (key, part) in other.parts {
            match self.parts.get_mut(&key) {
                Some(known) => known.join(part.path, part.readers),
                None => drop(self.parts.insert(key, part)),
            }
        }
    }

    /// `None` if it comes to the whole.
    fn finish(self) -> Option<Shared> {
        let parts: Vec<Part> = self.parts.into_values().collect();
        let whole = |part: &Part| part.path.path == "/" && part.path.include.is_empty();
        if parts.is_empty() || parts.len() > MAX_PATHS || parts.iter().any(whole) {
            return None;
        }
        Some(Shared {
            cut: Cut::Parts(parts),
            takers: self.takers,
        })
    }
}

impl Part {
    /// Takes in another read of the same path. What is more than one of them wanted does no harm: each picks by its own patterns again.
    fn join(&mut self, other: NarrowPath, readers: impl IntoIterator<Item = OpId>) {
        self.readers.extend(readers);
        let own = &mut self.path;
        let takes_back = |patterns: &[String]| patterns.iter().any(|one| one.starts_with('!'));
        if own.include != other.include {
            let all = own.include.is_empty()
                || other.include.is_empty()
                || takes_back(&own.include)
                || takes_back(&other.include);
            own.include.extend(other.include);
            own.include.sort();
            own.include.dedup();
            if all {
                own.include.clear();
            }
        }
        if own.exclude != other.exclude {
            own.exclude.clear();
        }
    }
}
