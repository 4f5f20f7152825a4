//! Writes the definition of the part of a result that goes to other agents: copies onto scratch, on top of the whole result's own
//! definition. Which part it is, is decided in [`crate::narrow`].
//!
//! A copy is told to follow links where the one does that will read it there, and nothing else: a folder comes with its mode and owner,
//! and what was in it. It bears the name and the lines of those who read, as a path that isn't there is their mistake.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{self, file_action::Action};
use prost::Message;

use crate::{
    Bound, NarrowPath, Narrowing, OpDigest, Output, Plan,
    bind::{encoded_as_go_does, end_with},
    graph::add_location,
    narrow::{Cut, Part, is_pattern, parent},
};

/// "Keep what is there", for modes and time stamps.
const KEEP: i32 = -1;

impl Plan {
    /// The definition of what is to be exported of a cut edge whose whole result `whole` makes. `None` where that is the whole itself,
    /// and for targets.
    pub fn part_of(&self, whole: &Bound) -> Option<pb::Definition> {
        let Output::Edge(edge) = whole.output else {
            return None;
        };
        let Cut::Parts(parts) = self.cuts.get(edge.index())? else {
            return None;
        };
        let (root, index) = whole.root.clone()?;
        let mut definition = whole.definition.clone();
        if let Some(last) = definition.def.pop() {
            definition.metadata.remove(OpDigest::of(&last).as_str());
        }
        let mut end: Option<OpDigest> = None;
        for step in self.steps(parts) {
            let mut copies = Copies::onto(end.is_some());
            step.parts.iter().for_each(|part| copies.add(&part.path));
            let inputs = end.iter().map(|end| (end, 0)).chain([(&root, index)]);
            let bytes = copies.encoded(inputs);
            let digest = OpDigest::of(&bytes);
            let paths = step.parts.iter().map(|part| &part.path);
            let caps = ["file.base"].into_iter().chain(caps_of_patterns(paths));
            let metadata = pb::OpMetadata {
                description: BTreeMap::from([("llb.customname".to_owned(), step.name)]),
                caps: caps.map(|cap| (cap.to_owned(), true)).collect(),
                ..pb::OpMetadata::default()
            };
            definition
                .metadata
                .insert(digest.as_str().to_owned(), metadata);
            if !step.locations.is_empty() {
                let source = definition.source.get_or_insert_with(|| pb::Source {
                    infos: self.graph.infos.clone(),
                    ..pb::Source::default()
                });
                let locations = pb::Locations {
                    locations: step.locations,
                };
                source
                    .locations
                    .insert(digest.as_str().to_owned(), locations);
            }
            definition.def.push(bytes);
            end = Some(digest);
        }
        end_with(&mut definition, &end?, 0);
        Some(definition)
    }

    /// The parts that the same lines ask for are copied by one op: an engine tells the lines of an op, not of its actions.
    fn steps<'a>(&self, parts: &'a [Part]) -> Vec<Step<'a>> {
        let mut steps: Vec<Step<'a>> = Vec::new();
        let mut places: BTreeMap<BTreeSet<Vec<u8>>, usize> = BTreeMap::new();
        for part in parts {
            let mut locations = Vec::new();
            part.readers
                .iter()
                .flat_map(|reader| &self.graph.ops[reader.index()].locations)
                .for_each(|location| add_location(&mut locations, location.clone()));
            let key = locations.iter().map(Message::encode_to_vec).collect();
            let place = *places.entry(key).or_insert(steps.len());
            match steps.get_mut(place) {
                Some(step) => step.parts.push(part),
                None => steps.push(Step {
                    name: part
                        .readers
                        .first()
                        .and_then(|reader| self.op(*reader))
                        .map_or_else(String::new, |reader| reader.name.clone()),
                    parts: vec![part],
                    locations,
                }),
            }
        }
        steps
    }
}

/// What an engine must be able to do to cut so much out.
pub(crate) fn caps(narrowing: &Narrowing) -> impl Iterator<Item = &'static str> {
    let paths = match narrowing {
        Narrowing::Whole => &[][..],
        Narrowing::Paths(paths) => paths,
    };
    let base = (!paths.is_empty()).then_some("file.base");
    base.into_iter().chain(caps_of_patterns(paths))
}

fn caps_of_patterns<'a>(paths: impl IntoIterator<Item = &'a NarrowPath>) -> Option<&'static str> {
    let mut paths = paths.into_iter();
    paths
        .any(|path| !path.include.is_empty() || !path.exclude.is_empty())
        .then_some("file.copy.includeexcludepatterns")
}

/// One op of the chain.
struct Step<'a> {
    /// That of the first op that reads what is copied: as if it read it here.
    name: String,
    parts: Vec<&'a Part>,
    locations: Vec<pb::Location>,
}

/// The actions of one op. Its last input is what is copied from.
struct Copies {
    inputs: i64,
    actions: Vec<pb::FileAction>,
}

impl Copies {
    /// Onto scratch, or onto what the op before made.
    fn onto(another: bool) -> Self {
        Self {
            inputs: 1 + i64::from(another),
            actions: Vec::new(),
        }
    }

    fn add(&mut self, part: &NarrowPath) {
        let pattern = is_pattern(&part.path);
        let folder = parent(&part.path);
        if pattern && folder != "/" {
            // If nothing fits, nothing is copied; the reader must find the folder all the same, and nothing in it.
            let mkdir = pb::FileActionMkDir {
                path: folder.to_owned(),
                mode: 0o755,
                make_parents: true,
                timestamp: KEEP.into(),
                ..pb::FileActionMkDir::default()
            };
            self.push(KEEP.into(), Action::Mkdir(mkdir));
        }
        let copy = pb::FileActionCopy {
            src: part.path.clone(),
            dest: match pattern {
                true => format!("{}/", folder.trim_end_matches('/')),
                false => part.path.clone(),
            },
            mode: KEEP,
            timestamp: KEEP.into(),
            create_dest_path: true,
            follow_symlink: part.follow_links,
            allow_wildcard: pattern,
            allow_empty_wildcard: pattern,
            include_patterns: part.include.clone(),
            exclude_patterns: part.exclude.clone(),
            ..pb::FileActionCopy::default()
        };
        self.push(self.inputs - 1, Action::Copy(copy));
    }

    /// Adds an action that goes on from the one before.
    fn push(&mut self, secondary_input: i64, action: Action) {
        const SCRATCH: i64 = -1;
        const NO_OUTPUT: i64 = -1;
        let input = match self.actions.last_mut() {
            Some(before) => {
                before.output = NO_OUTPUT;
                self.inputs + self.actions.len() as i64 - 1
            }
            None if self.inputs > 1 => 0,
            None => SCRATCH,
        };
        self.actions.push(pb::FileAction {
            input,
            secondary_input,
            output: 0,
            action: Some(action),
        });
    }

    fn encoded<'a>(self, inputs: impl Iterator<Item = (&'a OpDigest, u32)>) -> Vec<u8> {
        let inputs = inputs.map(|(digest, index)| pb::Input {
            digest: digest.as_str().to_owned(),
            index: index.into(),
        });
        let plain = pb::Op {
            inputs: inputs.collect(),
            constraints: Some(pb::WorkerConstraints::default()),
            ..pb::Op::default()
        };
        encoded_as_go_does(
            plain,
            pb::op::Op::File(pb::FileOp {
                actions: self.actions,
            }),
        )
    }
}
