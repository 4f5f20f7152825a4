//! A plan as a tree: from each result down to the stages that it takes something of. A stage that several take from is shown once.

use std::collections::BTreeSet;

use super::super::text::{Paint, Tone, clean, duration};
use super::{cached, place, summary};
use crate::plan::model::{Advice, Handed, Plan, Stage};

/// The plan, and what would make the build faster.
pub fn tree(plan: &Plan, paint: Paint) -> String {
    let names: Vec<&str> = plan.targets.iter().map(|one| one.name.as_str()).collect();
    let mut out = format!(
        "{}\n  {}\n\n",
        paint.put(
            Tone::Strong,
            &format!(
                "Plan for {}, built on {}",
                clean(&names.join(", ")),
                clean(&plan.build_platform)
            )
        ),
        clean(&summary(plan))
    );
    let mut tree = Tree {
        plan,
        paint,
        shown: BTreeSet::new(),
        out: String::new(),
    };
    let mut roots: Vec<u32> = plan.targets.iter().map(|target| target.stage).collect();
    let outputs = plan.stages.iter().filter(|stage| stage.kind == "output");
    roots.extend(outputs.map(|stage| stage.number));
    for (place, root) in roots.iter().enumerate() {
        if let Some(stage) = plan.stage(*root).filter(|_| !roots[..place].contains(root)) {
            tree.root(stage);
        }
    }
    out.push_str(&tree.out);
    out.push_str(&advice(plan, paint));
    out
}

/// One line of a tree, before its text.
struct Branch {
    /// Before the stage's own line.
    first: String,
    /// Before all lines below it.
    rest: String,
}

struct Tree<'a> {
    plan: &'a Plan,
    paint: Paint,
    shown: BTreeSet<u32>,
    out: String,
}

impl Tree<'_> {
    fn root(&mut self, stage: &Stage) {
        let names: Vec<&str> = match stage.kind.as_str() {
            "output" => vec!["the output"],
            _ => {
                let finished = self.plan.finished_by(stage.number);
                finished.map(|target| target.name.as_str()).collect()
            }
        };
        let title = clean(&names.join(", "));
        self.out.push_str(&self.paint.put(Tone::Strong, &title));
        self.out.push('\n');
        let branch = Branch {
            first: "└─ ".to_owned(),
            rest: "   ".to_owned(),
        };
        self.stage(stage, None, &branch);
        self.out.push('\n');
    }

    /// A stage, and below it what it takes. `given` is the one above, and what that takes of it.
    fn stage(&mut self, stage: &Stage, given: Option<(&Stage, &[&Handed])>, branch: &Branch) {
        let again = !self.shown.insert(stage.number);
        let agent = match &stage.agent {
            Some(agent) => self.paint.put(Tone::Good, &clean(agent)),
            None => self.paint.put(Tone::Bad, "no agent"),
        };
        let name = match again {
            true => self.paint.put(Tone::Faint, "(above)"),
            false => clean(&stage.name),
        };
        self.out.push_str(&format!(
            "{}{} {} on {agent}  {name}\n",
            self.paint.put(Tone::Faint, &branch.first),
            self.paint.put(Tone::Strong, &stage.number.to_string()),
            clean(&stage.kind),
        ));
        let (line, corner) = match again || self.inputs(stage).is_empty() {
            true => ("   ", "   "),
            false => ("│  ", "├─ "),
        };
        for (text, tone) in self.notes(stage, given, again) {
            self.out.push_str(&format!(
                "{}{}{}\n",
                self.paint.put(Tone::Faint, &branch.rest),
                self.paint.put(Tone::Faint, line),
                self.paint.put(tone, &clean(&text)),
            ));
        }
        if again {
            return;
        }
        let inputs = self.inputs(stage);
        let plan = self.plan;
        for (place, input) in inputs.iter().enumerate() {
            let is_last = place + 1 == inputs.len();
            let Some(input) = plan.stage(*input) else {
                continue;
            };
            let given: Vec<&Handed> = plan
                .taken_by(stage.number)
                .filter(|handed| handed.from_stage == input.number)
                .collect();
            let below = Branch {
                first: format!("{}{}", branch.rest, if is_last { "└─ " } else { corner }),
                rest: format!("{}{}", branch.rest, if is_last { "   " } else { line }),
            };
            self.stage(input, Some((stage, &given)), &below);
        }
    }

    fn inputs(&self, stage: &Stage) -> Vec<u32> {
        // What must be there before the stage: never one that comes after it, whatever the farm says.
        let before = stage.inputs.iter().filter(|input| **input < stage.number);
        before.copied().collect()
    }

    /// What there is to say of a stage below its line.
    fn notes(
        &self,
        stage: &Stage,
        given: Option<(&Stage, &[&Handed])>,
        again: bool,
    ) -> Vec<(String, Tone)> {
        let mut notes = Vec::new();
        if let Some((taker, given)) = given {
            for handed in given {
                notes.push(match handed.travels_to(taker) {
                    Some(agent) => (format!("{} → {agent}", handed.what()), Tone::Busy),
                    None => (format!("{} stays there", handed.what()), Tone::Faint),
                });
            }
        }
        if again {
            return notes;
        }
        let users = match stage.users.len() {
            0 | 1 => String::new(),
            all if all == self.plan.targets.len() => format!("for all {all} platforms; "),
            _ => format!("for {}; ", stage.users.join(", ")),
        };
        let home = match &stage.home {
            Some(home) => format!("runs on {home}"),
            None => "runs anywhere".to_owned(),
        };
        notes.push((format!("{users}{home}"), Tone::Faint));
        match &stage.agent {
            Some(agent) => notes.push((format!("why {agent}: {}", stage.reason), Tone::Faint)),
            None => notes.push((stage.reason.clone(), Tone::Bad)),
        }
        if let Some(waits) = &stage.waits {
            notes.push((format!("first waits: {waits}"), Tone::Busy));
        }
        if let Some(mut cached) = cached(stage) {
            if let Some(took) = stage.expected_ms.filter(|took| *took > 0) {
                cached.push_str(&format!(
                    "; {} took {} last time",
                    match stage.commands_cached {
                        0 => "it",
                        _ => "the rest",
                    },
                    duration(took)
                ));
            }
            let others: Vec<&str> = stage
                .cached_on
                .iter()
                .map(String::as_str)
                .filter(|agent| Some(*agent) != stage.agent.as_deref())
                .collect();
            if !others.is_empty() && stage.commands_cached < stage.commands {
                cached.push_str(&format!("; all of it on {}", others.join(", ")));
            }
            notes.push((cached, Tone::Faint));
        }
        if stage.together.len() > 1 {
            let numbers: Vec<String> = stage.together.iter().map(u32::to_string).collect();
            notes.push((
                format!(
                    "shares a cache mount, and so an agent: stages {}",
                    numbers.join(", ")
                ),
                Tone::Faint,
            ));
        }
        notes
    }
}

fn advice(plan: &Plan, paint: Paint) -> String {
    if plan.advice.is_empty() {
        return String::new();
    }
    let mut out = paint.put(Tone::Strong, "Advice");
    out.push('\n');
    for one in &plan.advice {
        out.push_str(&of_one(one, paint));
    }
    out
}

fn of_one(advice: &Advice, paint: Paint) -> String {
    let mut out = format!(
        "  {}  {}\n",
        paint.put(Tone::Busy, &clean(&place(advice))),
        clean(&advice.kind)
    );
    let steps = advice.steps.iter();
    for step in steps {
        let line = format!("{:>6} | {}", step.first_line, clean(&step.text));
        out.push_str(&format!("    {}\n", paint.put(Tone::Faint, &line)));
    }
    for text in [&advice.costs, &advice.remedy] {
        out.push_str(&format!("    {}\n", clean(&sentence(text))));
    }
    out
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => String::new(),
    }
}
