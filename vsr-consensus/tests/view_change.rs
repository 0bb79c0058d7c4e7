//! The life of views, end to end: what users see when primaries come and go.

mod support;

use std::time::Duration;

use support::{Cluster, Node};

const MS: Duration = Duration::from_millis(1);

/// Who leads, according to everybody that is not stopped.
fn leader(cluster: &Cluster) -> Option<u8> {
    let mut leaders = (0..cluster.n()).filter(|&i| !cluster.stopped[usize::from(i)]);
    let first = leaders.next()?;
    let view = |i: u8| cluster.replicas[usize::from(i)].report();
    let report = view(first);
    let agree = leaders.all(|i| view(i).view == report.view && view(i).status == report.status);
    let primary = report.primary.raw();
    let is_normal = cluster.status(first) == vsr_types::message::PeerStatus::Normal;
    (agree && is_normal && !cluster.stopped[usize::from(primary)]).then_some(primary)
}

#[test]
fn the_next_primary_takes_over_with_everything_and_the_old_one_follows() {
    for n in [3, 5, 7] {
        let mut cluster = Cluster::formed(n);
        cluster.register(1);
        assert_eq!(cluster.ask(1, "add 5"), "5");
        // Prepared at the primary and the first backup only.
        cluster.request_at(1, 0, "add 7");
        cluster.deliver(Node::Client(1), Node::Replica(0));
        cluster.deliver(Node::Replica(0), Node::Replica(1));
        cluster.stopped[0] = true;
        cluster.pass(500 * MS);
        assert_eq!(leader(&cluster), Some(1), "n = {n}");
        cluster.retry_at(1, 1);
        cluster.run();
        assert_eq!(cluster.client(1).text(), "12", "once, not twice");
        cluster.request_at(1, 1, "add 1");
        cluster.run();
        assert_eq!(cluster.client(1).text(), "13");
        cluster.stopped[0] = false;
        cluster.pass(500 * MS);
        assert_eq!(leader(&cluster), Some(1), "the old primary follows");
        cluster.assert_equal();
    }
}

#[test]
fn primaries_that_die_one_after_the_other_are_replaced_while_a_quorum_lives() {
    let mut cluster = Cluster::formed(5);
    cluster.register(1);
    for dead in 0..2_u8 {
        cluster.stopped[usize::from(dead)] = true;
        cluster.pass(2_000 * MS);
        assert_eq!(leader(&cluster), Some(dead + 1));
        cluster.request_at(1, dead + 1, "add 1");
        cluster.run();
        assert_eq!(cluster.client(1).text(), (dead + 1).to_string());
    }
    cluster.stopped[2] = true;
    cluster.pass(2_000 * MS);
    assert_eq!(leader(&cluster), None, "two of five are no quorum");
    cluster.stopped = vec![false; 5];
    cluster.pass(8_000 * MS);
    assert!(leader(&cluster).is_some());
    cluster.assert_equal();
}
