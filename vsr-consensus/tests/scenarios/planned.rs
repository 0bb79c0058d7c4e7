//! Planned changes of the primary, and how clusters begin.

use vsr_consensus::Event;
use vsr_types::message::PeerStatus;
use vsr_types::{ClusterId, Command, Nonce};

use crate::stage::{Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Cluster, Ledger, Node};

fn know_each_other(s: &mut Stage) {
    s.go_on(millis(150));
}

/// An operator lets another lead: nothing is lost, and nobody waits for a time-out.
fn hand_over(s: &mut Stage) {
    know_each_other(s);
    let last = s.n() - 1;
    s.served_at(1, 0, "add 1");
    let start = s.now.monotonic;
    s.order_hand_over(0, last);
    s.until_leads(last);
    let took = s.now.monotonic.since(start);
    assert!(took < millis(60), "a hand-over took {took:?}");
    s.served_at(1, last, "add 20");
    s.until("R0 follows", |s| s.view(0) == s.view(last));
}

/// What is in flight commits first.
fn hand_over_under_load(s: &mut Stage) {
    know_each_other(s);
    for client in 1..=3 {
        s.ask_only(client, 0, &format!("add {client}"));
    }
    s.order_hand_over(0, 1);
    s.until_leads(1);
    assert!(
        (1..=3).all(|client| s.is_told(client)),
        "R0 answered them before it left"
    );
    assert_eq!(s.operations(1).len(), 3);
}

/// The successor dies before it has taken over: the old primary leads on, or another does.
fn successor_dies(s: &mut Stage) {
    know_each_other(s);
    s.served_at(1, 0, "add 1");
    s.order_hand_over(0, 1);
    s.deliver(Node::Tool, Node::Replica(0));
    s.stopped[1] = true;
    s.go_on(millis(300));
    s.until("somebody leads", |s| {
        (0..s.n()).any(|r| r != 1 && s.leads(r))
    });
    let leader = (0..s.n())
        .find(|&r| r != 1 && s.leads(r))
        .expect("somebody leads");
    s.until("c2 is served", |s| s.n() > 0);
    s.request_at(2, leader, "add 20");
    s.go_on(millis(800));
}

/// The order reaches one that does not lead, or names one that does not exist.
fn wrong_orders(s: &mut Stage) {
    know_each_other(s);
    s.order_hand_over(1, 2);
    s.order_hand_over(0, 0);
    s.order_hand_over(0, 9);
    s.go_on(millis(50));
    assert!(s.leads(0) && s.view(0) == 0);
    s.served_at(1, 0, "add 1");
}

/// Round and round.
fn hand_over_in_a_circle(s: &mut Stage) {
    know_each_other(s);
    for round in 0..7_u8 {
        let (from, to) = (round % s.n(), (round + 1) % s.n());
        s.served_at(1, from, &format!("add {}", round + 1));
        s.go_on(millis(120));
        s.order_hand_over(from, to);
        s.until_leads(to);
    }
    assert_eq!(s.counted(Event::HandedOver), 7);
}

/// The vote of the primary that leaves is lost: the view changes all the same.
fn order_is_lost(s: &mut Stage) {
    know_each_other(s);
    s.served_at(1, 0, "add 1");
    s.lose(0, 1, &[Command::DoViewChange]);
    s.order_hand_over(0, 1);
    s.until("R0 has left", |s| s.view(0) > 0);
    s.net.lose.clear();
    s.until("somebody leads", |s| {
        (0..s.n()).any(|r| s.leads(r) && s.view(r) > 0)
    });
}

/// R7.1: a cluster is formed by the processes that agreed, not by their places.
fn other_process(s: &mut Stage) {
    let mutant = s.config[0].mutant;
    let mut cluster = Cluster::new(3, |settings| settings.mutant = mutant);
    let (id, token) = (ClusterId::new(5), Nonce::new(6));
    let nonces = cluster.propose(id, token);
    let config = cluster.config[1].clone();
    cluster.replicas[1] = Cluster::replica(&config, 2, Ledger::remembering());
    cluster.propose(id, token);
    cluster.commit_init(id, token, nonces);
    let report = cluster.replicas[1].report();
    assert_ne!(report.status, PeerStatus::Normal, "another process agreed");
}

/// R7.1: who belongs to a cluster agrees to no other.
fn not_blank(s: &mut Stage) {
    let nonces = s.propose(ClusterId::new(99), Nonce::new(98));
    assert!(
        nonces.nonces.iter().all(|nonce| nonce.is_zero()),
        "nobody agrees: {nonces:?}"
    );
}

scenarios! {
    a_planned_hand_over: hand_over, 3 Chain;
        marks [HandedOver]; kills [];
    a_planned_hand_over_in_a_star: hand_over, 3 Star;
        marks [HandedOver]; kills [];
    a_planned_hand_over_of_five: hand_over, 5 Chain;
        marks [HandedOver]; kills [];
    a_planned_hand_over_of_seven: hand_over, 7 Chain;
        marks [HandedOver]; kills [];
    a_planned_hand_over_under_load: hand_over_under_load, 3 Chain;
        marks [HandedOver]; kills [];
    a_planned_hand_over_whose_successor_dies: successor_dies, 3 Chain;
        marks [Executed]; kills [];
    a_planned_hand_over_whose_successor_dies_of_five: successor_dies, 5 Star;
        marks [Executed]; kills [];
    orders_that_cannot_be_followed: wrong_orders, 3 Chain;
        marks [Executed]; kills [];
    hand_overs_in_a_circle: hand_over_in_a_circle, 3 Chain;
        marks [HandedOver]; kills [];
    hand_overs_in_a_circle_of_five: hand_over_in_a_circle, 5 Chain;
        marks [HandedOver]; kills [];
    a_hand_over_whose_vote_is_lost: order_is_lost, 3 Chain;
        marks [HandedOver]; kills [];
    s36_bootstrap_race: other_process, 3 Chain;
        marks [SessionsOpened]; kills [InitAnyNonce];
    s37_bootstrap_refused: not_blank, 3 Chain;
        marks [SessionsOpened]; kills [];
}
