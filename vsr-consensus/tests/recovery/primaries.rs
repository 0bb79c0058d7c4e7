//! A primary crashes and comes back: always as a backup, in a later view than the one it led.

use std::time::Duration;

use vsr_consensus::{RecoveryPhase, Replica, Settings};
use vsr_types::message::PeerStatus;
use vsr_types::{Command, View};

use crate::backups::{comes_back, with_requests};
use crate::support::{Cluster, Ledger, Node};

const R0: Node = Node::Replica(0);
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A request that is sent again, to one replica after the other, until it is answered.
fn ask(cluster: &mut Cluster, operation: &str) -> String {
    let n = cluster.n();
    cluster.request_at(1, 0, operation);
    for attempt in 1..=60_u8 {
        if cluster.wait(millis(50), |cluster| !cluster.clients[1].waiting) {
            return cluster.client(1).text();
        }
        cluster.retry_at(1, attempt % n);
    }
    panic!("c1 is never served");
}

fn view_of(cluster: &Cluster, replica: usize) -> View {
    cluster.replicas[replica].report().view
}

/// Where R2's recovery stands, and what all the replicas are doing, for a message.
fn at_r2(cluster: &Cluster) -> String {
    let status = |r: &Replica<Ledger>| (r.report().status, r.report().view);
    let all: Vec<_> = cluster.replicas.iter().map(status).collect();
    format!("{:?} {all:?}", cluster.replicas[2].recovery_report())
}

#[test]
fn s31_recover_own_view() {
    let mut cluster = with_requests(3, 5);
    cluster.crash(0);
    cluster.restart(0);
    comes_back(&mut cluster, 0);
    assert!(
        view_of(&cluster, 0) > View::ZERO,
        "never in the view that it led"
    );
    assert_ne!(cluster.replicas[0].report().primary.raw(), 0);
    assert_eq!(ask(&mut cluster, "add 100"), "110");
    cluster.pass(millis(200));
    cluster.assert_equal();
}

#[test]
fn s31_stays_recovering_while_nobody_leads_another_view() {
    // Nobody votes: the others keep believing in view 0, whose primary has forgotten everything.
    let mut cluster = with_requests(3, 5);
    for (from, to) in [(R1, R2), (R2, R1)] {
        cluster.net.lose.push((from, to, Command::StartViewChange));
    }
    cluster.crash(0);
    cluster.restart(0);
    cluster.pass(millis(1000));
    assert_eq!(cluster.status(0), PeerStatus::Recovering);
    let report = cluster.replicas[0].recovery_report();
    assert_eq!(report.phase, RecoveryPhase::Registering);
    assert_eq!(report.replies, 2, "both answer, and neither is the primary");
    cluster.net.lose.clear();
    comes_back(&mut cluster, 0);
    ask(&mut cluster, "add 1");
    cluster.pass(millis(200));
    cluster.assert_equal();
}

#[test]
fn each_primary_in_turn_crashes_and_comes_back() {
    for n in [3_u8, 5] {
        let mut cluster = with_requests(n, 3);
        for round in 1..=2 * n {
            let primary = (0..n)
                .map(usize::from)
                .filter(|&replica| cluster.replicas[replica].report().status == PeerStatus::Normal)
                .max_by_key(|&replica| view_of(&cluster, replica))
                .map(|replica| cluster.replicas[replica].report().primary.raw())
                .expect("somebody is normal");
            cluster.crash(primary);
            ask(&mut cluster, &format!("add {round}"));
            cluster.restart(primary);
            comes_back(&mut cluster, primary);
        }
        cluster.pass(millis(300));
        cluster.assert_equal();
        assert_eq!(cluster.count(0), 3 + 2 * u64::from(n));
    }
}

/// R6.9: recoveries and view changes at the same time.
#[test]
fn s32_recovery_during_storm() {
    let mut cluster = with_requests(5, 3);
    cluster.crash(2);
    cluster.restart(2);
    // For two seconds, whoever leads is cut off from all the others but R2.
    for _ in 0..8 {
        let views: Vec<_> = (0..5).map(|replica| view_of(&cluster, replica)).collect();
        let newest = *views.iter().max().expect("five");
        let primary = newest.primary(5).raw();
        for other in (0..5).filter(|&other| other != primary && other != 2) {
            cluster
                .net
                .set_cut(Node::Replica(primary), Node::Replica(other), true);
        }
        cluster.pass(millis(250));
        for other in (0..5).filter(|&other| other != primary) {
            cluster
                .net
                .set_cut(Node::Replica(primary), Node::Replica(other), false);
        }
    }
    comes_back(&mut cluster, 2);
    ask(&mut cluster, "add 5");
    cluster.pass(millis(300));
    cluster.assert_equal();
}

/// Trace T4, for three: R1 has left view 0, and view 1 has not started.
fn answers_between_views(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = Cluster::formed_with(3, tune);
    cluster.register(1);
    cluster.pass(millis(20));
    for to in [R1, R2] {
        cluster.net.link(R0, to).cut = true;
    }
    for command in [Command::DoViewChange, Command::GetView] {
        for (from, to) in [(R2, R1), (R1, R2), (R1, R0), (R2, R0)] {
            cluster.net.lose.push((from, to, command));
        }
    }
    let left = |cluster: &Cluster| cluster.status(1) == PeerStatus::ViewChange;
    assert!(cluster.wait(millis(1000), left), "R1 leaves view 0");
    // And stays between views: nobody votes with it.
    cluster.net.lose.push((R1, R0, Command::StartViewChange));
    cluster.crash(2);
    // From here on R0 is heard by R2, and still leads view 0 for all it knows.
    cluster.net.link(R0, R2).cut = false;
    cluster.restart(2);
    cluster.wait(millis(400), |cluster| {
        cluster.status(2) == PeerStatus::Normal
    });
    cluster
}

#[test]
fn s04_vc_replica_answers() {
    let mut cluster = answers_between_views(|_| {});
    assert_eq!(
        cluster.status(2),
        PeerStatus::Recovering,
        "R1 is silent, so R2 waits"
    );
    cluster.net.heal();
    cluster.net.lose.clear();
    assert!(
        cluster.wait(millis(3000), |cluster| cluster.status(2)
            == PeerStatus::Normal),
        "{}",
        at_r2(&cluster)
    );
}

#[test]
#[cfg(feature = "mutate")]
fn s04_vc_replica_answers_without_the_rule() {
    let cluster = answers_between_views(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::AnswerInViewChange);
    });
    assert_eq!(cluster.status(2), PeerStatus::Normal, "{}", at_r2(&cluster));
}

#[test]
fn s30_primary_crash_in_view_change() {
    // R1 starts view 1, tells R2 only, crashes, and comes back.
    let mut cluster = with_requests(5, 3);
    cluster.crash(0);
    let started = |cluster: &Cluster| {
        let report = cluster.replicas[1].report();
        report.status == PeerStatus::Normal && report.view == View::new(1)
    };
    for other in [3, 4] {
        cluster
            .net
            .lose
            .push((R1, Node::Replica(other), Command::StartView));
        cluster
            .net
            .lose
            .push((R1, Node::Replica(other), Command::Commit));
    }
    assert!(cluster.wait(millis(2000), started), "R1 starts view 1");
    cluster.crash(1);
    cluster.net.lose.clear();
    cluster.restart(0);
    cluster.restart(1);
    comes_back(&mut cluster, 1);
    comes_back(&mut cluster, 0);
    assert!(
        view_of(&cluster, 1) > View::new(1),
        "each view has one primary life"
    );
    ask(&mut cluster, "add 9");
    cluster.pass(millis(300));
    cluster.assert_equal();
}

/// What the elect has taken over is found damaged while it fetches the rest: it is fetched again before
/// the view starts, and counted.
#[test]
#[cfg(feature = "mutate")]
fn an_inherited_entry_that_is_damaged_is_fetched_before_the_view_starts() {
    let mut cluster = Cluster::formed_with(3, |settings| settings.chain = false);
    cluster.register(1);
    cluster.register(2);
    cluster.pass(millis(30));
    let base = cluster.op(0);
    let (c1, c2) = (Node::Client(1), Node::Client(2));
    cluster.request_at(1, 0, "add 5");
    cluster.deliver(c1, R0);
    cluster.deliver(R0, R1);
    cluster.deliver(R0, R2);
    cluster.request_at(2, 0, "add 50");
    cluster.net.set_cut(R0, R1, true);
    cluster.net.link(R2, R0).cut = true;
    cluster.deliver(c2, R0);
    cluster.deliver(R0, R2);
    cluster.crash(0);
    cluster.net.set_cut(R0, R2, true);
    assert_eq!((cluster.op(1), cluster.op(2)), (base + 1, base + 2));
    cluster.net.lose.push((R2, R1, Command::Prepare));
    let elect = |c: &Cluster| c.status(1) == PeerStatus::ViewChange && c.op(1) == base + 2;
    assert!(cluster.wait(millis(1000), elect), "R1 fetches the second");
    cluster.replicas[1].damage(vsr_types::Op::new(base + 1));
    cluster.net.lose.clear();
    for client in [1, 2] {
        cluster.retry_at(client, 1);
        let served = cluster.wait(millis(3000), |cluster| {
            !cluster.clients[usize::from(client)].waiting
        });
        assert!(served, "c{client} is served");
    }
    assert_eq!(cluster.replicas[1].machine().history().len(), 2);
}
