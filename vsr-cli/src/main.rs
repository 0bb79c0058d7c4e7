//! The command `vsr-cli`: inspect, operate, benchmark and simulate vsr clusters.
//!
//! Every command asks replicas over their native ports (`--endpoints`) or over RESP, makes one
//! [`output::Report`] of the answers, and prints it as a table, JSON or plain lines. Nothing here is
//! needed for a cluster to work.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod bench;
mod call;
mod export;
mod failure;
mod health;
mod image;
mod import;
mod init;
mod inspect;
mod manual;
mod output;
mod ping;
mod primary;
mod progress;
mod resp;
mod sim;
mod status;
mod table;
mod units;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::output::{Format, Screen};
use crate::table::Tone;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure, format);
            failure.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let screen = Screen::new(global.output);
    // One thread: the load generator shares its machine with the servers that it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        match command {
            Command::Init => init::run(&global, screen).await,
            Command::Export(args) => export::run(&args, &global, screen).await,
            Command::Import(args) => import::run(&args, &global, screen).await,
            Command::Status(args) => status::run(&args, &global, screen).await,
            Command::Health(args) => health::run(&args, &global, screen).await,
            Command::Ping(args) => ping::run(&args, &global, screen).await,
            Command::Verify(args) => verify::run(&args, &global, screen).await,
            Command::Primary(args) => primary::run(&args, &global, screen).await,
            Command::Call(args) => call::run(&args, global.timeout, screen).await,
            Command::Inspect(args) => inspect::run(&args, &global, screen).await,
            Command::Bench(args) => bench::run(&args, &global, screen).await,
            Command::Sim(args) => sim::run(&args, screen),
            Command::Completions { shell } => manual::completions(screen, shell),
            Command::Man { dir } => manual::man(screen, dir.as_deref()),
        }
    })
}

/// Errors go to standard error, in the format that was asked for.
fn complain(failure: &Failure, format: Format) {
    if format == Format::Json {
        let json = serde_json::json!({
            "error": failure.message(), "next": failure.advice(), "exit_code": failure.exit() as u8,
        });
        anstream::eprintln!("{json}");
    } else {
        anstream::eprintln!("{} {failure}", Tone::Bad.paint("error:"));
    }
}
