//! What holds for every plan, tried on graphs made at random.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bollard_buildkit_proto::pb;
use croft_planner::{
    Binding, Bound, EdgeId, Homes, OpDigest, OpId, OpKind, Output, Plan, PlanInput, Stage,
    TargetId, plan,
};
use proptest::prelude::*;
use prost::Message;
use support::{
    llb::{self, Made},
    ops, options, platform, target,
};

const PLATFORMS: [&str; 6] = [
    "linux/amd64",
    "linux/arm64",
    "linux/s390x",
    "linux/386",
    "linux/arm/v7",
    "linux/riscv64",
];

/// One op to be made: what it is and which ops before it are its inputs.
#[derive(Clone, Debug)]
struct Sketch {
    kind: u8,
    platform: usize,
    inputs: Vec<(prop::sample::Index, bool)>,
    marked: bool,
}

/// A build to be made: ops, and the op that each target is.
#[derive(Clone)]
struct Build {
    ops: Vec<Made>,
    roots: Vec<usize>,
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |digest: &str| {
            self.ops
                .iter()
                .position(|made| made.digest().as_str() == digest)
        };
        for (place, made) in self.ops.iter().enumerate() {
            let op = pb::Op::decode(made.bytes.as_slice()).unwrap();
            let inputs: Vec<_> = op
                .inputs
                .iter()
                .map(|input| (number(&input.digest), input.index))
                .collect();
            writeln!(
                f,
                "{place}: {:?} {:?} of {inputs:?}",
                without_inputs(&made.bytes).op,
                made.metadata.ignore_cache
            )?;
        }
        write!(f, "roots {:?}", self.roots)
    }
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let inputs = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4);
    (0u8..10, 0..PLATFORMS.len(), inputs, any::<bool>()).prop_map(
        |(kind, platform, inputs, marked)| Sketch {
            kind,
            platform,
            inputs,
            marked,
        },
    )
}

fn build() -> impl Strategy<Value = Build> {
    let roots = prop::collection::vec(any::<prop::sample::Index>(), 1..5);
    (prop::collection::vec(sketch(), 1..30), roots).prop_map(|(sketches, roots)| {
        let mut ops: Vec<Made> = vec![
            llb::image("linux/amd64"),
            llb::source("local://context", &[], None),
        ];
        for (number, sketch) in sketches.into_iter().enumerate() {
            let inputs: Vec<(&Made, i64)> = sketch
                .inputs
                .iter()
                .map(|(index, second)| {
                    let made = index.get(&ops);
                    let is_exec = matches!(
                        pb::Op::decode(made.bytes.as_slice()).unwrap().op,
                        Some(pb::op::Op::Exec(_))
                    );
                    (made, i64::from(is_exec && *second))
                })
                .collect();
            let name = format!("op {number}");
            let runs_on = PLATFORMS[sketch.platform];
            let made = match sketch.kind {
                0 => llb::source(&format!("docker-image://{number}"), &[], Some(runs_on)),
                1..=4 => llb::exec(&name, &inputs, runs_on),
                5 => llb::exec_with(&name, &inputs, None, vec![llb::cache_mount(runs_on)]),
                6 | 7 => llb::copy(&format!("/{number}"), &inputs[..inputs.len().min(2)]),
                8 => llb::merge(&inputs),
                _ => {
                    let build = pb::BuildOp {
                        builder: -1,
                        def: Some(pb::Definition::default()),
                        ..pb::BuildOp::default()
                    };
                    llb::made(&inputs, Some(runs_on), pb::op::Op::Build(build))
                }
            };
            if ops.iter().all(|other| other.bytes != made.bytes) {
                ops.push(
                    if sketch.marked {
                        made.ignoring_cache()
                    } else {
                        made
                    }
                    .named(&name),
                );
            }
        }
        let roots = roots.iter().map(|root| root.index(ops.len())).collect();
        Build { ops, roots }
    })
}

impl Build {
    fn input(&self) -> PlanInput {
        self.input_in_order(&self.ops, |targets| targets)
    }

    fn input_in_order(
        &self,
        ops: &[Made],
        order: impl Fn(Vec<croft_planner::Target>) -> Vec<croft_planner::Target>,
    ) -> PlanInput {
        let one = |(number, root): (usize, &usize)| {
            let definition = llb::definition(ops, (&self.ops[*root], 0));
            target(
                &number.to_string(),
                PLATFORMS[number % PLATFORMS.len()],
                Some(definition),
            )
        };
        PlanInput {
            targets: order(self.roots.iter().enumerate().map(one).collect()),
        }
    }

    /// The digests that each target needs, by simple search.
    fn needed(&self) -> Vec<BTreeSet<OpDigest>> {
        let sets = self
            .roots
            .iter()
            .map(|root| ops(&llb::definition(&self.ops, (&self.ops[*root], 0))).0);
        sets.map(|ops| ops.into_keys().collect()).collect()
    }

    fn plan(&self) -> Plan {
        plan(self.input(), &options()).unwrap()
    }
}

fn digest(plan: &Plan, op: OpId) -> &OpDigest {
    &plan.op(op).unwrap().digest
}

fn commands<'a>(plan: &'a Plan, stage: &'a Stage) -> impl Iterator<Item = OpId> + 'a {
    stage
        .ops
        .iter()
        .copied()
        .filter(|op| !plan.op(*op).unwrap().kind.is_movable())
}

/// Every output of a plan bound, in the plan's order; `choose` says how each edge is.
fn bind_all(plan: &Plan, mut choose: impl FnMut(EdgeId) -> bool) -> BTreeMap<Output, Arc<Bound>> {
    let mut bindings: BTreeMap<EdgeId, Binding> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for stage in plan.stages() {
        for output in plan.outputs_of(stage) {
            let bound = Arc::new(plan.bind(output, &bindings).unwrap());
            all.insert(output, bound.clone());
            if let Output::Edge(edge) = output {
                let image = Binding::Image {
                    reference: format!("stages.farm/p@sha256:{:064}", edge.0),
                    platform: plan.edge(edge).unwrap().platform.clone(),
                };
                bindings.insert(
                    edge,
                    if choose(edge) {
                        Binding::Held(bound)
                    } else {
                        image
                    },
                );
            }
        }
    }
    all
}

/// What an engine demands of a definition: nothing missing, nothing dangling, metadata for nothing else, and a last op that only points.
fn check_valid(definition: &pb::Definition) {
    let (ops, last) = ops(definition);
    assert_eq!(ops.len() + 1, definition.def.len(), "an op is there twice");
    assert_eq!(
        (last.inputs.len(), &last.op, &last.platform),
        (1, &None, &None)
    );
    let mut reached = BTreeSet::new();
    let mut next = vec![OpDigest::new(last.inputs[0].digest.as_str())];
    while let Some(digest) = next.pop() {
        if reached.insert(digest.clone()) {
            let op =
                pb::Op::decode(ops.get(&digest).expect("an input is missing").as_slice()).unwrap();
            next.extend(
                op.inputs
                    .into_iter()
                    .map(|input| OpDigest::new(input.digest)),
            );
        }
    }
    assert_eq!(reached, ops.keys().cloned().collect(), "an op dangles");
    let last = OpDigest::of(definition.def.last().unwrap());
    for key in definition.metadata.keys() {
        assert!(
            *key == last.as_str() || reached.contains(&OpDigest::new(key.as_str())),
            "metadata of no op"
        );
    }
}

fn without_inputs(bytes: &[u8]) -> pb::Op {
    let mut op = pb::Op::decode(bytes).unwrap();
    op.inputs.clear();
    op
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_needed_op_is_in_a_stage_and_commands_in_one_only(build in build()) {
        let plan = build.plan();
        let needed: BTreeSet<OpDigest> = build.needed().into_iter().flatten().collect();
        let in_stages: BTreeSet<OpDigest> = plan.stages().iter().flat_map(|stage| &stage.ops).map(|op| digest(&plan, *op).clone()).collect();
        prop_assert_eq!(in_stages, needed);
        let mut seen = BTreeSet::new();
        for stage in plan.stages() {
            for op in commands(&plan, stage) {
                prop_assert!(seen.insert(op), "{} is in two stages", digest(&plan, op));
            }
        }
        for target in plan.targets() {
            let stage = plan.stage(target.stage).unwrap();
            prop_assert!(stage.ops.contains(&target.root.unwrap().0) && stage.results.contains(&target.id));
        }
    }

    #[test]
    fn every_edge_is_inside_a_stage_or_a_declared_cut_and_stages_form_a_dag(build in build()) {
        let plan = build.plan();
        let mut used = BTreeSet::new();
        for stage in plan.stages() {
            let inside: BTreeSet<OpId> = stage.ops.iter().copied().collect();
            for &(input, output) in stage.ops.iter().flat_map(|op| &plan.op(*op).unwrap().inputs) {
                if inside.contains(&input) {
                    continue;
                }
                let edge = stage.inputs.iter().map(|id| plan.edge(*id).unwrap()).find(|edge| (edge.op, edge.output) == (input, output));
                let edge = edge.expect("an edge leaves its stage undeclared");
                prop_assert!(edge.consumers.contains(&stage.id));
                prop_assert!(plan.stage(edge.producer).unwrap().outputs.contains(&edge.id));
                prop_assert!(edge.producer < stage.id);
                let is_source = plan.op(edge.op).unwrap().kind == OpKind::Source;
                prop_assert!(is_source || plan.stage(edge.producer).unwrap().depth < stage.depth);
                used.insert((edge.id, stage.id));
            }
        }
        let declared = plan.edges().iter().flat_map(|edge| edge.consumers.iter().map(|consumer| (edge.id, *consumer)));
        prop_assert_eq!(used, declared.collect::<BTreeSet<_>>());
    }

    #[test]
    fn a_stages_commands_share_home_users_and_depth_and_are_connected(build in build()) {
        let plan = build.plan();
        let oracle = Oracle::of(&plan, &build);
        for stage in plan.stages() {
            let mut sets: Vec<BTreeSet<OpId>> = Vec::new();
            for op in commands(&plan, stage) {
                prop_assert_eq!(Some(&oracle.home[&op]), stage.home.as_ref());
                prop_assert_eq!(&oracle.users[&op], &stage.users);
                prop_assert_eq!(oracle.depth[&op], stage.depth);
                // Unite with all commands right behind it, movable ops looked through.
                let near: BTreeSet<OpId> = oracle.behind[&op].iter().copied().filter(|other| stage.ops.contains(other)).chain([op]).collect();
                let (joined, apart): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| !set.is_disjoint(&near));
                sets = apart;
                sets.push(joined.into_iter().flatten().chain(near).collect());
            }
            // A target's end may hold several together.
            prop_assert!(sets.len() <= 1 || !stage.results.is_empty(), "a stage falls apart: {sets:?}");
            prop_assert_eq!(stage.home.is_some(), !sets.is_empty());
            if let Some(other) = stage.placed_with {
                prop_assert!(stage.home.is_none() && stage.inputs.iter().any(|edge| plan.edge(*edge).unwrap().producer == other));
            }
            prop_assert!(stage.home.is_some() || stage.inputs.is_empty() == stage.placed_with.is_none());
        }
        // And no two stages are what could have been one.
        for op in plan.stages().iter().flat_map(|stage| commands(&plan, stage)) {
            for behind in &oracle.behind[&op] {
                let same = |other: &OpId| (&oracle.home[other], &oracle.users[other], oracle.depth[other]) == (&oracle.home[&op], &oracle.users[&op], oracle.depth[&op]);
                let stage_of = |op: &OpId| plan.stages().iter().find(|stage| commands(&plan, stage).any(|command| command == *op)).unwrap().id;
                prop_assert!(!same(behind) || stage_of(behind) == stage_of(&op));
            }
        }
    }

    #[test]
    fn stages_that_share_a_cache_mount_go_together(build in build()) {
        let plan = build.plan();
        for a in plan.stages() {
            for b in plan.stages().iter().filter(|b| b.id > a.id && b.home == a.home) {
                if !a.cache_mounts.is_disjoint(&b.cache_mounts) {
                    prop_assert!(a.together.is_some() && a.together == b.together);
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_input_changes_no_digest(build in build()) {
        let first = build.plan();
        let again = build.plan();
        prop_assert_eq!(first.stages(), again.stages());
        prop_assert_eq!(first.edges(), again.edges());
        let reversed: Vec<Made> = build.ops.iter().rev().cloned().collect();
        let backwards = |mut targets: Vec<croft_planner::Target>| { targets.reverse(); targets };
        let other = plan(build.input_in_order(&reversed, backwards), &options()).unwrap();
        let digests = |plan: &Plan| {
            let name = |target: &TargetId| plan.target(*target).unwrap().name.clone();
            let names = |targets: &mut dyn Iterator<Item = &TargetId>| targets.map(name).collect::<BTreeSet<_>>();
            let stages: BTreeSet<_> = plan.stages().iter().map(|stage| {
                (stage.digest.clone(), stage.home.clone(), names(&mut stage.users.iter()), names(&mut stage.results.iter()), stage.identity.clone())
            }).collect();
            assert_eq!(stages.len(), plan.stages().len(), "two stages have one digest");
            // Who reads a source for the others, and so what they need of it, does hang on the order.
            let commands = plan.edges().iter().filter(|edge| plan.op(edge.op).unwrap().kind != OpKind::Source);
            (stages, commands.map(|edge| edge.digest.clone()).collect::<BTreeSet<_>>())
        };
        prop_assert_eq!(digests(&first), digests(&other));
    }

    #[test]
    fn with_everything_held_definitions_are_what_they_were(build in build()) {
        let plan = build.plan();
        let all = bind_all(&plan, |_| true);
        for (number, root) in build.roots.iter().enumerate() {
            let original = llb::definition(&build.ops, (&build.ops[*root], 0));
            let bound = &all[&Output::Target(TargetId(number as u32))];
            let ((before, before_last), (after, after_last)) = (ops(&original), ops(&bound.definition));
            prop_assert_eq!(before, after);
            prop_assert_eq!(before_last, after_last);
            prop_assert!(bound.digests.iter().all(|(planned, bound)| planned == bound) && bound.images.is_empty());
        }
    }

    #[test]
    fn however_edges_are_bound_definitions_are_valid_and_untouched_ops_keep_their_bytes(build in build(), held in prop::collection::vec(any::<bool>(), 1..20)) {
        let plan = build.plan();
        let by_digest: BTreeMap<OpDigest, &Made> = build.ops.iter().map(|made| (made.digest(), made)).collect();
        for (output, bound) in bind_all(&plan, |edge| held[edge.index() % held.len()]) {
            check_valid(&bound.definition);
            plan.part_of(&bound).iter().for_each(check_valid);
            let (ops, last) = ops(&bound.definition);
            let (root, index) = bound.root.clone().unwrap();
            prop_assert_eq!((last.inputs[0].digest.as_str(), last.inputs[0].index), (root.as_str(), i64::from(index)));
            for (digest, bytes) in &ops {
                if bound.images.contains_key(digest) {
                    continue;
                }
                let made = by_digest[&bound.planned[digest]];
                prop_assert_eq!(without_inputs(bytes), without_inputs(&made.bytes));
                let upstream_changed = pb::Op::decode(bytes.as_slice()).unwrap().inputs != pb::Op::decode(made.bytes.as_slice()).unwrap().inputs;
                prop_assert_eq!(upstream_changed, *bytes != made.bytes);
                let metadata = &bound.definition.metadata[digest.as_str()];
                prop_assert_eq!(&metadata.description, &made.metadata.description);
                prop_assert!(!metadata.ignore_cache || made.metadata.ignore_cache);
            }
            // The stage's own commands keep their marks; what came from other keepers' stages is finished.
            let stage = plan.stages().iter().find(|stage| plan.outputs_of(stage).contains(&output)).unwrap();
            let own: BTreeSet<&OpDigest> = commands(&plan, stage).map(|op| digest(&plan, op)).collect();
            for (planned, at) in &bound.digests {
                let made = by_digest[planned];
                if !matches!(pb::Op::decode(made.bytes.as_slice()).unwrap().op, Some(pb::op::Op::Exec(_) | pb::op::Op::Build(_))) {
                    continue;
                }
                let marked = bound.definition.metadata[at.as_str()].ignore_cache;
                prop_assert_eq!(marked, own.contains(planned) && made.metadata.ignore_cache);
            }
        }
    }
}

/// The rules of DESIGN.md by simple search, as slow as it likes.
struct Oracle {
    home: BTreeMap<OpId, croft_planner::Home>,
    users: BTreeMap<OpId, BTreeSet<TargetId>>,
    depth: BTreeMap<OpId, u32>,
    /// The commands whose results reach a command with no command between.
    behind: BTreeMap<OpId, BTreeSet<OpId>>,
}

impl Oracle {
    fn of(plan: &Plan, build: &Build) -> Self {
        let homes: Homes = options().homes;
        let needed = build.needed();
        let mut oracle = Self {
            home: BTreeMap::new(),
            users: BTreeMap::new(),
            depth: BTreeMap::new(),
            behind: BTreeMap::new(),
        };
        let all: BTreeSet<OpId> = plan
            .stages()
            .iter()
            .flat_map(|stage| commands(plan, stage))
            .collect();
        for id in all {
            let op = plan.op(id).unwrap();
            let runs_on = op
                .platform
                .clone()
                .unwrap_or_else(|| platform("linux/amd64"));
            let users = needed
                .iter()
                .enumerate()
                .filter(|(_, needed)| needed.contains(&op.digest));
            oracle.home.insert(id, homes.home_of(&runs_on));
            oracle.users.insert(
                id,
                users.map(|(number, _)| TargetId(number as u32)).collect(),
            );
            let mut behind = BTreeSet::new();
            let mut next: Vec<OpId> = op.inputs.iter().map(|(input, _)| *input).collect();
            while let Some(input) = next.pop() {
                let op = plan.op(input).unwrap();
                if op.kind.is_movable() {
                    next.extend(op.inputs.iter().map(|(input, _)| *input));
                } else {
                    behind.insert(input);
                }
            }
            let same = |other: &OpId| {
                oracle.home[other] == oracle.home[&id] && oracle.users[other] == oracle.users[&id]
            };
            let depth = behind
                .iter()
                .map(|other| oracle.depth[other] + u32::from(!same(other)))
                .max()
                .unwrap_or(0);
            oracle.depth.insert(id, depth);
            oracle.behind.insert(id, behind);
        }
        oracle
    }
}
