//! What a cluster does under load when links take time: falling behind, catching up, full queues.

use std::time::Duration;

use crate::support::{Cluster, Node};

const STEP: Duration = Duration::from_micros(100);

/// Lets `time` go by with every client asking again as soon as it was answered. Returns how many
/// requests were answered meanwhile.
fn under_load(cluster: &mut Cluster, clients: u8, time: Duration, operation: &str) -> usize {
    let before: usize = cluster
        .clients
        .iter()
        .map(crate::support::Client::served)
        .sum();
    let mut left = time;
    while left > Duration::ZERO {
        for client in 0..clients {
            if !cluster.client(client).waiting {
                cluster.request_at(client, 0, operation);
            }
        }
        cluster.turn();
        cluster.tick(STEP);
        left = left.saturating_sub(STEP);
    }
    let after: usize = cluster
        .clients
        .iter()
        .map(crate::support::Client::served)
        .sum();
    after - before
}

/// A formed cluster whose replicas are `delay` apart, with `clients` sessions.
fn far_apart(
    n: u8,
    clients: u8,
    delay: Duration,
    tune: impl Fn(&mut vsr_consensus::Settings),
) -> Cluster {
    let mut cluster = Cluster::formed_with(n, |settings| {
        settings.journal_slots = 16_384;
        settings.journal_bytes = 16 << 20;
        settings.sessions = 256;
        tune(settings);
    });
    for client in 0..clients {
        cluster.register(client);
    }
    for from in 0..n {
        for to in (0..n).filter(|&to| to != from) {
            cluster
                .net
                .link(Node::Replica(from), Node::Replica(to))
                .delay = delay;
        }
    }
    cluster
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// R1 stands still for a while and must be back in the chain some time after.
fn stand_still(clients: u8, delay: Duration, operation: &str, still: Duration) {
    let mut cluster = far_apart(3, clients, delay, |settings| {
        settings.batch_size_max = settings.batch_size_max.max(operation.len() + 4096);
        settings.journal_bytes = 64 << 20;
    });
    under_load(&mut cluster, clients, millis(50), operation);
    cluster.stopped[1] = true;
    under_load(&mut cluster, clients, still, operation);
    assert!(cluster.is_suspect(1), "R1 does not acknowledge");
    let link = cluster.net.link(Node::Replica(0), Node::Replica(1));
    // What a bounded send queue keeps of that time: the newest.
    let lost = link.queue.len().saturating_sub(8);
    link.queue.drain(..lost);
    cluster.stopped[1] = false;
    under_load(&mut cluster, clients, millis(900), operation);
    let route: Vec<u8> = cluster.replicas[0]
        .report()
        .route
        .hops()
        .map(|r| r.raw())
        .collect();
    assert!(
        !cluster.is_suspect(1) && route == [1, 2],
        "{clients} clients, {delay:?} apart: R1 is back: route {route:?}, {} ops behind of {}",
        cluster.op(0) - cluster.op(1),
        cluster.op(0)
    );
}

#[test]
fn a_backup_that_stood_still_returns_to_the_chain_while_the_load_goes_on() {
    stand_still(8, millis(1), "add 1", millis(200));
    stand_still(64, millis(1), "add 1", millis(200));
    stand_still(200, millis(1), "add 1", millis(100));
    stand_still(64, millis(0), "add 1", millis(100));
    stand_still(64, millis(3), "add 1", millis(200));
}

#[test]
fn a_backup_that_stood_still_returns_to_the_chain_under_a_load_of_large_operations() {
    stand_still(6, millis(4), &"x".repeat(300_000), millis(80));
}

#[test]
fn a_dead_hop_costs_little_once_the_chain_goes_round_it() {
    for dead in [1, 2] {
        let clients = 64;
        let mut cluster = far_apart(3, clients, millis(1), |_| {});
        let before = under_load(&mut cluster, clients, millis(300), "add 1");
        cluster.stopped[dead] = true;
        // Re-routing takes less than half a second.
        under_load(&mut cluster, clients, millis(200), "add 1");
        let after = under_load(&mut cluster, clients, millis(300), "add 1");
        assert!(
            after * 10 >= before * 8,
            "R{dead} dead: {after} of {before} requests served"
        );
    }
}

#[test]
fn a_healthy_cluster_under_load_suspects_nobody_and_repairs_nothing() {
    for (clients, operation) in [(200, "add 1"), (200, "a rather long operation, echoed")] {
        let mut cluster = far_apart(3, clients, millis(2), |_| {});
        under_load(&mut cluster, clients, millis(500), operation);
        for (i, replica) in cluster.replicas.iter().enumerate() {
            let count = |event| replica.counters().of(event);
            assert_eq!(count(vsr_consensus::Event::Suspected), 0, "R{i} suspects");
            assert_eq!(count(vsr_consensus::Event::RepairsAsked), 0, "R{i} repairs");
        }
    }
}

#[test]
fn a_small_journal_with_large_batches_keeps_going_without_repairs() {
    // Four bodies fill the ring: each hop must execute before it can append more.
    let mut cluster = far_apart(3, 32, millis(1), |settings| {
        settings.batch_size_max = 8192;
        settings.journal_bytes = 4 * 8192;
        settings.journal_slots = 128;
    });
    let operation = "x".repeat(3000);
    let served = under_load(&mut cluster, 32, millis(500), &operation);
    let repairs: Vec<u64> = cluster
        .replicas
        .iter()
        .map(|replica| replica.counters().of(vsr_consensus::Event::RepairsAsked))
        .collect();
    let suspected = cluster.replicas[0]
        .counters()
        .of(vsr_consensus::Event::Suspected);
    assert!(
        served > 200,
        "served {served}, repairs {repairs:?}, suspected {suspected}"
    );
    assert_eq!(suspected, 0, "served {served}, repairs {repairs:?}");
    assert!(
        repairs.iter().all(|&count| count < 10),
        "served {served}, repairs {repairs:?}"
    );
}

#[test]
fn a_dead_backup_is_left_out_even_while_reads_keep_the_heart_beating() {
    // Each read round is a heartbeat, so the next one by the clock never comes due. R2, the last of
    // the chain, is dead: nobody misses it until the ring is full of what it has not executed.
    let mut cluster = far_apart(3, 16, millis(1), |settings| settings.journal_slots = 128);
    cluster.stopped[2] = true;
    let mut left = millis(600);
    while left > Duration::ZERO {
        for client in 0..8 {
            if !cluster.client(client).waiting {
                cluster.request_at(client, 0, "add 1");
            }
        }
        for client in 8..16 {
            if !cluster.client(client).reading {
                cluster.query_at(client, 0, "total");
            }
        }
        cluster.turn();
        cluster.tick(STEP);
        left = left.saturating_sub(STEP);
    }
    assert!(
        cluster.replicas[0]
            .counters()
            .of(vsr_consensus::Event::ReadRounds)
            > 100
    );
    assert!(cluster.is_suspect(2), "R2 has been dead for 600 ms");
    let served: usize = cluster.clients[..8]
        .iter()
        .map(crate::support::Client::served)
        .sum();
    assert!(served > 1000, "{served} requests were served");
}

#[test]
fn a_heartbeat_that_overtakes_a_prepare_starts_no_repair() {
    // The prepare goes down the chain, the heartbeat straight to R2: it always comes first.
    let mut cluster = far_apart(3, 2, millis(2), |_| {});
    for _ in 0..20 {
        cluster.query_at(0, 0, "total");
        cluster.pass(millis(35));
        assert!(!cluster.client(0).reading, "the read is answered");
    }
    let repairs = |replica: &vsr_consensus::Replica<crate::support::Ledger>| {
        replica.counters().of(vsr_consensus::Event::RepairsAsked)
    };
    let asked: Vec<u64> = cluster.replicas.iter().map(repairs).collect();
    assert_eq!(asked, [0, 0, 0], "what is on its way is not missing");
}
