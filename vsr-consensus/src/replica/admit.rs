//! The one gate: who may say what to a replica in this status.
//!
//! Everything here is about the sender and the epoch; whether the content fits is for the handler to
//! say. Whatever does not pass is dropped, and dropping is data: counted by reason. Nothing here, or
//! behind it, may panic because of what a message says.

use vsr_types::message::{Command, Commit, DoViewChange, Prepare, StartView};
use vsr_types::{Frame, Incarnation, limits};

use super::{Replica, Status};
use crate::mutants::Mutant;
use crate::{DropReason, Outbox, StateMachine};

/// Whether a message was acted on.
pub(super) type Handled = Result<(), DropReason>;

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_message(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let may_put_back = frame.command() == Command::Prepare && self.may_put_back();
        if may_put_back && self.has_right_epoch(frame) && self.put_back(frame) {
            return Ok(());
        }
        if let Err(reason) = self.admit(frame, out) {
            if reason == DropReason::StaleIncarnation {
                self.tell_superseded(frame, out);
            }
            return Err(reason);
        }
        match frame.command() {
            Command::Request => self.on_request(frame, out),
            Command::Query => self.on_query(frame, out),
            Command::Prepare => self.on_prepare(frame, out),
            Command::PrepareOk => self.on_prepare_ok(frame, out),
            Command::Commit => self.on_commit(frame, out),
            Command::CommitOk => self.on_commit_ok(frame, out),
            Command::Ping => self.on_ping(frame, out),
            Command::Pong => self.on_pong(frame, out),
            Command::StartViewChange => self.on_start_view_change(frame, out),
            Command::DoViewChange => self.on_do_view_change(frame, out),
            Command::StartView => self.on_start_view(frame, out),
            Command::GetView => self.on_get_view(frame, out),
            Command::GetHeaders => self.on_get_headers(frame, out),
            Command::HandOver => self.on_hand_over(frame, out),
            Command::GetPrepare => self.on_get_prepare(frame, out),
            Command::Headers => self.on_headers(frame, out),
            Command::GetState => self.on_get_state(frame, out),
            Command::NewState => self.on_new_state(frame, out),
            Command::InitPropose => self.on_init_propose(frame, out),
            Command::InitCommit => self.on_init_commit(frame, out),
            Command::GetImage => self.on_get_image(frame, out),
            Command::PutImage => self.on_put_image(frame, out),
            // Reconfiguration has its layouts and will have its room.
            Command::IncarnationQuery => self.on_incarnation_query(frame, out),
            Command::IncarnationReply => self.on_incarnation_reply(frame, out),
            Command::RecoveryRequest => self.on_recovery_request(frame, out),
            Command::RecoveryResponse => self.on_recovery_response(frame, out),
            Command::RecoveryReject => self.on_recovery_reject(frame, out),
            Command::EpochReady => Err(DropReason::Unsupported),
            // The driver's business: it never hands these over.
            Command::Hello
            | Command::Welcome
            | Command::Refuse
            | Command::Reply
            | Command::Reject
            | Command::QueryReply
            | Command::InitAck
            | Command::InitResult
            | Command::HandOverResult
            | Command::Image
            | Command::PutImageResult
            | Command::Inspect
            | Command::InspectReply => Err(DropReason::NotForReplicas),
        }
    }

    /// R0.1 to R0.4.
    fn admit(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let command = frame.command();
        if Self::is_from_outside(command) {
            return Ok(());
        }
        self.admit_sender(frame)?;
        self.admit_epoch(frame)?;
        if command.is_outside_clusters() {
            // Pings say what a replica is before it shares anything with us.
            return Ok(());
        }
        self.admit_status(frame, out)
    }

    /// What a replica in this status hears at all (R0.4, R6.7).
    fn admit_status(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let command = frame.command();
        match self.status {
            Status::Normal => Ok(()),
            Status::ViewChange => match command {
                Command::Prepare | Command::Commit | Command::PrepareOk | Command::CommitOk => {
                    // Somebody takes part in a view: perhaps in the one that is waited for here.
                    if frame.header().view() >= self.view {
                        self.ask_view(frame.header().replica(), out);
                    }
                    Err(DropReason::WrongStatus)
                }
                _ => Ok(()),
            },
            Status::Recovering => match command {
                Command::RecoveryResponse
                | Command::RecoveryReject
                | Command::IncarnationReply
                | Command::Headers
                | Command::NewState => Ok(()),
                _ => Err(DropReason::WrongStatus),
            },
            // A halted replica takes part in nothing, but it still helps others to repair.
            Status::Halted(_) if command == Command::GetPrepare => Ok(()),
            Status::Halted(_) | Status::Blank(_) => Err(DropReason::WrongStatus),
        }
    }

    /// Whether this replica has entries whose bodies it may be given back.
    fn may_put_back(&self) -> bool {
        !matches!(self.status, Status::Blank(_) | Status::Halted(_))
    }

    /// Messages of clients and tools, or that carry their own proof.
    const fn is_from_outside(command: Command) -> bool {
        matches!(
            command,
            Command::Request
                | Command::Query
                | Command::InitPropose
                | Command::InitCommit
                | Command::HandOver
                | Command::GetImage
                | Command::PutImage
        )
    }

    /// Whether the sender is the replica it says it is, in its present life (R0.1).
    fn admit_sender(&mut self, frame: &Frame<'_>) -> Handled {
        let header = frame.header();
        let sender = header.replica();
        if sender == self.me() && frame.command() == Command::Prepare {
            // One of our own entries, relayed back to repair a damaged body.
            let is_ours = header.incarnation() == self.incarnation;
            return if is_ours {
                Ok(())
            } else {
                Err(DropReason::StaleIncarnation)
            };
        }
        if !sender.is_valid(self.config.replicas) || sender == self.me() {
            return Err(DropReason::NotAReplica);
        }
        self.admit_numbers(frame)?;
        if self.cluster.is_zero() || header.cluster() != self.cluster {
            // One of us belongs to no cluster: incarnations mean nothing between us, and `admit` lets
            // nothing pass that needs one.
            assert!(frame.command().is_outside_clusters() || self.cluster.is_zero());
            return Ok(());
        }
        if Self::is_before_registration(frame) {
            return Ok(());
        }
        let known = self.crash_vector.of(sender);
        let incarnation = header.incarnation();
        if incarnation < known && !self.is_off(Mutant::HearTheDead) {
            return Err(DropReason::StaleIncarnation);
        }
        if incarnation > known {
            // Knowing more is always safe: knowledge is only used to reject (R0.1).
            self.raise_incarnation(sender, incarnation)?;
        }
        if incarnation < known {
            return Ok(());
        }
        let member = &mut self.members[sender.as_usize()];
        if member.is_zero() {
            *member = header.member();
        }
        if *member != header.member() {
            return Err(DropReason::WrongMember);
        }
        self.note_alive(sender);
        Ok(())
    }

    pub(super) fn raise_incarnation(
        &mut self,
        sender: vsr_types::ReplicaIndex,
        incarnation: Incarnation,
    ) -> Handled {
        if incarnation.counter
            > self
                .crash_vector
                .of(sender)
                .counter
                .saturating_add(limits::LEAP_MAX)
        {
            return Err(DropReason::ImplausibleNumber);
        }
        let raised = self.crash_vector.raise(sender, incarnation);
        assert!(raised, "the caller saw a newer incarnation");
        self.members[sender.as_usize()] = vsr_types::MemberId::ZERO;
        // R2.4: what its former life acknowledged is not counted any more.
        self.links.forget(sender);
        Ok(())
    }

    /// R0.3: a number far ahead of ours is a flipped bit, not progress.
    fn admit_numbers(&self, frame: &Frame<'_>) -> Handled {
        let header = frame.header();
        // Who has no memory cannot tell how many epochs a cluster has behind it.
        let is_member = matches!(self.status, Status::Normal | Status::ViewChange);
        let leaps = |theirs: u64, ours: u64| theirs > ours.saturating_add(limits::LEAP_MAX);
        if leaps(header.view().raw(), self.view.raw())
            || (is_member && leaps(header.epoch().raw(), self.epoch().raw()))
        {
            return Err(DropReason::ImplausibleNumber);
        }
        let op = self.op().raw();
        let implausible = if let Some(prepare) = frame.fields::<Prepare>() {
            leaps(prepare.op.raw(), op) || leaps(prepare.commit.raw(), op)
        } else if let Some(commit) = frame.fields::<Commit>() {
            leaps(commit.op.raw(), op)
                || leaps(commit.commit.raw(), op)
                || leaps(commit.sequence, self.sequence)
        } else if let Some(vote) = frame.fields::<DoViewChange>() {
            leaps(vote.op.raw(), op)
        } else if let Some(start) = frame.fields::<StartView>() {
            leaps(start.op.raw(), op)
        } else {
            false
        };
        if implausible {
            Err(DropReason::ImplausibleNumber)
        } else {
            Ok(())
        }
    }

    /// Whether the message belongs to the view this replica is in, which leads its handler on.
    pub(super) fn admit_view(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let view = frame.header().view();
        if view < self.view {
            // N3, R2.2: the past decides nothing.
            return Err(DropReason::OlderView);
        }
        if view > self.view {
            self.cut_and_adopt_mutant(view);
            // R2.7: a newer view is learnt from its start_view, never adopted from another message.
            self.ask_view(frame.header().replica(), out);
            return Err(DropReason::NewerView);
        }
        Ok(())
    }

    /// Whether this replica is a backup and the message comes from its primary.
    pub(super) fn admit_from_primary(&self, frame: &Frame<'_>) -> Handled {
        if self.is_primary() || frame.header().replica() != self.primary() {
            return Err(DropReason::NotFromPrimary);
        }
        Ok(())
    }

    /// Whether this replica leads its view.
    pub(super) fn admit_at_primary(&self) -> Handled {
        if self.is_primary() {
            Ok(())
        } else {
            Err(DropReason::NotPrimary)
        }
    }
}
