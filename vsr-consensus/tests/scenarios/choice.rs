//! What survives into the next view, and what must not.

use vsr_types::Command;
use vsr_types::message::{DoViewChange, PeerStatus};

use crate::stage::{R0, R1, Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Node, header_of};

/// R1 starts view 1 with R0's vote, which is what R0 never hears of. R2 hears nothing at all.
fn r1_leads_behind_r0s_back(s: &mut Stage) {
    s.split(&[&[0, 1]]);
    s.lose(0, 1, &[Command::Commit]);
    s.lose(
        1,
        0,
        &[
            Command::CommitOk,
            Command::Pong,
            Command::PrepareOk,
            Command::StartView,
        ],
    );
    s.until_leads(1);
    assert_eq!(s.status(0), PeerStatus::ViewChange, "R0 waits for the view");
    assert_eq!(s.view(2), 0, "R2 has heard nothing");
}

/// Trace T12: what R2 hears of view 1 is no reason to call its own log view 1's.
fn state_transfer(s: &mut Stage) {
    s.isolate(2);
    s.served_at(1, 0, "add 1");
    r1_leads_behind_r0s_back(s);
    s.lose(1, 2, &[Command::Commit]);
    s.split(&[&[0, 1], &[1, 2]]);
    s.tick(millis(20));
    s.isolate(1);
    let heartbeats = s.lost(1, 2, Command::Commit);
    assert!(!heartbeats.is_empty(), "R1 leads");
    s.late(R1, 2, &heartbeats[..1]);
    assert_eq!(s.op(2), s.base);
    s.until_leads(2);
    assert_eq!(s.operations(2), ["add 1"]);
}

/// Trace T13: R1's start of view 1 arrives twice at R0, the second time after R0 acknowledged more.
fn duplicate_start_view(s: &mut Stage) {
    s.isolate(0);
    s.until_follow(1, &[2]);
    s.lose(1, 0, &[Command::StartView]);
    s.split(&[&[0, 1]]);
    s.until("R1 tells R0", |s| {
        !s.lost(1, 0, Command::StartView).is_empty()
    });
    let start = s.lost(1, 0, Command::StartView)[0].clone();
    s.late(R1, 0, std::slice::from_ref(&start));
    assert_eq!((s.view(0), s.status(0)), (1, PeerStatus::Normal));
    s.run();
    s.ask_only(1, 1, "add 1");
    s.deliver(R1, R0);
    assert_eq!(
        s.op(0),
        s.base + 1,
        "R0 holds it, and its acknowledgement is on its way"
    );
    s.late(R1, 0, &[start]);
    s.deliver(R0, R1);
    assert_eq!(s.commit(1), s.base + 1, "committed by R0 and R1");
    s.deliver(R1, Node::Client(1));
    s.isolate(1);
    s.until_leads(2);
}

/// Trace T16: R0's log is longer, R2's is newer.
fn longer_log(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.ask_only(2, 0, "add 2");
    s.isolate(0);
    s.until_follow(1, &[2]);
    s.served_at(3, 1, "add 30");
    s.lose(2, 0, &[Command::StartView]);
    s.isolate(1);
    s.until_leads(2);
    assert_eq!(
        s.op(2),
        s.base + 1,
        "what view 1 committed, not what R0 prepared"
    );
}

/// Trace T18: R2 knows of op 1 from the start of view 1, by its header only.
fn start_view_headers(s: &mut Stage) {
    s.isolate(2);
    s.served_at(1, 0, "add 1");
    s.lose(1, 2, &[Command::StartView, Command::Prepare]);
    r1_leads_behind_r0s_back(s);
    let start = s.lost(1, 2, Command::StartView);
    s.late(R1, 2, &start[..1]);
    assert_eq!(
        (s.view(2), s.op(2)),
        (1, s.base + 1),
        "the header is there, the body is not"
    );
    s.lose(0, 2, &[Command::Prepare]);
    s.lose(2, 0, &[Command::StartView]);
    s.isolate(1);
    s.until("R2 votes", |s| s.view(2) == 2);
    s.net.lose.clear();
    s.until_leads(2);
}

/// The same with five: the only bodies are R2's, which never heard of view 1; R0 and R1 are gone.
fn start_view_headers_of_five(s: &mut Stage) {
    s.only_r0_r1_and_r2_know("add 1");
    s.stopped[0] = true;
    for backup in [3, 4] {
        s.lose(1, backup, &[Command::Prepare]);
        s.lose(2, backup, &[Command::Prepare]);
        s.lose(backup, 2, &[Command::StartView]);
    }
    s.lose(1, 2, &[Command::StartView]);
    s.until_follow(1, &[3, 4]);
    assert_eq!(
        (s.op(3), s.op(4)),
        (s.base + 1, s.base + 1),
        "the headers are there"
    );
    s.split(&[&[2, 3, 4]]);
    s.until("R2 votes", |s| s.view(2) == 2);
    s.net.lose.retain(|lose| lose.2 != Command::Prepare);
    s.until_leads(2);
}

/// Trace T20b: R2's copy is damaged, and view 1 begins without any body reaching R2, R3 or R4.
fn fault_mark(s: &mut Stage) {
    let base = s.base;
    s.only_r0_r1_and_r2_know("add 1");
    s.stopped[0] = true;
    s.replicas[2].damage(vsr_types::Op::new(base + 1));
    for backup in [2, 3, 4] {
        s.lose(1, backup, &[Command::Prepare]);
    }
    s.until_follow(1, &[2, 3, 4]);
    s.split(&[&[2, 3, 4]]);
    s.go_on(millis(1500));
    assert!(
        (2..5).all(|r| !s.leads(r)),
        "R2 may have acknowledged it: nobody decides"
    );
}

/// Trace T20a: two of three are there, and the only copy among them is damaged.
fn corrupt_committed(s: &mut Stage) {
    let base = s.base;
    s.only_r0_and_r1_know("add 1");
    s.stopped[0] = true;
    s.replicas[1].damage(vsr_types::Op::new(base + 1));
    s.go_on(millis(600));
    assert!(
        !s.leads(1) && !s.leads(2),
        "nobody can know whether it was committed"
    );
    s.stopped[0] = false;
}

/// R5.6: what the elect takes over is its log from then on, of the view that it was about to start.
fn canonical_then_next_view(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.take(R0, R1, Command::Prepare);
    // R1 chooses R0's log, but does not get the body of its last entry.
    s.isolate(2);
    s.lose(0, 1, &[Command::Commit, Command::Prepare]);
    s.lose(
        1,
        0,
        &[Command::CommitOk, Command::Pong, Command::PrepareOk],
    );
    s.until("R1 takes the log over", |s| s.op(1) == s.base + 1);
    assert_eq!(s.status(1), PeerStatus::ViewChange);
    s.lose(1, 2, &[Command::DoViewChange]);
    s.isolate(0);
    s.until("R1 votes for view 2", |s| s.view(1) == 2);
    let votes = s.lost(1, 2, Command::DoViewChange);
    let vote = header_of(votes.last().expect("a vote"));
    let vote: &DoViewChange = vote.fields().expect("a vote");
    assert_eq!((vote.log_view.raw(), vote.op.raw()), (1, s.base + 1));
}

scenarios! {
    s12_vrr_state_transfer: state_transfer, 3 Chain;
        marks [ViewsStarted]; kills [CutAndAdopt];
    s13_duplicate_sv: duplicate_start_view, 3 Star;
        marks [ViewsFollowed]; kills [StartViewTwice];
    s16_op_reuse_longer_log: longer_log, 3 Chain;
        marks [ViewsStarted]; kills [LongestLog];
    s16_op_reuse_longer_log_in_a_star: longer_log, 3 Star;
        marks [ViewsStarted]; kills [LongestLog KeepDivergent];
    s18_sv_headers_lost: start_view_headers, 3 Chain;
        marks [ViewsStarted]; kills [ForgetHeaders];
    s18_sv_headers_lost_of_five: start_view_headers_of_five, 5 Chain;
        marks [ViewsStarted ViewsFollowed]; kills [ForgetHeaders];
    s21_fault_mark: fault_mark, 5 Chain;
        marks [Undecided ViewsFollowed]; kills [NackFaulty DropUnheld];
    s20_corrupt_committed: corrupt_committed, 3 Chain;
        marks [Undecided]; kills [DropUnheld NackFaulty];
    s29_canonical_then_next_view: canonical_then_next_view, 3 Chain;
        marks [ViewsLeft]; kills [LateLogView];
}
