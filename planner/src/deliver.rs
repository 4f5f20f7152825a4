//! The stage that hands results out: one agent takes what all targets came to, and its engine's exporters make one output of them. Every
//! engine can do this, so the stage has no ops and no home; what the exporters are told is the coordinator's.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    CacheIdentity, CutEdge, EdgeDigest, EdgeId, Home, Narrowing, OpId, Plan, Requirements, Stage,
    StageDigest, StageId, StageKind, TargetId, id::sha256_parts, naming, narrow::Cut,
};

impl Plan {
    /// Adds a stage that takes the results of all targets, whose agent must have `requirements`.
    pub fn delivering(mut self, requirements: Requirements) -> Self {
        let id = StageId(self.stages.len() as u32);
        let roots: Vec<_> = self.targets.iter().map(|target| target.root).collect();
        let delivered: Vec<Option<EdgeId>> = roots
            .into_iter()
            .enumerate()
            .map(|(target, root)| root.map(|root| self.whole_edge(TargetId(target as u32), root)))
            .collect();
        let inputs: BTreeSet<EdgeId> = delivered.iter().flatten().copied().collect();
        for edge in &inputs {
            self.edges[edge.index()].consumers.insert(id);
        }
        let digests = inputs
            .iter()
            .map(|edge| self.edges[edge.index()].digest.as_str().as_bytes());
        let digest = sha256_parts([&b"output"[..]].into_iter().chain(digests));
        let depths = inputs
            .iter()
            .map(|edge| self.stages[self.edges[edge.index()].producer.index()].depth);
        self.stages.push(Stage {
            id,
            kind: StageKind::Output,
            name: "output".to_owned(),
            home: None,
            platforms: BTreeSet::new(),
            placed_with: self.largest_home(&inputs),
            together: None,
            meets: BTreeSet::new(),
            users: self.targets.iter().map(|target| target.id).collect(),
            depth: depths.max().map_or(0, |depth| depth + 1),
            ops: Vec::new(),
            inputs: inputs.into_iter().collect(),
            outputs: Vec::new(),
            results: Vec::new(),
            requirements,
            cache_mounts: BTreeSet::new(),
            local_sources: BTreeSet::new(),
            reads_once: false,
            secrets: BTreeSet::new(),
            ssh: BTreeSet::new(),
            cache: Vec::new(),
            identity: CacheIdentity::new(digest.clone()),
            digest: StageDigest::new(digest),
        });
        self.delivered = delivered;
        self
    }

    /// The stage that hands results out, if there is one.
    pub fn delivery(&self) -> Option<&Stage> {
        let last = self.stages.last();
        last.filter(|stage| stage.kind == StageKind::Output)
    }

    /// The edge by which a target's result reaches the stage that hands it out. `None` for the empty image, and where there is no such stage.
    pub fn delivered(&self, target: TargetId) -> Option<EdgeId> {
        self.delivered.get(target.index()).copied().flatten()
    }

    /// The targets whose result an edge brings to the stage that hands it out.
    pub fn delivered_by(&self, edge: EdgeId) -> impl Iterator<Item = TargetId> {
        let targets = self.delivered.iter().enumerate();
        targets
            .filter(move |(_, by)| **by == Some(edge))
            .map(|(target, _)| TargetId(target as u32))
    }

    /// The edge that has all of an output; added where no stage takes all of it.
    fn whole_edge(&mut self, target: TargetId, (op, output): (OpId, u32)) -> EdgeId {
        let (producer, platform) = {
            let target = &self.targets[target.index()];
            (target.stage, target.platform.clone())
        };
        let is_it = |edge: &&CutEdge| {
            let whole = edge.is_whole();
            whole && (edge.producer, edge.op, edge.output) == (producer, op, output)
        };
        if let Some(edge) = self.edges.iter().find(is_it) {
            return edge.id;
        }
        let id = EdgeId(self.edges.len() as u32);
        let made_by = &self.graph.ops[op.index()];
        let parts = [made_by.digest.as_str().as_bytes(), &output.to_be_bytes()];
        self.edges.push(CutEdge {
            id,
            digest: EdgeDigest::new(sha256_parts(parts)),
            name: naming::of_steps([made_by.name.as_str()]),
            producer,
            consumers: BTreeSet::new(),
            op,
            output,
            platform,
            narrowing: Narrowing::Whole,
        });
        self.cuts.push(Cut::Whole);
        self.stages[producer.index()].outputs.push(id);
        id
    }

    /// A stage of the home that makes most of these; of several the first. What it makes needn't travel.
    fn largest_home(&self, edges: &BTreeSet<EdgeId>) -> Option<StageId> {
        let mut homes: BTreeMap<Option<&Home>, (usize, StageId)> = BTreeMap::new();
        for edge in edges {
            let producer = self.edges[edge.index()].producer;
            let (made, first) = homes
                .entry(self.likely_home(producer))
                .or_insert((0, producer));
            *made += 1;
            *first = (*first).min(producer);
        }
        let most = |(made, first): &(usize, StageId)| (*made, std::cmp::Reverse(*first));
        homes.into_values().max_by_key(most).map(|(_, stage)| stage)
    }
}
