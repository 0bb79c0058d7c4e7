//! What clients see when the primary changes under their hands.

use vsr_consensus::Event;
use vsr_types::message::RejectReason;
use vsr_types::{Command, Op};

use crate::stage::{R0, R1, Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Answer, Node};

/// Trace T23b: R1 has inherited the request and not yet executed it when the client asks again.
fn retry_across_view_change(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.deliver(R0, R1);
    s.isolate(0);
    s.lose_around(1, &[Command::PrepareOk]);
    s.until_leads(1);
    for _ in 0..3 {
        s.retry_at(1, 1);
        s.go_on(millis(5));
    }
    assert!(!s.is_told(1), "it is not committed in this view");
    s.net.lose.clear();
    s.until("c1 is served", |s| s.is_told(1));
    s.go_on(millis(50));
    assert_eq!(s.counted(Event::NoOps), 0, "it was prepared once");
}

/// Trace T23a: what R0 took in view 0 was dropped; R0 leads again, and is asked again.
fn table_at_prepare(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    s.isolate(0);
    let others: Vec<u8> = (2..s.n()).collect();
    s.until_follow(1, &others);
    s.mend();
    s.until("R0 follows", |s| s.view(0) == s.view(1));
    s.go_on(millis(150));
    s.order_hand_over(1, 0);
    s.until("R0 leads again", |s| s.leads(0) && s.view(0) > 0);
    s.retry_at(1, 0);
    s.until("c1 is served", |s| s.is_told(1));
}

/// Trace T30: op 1 was committed and its client told; the new primary has inherited it and does not
/// know that.
fn read_new_primary(s: &mut Stage) {
    // The pipeline is full of what is inherited, and that is not older than what is executed: nothing
    // but the rule makes the read wait.
    s.served_at(3, 0, "add 1");
    s.go_on(millis(2));
    s.only_r0_and_r1_know("add 5");
    s.isolate(0);
    s.lose_around(1, &[Command::PrepareOk]);
    s.until_leads(1);
    s.query_at(2, 1, "total");
    s.go_on(millis(30));
    assert!(
        s.clients[2].reading,
        "what was told before the read is not executed here yet"
    );
    s.net.lose.clear();
    s.until("c2 is answered", |s| !s.clients[2].reading);
    assert_eq!(s.client(2).text(), "6");
}

/// A read at a primary that has been replaced without knowing it.
fn read_old_primary(s: &mut Stage) {
    // What is executed is as new as the clock: the round is all that the read waits for.
    s.served_at(1, 0, "add 1");
    s.isolate(0);
    s.query_at(2, 0, "total");
    s.run();
    let others: Vec<u8> = (2..s.n()).collect();
    s.until_follow(1, &others);
    s.served_at(1, 1, "add 5");
    s.go_on(millis(20));
    let told_nothing = |answer: &Answer| !matches!(answer, Answer::Read { .. });
    assert!(
        s.clients[2].answers.iter().all(told_nothing),
        "R0 does not know what is committed"
    );
    s.mend();
    s.until("R0 follows", |s| s.view(0) == s.view(1));
    s.query_at(2, 0, "total");
    s.until("c2 is answered", |s| !s.clients[2].reading);
    assert_eq!(s.client(2).text(), "6", "R0 passes it on to who leads");
}

/// The same without any view change: half of a round proves nothing.
fn read_without_answers(s: &mut Stage) {
    s.served_at(1, 0, "add 5");
    for backup in 1..s.n() {
        s.lose(backup, 0, &[Command::CommitOk]);
    }
    s.query_at(2, 0, "total");
    s.go_on(millis(20));
    assert!(s.clients[2].reading, "nobody has confirmed that R0 leads");
    s.net.lose.clear();
    s.until("c2 is answered", |s| !s.clients[2].reading);
}

/// A session is opened by R0 and used at R1.
fn session_survives(s: &mut Stage) {
    s.register_at(4, 0);
    s.deliver(Node::Client(4), R0);
    s.deliver(R0, R1);
    s.deliver(R1, R0);
    s.deliver(R0, Node::Client(4));
    assert!(!s.client(4).waiting, "it has its session");
    s.isolate(0);
    s.until_leads(1);
    s.served_at(4, 1, "add 1");
    let refused = |answer: &Answer| matches!(answer, Answer::Reject { .. });
    assert!(!s.clients[4].answers.iter().any(refused));
}

/// A register is prepared by R0 and dropped: the same register opens the session at R1.
fn register_is_dropped(s: &mut Stage) {
    s.register_at(4, 0);
    s.deliver(Node::Client(4), R0);
    s.isolate(0);
    s.until_leads(1);
    s.retry_at(4, 1);
    s.until("c4 has its session", |s| !s.clients[4].waiting);
    s.served_at(4, 1, "add 1");
}

/// A register is inherited, and asked for again before it is executed: one session.
fn register_is_inherited(s: &mut Stage) {
    s.register_at(4, 0);
    s.deliver(Node::Client(4), R0);
    s.deliver(R0, R1);
    s.isolate(0);
    s.lose_around(1, &[Command::PrepareOk]);
    s.until_leads(1);
    for _ in 0..3 {
        s.retry_at(4, 1);
        s.go_on(millis(5));
    }
    s.net.lose.clear();
    s.until("c4 has its session", |s| !s.clients[4].waiting);
    s.served_at(4, 1, "add 1");
    assert_eq!(s.replicas[1].report().sessions, 4);
}

/// A client that was answered by R0 sends its next request to R1, which has not executed the last one.
fn next_request_is_early(s: &mut Stage) {
    s.only_r0_and_r1_know("add 1");
    s.isolate(0);
    s.lose_around(1, &[Command::PrepareOk]);
    s.until_leads(1);
    s.request_at(1, 1, "add 20");
    s.go_on(millis(10));
    let refused = |answer: &Answer| {
        matches!(
            answer,
            Answer::Reject {
                reason: RejectReason::Malformed,
                ..
            }
        )
    };
    assert!(
        !s.clients[1].answers.iter().any(refused),
        "the client has done nothing wrong"
    );
}

/// An answer is lost, and its primary with it: the next one tells it again.
fn answer_is_told_again(s: &mut Stage) {
    s.request_at(1, 0, "add 7");
    s.run();
    s.go_on(millis(0));
    let told = s.client(1).text();
    s.go_on(millis(20));
    s.client(1).waiting = true;
    let answers = s.client(1).answers.len();
    s.isolate(0);
    s.until_leads(1);
    s.retry_at(1, 1);
    s.until("c1 is told again", |s| s.is_told(1));
    assert_eq!(s.client(1).text(), told);
    assert_eq!(s.client(1).answers.len(), answers + 1);
    assert_eq!(s.operations(1), ["add 7"]);
}

/// N22: the last op number is used up just before the view changes.
fn op_max(s: &mut Stage) {
    let left = 10 - s.base;
    for round in 0..left {
        s.served_at(1, 0, &format!("add {}", round + 1));
    }
    s.isolate(0);
    s.until_leads(1);
    s.request_at(2, 1, "add 100");
    s.go_on(millis(20));
    let told = s.client(2).told().cloned();
    assert!(
        matches!(
            told,
            Some(Answer::Reject {
                reason: RejectReason::Halted,
                ..
            })
        ),
        "no op number is left: {told:?}"
    );
    assert_eq!(s.op(1), 10);
    s.client(2).waiting = false;
}

/// Requests reach replicas that are between two views: they are refused, and served afterwards.
fn asked_between_views(s: &mut Stage) {
    s.isolate(0);
    s.lose_everywhere(&[Command::StartView, Command::Ping, Command::Pong]);
    s.lose_everywhere(&[Command::PrepareOk]);
    s.until("R2 waits for the view", |s| {
        s.status(2) == vsr_types::message::PeerStatus::ViewChange
    });
    s.request_at(1, 2, "add 1");
    s.go_on(millis(2));
    let told = s.client(1).told().cloned();
    assert!(
        matches!(
            told,
            Some(Answer::Reject {
                reason: RejectReason::NotReady,
                ..
            })
        ),
        "between views nobody serves: {told:?}"
    );
}

/// The ring is full of what is not executed when the view changes.
fn full_ring(s: &mut Stage) {
    s.lose_everywhere(&[Command::PrepareOk]);
    for client in 1..=3 {
        s.request_at(client, 0, &"x".repeat(3000 + usize::from(client)));
        s.go_on(millis(1));
    }
    s.isolate(0);
    s.net.lose.clear();
    s.until_leads(1);
    s.until("what was in flight is executed", |s| {
        s.applied(1) == s.op(1)
    });
    s.mend();
    s.go_on(millis(100));
    for client in 1..=3 {
        s.retry_at(client, 1);
        s.until("it is served", |s| s.is_told(client));
    }
}

/// Many clients at once, a pipeline full of them, and the primary goes.
fn full_pipeline(s: &mut Stage) {
    for client in 4..20 {
        s.register_at(client, 0);
        s.go_on(millis(2));
    }
    s.go_on(millis(20));
    for client in 4..20 {
        s.ask_only(client, 0, &format!("add {client}"));
    }
    s.deliver(R0, R1);
    s.isolate(0);
    s.until_leads(1);
    for client in 4..20 {
        s.retry_at(client, 1);
        s.go_on(millis(1));
    }
    s.until("all are served", |s| (4..20).all(|c| s.is_told(c)));
    assert_eq!(s.counted(Event::NoOps), 0);
    assert_eq!(s.op(1), s.replicas[1].report().commit.raw());
    assert!(Op::new(s.op(1)) > Op::ZERO);
}

/// Trace T27: what view a client believes in is no reason to refuse it.
fn client_lockout(s: &mut Stage) {
    let mut frame = {
        let id = s.id();
        s.client(1).request(id, b"add 1")
    };
    let mut header = crate::support::header_of(&frame);
    header.set_view(vsr_types::View::new(4));
    let body = &frame[vsr_types::HEADER_SIZE..];
    let request = vsr_types::Request::first_in(body).expect("a request");
    header.seal_with(body.len(), request.header().checksum());
    frame[..vsr_types::HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
    s.put(Node::Client(1), 0, frame);
    s.until("c1 is served", |s| s.is_told(1));
}

const fn one_in_flight(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 1;
}

const fn ten_ops(settings: &mut vsr_consensus::Settings) {
    settings.pipeline = 2;
    settings.op_max = 10;
}

const fn tight_ring(settings: &mut vsr_consensus::Settings) {
    settings.batch_size_max = 4096;
    settings.journal_bytes = 4 * 4096;
    settings.pipeline = 4;
    settings.journal_slots = 16;
}

scenarios! {
    s24_retry_across_view_change: retry_across_view_change, 3 Chain;
        marks [ViewsStarted]; kills [PrepareTwice];
    s24_retry_across_view_change_in_a_star: retry_across_view_change, 3 Star;
        marks [ViewsStarted]; kills [PrepareTwice];
    s24_retry_across_view_change_of_five: retry_across_view_change, 5 Chain;
        marks [ViewsStarted]; kills [PrepareTwice];
    s25_table_at_prepare: table_at_prepare, 3 Chain;
        marks [HandedOver]; kills [TableAtPrepare];
    s25_table_at_prepare_of_five: table_at_prepare, 5 Star;
        marks [HandedOver]; kills [TableAtPrepare];
    s48_read_new_primary: read_new_primary, 3 Chain, one_in_flight;
        marks [QueriesAnswered]; kills [ReadTooEarly];
    s49_read_isolated_primary: read_without_answers, 3 Chain;
        marks [QueriesAnswered]; kills [ReadWithoutRound];
    s49_read_isolated_primary_of_five: read_without_answers, 5 Star;
        marks [QueriesAnswered]; kills [ReadWithoutRound];
    a_read_at_the_old_primary: read_old_primary, 3 Chain;
        marks [QueriesAnswered]; kills [ReadWithoutRound];
    a_read_at_the_old_primary_of_five: read_old_primary, 5 Chain;
        marks [QueriesAnswered]; kills [ReadWithoutRound];
    s46_client_lockout: client_lockout, 3 Chain;
        marks [Executed]; kills [];
    a_session_survives_its_primary: session_survives, 3 Chain;
        marks [ViewsStarted]; kills [];
    a_register_that_was_dropped_is_made_again: register_is_dropped, 3 Chain;
        marks [SessionsOpened]; kills [];
    a_register_that_was_inherited_opens_one_session: register_is_inherited, 3 Chain;
        marks [SessionsOpened]; kills [];
    a_request_that_is_early_is_not_refused: next_request_is_early, 3 Chain;
        marks [ViewsStarted]; kills [];
    an_answer_is_told_again_by_the_next_primary: answer_is_told_again, 3 Chain;
        marks [ViewsStarted]; kills [];
    the_last_op_before_a_view_change: op_max, 3 Chain, ten_ops;
        marks [ViewsStarted]; kills [];
    between_views_nobody_serves: asked_between_views, 3 Chain;
        marks [ViewsStarted]; kills [];
    a_full_ring_in_a_view_change: full_ring, 3 Chain, tight_ring;
        marks [ViewsStarted]; kills [];
    a_full_pipeline_in_a_view_change: full_pipeline, 3 Chain;
        marks [ViewsStarted]; kills [];
    a_full_pipeline_in_a_view_change_of_five: full_pipeline, 5 Star;
        marks [ViewsStarted]; kills [];
}
