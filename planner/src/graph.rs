//! The union graph: the definitions of all targets merged by digest, checked, and put in order. What happens to it is for
//! [`crate::locals`] (merging what differs too little) and [`crate::stages`] (splitting it).

use std::collections::{HashMap, HashSet};

use bollard_buildkit_proto::pb;
use prost::Message;

use crate::{
    Limits, OpDigest, OpId, PlanError, PlanInput,
    op::{MAX_FIELDS, Op, ParseError, Parsed, parse},
};

/// All ops that some target needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// Each after its inputs.
    pub ops: Vec<Op>,
    /// The source files of all definitions; the ops' locations point into it.
    pub infos: Vec<pb::SourceInfo>,
}

/// What a target's definition builds: an op and one of its outputs. `None`: the empty image.
pub(crate) type Root = Option<(OpId, u32)>;

/// Merges the definitions. The roots are in the order of the targets.
pub(crate) fn unite(input: PlanInput, limits: &Limits) -> Result<(Graph, Vec<Root>), PlanError> {
    check_size(&input, limits)?;
    let mut union = Union::default();
    let mut roots = Vec::with_capacity(input.targets.len());
    for target in input.targets {
        roots.push(match target.definition {
            Some(definition) if !definition.def.is_empty() => {
                Some(union.add(&target.name, definition, limits)?)
            }
            _ => None,
        });
    }
    union.into_graph(roots)
}

fn check_size(input: &PlanInput, limits: &Limits) -> Result<(), PlanError> {
    let too_many = |what, limit| Err(PlanError::TooMany { what, limit });
    let (mut ops, mut bytes) = (0usize, 0usize);
    for definition in input
        .targets
        .iter()
        .filter_map(|target| target.definition.as_ref())
    {
        ops = ops.saturating_add(definition.def.len());
        let infos = definition
            .source
            .iter()
            .flat_map(|source| &source.infos)
            .map(Message::encoded_len);
        bytes = definition
            .def
            .iter()
            .map(Vec::len)
            .chain(infos)
            .fold(bytes, usize::saturating_add);
    }
    if ops > limits.max_ops {
        return too_many("ops", limits.max_ops);
    }
    if bytes > limits.max_bytes {
        return too_many("bytes of definitions", limits.max_bytes);
    }
    Ok(())
}

/// An op on its way into the graph.
struct Draft {
    digest: OpDigest,
    bytes: Vec<u8>,
    parsed: Parsed,
    inputs: Vec<(usize, u32)>,
    metadata: Option<pb::OpMetadata>,
    locations: Vec<pb::Location>,
}

#[derive(Default)]
struct Union {
    drafts: Vec<Draft>,
    by_digest: HashMap<OpDigest, usize>,
    infos: Vec<pb::SourceInfo>,
    info_places: HashMap<Vec<u8>, i32>,
    /// Name and root of each target that isn't empty.
    roots: Vec<(String, usize)>,
}

impl Union {
    /// Adds one definition and returns its root, whose op is still a draft's number.
    fn add(
        &mut self,
        target: &str,
        definition: pb::Definition,
        limits: &Limits,
    ) -> Result<(OpId, u32), PlanError> {
        let pb::Definition {
            def,
            mut metadata,
            source,
        } = definition;
        let mut here: HashMap<OpDigest, usize> = HashMap::with_capacity(def.len());
        let mut new = Vec::new();
        let last = def.len().saturating_sub(1);
        let mut root = None;
        for (number, bytes) in def.into_iter().enumerate() {
            let digest = OpDigest::of(&bytes);
            if number == last {
                root = Some(self.parse(target, number, &digest, &bytes, limits)?.inputs);
                continue;
            }
            let draft = match self.by_digest.get(&digest) {
                Some(&draft) => draft,
                None => {
                    let parsed = self.parse(target, number, &digest, &bytes, limits)?;
                    let draft = self.drafts.len();
                    self.by_digest.insert(digest.clone(), draft);
                    self.drafts.push(Draft {
                        digest: digest.clone(),
                        bytes,
                        parsed,
                        inputs: Vec::new(),
                        metadata: None,
                        locations: Vec::new(),
                    });
                    new.push(draft);
                    draft
                }
            };
            if let Some(metadata) = metadata.remove(digest.as_str()) {
                match &mut self.drafts[draft].metadata {
                    Some(known) => merge_metadata(known, metadata),
                    unknown => *unknown = Some(metadata),
                }
            }
            here.insert(digest, draft);
        }
        self.connect(target, &here, &new)?;
        if let Some(source) = source {
            self.add_locations(source, &here);
        }
        self.root(target, &here, root.unwrap_or_default())
    }

    fn parse(
        &self,
        target: &str,
        number: usize,
        digest: &OpDigest,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Parsed, PlanError> {
        let too_large = |what, limit| PlanError::OpTooLarge {
            target: target.to_owned(),
            op: digest.clone(),
            what,
            limit,
        };
        if bytes.len() > limits.max_op_bytes {
            return Err(too_large("bytes", limits.max_op_bytes));
        }
        parse(bytes).map_err(|error| match error {
            ParseError::TooManyFields => too_large("fields", MAX_FIELDS),
            ParseError::Undecodable(reason) => PlanError::Undecodable {
                target: target.to_owned(),
                number,
                op: digest.clone(),
                reason,
            },
        })
    }

    /// Looks up the inputs of the drafts that are new with this definition. Those of the others are known; here too they must be there.
    fn connect(
        &mut self,
        target: &str,
        here: &HashMap<OpDigest, usize>,
        new: &[usize],
    ) -> Result<(), PlanError> {
        for &draft in new {
            let inputs = std::mem::take(&mut self.drafts[draft].parsed.inputs);
            let inputs: Result<Vec<_>, _> = inputs
                .iter()
                .map(|input| self.input(target, &self.drafts[draft].digest, here, input))
                .collect();
            self.drafts[draft].inputs = inputs?;
        }
        let present: HashSet<usize> = here.values().copied().collect();
        for draft in here.values().map(|&draft| &self.drafts[draft]) {
            if let Some((missing, _)) = draft
                .inputs
                .iter()
                .find(|(input, _)| !present.contains(input))
            {
                let input = self.drafts[*missing].digest.to_string();
                return Err(PlanError::MissingInput {
                    target: target.to_owned(),
                    op: draft.digest.clone(),
                    input,
                });
            }
        }
        Ok(())
    }

    fn input(
        &self,
        target: &str,
        op: &OpDigest,
        here: &HashMap<OpDigest, usize>,
        input: &pb::Input,
    ) -> Result<(usize, u32), PlanError> {
        let Some(&draft) = here.get(&OpDigest::new(input.digest.as_str())) else {
            let input = input.digest.chars().take(80).collect();
            return Err(PlanError::MissingInput {
                target: target.to_owned(),
                op: op.clone(),
                input,
            });
        };
        let index = u32::try_from(input.index)
            .ok()
            .filter(|_| input.index < self.drafts[draft].parsed.outputs);
        index
            .map(|index| (draft, index))
            .ok_or_else(|| PlanError::NoSuchOutput {
                target: target.to_owned(),
                op: op.clone(),
                input: self.drafts[draft].digest.clone(),
                index: input.index,
            })
    }

    fn root(
        &mut self,
        target: &str,
        here: &HashMap<OpDigest, usize>,
        inputs: Vec<pb::Input>,
    ) -> Result<(OpId, u32), PlanError> {
        match inputs.as_slice() {
            [] => Err(PlanError::NoRoot {
                target: target.to_owned(),
            }),
            [input] => {
                let (draft, index) = self.input(target, &OpDigest::new("(last)"), here, input)?;
                self.roots.push((target.to_owned(), draft));
                Ok((OpId(draft as u32), index))
            }
            several => Err(PlanError::SeveralRoots {
                target: target.to_owned(),
                count: several.len(),
            }),
        }
    }

    /// Adds source files that aren't there yet, and points the locations at the union's. A location without a file is dropped: it
    /// says nothing.
    fn add_locations(&mut self, source: pb::Source, here: &HashMap<OpDigest, usize>) {
        let places: Vec<i32> = source
            .infos
            .into_iter()
            .map(|info| self.place_of(info))
            .collect();
        for (digest, locations) in source.locations {
            let Some(&draft) = here.get(&OpDigest::new(digest)) else {
                continue;
            };
            for mut location in locations.locations {
                let place = usize::try_from(location.source_index)
                    .ok()
                    .and_then(|index| places.get(index));
                let Some(&place) = place else { continue };
                location.source_index = place;
                add_location(&mut self.drafts[draft].locations, location);
            }
        }
    }

    fn place_of(&mut self, mut info: pb::SourceInfo) -> i32 {
        info.definition.iter_mut().for_each(drop_empty_locations);
        let next = self.infos.len() as i32;
        let place = *self.info_places.entry(info.encode_to_vec()).or_insert(next);
        if place == next {
            self.infos.push(info);
        }
        place
    }

    /// Puts the drafts that a root needs in order, inputs first.
    fn into_graph(self, roots: Vec<Root>) -> Result<(Graph, Vec<Root>), PlanError> {
        let order = self.order()?;
        let mut ids = vec![None; self.drafts.len()];
        for (id, &draft) in order.iter().enumerate() {
            ids[draft] = Some(OpId(id as u32));
        }
        let mut drafts: Vec<Option<Draft>> = self.drafts.into_iter().map(Some).collect();
        let mut ops = Vec::with_capacity(order.len());
        for draft in order {
            let Some(draft) = drafts[draft].take() else {
                continue;
            };
            let inputs = draft
                .inputs
                .iter()
                .filter_map(|&(input, index)| Some((ids[input]?, index)))
                .collect();
            let metadata = draft.metadata.unwrap_or_default();
            ops.push(Op {
                kind: draft.parsed.kind,
                name: Op::custom_name(&metadata).unwrap_or(draft.parsed.name),
                platform: draft.parsed.platform,
                inputs,
                digest: draft.digest,
                bytes: draft.bytes,
                facts: draft.parsed.facts,
                metadata,
                locations: draft.locations,
            });
        }
        let roots = roots
            .into_iter()
            .map(|root| root.and_then(|(draft, index)| Some((ids[draft.index()]?, index))))
            .collect();
        Ok((
            Graph {
                ops,
                infos: self.infos,
            },
            roots,
        ))
    }

    /// Depth first from each root in turn, without recursion: a definition can be as deep as it is long.
    fn order(&self) -> Result<Vec<usize>, PlanError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.drafts.len()];
        let mut order = Vec::with_capacity(self.drafts.len());
        let mut path: Vec<(usize, usize)> = Vec::new();
        for (target, root) in &self.roots {
            if marks[*root] == Mark::New {
                marks[*root] = Mark::Open;
                path.push((*root, 0));
            }
            while let Some((draft, next)) = path.last_mut() {
                let Some(&(input, _)) = self.drafts[*draft].inputs.get(*next) else {
                    marks[*draft] = Mark::Done;
                    order.push(*draft);
                    path.pop();
                    continue;
                };
                *next += 1;
                match marks[input] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[input] = Mark::Open;
                        path.push((input, 0));
                    }
                    Mark::Open => {
                        return Err(PlanError::Cycle {
                            target: target.clone(),
                            op: self.drafts[input].digest.clone(),
                        });
                    }
                }
            }
        }
        Ok(order)
    }
}

/// Two definitions say something of one op: marks are joined, of all else the first holds.
pub(crate) fn merge_metadata(known: &mut pb::OpMetadata, other: pb::OpMetadata) {
    known.ignore_cache |= other.ignore_cache;
    for (key, value) in other.description {
        known.description.entry(key).or_insert(value);
    }
    for (cap, needed) in other.caps {
        *known.caps.entry(cap).or_default() |= needed;
    }
    known.export_cache = known.export_cache.or(other.export_cache);
}

/// Adds what isn't there yet, up to as many as help anyone.
pub(crate) fn add_location(known: &mut Vec<pb::Location>, location: pb::Location) {
    const ENOUGH: usize = 64;
    if known.len() < ENOUGH && !known.contains(&location) {
        known.push(location);
    }
}

/// prost leaves an empty value out of a map's entry, and BuildKit crashes on the nil that it makes of it. In the definition of a source
/// file this can be nested, as deep as prost decodes.
fn drop_empty_locations(definition: &mut pb::Definition) {
    if let Some(source) = &mut definition.source {
        source
            .locations
            .retain(|_, locations| !locations.locations.is_empty());
        source
            .infos
            .iter_mut()
            .filter_map(|info| info.definition.as_mut())
            .for_each(drop_empty_locations);
    }
}
