//! Who needs an op, where it lives, and how deep it lies: the three things that stages are made of (DESIGN.md, "Planner"). Every answer
//! takes one walk over the graph, so that the time grows with its size alone.

use std::collections::HashMap;

use crate::{
    Home, OpId, PlanOptions, Platform, TargetId,
    graph::{Graph, Root},
    op::Op,
    users::Users,
};

/// What the ops of a stage have in common beside their depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    /// A place in [`Levels::homes`]; `None` for what needs no agent in particular.
    pub home: Option<usize>,
    pub users: Users,
}

/// What flows out of an op: the deepest commands that it was made by.
#[derive(Clone, Copy, Debug)]
struct Feed {
    depth: u32,
    /// `None` if the deepest differ in class.
    class: Option<Class>,
    /// One of the deepest: the first, in the order of inputs.
    deepest: OpId,
}

/// The end of a target whose last op is movable: what lies after its last commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub root: OpId,
    pub class: Class,
    pub depth: u32,
    /// The command whose result it goes on from, or else the deepest that it takes something from.
    pub feeder: Option<OpId>,
}

pub(crate) struct Levels {
    /// All homes that some command has.
    pub homes: Vec<Home>,
    /// Of each op that isn't movable.
    pub classes: Vec<Option<Class>>,
    pub tails: Vec<Tail>,
    feeds: Vec<Option<Feed>>,
    users: Vec<Users>,
    /// The op along the chain of roots, itself first, that says what platform it is for.
    platforms: Vec<Option<OpId>>,
}

impl Levels {
    pub fn of(graph: &Graph, roots: &[Root], options: &PlanOptions) -> Self {
        let users = users(graph, roots);
        let mut finder = HomeFinder {
            options,
            homes: Vec::new(),
            known: HashMap::new(),
        };
        let count = graph.ops.len();
        let mut levels = Self {
            homes: Vec::new(),
            classes: vec![None; count],
            tails: Vec::new(),
            feeds: vec![None; count],
            users,
            platforms: vec![None; count],
        };
        // The command whose root each op goes on from.
        let mut bases: Vec<Option<OpId>> = vec![None; count];
        for (number, op) in graph.ops.iter().enumerate() {
            let id = OpId(number as u32);
            let primary = op
                .facts
                .primary
                .and_then(|place| op.inputs.get(place))
                .map(|&(input, _)| input);
            levels.platforms[number] = if op.platform.is_some() {
                Some(id)
            } else {
                primary.and_then(|p| levels.platforms[p.index()])
            };
            let inputs = op
                .inputs
                .iter()
                .filter_map(|(input, _)| levels.feeds[input.index()])
                .reduce(deeper);
            if op.kind.is_movable() {
                levels.feeds[number] = inputs;
                bases[number] = primary.and_then(|p| bases[p.index()]);
            } else {
                let class = Class {
                    home: Some(finder.place_of(op.platform.as_ref())),
                    users: levels.users[number],
                };
                levels.classes[number] = Some(class);
                levels.feeds[number] = Some(Feed {
                    depth: depth_after(inputs, class),
                    class: Some(class),
                    deepest: id,
                });
                bases[number] = Some(id);
            }
        }
        levels.homes = finder.homes;
        levels.tails = levels.tails_of(graph, roots, &bases);
        levels
    }

    fn tails_of(&self, graph: &Graph, roots: &[Root], bases: &[Option<OpId>]) -> Vec<Tail> {
        let mut ends: Vec<OpId> = roots
            .iter()
            .flatten()
            .map(|&(op, _)| op)
            .filter(|op| graph.ops[op.index()].kind.is_movable())
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let tail = |root: OpId| {
            let feed = self.feeds[root.index()];
            let feeder = bases[root.index()].or(feed.map(|feed| feed.deepest));
            let home = feeder
                .and_then(|feeder| self.classes[feeder.index()])
                .and_then(|class| class.home);
            let class = Class {
                home,
                users: self.users[root.index()],
            };
            Tail {
                root,
                class,
                depth: depth_after(feed, class),
                feeder,
            }
        };
        ends.into_iter().map(tail).collect()
    }

    /// The targets that need an op.
    pub fn users(&self, op: OpId) -> Users {
        self.users[op.index()]
    }

    /// How deep an op that isn't movable lies.
    pub fn depth(&self, op: OpId) -> u32 {
        self.feeds[op.index()].map_or(0, |feed| feed.depth)
    }

    /// Whether the deepest commands behind `op` are all of this class and depth.
    pub fn is_fed_by(&self, op: OpId, class: Class, depth: u32) -> bool {
        self.feeds[op.index()].is_some_and(|feed| feed.depth == depth && feed.class == Some(class))
    }

    /// What an image that stands for `op` is for.
    pub fn platform_of(&self, graph: &Graph, op: OpId, options: &PlanOptions) -> Platform {
        let said = self.platforms[op.index()].and_then(|op| graph.ops[op.index()].platform.clone());
        said.unwrap_or_else(|| options.build_platform.clone())
    }
}

/// Where a command says it runs; without saying, it runs where the frontend did.
pub(crate) fn runs_on<'a>(op: &'a Op, options: &'a PlanOptions) -> &'a Platform {
    op.platform.as_ref().unwrap_or(&options.build_platform)
}

fn users(graph: &Graph, roots: &[Root]) -> Vec<Users> {
    let mut users = vec![Users::default(); graph.ops.len()];
    for (target, root) in roots.iter().enumerate() {
        if let Some((op, _)) = root {
            users[op.index()].insert(TargetId(target as u32));
        }
    }
    for (number, op) in graph.ops.iter().enumerate().rev() {
        for (input, _) in &op.inputs {
            let of_this = users[number];
            users[input.index()].extend(of_this);
        }
    }
    users
}

/// The depth of what has these inputs: one more than theirs where home or users change on the way.
fn depth_after(inputs: Option<Feed>, class: Class) -> u32 {
    inputs.map_or(0, |feed| feed.depth + u32::from(feed.class != Some(class)))
}

fn deeper(a: Feed, b: Feed) -> Feed {
    match a.depth.cmp(&b.depth) {
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Equal => Feed {
            class: a.class.filter(|_| a.class == b.class),
            ..a
        },
    }
}

/// Numbers the homes as they come, looking each platform up once.
struct HomeFinder<'a> {
    options: &'a PlanOptions,
    homes: Vec<Home>,
    known: HashMap<Platform, usize>,
}

impl HomeFinder<'_> {
    fn place_of(&mut self, platform: Option<&Platform>) -> usize {
        let platform = platform.unwrap_or(&self.options.build_platform);
        if let Some(&place) = self.known.get(platform) {
            return place;
        }
        let home = self.options.homes.home_of(platform);
        let place = self
            .homes
            .iter()
            .position(|known| *known == home)
            .unwrap_or_else(|| {
                self.homes.push(home);
                self.homes.len() - 1
            });
        self.known.insert(platform.clone(), place);
        place
    }
}
