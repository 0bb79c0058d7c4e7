//! The command line, as types. Everything that can be checked without a cluster is checked here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use vsr_consensus::OnOpMax;
use vsr_consensus::sim::{Faults, Options};

use crate::output::Format;
use crate::units;

/// The RESP address that is used when none is named.
pub(crate) const RESP_DEFAULT: &str = "127.0.0.1:6379";

/// Inspect, operate and benchmark a vsr cluster.
#[derive(Debug, Parser)]
#[command(
    name = "vsr-cli",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 fine, 1 failed, 2 usage, 3 refused, 4 divergence.\n\
                  Examples:\n  \
                  vsr-cli init                         form a cluster from blank replicas\n  \
                  vsr-cli status --watch               all replicas, refreshed every second\n  \
                  vsr-cli call SET greeting hello      one Redis command\n  \
                  vsr-cli bench --clients 50 --pipeline 16 --duration 10s"
)]
pub(crate) struct Cli {
    /// For all commands.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The native ports of the replicas, in the order of the cluster's --peers list
    #[arg(
        long,
        global = true,
        env = "VSR_ENDPOINTS",
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        default_values = ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"],
        value_parser = units::endpoint
    )]
    pub(crate) endpoints: Vec<String>,

    /// The cluster's name; a replica of another cluster is refused then
    #[arg(long, global = true, env = "VSR_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,

    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "DUR", default_value = "5s",
          value_parser = units::duration)]
    pub(crate) timeout: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Form a new cluster from blank replicas
    ///
    /// Succeeds only when every listed replica is up and blank; otherwise nothing is changed and the
    /// exit code is 3.
    Init,
    /// Write the cluster's state to a file, while it serves
    ///
    /// The state is the one after some op that was executed after the command began: whatever was
    /// acknowledged before is in it. A backup gives it, if there is one. Needs a majority of the
    /// replicas, or --accept-loss.
    Export(ExportArgs),
    /// Form a new cluster from blank replicas, which begins with the state in a file
    ///
    /// As init: every listed replica must be up and blank, with the --memory and --sessions of the cluster
    /// that the file is from; otherwise nothing is changed and the exit code is 3. The new cluster has an
    /// id of its own. Sessions and their cached replies are part of the state.
    Import(ImportArgs),
    /// One table of all replicas, with lag and digest
    Status(StatusArgs),
    /// Tell a script whether the cluster works: exit code 0 or 1
    Health(HealthArgs),
    /// Measure the round trip to every replica, and of a linearizable read
    Ping(PingArgs),
    /// Compare the digests of all replicas at one op; exit code 4 when they differ
    Verify(VerifyArgs),
    /// Show who leads, or let another replica lead
    Primary(PrimaryArgs),
    /// Send one Redis command and print the answer
    Call(CallArgs),
    /// Look inside one replica
    Inspect(InspectArgs),
    /// Generate load and measure: throughput, latency, longest gap
    Bench(BenchArgs),
    /// Play simulated clusters in which everything goes wrong, from seeds
    ///
    /// The replicas are the real ones; network, clocks and crashes are simulated, and checkers look on at
    /// every step. Needs no running cluster. A failure prints its seed and the one line that plays it
    /// again; the exit code is 1 then.
    Sim(SimArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands into a folder
    Man {
        /// Write one page per command into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// See [`Command::Export`].
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file to write; a file of that name is not replaced unless --replace is given
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Which replica gives its state; the last backup of the chain if not given
    #[arg(long, value_name = "REPLICA", value_parser = clap::value_parser!(u8).range(0..=6))]
    pub(crate) from: Option<u8>,
    /// How many bytes of state a second are asked for at most: clients are served by the same machines
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = units::size)]
    pub(crate) rate: usize,
    /// Take the state of fewer replicas than a majority: what was acknowledged last may be missing
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// Replace a file of that name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Ask nobody: verify a file that was written, and tell what is in it
    #[arg(long, conflicts_with_all = ["from", "accept_loss", "replace"])]
    pub(crate) check: bool,
}

/// See [`Command::Import`].
#[derive(Clone, Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file, as export or an archive wrote it
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// See [`Command::Verify`].
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Compare the replicas' memory as well, chunk by chunk, while they work
    #[arg(long)]
    pub(crate) deep: bool,
}

/// See [`Command::Status`].
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Keep on asking and print again, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = units::duration)]
    pub(crate) interval: Duration,
}

/// See [`Command::Health`].
#[derive(Clone, Debug, Args)]
pub(crate) struct HealthArgs {
    /// Not only a working majority: every replica must be reachable, normal and ready
    #[arg(long)]
    pub(crate) all: bool,
}

/// See [`Command::Primary`].
#[derive(Clone, Debug, Args)]
pub(crate) struct PrimaryArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: PrimaryCommand,
}

/// What to do about the primary.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PrimaryCommand {
    /// Who leads
    Show,
    /// Let another replica lead: it takes over when what is in flight is done, without a time-out
    Move {
        /// The index of the replica that is to lead
        #[arg(value_name = "REPLICA", value_parser = clap::value_parser!(u8).range(0..=6))]
        replica: u8,
    },
}

/// See [`Command::Ping`].
#[derive(Clone, Debug, Args)]
pub(crate) struct PingArgs {
    /// How many round trips to each replica
    #[arg(short, long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
}

/// See [`Command::Call`].
#[derive(Clone, Debug, Args)]
pub(crate) struct CallArgs {
    /// The RESP port to send it to
    #[arg(long, value_name = "HOST:PORT", default_value = RESP_DEFAULT,
          value_parser = units::endpoint)]
    pub(crate) resp: String,
    /// The command and its arguments, for example: SET greeting hello
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) words: Vec<String>,
}

/// See [`Command::Inspect`].
#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// Which endpoint to ask, counted from 0; the first that answers if not given
    #[arg(long, global = true, value_name = "I")]
    pub(crate) replica: Option<usize>,
    /// What to look at
    #[command(subcommand)]
    pub(crate) topic: InspectTarget,
}

/// What to look at.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum InspectTarget {
    /// One op: its header and requests
    Op {
        /// Its number
        op: u64,
    },
    /// The last headers of the log
    Log {
        /// How many
        #[arg(short, long, value_name = "N", default_value_t = 20,
              value_parser = clap::value_parser!(u64).range(1..=1024))]
        count: u64,
    },
    /// The session table
    Sessions,
    /// The configuration
    Config,
    /// The memory plan and every bound
    Limits,
    /// The metrics, as Prometheus text
    Metrics,
    /// The route of the chain and what is known of its links
    Chain,
    /// How far the scrubber is, what was found damaged in memory, and what became of it
    Scrub,
    /// A file with a state: what it is of, and whether it is sound; asks nobody
    Image {
        /// The file
        file: PathBuf,
    },
}

/// See [`Command::Bench`].
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// Connections
    #[arg(short, long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Commands that each connection has in flight, sent in one write
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pipeline: u32,
    /// The size of a value
    #[arg(short = 'd', long, value_name = "BYTES", default_value = "128",
          value_parser = value_size)]
    pub(crate) size: usize,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=999_999_999_999))]
    pub(crate) keys: u64,
    /// The share of reads among the commands
    #[arg(long, value_name = "F", default_value = "0", value_parser = units::fraction)]
    pub(crate) reads: f64,
    /// Open loop: start this many commands per second, answered or not, and measure each from the
    /// time it should have started
    #[arg(long, value_name = "R", value_parser = units::rate)]
    pub(crate) rate: Option<f64>,
    /// How long to measure
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = units::duration)]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = units::duration_or_zero)]
    pub(crate) warmup: Duration,
    /// Use the native protocol and --endpoints; each client is one session
    #[arg(long, conflicts_with_all = ["resp", "wait"])]
    pub(crate) native: bool,
    /// Use RESP, on these ports; clients are spread over them
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', num_args = 0..=1,
          default_missing_value = RESP_DEFAULT, value_parser = units::endpoint)]
    pub(crate) resp: Vec<String>,
    /// Send WAIT N after every pipeline, as users of Redis do who want acknowledged replication
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) wait: Option<u32>,
    /// Write the histogram: percentiles as text, or a V2 interval log if the name ends in .hlog
    #[arg(long, value_name = "FILE")]
    pub(crate) hist: Option<PathBuf>,
    /// Write how many commands were answered in each step of 20 ms, as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) timeline: Option<PathBuf>,
    /// The seed of the choice of keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// See [`Command::Sim`].
#[derive(Clone, Debug, Args)]
pub(crate) struct SimArgs {
    /// Play this seed, and no other
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "from", "jobs"])]
    pub(crate) seed: Option<u64>,
    /// Play so many seeds
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// The first of them; somewhere new every time if not given
    #[arg(long, value_name = "S")]
    pub(crate) from: Option<u64>,
    /// How many operations the clients of each cluster have
    #[arg(long, value_name = "N", default_value_t = Options::default().ops,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ops: u64,
    /// The kinds of trouble that seeds may draw: all, none, or some, as in crash,partition or all,-clock
    #[arg(
        long,
        value_name = "LIST",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) faults: Faults,
    /// Kinds of trouble to leave out while everything else stays as it was drawn
    #[arg(long, value_name = "LIST", default_value = "none")]
    pub(crate) without: Faults,
    /// Single faults to leave out, by their numbers
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub(crate) skip: Vec<u32>,
    /// How many replicas; drawn if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) replicas: Option<u8>,
    /// How many clients; drawn if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) clients: Option<u16>,
    /// How many ops an epoch has; drawn if not given, and mostly more than a run needs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) op_max: Option<u64>,
    /// What happens when they are used up, halt, reset or archive; drawn if not given
    #[arg(long, value_name = "MODE", value_parser = on_op_max)]
    pub(crate) on_op_max: Option<OnOpMax>,
    /// How many seeds are played at the same time; as many as there are cores if not given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) jobs: Option<u8>,
    /// Write everything that happens into this file; needs --seed
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub(crate) trace: Option<PathBuf>,
    /// Look for a smaller run that breaks the same rule
    #[arg(long)]
    pub(crate) shrink: bool,
}

fn on_op_max(text: &str) -> Result<OnOpMax, String> {
    let mut modes = OnOpMax::ALL.into_iter();
    let found = modes.find(|mode| mode.name() == text);
    found.ok_or_else(|| "must be halt, reset or archive".to_owned())
}

fn value_size(text: &str) -> Result<usize, String> {
    match units::size(text)? {
        size @ 0..=0x000F_0000 => Ok(size),
        _ => Err("must be at most 960KiB: an operation must fit into one frame".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("vsr-cli").chain(line.split_whitespace()))
    }

    fn bench(line: &str) -> BenchArgs {
        match parse(line).expect(line).command {
            Command::Bench(args) => args,
            other => panic!("{other:?} is no bench"),
        }
    }

    #[test]
    fn the_model_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn endpoints_default_to_three_on_loopback_and_split_at_commas() {
        assert_eq!(parse("health").expect("parses").global.endpoints.len(), 3);
        let cli = parse("health --endpoints a:1,b:2").expect("parses");
        assert_eq!(cli.global.endpoints, ["a:1", "b:2"]);
        let cli = parse("--endpoints a:1 -o json --timeout 250ms status").expect("parses");
        assert_eq!(cli.global.endpoints, ["a:1"]);
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.timeout, Duration::from_millis(250));
    }

    #[test]
    fn a_call_takes_everything_after_the_command_as_it_is() {
        match parse("call --resp h:1 SET key -1 --resp x")
            .expect("parses")
            .command
        {
            Command::Call(call) => {
                assert_eq!(call.resp, "h:1");
                assert_eq!(call.words, ["SET", "key", "-1", "--resp", "x"]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bench_has_the_defaults_it_documents() {
        let args = bench("bench");
        assert_eq!((args.clients, args.pipeline, args.size), (50, 1, 128));
        assert_eq!(args.duration, Duration::from_secs(10));
        assert!(args.resp.is_empty() && !args.native && args.rate.is_none());
        assert_eq!(bench("bench --resp").resp, [RESP_DEFAULT]);
        assert_eq!(bench("bench --resp a:1,b:2 -P 16").resp, ["a:1", "b:2"]);
        assert_eq!(bench("bench --warmup 0 --rate 20k").rate, Some(20_000.0));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error_that_names_the_option() {
        for (line, names) in [
            ("bench --clients 0", "--clients"),
            ("bench --pipeline 20000", "--pipeline"),
            ("bench --size 2MiB", "--size"),
            ("bench --reads 1.5", "--reads"),
            ("bench --rate 0", "--rate"),
            ("bench --duration 0s", "--duration"),
            ("bench --duration soon", "--duration"),
            ("bench --keys 0", "--keys"),
            ("bench --native --resp", "--native"),
            ("bench --native --wait 1", "--native"),
            ("bench --wait 9", "--wait"),
            ("bench surplus", "surplus"),
            ("health --endpoints localhost", "--endpoints"),
            ("health --endpoints a:1,:2", "--endpoints"),
            ("health --timeout 0s", "--timeout"),
            ("-o xml status", "--output"),
            ("ping --count 0", "--count"),
            ("inspect op", "<OP>"),
            ("inspect op minus", "<OP>"),
            ("inspect log --count 5000", "--count"),
            ("call", "<COMMAND>"),
            ("completions tcsh", "<SHELL>"),
            ("sim --seed 1 --seeds 2", "--seed"),
            ("sim --trace file", "--seed"),
            ("sim --faults loss,cosmic", "known are all, none, loss"),
            ("sim --replicas 8", "--replicas"),
            ("sim --ops 0", "--ops"),
            ("export", "<FILE>"),
            ("export file --from 9", "--from"),
            ("export file --check --replace", "--check"),
            ("import", "<FILE>"),
            ("inspect image", "<FILE>"),
            ("frobnicate", "frobnicate"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(names), "{line}: {error}");
        }
    }

    #[test]
    fn help_is_no_error() {
        let help = parse("--help").expect_err("prints help");
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
    }
}
