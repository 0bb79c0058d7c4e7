//! Links that work one way only, or between some: who leads then, and that somebody does.

use vsr_consensus::Event;
use vsr_types::{Command, View};

use crate::stage::{Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Answer, Node};

/// Nothing that others send reaches this one.
fn deafen(s: &mut Stage, replica: u8) {
    for other in (0..s.n()).filter(|&other| other != replica) {
        s.net.link(Node::Replica(other), Node::Replica(replica)).cut = true;
    }
}

/// Nothing that this one sends reaches others.
fn silence(s: &mut Stage, replica: u8) {
    for other in (0..s.n()).filter(|&other| other != replica) {
        s.net.link(Node::Replica(replica), Node::Replica(other)).cut = true;
    }
}

fn others_lead(s: &mut Stage, without: u8, within: u64) {
    let start = s.now.monotonic;
    s.until("another leads", |s| {
        (0..s.n()).any(|r| r != without && s.leads(r) && s.view(r) > 0)
    });
    let took = s.now.monotonic.since(start);
    assert!(took < millis(within), "it took {took:?}");
}

/// R4.3, without load: a primary that sends and hears nothing steps down by itself.
fn deaf_primary_idle(s: &mut Stage) {
    deafen(s, 0);
    others_lead(s, 0, 1000);
    s.served_elsewhere(1, "add 1");
}

/// The same while clients ask it.
fn deaf_primary_under_load(s: &mut Stage) {
    s.request_at(1, 0, "add 1");
    deafen(s, 0);
    s.run();
    others_lead(s, 0, 1000);
    s.retry_at(1, 1);
    s.until("c1 is served", |s| s.is_told(1));
}

/// A primary that hears everything and is heard by nobody.
fn silent_primary(s: &mut Stage) {
    silence(s, 0);
    others_lead(s, 0, 1000);
    s.served_elsewhere(1, "add 1");
}

/// A backup that hears and is not heard: the rest does without it.
fn silent_backup(s: &mut Stage) {
    let last = s.n() - 1;
    silence(s, last);
    for round in 1..4 {
        s.served_at(1, 0, &format!("add {round}"));
        s.go_on(millis(200));
    }
    assert_eq!(s.counted(Event::ViewsLeft), 0, "nobody minds");
}

/// R0 and the last one do not hear each other; the one in between hears both.
fn chained(s: &mut Stage) {
    let last = s.n() - 1;
    s.net.set_cut(Node::Replica(0), Node::Replica(last), true);
    for round in 1..6 {
        s.served_at(1, 0, &format!("add {round}"));
        s.go_on(millis(200));
    }
    for replica in 0..s.n() {
        assert_eq!(
            s.replicas[usize::from(replica)].report().view,
            View::ZERO,
            "R0 leads on"
        );
    }
    let behind = s.op(0) - s.op(last);
    assert!(
        behind == 0,
        "the last one is fed by the one in between, and lacks {behind} ops"
    );
}

/// Only the hub hears the others: it ends up leading, whoever led before.
fn star_partition(s: &mut Stage) {
    let hub = 2;
    for a in 0..s.n() {
        for b in a + 1..s.n() {
            if a != hub && b != hub {
                s.net.set_cut(Node::Replica(a), Node::Replica(b), true);
            }
        }
    }
    s.until("the hub leads", |s| s.leads(hub));
    assert!(
        s.view(hub) <= 2 * u64::from(s.n()),
        "within a few views: {}",
        s.view(hub)
    );
    s.served_at(1, hub, "add 1");
}

/// Two halves that share one replica, which is not the primary.
fn bridge(s: &mut Stage) {
    for a in [0, 1] {
        for b in [3, 4] {
            s.net.set_cut(Node::Replica(a), Node::Replica(b), true);
        }
    }
    for round in 1..4 {
        s.request_at(1, 0, &format!("add {round}"));
        s.until("c1 is served", |s| s.is_told(1));
        s.go_on(millis(100));
    }
}

/// The minority's primary takes requests that nobody else will ever see.
fn minority_primary(s: &mut Stage) {
    let half = s.n() / 2;
    let small: Vec<u8> = (0..half).collect();
    let large: Vec<u8> = (half..s.n()).collect();
    s.ask_only(1, 0, "add 1");
    s.split(&[&small, &large]);
    s.ask_only(2, 0, "add 20");
    s.go_on(millis(20));
    assert!(!s.is_told(1) && !s.is_told(2), "a minority commits nothing");
    s.until("the majority goes on", |s| {
        large.iter().any(|&r| s.leads(r))
    });
    s.served_elsewhere(3, "add 300");
    s.go_on(millis(200));
    assert!(!s.is_told(1) && !s.is_told(2));
}

/// A link that comes and goes faster than anybody loses patience: no view changes.
fn short_cuts(s: &mut Stage) {
    for round in 0..10 {
        s.isolate(0);
        s.go_on(millis(40));
        s.mend();
        s.served_at(1, 0, &format!("add {}", round + 1));
        s.go_on(millis(40));
    }
    assert_eq!(
        s.counted(Event::ViewsLeft),
        0,
        "a short silence is no death"
    );
}

/// A majority is gone: those that are left neither commit nor answer, and go on when it is back.
/// R13.2: requests are all that does not reach the primary: it is alive, everybody hears it, and clients ask in
/// vain, one replica after the other.
fn deaf_to_clients(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    for backup in 1..s.n() {
        s.lose(backup, 0, &[Command::Request]);
    }
    s.net.set_cut(Node::Client(1), Node::Replica(0), true);
    s.request_at(1, 1, "add 20");
    let n = s.n();
    for round in 0..60_u8 {
        s.go_on(millis(50));
        s.retry_at(1, round % n);
    }
    assert!(s.is_told(1), "c1 is served");
    assert!((1..n).any(|r| s.leads(r)), "by somebody else");
}

/// The client that asked first has gone; who comes after it has the same reason to complain.
fn deaf_to_clients_and_one_gives_up(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.served_at(2, 0, "add 1");
    for backup in 1..s.n() {
        s.lose(backup, 0, &[Command::Request]);
    }
    s.request_at(2, 1, "add 300");
    s.retry_at(2, 2);
    s.go_on(millis(10));
    s.request_at(1, 1, "add 20");
    let backups = s.n() - 1;
    for round in 0..80_u8 {
        s.go_on(millis(50));
        s.retry_at(1, 1 + round % backups);
    }
    assert!(s.is_told(1), "c1 is served");
}

/// A client is refused by whoever leads, asks everybody again and again, and nothing else happens.
fn refused_again_and_again(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.request_at(1, 0, "!refuse me");
    let n = s.n();
    for round in 0..120_u8 {
        s.go_on(millis(30));
        s.retry_at(1, round % n);
    }
    assert!(s.leads(0) && s.view(0) == 0, "R0 has done nothing wrong");
    s.clients[1].waiting = false;
}

/// One backup's link to the primary is broken, and it alone sees clients ask again: nobody else has a
/// reason to leave.
fn only_one_is_asked_in_vain(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.lose(1, 0, &[Command::Request]);
    s.request_at(1, 1, "add 20");
    for _ in 0..60 {
        s.go_on(millis(50));
        s.retry_at(1, 1);
    }
    assert!(s.leads(0), "it serves whoever asks it");
    s.net.lose.clear();
    s.retry_at(1, 0);
    s.until("c1 is served", |s| s.is_told(1));
}

fn beyond_f(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    let few = s.n() / 2;
    for replica in few..s.n() {
        s.stopped[usize::from(replica)] = true;
    }
    s.request_at(2, 0, "add 20");
    s.query_at(3, 0, "total");
    s.go_on(millis(1000));
    let is_read = |answer: &Answer| matches!(answer, Answer::Read { .. });
    let is_answered = s.is_told(2) || s.clients[3].answers.iter().any(is_read);
    assert!(!is_answered, "nothing is answered");
    assert!((0..few).all(|r| !s.leads(r) || s.view(r) == 0));
    s.clients[3].reading = false;
    s.stopped.fill(false);
    s.until("somebody leads", |s| (0..s.n()).any(|r| s.leads(r)));
}

scenarios! {
    s42_deaf_primary_idle: deaf_primary_idle, 3 Chain;
        marks [ViewsStarted]; kills [NeverAbdicate];
    s42_deaf_primary_idle_of_five: deaf_primary_idle, 5 Star;
        marks [ViewsStarted]; kills [NeverAbdicate];
    s42_deaf_primary_idle_of_seven: deaf_primary_idle, 7 Chain;
        marks [ViewsStarted]; kills [NeverAbdicate];
    s42b_deaf_primary_under_load: deaf_primary_under_load, 3 Chain;
        marks [ViewsStarted]; kills [NeverAbdicate];
    a_silent_primary_is_replaced: silent_primary, 3 Chain;
        marks [ViewsStarted]; kills [];
    a_silent_primary_is_replaced_of_five: silent_primary, 5 Star;
        marks [ViewsStarted]; kills [];
    a_silent_backup_disturbs_nobody: silent_backup, 3 Chain;
        marks [Suspected]; kills [];
    a_silent_backup_disturbs_nobody_of_five: silent_backup, 5 Star;
        marks [Suspected]; kills [];
    a_primary_that_serves_nobody_is_replaced: deaf_to_clients, 3 Chain;
        marks [ClientsUnserved ViewsStarted]; kills [ServesNobody];
    a_primary_that_serves_nobody_is_replaced_of_five: deaf_to_clients, 5 Star;
        marks [ClientsUnserved ViewsStarted]; kills [ServesNobody];
    a_primary_that_serves_nobody_is_replaced_whoever_asks: deaf_to_clients_and_one_gives_up, 3 Chain;
        marks [ClientsUnserved ViewsStarted]; kills [ServesNobody];
    a_client_that_is_refused_deposes_nobody: refused_again_and_again, 3 Chain;
        marks [PassedOn]; kills [];
    one_backup_that_clients_ask_in_vain_deposes_nobody: only_one_is_asked_in_vain, 3 Chain;
        marks [ClientsUnserved]; kills [];
    s44_chained_partition: chained, 3 Chain;
        marks [Executed]; kills [OneVote];
    s44_chained_partition_in_a_star: chained, 3 Star;
        marks [Executed]; kills [OneVote];
    s44_chained_partition_of_five: chained, 5 Chain;
        marks [Executed]; kills [OneVote];
    s45_star_partition: star_partition, 5 Chain;
        marks [ViewsStarted]; kills [];
    s45_star_partition_of_seven: star_partition, 7 Star;
        marks [ViewsStarted]; kills [];
    a_bridge_serves: bridge, 5 Chain;
        marks [Executed]; kills [];
    a_minority_commits_nothing: minority_primary, 3 Chain;
        marks [ViewsStarted]; kills [SmallCommitQuorum KeepDivergent];
    a_minority_commits_nothing_of_five: minority_primary, 5 Chain;
        marks [ViewsStarted]; kills [SmallCommitQuorum KeepDivergent];
    a_minority_commits_nothing_of_seven: minority_primary, 7 Star;
        marks [ViewsStarted]; kills [SmallCommitQuorum];
    short_silences_change_nothing: short_cuts, 3 Chain;
        marks [Executed]; kills [];
    beyond_f_nothing_is_served: beyond_f, 3 Chain;
        marks [Executed]; kills [SmallCommitQuorum ReadWithoutRound];
    beyond_f_nothing_is_served_of_five: beyond_f, 5 Star;
        marks [Executed]; kills [SmallCommitQuorum ReadWithoutRound];
}
