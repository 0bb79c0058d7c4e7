//! A backup crashes and comes back, with everything it had acknowledged.

use std::time::Duration;

use vsr_consensus::{Event, RecoveryPhase};
use vsr_types::message::PeerStatus;

use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A formed cluster with one session and `count` requests executed everywhere.
pub(crate) fn with_requests(n: u8, count: u64) -> Cluster {
    let mut cluster = Cluster::formed(n);
    cluster.register(1);
    for i in 0..count {
        cluster.ask(1, &format!("add {i}"));
    }
    cluster.pass(millis(30));
    cluster
}

/// A request that is answered as soon as the chain has found its way round who is missing.
pub(crate) fn ask(cluster: &mut Cluster, operation: &str) -> String {
    cluster.request_at(1, 0, operation);
    let served = cluster.wait(millis(500), |cluster| !cluster.clients[1].waiting);
    assert!(served, "c1 is served");
    cluster.client(1).text()
}

/// Waits until `replica` takes part again.
pub(crate) fn comes_back(cluster: &mut Cluster, replica: u8) {
    let normal = |cluster: &Cluster| cluster.status(replica) == PeerStatus::Normal;
    assert!(
        cluster.wait(millis(2000), normal),
        "R{replica} comes back: {:?}, {:?}",
        cluster.replicas[usize::from(replica)].recovery_report(),
        cluster.drops.iter().rev().take(20).collect::<Vec<_>>()
    );
}

#[test]
fn a_backup_with_nothing_to_recover_comes_back() {
    let mut cluster = Cluster::formed(3);
    cluster.pass(millis(20));
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.status(2), PeerStatus::Blank);
    comes_back(&mut cluster, 2);
    let report = cluster.replicas[2].report();
    assert_eq!(report.cluster, cluster.id());
    assert_eq!(report.incarnation.counter, 1, "its second life");
    assert_eq!(
        cluster.replicas[2].recovery_report().phase,
        RecoveryPhase::None
    );
}

#[test]
fn a_backup_comes_back_with_its_log() {
    for n in [3, 5, 7] {
        let mut cluster = with_requests(n, 20);
        cluster.crash(1);
        ask(&mut cluster, "add 100");
        cluster.restart(1);
        comes_back(&mut cluster, 1);
        cluster.pass(millis(100));
        ask(&mut cluster, "add 1000");
        cluster.pass(millis(100));
        cluster.assert_equal();
        assert_eq!(cluster.op(1), 23);
        assert!(!cluster.is_suspect(1), "it is in the chain again");
    }
}

#[test]
fn a_backup_comes_back_under_load() {
    let mut cluster = with_requests(3, 5);
    for client in 2..10 {
        cluster.register(client);
    }
    cluster.crash(2);
    let mut round = 0;
    let mut load = |cluster: &mut Cluster| {
        round += 1;
        for client in 2..10 {
            if !cluster.client(client).waiting {
                cluster.request_at(client, 0, &format!("add {round}"));
            }
        }
        cluster.pass(millis(1));
    };
    for _ in 0..20 {
        load(&mut cluster);
    }
    cluster.restart(2);
    for _ in 0..400 {
        load(&mut cluster);
        if cluster.status(2) == PeerStatus::Normal {
            break;
        }
    }
    assert_eq!(cluster.status(2), PeerStatus::Normal);
    for _ in 0..100 {
        load(&mut cluster);
    }
    cluster.pass(millis(200));
    cluster.assert_equal();
}

#[test]
fn a_backup_comes_back_again_and_again() {
    let mut cluster = with_requests(3, 3);
    for life in 1..=5_u64 {
        let backup = 1 + (life % 2) as u8;
        cluster.crash(backup);
        ask(&mut cluster, &format!("add {life}"));
        cluster.restart(backup);
        comes_back(&mut cluster, backup);
        cluster.pass(millis(50));
        cluster.assert_equal();
    }
    assert_eq!(cluster.replicas[1].report().incarnation.counter, 2);
    assert_eq!(cluster.replicas[2].report().incarnation.counter, 3);
}

#[test]
fn a_crash_during_the_recovery_starts_another() {
    let mut cluster = with_requests(3, 10);
    cluster.crash(1);
    cluster.net.link(Node::Replica(0), Node::Replica(1)).delay = millis(40);
    for phase in [
        RecoveryPhase::Asking,
        RecoveryPhase::Registering,
        RecoveryPhase::Restoring,
    ] {
        cluster.restart(1);
        let reached = |cluster: &Cluster| cluster.replicas[1].recovery_report().phase == phase;
        assert!(cluster.wait(millis(500), reached), "{phase:?} is reached");
        cluster.crash(1);
    }
    cluster.net.heal();
    cluster.restart(1);
    comes_back(&mut cluster, 1);
    cluster.pass(millis(50));
    cluster.assert_equal();
}

#[test]
fn two_of_five_come_back_at_the_same_time() {
    let mut cluster = with_requests(5, 10);
    cluster.crash(2);
    cluster.crash(4);
    ask(&mut cluster, "add 1");
    cluster.restart(2);
    cluster.restart(4);
    comes_back(&mut cluster, 2);
    comes_back(&mut cluster, 4);
    ask(&mut cluster, "add 2");
    cluster.pass(millis(100));
    cluster.assert_equal();
}

/// Equal states, although who fetched its state has not executed what led to it.
fn assert_equal_states(cluster: &Cluster) {
    for replica in 1..cluster.n() {
        assert_eq!(cluster.applied(replica), cluster.applied(0), "R{replica}");
        assert_eq!(cluster.digest(replica), cluster.digest(0), "R{replica}");
    }
}

#[test]
fn a_backup_comes_back_when_no_journal_reaches_back() {
    for n in [3, 5] {
        // The ring has 256 slots.
        let mut cluster = with_requests(n, 700);
        cluster.crash(1);
        ask(&mut cluster, "add 1");
        cluster.restart(1);
        comes_back(&mut cluster, 1);
        ask(&mut cluster, "add 2");
        cluster.pass(millis(200));
        assert_equal_states(&cluster);
        let finished = cluster.replicas[1].counters().of(Event::TransfersFinished);
        assert_eq!(finished, 1, "the state was fetched");
    }
}

/// The last backup of the route is asked first. It is as far behind as who asks, and gives what both have:
/// the swarm found replicas that did so again and again.
#[test]
fn a_backup_does_not_take_its_state_from_one_that_lags_equally_far() {
    let mut cluster = with_requests(5, 20);
    let (asks, lags) = (Node::Replica(3), Node::Replica(4));
    for peer in (0..3).map(Node::Replica) {
        cluster.net.set_cut(asks, peer, true);
        cluster.net.set_cut(lags, peer, true);
    }
    for i in 0..700 {
        ask(&mut cluster, &format!("add {i}"));
    }
    assert_eq!([3, 4].map(|replica| cluster.op(replica)), [21, 21]);
    for peer in (0..3).map(Node::Replica) {
        cluster.net.set_cut(asks, peer, false);
    }
    cluster.pass(millis(500));
    let counters = cluster.replicas[3].counters();
    assert_eq!(counters.of(Event::TransfersFinished), 1);
    assert_eq!(counters.of(Event::TransfersFailed), 0);
    assert_eq!(cluster.op(3), cluster.op(0));
    assert_eq!(cluster.digest(3), cluster.digest(0));
    cluster.net.heal();
    cluster.pass(millis(500));
    assert_equal_states(&cluster);
}

#[test]
fn a_backup_comes_back_under_load_that_outruns_the_journals() {
    let mut cluster = with_requests(3, 300);
    for client in 2..10 {
        cluster.register(client);
    }
    cluster.crash(2);
    cluster.restart(2);
    // The state is under way for long, and the ring goes round meanwhile.
    for from in [0, 1] {
        cluster
            .net
            .link(Node::Replica(from), Node::Replica(2))
            .delay = millis(15);
    }
    for round in 0..1200 {
        for client in 2..10 {
            if !cluster.client(client).waiting {
                cluster.request_at(client, 0, &format!("add {round}"));
            }
        }
        cluster.pass(millis(1));
        if cluster.status(2) == PeerStatus::Normal && round > 300 {
            break;
        }
    }
    assert_eq!(
        cluster.status(2),
        PeerStatus::Normal,
        "{:?} {:?}",
        cluster.replicas[2].recovery_report(),
        cluster.replicas[2].transfer()
    );
    cluster.net.heal();
    cluster.pass(millis(500));
    assert_equal_states(&cluster);
}

/// Two crashes, the second while the state is fetched; and the donor goes too.
#[test]
fn a_donor_that_crashes_is_replaced_by_another() {
    let mut cluster = with_requests(5, 400);
    cluster.crash(1);
    cluster.restart(1);
    let fetches = |cluster: &Cluster| cluster.replicas[1].transfer().is_some();
    for donor in [0, 2, 3, 4] {
        cluster
            .net
            .link(Node::Replica(donor), Node::Replica(1))
            .delay = millis(8);
    }
    assert!(cluster.wait(millis(1000), fetches), "the state is fetched");
    let donor = cluster.replicas[1]
        .transfer()
        .expect("a transfer")
        .donor
        .raw();
    assert_ne!(donor, 0, "a backup gives");
    cluster.crash(donor);
    comes_back(&mut cluster, 1);
    cluster.restart(donor);
    comes_back(&mut cluster, donor);
    cluster.net.heal();
    cluster.pass(millis(500));
    assert_equal_states(&cluster);
}

/// How long recovery takes beside the messages themselves: nothing, unless the others have heard of the
/// former life within a view time-out (R6.2).
#[test]
fn a_recovery_waits_for_nothing_but_the_guard() {
    let time_to_come_back = |silence: Duration| {
        let mut cluster = with_requests(3, 200);
        cluster.crash(1);
        cluster.pass(silence);
        cluster.restart(1);
        let before = cluster.now.monotonic;
        comes_back(&mut cluster, 1);
        cluster.now.monotonic.since(before)
    };
    let late = time_to_come_back(millis(150));
    assert!(late <= millis(3), "after a silence: {late:?}");
    let early = time_to_come_back(Duration::ZERO);
    assert!(early <= millis(100 + 100 * 3 / 2), "at once: {early:?}");
}
