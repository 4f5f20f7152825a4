//! How much of a cut edge's result its consumers need (DESIGN.md, "Cut edges are narrowed"). What an op says it reads is exact, or it is
//! taken to read everything. How the part is made is for [`crate::chain`].
//!
//! A part must look to its consumers as the whole would. They find what they read under the path that they name, links on the way to it
//! resolved: so two paths of which one lies under the other can't both be served, as a link within the one may lead out of it.

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

/// A path to be cut out, and who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub path: NarrowPath,
    /// In order.
    pub readers: Vec<OpId>,
}

/// What must be cut out for those who read a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing less than the whole will do.
    #[default]
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

/// What each crossing (an op's output that other stages need) is to be cut to. `consumers` are the ops beyond the cut.
pub(crate) fn cuts<'a>(
    graph: &Graph,
    crossings: impl IntoIterator<Item = ((OpId, u32), &'a BTreeSet<OpId>)>,
) -> BTreeMap<(OpId, u32), Cut> {
    let mut needs: BTreeMap<(OpId, u32), Vec<(OpId, Need)>> = BTreeMap::new();
    let mut readers: BTreeMap<OpId, BTreeSet<(OpId, u32)>> = BTreeMap::new();
    for (crossing, consumers) in crossings {
        needs.entry(crossing).or_default();
        for consumer in consumers {
            readers.entry(*consumer).or_default().insert(crossing);
        }
    }
    // Each reader is decoded once, however much it reads.
    for (reader, crossings) in readers {
        let op = &graph.ops[reader.index()];
        for (input, need) in op.inputs.iter().zip(of_inputs(op)) {
            if crossings.contains(input) {
                needs.entry(*input).or_default().push((reader, need));
            }
        }
    }
    let cut = |((op, output), needs): ((OpId, u32), Vec<(OpId, Need)>)| {
        let mut cut = cut(&needs);
        if cut == Cut::Whole && graph.ops[op.index()].facts.varies.is_some() {
            let readers: BTreeSet<OpId> = needs.iter().map(|(reader, _)| *reader).collect();
            cut = Cut::all_of_a_source(readers);
        }
        ((op, output), cut)
    };
    needs.into_iter().map(cut).collect()
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
        let is_a_part = mount.mount_type == i32::from(pb::MountType::Bind)
            && selector != "/"
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

fn cut(needs: &[(OpId, Need)]) -> Cut {
    let mut parts: BTreeMap<(String, bool), Part> = BTreeMap::new();
    for (reader, need) in needs {
        let Need::Reads(reads) = need else {
            return Cut::Whole;
        };
        for read in reads {
            let Some(path) = narrow_path(read) else {
                return Cut::Whole;
            };
            let key = (path.path.clone(), path.follow_links);
            match parts.get_mut(&key) {
                Some(part) => part.join(path, *reader),
                None => {
                    let readers = vec![*reader];
                    parts.insert(key, Part { path, readers });
                }
            }
        }
    }
    let parts: Vec<Part> = parts.into_values().collect();
    let whole_root = |part: &Part| part.path.path == "/" && part.path.include.is_empty();
    if parts.is_empty()
        || parts.len() > MAX_PATHS
        || parts.iter().any(whole_root)
        || overlap(&parts)
    {
        return Cut::Whole;
    }
    Cut::Parts(parts)
}

impl Part {
    /// Takes in another read of the same path. What is more than one of them wanted does no harm: each picks by its own patterns again.
    fn join(&mut self, other: NarrowPath, reader: OpId) {
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
        if self.readers.last() != Some(&reader) {
            self.readers.push(reader);
        }
    }
}

/// Whether one of the paths lies under another. A pattern may stand for anything in its folder.
fn overlap(parts: &[Part]) -> bool {
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let all_apart = parts.iter().all(|part| {
        let path = part.path.path.as_str();
        taken.insert(match is_pattern(path) {
            true => parent(path),
            false => path,
        })
    });
    !all_apart
        || taken.iter().any(|&path| {
            let above =
                std::iter::successors(Some(path), |path| (*path != "/").then(|| parent(path)));
            above.skip(1).any(|folder| taken.contains(folder))
        })
}
