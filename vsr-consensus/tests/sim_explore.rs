//! Everything that can happen to a small cluster, within bounds: see `vsr_consensus::sim::explore`.
//!
//! `VSR_EXPLORE=full` looks as far as the bounds reach and says how far it has come; without it the
//! bounds are small enough for every run of the tests. `VSR_MUTANT=name` hunts one mutant and prints
//! the shortest trace that kills it; `VSR_STATES`, `VSR_CRASHES`, `VSR_VIEWS` and `VSR_SEEDS` move the
//! bounds.
#![cfg(all(feature = "sim", feature = "mutate"))]
#![expect(clippy::print_stdout, reason = "the figures are half of the result")]

use std::time::Instant;

use vsr_consensus::Mutant;
use vsr_consensus::sim::explore::{Bounds, Seen, search, wander};

fn is_full() -> bool {
    std::env::var("VSR_EXPLORE").is_ok_and(|value| value == "full")
}

fn number(name: &str, quick: usize, full: usize) -> usize {
    let given = std::env::var(name).ok().and_then(|n| n.parse().ok());
    given.unwrap_or(if is_full() { full } else { quick })
}

/// What a search may look at.
fn bounds(mutant: Option<Mutant>) -> Bounds {
    let small = suited(mutant);
    Bounds {
        views: number("VSR_VIEWS", small.views as usize, small.views as usize) as u64,
        crashes: number("VSR_CRASHES", small.crashes.into(), small.crashes.into()) as u8,
        states: number("VSR_STATES", 30_000, usize::MAX),
        mutant,
        ..small
    }
}

/// Not everything shows in two views with one request; what needs more of one thing gets less of
/// another.
fn suited(mutant: Option<Mutant>) -> Bounds {
    let small = Bounds::small();
    match mutant {
        // A view must be left whose log was taken over from votes.
        Some(Mutant::ForgetHeaders) => Bounds {
            views: 2,
            crashes: 0,
            ..small
        },
        Some(Mutant::RecoverHeadersOnly) => Bounds {
            views: 2,
            crashes: 1,
            ..small
        },
        // Nobody adopts a view from a heartbeat that is not sent.
        Some(Mutant::AdoptView) => Bounds {
            heartbeats: true,
            crashes: 0,
            ..small
        },
        // The same op number is given twice.
        Some(Mutant::KeepDivergent) => Bounds {
            requests: 2,
            crashes: 0,
            ..small
        },
        Some(Mutant::CutAndAdopt) => Bounds {
            views: 2,
            ops: 2,
            requests: 2,
            crashes: 0,
            ..small
        },
        Some(Mutant::LongestLog) => Bounds {
            views: 3,
            ops: 2,
            requests: 3,
            crashes: 0,
            ..small
        },
        _ => small,
    }
}

/// What a walk may do.
fn wide(mutant: Option<Mutant>) -> Bounds {
    Bounds {
        views: 3,
        ops: 2,
        requests: 3,
        crashes: 3,
        heartbeats: true,
        detours: true,
        mutant,
        ..Bounds::small()
    }
}

fn told(seen: &Seen) -> String {
    format!(
        "{} states, {} steps between them, {} deep, {} with a commit, {} with a new view, {} with a \
         recovered replica; {} states of single replicas, {} steps played, {} messages, {} mirages{}",
        seen.states,
        seen.edges,
        seen.depth,
        seen.committed,
        seen.changed,
        seen.recovered,
        seen.local,
        seen.played,
        seen.messages,
        seen.mirages,
        if seen.exhausted { "; all there is" } else { "" }
    )
}

fn looked(bounds: &Bounds) -> Seen {
    let began = Instant::now();
    let seen = search(bounds, &mut |seen| {
        println!("{:6.1} s {}", began.elapsed().as_secs_f64(), told(seen));
    });
    println!("{:6.1} s {}", began.elapsed().as_secs_f64(), told(&seen));
    seen
}

fn show(seen: &Seen) {
    if let Some(violation) = &seen.violation {
        println!("{}", violation.rule);
        for line in &violation.trace {
            println!("    {line}");
        }
    }
}

#[test]
fn with_all_rules_nothing_is_lost() {
    let seen = looked(&bounds(None));
    show(&seen);
    assert!(seen.violation.is_none());
}

#[test]
fn walks_with_all_rules_lose_nothing() {
    let began = Instant::now();
    let seen = wander(&wide(None), 0..number("VSR_SEEDS", 100, 5_000) as u64);
    println!("{:6.1} s {}", began.elapsed().as_secs_f64(), told(&seen));
    show(&seen);
    assert!(seen.violation.is_none());
}

/// What a search kills within a few ten thousand states, in every run of the tests.
const NEAR: &[Mutant] = &[
    Mutant::ReplyBeforeCommit,
    Mutant::SmallCommitQuorum,
    Mutant::SmallChangeQuorum,
    Mutant::OldPrepare,
    Mutant::SmallRecoveryQuorum,
    Mutant::RecoverFromAnybody,
    Mutant::StartViewTwice,
    Mutant::HearTheDead,
    Mutant::SameIncarnation,
    Mutant::ForgetHeaders,
    Mutant::AdoptView,
    Mutant::KeepDivergent,
];

/// What it kills with more patience, in full runs.
const FAR: &[Mutant] = &[
    Mutant::AnswerInViewChange,
    Mutant::AnyNonce,
    Mutant::CutAndAdopt,
    Mutant::RecoverHeadersOnly,
    Mutant::LongestLog,
];

#[test]
fn a_search_kills_mutants() {
    let states = number("VSR_STATES", 60_000, 3_000_000);
    let hunted = NEAR.iter().chain(FAR.iter().filter(|_| is_full()));
    let mut survivors = Vec::new();
    for &mutant in hunted {
        let began = Instant::now();
        let bounds = Bounds {
            states,
            ..bounds(Some(mutant))
        };
        let seen = search(&bounds, &mut |_| {});
        report(mutant, &seen, began);
        if seen.violation.is_none() {
            survivors.push(mutant.name());
        }
    }
    assert!(
        survivors.is_empty(),
        "these rules are not missed: {survivors:?}"
    );
}

fn report(mutant: Mutant, seen: &Seen, began: Instant) {
    let (name, seconds) = (mutant.name(), began.elapsed().as_secs_f64());
    match &seen.violation {
        Some(violation) => println!(
            "{name:28} dies after {:8} states, {seconds:5.1} s, {} steps: {}",
            seen.states,
            violation.trace.len(),
            violation.rule.replace('\n', " "),
        ),
        None => println!(
            "{name:28} survives {:8} states, {seconds:5.1} s",
            seen.states
        ),
    }
}

/// Hunts whatever `VSR_MUTANT` names (`all` for all), by a search and by walks, and shows the traces.
/// A tool rather than a test: what must die is in [`NEAR`] and [`FAR`].
#[test]
#[ignore = "hunts what VSR_MUTANT names"]
fn a_chosen_mutant_is_hunted() {
    let chosen = std::env::var("VSR_MUTANT").expect("VSR_MUTANT=name, or VSR_MUTANT=all");
    let is_chosen = |mutant: &&Mutant| chosen == "all" || chosen == mutant.name();
    for &mutant in Mutant::ALL.iter().filter(is_chosen) {
        let began = Instant::now();
        let mut seen = wander(
            &wide(Some(mutant)),
            0..number("VSR_SEEDS", 200, 20_000) as u64,
        );
        if seen.violation.is_none() {
            report(mutant, &seen, began);
            seen = search(&bounds(Some(mutant)), &mut |_| {});
        }
        report(mutant, &seen, began);
        show(&seen);
    }
}
