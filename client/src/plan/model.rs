//! A plan as this command shows it. With `--format json` it is printed as it is: names and meanings of fields stay, new fields may come.

use croft_proto::v1;
use serde::Serialize;

/// What would become of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The platform that the frontend ran on, and that commands run on which name none.
    pub build_platform: String,
    /// What is built.
    pub targets: Vec<Target>,
    /// Each after those whose results it takes.
    pub stages: Vec<Stage>,
    /// What stages take from one another.
    pub results: Vec<Handed>,
    /// What would make it faster, by file and line.
    pub advice: Vec<Advice>,
    /// With what it would be refused before anything of it ran.
    pub refused: Option<String>,
}

/// Something that is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// As the frontend calls it; its platform, if it doesn't.
    pub name: String,
    /// What it is for.
    pub platform: String,
    /// The number of the stage that finishes it.
    pub stage: u32,
}

/// A part of a build that runs on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its number.
    pub number: u32,
    /// What it does, for people.
    pub name: String,
    /// `shared`, `cross`, `target` or `output`.
    pub kind: String,
    /// The platform whose agents run it natively; none if any agent can.
    pub home: Option<String>,
    /// The targets that need it.
    pub users: Vec<String>,
    /// The stages whose results it takes.
    pub inputs: Vec<u32>,
    /// What it does that only it does.
    pub steps: Vec<String>,
    /// The agent that it would go to; none if no agent can take it.
    pub agent: Option<String>,
    /// Why that agent, or why none.
    pub reason: String,
    /// Why it would wait for that agent though what it takes is there.
    pub waits: Option<String>,
    /// How many commands it has.
    pub commands: u32,
    /// How many of them the agent ran before, as far as the farm knows.
    pub commands_cached: u32,
    /// The agents that ran all of its commands before.
    pub cached_on: Vec<String>,
    /// What the other commands took when they last ran, in milliseconds, if that is known of all of them.
    pub expected_ms: Option<u64>,
    /// The stages, itself among them, that share an agent because they share a cache mount.
    pub together: Vec<u32>,
}

/// A result of one stage that others take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Handed {
    /// What makes it, for people.
    pub name: String,
    /// Whose result.
    pub from_stage: u32,
    /// Who takes it.
    pub to_stages: Vec<u32>,
    /// The agents that it would travel to; none if it stays where it is made.
    pub to_agents: Vec<String>,
    /// What of it is needed; none means all, with the layers of its base image.
    pub paths: Vec<String>,
    /// What it is for, as an image.
    pub platform: String,
}

/// Something in a Dockerfile that makes the build slower than it could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// `early-arg`, `builder-on-target`, `run-on-target`, `whole-root` or `late-install`; new ones may come.
    pub kind: String,
    /// The file's name.
    pub file: String,
    /// The first line to change, the first of a file being 1.
    pub first_line: u32,
    /// The last line to change.
    pub last_line: u32,
    /// What it costs.
    pub costs: String,
    /// What to do.
    pub remedy: String,
    /// The steps that pay for it.
    pub steps: Vec<Step>,
    /// The stages that these are in.
    pub stages: Vec<u32>,
}

/// A step of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its first line.
    pub first_line: u32,
    /// Its last line.
    pub last_line: u32,
    /// What its first line says.
    pub text: String,
}

impl Plan {
    /// One of its stages.
    pub fn stage(&self, number: u32) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.number == number)
    }

    /// What a stage takes, in order.
    pub fn taken_by(&self, stage: u32) -> impl Iterator<Item = &Handed> {
        let taken = self.results.iter();
        taken.filter(move |result| result.to_stages.contains(&stage))
    }

    /// The targets that a stage finishes.
    pub fn finished_by(&self, stage: u32) -> impl Iterator<Item = &Target> {
        let targets = self.targets.iter();
        targets.filter(move |target| target.stage == stage)
    }

    /// How long the longest way to each stage is, in stages; in the stages' order.
    pub fn depths(&self) -> Vec<usize> {
        let mut depths: Vec<usize> = Vec::with_capacity(self.stages.len());
        for (place, stage) in self.stages.iter().enumerate() {
            let before = self.stages.iter().take(place).zip(&depths);
            let inputs = before.filter(|(other, _)| stage.inputs.contains(&other.number));
            let depth = inputs.map(|(_, depth)| depth + 1).max().unwrap_or_default();
            depths.push(depth);
        }
        depths
    }

    /// The agents that would run something, in the order of their first stages.
    pub fn agents(&self) -> Vec<&str> {
        let mut agents: Vec<&str> = Vec::new();
        for agent in self
            .stages
            .iter()
            .filter_map(|stage| stage.agent.as_deref())
        {
            if !agents.contains(&agent) {
                agents.push(agent);
            }
        }
        agents
    }
}

impl Handed {
    /// Whether it would go from one agent to another.
    pub fn travels(&self) -> bool {
        !self.to_agents.is_empty()
    }

    /// The agent that it would travel to for this stage; `None` if it is there already.
    pub fn travels_to<'a>(&self, taker: &'a Stage) -> Option<&'a str> {
        let agent = taker.agent.as_deref()?;
        let mut agents = self.to_agents.iter();
        agents.any(|to| to == agent).then_some(agent)
    }

    /// What of it is needed, for people.
    pub fn what(&self) -> String {
        match self.paths.as_slice() {
            [] => "the whole root".to_owned(),
            [root] if root == "/" => "all files".to_owned(),
            paths => paths.join(" "),
        }
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<v1::PlanBuildResponse> for Plan {
    fn from(plan: v1::PlanBuildResponse) -> Self {
        Self {
            build_platform: plan.build_platform,
            targets: plan
                .targets
                .into_iter()
                .map(|target| Target {
                    name: target.name,
                    platform: target.platform,
                    stage: target.stage,
                })
                .collect(),
            stages: plan.stages.into_iter().map(Stage::from).collect(),
            results: plan
                .results
                .into_iter()
                .map(|result| Handed {
                    name: result.name,
                    from_stage: result.from_stage,
                    to_stages: result.to_stages,
                    to_agents: result.to_agents,
                    paths: result.paths,
                    platform: result.platform,
                })
                .collect(),
            advice: plan.advice.into_iter().map(Advice::from).collect(),
            refused: some(plan.refused),
        }
    }
}

impl From<v1::PlannedStage> for Stage {
    fn from(stage: v1::PlannedStage) -> Self {
        Self {
            number: stage.number,
            name: stage.name,
            kind: stage.kind,
            home: some(stage.home),
            users: stage.users,
            inputs: stage.inputs,
            steps: stage.steps,
            agent: some(stage.agent),
            reason: stage.reason,
            waits: some(stage.waits),
            commands: stage.commands,
            commands_cached: stage.commands_cached,
            cached_on: stage.cached_on,
            expected_ms: stage.expected_ms,
            together: stage.together,
        }
    }
}

impl From<v1::Advice> for Advice {
    fn from(advice: v1::Advice) -> Self {
        Self {
            kind: advice.kind,
            file: advice.file,
            first_line: advice.first_line,
            last_line: advice.last_line,
            costs: advice.costs,
            remedy: advice.remedy,
            steps: advice
                .steps
                .into_iter()
                .map(|step| Step {
                    first_line: step.first_line,
                    last_line: step.last_line,
                    text: step.text,
                })
                .collect(),
            stages: advice.stages,
        }
    }
}
