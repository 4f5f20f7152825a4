//! The `croft` command: standard error and the exit code; all else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use croft_client::{cli::Cli, error::Exit};

#[tokio::main(flavor = "current_thread")]
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
