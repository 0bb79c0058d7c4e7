//! The one way out: the mirror of `admit`.
//!
//! What may leave a replica in which status is asserted here a second time, per kind of message, so
//! that a handler that forgets a condition stops the process instead of breaking a promise (N29).

use vsr_types::message::{Command, Prepare};
use vsr_types::{
    ClientId, ClusterId, Epoch, Header, Incarnation, MemberId, Message, ReplicaIndex, View,
};

use super::{Replica, Status};
use crate::counters::{Counters, Event};
use crate::mutants::Mutant;
use crate::{Outbox, Sent, StateMachine};

/// Everything that a header says about its sender. Copied out so that a header can be made while
/// other parts of the replica are borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letterhead {
    cluster: ClusterId,
    replica: ReplicaIndex,
    member: MemberId,
    incarnation: Incarnation,
    epoch: Epoch,
    view: View,
}

impl Letterhead {
    /// For entries: they have the epoch of their op (R10.2).
    pub(super) const fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// For messages that speak of another view than the sender's.
    pub(super) const fn set_view(&mut self, view: View) {
        self.view = view;
    }

    /// A header for `fields`, not sealed yet.
    pub(super) fn header<M: Message>(&self, fields: M) -> Header {
        let mut header = Header::new(fields);
        header.set_cluster(self.cluster);
        header.set_sender(self.replica, self.member, self.incarnation);
        header.set_epoch(self.epoch);
        header.set_view(self.view);
        header
    }

    /// A sealed header for `fields` and `body`.
    pub(super) fn sealed<M: Message>(&self, fields: M, body: &[u8]) -> Header {
        let mut header = self.header(fields);
        header.seal(body);
        header
    }
}

impl<S: StateMachine> Replica<S> {
    pub(super) fn letterhead(&self) -> Letterhead {
        Letterhead {
            cluster: self.cluster,
            replica: self.me(),
            member: self.boot.member,
            incarnation: self.incarnation,
            epoch: self.epoch(),
            view: self.view,
        }
    }

    /// Sends a message of this replica's own making to another replica.
    pub(super) fn send<M: Message>(
        &mut self,
        out: &mut impl Outbox,
        to: ReplicaIndex,
        fields: M,
        body: &[u8],
    ) -> Sent {
        let header = self.letterhead().sealed(fields, body);
        self.send_to_peer(out, to, &header, body)
    }

    /// Sends a finished frame to another replica: the exit that everything for peers passes.
    pub(super) fn send_to_peer(
        &mut self,
        out: &mut impl Outbox,
        to: ReplicaIndex,
        header: &Header,
        body: &[u8],
    ) -> Sent {
        assert!(to != self.me(), "a message to oneself is a function call");
        assert!(
            to.is_valid(self.config.replicas),
            "messages go to members of the cluster"
        );
        let command = header
            .command()
            .expect("a header of our own has a known command");
        self.assert_may_leave(command, header);
        self.counters.sent(command);
        let sent = out.peer(to, header, body);
        if sent == Sent::Dropped {
            self.counters.count(Event::OutboxDropped);
        }
        sent
    }

    /// What a replica in this status may say (R6.7, I6, I22).
    fn assert_may_leave(&self, command: Command, header: &Header) {
        match command {
            // A blank replica says what it is and nothing else.
            Command::Ping | Command::Pong => {}
            Command::Prepare => {
                // Ours, relayed, or given to repair: never while blank. Byte-identical when relayed,
                // which the journal's checksums vouch for.
                self.assert_is_donor();
                assert!(
                    header.view() <= self.view,
                    "an entry is not from the future"
                );
                self.assert_right_epoch(header);
            }
            Command::PrepareOk => {
                assert!(
                    self.is_normal(),
                    "only a normal replica acknowledges (R2.3)"
                );
                assert!(!self.is_primary(), "acknowledgements go to the primary");
                assert!(
                    header.view() == self.view,
                    "for the current view only (R2.3)"
                );
                assert!(self.log_view == self.view, "for this view's log only (I6)");
            }
            Command::Commit => {
                assert!(
                    self.is_normal() && self.is_primary(),
                    "only a primary leads"
                );
            }
            Command::CommitOk => {
                assert!(
                    self.is_normal() && !self.is_primary(),
                    "only a backup follows"
                );
            }
            Command::GetPrepare | Command::GetHeaders | Command::GetState => {
                assert!(
                    !matches!(self.status, Status::Blank(_) | Status::Halted(_)),
                    "only a member of a cluster asks"
                );
            }
            Command::InitCommit | Command::Request | Command::Query => {
                assert!(
                    self.is_normal(),
                    "only a member of a cluster asks or passes on"
                );
            }
            Command::Headers => self.assert_is_donor(),
            Command::NewState => self.assert_has_state(),
            Command::StartViewChange
            | Command::DoViewChange
            | Command::StartView
            | Command::GetView => self.assert_view_change_may_leave(command, header),
            Command::IncarnationQuery
            | Command::RecoveryRequest
            | Command::IncarnationReply
            | Command::RecoveryResponse
            | Command::RecoveryReject => self.assert_recovery_may_leave(command),
            other => unreachable!("{} does not leave this version", other.name()),
        }
    }

    /// What of a view change a replica in this status may say.
    fn assert_view_change_may_leave(&self, command: Command, header: &Header) {
        let is_member = matches!(self.status, Status::Normal | Status::ViewChange);
        assert!(is_member, "only a member takes part in views (R6.7)");
        let view = header.view();
        match command {
            Command::StartViewChange => {
                assert!(view > self.view, "a vote is for a newer view");
            }
            Command::DoViewChange => {
                assert!(
                    self.status == Status::ViewChange && view == self.view,
                    "a log is offered for the view that is being started (R5.2)"
                );
            }
            Command::StartView => {
                assert!(
                    self.is_normal() && self.log_view == self.view,
                    "only a view that has started is told (R5.8)"
                );
            }
            _ => assert!(command == Command::GetView, "the caller sorted them"),
        }
    }
}

impl<S: StateMachine> Replica<S> {
    /// R10.2: what is prepared, passed on or given has the epoch of its op.
    fn assert_right_epoch(&self, header: &Header) {
        let op = header.fields::<Prepare>().map(|prepare| prepare.op);
        let epoch = op.map(|op| self.op_max().epoch(op));
        assert!(
            epoch == Some(header.epoch())
                || self.is_off(Mutant::HeadsEpoch)
                || self.is_off(Mutant::EpochUnchecked),
            "an entry has the epoch of its op (R10.2)"
        );
    }

    /// R6.7, R8.5: only who takes part and has a state gives it.
    fn assert_has_state(&self) {
        assert!(
            self.is_normal() && self.gives_state(),
            "what is not a state is not given"
        );
    }

    /// R6.7, R8.4: who has lost its memory has nothing to give.
    fn assert_is_donor(&self) {
        assert!(
            !matches!(self.status, Status::Blank(_) | Status::Recovering),
            "a replica without memory has no log to show"
        );
    }
}

/// Sends a sealed message to a client. A function and not a method: it is called while the journal
/// and the sessions are borrowed.
pub(super) fn send_to_client(
    counters: &mut Counters,
    out: &mut impl Outbox,
    to: ClientId,
    header: &Header,
    body: &[u8],
) {
    let command = header
        .command()
        .expect("a header of our own has a known command");
    assert!(
        matches!(
            command,
            Command::Reply | Command::Reject | Command::QueryReply
        ),
        "clients hear replies only"
    );
    counters.sent(command);
    if out.client(to, header, body) == Sent::Dropped {
        // The client will ask again.
        counters.count(Event::OutboxDropped);
    }
}
