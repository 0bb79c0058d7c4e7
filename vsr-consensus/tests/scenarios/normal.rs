//! The rules of normal operation, and what breaks without them when the view changes afterwards.

use vsr_consensus::DropReason;
use vsr_types::message::{Commit, DoViewChange, Prepare, StartView};
use vsr_types::{Command, HEADER_SIZE, Op, View};

use crate::stage::{R0, R1, R2, Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Node, forge, forge_fields};

const R3: Node = Node::Replica(3);

/// Trace T14: what the primary of view 0 prepared arrives in view 1.
fn old_view_forward(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    let old = s.take(R0, R1, Command::Prepare);
    s.isolate(0);
    s.until_follow(1, &[2]);
    s.late(R0, 2, &old);
    assert_eq!(
        s.op(2),
        s.base,
        "what view 0 prepared is not appended in view 1"
    );
    s.served_at(2, 1, "add 20");
    s.go_on(millis(30));
    assert_eq!(s.operations(2), ["add 20"]);
}

/// The same with a primary that leads again: it is not the sender's name that counts.
fn old_view_of_the_same_primary(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    let old = s.take(R0, R1, Command::Prepare);
    s.isolate(0);
    s.until_follow(1, &[2]);
    s.mend();
    s.until_follow(1, &[0, 2]);
    s.go_on(millis(150));
    s.order_hand_over(1, 0);
    s.until_follow(0, &[1, 2]);
    s.late(R0, 2, &old);
    assert_eq!(
        s.op(2),
        s.base,
        "what view 0 prepared is not appended in view 3"
    );
    s.served_at(2, 0, "add 20");
}

/// Trace T15: R0 is told by a heartbeat that a newer view has committed something.
fn heartbeat_view_adoption(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.isolate(0);
    s.until_follow(1, &[2]);
    s.served_at(2, 1, "add 20");
    s.lose(1, 0, &[Command::StartView, Command::Prepare]);
    s.lose(2, 0, &[Command::StartView, Command::Prepare]);
    s.split(&[&[0, 1, 2]]);
    s.go_on(millis(40));
    assert_eq!(s.operations(0), [""; 0], "nothing is executed by hearsay");
}

/// Trace T17: an acknowledgement of view 0 arrives when the same primary leads view 5.
fn old_prepare_ok(s: &mut Stage) {
    s.isolate(1);
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, R2);
    let old = s.take(R2, R0, Command::PrepareOk);
    assert!(!old.is_empty(), "R2 holds it");
    s.split(&[&[1, 3, 4]]);
    s.until_follow(1, &[3, 4]);
    s.split(&[&[0, 1, 3, 4]]);
    s.until_follow(1, &[0, 3, 4]);
    s.go_on(millis(150));
    s.order_hand_over(1, 0);
    s.until_follow(0, &[1, 3, 4]);
    s.ask_only(2, 0, "add 20");
    s.deliver(R0, R3);
    s.deliver(R3, R0);
    s.late(R2, 0, &old);
    s.deliver(R0, Node::Client(2));
    assert!(!s.is_told(2), "R0 and R3 hold it: two of five");
    s.split(&[&[1, 2, 4]]);
    s.until_leads(1);
}

/// Trace T19: the headers of what R1 inherited reach the others, the bodies do not.
fn header_ack(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    for backup in 1..5 {
        s.take(R0, Node::Replica(backup), Command::Prepare);
    }
    // View 1 begins with the votes of R0, R1 and R2.
    for backup in 1..5 {
        s.lose(0, backup, &[Command::Commit]);
        s.lose(backup, 0, &[Command::CommitOk, Command::Pong]);
    }
    for other in [3, 4] {
        s.lose(other, 1, &[Command::DoViewChange]);
    }
    for backup in 2..5 {
        s.lose(1, backup, &[Command::Prepare]);
        s.lose(0, backup, &[Command::Prepare]);
    }
    s.until_leads(1);
    assert_eq!(s.op(1), s.base + 1, "R1 has inherited it");
    s.retry_at(1, 1);
    s.go_on(millis(20));
    assert!(!s.is_told(1), "only R0 and R1 hold it");
    s.split(&[&[2, 3, 4]]);
    s.go_on(millis(300));
}

/// Trace T21: the second of two ops arrives first.
fn out_of_order(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.ask_only(2, 0, "add 2");
    let prepares = s.take(R0, R1, Command::Prepare);
    assert_eq!(prepares.len(), 2);
    s.isolate(2);
    s.lose(0, 1, &[Command::Prepare]);
    s.late(R0, 1, &prepares[1..]);
    s.deliver(R1, R0);
    s.deliver(R0, Node::Client(1));
    s.deliver(R0, Node::Client(2));
    assert_eq!(s.commit(0), s.base, "nobody else holds the first");
    s.isolate(0);
    s.until_leads(1);
}

/// Trace T22: a heartbeat says that less is committed than is known here.
fn commit_regress(s: &mut Stage) {
    s.lose(0, 1, &[Command::Commit]);
    s.go_on(millis(12));
    let heartbeat = s.lost(0, 1, Command::Commit).pop().expect("a heartbeat");
    s.ask_only(1, 0, "add 1");
    let mut prepares = s.take(R0, R1, Command::Prepare);
    s.deliver(R0, R2);
    s.deliver(R2, R0);
    s.ask_only(2, 0, "add 2");
    prepares.extend(s.take(R0, R1, Command::Prepare));
    // R1 has not had the time to execute anything.
    for prepare in prepares {
        s.hand_over(R0, 1, &prepare);
    }
    assert_eq!((s.commit(1), s.applied(1)), (s.base + 1, s.base));
    let newer = forge_fields(&heartbeat, |commit: &mut Commit| commit.sequence += 1000);
    s.hand_over(R0, 1, &newer);
    assert_eq!(s.commit(1), s.base + 1, "what is committed stays committed");
}

/// One acknowledgement arrives four times.
fn duplicate_ok(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, R1);
    let ok = s.take(R1, R0, Command::PrepareOk);
    for _ in 0..4 {
        s.late(R1, 0, &ok);
    }
    s.deliver(R0, Node::Client(1));
    assert!(!s.is_told(1), "two of five are no quorum");
    s.split(&[&[2, 3, 4]]);
    s.until("the others go on", |s| (2..5).any(|r| s.leads(r)));
}

/// One replica fewer than a quorum.
fn too_few(s: &mut Stage) {
    let few = s.n() / 2;
    for backup in few..s.n() {
        s.lose_around(backup, &[Command::PrepareOk]);
        s.lose_around(backup, &[Command::Prepare]);
    }
    s.request_at(1, 0, "add 1");
    s.go_on(millis(30));
    assert!(!s.is_told(1), "fewer than a quorum hold it");
    let others: Vec<u8> = (few..s.n()).collect();
    s.split(&[&others]);
    s.net.lose.clear();
    s.until("the others go on", |s| (few..s.n()).any(|r| s.leads(r)));
}

/// N1: the primary's word is not enough.
fn alone(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, Node::Client(1));
    assert!(!s.is_told(1), "nobody else holds it");
    s.isolate(0);
    s.until("the others go on", |s| (1..s.n()).any(|r| s.leads(r)));
}

/// Trace T7b: R2 has it from R1, who did not keep it.
fn tail_ack(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    let prepare = s.take(R0, R1, Command::Prepare);
    s.net.link(R2, R3).cut = true;
    s.late(R1, 2, &prepare);
    s.deliver(R2, R0);
    s.deliver(R0, Node::Client(1));
    assert!(!s.is_told(1), "R0 and R2 hold it: two of five");
    s.split(&[&[1, 3, 4]]);
    s.until_leads(1);
}

/// A hop that takes and does not pass on, nor acknowledge.
fn bad_hop(s: &mut Stage) {
    s.lose(1, 2, &[Command::Prepare]);
    s.lose(1, 0, &[Command::PrepareOk]);
    let start = s.now.monotonic;
    s.served_at(1, 0, "add 1");
    let late = s.now.monotonic.since(start);
    assert!(late < millis(150), "committed without R1 after {late:?}");
    s.go_on(millis(100));
    assert!(s.is_suspect(1));
    s.ask_only(2, 0, "add 2");
    assert!(
        s.take(R0, R1, Command::Prepare).is_empty(),
        "R1 is left out"
    );
    s.net.lose.clear();
    s.go_on(millis(1000));
    assert!(!s.is_suspect(1), "R1 is back");
}

/// Prepares are lost on their way to the last of the chain, more than are sent again by themselves.
fn lost_prepares(s: &mut Stage) {
    let last = s.n() - 1;
    for other in 0..last {
        s.lose(other, last, &[Command::Prepare]);
    }
    for round in 1..9 {
        s.served_at(1, 0, &format!("add {round}"));
    }
    assert_eq!(s.op(last), s.base);
    s.net.lose.clear();
    s.until("the gap is closed", |s| s.op(last) == s.base + 8);
}

/// A prepare that follows another entry than the one that is held.
fn other_parent(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    let prepare = s.take(R0, R1, Command::Prepare);
    let other = forge_fields(&prepare[0], |prepare: &mut Prepare| {
        prepare.parent.checksum = vsr_types::Checksum::new(prepare.parent.checksum.raw() ^ 1);
    });
    s.late(R0, 1, &[other]);
    assert_eq!(s.op(1), s.base, "it belongs to another log");
}

/// R4.2: a heartbeat names another entry than the one that is committed here.
fn other_commit(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.go_on(millis(30));
    s.lose(0, 1, &[Command::Commit]);
    s.go_on(millis(12));
    let heartbeats = s.lost(0, 1, Command::Commit);
    let other = forge_fields(
        heartbeats.last().expect("a heartbeat"),
        |commit: &mut Commit| {
            commit.commit_checksum = vsr_types::Checksum::new(commit.commit_checksum.raw() ^ 1);
        },
    );
    s.late(R0, 1, &[other]);
    assert!(
        s.replicas[1].report().halted.is_some(),
        "one of the two is wrong: R1 stops"
    );
    s.halted.push(1);
}

/// Trace T24: R1 acknowledges and cannot execute, because an entry is damaged; its ring fills up.
fn ring_wrap(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, R1);
    let first = Op::new(s.base + 1);
    s.replicas[1].damage(first);
    // R2 keeps a whole copy of it, for the end.
    s.deliver(R1, R2);
    s.deliver(R2, R0);
    s.isolate(2);
    s.lose(1, 0, &[Command::GetPrepare, Command::GetState]);
    for round in 1..12_u8 {
        let client = 1 + round % 3;
        if s.is_told(client) {
            s.request_at(
                client,
                0,
                &char::from(b'a' + round).to_string().repeat(3000),
            );
        }
        s.go_on(millis(5));
        assert!(s.commit(0) <= s.op(1), "R1 holds what R0 and R1 committed");
    }
    assert_eq!(s.applied(1), s.base, "R1 has executed nothing");
    let refused = s.replicas[1].counters().drops(DropReason::JournalFull);
    assert!(refused > 0, "R1's ring is full");
    s.net.lose.clear();
    s.split(&[&[1, 2]]);
    s.until("R1 has the entry from R2 and goes on", |s| {
        s.applied(1) > s.base
    });
}

/// R0.3: numbers that nothing could have led to, in what only a view change sends.
fn poison(s: &mut Stage) {
    s.lose_everywhere(&[Command::DoViewChange, Command::StartView]);
    s.isolate(0);
    s.until("R1 and R2 have voted", |s| {
        !s.lost(2, 1, Command::DoViewChange).is_empty()
    });
    let vote = s.lost(2, 1, Command::DoViewChange).remove(0);
    let huge = u64::MAX / 2;
    let with_view = forge(&vote, |header| header.set_view(View::new(huge)));
    let with_op = forge_fields(&vote, |vote: &mut DoViewChange| vote.op = Op::new(huge));
    let mut body = vote[HEADER_SIZE..].to_vec();
    // The crash vector comes first in the body, a counter first in it: R0's.
    body[..8].copy_from_slice(&huge.to_le_bytes());
    let with_life = forge(&[&vote[..HEADER_SIZE], &body].concat(), |_| {});
    for (what, bytes) in [("view", with_view), ("op", with_op), ("life", with_life)] {
        let dropped = s.hand_over(R2, 1, &bytes);
        assert_eq!(dropped, Some(DropReason::ImplausibleNumber), "{what}");
    }
    s.net.lose.retain(|lose| lose.2 == Command::StartView);
    s.until_leads(1);
    let start = s.lost(1, 2, Command::StartView).remove(0);
    let with_op = forge_fields(&start, |start: &mut StartView| start.op = Op::new(huge));
    assert_eq!(
        s.hand_over(R1, 2, &with_op),
        Some(DropReason::ImplausibleNumber)
    );
}

/// N1: who executes when is nobody's business but the log's.
fn local_clocks(s: &mut Stage) {
    for round in 1..4 {
        s.served_at(1, 0, &format!("add {round}"));
        s.go_on(millis(7));
    }
}

const fn short_pipeline(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 2;
}

const fn small_ring(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 2;
    settings.journal_slots = 64;
    settings.batch_size_max = 4096;
    settings.journal_bytes = 4 * 4096;
}

scenarios! {
    s14_old_view_forward: old_view_forward, 3 Chain;
        marks [ViewsFollowed]; kills [OldPrepare];
    s14_old_view_forward_in_a_star: old_view_forward, 3 Star;
        marks [ViewsFollowed]; kills [OldPrepare];
    s14b_old_view_of_the_same_primary: old_view_of_the_same_primary, 3 Chain;
        marks [HandedOver]; kills [OldPrepare];
    s15_heartbeat_view_adoption: heartbeat_view_adoption, 3 Chain;
        marks [ViewsStarted]; kills [AdoptView];
    s17_old_prepare_ok: old_prepare_ok, 5 Star;
        marks [HandedOver]; kills [OldAcks];
    s19_header_ack: header_ack, 5 Chain;
        marks [ViewsStarted]; kills [AckHeaders];
    s19_header_ack_in_a_star: header_ack, 5 Star;
        marks [ViewsStarted]; kills [AckHeaders];
    s22_out_of_order_prepare: out_of_order, 3 Chain;
        marks [ViewsStarted]; kills [Gap];
    s23_commit_regress: commit_regress, 3 Star;
        marks [Appended]; kills [CommitFollows];
    s27_ring_wrap_slow_backup: ring_wrap, 3 Chain, small_ring;
        marks [DamagedEntries]; kills [WrapOver AckBeforeHeld];
    s33_duplicate_ok_counted: duplicate_ok, 5 Chain;
        marks [ViewsStarted]; kills [CountAcks];
    s33_duplicate_ok_counted_by_seven: duplicate_ok_of_seven, 7 Star;
        marks [ViewsStarted]; kills [CountAcks];
    s38_bad_hop: bad_hop, 3 Chain;
        marks [Suspected Rejoined]; kills [NeverSuspect];
    s38_bad_hop_of_five: bad_hop, 5 Chain;
        marks [Suspected Rejoined]; kills [NeverSuspect];
    s39_tail_ack_inference: tail_ack, 5 Chain;
        marks [ViewsStarted]; kills [TailAck];
    a_quorum_of_three_commits: too_few, 3 Chain;
        marks [ViewsStarted]; kills [SmallCommitQuorum ReplyBeforeCommit];
    a_quorum_of_five_commits: too_few, 5 Chain;
        marks [ViewsStarted]; kills [SmallCommitQuorum ReplyBeforeCommit];
    a_quorum_of_seven_commits: too_few, 7 Star;
        marks [ViewsStarted]; kills [SmallCommitQuorum ReplyBeforeCommit];
    the_primary_alone_commits_nothing: alone, 3 Star;
        marks [ViewsStarted]; kills [SmallCommitQuorum ReplyBeforeCommit];
    the_primary_alone_commits_nothing_in_five: alone, 5 Chain;
        marks [ViewsStarted]; kills [ReplyBeforeCommit];
    lost_prepares_are_fetched: lost_prepares, 3 Chain, short_pipeline;
        marks [RepairsAsked RepairsGiven]; kills [NothingFetched];
    lost_prepares_are_fetched_in_a_star: lost_prepares, 3 Star, short_pipeline;
        marks [RepairsAsked]; kills [NothingFetched];
    lost_prepares_are_fetched_by_five: lost_prepares, 5 Chain, short_pipeline;
        marks [RepairsAsked]; kills [NothingFetched];
    a_prepare_of_another_log_is_refused: other_parent, 3 Chain;
        marks [Appended]; kills [AnyParent];
    s56_cv_poison_in_a_view_change: poison, 3 Chain;
        marks [ViewsStarted]; kills [];
    nobody_looks_at_a_clock: local_clocks, 3 Chain;
        marks [Executed]; kills [LocalClock];
    another_committed_entry_stops_a_replica: other_commit, 3 Chain;
        marks [Executed]; kills [NoComparison];
}

/// As [`duplicate_ok`], of seven.
fn duplicate_ok_of_seven(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, R1);
    s.deliver(R0, R2);
    let second = s.take(R2, R0, Command::PrepareOk);
    let ok = s.take(R1, R0, Command::PrepareOk);
    s.late(R2, 0, &second);
    for _ in 0..4 {
        s.late(R1, 0, &ok);
    }
    s.deliver(R0, Node::Client(1));
    assert!(!s.is_told(1), "three of seven are no quorum");
    s.split(&[&[3, 4, 5, 6]]);
    s.until("the others go on", |s| (3..7).any(|r| s.leads(r)));
}
