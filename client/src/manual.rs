//! What is made of the command line's own texts: completions for shells, man pages, and pages for `docs/commands`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Arg, Args, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::{call::Call, cli::Cli, error::Error};

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  croft completion bash > /etc/bash_completion.d/croft
  croft completion zsh > \"${fpath[1]}/_croft\"
  croft completion fish > ~/.config/fish/completions/croft.fish")]
pub struct Completion {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Completion {
    pub(crate) fn run(self, call: &Call) -> Result<(), Error> {
        let shell = match self.shell.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            _ => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "croft", &mut script);
        call.print(&String::from_utf8_lossy(&script))
    }
}

/// Where to.
#[derive(Debug, Args)]
pub struct Man {
    /// A folder that is there
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<(), Error> {
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(|source| Error::File {
            path: self.folder,
            source,
        })
    }
}

/// A page of documentation for each command that has no commands below it, and one of all of them: file names and texts.
pub fn pages() -> Vec<(String, String)> {
    let mut croft = Cli::command();
    croft.build();
    let mut commands = Vec::new();
    collect(&croft, "croft", &mut commands);
    let mut index = String::from(
        "# The croft command\n\n\
         These pages are written from the command's own `--help`: `make docs` writes them anew.\n\n\
         | command | |\n|---|---|\n",
    );
    let mut pages = Vec::new();
    for (name, command) in &commands {
        let file = format!("{}.md", name.replace(' ', "-"));
        let _ = writeln!(
            index,
            "| [`{name}`]({file}) | {} |",
            cell(&about(command, Text::Short))
        );
        pages.push((file, page(name, command)));
    }
    index.push_str("\n## Flags for the farm\n\nEvery command that asks a farm takes these.\n\n");
    flags(&mut index, croft.get_arguments().filter(|arg| of_farm(arg)));
    if let Some(after) = croft.get_after_help() {
        let _ = write!(index, "\n## Exit codes\n\n```\n{after}\n```\n");
    }
    pages.push(("README.md".to_owned(), index));
    pages
}

fn collect(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help" && !below.is_hide_set())
        .collect();
    if below.is_empty() {
        found.push((name.to_owned(), command.clone()));
    }
    for below in below {
        collect(below, &format!("{name} {}", below.get_name()), found);
    }
}

fn page(name: &str, command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let mut out = format!(
        "# {name}\n\n{}\n\n    {}\n",
        about(command, Text::Long),
        usage.replace('\n', "\n    ")
    );
    let positionals: Vec<&Arg> = command.get_positionals().collect();
    if !positionals.is_empty() {
        out.push_str("\n| argument | default | |\n|---|---|---|\n");
        for arg in positionals {
            let names = arg.get_value_names().unwrap_or_default();
            let shown: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let _ = writeln!(
                out,
                "| `{}` | {} | {} |",
                cell(&shown.join(" ")),
                default(arg),
                cell(&help(arg))
            );
        }
    }
    let own = |arg: &&Arg| !arg.is_positional() && !of_farm(arg) && !arg.is_hide_set();
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(own)
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if !own.is_empty() {
        out.push('\n');
        flags(&mut out, own.into_iter());
    }
    out.push_str("\nThe [flags for the farm](README.md#flags-for-the-farm) go with it, and it ends with one of the [exit codes](README.md#exit-codes).\n");
    if let Some(after) = command.get_after_help().filter(|_| name != "croft") {
        let _ = write!(out, "\n```\n{}\n```\n", after.to_string().trim_end());
    }
    out
}

/// What every command has.
fn of_farm(arg: &Arg) -> bool {
    arg.get_help_heading() == Some("Farm")
}

fn flags<'a>(out: &mut String, all: impl Iterator<Item = &'a Arg>) {
    out.push_str("| flag | variable | default | |\n|---|---|---|---|\n");
    for arg in all {
        let mut name = arg
            .get_short()
            .map_or_else(String::new, |c| format!("-{c}, "));
        let _ = write!(
            name,
            "--{}",
            arg.get_long().unwrap_or(arg.get_id().as_str())
        );
        if arg.get_action().takes_values() {
            let names = arg.get_value_names().unwrap_or_default();
            for value in names {
                let _ = write!(name, " {value}");
            }
        }
        let variable = arg
            .get_env()
            .map(|name| format!("`{}`", name.to_string_lossy()));
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            cell(&name),
            variable.unwrap_or_default(),
            default(arg),
            cell(&help(arg))
        );
    }
}

fn default(arg: &Arg) -> String {
    if !arg.get_action().takes_values() || arg.is_hide_default_value_set() {
        return String::new();
    }
    let values = arg.get_default_values().iter();
    let values: Vec<String> = values
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    values.join(", ")
}

/// What a flag is for, and what it may be.
fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    if arg.get_action().takes_values() && !values.is_empty() {
        let shown = values.iter().filter(|value| !value.is_hide_set());
        let shown = shown.map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        });
        let _ = write!(text, ": {}", shown.collect::<Vec<_>>().join(", "));
    }
    text
}

#[derive(Clone, Copy)]
enum Text {
    Short,
    Long,
}

fn about(command: &Command, text: Text) -> String {
    let about = match text {
        Text::Short => command.get_about(),
        Text::Long => command.get_long_about().or(command.get_about()),
    };
    about.map(ToString::to_string).unwrap_or_default()
}

/// A text as a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Where the pages are, from the folder of this crate.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands")
}
