//! Writes the definition of one result of a stage, as an engine is to solve it. Which binding an edge gets is the coordinator's
//! decision (DESIGN.md, "Exactly once"); here its bytes are put in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bollard_buildkit_proto::pb;
use prost::Message;

use crate::{BindError, EdgeId, OpDigest, OpId, Output, Plan, Platform, StageId, TargetId, wire};

/// What stands for a cut edge in the definitions of its consumers.
#[derive(Clone, Debug)]
pub enum Binding {
    /// The producer ran in the keeper that will solve the consumer too: its own bound definition, byte for byte, so that the engine
    /// finds the result that it holds. The ops are finished, so their ignore-cache marks are taken off: a mark would empty the cache
    /// mounts that it touches once more.
    Held(Arc<Bound>),
    /// The producer's result as an image.
    Image {
        /// `host/repository@sha256:…` of a manifest (not of an index).
        reference: String,
        /// What the image is for; usually [`crate::CutEdge::platform`].
        platform: Platform,
    },
}

/// An output with all its inputs bound: ready to be solved.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// What it makes.
    pub output: Output,
    /// What the engine solves. Without ops for the empty image, for which there is nothing to solve.
    pub definition: pb::Definition,
    /// The last op, as bound, and its output. `None` for the empty image.
    pub root: Option<(OpDigest, u32)>,
    /// Where each op of the plan is in the definition: its digest as bound, by its digest as planned. Ops that an image stands for are
    /// left out.
    pub digests: BTreeMap<OpDigest, OpDigest>,
    /// The way back, for progress and errors: the digest as planned, by the digest as bound.
    pub planned: BTreeMap<OpDigest, OpDigest>,
    /// The ops that pull images in place of cut edges, those in held definitions too: the digest as bound, and whose result it is.
    pub images: BTreeMap<OpDigest, EdgeId>,
}

impl Plan {
    /// Writes the definition of `output`. Every cut edge that it reaches must have a binding; others may.
    ///
    /// Inputs are changed where they point at something bound, and digests follow; an op with no change upstream keeps its bytes.
    /// Ignore-cache marks stay on the stage's own ops.
    pub fn bind(
        &self,
        output: Output,
        bindings: &BTreeMap<EdgeId, Binding>,
    ) -> Result<Bound, BindError> {
        let root = self.root_of(output)?;
        let mut writer = Writer::new(self, output);
        let Some((stage, op, index)) = root else {
            return Ok(writer.bound);
        };
        for op in self.needed(stage, op) {
            writer.add(stage, op, bindings)?;
        }
        Ok(writer.finish(op, index))
    }

    /// Writes what the stage that hands results out solves of one target: nothing but what stands for its result.
    pub fn bind_delivery(
        &self,
        target: TargetId,
        bindings: &BTreeMap<EdgeId, Binding>,
    ) -> Result<Bound, BindError> {
        let mut writer = Writer::new(self, Output::Target(target));
        let Some(edge) = self.delivered(target) else {
            return Ok(writer.bound);
        };
        let (digest, index) = writer.result_of(edge, bindings)?;
        Ok(writer.end(digest, index))
    }

    fn root_of(&self, output: Output) -> Result<Option<(StageId, OpId, u32)>, BindError> {
        let found = match output {
            Output::Edge(id) => self
                .edge(id)
                .map(|edge| Some((edge.producer, edge.op, edge.output))),
            Output::Target(id) => self
                .target(id)
                .map(|target| target.root.map(|(op, index)| (target.stage, op, index))),
            // It has a definition for each target.
            Output::Delivery => None,
        };
        found.ok_or(BindError::NoSuchOutput { output })
    }

    /// The ops of `stage` that `root` needs, inputs first.
    fn needed(&self, stage: StageId, root: OpId) -> BTreeSet<OpId> {
        let mut needed = BTreeSet::from([root]);
        let mut next = vec![root];
        while let Some(op) = next.pop() {
            for &(input, _) in &self.graph.ops[op.index()].inputs {
                if !self.is_foreign(stage, input) && needed.insert(input) {
                    next.push(input);
                }
            }
        }
        needed
    }

    fn is_foreign(&self, stage: StageId, op: OpId) -> bool {
        self.owners[op.index()].is_some_and(|owner| owner != stage)
    }
}

/// A definition in the making.
struct Writer<'a> {
    plan: &'a Plan,
    bound: Bound,
    locations: BTreeMap<String, pb::Locations>,
    /// The ops that are in the definition.
    present: BTreeSet<OpDigest>,
    /// Where the results of this stage's ops are.
    own: HashMap<OpId, OpDigest>,
    /// Where the results of other stages are.
    foreign: BTreeMap<EdgeId, (OpDigest, u32)>,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan, output: Output) -> Self {
        let bound = Bound {
            output,
            definition: pb::Definition::default(),
            root: None,
            digests: BTreeMap::new(),
            planned: BTreeMap::new(),
            images: BTreeMap::new(),
        };
        Self {
            plan,
            bound,
            locations: BTreeMap::new(),
            present: BTreeSet::new(),
            own: HashMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Adds an op of `stage`, whose own inputs have been added before.
    fn add(
        &mut self,
        stage: StageId,
        id: OpId,
        bindings: &BTreeMap<EdgeId, Binding>,
    ) -> Result<(), BindError> {
        let plan = self.plan;
        let op = &plan.graph.ops[id.index()];
        let mut inputs = Vec::with_capacity(op.inputs.len());
        for &(input, index) in &op.inputs {
            if plan.is_foreign(stage, input) {
                inputs.push(self.result_of(plan.edge_of[&(id, input, index)], bindings)?);
            } else {
                inputs.push((self.own[&input].clone(), index));
            }
        }
        let is_same = |((bound, bound_index), (input, index)): (&(OpDigest, u32), &(OpId, u32))| {
            *bound == plan.graph.ops[input.index()].digest && bound_index == index
        };
        let (digest, bytes) = if inputs.iter().zip(&op.inputs).all(is_same) {
            (op.digest.clone(), op.bytes.clone())
        } else {
            // The op was walked when it came, so it can be walked again; were it not so, the engine would say what is missing.
            let patched = wire::with_inputs(
                &op.bytes,
                inputs.iter().map(|(digest, index)| (digest, *index)),
            );
            let bytes = patched.unwrap_or_else(|_| op.bytes.clone());
            (OpDigest::of(&bytes), bytes)
        };
        self.put(digest.clone(), bytes, op.metadata.clone(), &op.locations);
        self.bound.digests.insert(op.digest.clone(), digest.clone());
        self.bound.planned.insert(digest.clone(), op.digest.clone());
        self.own.insert(id, digest);
        Ok(())
    }

    /// Where the result of another stage is; puts it in when it is asked for first.
    fn result_of(
        &mut self,
        edge: EdgeId,
        bindings: &BTreeMap<EdgeId, Binding>,
    ) -> Result<(OpDigest, u32), BindError> {
        if let Some(result) = self.foreign.get(&edge) {
            return Ok(result.clone());
        }
        let result = match bindings.get(&edge) {
            None => {
                return Err(BindError::Unbound {
                    output: self.bound.output,
                    edge,
                });
            }
            Some(Binding::Held(held)) => self.splice(edge, held)?,
            Some(Binding::Image {
                reference,
                platform,
            }) => self.pull(edge, reference, platform)?,
        };
        self.foreign.insert(edge, result.clone());
        Ok(result)
    }

    fn splice(&mut self, edge: EdgeId, held: &Bound) -> Result<(OpDigest, u32), BindError> {
        let wrong = BindError::WrongDefinition {
            edge,
            found: held.output,
        };
        let root = held
            .root
            .clone()
            .filter(|_| held.output == Output::Edge(edge))
            .ok_or(wrong)?;
        let Some((_last, ops)) = held.definition.def.split_last() else {
            return Ok(root);
        };
        for bytes in ops {
            let digest = OpDigest::of(bytes);
            let mut metadata = held
                .definition
                .metadata
                .get(digest.as_str())
                .cloned()
                .unwrap_or_default();
            metadata.ignore_cache = false;
            let locations = held
                .definition
                .source
                .as_ref()
                .and_then(|source| source.locations.get(digest.as_str()));
            self.put(
                digest,
                bytes.clone(),
                metadata,
                locations.map_or(&[], |locations| &locations.locations),
            );
        }
        for (planned, bound) in &held.digests {
            self.bound
                .digests
                .entry(planned.clone())
                .or_insert_with(|| bound.clone());
        }
        self.bound.planned.extend(held.planned.clone());
        self.bound.images.extend(held.images.clone());
        Ok(root)
    }

    fn pull(
        &mut self,
        edge: EdgeId,
        reference: &str,
        platform: &Platform,
    ) -> Result<(OpDigest, u32), BindError> {
        if !reference
            .rsplit_once('@')
            .is_some_and(|(name, digest)| !name.is_empty() && digest.starts_with("sha256:"))
        {
            return Err(BindError::NoDigest {
                edge,
                reference: reference.to_owned(),
            });
        }
        let source = pb::SourceOp {
            identifier: format!("docker-image://{reference}"),
            attrs: BTreeMap::new(),
        };
        let plain = pb::Op {
            platform: Some(platform.to_pb()),
            constraints: Some(pb::WorkerConstraints::default()),
            ..pb::Op::default()
        };
        let bytes = encoded_as_go_does(plain, pb::op::Op::Source(source));
        let digest = OpDigest::of(&bytes);
        let cut = &self.plan.edges[edge.index()];
        let metadata = pb::OpMetadata {
            description: BTreeMap::from([(
                "llb.customname".to_owned(),
                format!("[croft] result of {}", cut.name),
            )]),
            caps: BTreeMap::from([("source.image".to_owned(), true)]),
            ..pb::OpMetadata::default()
        };
        // Should the pull fail, people see the line whose result was to be pulled.
        self.put(
            digest.clone(),
            bytes,
            metadata,
            &self.plan.graph.ops[cut.op.index()].locations,
        );
        self.bound.images.insert(digest.clone(), edge);
        Ok((digest, 0))
    }

    /// Adds an op. One that is there already stays as it is: what a held definition says of an op holds, as the op has run.
    fn put(
        &mut self,
        digest: OpDigest,
        bytes: Vec<u8>,
        metadata: pb::OpMetadata,
        locations: &[pb::Location],
    ) {
        if !self.present.insert(digest.clone()) {
            return;
        }
        if !locations.is_empty() {
            self.locations.insert(
                digest.as_str().to_owned(),
                pb::Locations {
                    locations: locations.to_vec(),
                },
            );
        }
        self.bound
            .definition
            .metadata
            .insert(digest.as_str().to_owned(), metadata);
        self.bound.definition.def.push(bytes);
    }

    fn finish(self, root: OpId, index: u32) -> Bound {
        let digest = self.own[&root].clone();
        self.end(digest, index)
    }

    fn end(self, digest: OpDigest, index: u32) -> Bound {
        let Self {
            plan,
            mut bound,
            locations,
            ..
        } = self;
        end_with(&mut bound.definition, &digest, index);
        // Held definitions are of the same plan, so their locations count the same files.
        if !locations.is_empty() {
            bound.definition.source = Some(pb::Source {
                locations,
                infos: plan.graph.infos.clone(),
            });
        }
        bound.root = Some((digest, index));
        bound
    }
}

/// Ends a definition as BuildKit's own clients do: with an op that has nothing but the root for its input.
pub(crate) fn end_with(definition: &mut pb::Definition, root: &OpDigest, index: u32) {
    let input = pb::Input {
        digest: root.as_str().to_owned(),
        index: i64::from(index),
    };
    let last = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    }
    .encode_to_vec();
    let said = |has: fn(&pb::OpMetadata) -> bool| definition.metadata.values().any(has);
    let caps = [
        ("constraints", true),
        ("platform", true),
        ("meta.ignorecache", said(|metadata| metadata.ignore_cache)),
        (
            "meta.description",
            said(|metadata| !metadata.description.is_empty()),
        ),
        (
            "meta.exportcache",
            said(|metadata| metadata.export_cache.is_some()),
        ),
    ];
    let caps = caps
        .into_iter()
        .filter(|(_, needed)| *needed)
        .map(|(cap, _)| (cap.to_owned(), true))
        .collect();
    let metadata = pb::OpMetadata {
        caps,
        ..pb::OpMetadata::default()
    };
    definition
        .metadata
        .insert(OpDigest::of(&last).as_str().to_owned(), metadata);
    definition.def.push(last);
}

/// Go's protobuf writes the members of a oneof after all other fields. An engine encodes each op anew to compute its digest, so that
/// another order would have it report digests that nobody knows.
pub(crate) fn encoded_as_go_does(plain: pb::Op, kind: pb::op::Op) -> Vec<u8> {
    let mut bytes = plain.encode_to_vec();
    let oneof = pb::Op {
        op: Some(kind),
        ..pb::Op::default()
    };
    bytes.extend(oneof.encode_to_vec());
    bytes
}
