//! The `croft` command: standard output, standard error and the exit code; all else is in the library.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use croft_client::{
    config::Cli,
    error::{Error, Exit},
    model::Moment,
    render::Paint,
    run::run,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let answer = run(&cli, paint(), Moment(chrono::Utc::now())).await;
    let exit = match answer.and_then(|text| print(&text)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("croft: {error}");
            error.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn paint() -> Paint {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if io::stdout().is_terminal() && !refused && !dumb {
        Paint::Colours
    } else {
        Paint::None
    }
}

/// A reader that has seen enough, like `head`, is no failure.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
