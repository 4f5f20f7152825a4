//! `croft plan`: how a build would be split and placed, without running it. Takes what `croft build` takes, and asks the farm what would
//! become of it.

pub mod model;

use clap::{Args, ValueEnum};

use crate::{build::flags::BuildFlags, call::Call, error::Error, plan::model::Plan, render};

const EXIT_CODES: &str = "\
Takes the flags of `croft build`; those that say what becomes of a result change only what is planned. Only the Dockerfile's frontend is \
run, nothing is built, published or stored.

What is cached is an expectation: the farm knows which commands its agents ran before, not what their engines have dropped since.

Exit codes:
  0  planned
  1  the build would be refused, or its Dockerfile is wrong
  2  the command line is wrong
  4  the farm cannot be reached";

/// What would be built, and how that is shown.
#[derive(Debug, Clone, Args)]
pub struct PlanFlags {
    #[command(flatten)]
    build: BuildFlags,
    /// In which form the plan is printed
    #[arg(long, value_enum, default_value_t = Form::Tree)]
    format: Form,
}

/// How a plan is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people: from each result down to what it takes
    #[value(alias = "table")]
    Tree,
    /// For programs: fields keep their names and meanings, new ones may come
    Json,
    /// A flowchart for Markdown
    Mermaid,
    /// A picture
    Svg,
}

impl PlanFlags {
    /// The exit codes and what else is to be known, for the command's help.
    pub const AFTER_HELP: &'static str = EXIT_CODES;

    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        let plan = Plan::from(self.build.foresee(call).await?);
        call.print(&match self.format {
            Form::Tree => render::plan(&plan, call.paint),
            Form::Json => render::json(&plan),
            Form::Mermaid => render::plan_mermaid(&plan),
            Form::Svg => render::plan_svg(&plan),
        })?;
        match plan.refused {
            Some(why) => Err(Error::Declined(format!(
                "the build would be refused: {}",
                render::line(&why)
            ))),
            None => Ok(()),
        }
    }
}
