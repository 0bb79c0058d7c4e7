//! Epochs: what the log does when an epoch's op numbers are used up (N22, R10.1 to R10.5).
//!
//! There is one sequence of ops; an epoch is a name for `op_max` of them in a row ([`OpMax`]). Nothing is
//! cleared, sealed or certified at a border: the op behind it is the next op, with the last one as its
//! parent, and replicas that lag, recover or take over a state cross the border like any other op. What is
//! special about it is decided in one place, where the primary appends:
//!
//! | the operator chose | behind the last op of an epoch |
//! | --- | --- |
//! | halt | nothing is appended any more; reads go on |
//! | reset | the next op, at once |
//! | archive | the next op, once this primary's node has archived the state ([`Report::archive_due`]) |
//!
//! [`Report::archive_due`]: crate::Report::archive_due

use vsr_types::message::{Command, Commit, CommitOk, Ping, Pong, Prepare};
use vsr_types::{Epoch, Frame, Op, OpMax, limits};

use super::Replica;
use super::admit::Handled;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{DropReason, OnOpMax, StateMachine};

impl<S: StateMachine> Replica<S> {
    /// How ops are named.
    #[must_use]
    pub fn op_max(&self) -> OpMax {
        self.config.epochs()
    }

    /// The epoch of the last op in the log: what every message says of its sender (R10.2).
    pub(super) fn epoch(&self) -> Epoch {
        self.op_max().epoch(self.op())
    }

    /// Whether no op can ever be appended any more (R10.1).
    pub(super) fn is_used_up(&self) -> bool {
        let head = self.op();
        let is_last = self.config.on_op_max == OnOpMax::Halt && self.op_max().is_border(head);
        head.raw() >= limits::NUMBER_MAX || (is_last && !self.is_off(Mutant::BorderIgnored))
    }

    /// Whether the primary may append the op behind its head: the one place where a border counts.
    pub(super) fn may_append(&self) -> bool {
        !self.is_used_up() && !self.waits_at_border()
    }

    /// R10.4: whether the log ends with an epoch whose state its primary has not archived. What is asked
    /// for meanwhile waits in the open batch.
    pub(super) fn waits_at_border(&self) -> bool {
        let head = self.op();
        self.config.on_op_max == OnOpMax::Archive
            && self.op_max().is_border(head)
            && self.archived < head
            && !self.is_off(Mutant::ArchiveUnawaited)
            && !(self.is_off(Mutant::ArchiveAssumed) && self.inherited.head() == head)
    }

    /// R10.4: the epoch that this replica's node is to archive now: it leads, has executed everything up
    /// to the epoch's last op and nothing behind it, and its state is sound. As long as that is so the
    /// state does not change.
    #[must_use]
    pub fn archive_due(&self) -> Option<Epoch> {
        let is_at_border = self.applied == self.op() || self.is_off(Mutant::ArchiveEarly);
        let is_due = self.is_normal()
            && self.is_primary()
            && self.waits_at_border()
            && is_at_border
            && self.has_state()
            && !self.is_blocked();
        is_due.then(|| self.epoch())
    }

    /// R10.4: the node has archived the state that `epoch` ended with. An answer to what is not asked any
    /// more changes nothing: this replica was deposed meanwhile, or the log goes on already.
    pub(super) fn on_archived(&mut self, epoch: Epoch) -> Handled {
        if self.archive_due() != Some(epoch) {
            return Err(DropReason::OtherEpoch);
        }
        self.archived = self.op();
        self.counters.count(Event::EpochsArchived);
        Ok(())
    }

    /// Whether the primary may be waiting for an archive, as far as a backup can tell: then clients wait
    /// as well, and that is no reason to depose it (R10.5). Once more is known to be committed or held, it
    /// does not wait.
    pub(super) fn primary_may_wait(&self) -> bool {
        let known = self.op().max(self.commit);
        self.config.on_op_max == OnOpMax::Archive
            && self.op_max().is_border(known)
            && !self.is_off(Mutant::WaitDeposes)
    }

    /// R10.2: whether what a message says of its epoch fits the op that it is about. A prepare has the
    /// epoch of its op, whoever passes it on; whoever tells where its log ends has the epoch of that end.
    pub(super) fn has_right_epoch(&self, frame: &Frame<'_>) -> bool {
        let op = match frame.command() {
            Command::Prepare => frame.fields::<Prepare>().map(|m| m.op),
            Command::Commit => frame.fields::<Commit>().map(|m| m.op),
            Command::CommitOk => frame.fields::<CommitOk>().map(|m| m.op),
            Command::Ping => frame.fields::<Ping>().map(|m| m.op),
            Command::Pong => frame.fields::<Pong>().map(|m| m.op),
            _ => None,
        };
        let epoch = frame.header().epoch();
        op.is_none_or(|op| self.op_max().epoch(op) == epoch) || self.is_off(Mutant::EpochUnchecked)
    }

    /// R10.2: refuses what contradicts itself, and notes who lags by an epoch. Such a message is as good
    /// as any: there is one sequence of ops, and who is behind asks, acknowledges and votes in it.
    pub(super) fn admit_epoch(&mut self, frame: &Frame<'_>) -> Handled {
        if !self.has_right_epoch(frame) {
            return Err(DropReason::OtherEpoch);
        }
        if frame.header().epoch() < self.epoch() {
            self.counters.count(Event::OlderEpochs);
        }
        Ok(())
    }

    /// What holds of epochs at any time, whatever came in (N29).
    pub(super) fn check_epochs(&self) {
        // R10.1, the second lock: what is prepared has a number.
        assert!(self.op().raw() <= limits::NUMBER_MAX, "no number wraps");
        // R10.4.
        let before = self.sealed.as_ref().expect("sealed when the step began");
        assert!(
            self.archived >= before.archived,
            "what is archived stays archived"
        );
        assert!(
            self.archived <= self.applied || self.is_off(Mutant::ArchiveEarly),
            "what is archived was executed"
        );
        assert!(
            self.archived == Op::ZERO || self.op_max().is_border(self.archived),
            "what is archived ended an epoch"
        );
    }

    /// The op that was executed last ended an epoch: every replica takes a digest there (R10.3).
    pub(super) fn is_epoch_executed(&self) -> bool {
        self.op_max().is_border(self.applied) && self.applied > Op::ZERO
    }
}
