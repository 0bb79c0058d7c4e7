//! Damage while clients are served, at one replica and at all of them.

use std::time::Duration;

use super::support::{Cluster, Random};
use super::{cluster, count, heal};
use vsr_consensus::{Event, Place};
use vsr_types::{Op, message::PeerStatus};

/// Asks until somebody answers, as a client does.
fn ask(cluster: &mut Cluster, client: u8, operation: &str) -> String {
    let mut to = 0;
    cluster.request_at(client, to, operation);
    for _ in 0..400 {
        cluster.pass(Duration::from_millis(10));
        if !cluster.client(client).waiting {
            return cluster.client(client).text();
        }
        to = (to + 1) % 3;
        cluster.retry_at(client, to);
    }
    panic!("c{client} is not served");
}

pub(super) fn an_operation_meets_damage() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    cluster.replicas[0].machine_mut().damage(3);
    assert_eq!(ask(&mut cluster, 0, "add 5"), "12");
    cluster.pass(Duration::from_millis(300));
    cluster.assert_equal();
}

#[test]
fn an_operation_that_meets_damage_is_executed_after_the_repair_and_answered_with_the_truth() {
    an_operation_meets_damage();
    for bad in 0..3 {
        let mut cluster = cluster();
        cluster.register(0);
        assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
        cluster.replicas[bad].machine_mut().damage(3);
        assert_eq!(ask(&mut cluster, 0, "add 5"), "12", "R{bad}");
        heal(&mut cluster);
        assert_eq!(count(&cluster, bad as u8, Event::StatesRepaired), 1);
        assert_eq!(ask(&mut cluster, 0, "add 5"), "17");
        cluster.pass(Duration::from_millis(100));
        cluster.assert_equal();
        // Who led with a state that is no state let another one lead.
        let leads = cluster.replicas[bad].report().primary.as_usize() == bad;
        assert!(!leads, "R{bad}");
    }
}

#[test]
fn a_query_and_a_retry_that_meet_damage_are_answered_with_the_truth_or_not_at_all() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "big 600"), "b".repeat(600));
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    cluster.replicas[0].machine_mut().damage(3);
    cluster.query_at(0, 0, "total");
    cluster.pass(Duration::from_millis(5));
    heal(&mut cluster);
    // The answer to a retry is a cached reply, and its bytes were bad.
    let primary = cluster.replicas[0].report().primary.as_usize();
    for byte in 0..3 {
        assert!(cluster.replicas[primary].flip(Place::Replies, byte * 8 + byte));
    }
    cluster.retry_at(0, primary as u8);
    cluster.run();
    cluster.pass(Duration::from_millis(20));
    assert_eq!(cluster.client(0).text(), "7");
    heal(&mut cluster);
    cluster.assert_equal();
}

/// R5.5, N19: what is bad wherever it is held is named and left alone, and everything else goes on.
#[test]
fn an_entry_that_is_bad_everywhere_is_reported_with_its_op() {
    let mut cluster = cluster();
    cluster.register(0);
    for _ in 0..4 {
        ask(&mut cluster, 0, "add 1");
    }
    for replica in &mut cluster.replicas {
        assert!(replica.flip(Place::Body(Op::new(3)), 5));
    }
    let named = cluster.wait(Duration::from_secs(5), |cluster| {
        let names = |r: &vsr_consensus::Replica<_>| r.scrub_report().unrepaired == Some(Op::new(3));
        cluster.replicas.iter().all(names)
    });
    assert!(named, "every replica names the op");
    assert_eq!(
        ask(&mut cluster, 0, "add 1"),
        "5",
        "everything else goes on"
    );
    for replica in &cluster.replicas {
        assert_eq!(replica.log_body(Op::new(3)), None, "nothing is guessed");
        assert!(replica.counters().of(Event::EntriesUnrepaired) > 0);
    }
    cluster.assert_equal();
}

/// One flip: where, and for what a replica is asked later.
fn flip_somewhere(cluster: &mut Cluster, random: &mut Random, replica: usize, share: u64) {
    let report = cluster.replicas[replica].report();
    let ops = (report.op.raw() + 1)
        .saturating_sub(report.tail.raw())
        .max(1);
    let bit = random.below(1 << 16) as usize;
    // No piece is bad at two replicas: each has a share of the ops of its own.
    let op = report.tail.raw() + random.below(ops);
    let op = Op::new(op / 3 * 3 + share);
    let is_held = op >= report.tail && op <= report.op;
    match random.below(5) {
        0 if is_held => {
            cluster.replicas[replica].flip(Place::Slot(op, random.below(2) as usize), bit % 1216);
        }
        1 | 2 if is_held => {
            let bits = cluster.replicas[replica]
                .log_body(op)
                .map_or(0, <[u8]>::len)
                * 8;
            if bits > 0 {
                cluster.replicas[replica].flip(Place::Body(op), bit % bits);
            }
        }
        3 => {
            // The sessions of a share of the slots; replica 2 gets the machine's state.
            match share {
                0 => cluster.replicas[replica].flip(Place::Sessions, bit % (4 * 72 * 8)),
                1 => cluster.replicas[replica].flip(Place::Replies, bit % (8 * 256 * 8)),
                _ => {
                    cluster.replicas[replica].machine_mut().damage(bit % 192);
                    true
                }
            };
        }
        _ => {}
    }
}

/// Different damage at all replicas at once, no piece bad everywhere, under load: everything asked is
/// answered, with the truth, and in the end everything is whole.
#[test]
fn different_damage_at_all_replicas_at_once_is_repaired_while_clients_are_served() {
    let seeds: u64 =
        std::env::var("VSR_SEEDS").map_or(60, |seeds| seeds.parse().expect("a number"));
    let (began, mut flips) = (std::time::Instant::now(), 0);
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let mut cluster = cluster();
        for client in 0..3 {
            cluster.register(client);
        }
        let mut total = 0;
        // A repair goes by chunks of the state: none of them is bad at two replicas.
        let mut shares = random.below(3);
        for round in 0..12 {
            for replica in 0..3 {
                for _ in 0..1 + random.below(2) {
                    let share = (replica + shares) % 3;
                    flip_somewhere(&mut cluster, &mut random, replica as usize, share);
                    flips += 1;
                }
            }
            let client = random.below(3) as u8;
            total += round;
            let told = ask(&mut cluster, client, &format!("add {round}"));
            assert_eq!(told, total.to_string(), "seed {seed}");
            if random.below(2) == 0 {
                heal(&mut cluster);
                shares = random.below(3);
            }
        }
        heal(&mut cluster);
        let is_quiet = cluster.wait(Duration::from_secs(10), |cluster| {
            (0..3).all(|r| {
                cluster.status(r) == PeerStatus::Normal && cluster.applied(r) == cluster.op(r)
            }) && cluster.applied(0) == cluster.applied(1)
                && cluster.applied(0) == cluster.applied(2)
        });
        assert!(is_quiet, "seed {seed}");
        cluster.assert_equal();
    }
    println!("{seeds} seeds, {flips} flips: {:?}", began.elapsed());
}
