//! Nothing is allocated or freed after start, whatever happens.
//!
//! A counting allocator watches everything that `Replica::step` does, on whatever replica; the test's
//! own network, which is full of vectors, is left out. The second test makes the state machine
//! allocate once per operation and must see it: a test that cannot fail shows nothing.

mod support;

use std::cell::Cell;
use std::time::Duration;

use support::{Cluster, Ledger, Node};
use vsr_consensus::{Event, Settings};

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
    /// Allocations without their frees: below zero when more was freed.
    static KEPT: Cell<i64> = const { Cell::new(0) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

fn inside(run: &mut dyn FnMut()) {
    let counted = allocation_counter::measure(run);
    ALLOCATED.set(ALLOCATED.get() + counted.count_total);
    KEPT.set(KEPT.get() + counted.count_current);
    STEPS.set(STEPS.get() + 1);
}

fn outside(run: &mut dyn FnMut()) {
    allocation_counter::opt_out(run);
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn small(settings: &mut Settings) {
    settings.sessions = 8;
    settings.journal_slots = 128;
}

/// A cluster of three whose ledgers remember nothing, for that would allocate.
fn watched(allocates: bool) -> Cluster {
    let machine = |_| {
        let mut ledger = Ledger::default();
        ledger.allocates = allocates;
        ledger
    };
    let mut cluster = Cluster::with_machines(3, small, machine);
    cluster.inside = inside;
    cluster.outside = outside;
    ALLOCATED.set(0);
    KEPT.set(0);
    STEPS.set(0);
    cluster.init();
    cluster
}

/// Everything that normal operation knows: more sessions than fit, requests of all sizes, retries,
/// reads, a lost prepare and its repair, a dead hop routed round and back, a full queue, forgeries.
fn a_busy_day(cluster: &mut Cluster) {
    for client in 0..12 {
        cluster.register(client);
        cluster.ask(client, "add 1");
        cluster.retry_at(client, 2);
        cluster.run();
    }
    for round in 0..40 {
        for client in 4..12 {
            let operation = match (round + client) % 4 {
                0 => "add 1".to_owned(),
                1 => format!("big {}", 400 * u32::from(round)),
                _ => "x".repeat(100 * usize::from(round)),
            };
            cluster.request_at(client, 0, &operation);
        }
        cluster.query_at(round % 4, round % 3, "total");
        cluster.run();
        cluster.pass(millis(3));
    }
    // Refused by the state machine, and evicted.
    cluster.request_at(11, 0, "!");
    cluster.request_at(0, 0, "add 1");
    cluster.run();
    // A lost prepare.
    cluster.request_at(4, 0, "add 1");
    cluster.deliver(Node::Client(4), Node::Replica(0));
    cluster
        .net
        .link(Node::Replica(0), Node::Replica(1))
        .queue
        .clear();
    cluster.pass(millis(100));
    // A dead hop, and its return.
    cluster.stopped[1] = true;
    cluster.request_at(5, 0, "add 1");
    cluster.pass(millis(150));
    cluster.stopped[1] = false;
    cluster.pass(millis(800));
    // A full queue.
    cluster.net.link(Node::Replica(0), Node::Replica(1)).full = true;
    cluster.request_at(6, 0, "add 1");
    cluster.pass(millis(50));
    cluster.net.heal();
    cluster.pass(millis(500));
    // A flipped bit, found and stopped.
    cluster.replicas[2].machine().flip.set(true);
    cluster.request_at(7, 0, "add 1");
    cluster.pass(millis(300));
    cluster.request_at(4, 0, "add 1");
    cluster.pass(millis(300));
}

#[test]
fn nothing_is_allocated_or_freed_after_start() {
    let mut cluster = watched(false);
    a_busy_day(&mut cluster);
    let count = |event| -> u64 {
        cluster
            .replicas
            .iter()
            .map(|r| r.counters().of(event))
            .sum()
    };
    let happened = [
        Event::RepairsAsked,
        Event::RepairsGiven,
        Event::Suspected,
        Event::Rejoined,
        Event::ReadRounds,
        Event::PassedOn,
        Event::SessionsOpened,
        Event::OutboxDropped,
        Event::DigestsDifferent,
    ];
    for event in happened {
        assert!(count(event) > 0, "the day had no {}", event.name());
    }
    assert!(STEPS.get() > 3000, "{} steps", STEPS.get());
    assert_eq!(
        (ALLOCATED.get(), KEPT.get()),
        (0, 0),
        "allocations, and those not freed again"
    );
}

#[test]
fn one_allocation_per_operation_does_not_stay_unseen() {
    let mut cluster = watched(true);
    cluster.register(0);
    cluster.ask(0, "add 1");
    cluster.pass(millis(30));
    let executed: u64 = cluster.replicas.iter().map(|r| r.machine().count()).sum();
    assert_eq!(executed, 3);
    assert_eq!(ALLOCATED.get(), executed, "each is counted once");
    assert_eq!(KEPT.get(), 0, "each was freed again, which is counted too");
}
