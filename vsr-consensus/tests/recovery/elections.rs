//! Who leads when those who lag let others lead (R5.6), and how soon.

use std::time::Duration;

use vsr_types::Command;
use vsr_types::message::PeerStatus;

use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn set_cut(cluster: &mut Cluster, replica: u8, others: &[u8], is_cut: bool) {
    for &other in others {
        cluster
            .net
            .set_cut(Node::Replica(replica), Node::Replica(other), is_cut);
    }
}

/// Of five R0 is dead, R1 and R3 lag far, R4 hardly. R2 lags least, but hears only R3: whoever lets it
/// lead waits in vain. R1, R3 and R4 hear each other and are a quorum. R4's messages take `delay`, and it
/// hears R0's last words when `late` has passed. Returns how long nobody led.
fn half_deaf_and_ahead(idle: u64, delay: u64, late: u64) -> Duration {
    let mut cluster = Cluster::formed_with(5, |settings| {
        settings.pipeline = 2;
        settings.chain = false;
    });
    cluster.register(1);
    cluster.pass(millis(30));
    set_cut(&mut cluster, 1, &[0, 2, 3, 4], true);
    set_cut(&mut cluster, 3, &[0, 1, 2, 4], true);
    let served = |cluster: &Cluster| !cluster.clients[1].waiting;
    for i in 0..40 {
        cluster.request_at(1, 0, &format!("add {i}"));
        assert!(cluster.wait(millis(1000), served));
    }
    cluster.pass(millis(30 + idle));
    // The last one's commit number reaches R2 and not R4.
    let heartbeats = (Node::Replica(0), Node::Replica(4), Command::Commit);
    cluster.net.lose.push(heartbeats);
    cluster.pass(millis(20));
    let (_, _, late_heartbeat) = cluster.net.lost.last().expect("a heartbeat").clone();
    cluster.request_at(1, 0, "add 1000");
    cluster.run();
    assert!(served(&cluster));
    cluster.pass(millis(15));
    set_cut(&mut cluster, 0, &[1, 2, 3, 4], true);
    cluster.crash(0);
    set_cut(&mut cluster, 1, &[2, 3, 4], false);
    set_cut(&mut cluster, 3, &[1, 2, 4], false);
    let (r2, r4) = (Node::Replica(2), Node::Replica(4));
    for sender in [Node::Replica(1), r4] {
        cluster.net.link(sender, r2).cut = true;
    }
    // R4's votes arrive a little later than R2's.
    for peer in [1, 2, 3].map(Node::Replica) {
        cluster.net.link(r4, peer).delay = millis(delay);
        cluster.net.link(peer, r4).delay = millis(delay);
    }
    let before = cluster.now.monotonic;
    cluster.pass(millis(late));
    cluster.hand_over(Node::Replica(0), 4, &late_heartbeat);
    cluster.settle(4);
    let leads = |cluster: &Cluster| {
        let leads = |replica: u8| {
            let report = cluster.replicas[usize::from(replica)].report();
            let is_normal = report.status == PeerStatus::Normal && report.view.raw() > 0;
            is_normal && report.primary.raw() == replica
        };
        (1..5).any(leads)
    };
    assert!(cluster.wait(Duration::from_secs(20), leads));
    cluster.now.monotonic.since(before)
}

#[test]
fn who_is_furthest_and_half_deaf_is_not_waited_for_in_every_round() {
    let mut slowest = Duration::ZERO;
    for idle in [0, 7, 13] {
        for delay in [1, 3, 8, 15] {
            for late in [0, 60, 90] {
                slowest = slowest.max(half_deaf_and_ahead(idle, delay, late));
            }
        }
    }
    assert!(slowest < millis(1500), "{slowest:?}");
    println!("SLOWEST {slowest:?}");
}

/// R1 and R2 were away. R1 is to lead view 1 and installs its log, but the headers below what the votes
/// carry do not reach it, and the view never starts: nobody else's log is of view 1. R2, which is to lead
/// view 2, begins with R1's log and can only ask replicas whose logs are of view 0.
#[test]
fn headers_that_lead_to_a_log_of_a_view_that_never_started_are_taken_from_anybody() {
    let mut cluster = Cluster::formed_with(5, |settings| {
        settings.pipeline = 2;
        settings.chain = false;
    });
    cluster.register(1);
    cluster.pass(millis(30));
    set_cut(&mut cluster, 1, &[0, 2, 3, 4], true);
    set_cut(&mut cluster, 2, &[0, 3, 4], true);
    let served = |cluster: &Cluster| !cluster.clients[1].waiting;
    for i in 0..6 {
        cluster.request_at(1, 0, &format!("add {i}"));
        assert!(cluster.wait(millis(1000), served));
    }
    cluster.pass(millis(60));
    cluster.crash(0);
    set_cut(&mut cluster, 1, &[3, 4], false);
    for donor in [3, 4].map(Node::Replica) {
        let lost = [Command::Headers, Command::Prepare];
        let lost = lost.map(|command| (donor, Node::Replica(1), command));
        cluster.net.lose.extend(lost);
    }
    let takes_over = |cluster: &Cluster| cluster.status(1) == PeerStatus::ViewChange;
    assert!(cluster.wait(millis(2000), takes_over), "the others vote");
    cluster.pass(millis(30));
    let report = cluster.replicas[1].report();
    assert_eq!(report.view.raw(), 1);
    assert_eq!(report.status, PeerStatus::ViewChange, "headers are missing");
    set_cut(&mut cluster, 1, &[3, 4], true);
    set_cut(&mut cluster, 1, &[2], false);
    set_cut(&mut cluster, 2, &[3, 4], false);
    let leads = |cluster: &Cluster| {
        let report = cluster.replicas[2].report();
        report.status == PeerStatus::Normal && report.primary.raw() == 2
    };
    assert!(cluster.wait(millis(2000), leads), "R2 leads");
    assert_eq!(cluster.replicas[2].report().view.raw(), 2, "at once");
    assert_eq!(cluster.op(2), cluster.op(3), "with all of the log");
}
