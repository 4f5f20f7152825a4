//! The `croft` command: standard error and the exit code; all else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use croft_client::{cli::Cli, error::Exit};

// What is shown may have to wait for the terminal; what is sent may not.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let exit = match Cli::parse().run().await {
        Ok(()) => Exit::Done,
        Err(error) => {
            if let Some(line) = error.line() {
                eprintln!("croft: {line}");
            }
            error.exit()
        }
    };
    ExitCode::from(exit as u8)
}
