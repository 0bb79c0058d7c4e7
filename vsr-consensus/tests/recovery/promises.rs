//! What a recovery needs before it ends, each as a story in which something else would lose a committed
//! operation.

use std::time::Duration;

use vsr_consensus::{DropReason, RecoveryPhase, Settings};
use vsr_types::Command;
use vsr_types::message::PeerStatus;

use crate::backups::{comes_back, with_requests};
use crate::support::{Cluster, Node};

const R0: Node = Node::Replica(0);
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);
const R3: Node = Node::Replica(3);

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn formed(n: u8, tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = Cluster::formed_with(n, tune);
    cluster.register(1);
    cluster.pass(millis(20));
    cluster
}

const fn none(_: &mut Settings) {}

#[cfg(feature = "mutate")]
fn without(mutant: vsr_consensus::Mutant) -> impl Fn(&mut Settings) {
    move |settings| settings.mutant = Some(mutant)
}

/// Gives `replica` time to come back. It is not helped to catch up with the primary after that.
fn watch(cluster: &mut Cluster, replica: u8) {
    cluster
        .net
        .lose
        .push((Node::Replica(replica), R0, Command::PrepareOk));
    cluster
        .net
        .lose
        .push((R0, Node::Replica(replica), Command::Commit));
    cluster.wait(millis(300), |cluster| {
        cluster.status(replica) == PeerStatus::Normal
    });
}

/// Whether R1 takes part although it lacks the last op that is committed at R0.
fn has_forgotten(cluster: &Cluster) -> bool {
    cluster.status(1) == PeerStatus::Normal && cluster.op(1) < cluster.commit(0)
}

/// Trace T5: an answer to the recovery before, from when op 2 did not exist, and op 2 acknowledged since.
fn replies_reused(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = formed(3, tune);
    cluster.crash(1);
    cluster.net.record = Some(Vec::new());
    cluster.restart(1);
    comes_back(&mut cluster, 1);
    let sent = cluster.net.record.take().expect("recorded");
    let old = sent.into_iter().rfind(|bytes| {
        let header = crate::support::header_of(bytes);
        header.command() == Some(Command::RecoveryResponse) && header.replica().raw() == 0
    });
    let old = old.expect("R0 answered");
    cluster.pass(millis(50));
    // Committed by R0 and R1.
    cluster.net.set_cut(R0, R2, true);
    cluster.net.set_cut(R1, R2, true);
    cluster.request_at(1, 0, "add 1");
    cluster.pass(millis(20));
    assert_eq!(cluster.commit(0), 2);
    cluster.crash(1);
    cluster.net.heal();
    cluster.net.set_cut(R0, R2, true);
    cluster.net.lose.push((R0, R1, Command::RecoveryResponse));
    cluster.restart(1);
    let asks = |cluster: &Cluster| {
        cluster.replicas[1].recovery_report().phase == RecoveryPhase::Registering
    };
    assert!(cluster.wait(millis(500), asks));
    cluster.pass(millis(150));
    cluster.hand_over(R0, 1, &old);
    cluster.settle(1);
    watch(&mut cluster, 1);
    cluster
}

#[test]
fn s05_replies_reused() {
    let mut cluster = replies_reused(none);
    assert!(!has_forgotten(&cluster));
    assert_eq!(
        cluster.status(1),
        PeerStatus::Recovering,
        "the old answer is no answer"
    );
    cluster.net.lose.clear();
    cluster.net.heal();
    comes_back(&mut cluster, 1);
    assert_eq!(cluster.op(1), 2);
}

#[test]
#[cfg(feature = "mutate")]
fn s05_replies_reused_loses_without_nonces() {
    assert!(has_forgotten(&replies_reused(without(
        vsr_consensus::Mutant::AnyNonce
    ))));
}

/// Trace T6: R2 cannot be asked.
fn too_few_replies(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = formed(3, tune);
    cluster.crash(1);
    cluster.net.set_cut(R1, R2, true);
    cluster.restart(1);
    cluster.pass(millis(500));
    cluster
}

#[test]
fn s06_too_few_replies() {
    let mut cluster = too_few_replies(none);
    assert_eq!(cluster.status(1), PeerStatus::Recovering);
    assert_eq!(cluster.replicas[1].recovery_report().replies, 1);
    cluster.net.heal();
    comes_back(&mut cluster, 1);
}

#[test]
#[cfg(feature = "mutate")]
fn s06_too_few_replies_are_enough_without_the_rule() {
    let cluster = too_few_replies(without(vsr_consensus::Mutant::SmallRecoveryQuorum));
    assert_eq!(cluster.status(1), PeerStatus::Normal);
}

/// Trace T7: op 2 is committed by R0 and R1; R1 comes back, and R2, which never saw op 2, answers last.
fn chain_amnesia(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = formed(3, tune);
    cluster.net.set_cut(R0, R2, true);
    cluster.net.set_cut(R1, R2, true);
    cluster.request_at(1, 0, "add 1");
    cluster.pass(millis(10));
    assert_eq!((cluster.commit(0), cluster.op(2)), (2, 1));
    cluster.crash(1);
    cluster.net.heal();
    cluster.net.set_cut(R0, R2, true);
    for other in [R0, R2] {
        cluster
            .net
            .lose
            .push((other, R1, Command::RecoveryResponse));
    }
    cluster.restart(1);
    let all_answered = |cluster: &Cluster| {
        let answered = |node| cluster.net.lost.iter().any(|(from, ..)| *from == node);
        answered(R0) && answered(R2)
    };
    assert!(cluster.wait(millis(500), all_answered));
    for other in [R0, R2] {
        let answer = cluster.net.lost.iter().rfind(|(from, ..)| *from == other);
        let answer = answer.expect("it answered").2.clone();
        cluster.hand_over(other, 1, &answer);
    }
    cluster.settle(1);
    watch(&mut cluster, 1);
    cluster
}

#[test]
fn s07_chain_amnesia() {
    let cluster = chain_amnesia(none);
    assert_eq!(cluster.status(1), PeerStatus::Normal);
    assert!(
        !has_forgotten(&cluster),
        "it takes part with what it had acknowledged"
    );
}

#[test]
#[cfg(feature = "mutate")]
fn s07_chain_amnesia_when_anybody_tells_the_log() {
    let cluster = chain_amnesia(without(vsr_consensus::Mutant::RecoverFromAnybody));
    assert!(has_forgotten(&cluster));
}

/// Trace T8: headers come, bodies do not.
fn header_only(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = formed(3, tune);
    cluster.ask(1, "add 1");
    cluster.pass(millis(20));
    cluster.crash(1);
    for donor in [R0, R2] {
        cluster.net.lose.push((donor, R1, Command::Prepare));
    }
    cluster.restart(1);
    cluster.pass(millis(500));
    cluster
}

#[test]
fn s08_header_only_recovery() {
    let mut cluster = header_only(none);
    assert_eq!(cluster.status(1), PeerStatus::Recovering);
    assert_eq!(cluster.op(1), 2, "it knows what there is");
    assert_eq!(
        cluster.replicas[1].recovery_report().held.raw(),
        0,
        "and holds nothing of it"
    );
    cluster.net.lose.clear();
    comes_back(&mut cluster, 1);
    cluster.pass(millis(100));
    cluster.assert_equal();
}

#[test]
#[cfg(feature = "mutate")]
fn s08_header_only_recovery_ends_without_the_rule() {
    let cluster = header_only(without(vsr_consensus::Mutant::RecoverHeadersOnly));
    assert_eq!(cluster.status(1), PeerStatus::Normal);
}

/// Trace T3: R3 answers R2, crashes, and comes back through the others, which do not know R2's new life:
/// R3 has forgotten it too. R2 then hears from R0 and R4 only.
fn inconsistent_answers(tune: impl Fn(&mut Settings)) -> Cluster {
    let mut cluster = formed(5, tune);
    cluster.crash(2);
    cluster.pass(millis(120));
    // R2's request reaches R3 only, and the answer is under way for long.
    for other in [0, 1, 4] {
        cluster
            .net
            .lose
            .push((R2, Node::Replica(other), Command::RecoveryRequest));
    }
    cluster.net.lose.push((R3, R2, Command::RecoveryResponse));
    cluster.restart(2);
    let answered = |cluster: &Cluster| {
        !cluster.net.lost.is_empty() && cluster.net.lost.iter().any(|(from, ..)| *from == R3)
    };
    assert!(cluster.wait(millis(500), answered), "R3 answers R2");
    let answer = cluster.net.lost.iter().find(|(from, ..)| *from == R3);
    let answer = answer.expect("R3's answer").2.clone();
    cluster.crash(3);
    // R2 is not heard while R3 comes back, and does not hear R3.
    cluster.net.set_cut(R2, R3, true);
    for other in [0, 1, 3, 4] {
        cluster
            .net
            .lose
            .push((R2, Node::Replica(other), Command::RecoveryRequest));
    }
    cluster.restart(3);
    comes_back(&mut cluster, 3);
    assert_eq!(cluster.status(2), PeerStatus::Recovering);
    cluster.net.lose.clear();
    for other in [1, 3] {
        cluster
            .net
            .lose
            .push((R2, Node::Replica(other), Command::RecoveryRequest));
    }
    cluster.hand_over(R3, 2, &answer);
    cluster.settle(2);
    cluster.pass(millis(400));
    cluster
}

#[test]
fn s03_recovery_set_consistency() {
    let mut cluster = inconsistent_answers(none);
    assert_eq!(
        cluster.status(2),
        PeerStatus::Recovering,
        "R3's promise died with its life"
    );
    cluster.net.lose.clear();
    comes_back(&mut cluster, 2);
}

#[test]
#[cfg(feature = "mutate")]
fn s03_recovery_set_consistency_is_missed_without_the_rule() {
    let cluster = inconsistent_answers(without(vsr_consensus::Mutant::AnyAnswers));
    assert_eq!(cluster.status(2), PeerStatus::Normal);
}

/// R6.2: an attempt that was not completed left a high number with one replica only.
#[test]
fn a_number_that_is_known_is_refused_and_the_next_one_taken() {
    let mut cluster = with_requests(3, 2);
    cluster.crash(1);
    cluster.pass(millis(120));
    // The first attempt reaches R2 only.
    cluster.net.lose.push((R1, R0, Command::RecoveryRequest));
    cluster.restart(1);
    cluster.pass(millis(100));
    let first = cluster.replicas[1].report().incarnation;
    assert_eq!(
        (first.counter, cluster.status(1)),
        (1, PeerStatus::Recovering)
    );
    cluster.crash(1);
    // The second one is told by R0, and by R2 before it had heard: the same number.
    cluster.net.lose = vec![(R2, R1, Command::IncarnationReply)];
    cluster.restart(1);
    cluster.pass(millis(20));
    let old = cluster
        .net
        .lost
        .iter()
        .rfind(|(from, to, _)| (*from, *to) == (R2, R1));
    let told = old.expect("R2 was asked").2.clone();
    let told = forget_life(&told, 1);
    cluster.hand_over(R2, 1, &told);
    cluster.settle(1);
    cluster.net.lose.clear();
    comes_back(&mut cluster, 1);
    let incarnation = cluster.replicas[1].report().incarnation;
    assert!(incarnation > first, "{incarnation:?} is after {first:?}");
    cluster.pass(millis(100));
    cluster.assert_equal();
}

/// The reply as it was before the sender heard of the present life of `replica`.
fn forget_life(bytes: &[u8], replica: usize) -> Vec<u8> {
    let mut header = crate::support::header_of(bytes);
    let mut body = bytes[vsr_types::HEADER_SIZE..].to_vec();
    body[replica * 16..][..16].fill(0);
    header.seal(&body);
    [bytemuck::bytes_of(&header), &body].concat()
}

/// R6.7: what a replica without memory hears from clients and others, it does not act on.
#[test]
fn s22_a_recovering_replica_takes_part_in_nothing() {
    let mut cluster = too_few_replies(none);
    cluster.query_at(1, 1, "total");
    cluster.request_at(1, 1, "add 1");
    cluster.run();
    assert_eq!(
        cluster.client(1).text(),
        "NotReady",
        "clients are told to ask elsewhere"
    );
    assert!(cluster.drops.contains(&(1, DropReason::WrongStatus)));
    let only_recovers = |bytes: &Vec<u8>| {
        let header = crate::support::header_of(bytes);
        header.replica().raw() != 1
            || matches!(
                header.command(),
                Some(
                    Command::Ping
                        | Command::Pong
                        | Command::IncarnationQuery
                        | Command::RecoveryRequest
                )
            )
    };
    cluster.net.record = Some(Vec::new());
    cluster.pass(millis(500));
    let sent = cluster.net.record.take().expect("recorded");
    assert!(sent.iter().all(only_recovers));
}
