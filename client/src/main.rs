//! The `croft` command: standard error and the exit code; all else is in the library.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use croft_client::{cli::Cli, error::Exit};

/// In which what is begun with files has to be put away at the end. A program that should read what is written to it, and doesn't, is left.
const TIDY_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // What is shown may have to wait for the terminal; what is sent may not.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("croft: cannot start: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let exit = match runtime.block_on(Cli::parse().run()) {
        Ok(()) => Exit::Done,
        Err(error) => {
            if let Some(line) = error.line() {
                eprintln!("croft: {line}");
            }
            error.exit()
        }
    };
    runtime.shutdown_timeout(TIDY_WITHIN);
    ExitCode::from(exit as u8)
}
