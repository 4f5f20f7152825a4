//! The coordinator's program: reads its configuration, checks its parts, serves its two ports.

use std::io::Write as _;
use std::num::NonZero;
use std::process::ExitCode;

use clap::Parser as _;
use croft_coordinator::config::Config;
use croft_coordinator::{serve, telemetry};

fn main() -> ExitCode {
    let config = Config::parse();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line that says what is wrong and what to do, before any log format is chosen.
            let _ = writeln!(std::io::stderr(), "croft-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // All that tasks do is short, and handing it from thread to thread costs more than it: on two processors a second thread makes a context's
    // way through here a quarter dearer. What computes has threads of its own.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.div_ceil(2))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let _telemetry = telemetry::start(&config.telemetry)?;
        serve::serve(config).await
    })
}
