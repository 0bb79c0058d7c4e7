//! Nothing is allocated or freed after start, whatever happens.
//!
//! A counting allocator watches everything that `Replica::step` does, on whatever replica; the test's
//! own network, which is full of vectors, is left out. The second test makes the state machine
//! allocate once per operation and must see it: a test that cannot fail shows nothing. The first shows
//! normal operation, the second everything else: view changes, planned and unplanned, recoveries, state
//! transfers, laggards, scrubbing, and the repair of what it finds.

mod support;

use std::cell::Cell;
use std::time::Duration;

use support::{Cluster, Ledger, Node};
use vsr_consensus::{Event, Settings};
use vsr_types::message::PeerStatus;

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
    settings.scrub_period = millis(100);
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
    cluster.reborn = Ledger::default;
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

/// Keeps clients busy for a while, whoever leads.
fn load(cluster: &mut Cluster, rounds: u32) {
    for round in 0..rounds {
        for client in 4..12 {
            if !cluster.client(client).waiting {
                let to = (round % 3) as u8;
                cluster.request_at(client, to, &"y".repeat(50 * usize::from(client)));
            } else if round % 20 == 0 {
                cluster.retry_at(client, (round / 20 % 3) as u8);
            }
        }
        cluster.pass(millis(1));
    }
}

fn until_all_are_normal(cluster: &mut Cluster) {
    let is_whole = cluster.wait(millis(20_000), |cluster| {
        let normal = |replica| cluster.status(replica) == PeerStatus::Normal;
        (0..3).all(normal) && (1..3).all(|replica| cluster.applied(replica) == cluster.applied(0))
    });
    assert!(is_whole, "the cluster comes together again");
}

/// Everything else: what happens when replicas die, are cut off, leave, or have bad memory.
fn a_bad_day(cluster: &mut Cluster) {
    for client in 4..12 {
        cluster.register(client);
    }
    load(cluster, 100);
    // Each dies in turn, primaries among them, and comes back empty; the ring has moved on when it is
    // away for long, and then it needs the whole state.
    for (life, away) in [20, 400, 20, 400, 400, 20].into_iter().enumerate() {
        let victim = (life % 3) as u8;
        cluster.crash(victim);
        load(cluster, away);
        cluster.restart(victim);
        load(cluster, 100);
        until_all_are_normal(cluster);
    }
    // One is cut off until the ring has moved on, and returns with its memory.
    for replica in 0..3_u8 {
        cluster.stopped[usize::from(replica)] = true;
        load(cluster, 400);
        for (from, to) in cluster.net.between(None, Some(Node::Replica(replica))) {
            cluster.net.link(from, to).queue.clear();
        }
        cluster.stopped[usize::from(replica)] = false;
        load(cluster, 50);
        until_all_are_normal(cluster);
    }
    // A planned one.
    let primary = cluster.replicas[0].report().primary.raw();
    cluster.leave(primary);
    load(cluster, 100);
    until_all_are_normal(cluster);
    bad_memory(cluster);
    load(cluster, 300);
    until_all_are_normal(cluster);
}

/// Bits flip in the journal, the session table, the replies and the machine.
#[cfg(feature = "sim")]
fn bad_memory(cluster: &mut Cluster) {
    use vsr_consensus::Place;
    for round in 0..12 {
        let replica = round % 3;
        let op = vsr_types::Op::new(cluster.op(replica as u8).saturating_sub(3));
        let place = match round / 3 {
            0 => Place::Slot(op, 0),
            1 => Place::Body(op),
            2 => Place::Sessions,
            _ => Place::Replies,
        };
        assert!(
            cluster.replicas[replica].flip(place, 100 + round),
            "{place:?}"
        );
        load(cluster, 300);
        until_all_are_normal(cluster);
    }
}

#[cfg(not(feature = "sim"))]
fn bad_memory(_: &mut Cluster) {}

#[test]
fn nothing_is_allocated_or_freed_when_replicas_die_lag_leave_and_have_bad_memory() {
    let mut cluster = watched(false);
    a_bad_day(&mut cluster);
    let mut happened = vec![
        Event::ViewsLeft,
        Event::ViewsStarted,
        Event::ViewsFollowed,
        Event::HandedOver,
        Event::RepairsAsked,
        Event::RepairsGiven,
        Event::TransfersFinished,
        Event::StateChunksTaken,
        Event::StateChunksGiven,
        Event::ScrubRounds,
    ];
    if cfg!(feature = "sim") {
        happened.extend([
            Event::CopiesMended,
            Event::EntriesRepaired,
            Event::StatesRepaired,
        ]);
    }
    // Counters are those of each replica's last life: what is asked for came after that.
    for event in happened {
        let sum: u64 = cluster
            .replicas
            .iter()
            .map(|r| r.counters().of(event))
            .sum();
        assert!(sum > 0, "the day had no {}", event.name());
    }
    assert!(STEPS.get() > 10_000, "{} steps", STEPS.get());
    assert_eq!(
        (ALLOCATED.get(), KEPT.get()),
        (0, 0),
        "allocations, and those not freed again"
    );
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
fn allocations_for_chunks_and_scrubbing_do_not_stay_unseen() {
    let mut cluster = watched(false);
    cluster.reborn = || {
        let mut ledger = Ledger::default();
        ledger.allocates_for_images = true;
        ledger
    };
    for client in 4..12 {
        cluster.register(client);
    }
    load(&mut cluster, 100);
    assert_eq!(ALLOCATED.get(), 0, "nobody has died yet");
    cluster.crash(2);
    load(&mut cluster, 400);
    cluster.restart(2);
    load(&mut cluster, 100);
    until_all_are_normal(&mut cluster);
    let taken = cluster.replicas[2].counters().of(Event::StateChunksTaken);
    assert!(
        taken > 0 && ALLOCATED.get() >= taken,
        "{} for {taken} chunks",
        ALLOCATED.get()
    );
    let before = ALLOCATED.get();
    cluster.pass(millis(300));
    assert!(ALLOCATED.get() > before, "the scrubber's are seen too");
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
