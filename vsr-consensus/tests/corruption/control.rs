//! The numbers of the protocol: a replica that finds others than it wrote is as good as crashed (R6.8).

use std::time::{Duration, Instant};

use super::support::Cluster;
use super::{cluster, holds};
use vsr_consensus::{HaltReason, Place};
use vsr_types::message::PeerStatus;

fn is_normal(cluster: &Cluster) -> bool {
    (0..3).all(|r| cluster.status(r) == PeerStatus::Normal)
}

pub(super) fn one_bit_ends_the_life() {
    let mut cluster = cluster();
    assert!(cluster.replicas[1].flip(Place::Control, 130));
    cluster.pass(Duration::from_millis(12));
    let report = cluster.replicas[1].report();
    assert_eq!(report.halted, Some(HaltReason::Memory));
}

/// R6.8.
#[test]
fn every_flipped_bit_of_a_number_of_the_protocol_ends_the_life_and_the_next_one_recovers() {
    let (began, mut cluster) = (Instant::now(), cluster());
    cluster.register(0);
    cluster.ask(0, "add 7");
    cluster.pass(Duration::from_millis(50));
    let mut bits = 0;
    // Every bit takes a life and a recovery: some of them here, all of them where there is time.
    let step = if std::env::var_os("VSR_SEEDS").is_some() {
        1
    } else {
        7
    };
    loop {
        if !cluster.replicas[1].flip(Place::Control, bits) {
            break;
        }
        let sent: u64 = cluster.replicas[1].counters().messages().map(|m| m.2).sum();
        cluster.pass(Duration::from_millis(12));
        let report = cluster.replicas[1].report();
        assert_eq!(report.halted, Some(HaltReason::Memory), "bit {bits}");
        assert_eq!(report.status, PeerStatus::Halted);
        let sent_later: u64 = cluster.replicas[1].counters().messages().map(|m| m.2).sum();
        assert_eq!(sent, sent_later, "it says nothing any more, bit {bits}");
        cluster.restart(1);
        assert!(
            cluster.wait(Duration::from_secs(5), is_normal),
            "the next life recovers, bit {bits}"
        );
        bits += step;
    }
    assert!(bits > 1900, "{bits}");
    cluster.request_at(0, 0, "add 1");
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.client(0).text(), "8");
    cluster.assert_equal();
    assert_eq!(
        holds(&cluster.replicas[1]).last(),
        holds(&cluster.replicas[0]).last()
    );
    println!("{bits} bits of control state: {:?}", began.elapsed());
}
