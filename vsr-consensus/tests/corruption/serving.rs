//! Damage while clients are served, at one replica and at all of them.

use std::time::Duration;

use super::support::{Cluster, Random};
use super::{cluster, count, heal, heals};
use vsr_consensus::{Event, Place};
use vsr_types::{Op, message::PeerStatus};

/// Asks until somebody answers, as a client does.
pub(super) fn ask(cluster: &mut Cluster, client: u8, operation: &str) -> String {
    if let Some(told) = asks(cluster, client, operation) {
        return told;
    }
    for replica in &cluster.replicas {
        let report = replica.report();
        let (op, commit, applied) = (report.op, report.commit, report.applied);
        let (status, view) = (report.status, report.view);
        eprintln!("{status:?} {view:?} op {op} commit {commit} applied {applied}");
        eprintln!("  {:?}", replica.scrub_report());
    }
    panic!("c{client} is not served");
}

/// As [`ask`]; none when nobody answers for ten seconds.
fn asks(cluster: &mut Cluster, client: u8, operation: &str) -> Option<String> {
    let mut to = 0;
    cluster.request_at(client, to, operation);
    for _ in 0..1000 {
        cluster.pass(Duration::from_millis(10));
        if !cluster.client(client).waiting {
            return Some(cluster.client(client).text());
        }
        to = (to + 1) % 3;
        cluster.retry_at(client, to);
    }
    None
}

pub(super) fn an_operation_meets_damage() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    cluster.replicas[0].machine_mut().damage(3);
    assert_eq!(ask(&mut cluster, 0, "add 5"), "12");
    cluster.pass(Duration::from_millis(300));
    cluster.assert_equal();
}

#[test]
fn an_operation_that_meets_damage_is_executed_after_the_repair_and_answered_with_the_truth() {
    an_operation_meets_damage();
    for bad in 0..3 {
        let mut cluster = cluster();
        cluster.register(0);
        assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
        cluster.replicas[bad].machine_mut().damage(3);
        assert_eq!(ask(&mut cluster, 0, "add 5"), "12", "R{bad}");
        heal(&mut cluster);
        assert_eq!(count(&cluster, bad as u8, Event::StatesRepaired), 1);
        assert_eq!(ask(&mut cluster, 0, "add 5"), "17");
        cluster.pass(Duration::from_millis(100));
        cluster.assert_equal();
        // Who led with a state that is no state let another one lead.
        let leads = cluster.replicas[bad].report().primary.as_usize() == bad;
        assert!(!leads, "R{bad}");
    }
}

#[test]
fn a_query_and_a_retry_that_meet_damage_are_answered_with_the_truth_or_not_at_all() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "big 600"), "b".repeat(600));
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    cluster.replicas[0].machine_mut().damage(3);
    cluster.query_at(0, 0, "total");
    cluster.pass(Duration::from_millis(5));
    heal(&mut cluster);
    // The answer to a retry is a cached reply, and its bytes were bad.
    let primary = cluster.replicas[0].report().primary.as_usize();
    for byte in 0..3 {
        assert!(cluster.replicas[primary].flip(Place::Replies, byte * 8 + byte));
    }
    cluster.retry_at(0, primary as u8);
    cluster.run();
    cluster.pass(Duration::from_millis(20));
    assert_eq!(cluster.client(0).text(), "7");
    heal(&mut cluster);
    cluster.assert_equal();
}

/// R5.5, N19: what is bad wherever it is held is named and left alone, and everything else goes on.
#[test]
fn an_entry_that_is_bad_everywhere_is_reported_with_its_op() {
    let mut cluster = cluster();
    cluster.register(0);
    for _ in 0..4 {
        ask(&mut cluster, 0, "add 1");
    }
    for replica in &mut cluster.replicas {
        assert!(replica.flip(Place::Body(Op::new(3)), 5));
    }
    let named = cluster.wait(Duration::from_secs(5), |cluster| {
        let names = |r: &vsr_consensus::Replica<_>| r.scrub_report().unrepaired == Some(Op::new(3));
        cluster.replicas.iter().all(names)
    });
    assert!(named, "every replica names the op");
    assert_eq!(
        ask(&mut cluster, 0, "add 1"),
        "5",
        "everything else goes on"
    );
    for replica in &cluster.replicas {
        assert_eq!(replica.log_body(Op::new(3)), None, "nothing is guessed");
        assert!(replica.counters().of(Event::EntriesUnrepaired) > 0);
    }
    cluster.assert_equal();
}

/// One flip: where, and for what a replica is asked later.
fn flip_somewhere(cluster: &mut Cluster, random: &mut Random, replica: usize, share: u64) {
    let report = cluster.replicas[replica].report();
    let ops = (report.op.raw() + 1)
        .saturating_sub(report.tail.raw())
        .max(1);
    let bit = random.below(1 << 16) as usize;
    // No piece is bad at two replicas: each has a share of the ops of its own.
    let op = report.tail.raw() + random.below(ops);
    let op = Op::new(op / 3 * 3 + share);
    let is_held = op >= report.tail && op <= report.op;
    match random.below(5) {
        0 if is_held => {
            cluster.replicas[replica].flip(Place::Slot(op, random.below(2) as usize), bit % 1216);
        }
        1 | 2 if is_held => {
            let bits = cluster.replicas[replica]
                .log_body(op)
                .map_or(0, <[u8]>::len)
                * 8;
            if bits > 0 {
                cluster.replicas[replica].flip(Place::Body(op), bit % bits);
            }
        }
        3 => {
            // The sessions of a share of the slots; replica 2 gets the machine's state.
            match share {
                0 => cluster.replicas[replica].flip(Place::Sessions, bit % (4 * 72 * 8)),
                1 => cluster.replicas[replica].flip(Place::Replies, bit % (8 * 256 * 8)),
                _ => {
                    cluster.replicas[replica].machine_mut().damage(bit % 192);
                    true
                }
            };
        }
        _ => {}
    }
}

/// Names the seed of a test that fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "seed {}: VSR_FIRST={} VSR_SEEDS=1 plays it again",
                self.0, self.0
            );
        }
    }
}

/// What became of a seed.
#[derive(Default)]
struct Outcome {
    flips: u64,
    /// The longest that a client waited.
    longest: Duration,
    /// The newest version of a chunk was held by one replica only, the others having been stopped before, and
    /// it was damaged there: bad wherever it is held.
    is_beyond: bool,
}

/// All replicas know damage of their state, and they have executed different numbers of operations: so what
/// the furthest of them holds of a damaged chunk nobody else ever had.
fn is_beyond(cluster: &Cluster) -> bool {
    let all = || cluster.replicas.iter();
    let applied = |r: &vsr_consensus::Replica<_>| r.report().applied;
    all().all(|replica| replica.scrub_report().damaged_state.is_some())
        && all().any(|replica| applied(replica) != applied(&cluster.replicas[0]))
}

fn different_damage(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let mut cluster = cluster();
    for client in 0..3 {
        cluster.register(client);
    }
    let (mut total, mut outcome) = (0, Outcome::default());
    // A repair goes by chunks of the state: none of them is bad at two replicas.
    let mut shares = random.below(3);
    for round in 0..12 {
        for replica in 0..3 {
            for _ in 0..1 + random.below(2) {
                let share = (replica + shares) % 3;
                flip_somewhere(&mut cluster, &mut random, replica as usize, share);
                outcome.flips += 1;
            }
        }
        let client = random.below(3) as u8;
        total += round;
        let asked_at = cluster.now.monotonic;
        let told = asks(&mut cluster, client, &format!("add {round}"));
        outcome.longest = outcome.longest.max(cluster.now.monotonic.since(asked_at));
        let is_served = told.is_some();
        if let Some(told) = told {
            assert_eq!(told, total.to_string(), "the truth");
        }
        let heals_now = is_served && random.below(2) == 0;
        if !is_served || (heals_now && !heals(&mut cluster)) {
            assert!(is_beyond(&cluster), "what somebody has is repaired");
            outcome.is_beyond = true;
            return outcome;
        }
        if heals_now {
            shares = random.below(3);
        }
    }
    if !heals(&mut cluster) {
        assert!(is_beyond(&cluster), "what somebody has is repaired");
        outcome.is_beyond = true;
        return outcome;
    }
    let is_quiet = cluster.wait(Duration::from_secs(10), |cluster| {
        (0..3)
            .all(|r| cluster.status(r) == PeerStatus::Normal && cluster.applied(r) == cluster.op(r))
            && cluster.applied(0) == cluster.applied(1)
            && cluster.applied(0) == cluster.applied(2)
    });
    assert!(is_quiet, "everybody takes part");
    cluster.assert_equal();
    outcome
}

/// Different damage at all replicas at once, no piece bad everywhere, under load: everything asked is
/// answered, with the truth, and in the end everything is whole. `VSR_SEEDS` says how many seeds are played.
#[test]
fn different_damage_at_all_replicas_at_once_is_repaired_while_clients_are_served() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let (first, seeds) = (number("VSR_FIRST", 0), number("VSR_SEEDS", 60));
    let began = std::time::Instant::now();
    let (mut flips, mut beyond, mut longest) = (0, 0, Duration::ZERO);
    for seed in first..first + seeds {
        let _named = Named(seed);
        let outcome = different_damage(seed);
        flips += outcome.flips;
        longest = longest.max(outcome.longest);
        if outcome.is_beyond {
            eprintln!(
                "seed {seed}: the newest version of a chunk is bad at the only replica that has it"
            );
            beyond += 1;
        }
    }
    println!(
        "{seeds} seeds, {flips} flips, {beyond} beyond repair, longest wait {longest:?}: {:?}",
        began.elapsed()
    );
    assert!(
        beyond * 500 <= seeds,
        "{beyond} of {seeds} are beyond repair"
    );
}
