//! Leaving a view and starting the next: who may, when, and with what.

use vsr_consensus::Event;
use vsr_types::message::PeerStatus;
use vsr_types::{Command, View};

use crate::stage::{R0, R1, Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Node, header_of};

/// What every change of views in this file begins with: R0 has prepared something that only R1 holds,
/// and something else that nobody but R0 holds, and is then heard no more.
fn r0_goes(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.ask_only(1, 0, "add 20");
    s.deliver(R0, R1);
    s.ask_only(2, 0, "add 300");
    s.isolate(0);
}

/// And what it ends with: what R1 held is kept, what R0 held alone is gone, and R0 follows.
fn r0_comes_back(s: &mut Stage, leader: u8) {
    assert_eq!(s.operations(leader)[0], "add 1");
    s.mend();
    s.until("R0 follows, and its log is the view's", |s| {
        let follows = s.view(0) == s.view(leader) && s.status(0) == PeerStatus::Normal;
        follows && s.op(0) == s.op(leader)
    });
}

/// Nothing is lost: the plain story.
fn plain(s: &mut Stage) {
    r0_goes(s);
    s.until_leads(1);
    r0_comes_back(s, 1);
}

/// One message of the kind is lost everywhere, the first time.
fn first_is_lost(s: &mut Stage, command: Command) {
    r0_goes(s);
    s.lose_everywhere(&[command]);
    s.until("one is lost", |s| {
        s.net.lost.iter().any(|(_, _, bytes)| is(bytes, command))
    });
    s.net.lose.clear();
    s.until("somebody leads", |s| (1..s.n()).any(|r| s.leads(r)));
    let leader = (1..s.n()).find(|&r| s.leads(r)).expect("somebody leads");
    r0_comes_back(s, leader);
}

fn is(bytes: &[u8], command: Command) -> bool {
    header_of(bytes).command() == Some(command)
}

/// Every message of the kind arrives again, when the next view is long under way.
fn all_come_late(s: &mut Stage, command: Command) {
    s.net.record = None;
    r0_goes(s);
    s.lose_everywhere(&[command]);
    s.go_on(millis(400));
    let late = std::mem::take(&mut s.net.lost);
    s.net.lose.clear();
    s.until("somebody leads", |s| (1..s.n()).any(|r| s.leads(r)));
    s.served_elsewhere(3, "add 4000");
    for (from, to, bytes) in late.iter().chain(&late) {
        if let (Node::Replica(_), Node::Replica(to)) = (*from, *to) {
            s.late(*from, to, std::slice::from_ref(bytes));
        }
    }
    s.go_on(millis(50));
    let leader = (1..s.n())
        .find(|&r| s.leads(r))
        .expect("they disturb nobody");
    r0_comes_back(s, leader);
}

fn lost_svc(s: &mut Stage) {
    first_is_lost(s, Command::StartViewChange);
}

fn lost_dvc(s: &mut Stage) {
    first_is_lost(s, Command::DoViewChange);
}

fn lost_sv(s: &mut Stage) {
    first_is_lost(s, Command::StartView);
}

fn late_svc(s: &mut Stage) {
    all_come_late(s, Command::StartViewChange);
}

fn late_dvc(s: &mut Stage) {
    all_come_late(s, Command::DoViewChange);
}

fn late_sv(s: &mut Stage) {
    all_come_late(s, Command::StartView);
}

/// Everything that is sent arrives twice.
fn all_twice(s: &mut Stage) {
    r0_goes(s);
    for _ in 0..300 {
        s.tick(millis(1));
        for (from, to) in s.net.between(None, None) {
            let queue = &mut s.net.link(from, to).queue;
            queue.extend(queue.clone());
        }
        s.turn();
    }
    s.until_leads(1);
    r0_comes_back(s, 1);
}

/// Everything that is sent arrives in the wrong order.
fn all_backwards(s: &mut Stage) {
    r0_goes(s);
    for _ in 0..300 {
        s.tick(millis(1));
        for (from, to) in s.net.between(None, None) {
            s.net.link(from, to).queue.make_contiguous().reverse();
        }
        s.turn();
    }
    s.until_leads(1);
    r0_comes_back(s, 1);
}

/// The elect needs a quorum of votes: without R2's, R1 does not lead.
fn vote_quorum(s: &mut Stage) {
    s.isolate(1);
    s.served_at(1, 0, "add 1");
    s.split(&[&[1, 2]]);
    s.lose(2, 1, &[Command::DoViewChange]);
    s.go_on(millis(400));
    assert!(!s.leads(1), "R1's own log is not all there is");
    s.net.lose.clear();
    s.until("one of them leads", |s| s.leads(1) || s.leads(2));
}

/// The same of five: two votes are not enough.
fn vote_quorum_of_five(s: &mut Stage) {
    s.split(&[&[0, 3, 4], &[1, 2]]);
    s.served_at(1, 0, "add 1");
    s.split(&[&[1, 2, 3, 4]]);
    for other in [3, 4] {
        s.lose(other, 1, &[Command::DoViewChange]);
    }
    s.go_on(millis(120));
    s.until("R1 has left view 0", |s| s.view(1) > 0);
    s.go_on(millis(60));
    assert!(!s.leads(1), "R1's log and R2's are not all there is");
    s.net.lose.clear();
    s.until("somebody leads", |s| (1..5).any(|r| s.leads(r)));
}

/// The elect must hold what it takes over before it leads.
fn whole_before_start(s: &mut Stage) {
    s.isolate(1);
    s.served_at(1, 0, "add 1");
    s.split(&[&[1, 2]]);
    s.lose(2, 1, &[Command::Prepare]);
    s.until("R1 takes over", |s| s.view(1) == 1 && s.op(1) == s.base + 1);
    s.go_on(millis(30));
    assert!(!s.leads(1), "R1 has the header and not the body");
    s.net.lose.clear();
    s.until("one of them leads", |s| s.leads(1) || s.leads(2));
}

/// R4.2's neighbour: an elect that dies before it tells anybody.
fn elect_dies_before_start(s: &mut Stage) {
    r0_goes(s);
    s.lose_around(1, &[Command::StartView]);
    s.until_leads(1);
    s.stopped[1] = true;
    s.mend();
    s.isolate(1);
    s.until("somebody else leads", |s| {
        [0, 2].iter().any(|&r| s.leads(r) && s.view(r) > 1)
    });
}

/// An elect that dies when one of two knows.
fn elect_dies_after_one_start(s: &mut Stage) {
    let last = s.n() - 1;
    r0_goes(s);
    for other in 2..last {
        s.lose(1, other, &[Command::StartView]);
    }
    s.until("R1 has told the last", |s| {
        s.view(last) == 1 && s.status(last) == PeerStatus::Normal
    });
    s.stopped[1] = true;
    s.mend();
    s.isolate(1);
    s.until("somebody else leads", |s| {
        (0..s.n()).any(|r| r != 1 && s.leads(r) && s.view(r) > 1)
    });
}

/// An elect that dies while it collects votes.
fn elect_dies_without_votes(s: &mut Stage) {
    r0_goes(s);
    s.lose_around(1, &[Command::DoViewChange]);
    s.until("R1 has left", |s| s.view(1) == 1);
    s.stopped[1] = true;
    s.net.lose.clear();
    s.net.heal();
    s.until("somebody else leads", |s| {
        (0..s.n()).any(|r| r != 1 && s.leads(r) && s.view(r) > 1)
    });
}

/// Two elects die one after the other.
fn two_elects_die(s: &mut Stage) {
    r0_goes(s);
    for elect in [1, 2] {
        s.lose_around(elect, &[Command::StartView]);
    }
    s.until_leads(1);
    s.stopped[1] = true;
    s.until_leads(2);
    s.stopped[2] = true;
    s.mend();
    s.until("somebody else leads", |s| {
        [0, 3, 4].iter().any(|&r| s.leads(r) && s.view(r) > 2)
    });
}

/// The primary comes and goes: each view has what the one before it had committed.
fn primaries_take_turns(s: &mut Stage) {
    for round in 0..6_u8 {
        let leader = (0..s.n()).find(|&r| s.leads(r)).expect("somebody leads");
        s.served_at(1 + round % 3, leader, &format!("add {}", round + 1));
        s.isolate(leader);
        // What it prepares from now on is nobody's; its client never sends that again.
        let client = 1 + (round + 1) % 3;
        let before = s.client(client).request;
        s.ask_only(client, leader, &format!("add {}", 1000 + u32::from(round)));
        s.client(client).request = before;
        s.client(client).waiting = false;
        let others: Vec<u8> = (0..s.n()).filter(|&r| r != leader).collect();
        s.until("another leads", |s| {
            others
                .iter()
                .any(|&r| s.leads(r) && s.view(r) > u64::from(round))
        });
        s.mend();
        s.until("all follow", |s| {
            let view = (0..s.n()).map(|r| s.view(r)).max();
            (0..s.n()).all(|r| Some(s.view(r)) == view && s.status(r) == PeerStatus::Normal)
        });
    }
}

/// R5.6: R1 has been away for long, so it lets R2 lead.
fn forfeit(s: &mut Stage) {
    s.isolate(1);
    for round in 1..16 {
        s.served_at(1, 0, &format!("add {round}"));
    }
    // It hears nothing of what it lacks before the others vote.
    s.lose_around(1, &[Command::Ping, Command::Pong]);
    let others: Vec<u8> = (1..s.n()).collect();
    s.split(&[&others]);
    s.until("somebody leads", |s| (1..s.n()).any(|r| s.leads(r)));
    assert!(!s.leads(1), "R1 lags too far behind");
}

/// The same, when R1 could not even fetch what it lacks.
fn forfeit_beyond_the_ring(s: &mut Stage) {
    s.isolate(1);
    for round in 1..40 {
        s.served_at(1, 0, &format!("add {round}"));
    }
    s.lose_around(1, &[Command::Ping, Command::Pong]);
    s.split(&[&[1, 2]]);
    let start = s.now.monotonic;
    s.until_leads(2);
    let took = s.now.monotonic.since(start);
    assert!(took < millis(190), "R1 lets R2 lead at once: {took:?}");
}

/// R2.14: links on which a view takes longer to start than anybody's first patience.
fn slow_links(s: &mut Stage) {
    for from in 0..3 {
        for to in (0..3).filter(|&to| to != from) {
            s.net.link(Node::Replica(from), Node::Replica(to)).delay = millis(170);
        }
    }
    s.stopped[0] = true;
    s.until("one of them leads", |s| s.leads(1) || s.leads(2));
    s.go_on(millis(200));
    s.until("and is followed", |s| {
        s.view(1) == s.view(2) && s.status(1) == s.status(2)
    });
    let leader = if s.leads(1) { 1 } else { 2 };
    s.served_at(1, leader, "add 1");
}

/// R4.1: an old heartbeat, again and again, keeps nobody alive.
fn forged_progress(s: &mut Stage) {
    for backup in 1..s.n() {
        s.lose(0, backup, &[Command::Commit]);
    }
    s.go_on(millis(12));
    let old: Vec<Vec<u8>> = (1..s.n())
        .map(|r| s.lost(0, r, Command::Commit).remove(0))
        .collect();
    s.net.lose.clear();
    s.go_on(millis(30));
    s.stopped[0] = true;
    let end = s.now.monotonic.after(millis(2000));
    while !(1..s.n()).any(|r| s.leads(r)) {
        assert!(s.now.monotonic < end, "the dead primary is kept alive");
        for backup in 1..s.n() {
            s.late(
                R0,
                backup,
                &old[usize::from(backup) - 1..usize::from(backup)],
            );
        }
        s.go_on(millis(5));
    }
}

/// Nothing that is uncommitted and held by the dead alone comes back.
fn divergent_suffix(s: &mut Stage) {
    for client in 1..=3 {
        s.ask_only(client, 0, &format!("add {client}"));
    }
    s.isolate(0);
    let others: Vec<u8> = (2..s.n()).collect();
    s.until_follow(1, &others);
    assert_eq!(s.op(0), s.base + 3);
    for client in [2, 3] {
        s.client(client).waiting = false;
        s.client(client).request = Some(0);
    }
    s.served_at(2, 1, "add 20");
    s.served_at(3, 1, "add 30");
    s.mend();
    s.until("R0 follows", |s| s.view(0) == 1 && s.op(0) == s.op(1));
    s.go_on(millis(30));
    assert_eq!(s.operations(0)[..2], ["add 20", "add 30"]);
}

/// A view that is asked for by one replica only is nobody's.
fn one_wish(s: &mut Stage) {
    let last = s.n() - 1;
    for other in 0..last {
        s.net.link(Node::Replica(other), Node::Replica(last)).cut = true;
    }
    for round in 1..4 {
        s.served_at(1, 0, &format!("add {round}"));
        s.go_on(millis(300));
    }
    assert!(
        s.counted(Event::ViewsLeft) == 0,
        "a deaf replica disturbs nobody"
    );
    assert!((0..s.n()).all(|r| s.replicas[usize::from(r)].report().view == View::ZERO));
}

const fn short_pipeline(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 2;
}

const fn short_ring(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 2;
    settings.journal_slots = 16;
}

scenarios! {
    the_next_primary_takes_over: plain, 3 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    the_next_primary_takes_over_in_a_star: plain, 3 Star;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    the_next_primary_takes_over_of_five: plain, 5 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    the_next_primary_takes_over_of_seven: plain, 7 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    a_lost_start_view_change: lost_svc, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_lost_do_view_change: lost_dvc, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_lost_start_view: lost_sv, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_lost_start_view_change_of_five: lost_svc, 5 Star;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_lost_do_view_change_of_five: lost_dvc, 5 Star;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_lost_start_view_of_five: lost_sv, 5 Star;
        marks [ViewsStarted]; kills [KeepDivergent];
    late_start_view_changes: late_svc, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    late_do_view_changes: late_dvc, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    late_start_views: late_sv, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    late_do_view_changes_of_five: late_dvc, 5 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    late_start_views_of_five: late_sv, 5 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    everything_twice: all_twice, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    everything_backwards: all_backwards, 3 Chain;
        marks [ViewsStarted]; kills [KeepDivergent];
    everything_twice_of_five: all_twice, 5 Star;
        marks [ViewsStarted]; kills [KeepDivergent];
    a_quorum_of_votes_starts_a_view: vote_quorum, 3 Chain;
        marks [ViewsStarted]; kills [SmallChangeQuorum];
    a_quorum_of_votes_starts_a_view_of_five: vote_quorum_of_five, 5 Star;
        marks [ViewsStarted]; kills [SmallChangeQuorum];
    a_view_starts_when_everything_is_held: whole_before_start, 3 Chain;
        marks [ViewsStarted]; kills [StartEarly];
    an_elect_dies_before_it_tells: elect_dies_before_start, 3 Chain;
        marks [ViewsStarted]; kills [];
    an_elect_dies_when_one_knows: elect_dies_after_one_start, 5 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [];
    an_elect_dies_when_one_knows_of_seven: elect_dies_after_one_start, 7 Star;
        marks [ViewsStarted ViewsFollowed]; kills [];
    an_elect_dies_without_votes: elect_dies_without_votes, 5 Chain;
        marks [ViewsStarted]; kills [];
    two_elects_die_in_a_row: two_elects_die, 5 Chain;
        marks [ViewsStarted]; kills [];
    primaries_take_turns_of_three: primaries_take_turns, 3 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    primaries_take_turns_of_five: primaries_take_turns, 5 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [KeepDivergent];
    s28_lagging_primary: forfeit, 3 Chain, short_pipeline;
        marks [Forfeited]; kills [NeverForfeit];
    s28_lagging_primary_of_five: forfeit, 5 Chain, short_pipeline;
        marks [Forfeited]; kills [NeverForfeit];
    s28_lagging_primary_beyond_the_ring: forfeit_beyond_the_ring, 3 Chain, short_ring;
        marks [Forfeited]; kills [NeverForfeit];
    views_that_fail_get_more_time: slow_links, 3 Chain;
        marks [ViewsStarted]; kills [NoBackoff];
    s58_forged_progress: forged_progress, 3 Chain;
        marks [ViewsStarted]; kills [OldHeartbeats];
    s58_forged_progress_of_five: forged_progress, 5 Star;
        marks [ViewsStarted]; kills [OldHeartbeats];
    a_divergent_suffix_goes: divergent_suffix, 3 Chain;
        marks [ViewsFollowed]; kills [KeepDivergent];
    a_divergent_suffix_goes_of_five: divergent_suffix, 5 Star;
        marks [ViewsFollowed]; kills [KeepDivergent];
    s43_deaf_backup: one_wish, 3 Chain;
        marks [Executed]; kills [OneVote];
    s43_deaf_backup_of_five: one_wish, 5 Chain;
        marks [Executed]; kills [OneVote];
    s43_deaf_backup_of_seven: one_wish, 7 Star;
        marks [Executed]; kills [OneVote];
}
