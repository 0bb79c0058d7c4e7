//! The server binary: `vsr-node start | dev | demo | config | version`.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 refused, 4 divergence, 5 memory.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vsr_net::init::InitError;
use vsr_node::config::{self, Flags, LogFormat};
use vsr_node::doubt::{Doubt, OnDoubt};
use vsr_node::inspect::VERSION;
use vsr_node::local::LocalError;
use vsr_node::node::{Node, NodeError, Started};
use vsr_node::{Config, banner, demo, dev, doubt, logging, residency};
use vsr_types::limits;

/// A replica of a vsr cluster: replicated, in memory, spoken to by Redis clients.
#[derive(Debug, Parser)]
#[command(
    name = "vsr-node",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 refused, 4 divergence,\n\
                  5 protocol memory has changed by itself.\n\
                  Try: vsr-node demo"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one replica until SIGTERM
    ///
    /// It starts blank: it holds nothing and serves nothing until it has recovered from peers that have a
    /// cluster, or until `vsr-cli init` forms one of all replicas of the list. SIGTERM ends it in order: a
    /// primary hands over first. Flags override VSR_<FLAG> environment variables (VSR_TICK=20ms), which
    /// override the file of --config.
    Start(Box<Start>),
    /// Keep a throw-away cluster up until Ctrl-C
    Dev {
        /// How many replicas, 1 to 7.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=limits::REPLICAS_MAX as i64))]
        replicas: u8,
        /// The Redis port of the first replica; the others follow.
        #[arg(long, default_value_t = 6379, value_parser = clap::value_parser!(u16).range(1024..=60_000))]
        base_port: u16,
    },
    /// Three replicas, load, the primary killed and brought back empty, and a look whether every
    /// promise was kept; ends by itself
    Demo {
        /// How long the load lasts, in seconds. Everything that clients saw is kept until it is checked.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// Check or print configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say which version this is
    Version {
        /// Also protocol, limits and build.
        #[arg(long)]
        verbose: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Start {
    #[command(flatten)]
    flags: Flags,
    /// Shut down when standard input ends: how children notice that their parent is gone.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
    /// No banner.
    #[arg(long, hide = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a TOML file
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a commented TOML file with all defaults
    PrintDefault,
}

/// Something failed.
const FAILED: u8 = 1;
/// The user asked for something impossible.
const USAGE: u8 = 2;
/// A replica refused.
const REFUSED: u8 = 3;
/// The state differs from that of a majority, again and again; or no majority agreed, and this process was
/// asked to leave.
const DIVERGENCE: u8 = 4;
/// Protocol memory failed its check (R6.8), again and again: check the machine.
const MEMORY: u8 = 5;

fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Start(arguments) => start(&arguments),
        Command::Dev {
            replicas,
            base_port,
        } => run(async move {
            let result = dev::run(program()?, replicas, base_port, asked_to_stop(false)).await;
            result.map_or_else(|error| Ok(local_code(&error)), |()| Ok(0))
        }),
        Command::Demo { seconds } => run(async move {
            match demo::run(program()?, seconds).await {
                Ok(good) => Ok(if good { 0 } else { FAILED }),
                Err(error) => Ok(fail(FAILED, &error)),
            }
        }),
        Command::Config(ConfigCommand::Check { file }) => check(&file),
        Command::Config(ConfigCommand::PrintDefault) => {
            say(config::print_default().trim_end());
            0
        }
        Command::Version { verbose } => version(verbose),
    };
    ExitCode::from(code)
}

fn say(text: &str) {
    // A closed pipe is the reader's wish to see no more.
    let _ignored = writeln!(io::stdout(), "{text}");
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> u8 {
    let _ignored = writeln!(io::stderr(), "error: {error}");
    code
}

fn local_code(error: &LocalError) -> u8 {
    let refused = matches!(error, LocalError::Init(init) if InitError::is_refusal(init));
    fail(if refused { REFUSED } else { FAILED }, error)
}

fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Runs `work` on a runtime of this one thread.
fn run(work: impl Future<Output = io::Result<u8>>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    let code = runtime
        .block_on(work)
        .unwrap_or_else(|error| fail(FAILED, &error));
    // Reading standard input keeps a thread that nothing can wake.
    runtime.shutdown_background();
    code
}

fn start(arguments: &Start) -> u8 {
    let config = match Config::load(&arguments.flags, &|name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    logging::start(&config);
    warn_of_misspelt_variables();
    residency::begin_with_huge_pages(&config);
    let quiet = arguments.quiet;
    let until_stdin_closes = arguments.until_stdin_closes;
    let on_doubt = config.on_doubt;
    let mut doubt = None;
    let code = run(async {
        let announced = config.clone();
        let node = Node::builder(config)
            .with_shutdown(asked_to_stop(until_stdin_closes))
            .on_start(move |started| {
                if !quiet {
                    announce(&announced, started);
                }
            });
        Ok(match node.serve_key_values().await {
            Ok(()) => 0,
            Err(error @ NodeError::Divergence(_)) => {
                doubt = Some(Doubt::Divergence);
                fail(DIVERGENCE, &error)
            }
            Err(error @ NodeError::Memory(_)) => {
                doubt = Some(Doubt::Memory);
                fail(MEMORY, &error)
            }
            Err(error @ NodeError::NoMajority(_)) => fail(DIVERGENCE, &error),
            Err(error) => fail(FAILED, &error),
        })
    });
    match doubt {
        // R6.8: what cannot be trusted counts as lost.
        Some(why) if on_doubt == OnDoubt::Restart => fail(code, &doubt::begin_again(why)),
        _ => code,
    }
}

/// The banner for people; for programs that read the log, one more line of it.
fn announce(config: &Config, started: &Started) {
    let Started { addresses, plan } = started;
    if config.log_format == LogFormat::Text {
        say(&banner::text(config, addresses, plan));
        return;
    }
    tracing::info!(
        version = VERSION,
        cluster = config.cluster,
        replica = config.consensus.replica.raw(),
        peers = config.peers.join(","),
        native = addresses.native,
        resp = addresses.resp,
        admin = addresses.admin,
        memory_bytes = plan.bytes(),
        failures_survived = config.consensus.failures_survived(),
        "started, blank: waits for init or for a cluster to recover from"
    );
}

fn warn_of_misspelt_variables() {
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    for (name, meant) in config::misspelt_variables(names.iter().map(String::as_str)) {
        tracing::warn!(
            name,
            meant,
            "an environment variable is not known and was ignored"
        );
    }
}

/// Resolves when a signal, or the end of standard input, asks for an orderly end. A second signal
/// ends the process at once.
///
/// Signals are caught from this call on, not from the first poll: whoever has read on the banner that
/// this process is there may ask it to leave right away.
fn asked_to_stop(or_stdin: bool) -> impl Future<Output = ()> {
    let signals = signal(SignalKind::terminate()).and_then(|terminate| {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok((terminate, interrupt))
    });
    wait_for(signals, or_stdin)
}

async fn wait_for(signals: io::Result<(Signal, Signal)>, or_stdin: bool) {
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "signals cannot be handled: they will end this process at once");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: shutting down; once more to end at once"),
        _ = interrupt.recv() => tracing::info!("SIGINT: shutting down; once more to end at once"),
        () = stdin_closed(), if or_stdin => tracing::info!("standard input ended: shutting down"),
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("ended at once, as asked");
        std::process::exit(FAILED.into());
    });
}

async fn stdin_closed() {
    let mut buffer = [0; 256];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

fn check(file: &std::path::Path) -> u8 {
    let (config, missing) = match Config::check_file(file) {
        Ok(checked) => checked,
        Err(error) => return fail(USAGE, &error),
    };
    say(&format!("{} is fine.", file.display()));
    if !missing.is_empty() {
        say(&format!(
            "It leaves to flags or environment: {}.",
            missing.join(", ")
        ));
    }
    if !missing.contains(&"peers") {
        let replicas = config.consensus.replicas;
        say(&format!(
            "A cluster of {replicas} {}.",
            banner::survives(&config)
        ));
    }
    0
}

fn version(verbose: bool) -> u8 {
    say(&format!("vsr-node {VERSION}"));
    if verbose {
        let kibibytes = |bytes: usize| config::show_size(bytes);
        let build = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        say(&format!(
            "protocol        {} (understands from {})",
            limits::PROTOCOL,
            limits::PROTOCOL_MIN
        ));
        say(&format!("replicas        1 to {}", limits::REPLICAS_MAX));
        say(&format!(
            "frame           at most {}",
            kibibytes(limits::FRAME_SIZE_MAX)
        ));
        say(&format!(
            "operation       at most {} bytes",
            limits::OPERATION_SIZE_MAX
        ));
        say(&format!(
            "build           {build}, {} {}",
            std::env::consts::ARCH,
            std::env::consts::OS
        ));
    }
    0
}
