//! What happens when an epoch's op numbers are used up: the log halts, goes on, or waits for an archive.

use vsr_consensus::{DropReason, Event, OnOpMax, Settings};
use vsr_types::message::RejectReason;
use vsr_types::{Command, Epoch, Op};

use crate::stage::{R0, R1, R2, Scenario, Shape, Stage, millis, scenarios};
use crate::support::{Answer, Node, forge};

/// Three sessions are open when a scene begins: two ops are left of the first epoch.
const fn five(settings: &mut Settings, mode: OnOpMax) {
    settings.op_max = 5;
    settings.on_op_max = mode;
}

const fn halt(settings: &mut Settings) {
    five(settings, OnOpMax::Halt);
}

const fn reset(settings: &mut Settings) {
    five(settings, OnOpMax::Reset);
}

const fn archive(settings: &mut Settings) {
    five(settings, OnOpMax::Archive);
}

impl Stage {
    fn archive_due(&self, replica: u8) -> Option<u64> {
        let report = self.replicas[usize::from(replica)].report();
        report.archive_due.map(Epoch::raw)
    }

    fn epoch(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].report().epoch.raw()
    }

    /// The log ends with the first epoch's last op, which everybody has executed.
    fn until_border(&mut self) {
        assert_eq!(self.base, 3, "three sessions");
        self.served_at(1, 0, "add 1");
        self.served_at(1, 0, "add 2");
        let n = self.n();
        self.until("the epoch has ended", |s| (0..n).all(|r| s.applied(r) == 5));
    }

    fn was_rejected(&self, client: u8, with: RejectReason) -> bool {
        let answers = &self.clients[usize::from(client)].answers;
        let is_it = |a: &Answer| matches!(a, Answer::Reject { reason, .. } if *reason == with);
        answers.iter().any(is_it)
    }
}

/// R10.1: operations are refused, reads go on.
fn op_limit(s: &mut Stage) {
    s.until_border();
    s.request_at(2, 0, "add 4");
    s.go_on(millis(30));
    assert!(s.was_rejected(2, RejectReason::Halted), "no number is left");
    s.client(2).waiting = false;
    s.query_at(3, 0, "total");
    s.until("c3 is answered", |s| !s.clients[3].reading);
    assert_eq!(s.client(3).text(), "3");
    assert_eq!((s.op(0), s.epoch(0)), (5, 0));
}

/// R10.2: one epoch after the other, with many ops in flight; every entry says which one it is of.
fn epochs_follow(s: &mut Stage) {
    for round in 0..8 {
        for client in 1..=3 {
            s.ask_only(
                client,
                0,
                &format!("add {}", 1 + round * 3 + u64::from(client)),
            );
        }
        s.until("all are served", |s| (1..=3).all(|c| s.is_told(c)));
    }
    assert!(s.op(0) >= 25, "five epochs: {}", s.op(0));
    for replica in 0..s.n() {
        let report = s.replicas[usize::from(replica)].report();
        assert_eq!(report.epoch.raw(), (s.op(replica) - 1) / 5);
        for op in 1..=s.op(replica) {
            let header = s.replicas[usize::from(replica)].log_header(Op::new(op));
            let epoch = header.expect("the ring holds them all").epoch();
            assert_eq!(epoch.raw(), (op - 1) / 5, "op {op} at R{replica}");
        }
    }
}

/// R10.2: a prepare that says another epoch than its op's is no prepare.
fn wrong_epoch(s: &mut Stage) {
    s.ask_only(1, 0, "add 1");
    let prepares = s.take(R0, R1, Command::Prepare);
    for epoch in [1, 7] {
        let forged = forge(&prepares[0], |h| h.set_epoch(Epoch::new(epoch)));
        let dropped = s.hand_over(R0, 1, &forged);
        assert_eq!(dropped, Some(DropReason::OtherEpoch));
    }
    s.late(R0, 1, &prepares);
    s.until("c1 is served", |s| s.is_told(1));
}

/// R10.2: who was away in the first epoch comes back in the fourth: repair knows no borders.
fn laggard(s: &mut Stage) {
    s.isolate(2);
    for round in 0..14 {
        s.served_at(1, 0, &format!("add {}", round + 1));
    }
    assert_eq!((s.epoch(0), s.epoch(2)), (3, 0));
    s.mend();
    s.until("R2 has caught up", |s| s.applied(2) == s.op(0));
    assert_eq!(s.epoch(2), 3);
}

/// The view changes exactly at the border, with an op beyond it that only the old primary has.
fn view_change_at_the_border(s: &mut Stage) {
    s.until_border();
    s.ask_only(1, 0, "add 3");
    assert_eq!((s.op(0), s.epoch(0)), (6, 1));
    s.isolate(0);
    s.until_leads(1);
    s.request_at(2, 1, "add 4");
    s.until("c2 is served", |s| s.is_told(2));
    assert_eq!((s.op(1), s.epoch(1)), (6, 1));
    s.mend();
    s.until("R0 follows", |s| s.view(0) == s.view(1) && s.op(0) >= 6);
}

/// R10.3: at the last op of an epoch everybody knows the digest.
fn digests_at_the_border(s: &mut Stage) {
    s.until_border();
    s.served_at(1, 0, "add 3");
    s.go_on(millis(30));
    let digests: Vec<_> = (0..s.n())
        .map(|r| s.replicas[usize::from(r)].digest_at(Op::new(5)))
        .collect();
    assert!(digests[0].is_some() && digests.iter().all(|digest| *digest == digests[0]));
}

/// R10.4: nothing is appended before the primary's node has archived; reads go on.
fn archived_first(s: &mut Stage) {
    s.until_border();
    s.request_at(1, 0, "add 3");
    s.go_on(millis(50));
    assert!(!s.is_told(1), "the epoch is not archived");
    assert_eq!(s.op(0), 5);
    assert_eq!(
        (s.archive_due(0), s.archive_due(1), s.archive_due(2)),
        (Some(0), None, None)
    );
    s.query_at(3, 0, "total");
    s.until("c3 is answered", |s| !s.clients[3].reading);
    assert_eq!(s.client(3).text(), "3");
    assert_eq!(
        s.archived(0, 1),
        Some(DropReason::OtherEpoch),
        "that one has not begun"
    );
    assert_eq!(
        s.archived(1, 0),
        Some(DropReason::OtherEpoch),
        "R1 was not asked"
    );
    assert_eq!(s.archived(0, 0), None);
    s.until("c1 is served", |s| s.is_told(1));
    assert_eq!((s.op(0), s.epoch(0), s.archive_due(0)), (6, 1, None));
}

/// R10.4: what the last primary may have archived does not count.
fn archived_again(s: &mut Stage) {
    s.until_border();
    s.isolate(0);
    s.until_leads(1);
    s.request_at(1, 1, "add 3");
    s.go_on(millis(50));
    assert!(!s.is_told(1), "R1 has not archived the epoch");
    assert_eq!(s.archive_due(1), Some(0));
    s.archived(1, 0);
    s.until("c1 is served", |s| s.is_told(1));
    s.mend();
    s.until("R0 follows", |s| s.view(0) == s.view(1));
    // Its node was slow, and the log goes on already.
    assert_eq!(s.archived(0, 0), Some(DropReason::OtherEpoch));
    s.order_hand_over(1, 0);
    s.until("R0 leads again", |s| s.leads(0) && s.view(0) > 0);
    assert_eq!(s.archive_due(0), None, "the border is behind it");
    s.served_at(2, 0, "add 4");
}

/// R10.4: the epoch's last op is in the log and nobody has acknowledged it.
fn not_executed(s: &mut Stage) {
    s.served_at(1, 0, "add 1");
    s.lose_everywhere(&[Command::PrepareOk]);
    s.ask_only(1, 0, "add 2");
    s.go_on(millis(20));
    assert_eq!((s.op(0), s.applied(0)), (5, 4));
    assert_eq!(s.archive_due(0), None, "its state is not there yet");
    s.net.lose.clear();
    s.until("it is committed", |s| s.applied(0) == 5);
    assert_eq!(s.archive_due(0), Some(0));
    s.archived(0, 0);
    s.until("c1 is served", |s| s.is_told(1));
}

/// R10.5: clients ask in vain for as long as it takes; nobody wants another primary for that.
fn long_wait(s: &mut Stage) {
    s.until_border();
    s.request_at(1, 1, "add 3");
    for round in 0..30 {
        s.go_on(millis(100));
        let at = 1 + round % (s.n() - 1);
        s.retry_at(1, at);
    }
    assert_eq!(s.view(0), 0, "R0 only waits");
    assert_eq!(s.archive_due(0), Some(0));
    s.archived(0, 0);
    s.until("c1 is served", |s| s.is_told(1));
    assert_eq!(s.counted(Event::ViewsLeft), 0);
}

/// R10.5: what waits is bounded, and who finds no room is told.
fn full_batch(s: &mut Stage) {
    s.until_border();
    for client in 1..=3 {
        s.request_at(client, 0, &"x".repeat(5500 + usize::from(client)));
        s.go_on(millis(5));
    }
    assert!(
        s.was_rejected(3, RejectReason::Busy),
        "two of them fill a batch"
    );
    assert_eq!(s.op(0), 5);
    s.archived(0, 0);
    s.until("two are served", |s| s.is_told(1) && s.is_told(2));
}

/// R10.5: a primary that waits may leave: what waits with it has no op yet.
fn hand_over_at_the_border(s: &mut Stage) {
    s.until_border();
    s.request_at(1, 0, "add 3");
    s.go_on(millis(5));
    s.order_hand_over(0, 1);
    s.until_leads(1);
    s.retry_at(1, 1);
    s.go_on(millis(20));
    assert_eq!((s.op(1), s.archive_due(1)), (5, Some(0)));
    s.archived(1, 0);
    s.until("c1 is served", |s| s.is_told(1));
}

/// A lone op at the border, and what was inherited beyond it: the log goes on, nobody archives again.
fn inherited_beyond(s: &mut Stage) {
    s.until_border();
    s.archived(0, 0);
    s.ask_only(1, 0, "add 3");
    s.deliver(R0, R1);
    s.take(R1, R2, Command::Prepare);
    s.isolate(0);
    s.until_leads(1);
    assert_eq!((s.op(1), s.archive_due(1)), (6, None));
    s.retry_at(1, 1);
    s.until("c1 is served", |s| s.is_told(1));
    s.deliver(R1, Node::Client(1));
}

scenarios! {
    s55_op_limit: op_limit, 3 Chain, halt;
        marks [EpochsEnded]; kills [BorderIgnored];
    s55_op_limit_of_five: op_limit, 5 Star, halt;
        marks [EpochsEnded]; kills [BorderIgnored];
    epochs_follow_one_another: epochs_follow, 3 Chain, reset;
        marks [EpochsEnded]; kills [HeadsEpoch];
    epochs_follow_one_another_of_five: epochs_follow, 5 Star, reset;
        marks [EpochsEnded]; kills [HeadsEpoch];
    a_wrong_epoch_is_refused: wrong_epoch, 3 Chain, reset;
        marks [Executed]; kills [EpochUnchecked];
    a_laggard_crosses_borders: laggard, 3 Chain, reset;
        marks [OlderEpochs RepairsGiven]; kills [];
    a_view_change_at_the_border: view_change_at_the_border, 3 Chain, reset;
        marks [ViewsStarted]; kills [];
    everybody_takes_a_digest_at_the_border: digests_at_the_border, 3 Chain, reset;
        marks [EpochsEnded]; kills [];
    an_epoch_is_archived_first: archived_first, 3 Chain, archive;
        marks [EpochsArchived]; kills [ArchiveUnawaited];
    an_epoch_is_archived_first_of_five: archived_first, 5 Star, archive;
        marks [EpochsArchived]; kills [ArchiveUnawaited];
    a_new_primary_archives_again: archived_again, 3 Chain, archive;
        marks [EpochsArchived HandedOver]; kills [ArchiveUnawaited ArchiveAssumed];
    what_is_not_executed_is_not_archived: not_executed, 3 Chain, archive;
        marks [EpochsArchived]; kills [ArchiveEarly];
    waiting_for_an_archive_deposes_nobody: long_wait, 3 Chain, archive;
        marks [EpochsArchived PassedOn]; kills [WaitDeposes];
    waiting_for_an_archive_deposes_nobody_of_five: long_wait, 5 Chain, archive;
        marks [EpochsArchived PassedOn]; kills [WaitDeposes];
    a_full_batch_at_the_border: full_batch, 3 Chain, archive;
        marks [EpochsArchived]; kills [];
    a_hand_over_at_the_border: hand_over_at_the_border, 3 Chain, archive;
        marks [EpochsArchived HandedOver]; kills [];
    what_is_inherited_beyond_a_border_was_archived: inherited_beyond, 3 Chain, archive;
        marks [ViewsStarted]; kills [];
}
