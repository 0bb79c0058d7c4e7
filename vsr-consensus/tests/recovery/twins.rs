//! Two processes in one place: a second machine started by mistake, and an old one that lives on.

use std::time::Duration;

use vsr_consensus::{DropReason, HaltReason, Replica, Settings};
use vsr_types::Command;
use vsr_types::message::PeerStatus;

use crate::backups::{ask, comes_back, with_requests};
use crate::support::{Cluster, Ledger, Node};

const R0: Node = Node::Replica(0);
const R2: Node = Node::Replica(2);

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Lets the process in the place of `replica` and `other` take turns there for a while.
fn take_turns(cluster: &mut Cluster, replica: usize, other: &mut Replica<Ledger>, turns: u32) {
    for _ in 0..turns {
        cluster.pass(millis(2));
        std::mem::swap(&mut cluster.replicas[replica], other);
    }
}

/// A cluster of three and a second process in R1's place, both without memory; the turns taken.
fn twins(tune: impl Fn(&mut Settings)) -> (Cluster, Replica<Ledger>) {
    let mut cluster = Cluster::formed_with(3, tune);
    cluster.register(1);
    cluster.pass(millis(20));
    cluster.crash(1);
    cluster.restart(1);
    let mut twin = Cluster::replica(&cluster.config[1], 3, Ledger::remembering());
    take_turns(&mut cluster, 1, &mut twin, 400);
    (cluster, twin)
}

fn normal_ones(cluster: &Cluster, twin: &Replica<Ledger>) -> usize {
    [&cluster.replicas[1], twin]
        .iter()
        .filter(|replica| replica.report().status == PeerStatus::Normal)
        .count()
}

#[test]
fn s09_twin_recovery() {
    let (cluster, twin) = twins(|_| {});
    assert_eq!(normal_ones(&cluster, &twin), 1, "one of the two takes part");
    let (one, other) = (cluster.replicas[1].report(), twin.report());
    assert_ne!(one.incarnation, other.incarnation);
}

#[test]
#[cfg(feature = "mutate")]
fn s09_twin_recovery_needs_random_incarnations() {
    let (cluster, twin) = twins(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::BareCounter);
    });
    assert_eq!(
        normal_ones(&cluster, &twin),
        2,
        "both take part as the same life"
    );
}

/// R6.2: what is heard of is not replaced.
#[test]
fn a_second_process_in_the_place_of_a_living_one_is_not_believed() {
    let mut cluster = with_requests(3, 3);
    let mut second = Cluster::replica(&cluster.config[2], 2, Ledger::remembering());
    let view = cluster.replicas[0].report().view;
    take_turns(&mut cluster, 2, &mut second, 300);
    assert_eq!(
        cluster.status(2),
        PeerStatus::Normal,
        "the first one takes part"
    );
    assert_eq!(
        second.report().status,
        PeerStatus::Recovering,
        "the second waits"
    );
    assert_eq!(cluster.replicas[2].report().incarnation.counter, 0);
    assert!(
        cluster
            .drops
            .iter()
            .any(|(_, reason)| *reason == DropReason::StillAlive)
    );
    assert_eq!(
        cluster.replicas[0].report().view,
        view,
        "nobody left the view"
    );
}

/// R6.2: an attempt to recover was cut short, and the only replica that has noted its number cannot be
/// asked by the next one, which takes the same counter. When it is heard of again, nothing more is lost.
#[test]
fn an_attempt_that_was_cut_short_supersedes_no_later_one() {
    for life in 2..12 {
        let mut cluster = with_requests(5, 5);
        let (r1, r3) = (Node::Replica(1), Node::Replica(3));
        cluster.lives[1] = life;
        cluster.crash(1);
        cluster.restart(1);
        for peer in [0, 2, 4].map(Node::Replica) {
            for command in [Command::Ping, Command::Pong, Command::RecoveryRequest] {
                cluster.net.lose.push((r1, peer, command));
            }
        }
        cluster.net.lose.push((r3, r1, Command::RecoveryResponse));
        let notes = |cluster: &Cluster| {
            let is_from_r3 = |lost: &(Node, Node, Vec<u8>)| (lost.0, lost.1) == (r3, r1);
            cluster.net.lost.iter().any(is_from_r3)
        };
        assert!(cluster.wait(millis(500), notes), "R3 has noted the attempt");
        for peer in [0, 1, 2, 4].map(Node::Replica) {
            cluster.net.set_cut(r3, peer, true);
        }
        cluster.net.lose.clear();
        cluster.crash(1);
        cluster.restart(1);
        comes_back(&mut cluster, 1);
        assert_eq!(cluster.replicas[1].report().incarnation.counter, 1);
        cluster.net.heal();
        cluster.pass(millis(300));
        assert_eq!(cluster.status(1), PeerStatus::Normal, "life {life} goes on");
        ask(&mut cluster, "add 100");
        cluster.pass(millis(100));
        cluster.assert_equal();
    }
}

/// A cluster in which R1 was declared dead and replaced while its old process, returned, is alive.
fn replaced(tune: impl Fn(&mut Settings)) -> (Cluster, Replica<Ledger>) {
    let mut cluster = Cluster::formed_with(3, tune);
    cluster.register(1);
    cluster.ask(1, "add 1");
    cluster.pass(millis(30));
    cluster.crash(1);
    let zombie = cluster.restart(1);
    // On the same machine: only its incarnation tells the new process from the old.
    let memory = Ledger::remembering();
    cluster.replicas[1] = Cluster::replica_on(&cluster.config[1], 2, 1, memory);
    comes_back(&mut cluster, 1);
    cluster.pass(millis(50));
    (cluster, zombie)
}

#[test]
fn s10_zombie_adopts() {
    let (mut cluster, mut zombie) = replaced(|_| {});
    std::mem::swap(&mut cluster.replicas[1], &mut zombie);
    let stops = |cluster: &Cluster| cluster.status(1) == PeerStatus::Halted;
    assert!(
        cluster.wait(millis(500), stops),
        "the old process hears of the new one and stops"
    );
    assert_eq!(
        cluster.replicas[1].report().halted,
        Some(HaltReason::Superseded)
    );
    assert_eq!(cluster.replicas[1].report().incarnation.counter, 0);
    std::mem::swap(&mut cluster.replicas[1], &mut zombie);
    cluster.pass(millis(100));
    ask(&mut cluster, "add 2");
    cluster.pass(millis(100));
    cluster.assert_equal();
}

#[test]
#[cfg(feature = "mutate")]
fn s10_zombie_adopts_when_it_may() {
    let (mut cluster, mut zombie) = replaced(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::AdoptOwnEntry);
    });
    std::mem::swap(&mut cluster.replicas[1], &mut zombie);
    cluster.pass(millis(300));
    let (old, new) = (cluster.replicas[1].report(), zombie.report());
    assert_eq!(old.status, PeerStatus::Normal);
    assert_eq!(
        old.incarnation, new.incarnation,
        "two processes speak as one life"
    );
}

/// Trace T11: only the old process of R1 holds the new op beside the primary. Says whether the primary
/// takes its word for R1's.
fn zombie_ack(tune: impl Fn(&mut Settings)) -> (Cluster, bool) {
    let (mut cluster, mut zombie) = replaced(tune);
    std::mem::swap(&mut cluster.replicas[1], &mut zombie);
    cluster.net.set_cut(R0, R2, true);
    cluster.net.set_cut(Node::Replica(1), R2, true);
    let before = cluster.commit(0);
    cluster.request_at(1, 0, "add 5");
    cluster.run();
    assert_eq!(cluster.op(1), before + 1, "the old process appends it");
    let committed = cluster.commit(0) > before;
    (cluster, committed)
}

#[test]
fn s11_zombie_ack() {
    let (cluster, committed) = zombie_ack(|_| {});
    assert!(
        !committed,
        "an acknowledgement of a former life commits nothing"
    );
    assert!(cluster.drops.contains(&(0, DropReason::StaleIncarnation)));
}

#[test]
#[cfg(feature = "mutate")]
fn s11_zombie_ack_counts_when_the_dead_are_heard() {
    let (_, committed) = zombie_ack(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::HearTheDead);
    });
    assert!(committed);
}

#[test]
#[cfg(feature = "mutate")]
fn s11_zombie_ack_counts_when_the_new_life_has_the_old_number() {
    let (_, committed) = zombie_ack(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::SameIncarnation);
    });
    assert!(committed);
}

/// R6.3: R1 is back, and nothing that it has said since has arrived. Says whether its old process is
/// recognized by those who answered it.
fn answered_and_forgotten(tune: impl Fn(&mut Settings)) -> bool {
    let mut cluster = Cluster::formed_with(3, tune);
    cluster.pass(millis(20));
    cluster.crash(1);
    let zombie = cluster.restart(1);
    for to in [R0, R2] {
        for command in [
            Command::Ping,
            Command::Pong,
            Command::PrepareOk,
            Command::CommitOk,
        ] {
            cluster.net.lose.push((Node::Replica(1), to, command));
        }
    }
    comes_back(&mut cluster, 1);
    cluster.net.lose.clear();
    cluster.drops.clear();
    cluster.replicas[1] = zombie;
    cluster.pass(millis(150));
    let knows = |replica| {
        cluster
            .drops
            .contains(&(replica, DropReason::StaleIncarnation))
    };
    knows(0) && knows(2)
}

#[test]
fn s06_who_answers_knows_the_new_life() {
    assert!(answered_and_forgotten(|_| {}));
}

#[test]
#[cfg(feature = "mutate")]
fn s06_who_answers_knows_nothing_without_the_rule() {
    assert!(!answered_and_forgotten(|settings| {
        settings.mutant = Some(vsr_consensus::Mutant::VectorsNotJoined);
    }));
}

#[test]
fn s54_replace_live_machine() {
    for n in [3, 5] {
        let mut cluster = Cluster::formed(n);
        for client in 1..8 {
            cluster.register(client);
        }
        // R1 is declared dead and replaced, while its process lives and goes on.
        let memory = Ledger::remembering();
        let new = Cluster::replica(&cluster.config[1], 2, memory);
        let mut other = std::mem::replace(&mut cluster.replicas[1], new);
        let mut asked = 0;
        for round in 0..400_u32 {
            for client in 1..8 {
                if !cluster.client(client).waiting {
                    asked += 1;
                    cluster.request_at(client, 0, &format!("add {round}"));
                } else if round % 40 == 0 {
                    cluster.retry_at(client, 0);
                }
            }
            cluster.pass(millis(2));
            // Silent for a while now and then, so that each has its chance to be believed.
            let turn = if round < 200 { 100 } else { 3 };
            if round % turn == 0 {
                std::mem::swap(&mut cluster.replicas[1], &mut other);
            }
        }
        let statuses = [cluster.status(1), other.report().status];
        assert!(
            statuses.contains(&PeerStatus::Normal) && statuses.contains(&PeerStatus::Halted),
            "{statuses:?}: one of the two takes part, the other has stopped"
        );
        if cluster.status(1) == PeerStatus::Halted {
            std::mem::swap(&mut cluster.replicas[1], &mut other);
        }
        assert_eq!(other.report().halted, Some(HaltReason::Superseded));
        for client in 1..8 {
            if cluster.client(client).waiting {
                cluster.retry_at(client, 0);
            }
        }
        cluster.pass(millis(500));
        cluster.assert_equal();
        assert_eq!(cluster.count(0), asked, "each request is executed once");
    }
}
