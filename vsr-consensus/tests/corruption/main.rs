//! Flipped bits, one at a time and many at once: found, repaired, never spread, and no client ever hears
//! of them (N17, N18, N19).
//!
//! | rule | tests |
//! | --- | --- |
//! | R6.8 | `control` |
//! | R14.1 | `sweep`: the journal |
//! | R14.2 | `sweep`: sessions, replies, the machine's state |
//! | R14.3 | `serving`: an operation meets damage; a primary's state |
//! | R14.4 | `serving`, `everywhere`: what is bad everywhere |
//! | M2, N17, N19 | `waiting`: entries before they are executed, sessions, replies, queries, votes |

#[path = "../support/mod.rs"]
mod support;

mod control;
mod everywhere;
mod serving;
mod sweep;
mod waiting;

use std::cell::Cell;
use std::time::Duration;

use support::Cluster;
use vsr_consensus::{Event, Mutant, Replica};
use vsr_types::Op;

std::thread_local! {
    /// The rule that the clusters of this thread do without.
    static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// A test that passes with every rule must fail without this one.
#[test]
fn without_any_of_these_rules_a_test_fails() {
    let broken: [(Mutant, fn()); 10] = [
        (
            Mutant::ScrubberOff,
            sweep::one_byte_of_a_body_is_fetched_again,
        ),
        (Mutant::DamageAnswered, serving::an_operation_meets_damage),
        (Mutant::NumbersUncompared, control::one_bit_ends_the_life),
        (
            Mutant::ExecutionUnverified,
            waiting::an_entry_goes_bad_before_it_is_executed,
        ),
        (Mutant::SessionsUnverified, waiting::a_session_goes_bad),
        (Mutant::RepliesUnverified, waiting::a_reply_goes_bad),
        (Mutant::QueriesUnverified, waiting::a_query_goes_bad),
        (Mutant::VotesUnverified, waiting::a_vote_goes_bad),
        (Mutant::DamageGiven, everywhere::damage_is_given_to_nobody),
        (Mutant::NothingProbed, everywhere::a_chunk_bad_everywhere),
    ];
    for (mutant, test) in broken {
        MUTANT.set(Some(mutant));
        let outcome = std::panic::catch_unwind(test);
        MUTANT.set(None);
        assert!(
            outcome.is_err(),
            "nobody notices that {} is off",
            mutant.name()
        );
        test();
    }
}

/// A small cluster whose scrubbers go round in a few hundredths of a second.
fn cluster() -> Cluster {
    cluster_of(3, Duration::from_millis(20))
}

/// `n` replicas whose scrubbers take that long for a round.
fn cluster_of(n: u8, scrub_period: Duration) -> Cluster {
    Cluster::formed_with(n, |settings| {
        settings.journal_slots = 128;
        settings.sessions = 8;
        settings.reply_bytes = 2 << 20;
        settings.scrub_period = scrub_period;
        settings.mutant = MUTANT.get();
    })
}

/// How often `event` was counted at a replica.
fn count(cluster: &Cluster, replica: u8, event: Event) -> u64 {
    cluster.replicas[usize::from(replica)].counters().of(event)
}

/// What a replica holds, as far as anybody can see it.
fn holds(replica: &Replica<support::Ledger>) -> Vec<Vec<u8>> {
    let report = replica.report();
    let mut held = vec![format!("{:?}..{:?}", report.tail, report.op).into_bytes()];
    for op in report.tail.raw()..=report.op.raw() {
        let op = Op::new(op);
        let header = replica.log_header(op);
        held.push(header.map_or(Vec::new(), |header| {
            // The way it came is not part of what it is.
            bytemuck::bytes_of(&header.identity()).to_vec()
        }));
        held.push(replica.log_body(op).map_or(Vec::new(), <[u8]>::to_vec));
    }
    held.extend(
        replica
            .sessions()
            .map(|session| format!("{session:?}").into_bytes()),
    );
    let digest = replica.digest_at(report.applied);
    held.push(format!("{digest:?}").into_bytes());
    held
}

/// Lets time go by until nothing is known to be damaged anywhere, and the scrubbers have gone round.
fn heal(cluster: &mut Cluster) {
    let is_healed = heals(cluster);
    let reports: Vec<_> = cluster.replicas.iter().map(Replica::scrub_report).collect();
    assert!(is_healed, "everything is repaired: {reports:?}");
}

/// As [`heal`]; says whether it came to that.
fn heals(cluster: &mut Cluster) -> bool {
    let rounds = |cluster: &Cluster| -> Vec<u64> {
        let rounds = |r: &Replica<_>| r.scrub_report().rounds;
        cluster.replicas.iter().map(rounds).collect()
    };
    let before = rounds(cluster);
    cluster.wait(Duration::from_secs(20), |cluster| {
        let is_sound = |r: &Replica<_>| {
            let report = r.scrub_report();
            report.faulty_entries == 0 && report.damaged_state.is_none() && r.transfer().is_none()
        };
        let all = || cluster.replicas.iter();
        all().all(is_sound)
            && rounds(cluster)
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 2)
    })
}
