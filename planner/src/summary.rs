//! A plan as people see it: names in place of numbers, no bytes. `croft builds show` and the golden files of the tests are made of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Narrowing, OpKind, Plan, Platform, Stage, StageKind, TargetId};

/// What there is to say of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSummary {
    /// In the plan's order.
    pub targets: Vec<TargetSummary>,
    /// In the plan's order.
    pub stages: Vec<StageSummary>,
    /// In the plan's order.
    pub edges: Vec<EdgeSummary>,
}

/// A target for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSummary {
    /// The frontend's key, or the platform where it has none.
    pub name: String,
    /// What the image is for.
    pub platform: Platform,
    /// The number of the stage that finishes it.
    pub stage: u32,
}

/// A stage for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Its place in the plan.
    pub number: u32,
    /// What it does.
    pub name: String,
    /// What it is.
    pub kind: StageKind,
    /// The platform whose agents run it natively; `None` if any agent can.
    pub home: Option<Platform>,
    /// The platforms of its commands.
    pub platforms: BTreeSet<Platform>,
    /// The names of the targets that need it.
    pub users: Vec<String>,
    /// The numbers of the stages whose results it takes.
    pub needs: BTreeSet<u32>,
    /// The number of the stage whose agent it goes to, if it may choose any.
    pub placed_with: Option<u32>,
    /// The number of the first stage that it must share an agent with.
    pub together: Option<u32>,
    /// The names of the targets that it finishes.
    pub results: Vec<String>,
    /// What its ops do that only it does.
    pub steps: Vec<String>,
}

/// A cut edge for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeSummary {
    /// Its place in the plan.
    pub number: u32,
    /// What makes it.
    pub name: String,
    /// Which of the op's outputs it is.
    pub output: u32,
    /// The number of the stage that makes it.
    pub producer: u32,
    /// The numbers of the stages that need it.
    pub consumers: BTreeSet<u32>,
    /// What an image of it is for.
    pub platform: Platform,
    /// What of it travels.
    pub narrowing: Narrowing,
}

impl Plan {
    /// The plan for people.
    pub fn describe(&self) -> PlanSummary {
        PlanSummary {
            targets: self
                .targets()
                .iter()
                .map(|target| TargetSummary {
                    name: self.name_of(target.id),
                    platform: target.platform.clone(),
                    stage: target.stage.0,
                })
                .collect(),
            stages: self
                .stages()
                .iter()
                .map(|stage| self.describe_stage(stage))
                .collect(),
            edges: self
                .edges()
                .iter()
                .map(|edge| EdgeSummary {
                    number: edge.id.0,
                    name: edge.name.clone(),
                    output: edge.output,
                    producer: edge.producer.0,
                    consumers: edge.consumers.iter().map(|stage| stage.0).collect(),
                    platform: edge.platform.clone(),
                    narrowing: edge.narrowing.clone(),
                })
                .collect(),
        }
    }

    fn describe_stage(&self, stage: &Stage) -> StageSummary {
        let needs = stage
            .inputs
            .iter()
            .filter_map(|edge| self.edge(*edge))
            .map(|edge| edge.producer.0);
        let results = stage.results.iter();
        let own = stage
            .ops
            .iter()
            .filter_map(|op| self.op(*op))
            .filter(|op| op.kind != OpKind::Source);
        StageSummary {
            number: stage.id.0,
            name: stage.name.clone(),
            kind: stage.kind,
            home: stage.home.as_ref().map(|home| home.platform().clone()),
            platforms: stage.platforms.clone(),
            users: stage.users.iter().map(|user| self.name_of(*user)).collect(),
            needs: needs.collect(),
            placed_with: stage.placed_with.map(|stage| stage.0),
            together: stage.together.map(|stage| stage.0),
            results: results.map(|target| self.name_of(*target)).collect(),
            steps: own.map(|op| op.name.clone()).collect(),
        }
    }

    fn name_of(&self, target: TargetId) -> String {
        let target = self.target(target);
        target.map_or_else(String::new, |target| {
            if target.name.is_empty() {
                target.platform.to_string()
            } else {
                target.name.clone()
            }
        })
    }
}
