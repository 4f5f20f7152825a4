//! `croft context`: farms by name, in the configuration file.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    call::Call,
    cli::Format,
    config::{Context, File},
    error::Error,
    render,
};

/// About named farms.
#[derive(Debug, Subcommand)]
pub enum Contexts {
    /// List the farms that the configuration file names
    Ls(Ls),
    /// Name a farm: that which the flags and variables for a farm describe
    Add(Add),
    /// Have commands use this farm where nothing else is said
    Use(Use),
    /// Show one of them; the one in use, if none is named
    Show(Show),
    /// Remove one of them from the configuration file
    Rm(Rm),
}

/// All of them.
#[derive(Debug, Args)]
pub struct Ls {
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A new one.
#[derive(Debug, Args)]
pub struct Add {
    /// Its name; one that is there is replaced
    name: String,
    /// Use it from now on
    #[arg(long = "use")]
    in_use: bool,
}

/// Which.
#[derive(Debug, Args)]
pub struct Use {
    /// Its name
    name: String,
}

/// Which.
#[derive(Debug, Args)]
pub struct Show {
    /// Its name
    name: Option<String>,
    /// In which form the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Which.
#[derive(Debug, Args)]
pub struct Rm {
    /// Its name
    name: String,
}

/// A context as it is shown.
#[derive(Debug, Serialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub in_use: bool,
    /// What the file says.
    #[serde(flatten)]
    pub context: Context,
}

impl Contexts {
    pub(crate) fn run(self, call: &Call) -> Result<(), Error> {
        let mut file = File::load()?;
        // What `--context` and CROFT_CONTEXT name is in use for this call.
        let chosen = call.flags.context.clone();
        let in_use = chosen.or_else(|| file.config.context.clone());
        let named = |name: &String, context: &Context| Named {
            name: name.clone(),
            in_use: in_use.as_ref() == Some(name),
            context: context.clone(),
        };
        match self {
            Self::Ls(ls) => {
                let all: Vec<Named> = file
                    .config
                    .contexts
                    .iter()
                    .map(|(name, context)| named(name, context))
                    .collect();
                call.print(&match ls.format {
                    Format::Table => render::contexts(&all, call.paint),
                    Format::Json => render::json(&all),
                })
            }
            Self::Add(add) => {
                let mut flags = call.flags.clone();
                flags.context = None;
                if flags.addr.is_empty() {
                    return Err(Error::Unclear(
                        "say where the farm is: --addr https://farm.example:8372, with commas between several coordinators".to_owned(),
                    ));
                }
                let farm = file.farm(&flags)?;
                file.add(&add.name, &farm)?;
                if add.in_use {
                    file.set_in_use(&add.name)?;
                }
                let used = match file.config.context.as_ref() == Some(&add.name) {
                    true => ", and in use",
                    false => "",
                };
                let path = file.path().display().to_string();
                call.print(&format!(
                    "{} is in {}{used}\n",
                    add.name,
                    render::line(&path)
                ))
            }
            Self::Use(one) => {
                file.set_in_use(&one.name)?;
                call.print(&format!("{} is in use\n", render::line(&one.name)))
            }
            Self::Show(show) => {
                let name = show.name.or_else(|| in_use.clone()).ok_or_else(|| {
                    Error::Unclear(
                        "no context is in use: name one, or choose one with `croft context use`"
                            .to_owned(),
                    )
                })?;
                let one = named(&name, file.context(&name)?);
                call.print(&match show.format {
                    Format::Table => render::contexts(std::slice::from_ref(&one), call.paint),
                    Format::Json => render::json(&one),
                })
            }
            Self::Rm(rm) => {
                file.remove(&rm.name)?;
                call.print(&format!("{} is removed\n", render::line(&rm.name)))
            }
        }
    }
}
