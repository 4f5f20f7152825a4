//! Splits the union graph into stages: connected groups of commands with the same home, the same users and the same depth, and with
//! them the movable ops that they need (DESIGN.md, "Planner"). Who is where is answered by [`crate::levels`].
//!
//! An edge from one stage to another always goes to a greater depth, so stages form a DAG.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use crate::{
    CacheIdentity, CutEdge, EdgeDigest, EdgeId, Narrowing, OpId, Plan, PlanError, PlanOptions,
    PlannedTarget, Platform, Requirements, Stage, StageDigest, StageId, StageKind, TargetId,
    graph::{Graph, Root},
    groups::{self, Group},
    id::sha256_parts,
    identity,
    levels::{Levels, runs_on},
    naming,
    op::OpKind,
    together,
};

/// A target without its definition.
pub(crate) struct Wanted {
    pub name: String,
    pub platform: Platform,
    pub root: Root,
}

pub(crate) fn split(
    graph: Graph,
    wanted: Vec<Wanted>,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    let roots: Vec<Root> = wanted.iter().map(|target| target.root).collect();
    let levels = Levels::of(&graph, &roots, options);
    let identities = identity::of_ops(&graph, options);
    let mut groups = groups::find(&graph, &roots, &levels, &options.limits)?;
    groups.sort_by_cached_key(|group| place_in_plan(&levels, group));

    let mut owners: Vec<Option<StageId>> = vec![None; graph.ops.len()];
    let mut tail_owners: HashMap<OpId, StageId> = HashMap::new();
    for (number, group) in groups.iter().enumerate() {
        let id = StageId(number as u32);
        group
            .commands
            .iter()
            .for_each(|op| owners[op.index()] = Some(id));
        tail_owners.extend(group.tails.iter().map(|tail| (tail.root, id)));
    }
    let owner_of = |op: OpId| owners[op.index()].or_else(|| tail_owners.get(&op).copied());

    let targets: Vec<PlannedTarget> = wanted
        .into_iter()
        .enumerate()
        .map(|(number, target)| {
            let stage = match target.root {
                Some((op, _)) => owner_of(op),
                None => groups
                    .iter()
                    .position(|group| group.ops.is_empty())
                    .map(|number| StageId(number as u32)),
            };
            PlannedTarget {
                id: TargetId(number as u32),
                name: target.name,
                platform: target.platform,
                // Groups were made for every root, so there is one.
                stage: stage.unwrap_or(StageId(0)),
                root: target.root,
            }
        })
        .collect();
    let edges = cut_edges(&graph, &groups, &owners, &levels, options);
    let edge_of: BTreeMap<(OpId, u32), EdgeId> = edges
        .iter()
        .map(|edge| ((edge.op, edge.output), edge.id))
        .collect();
    let mut stages: Vec<Stage> = groups
        .into_iter()
        .enumerate()
        .map(|(number, group)| {
            let id = StageId(number as u32);
            let placed_with = group
                .tails
                .first()
                .filter(|_| group.commands.is_empty())
                .and_then(|tail| owners[tail.feeder?.index()]);
            stage(
                &graph,
                &levels,
                &identities,
                &targets,
                options,
                Placed {
                    id,
                    placed_with,
                    group,
                },
            )
        })
        .collect();
    for edge in &edges {
        stages[edge.producer.index()].outputs.push(edge.id);
        edge.consumers
            .iter()
            .for_each(|consumer| stages[consumer.index()].inputs.push(edge.id));
    }
    together::settle(&mut stages);
    Ok(Plan {
        graph,
        stages,
        edges,
        targets,
        edge_of,
        owners,
    })
}

/// Stages are numbered by depth, so that each comes after what it needs; then in an order that people expect and that stays the same
/// from one build to the next.
fn place_in_plan(levels: &Levels, group: &Group) -> impl Ord + use<> {
    let home = group.class.home.map(|home| levels.homes[home].clone());
    let users = (
        Reverse(group.class.users.len()),
        group.class.users.iter().next(),
    );
    (group.depth, users, home, group.members().next())
}

fn stage_digest(graph: &Graph, group: &Group) -> StageDigest {
    let mut digests: Vec<&str> = group
        .ops
        .iter()
        .map(|op| graph.ops[op.index()].digest.as_str())
        .collect();
    digests.sort_unstable();
    StageDigest::new(sha256_parts(digests.into_iter().map(str::as_bytes)))
}

fn cut_edges(
    graph: &Graph,
    groups: &[Group],
    owners: &[Option<StageId>],
    levels: &Levels,
    options: &PlanOptions,
) -> Vec<CutEdge> {
    let mut crossings: BTreeMap<(StageId, OpId, u32), BTreeSet<StageId>> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        let consumer = StageId(number as u32);
        for (op, output) in group
            .ops
            .iter()
            .flat_map(|op| &graph.ops[op.index()].inputs)
        {
            if let Some(producer) = owners[op.index()].filter(|owner| *owner != consumer) {
                crossings
                    .entry((producer, *op, *output))
                    .or_default()
                    .insert(consumer);
            }
        }
    }
    let edge =
        |(number, ((producer, op, output), consumers)): (usize, ((StageId, OpId, u32), _))| {
            let made_by = &graph.ops[op.index()];
            CutEdge {
                id: EdgeId(number as u32),
                digest: EdgeDigest::new(sha256_parts([
                    made_by.digest.as_str().as_bytes(),
                    &output.to_be_bytes(),
                ])),
                name: naming::of_steps([made_by.name.as_str()]),
                producer,
                consumers,
                op,
                output,
                platform: levels.platform_of(graph, op, options),
                narrowing: Narrowing::Whole,
            }
        };
    crossings.into_iter().enumerate().map(edge).collect()
}

struct Placed {
    id: StageId,
    placed_with: Option<StageId>,
    group: Group,
}

fn stage(
    graph: &Graph,
    levels: &Levels,
    identities: &[CacheIdentity],
    targets: &[PlannedTarget],
    options: &PlanOptions,
    placed: Placed,
) -> Stage {
    let Placed {
        id,
        placed_with,
        group,
    } = placed;
    let home = group
        .class
        .home
        .filter(|_| !group.commands.is_empty())
        .map(|home| levels.homes[home].clone());
    let users: BTreeSet<TargetId> = group.class.users.iter().collect();
    let mut stage = Stage {
        id,
        digest: stage_digest(graph, &group),
        kind: StageKind::Shared,
        name: naming::of_steps(
            group
                .members()
                .map(|op| graph.ops[op.index()].name.as_str()),
        ),
        home,
        platforms: BTreeSet::new(),
        placed_with,
        together: None,
        users,
        depth: group.depth,
        inputs: Vec::new(),
        outputs: Vec::new(),
        results: targets
            .iter()
            .filter(|target| target.stage == id)
            .map(|target| target.id)
            .collect(),
        requirements: Requirements::default(),
        cache_mounts: BTreeSet::new(),
        local_sources: BTreeSet::new(),
        secrets: BTreeSet::new(),
        ssh: BTreeSet::new(),
        cache: group
            .commands
            .iter()
            .map(|op| identities[op.index()].clone())
            .collect(),
        identity: identity::of_stage(identities, group.members()),
        ops: group.ops,
    };
    stage.kind = kind(&stage, targets, options);
    for op in stage.ops.iter().map(|op| &graph.ops[op.index()]) {
        if matches!(op.kind, OpKind::Exec | OpKind::Build | OpKind::Unknown) {
            stage.platforms.insert(runs_on(op, options).clone());
        }
        let requirements = &mut stage.requirements;
        requirements
            .entitlements
            .extend(op.facts.entitlements.iter().cloned());
        requirements
            .devices
            .extend(op.facts.devices.iter().cloned());
        let caps = op.metadata.caps.iter().filter(|(_, needed)| **needed);
        requirements.caps.extend(caps.map(|(cap, _)| cap.clone()));
        stage
            .cache_mounts
            .extend(op.facts.cache_mounts.iter().cloned());
        stage.local_sources.extend(op.facts.local.clone());
        stage.secrets.extend(op.facts.secrets.iter().cloned());
        stage.ssh.extend(op.facts.ssh.iter().cloned());
    }
    stage
}

fn kind(stage: &Stage, targets: &[PlannedTarget], options: &PlanOptions) -> StageKind {
    let mut users = stage.users.iter();
    let (Some(user), None) = (users.next(), users.next()) else {
        return StageKind::Shared;
    };
    let own = targets
        .get(user.index())
        .map(|target| options.homes.home_of(&target.platform));
    if stage.home.is_some() && stage.home != own {
        StageKind::Cross
    } else {
        StageKind::Target
    }
}
