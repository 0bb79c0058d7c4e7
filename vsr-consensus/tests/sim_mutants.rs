//! A simulator that does not notice when a rule of the protocol is missing is too weak, or the rule is
//! not needed. Each mutant is a protocol without one rule.
//!
//! The short test plays those that the swarm finds at once. The long one hunts all of them
//! (`--ignored`; `VSR_MUTANT=name` plays one, `VSR_SEEDS=n` says how many seeds each may take) and says
//! who survives. Rules that stand behind one another, or that only a certain schedule shows, are the
//! scenarios' and the explorer's.
#![cfg(all(feature = "sim", feature = "mutate"))]

use vsr_consensus::Mutant;
use vsr_consensus::sim::{Faults, Options, Store, run};

/// How many seeds a mutant may survive.
const SEEDS_MAX: u64 = 200;

/// Mutants that the swarm finds within a few seeds.
const AT_ONCE: [&str; 13] = [
    "reply_before_commit",
    "gap",
    "old_prepare",
    "small_commit_quorum",
    "count_acks",
    "commit_follows",
    "tail_ack",
    "late_log_view",
    "start_view_twice",
    "prepare_twice",
    "adopt_own_entry",
    "answer_in_view_change",
    "init_not_blank",
];

/// The seed that kills `mutant`, and the rule that was seen to be broken.
fn killer(mutant: Mutant, seeds: u64) -> Option<(u64, String)> {
    let options = Options {
        ops: 1_000,
        mutant: Some(mutant),
        shrink: false,
        ..Options::new(Faults::all())
    };
    (0..seeds).find_map(|seed| {
        let failure = run::<Store>(seed, &options).failure?;
        let rule = if failure.rule.starts_with("no replica") {
            failure.text
        } else {
            failure.rule
        };
        Some((seed, rule.replace('\n', " ")))
    })
}

#[test]
fn a_protocol_without_one_of_its_rules_is_found_out() {
    for name in AT_ONCE {
        let mutant = Mutant::from_name(name).expect("a mutant of this name");
        let killed = killer(mutant, 60);
        let (seed, rule) = killed.unwrap_or_else(|| panic!("{name} survives"));
        eprintln!("{name:28} killed by seed {seed:4}: {rule}");
    }
}

#[test]
#[ignore = "takes many minutes: every rule, and up to 200 seeds for each"]
fn all_mutants_are_hunted() {
    let chosen = std::env::var("VSR_MUTANT").ok();
    let seeds = std::env::var("VSR_SEEDS").ok().and_then(|n| n.parse().ok());
    let mut killed = 0;
    for &mutant in Mutant::ALL {
        if chosen.as_ref().is_some_and(|name| name != mutant.name()) {
            continue;
        }
        match killer(mutant, seeds.unwrap_or(SEEDS_MAX)) {
            Some((seed, rule)) => {
                killed += 1;
                eprintln!("{:28} killed by seed {seed:4}: {rule}", mutant.name());
            }
            None => eprintln!("{:28} survives", mutant.name()),
        }
    }
    assert!(killed > 0, "the swarm finds something");
}
