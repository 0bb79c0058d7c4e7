//! What waits for something else to happen, and goes bad meanwhile (N17, N19): entries that are not
//! executed yet, queries, votes.

use std::time::Duration;

use super::serving::ask;
use super::support::{Cluster, Node};
use super::{cluster, cluster_of, count, heal};
use vsr_consensus::{DropReason, Event, HaltReason, Place};
use vsr_types::{Op, ReplicaIndex, message::PeerStatus};

/// M2.
pub(super) fn an_entry_goes_bad_before_it_is_executed() {
    // The scrubber is not to find it first.
    let mut cluster = cluster_of(3, Duration::from_secs(3600));
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    cluster.pass(Duration::from_millis(50));
    cluster.request_at(0, 0, "add 5");
    cluster.run();
    // The backups hold it, and do not know yet that it is committed.
    let op = cluster.op(1);
    assert!(cluster.applied(1) < op && cluster.op(0) == op);
    let bits = cluster.replicas[1]
        .log_body(Op::new(op))
        .expect("held")
        .len()
        * 8;
    // The last byte of the operation: another number.
    let padding = (0..64).find(|back| {
        let body = cluster.replicas[1].log_body(Op::new(op)).expect("held");
        body[body.len() - 1 - back] == b'5'
    });
    let at = bits - 8 * (padding.expect("the operation is in it") + 1);
    assert!(cluster.replicas[1].flip(Place::Body(Op::new(op)), at + 1));
    cluster.pass(Duration::from_millis(300));
    assert_eq!(cluster.client(0).text(), "12");
    cluster.pass(Duration::from_secs(1));
    cluster.assert_equal();
    assert_eq!(cluster.replicas[1].machine().total(), 12);
}

#[test]
fn an_entry_that_goes_bad_before_it_is_executed_is_fetched_and_then_executed() {
    an_entry_goes_bad_before_it_is_executed();
}

/// N17: every field of an entry of the session table, just before its client asks again.
pub(super) fn a_session_goes_bad() {
    for bit in (0..72 * 8).step_by(19) {
        let mut cluster = cluster();
        cluster.register(0);
        assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
        cluster.pass(Duration::from_millis(50));
        // At a backup: the primary's verdict would keep the request out of the log.
        cluster.replicas[1].flip(Place::Sessions, bit);
        assert_eq!(ask(&mut cluster, 0, "add 5"), "12", "bit {bit}");
        heal(&mut cluster);
        cluster.assert_equal();
    }
}

#[test]
fn a_request_whose_session_is_bad_is_executed_after_the_repair() {
    a_session_goes_bad();
}

/// N17: a reply that went bad is given to nobody.
pub(super) fn a_reply_goes_bad() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "big 600"), "b".repeat(600));
    for byte in 0..3 * 256 {
        assert!(cluster.replicas[0].flip(Place::Replies, byte * 8));
    }
    cluster.retry_at(0, 0);
    cluster.run();
    cluster.pass(Duration::from_millis(20));
    assert_eq!(cluster.client(0).text(), "b".repeat(600));
    let sent = count(&cluster, 0, Event::DamagedStates);
    assert_eq!(sent, 1, "it was noticed");
}

#[test]
fn a_cached_reply_that_is_bad_is_given_to_nobody() {
    a_reply_goes_bad();
}

/// N17: what a client asked is what is answered.
pub(super) fn a_query_goes_bad() {
    let mut bits = 0;
    for bit in (0..8 * 48).step_by(5) {
        let mut cluster = cluster();
        cluster.register(0);
        assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
        cluster.pass(Duration::from_millis(50));
        (cluster.stopped[1], cluster.stopped[2]) = (true, true);
        cluster.query_at(0, 0, "total");
        cluster.run();
        if !cluster.replicas[0].flip(Place::Queries, bit) {
            continue;
        }
        bits += 1;
        (cluster.stopped[1], cluster.stopped[2]) = (false, false);
        cluster.pass(Duration::from_millis(20));
        let answered = count(&cluster, 0, Event::QueriesAnswered);
        assert_eq!(answered, 0, "bit {bit}");
        // Its client asks again.
        cluster.query_at(0, 0, "total");
        cluster.pass(Duration::from_millis(50));
        assert_eq!(cluster.client(0).text(), "7");
    }
    assert!(bits > 50, "{bits}");
}

#[test]
fn a_query_that_goes_bad_while_it_waits_is_not_answered() {
    a_query_goes_bad();
}

/// Five replicas, the first of them gone: R1 is the elect, and has R2's vote and its own.
fn waiting_for_votes() -> Cluster {
    let mut cluster = cluster_of(5, Duration::from_millis(20));
    cluster.register(0);
    cluster.ask(0, "add 7");
    cluster.pass(Duration::from_millis(50));
    cluster.stopped[0] = true;
    // R1 does not hear R3 and R4: it has too few votes.
    for _ in 0..100_000 {
        for deaf_to in [3, 4] {
            let link = cluster.net.link(Node::Replica(deaf_to), Node::Replica(1));
            link.queue.clear();
        }
        if cluster.turn() == 0 {
            cluster.advance(Duration::from_millis(1));
        }
        if cluster.status(1) == PeerStatus::ViewChange {
            break;
        }
    }
    assert_eq!(cluster.status(1), PeerStatus::ViewChange);
    cluster
}

/// N19: a vote that went bad before a quorum had voted counts for nothing.
pub(super) fn a_vote_goes_bad() {
    let (mut met, mut lives) = (0, 0);
    for bit in (0..8 * (40 + 150)).step_by(13) {
        let mut cluster = waiting_for_votes();
        let voter = (2..5)
            .map(ReplicaIndex::new)
            .find(|&voter| cluster.replicas[1].flip(Place::Vote(voter), bit));
        let starts = |c: &Cluster| (1..5).all(|r| c.status(r) == PeerStatus::Normal);
        let before = cluster.replicas[1].counters().drops(DropReason::Damaged);
        assert!(cluster.wait(Duration::from_secs(5), starts), "bit {bit}");
        let dropped = cluster.replicas[1].counters().drops(DropReason::Damaged) - before;
        met += u64::from(voter.is_some());
        lives += dropped;
        assert_eq!(
            dropped,
            u64::from(voter.is_some()),
            "bit {bit}: it is noticed"
        );
    }
    assert!(
        met > 20 && lives == met,
        "{met} votes went bad, {lives} were dropped"
    );
}

#[test]
fn a_vote_that_goes_bad_while_it_waits_is_dropped_and_asked_for_again() {
    a_vote_goes_bad();
}

/// R6.8: who finds that its own vote is not what it said cannot be trusted.
#[test]
fn a_replica_whose_own_vote_went_bad_is_as_good_as_crashed() {
    let mut cluster = waiting_for_votes();
    assert!(cluster.replicas[1].flip(Place::OwnVote, 200));
    (cluster.stopped[2], cluster.stopped[3], cluster.stopped[4]) = (true, true, true);
    cluster.pass(Duration::from_secs(1));
    let report = cluster.replicas[1].report();
    assert_eq!(report.halted, Some(HaltReason::Memory));
}
