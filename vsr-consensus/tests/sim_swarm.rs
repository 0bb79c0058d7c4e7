//! The swarm: random clusters under random misfortunes, seed by seed.
//!
//! `VSR_SEED=17` plays that seed alone; `VSR_SEED_BASE=1000 VSR_SEEDS=200` that many from there;
//! otherwise the pinned ones are played.
#![cfg(feature = "sim")]

use vsr_consensus::sim::{FaultClass, Faults, Options, Plant, Seeds, Store, Summary, run, shrink};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The kinds of trouble that `VSR_FAULTS` asks for.
fn chosen_faults() -> Faults {
    let list = std::env::var("VSR_FAULTS").unwrap_or_else(|_| "all".to_owned());
    list.parse().expect("a list of faults")
}

/// The seeds that the environment asks for.
fn chosen_seeds() -> Option<Seeds> {
    if let Some(seed) = number("VSR_SEED") {
        return Some(Seeds::one(seed));
    }
    let base = number("VSR_SEED_BASE").unwrap_or(0);
    number("VSR_SEEDS").map(|count| Seeds::range(base..base + count))
}

fn play(seeds: Seeds, options: &Options) -> Summary {
    let mut total = Summary::default();
    for seed in seeds {
        let outcome = run::<Store>(seed, options);
        if let (Some(file), Some(trace)) = (std::env::var_os("VSR_TRACE"), &outcome.trace) {
            std::fs::write(file, trace).expect("a file for the trace");
        }
        match outcome.failure {
            None => total.add(&outcome.summary),
            Some(failure) if options.shrink => panic!("{}", shrink::<Store>(failure)),
            Some(failure) => panic!("{failure}"),
        }
    }
    total
}

/// What even a short batch must have reached.
const REACHED: [&str; 16] = [
    "crash",
    "crashes of primaries",
    "crashes while recovering",
    "recovered",
    "views_started",
    "partition",
    "pause",
    "replay",
    "messages damaged",
    "streams broken",
    "repairs_given",
    "transfers_finished",
    "replies repeated",
    "operations refused",
    "sessions evicted",
    "register windows explained",
];

#[test]
fn pinned_seeds_lose_nothing() {
    // A build without optimization gets a shorter look.
    let ops = if cfg!(debug_assertions) { 400 } else { 1_000 };
    let options = Options {
        ops: number("VSR_OPS").unwrap_or(ops),
        shrink: std::env::var_os("VSR_SHRINK").is_some(),
        trace: std::env::var_os("VSR_TRACE").is_some(),
        ..Options::new(chosen_faults())
    };
    let chosen = chosen_seeds();
    let is_chosen = chosen.is_some();
    let summary = play(chosen.unwrap_or(Seeds::range(0..12)), &options);
    println!("{summary}\n{}", summary.marks);
    if is_chosen {
        return;
    }
    assert!(summary.operations > 2_500, "{summary}");
    for name in REACHED {
        assert!(
            summary.marks.of(name) > 0,
            "{name:?} was not reached:\n{}",
            summary.marks
        );
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let options = Options {
        ops: 300,
        ..Options::new(Faults::all())
    };
    let mut hashes = Vec::new();
    for seed in [3, 17, 40] {
        let once = run::<Store>(seed, &options);
        let again = run::<Store>(seed, &options);
        assert_eq!(once.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!(once.summary, again.summary, "seed {seed}");
        hashes.push(once.trace_hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "other seeds, other stories");
}

#[test]
fn every_planted_mistake_is_reported() {
    for plant in [
        Plant::ExecutesTwice,
        Plant::LeavesOut,
        Plant::WrongReply,
        Plant::StaleRead,
    ] {
        let options = Options {
            ops: 1_000,
            replicas: Some(3),
            plant: Some(plant),
            ..Options::new(Faults::none())
        };
        let found = (0..8).find_map(|seed| run::<Store>(seed, &options).failure);
        let failure = found.unwrap_or_else(|| panic!("{plant:?} was not found"));
        let rule = match plant {
            Plant::ExecutesTwice | Plant::LeavesOut | Plant::WrongReply => {
                "replicas execute the same (I19, I20)"
            }
            Plant::StaleRead => "linearizability of registers",
            Plant::OneDiverges(_) | Plant::AllDiverge => {
                unreachable!("replicas find those themselves")
            }
        };
        assert_eq!(failure.rule, rule, "{plant:?}");
        assert!(
            failure.replay().contains("--seed"),
            "a way to play it again"
        );
        assert!(!failure.events.is_empty() && failure.replicas.len() == 3);
    }
}

#[test]
fn a_failure_is_shrunk_to_what_matters() {
    let options = Options {
        ops: 1_000,
        plant: Some(Plant::LeavesOut),
        replicas: Some(3),
        ..Options::new(
            Faults::all()
                .without(FaultClass::Crash)
                .without(FaultClass::Kill),
        )
    };
    let failing = (0..20).find_map(|seed| {
        let failure = run::<Store>(seed, &options).failure?;
        (failure.faults.len() > 20).then_some(failure)
    });
    let failure = failing.expect("a planted mistake among faults");
    let before = failure.faults.len();
    let small = shrink::<Store>(failure);
    // The mistake needs no fault at all.
    assert!(
        small.faults.is_empty(),
        "from {before} faults to {}: {small}",
        small.faults.len()
    );
    let again = run::<Store>(small.seed, &small.options).failure;
    assert_eq!(again.map(|failure| failure.rule), Some(small.rule));
}

#[test]
fn beyond_f_the_cluster_halts_and_lies_to_nobody() {
    let options = Options {
        ops: 500,
        replicas: Some(3),
        ..Options::new(Faults::all().with(FaultClass::BeyondF))
    };
    let summary = play(Seeds::range(0..8), &options);
    assert!(summary.halted > 0, "too many memories were lost: {summary}");
}
