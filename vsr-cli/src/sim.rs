//! `sim`: whole clusters in one thread each, with everything going wrong that may go wrong, from seeds.
//!
//! What a seed does is the same on every machine, so the line that is printed when one fails plays it
//! again anywhere. `docs/failing-seed.md` says how to go on from there.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use vsr_consensus::sim::{self, Options, Store, Summary};

use crate::args::SimArgs;
use crate::failure::Failure;
use crate::output::{Block, Report, Screen};
use crate::progress::Progress;
use crate::table::{Cell, Table, Tone};
use crate::units::grouped;

/// How often the bar moves.
const SHOW: Duration = Duration::from_millis(100);

/// # Errors
/// When a seed breaks a rule, or the trace cannot be written.
pub(crate) fn run(args: &SimArgs, screen: Screen) -> Result<(), Failure> {
    let options = options(args);
    let (first, count) = match args.seed {
        Some(seed) => (seed, 1),
        None => (args.from.unwrap_or_else(fresh), args.seeds),
    };
    let began = Instant::now();
    let (summary, failure) = match &args.trace {
        Some(file) => traced(first, &options, file)?,
        None => all(first, count, &options, jobs(args, count)),
    };
    let Some(failure) = failure else {
        let took = began.elapsed();
        return Ok(screen.show(&report(first, &summary, took))?);
    };
    let failure = if args.shrink {
        sim::shrink::<Store>(failure)
    } else {
        failure
    };
    screen.show(&Report {
        json: broken(&failure),
        blocks: vec![Block::Text(failure.to_string())],
    })?;
    let advice = match args.shrink {
        true => failure.replay(),
        false => format!("{} --shrink", failure.replay()),
    };
    Err(Failure::new(format!(
        "seed {} breaks a rule: {}",
        failure.seed, failure.rule
    ))
    .next(advice))
}

fn options(args: &SimArgs) -> Options {
    Options {
        ops: args.ops,
        replicas: args.replicas,
        clients: args.clients,
        op_max: args.op_max,
        on_op_max: args.on_op_max,
        without: args.without,
        skip: args.skip.clone(),
        trace: args.trace.is_some(),
        shrink: false,
        ..Options::new(args.faults)
    }
}

/// Where to begin when nobody says: somewhere new every time, in few digits.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        u64::from(since.subsec_nanos()) + since.as_secs() % 1000
    })
}

fn jobs(args: &SimArgs, count: u64) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.map_or_else(cores, usize::from);
    jobs.min(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Plays one seed and writes down everything that happens.
fn traced(
    seed: u64,
    options: &Options,
    file: &Path,
) -> Result<(Summary, Option<sim::Failure>), Failure> {
    let outcome = sim::run::<Store>(seed, options);
    let text = format!(
        "{}\ntrace hash {:016x}\n",
        outcome.trace.unwrap_or_default().trim_end(),
        outcome.trace_hash
    );
    std::fs::write(file, text)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    Ok((outcome.summary, outcome.failure))
}

/// What all threads know together.
#[derive(Default)]
struct Shared {
    taken: AtomicU64,
    played: AtomicU64,
    /// Somebody has found a failure: nobody begins another seed.
    is_over: AtomicBool,
    found: Mutex<(Summary, Option<sim::Failure>)>,
}

impl Shared {
    fn play(&self, first: u64, count: u64, options: &Options) {
        while !self.is_over.load(Ordering::Relaxed) {
            let place = self.taken.fetch_add(1, Ordering::Relaxed);
            if place >= count {
                return;
            }
            let outcome = sim::run::<Store>(first.wrapping_add(place), options);
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0.add(&outcome.summary);
            if let Some(failure) = outcome.failure {
                self.is_over.store(true, Ordering::Relaxed);
                found.1.get_or_insert(failure);
            }
            drop(found);
            self.played.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Plays `count` seeds on `jobs` threads, until one fails.
fn all(first: u64, count: u64, options: &Options, jobs: usize) -> (Summary, Option<sim::Failure>) {
    let shared = Shared::default();
    let mut progress = Progress::counting(count);
    thread::scope(|scope| {
        let players: Vec<_> = (0..jobs)
            .map(|_| scope.spawn(|| shared.play(first, count, options)))
            .collect();
        while players.iter().any(|player| !player.is_finished()) {
            let played = shared.played.load(Ordering::Relaxed);
            progress.reach(played, format!("{played} of {count} seeds"));
            thread::sleep(SHOW);
        }
    });
    let found = shared.found.into_inner();
    found.unwrap_or_else(PoisonError::into_inner)
}

fn report(first: u64, summary: &Summary, took: Duration) -> Report {
    let seconds = took.as_secs_f64();
    let per_second = |count: u64| count as f64 / seconds.max(f64::MIN_POSITIVE);
    let events_per_second = per_second(summary.events) as u64;
    let simulated = summary.simulated_ns as f64 / 1e9;
    let mut table = Table::new(&["what", ">how much"]);
    let mut count = |what: &str, count: u64| table.row(vec![what.into(), Cell::number(count)]);
    count("seeds", summary.seeds);
    count("operations answered", summary.operations);
    count("queries answered", summary.queries);
    count("operations executed", summary.executed);
    count("entries committed", summary.committed);
    count("faults", summary.faults);
    count("crashes", summary.crashes);
    count(
        "  of them while recovering",
        summary.crashes_while_recovering,
    );
    count("recoveries", summary.recovered);
    count("views", summary.views);
    count("clusters that lost a quorum, and halted", summary.halted);
    count("epochs begun behind another", summary.rollovers);
    count("archives of epochs", summary.archives);
    count("messages", summary.messages);
    count("events", summary.events);
    count("events per second", events_per_second);
    let mut text = |what: &str, value: String| table.row(vec![what.into(), value.as_str().into()]);
    text("simulated time", format!("{simulated:.1} s"));
    text("real time", format!("{seconds:.1} s"));
    let healed = summary.heal_to_served_ns as f64;
    text("healed to all served, at most", crate::units::time(healed));
    let mut marks = Table::new(&["what happened", ">times"]);
    for (name, times) in summary.marks.iter().filter(|(_, times)| *times > 0) {
        marks.row(vec![name.into(), Cell::number(times)]);
    }
    let seeds = grouped(summary.seeds);
    let mut blocks = vec![
        Block::Line(
            format!("{seeds} seeds from {first} on: no rule was broken"),
            Tone::Good,
        ),
        Block::Table(table),
        Block::Title("rare things".to_owned()),
        Block::Table(marks),
    ];
    let missing: Vec<&str> = summary.marks.missing().collect();
    if !missing.is_empty() {
        let text = format!("never happened: {}", missing.join(", "));
        blocks.push(Block::Line(text, Tone::Warn));
    }
    Report {
        json: to_json(first, summary, seconds, events_per_second),
        blocks,
    }
}

fn to_json(first: u64, summary: &Summary, seconds: f64, events_per_second: u64) -> Value {
    let marks: serde_json::Map<String, Value> = summary
        .marks
        .iter()
        .map(|(name, times)| (name.to_owned(), json!(times)))
        .collect();
    json!({
        "first_seed": first,
        "seeds": summary.seeds,
        "operations": summary.operations,
        "queries": summary.queries,
        "executed": summary.executed,
        "committed": summary.committed,
        "faults": summary.faults,
        "crashes": summary.crashes,
        "crashes_while_recovering": summary.crashes_while_recovering,
        "recovered": summary.recovered,
        "views": summary.views,
        "halted": summary.halted,
        "rollovers": summary.rollovers,
        "archives": summary.archives,
        "messages": summary.messages,
        "events": summary.events,
        "events_per_second": events_per_second,
        "simulated_seconds": summary.simulated_ns as f64 / 1e9,
        "heal_to_served_seconds": summary.heal_to_served_ns as f64 / 1e9,
        "seconds": seconds,
        "marks": marks,
    })
}

fn broken(failure: &sim::Failure) -> Value {
    json!({
        "seed": failure.seed,
        "rule": failure.rule,
        "text": failure.text,
        "at_seconds": failure.at_ns as f64 / 1e9,
        "cluster": failure.cluster,
        "faults": failure.faults,
        "replicas": failure.replicas,
        "events": failure.events,
        "shrunk": failure.shrunk,
        "replay": failure.replay(),
        "replay_as_test": failure.replay_as_test(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use vsr_consensus::OnOpMax;
    use vsr_consensus::sim::{Faults, Plant};

    use super::*;
    use crate::args::{Cli, Command};
    use crate::output::Format;

    fn args(line: &str) -> SimArgs {
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Sim(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_line_that_a_failure_prints_is_understood_as_it_was_meant() {
        // A mistake planted in every replica, which the clients notice.
        let planted = Options {
            ops: 300,
            plant: Some(Plant::WrongReply),
            without: "loss,crash".parse::<Faults>().expect("two kinds"),
            skip: vec![3, 7],
            clients: Some(5),
            replicas: Some(3),
            op_max: Some(7),
            on_op_max: Some(OnOpMax::Reset),
            shrink: false,
            ..Options::new("all,-pause".parse().expect("kinds"))
        };
        // Not every short run gets to where it shows.
        let mut failures = (21..60).filter_map(|seed| sim::run::<Store>(seed, &planted).failure);
        let failure = failures.next().expect("planted");
        let args = args(&failure.replay());
        assert_eq!(args.seed, Some(failure.seed));
        assert_eq!(
            Options {
                plant: planted.plant,
                ..options(&args)
            },
            planted
        );
        assert!(
            broken(&failure)["replay"]
                .as_str()
                .is_some_and(|line| line.contains(&failure.seed.to_string()))
        );
    }

    #[test]
    fn threads_do_not_change_what_happens() {
        let args = args("vsr-cli sim --seeds 4 --ops 200");
        let (alone, none) = all(500, 4, &options(&args), 1);
        let (together, also_none) = all(500, 4, &options(&args), 3);
        assert_eq!((none, also_none), (None, None));
        assert_eq!(alone, together);
        let report = report(500, &alone, Duration::from_secs(2));
        assert_eq!(report.json["seeds"], 4);
        assert_eq!(report.json["events_per_second"], alone.events / 2);
        assert!(
            report
                .render(Format::Plain)
                .contains("4 seeds from 500 on: no rule was broken")
        );
    }
}
