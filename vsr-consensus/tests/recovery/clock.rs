//! Replicated time when somebody leads who got the log from others: it follows the clocks, which all are
//! right here, and not the time since this replica last heard of a prepare.

use std::time::Duration;

use vsr_consensus::Event;
use vsr_types::message::PeerStatus;

use crate::backups::{ask, with_requests};
use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn set_cut(cluster: &mut Cluster, replica: u8, is_cut: bool) {
    for other in (0..cluster.n()).filter(|&other| other != replica) {
        cluster
            .net
            .set_cut(Node::Replica(replica), Node::Replica(other), is_cut);
    }
}

/// R0 crashes, R1 leads: how far is what it prepares from what the clocks say?
fn r1_leads(cluster: &mut Cluster) -> Duration {
    cluster.crash(0);
    cluster.pass(millis(300));
    cluster.net.heal();
    cluster
        .net
        .set_cut(Node::Replica(0), Node::Replica(1), true);
    let leads = |cluster: &Cluster| {
        let report = cluster.replicas[1].report();
        report.status == PeerStatus::Normal && report.primary.raw() == 1
    };
    assert!(cluster.wait(millis(3000), leads), "R1 leads");
    cluster.request_at(1, 1, "add 1");
    assert!(cluster.wait(millis(3000), |c| !c.clients[1].waiting));
    let last = cluster.replicas[1].machine().history().last().cloned();
    let told = last.expect("something was executed").timestamp.as_nanos();
    let wall = cluster.now.wall.as_nanos();
    Duration::from_nanos(told.abs_diff(wall))
}

#[test]
fn a_laggard_that_leads_knows_the_time() {
    let mut cluster = with_requests(3, 3);
    set_cut(&mut cluster, 1, true);
    for _ in 0..60 {
        cluster.pass(millis(1000));
        ask(&mut cluster, "add 1");
    }
    let off = r1_leads(&mut cluster);
    assert!(off < millis(1000), "{off:?}");
}

/// The last prepare is as old as the silence after it, and R1 fetches it long after.
#[test]
fn a_laggard_of_an_idle_cluster_that_leads_knows_the_time() {
    let mut cluster = with_requests(3, 3);
    set_cut(&mut cluster, 1, true);
    ask(&mut cluster, "add 1");
    cluster.pass(Duration::from_secs(60));
    set_cut(&mut cluster, 1, false);
    cluster.pass(millis(200));
    assert_eq!(cluster.op(1), cluster.op(0));
    let off = r1_leads(&mut cluster);
    assert!(off < millis(1000), "{off:?}");
}

#[test]
fn who_fetched_the_state_and_leads_knows_the_time() {
    let mut cluster = with_requests(3, 3);
    set_cut(&mut cluster, 1, true);
    cluster.pass(Duration::from_secs(60));
    for _ in 0..700 {
        ask(&mut cluster, "add 1");
    }
    set_cut(&mut cluster, 1, false);
    let done = |c: &Cluster| c.replicas[1].counters().of(Event::TransfersFinished) == 1;
    assert!(cluster.wait(millis(3000), done));
    cluster.pass(millis(30));
    let off = r1_leads(&mut cluster);
    assert!(off < millis(1000), "{off:?}");
}

/// R1's clock is an hour ahead from the start, and it was there all the time.
#[test]
fn who_has_followed_does_not_believe_its_own_clock() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.ahead[1] = Duration::from_secs(3600).as_nanos() as u64;
    cluster.init();
    cluster.register(1);
    ask(&mut cluster, "add 1");
    let off = r1_leads(&mut cluster);
    assert!(off < millis(1500), "{off:?}");
}
