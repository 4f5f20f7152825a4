//! Splits the union graph into stages: connected groups of commands with the same home, the same users and the same depth, and with
//! them the movable ops that they need (DESIGN.md, "Planner"). Who is where is answered by [`crate::levels`].
//!
//! A command's result goes to stages of greater depth only, and that of a source which several stages share to later ones, so stages form
//! a DAG.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use crate::{
    CacheIdentity, CutEdge, EdgeDigest, EdgeId, OpId, Plan, PlanError, PlanOptions, PlannedTarget,
    Platform, Requirements, Stage, StageDigest, StageId, StageKind, TargetId, chain,
    graph::{Graph, Root},
    groups::{self, Group},
    id::sha256_parts,
    identity,
    levels::{Levels, runs_on},
    meets, naming,
    narrow::{self, Cut, Part},
    op::{Op, OpKind},
    plan::Taken,
    sources::{self, Varies},
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

    // Which stage reads a shared source hangs on the order of the targets; what a stage is called does not.
    let digests: Vec<StageDigest> = groups
        .iter()
        .map(|group| stage_digest(&graph, group))
        .collect();
    let shared_sources = sources::settle(&graph, &mut groups);
    let mut owners: Vec<Option<StageId>> = vec![None; graph.ops.len()];
    for (source, number) in shared_sources {
        owners[source.index()] = Some(StageId(number as u32));
    }
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
    let (edges, cuts, edge_of) = cut_edges(&graph, &groups, &owners, &levels, options);
    let mut stages: Vec<Stage> = groups
        .into_iter()
        .zip(digests)
        .enumerate()
        .map(|(number, (group, digest))| {
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
                    digest,
                    placed_with,
                    group,
                },
            )
        })
        .collect();
    for edge in &edges {
        let producer = &mut stages[edge.producer.index()];
        producer.outputs.push(edge.id);
        let caps = chain::caps(&edge.narrowing).map(str::to_owned);
        producer.requirements.caps.extend(caps);
        edge.consumers
            .iter()
            .for_each(|consumer| stages[consumer.index()].inputs.push(edge.id));
    }
    for stage in &mut stages {
        if stage.home.is_none() && stage.placed_with.is_none() {
            // Of all that it takes, it has only what it shares with others.
            stage.placed_with = stage
                .inputs
                .first()
                .map(|edge| edges[edge.index()].producer);
        }
    }
    together::settle(&mut stages);
    meets::settle(&mut stages, &edges);
    Ok(Plan {
        graph,
        stages,
        edges,
        cuts,
        targets,
        edge_of,
        owners,
        delivered: Vec::new(),
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

/// What several stages take from one, an edge for each cut of it, and which edge stands for an input of an op beyond.
fn cut_edges(
    graph: &Graph,
    groups: &[Group],
    owners: &[Option<StageId>],
    levels: &Levels,
    options: &PlanOptions,
) -> (Vec<CutEdge>, Vec<Cut>, BTreeMap<Taken, EdgeId>) {
    // By producer and output: the ops that take it, and where they are.
    let mut crossings: BTreeMap<(StageId, OpId, u32), BTreeMap<OpId, BTreeSet<StageId>>> =
        BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        let consumer = StageId(number as u32);
        for &taker in &group.ops {
            for &(op, output) in &graph.ops[taker.index()].inputs {
                if let Some(producer) = owners[op.index()].filter(|owner| *owner != consumer) {
                    let takers = crossings.entry((producer, op, output)).or_default();
                    takers.entry(taker).or_default().insert(consumer);
                }
            }
        }
    }
    let by_output = crossings
        .iter()
        .map(|((_, op, output), takers)| ((*op, *output), takers.keys().copied()));
    let mut cuts = narrow::cuts(graph, by_output);
    let (mut edges, mut edge_cuts, mut edge_of) = (Vec::new(), Vec::new(), BTreeMap::new());
    for ((producer, op, output), takers) in crossings {
        let made_by = &graph.ops[op.index()];
        for shared in cuts.remove(&(op, output)).unwrap_or_default() {
            let id = EdgeId(edges.len() as u32);
            edge_of.extend(shared.takers.iter().map(|taker| ((*taker, op, output), id)));
            let consumers = shared.takers.iter().filter_map(|taker| takers.get(taker));
            edges.push(CutEdge {
                id,
                digest: edge_digest(made_by, output, &shared.cut),
                name: naming::of_steps([made_by.name.as_str()]),
                producer,
                consumers: consumers.flatten().copied().collect(),
                op,
                output,
                platform: levels.platform_of(graph, op, options),
                narrowing: shared.cut.narrowing(),
            });
            edge_cuts.push(shared.cut);
        }
    }
    (edges, edge_cuts, edge_of)
}

fn edge_digest(made_by: &Op, output: u32, cut: &Cut) -> EdgeDigest {
    let output = output.to_be_bytes();
    let paths = match cut {
        Cut::Whole => &[][..],
        Cut::Parts(parts) => parts,
    };
    let of_path = |part: &Part| {
        let path = &part.path;
        let links: &[u8] = if path.follow_links {
            b"follow"
        } else {
            b"keep"
        };
        let patterns = |patterns: &[String]| sha256_parts(patterns.iter().map(String::as_bytes));
        let (include, exclude) = (patterns(&path.include), patterns(&path.exclude));
        sha256_parts([
            path.path.as_bytes(),
            links,
            include.as_bytes(),
            exclude.as_bytes(),
        ])
    };
    let paths: Vec<String> = paths.iter().map(of_path).collect();
    let parts = [made_by.digest.as_str().as_bytes(), &output];
    EdgeDigest::new(sha256_parts(
        parts.into_iter().chain(paths.iter().map(String::as_bytes)),
    ))
}

struct Placed {
    id: StageId,
    digest: StageDigest,
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
        digest,
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
        digest,
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
        meets: BTreeSet::new(),
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
        reads_once: false,
        secrets: BTreeSet::new(),
        ssh: BTreeSet::new(),
        cache: group
            .commands
            .iter()
            .filter(|op| !graph.ops[op.index()].kind.is_movable())
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
        stage.reads_once |= op.facts.varies == Some(Varies::ReadOnce);
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
