//! Votes of lives that have ended: a view change must not count them, whoever knows of it.

use std::time::Duration;

use vsr_consensus::Settings;
use vsr_types::Command;
use vsr_types::message::PeerStatus;

use crate::backups::comes_back;
use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn r(replica: u8) -> Node {
    Node::Replica(replica)
}

/// Cuts `replica` off from all the others but `friends`.
fn leave_only(cluster: &mut Cluster, replica: u8, friends: &[u8]) {
    for other in (0..cluster.n()).filter(|&other| other != replica) {
        let is_cut = !friends.contains(&other);
        cluster.net.set_cut(r(replica), r(other), is_cut);
    }
}

/// Trace T2, five replicas. R2 votes for view 1 and crashes; R1 keeps the vote. R2 comes back through R0,
/// R3 and R4, and R1 hears nothing of it. Op 2 is committed by R0, R2 and R3. Then R4, which does not
/// hold it but knows of R2's new life, votes for view 1 too.
fn a_vote_outlives_its_voter(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = Cluster::formed_with(5, tune);
    cluster.register(1);
    cluster.pass(millis(30));
    // R1, R2 and R4 lose their primary; only R2 hears that all three do, and only R1 hears R2's vote.
    for to in [1, 2, 4] {
        cluster.net.link(r(0), r(to)).cut = true;
        for from in (0..5).filter(|&from| from != to) {
            if to != 2 {
                cluster
                    .net
                    .lose
                    .push((r(from), r(to), Command::StartViewChange));
            }
            for command in [Command::DoViewChange, Command::GetView] {
                if (from, to) != (2, 1) || command == Command::GetView {
                    cluster.net.lose.push((r(from), r(to), command));
                }
            }
        }
    }
    for (from, to) in [(1, 0), (1, 3), (2, 0), (2, 3), (4, 0), (4, 3)] {
        for command in [Command::DoViewChange, Command::StartViewChange] {
            cluster.net.lose.push((r(from), r(to), command));
        }
    }
    let has_voted = |cluster: &Cluster| cluster.status(1) == PeerStatus::ViewChange;
    assert!(cluster.wait(millis(1000), has_voted), "R1 hears R2's vote");
    assert_eq!(cluster.status(2), PeerStatus::ViewChange);
    cluster.crash(2);
    cluster.net.lose.clear();
    cluster.net.heal();
    leave_only(&mut cluster, 1, &[]);
    cluster.restart(2);
    comes_back(&mut cluster, 2);
    let view = |replica: usize| cluster.replicas[replica].report().view.raw();
    assert_eq!(
        (view(0), view(2), view(4)),
        (0, 0, 0),
        "nobody has left view 0 but R1"
    );
    // Committed without R4.
    leave_only(&mut cluster, 4, &[]);
    cluster.request_at(1, 0, "add 1");
    let is_served = |cluster: &Cluster| !cluster.clients[1].waiting;
    assert!(
        cluster.wait(millis(500), is_served),
        "R0, R2 and R3 are a quorum"
    );
    assert_eq!((cluster.commit(0), cluster.op(4)), (2, 1));
    // R4 and R1 among themselves.
    leave_only(&mut cluster, 1, &[4]);
    leave_only(&mut cluster, 4, &[1]);
    cluster.wait(millis(500), |cluster| {
        cluster.status(1) == PeerStatus::Normal
    });
    assert!(cluster.replicas[4].report().view.raw() >= 1, "R4 votes");
    cluster
}

#[test]
fn s02_vector_needed() {
    let mut cluster = a_vote_outlives_its_voter(|_| {});
    assert_eq!(
        cluster.status(1),
        PeerStatus::ViewChange,
        "R1 waits for another vote"
    );
    cluster.net.heal();
    let settled = |cluster: &Cluster| {
        (0..5).all(|replica| {
            cluster.status(replica) == PeerStatus::Normal && cluster.commit(replica) >= 2
        })
    };
    assert!(cluster.wait(millis(3000), settled), "all go on together");
    cluster.pass(millis(200));
    cluster.assert_equal();
    assert_eq!(cluster.count(1), 1, "what was committed is there");
}

#[test]
#[cfg(feature = "mutate")]
fn s02_vector_needed_or_the_op_is_lost() {
    let cluster = a_vote_outlives_its_voter(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::InconsistentVotes);
    });
    assert_eq!(cluster.status(1), PeerStatus::Normal);
    assert_eq!(
        cluster.op(1),
        1,
        "view 1 has started without what is committed"
    );
}

/// Trace T1: the vote itself arrives late, when its voter lives again.
fn a_vote_arrives_late(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = Cluster::formed_with(5, tune);
    cluster.register(1);
    cluster.pass(millis(30));
    for to in [1, 2, 4] {
        cluster.net.link(r(0), r(to)).cut = true;
    }
    for from in 0..5 {
        for to in (0..5).filter(|&to| to != from) {
            if to != 2 {
                cluster
                    .net
                    .lose
                    .push((r(from), r(to), Command::StartViewChange));
            }
            cluster
                .net
                .lose
                .push((r(from), r(to), Command::DoViewChange));
            cluster.net.lose.push((r(from), r(to), Command::GetView));
        }
    }
    let has_voted = |cluster: &Cluster| cluster.status(2) == PeerStatus::ViewChange;
    assert!(cluster.wait(millis(1000), has_voted), "R2 votes");
    cluster.tick(millis(20));
    let is_vote = |(from, to, bytes): &&(Node, Node, Vec<u8>)| {
        let command = crate::support::header_of(bytes).command();
        (*from, *to, command) == (r(2), r(1), Some(Command::DoViewChange))
    };
    let vote = cluster.net.lost.iter().find(is_vote);
    let vote = vote.expect("R2's vote is under way to R1").2.clone();
    cluster.crash(2);
    cluster.net.heal();
    cluster.restart(2);
    comes_back(&mut cluster, 2);
    cluster.net.lose.clear();
    cluster.pass(millis(50));
    let view = |replica: usize| cluster.replicas[replica].report().view.raw();
    assert_eq!(
        (view(0), view(1), view(2)),
        (0, 0, 0),
        "nobody has left view 0"
    );
    // Committed by R0, R2 and R3.
    leave_only(&mut cluster, 1, &[4]);
    leave_only(&mut cluster, 4, &[1]);
    cluster.request_at(1, 0, "add 1");
    let is_served = |cluster: &Cluster| !cluster.clients[1].waiting;
    assert!(
        cluster.wait(millis(80), is_served),
        "R0, R2 and R3 are a quorum"
    );
    cluster.hand_over(r(2), 1, &vote);
    cluster.settle(1);
    cluster.wait(millis(400), |cluster| {
        cluster.status(1) == PeerStatus::Normal && cluster.replicas[1].report().view.raw() == 1
    });
    cluster
}

#[test]
fn s01_vrr_stale_dvc() {
    let mut cluster = a_vote_arrives_late(|_| {});
    assert_eq!(
        cluster.replicas[1].report().view.raw(),
        0,
        "the vote is dropped"
    );
    cluster.net.heal();
    cluster.pass(millis(1000));
    cluster.assert_equal();
    assert_eq!(cluster.count(1), 1, "op 2 survives");
}

#[test]
#[cfg(feature = "mutate")]
fn s01_vrr_stale_dvc_or_the_op_is_lost() {
    let cluster = a_vote_arrives_late(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::HearTheDead);
    });
    let report = cluster.replicas[1].report();
    assert_eq!((report.status, report.view.raw()), (PeerStatus::Normal, 1));
    assert_eq!(
        cluster.op(1),
        1,
        "view 1 has started without what is committed"
    );
}
