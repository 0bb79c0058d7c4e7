//! Who may give up its own state for another's (R8.2, R8.5): somebody must be left to execute.

use std::time::Duration;

use vsr_types::{Command, Op};

use crate::support::{Cluster, Node};

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// R1 was away for longer than journals reach back, and takes over a state. R2 cannot read an entry that
/// it has acknowledged, and R0's copy of it does not reach R2. If R2 gave up its state as well, R0's would
/// be the only one. (Found by the swarm: R0 was cut off then, and the two could not serve.)
#[test]
fn a_state_is_kept_while_another_is_being_replaced() {
    let mut cluster = Cluster::formed_with(3, |settings| {
        settings.pipeline = 2;
        settings.journal_slots = 16;
        settings.chain = false;
    });
    let [r0, r1, r2] = [0, 1, 2].map(Node::Replica);
    let served = |cluster: &Cluster| !cluster.clients[1].waiting;
    cluster.register(1);
    cluster.pass(millis(30));
    for other in [r0, r2] {
        cluster.net.set_cut(r1, other, true);
        cluster.net.lose.push((other, r1, Command::NewState));
    }
    for i in 0..40 {
        cluster.request_at(1, 0, &format!("add {i}"));
        assert!(cluster.wait(millis(1000), served));
    }
    cluster.pass(millis(30));
    for other in [r0, r2] {
        cluster.net.set_cut(r1, other, false);
    }
    let takes_over = |cluster: &Cluster| cluster.replicas[1].transfer().is_some();
    assert!(cluster.wait(millis(2000), takes_over), "R1 lags too far");
    // R2 acknowledges one more, and cannot read it any more when it hears that it is committed.
    cluster.net.lose.push((r0, r2, Command::Commit));
    cluster.request_at(1, 0, "add 1000");
    assert!(cluster.wait(millis(1000), served));
    let last = cluster.op(0);
    assert_eq!((cluster.op(2), cluster.applied(2)), (last, last - 1));
    cluster.replicas[2].damage(Op::new(last));
    cluster.net.lose.retain(|lost| lost.2 == Command::NewState);
    cluster.net.lose.push((r0, r2, Command::Prepare));
    for _ in 0..200 {
        cluster.pass(millis(10));
        assert_eq!(cluster.replicas[2].transfer(), None, "R2 keeps its state");
    }
    assert_eq!(cluster.applied(2), last - 1);
    // R1 gets what it needs. Then R2 may give up its state, and must, to go on.
    cluster.net.lose.retain(|lost| lost.2 != Command::NewState);
    let is_back = |cluster: &Cluster| cluster.applied(1) >= last - 1;
    assert!(cluster.wait(millis(5000), is_back), "R1 has a state");
    let goes_on = |cluster: &Cluster| cluster.applied(2) == last;
    assert!(cluster.wait(millis(5000), goes_on), "R2 goes on");
}

/// Of two replicas neither can be spared; who cannot read an entry that the other cannot give any more takes
/// over its state all the same, or both would stop when their rings are full.
#[test]
fn two_replicas_go_on_when_an_entry_is_bad_at_both() {
    let mut cluster = Cluster::formed_with(2, |settings| {
        settings.pipeline = 2;
        settings.journal_slots = 16;
        settings.chain = false;
    });
    let [r0, r1] = [0, 1].map(Node::Replica);
    let served = |cluster: &Cluster| !cluster.clients[1].waiting;
    cluster.register(1);
    cluster.pass(millis(100));
    cluster.net.lose.push((r0, r1, Command::Commit));
    cluster.request_at(1, 0, "add 1000");
    assert!(cluster.wait(millis(1000), served));
    let last = cluster.op(0);
    assert_eq!((cluster.op(1), cluster.applied(1)), (last, last - 1));
    for replica in &mut cluster.replicas {
        replica.damage(Op::new(last));
    }
    cluster.net.lose.clear();
    for i in 0..40 {
        cluster.request_at(1, 0, &format!("add {i}"));
        assert!(cluster.wait(millis(20_000), served), "request {i}");
    }
}
