//! More crashes than the cluster survives, and crashes while it is formed: it halts, and never guesses.

use std::time::Duration;

use vsr_consensus::Event;
use vsr_types::message::{InitCommit, PeerStatus};
use vsr_types::{ClusterId, Header, Nonce, ReplicaIndex};

use crate::backups::{comes_back, with_requests};
use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn s34_beyond_f_halt() {
    let mut cluster = with_requests(5, 5);
    for replica in [2, 3, 4] {
        cluster.crash(replica);
    }
    let before = cluster.commit(0);
    cluster.request_at(1, 0, "add 7");
    cluster.query_at(1, 0, "total");
    cluster.pass(millis(100));
    for replica in [2, 3, 4] {
        cluster.restart(replica);
    }
    cluster.pass(millis(3000));
    assert_eq!(
        cluster.commit(0).max(cluster.commit(1)),
        before,
        "nothing is committed"
    );
    assert!(
        cluster.client(1).waiting && cluster.client(1).reading,
        "nobody is told anything"
    );
    for replica in [2, 3, 4] {
        assert_eq!(
            cluster.status(replica),
            PeerStatus::Recovering,
            "R{replica} waits"
        );
        assert_eq!(cluster.count(replica), 0, "and shows nothing");
    }
    for replica in 0..5 {
        let report = cluster.replicas[replica].recovery_report();
        assert!(report.quorum_lost, "R{replica} raises the alarm");
    }
    assert!(cluster.op(0) >= before, "the survivors keep what they have");
}

#[test]
fn the_alarm_is_silent_while_a_cluster_is_formed() {
    let mut cluster = Cluster::new(3, |_| {});
    for _ in 0..20 {
        cluster.pass(millis(1));
        assert!(
            cluster
                .replicas
                .iter()
                .all(|r| !r.recovery_report().quorum_lost)
        );
    }
    cluster.init();
    for _ in 0..300 {
        cluster.pass(millis(5));
        assert!(
            cluster
                .replicas
                .iter()
                .all(|r| !r.recovery_report().quorum_lost)
        );
    }
}

#[test]
fn the_alarm_is_silent_while_a_recovery_takes_its_time() {
    let mut cluster = with_requests(3, 5);
    cluster.crash(1);
    cluster.restart(1);
    for _ in 0..200 {
        cluster.pass(millis(1));
        for replica in &cluster.replicas {
            assert!(!replica.recovery_report().quorum_lost);
        }
    }
    assert_eq!(cluster.status(1), PeerStatus::Normal);
}

#[test]
fn s35_total_loss() {
    let mut cluster = with_requests(3, 5);
    for replica in 0..3 {
        cluster.crash(replica);
    }
    for replica in 0..3 {
        cluster.restart(replica);
    }
    cluster.retry_at(1, 0);
    cluster.pass(millis(2000));
    for replica in 0..3 {
        assert_eq!(
            cluster.status(replica),
            PeerStatus::Blank,
            "R{replica} waits for an operator"
        );
        assert_eq!(
            cluster.replicas[usize::from(replica)].cluster(),
            ClusterId::ZERO
        );
    }
}

/// R6.1: who has lost its memory cannot vouch for a cluster, so restarts one by one end with all blank.
#[test]
fn s35_total_loss_one_after_the_other() {
    let mut cluster = with_requests(3, 5);
    cluster.crash(1);
    cluster.crash(2);
    cluster.restart(1);
    cluster.pass(millis(300));
    assert_eq!(
        cluster.status(1),
        PeerStatus::Recovering,
        "R0 is left, which is too few"
    );
    cluster.crash(0);
    cluster.restart(0);
    cluster.restart(2);
    cluster.pass(millis(1000));
    assert_eq!(cluster.status(0), PeerStatus::Blank);
    assert_eq!(cluster.status(2), PeerStatus::Blank);
    assert_eq!(
        cluster.status(1),
        PeerStatus::Recovering,
        "it waits for those who are gone"
    );
    let executed: u64 = cluster
        .replicas
        .iter()
        .map(|r| r.counters().of(Event::Executed))
        .sum();
    assert_eq!(executed, 0);
}

#[test]
fn s36_bootstrap_race() {
    // R2 agrees to form the cluster, restarts, and is then told that all have agreed.
    let mut cluster = Cluster::new(3, |_| {});
    let (id, token) = (ClusterId::new(0xFEED), Nonce::new(0x70CE));
    let nonces = cluster.propose(id, token);
    cluster.crash(2);
    cluster.restart(2);
    cluster.commit_init(id, token, nonces);
    assert_eq!(cluster.status(0), PeerStatus::Normal);
    assert_eq!(cluster.status(1), PeerStatus::Normal);
    assert_ne!(
        cluster.status(2),
        PeerStatus::Normal,
        "another process than the one that agreed"
    );
    comes_back(&mut cluster, 2);
    let incarnation = cluster.replicas[2].report().incarnation;
    assert_eq!(incarnation.counter, 1, "it came back as another life");
    assert_eq!(cluster.replicas[0].report().primary, ReplicaIndex::new(0));
}

/// R7.1: who agreed and was told late does not take itself for one that lost its memory: if all but one
/// did, nobody could come back.
#[test]
fn s36_bootstrap_told_late() {
    let mut cluster = Cluster::new(3, |_| {});
    let (id, token) = (ClusterId::new(0xFEED), Nonce::new(0x70CE));
    let nonces = cluster.propose(id, token);
    // Only R0 is told by the operator's tool.
    cluster.stopped[1] = true;
    cluster.stopped[2] = true;
    cluster.commit_init(id, token, nonces);
    for replica in [1, 2] {
        cluster.stopped[replica as usize] = false;
        let tool = Node::Tool;
        let to = Node::Replica(replica);
        cluster.net.link(tool, to).queue.clear();
    }
    cluster.pass(millis(500));
    for replica in 0..3 {
        assert_eq!(cluster.status(replica), PeerStatus::Normal, "R{replica}");
        assert_eq!(
            cluster.replicas[usize::from(replica)]
                .report()
                .incarnation
                .counter,
            0,
            "R{replica} is told by R0 and is no second life"
        );
    }
}

/// The tool's word reached one replica and the tool died; that one's links come up long afterwards. The
/// others are still the very processes that agreed: they are told and take part, they do not recover.
#[test]
fn a_late_word_that_the_cluster_is_formed_is_a_word() {
    for first in [0, 1, 2] {
        let mut cluster = Cluster::new(3, |_| {});
        let (id, token) = (ClusterId::new(0xFEED), Nonce::new(0x70CE));
        let nonces = cluster.propose(id, token);
        let mut header = Header::new(InitCommit {
            cluster: id,
            token,
            reserved: 0,
        });
        header.seal(bytemuck::bytes_of(&nonces));
        let frame = [bytemuck::bytes_of(&header), bytemuck::bytes_of(&nonces)].concat();
        let set_cut = |cluster: &mut Cluster, is_cut| {
            for other in (0..3).filter(|&other| other != first) {
                cluster
                    .net
                    .set_cut(Node::Replica(first), Node::Replica(other), is_cut);
            }
        };
        set_cut(&mut cluster, true);
        cluster.hand_over(Node::Tool, first, &frame);
        cluster.pass(millis(6000));
        set_cut(&mut cluster, false);
        let all = |cluster: &Cluster| (0..3).all(|r| cluster.status(r) == PeerStatus::Normal);
        assert!(cluster.wait(millis(3000), all), "R{first} tells the others");
        for replica in &cluster.replicas {
            assert_eq!(replica.report().incarnation.counter, 0, "its first life");
        }
    }
}
