//! Finds the groups of ops that become stages. What a stage looks like from outside is for [`crate::stages`].

use std::collections::BTreeMap;

use crate::{
    Limits, OpId, PlanError, TargetId,
    graph::{Graph, Root},
    levels::{Class, Levels, Tail},
    sources::Varies,
    users::Users,
};

/// The ops of one stage.
#[derive(Debug)]
pub(crate) struct Group {
    pub class: Class,
    pub depth: u32,
    /// What it is there for, in order: ops that aren't movable, or a source that only one agent can read.
    pub commands: Vec<OpId>,
    /// The ends of targets that belong here.
    pub tails: Vec<Tail>,
    /// All of them, movable ones included, in order.
    pub ops: Vec<OpId>,
}

impl Group {
    /// The ops that the stage exists for, in order.
    pub fn members(&self) -> impl Iterator<Item = OpId> {
        self.commands
            .iter()
            .copied()
            .chain(self.tails.iter().map(|tail| tail.root))
    }
}

/// All groups, in no particular order.
pub(crate) fn find(
    graph: &Graph,
    roots: &[Root],
    levels: &Levels,
    limits: &Limits,
) -> Result<Vec<Group>, PlanError> {
    let mut groups = connected(graph, levels);
    groups.extend(empty_images(roots));
    groups.extend(read_once(graph, levels));
    if groups.len() > limits.max_stages {
        return Err(PlanError::TooMany {
            what: "stages",
            limit: limits.max_stages,
        });
    }
    let mut budget = limits.max_stage_ops;
    let mut seen_by = vec![usize::MAX; graph.ops.len()];
    for (number, group) in groups.iter_mut().enumerate() {
        let mut next: Vec<OpId> = group.members().collect();
        next.iter().for_each(|op| seen_by[op.index()] = number);
        while let Some(op) = next.pop() {
            let inputs = &graph.ops[op.index()].inputs;
            let spent = 1 + inputs.len();
            budget = budget.checked_sub(spent).ok_or(PlanError::TooMany {
                what: "ops in all stages together",
                limit: limits.max_stage_ops,
            })?;
            group.ops.push(op);
            for &(input, _) in inputs {
                if seen_by[input.index()] != number && levels.classes[input.index()].is_none() {
                    seen_by[input.index()] = number;
                    next.push(input);
                }
            }
        }
        group.ops.sort_unstable();
    }
    Ok(groups)
}

/// Commands and tails of the same class and depth that are connected, directly or by movable ops between them.
fn connected(graph: &Graph, levels: &Levels) -> Vec<Group> {
    let count = graph.ops.len();
    let mut sets = Sets::new(count + levels.tails.len());
    // The first node that reached a movable op. One visit suffices: all that reach it are of the class and depth of what is behind it.
    let mut reached_by: Vec<Option<usize>> = vec![None; count];
    let mut reach = |node: usize, class: Class, depth: u32, from: &mut Vec<OpId>| {
        while let Some(op) = from.pop() {
            if !levels.is_fed_by(op, class, depth) {
                continue;
            }
            if levels.classes[op.index()].is_some() {
                sets.unite(node, op.index());
            } else if let Some(first) = reached_by[op.index()] {
                sets.unite(node, first);
            } else {
                reached_by[op.index()] = Some(node);
                from.extend(graph.ops[op.index()].inputs.iter().map(|&(input, _)| input));
            }
        }
    };
    for (number, op) in graph.ops.iter().enumerate() {
        if let Some(class) = levels.classes[number] {
            let mut inputs = op.inputs.iter().map(|&(input, _)| input).collect();
            reach(
                number,
                class,
                levels.depth(OpId(number as u32)),
                &mut inputs,
            );
        }
    }
    for (number, tail) in levels.tails.iter().enumerate() {
        reach(count + number, tail.class, tail.depth, &mut vec![tail.root]);
    }

    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    let new = |class, depth| Group {
        class,
        depth,
        commands: Vec::new(),
        tails: Vec::new(),
        ops: Vec::new(),
    };
    for (number, class) in levels.classes.iter().enumerate() {
        if let Some(class) = class {
            let op = OpId(number as u32);
            groups
                .entry(sets.leader(number))
                .or_insert_with(|| new(*class, levels.depth(op)))
                .commands
                .push(op);
        }
    }
    for (number, tail) in levels.tails.iter().enumerate() {
        groups
            .entry(sets.leader(count + number))
            .or_insert_with(|| new(tail.class, tail.depth))
            .tails
            .push(*tail);
    }
    groups.into_values().collect()
}

/// One group without ops for all targets that are the empty image.
fn empty_images(roots: &[Root]) -> Option<Group> {
    let users: Users = roots
        .iter()
        .enumerate()
        .filter(|(_, root)| root.is_none())
        .map(|(number, _)| TargetId(number as u32))
        .collect();
    let class = Class { home: None, users };
    (users.len() > 0).then(|| Group {
        class,
        depth: 0,
        commands: Vec::new(),
        tails: Vec::new(),
        ops: Vec::new(),
    })
}

/// A group for each source that can be read on one agent only, so that all others can run elsewhere. Before all that need it, in the plan's
/// order: it needs nothing, is at home nowhere, and has all their users.
fn read_once(graph: &Graph, levels: &Levels) -> impl Iterator<Item = Group> {
    let sources = (0..graph.ops.len()).map(|number| OpId(number as u32));
    let sources = sources
        .filter(|op| graph.ops[op.index()].facts.varies == Some(Varies::ReadOnce))
        // One that is a target's end has a group already.
        .filter(|op| levels.tails.iter().all(|tail| tail.root != *op));
    sources.map(|op| Group {
        class: Class {
            home: None,
            users: levels.users(op),
        },
        depth: 0,
        commands: vec![op],
        tails: Vec::new(),
        ops: Vec::new(),
    })
}

/// Disjoint sets of numbers.
pub(crate) struct Sets(Vec<usize>);

impl Sets {
    pub fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// The number that stands for the set of `of`.
    pub fn leader(&mut self, mut of: usize) -> usize {
        while self.0[of] != of {
            self.0[of] = self.0[self.0[of]];
            of = self.0[of];
        }
        of
    }

    pub fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.leader(a), self.leader(b));
        // The lower leads, so that the result doesn't hang on the order of calls.
        self.0[a.max(b)] = a.min(b);
    }
}
