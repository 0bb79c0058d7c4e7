//! Replicas that execute the same and come to different states: found while they run, by comparing digests
//! (N16, R4.2). Whoever is in the minority stops at once and comes back with the others' state; where no
//! majority agrees everybody stops, and says what is known.
//!
//! What is promised, and shown here: nothing of a minority's state is ever taken over by the others, and
//! from the moment it is found a replica says nothing more. What is not promised: a *primary* whose machine
//! computes something else answers with that until its digest is compared (see `docs/data-loss.md`); how
//! long that may last is bounded here.

#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::time::Duration;

use support::{Cluster, Node};
use vsr_consensus::{HaltReason, Mutant, Settings};
use vsr_types::message::PeerStatus;
use vsr_types::{Command, Digest, Op};

std::thread_local! {
    /// The rule that the clusters of this thread do without.
    static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// How long it may take from an operation that has another effect somewhere until that replica has stopped:
/// the next digest, a heartbeat or ping, and one more ping for votes about the same op.
const FOUND_WITHIN: Duration = Duration::from_millis(400);

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn cluster(n: u8, tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = Cluster::formed_with(n, |settings| {
        settings.mutant = MUTANT.get();
        tune(settings);
    });
    cluster.register(0);
    for _ in 0..5 {
        cluster.ask(0, "add 1");
        cluster.pass(millis(60));
    }
    cluster
}

fn halted(cluster: &Cluster, replica: u8) -> Option<HaltReason> {
    cluster.replicas[usize::from(replica)].report().halted
}

/// What a replica has sent, but for pings and the advice to ask somebody else.
fn sent(cluster: &Cluster, replica: u8) -> Vec<(Command, u64)> {
    let counters = cluster.replicas[usize::from(replica)].counters();
    let says_something =
        |command: Command| !matches!(command, Command::Ping | Command::Pong | Command::Reject);
    counters
        .messages()
        .filter(|(command, ..)| says_something(*command))
        .map(|(command, _, sent)| (command, sent))
        .collect()
}

/// Asks whoever answers, for at most `patience`; none: nobody does.
fn ask(cluster: &mut Cluster, operation: &str, patience: Duration) -> Option<String> {
    let n = cluster.n();
    cluster.request_at(0, 0, operation);
    let mut left = patience;
    for turn in 1.. {
        cluster.pass(millis(10));
        if !cluster.client(0).waiting {
            return Some(cluster.client(0).text());
        }
        left = left.saturating_sub(millis(10));
        if left.is_zero() {
            break;
        }
        cluster.retry_at(0, (turn % usize::from(n)) as u8);
    }
    cluster.client(0).waiting = false;
    None
}

/// Makes the next operation have another effect at `replica`, and asks until that is found. Returns what
/// was answered until then.
fn diverge(cluster: &mut Cluster, twists: &[(u8, u64)]) -> Vec<Option<String>> {
    for &(replica, twist) in twists {
        let replica = &cluster.replicas[usize::from(replica)];
        replica.machine().twist.set(twist);
    }
    let began = cluster.now.monotonic;
    let mut answers = Vec::new();
    let all_found = |cluster: &Cluster| {
        let is_found = |(replica, _): &(u8, u64)| halted(cluster, *replica).is_some();
        twists.iter().all(is_found)
    };
    while !all_found(cluster) {
        assert!(
            cluster.now.monotonic.since(began) <= FOUND_WITHIN,
            "found within {FOUND_WITHIN:?}"
        );
        answers.push(ask(cluster, "add 1", millis(10)));
    }
    answers
}

/// R4.2, N16.
#[test]
fn a_minority_of_one_comes_back_while_the_others_serve() {
    for (n, minority) in [(3, 0), (3, 1), (3, 2), (5, 0), (5, 4)] {
        let mut cluster = cluster(n, |_| {});
        one_comes_back(&mut cluster, minority);
    }
}

fn one_comes_back(cluster: &mut Cluster, minority: u8) {
    let n = cluster.n();
    let before = cluster.count(minority);
    diverge(cluster, &[(minority, 1 << 33)]);
    for i in 0..n {
        let reason = halted(cluster, i);
        let is_out = matches!(reason, Some(HaltReason::Divergence { .. }));
        assert_eq!(
            is_out,
            i == minority,
            "R{i} of {n}: {reason:?} when R{minority} differs"
        );
    }
    // It is fenced: from here on it says nothing but that it has stopped.
    let (before_silence, executed) = (sent(cluster, minority), cluster.applied(minority));
    for _ in 0..30 {
        cluster.pass(millis(10));
        cluster.query_at(1, minority, "total");
    }
    assert_eq!(
        sent(cluster, minority),
        before_silence,
        "R{minority} of {n}"
    );
    assert_eq!(cluster.applied(minority), executed, "nor does it execute");
    // The others go on, with the right state.
    let right = (0..n).find(|&i| i != minority).expect("another one");
    let total = cluster.replicas[usize::from(right)].machine().total();
    let answer = ask(cluster, "add 1", millis(1000)).expect("the others serve");
    assert_eq!(answer, (total + 1).to_string(), "R{minority} of {n}");
    // Its driver begins a new life.
    cluster.restart(minority);
    let is_back = cluster.wait(millis(3000), |c| c.status(minority) == PeerStatus::Normal);
    assert!(is_back, "R{minority} of {n} is back");
    let answer = ask(cluster, "add 1", millis(1000)).expect("all serve");
    assert_eq!(answer, (total + 2).to_string());
    cluster.pass(millis(500));
    assert!((0..n).all(|i| halted(cluster, i).is_none()));
    for i in 0..n {
        assert_eq!(cluster.digest(i), cluster.digest(right), "R{i} of {n}");
        assert_eq!(cluster.count(i), cluster.count(right));
    }
    assert!(cluster.count(minority) > before, "no operation was lost");
}

/// R4.2: what a majority member answers is right at any time; a diverged primary answers wrongly for a
/// bounded time at most.
#[test]
fn a_primary_that_computes_something_else_is_found_within_the_digest_period() {
    let mut cluster = cluster(3, |_| {});
    let answers = diverge(&mut cluster, &[(0, 1 << 33)]);
    let is_wrong = |answer: &String| answer.parse::<u64>().is_ok_and(|total| total >= 1 << 33);
    let wrong = answers.iter().flatten().filter(|a| is_wrong(a)).count();
    assert!(wrong > 0, "nobody could know before: {answers:?}");
    // From now on everything is right, also what was asked before and is asked again.
    cluster.retry_at(0, 1);
    cluster.pass(millis(500));
    for _ in 0..20 {
        let answer = ask(&mut cluster, "add 0", millis(1000)).expect("served");
        assert!(!is_wrong(&answer), "{answer}");
    }
}

/// R4.2: two of five differ from the others, and from each other.
#[test]
fn two_minorities_of_five_come_back() {
    let mut cluster = cluster(5, |_| {});
    diverge(&mut cluster, &[(1, 1 << 33), (3, 1 << 34)]);
    for i in [1, 3] {
        assert!(matches!(
            halted(&cluster, i),
            Some(HaltReason::Divergence { .. })
        ));
        cluster.restart(i);
        assert!(ask(&mut cluster, "add 1", millis(1000)).is_some());
    }
    let is_whole =
        |c: &Cluster| (0..5).all(|i| c.status(i) == PeerStatus::Normal && halted(c, i).is_none());
    assert!(cluster.wait(millis(5000), is_whole));
    cluster.pass(millis(300));
    for i in 0..5 {
        assert_eq!(cluster.digest(i), cluster.digest(0), "R{i}");
    }
}

/// N16: with no majority everybody stops, keeps what it holds, and names op, replicas and digests.
#[test]
fn where_nobody_agrees_everybody_stops_and_says_what_it_knows() {
    for n in [2_u8, 3, 5] {
        let mut cluster = cluster(n, |_| {});
        let equal_until = cluster.op(0);
        let twists: Vec<_> = (0..n).map(|i| (i, 1 << (33 + i))).collect();
        diverge(&mut cluster, &twists);
        cluster.pass(millis(300));
        let mut evidence: Vec<(Op, Vec<Option<Digest>>)> = Vec::new();
        for i in 0..n {
            let reason = halted(&cluster, i);
            let Some(HaltReason::NoMajority { op }) = reason else {
                panic!("R{i} of {n}: {reason:?}");
            };
            let seen = *cluster.replicas[usize::from(i)]
                .divergence()
                .expect("it has seen it");
            assert_eq!(seen.op, op, "R{i} of {n}");
            assert!(seen.since.raw() <= equal_until && op.raw() > equal_until);
            assert!(seen.since > Op::ZERO, "they were equal once");
            assert_eq!(
                seen.digests[usize::from(i)],
                cluster.replicas[usize::from(i)].digest_at(op)
            );
            evidence.push((op, seen.digests[..usize::from(n)].to_vec()));
            // What may have done it is still there, for people to look at.
            for op in seen.since.raw() + 1..=seen.op.raw() {
                let replica = &cluster.replicas[usize::from(i)];
                assert!(replica.log_body(Op::new(op)).is_some(), "op {op} of R{i}");
            }
        }
        let quorum = usize::from(n / 2 + 1);
        let (op, digests) = &evidence[0];
        assert!(
            evidence.iter().all(|(other, _)| other == op),
            "{evidence:?}"
        );
        assert!(digests.iter().flatten().count() >= quorum, "{evidence:?}");
        // Nobody serves, for ever.
        assert_eq!(ask(&mut cluster, "add 1", millis(3000)), None);
        let applied: Vec<u64> = (0..n).map(|i| cluster.applied(i)).collect();
        cluster.pass(millis(2000));
        assert!((0..n).all(|i| cluster.applied(i) == applied[usize::from(i)]));
        assert!(
            (0..n).all(|i| cluster.op(i) > equal_until),
            "and forgets nothing"
        );
    }
}

/// R4.2: who has lost its memory knows nothing; it is not asked who of the others is right.
#[test]
fn a_replica_without_memory_decides_nothing() {
    let mut cluster = cluster(3, |_| {});
    // R2 is back with nothing, and cannot recover: nobody's answers reach it.
    cluster.restart(2);
    for from in 0..2 {
        cluster.net.link(Node::Replica(from), Node::Replica(2)).cut = true;
    }
    diverge(&mut cluster, &[(1, 1 << 33)]);
    cluster.pass(millis(100));
    for i in 0..2 {
        let reason = halted(&cluster, i);
        assert!(
            matches!(reason, Some(HaltReason::NoMajority { .. })),
            "R{i}: {reason:?}"
        );
    }
    for from in 0..2 {
        cluster.net.link(Node::Replica(from), Node::Replica(2)).cut = false;
    }
    cluster.pass(millis(2000));
    assert_ne!(cluster.status(2), PeerStatus::Normal, "from nobody");
}

/// R4.2: digests are taken more often than they are told, and at every op other replicas tell theirs.
/// Whoever differs asks for votes about one op.
#[test]
fn votes_are_counted_at_one_op_however_often_digests_are_taken() {
    votes_are_counted_at_one_op();
}

fn votes_are_counted_at_one_op() {
    let mut cluster = cluster(5, |settings| {
        settings.digest_period = millis(1);
        settings.tick = millis(20);
        settings.view_timeout = millis(200);
    });
    for client in 1..20 {
        cluster.register(client);
    }
    // Each is some ops behind the one before it in the chain.
    for i in 0..4 {
        let link = cluster.net.link(Node::Replica(i), Node::Replica(i + 1));
        link.delay = millis(3 + 4 * u64::from(i));
    }
    let mut twist = 1 << 33;
    // A little more than a ping and its answer take on the slow way.
    for step in 0..200 + 110 {
        if step == 200 {
            cluster.replicas[2].machine().twist.set(twist);
            twist = 0;
        }
        for client in 0..20 {
            if !cluster.client(client).waiting {
                cluster.request_at(client, 0, "add 1");
            }
        }
        cluster.pass(millis(1));
        if halted(&cluster, 2).is_some() {
            break;
        }
    }
    let reason = halted(&cluster, 2);
    assert!(
        matches!(reason, Some(HaltReason::Divergence { .. })),
        "R2: {reason:?}"
    );
    assert_eq!(twist, 0, "not before");
}

/// A test that passes with every rule must fail without this one.
#[test]
fn without_any_of_these_rules_a_test_fails() {
    let broken: [(Mutant, fn()); 4] = [
        (
            Mutant::NoComparison,
            a_minority_of_one_comes_back_while_the_others_serve,
        ),
        (
            Mutant::MinorityServes,
            a_minority_of_one_comes_back_while_the_others_serve,
        ),
        (
            Mutant::LostMayVote,
            a_replica_without_memory_decides_nothing,
        ),
        (Mutant::ContestUntold, votes_are_counted_at_one_op),
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
    }
}

/// R4.2: R0 goes wrong while R1 and R2, who agree, do not hear each other: each sees two states and no
/// majority, and stops. When they hear each other again there is one, and it goes on.
#[test]
fn a_majority_that_a_cut_link_kept_from_being_seen_goes_on_when_it_is() {
    let mut cluster = cluster(3, |_| {});
    let [r1, r2] = [1, 2].map(Node::Replica);
    cluster.net.set_cut(r1, r2, true);
    for _ in 0..20 {
        ask(&mut cluster, "add 1", millis(500)).expect("served over the primary");
        cluster.pass(millis(100));
    }
    cluster.replicas[0].machine().twist.set(1 << 33);
    for _ in 0..40 {
        ask(&mut cluster, "add 1", millis(50));
    }
    assert!((0..3).all(|replica| halted(&cluster, replica).is_some()));
    cluster.net.set_cut(r1, r2, false);
    cluster.restart(0);
    let goes_on = |cluster: &Cluster| {
        let is_normal = |replica| cluster.status(replica) == PeerStatus::Normal;
        (0..3).all(is_normal)
    };
    assert!(cluster.wait(millis(20_000), goes_on), "and R0 recovers");
    let leads = |&replica: &u8| {
        let report = cluster.replicas[usize::from(replica)].report();
        report.primary.raw() == replica
    };
    let primary = (0..3).find(leads).expect("somebody leads");
    cluster.register_at(2, primary);
    let served = |cluster: &Cluster| !cluster.clients[2].waiting;
    assert!(cluster.wait(millis(2000), served), "and serves");
}
