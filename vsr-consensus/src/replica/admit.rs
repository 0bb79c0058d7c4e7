//! The one gate: who may say what to a replica in this status.
//!
//! Everything here is about the sender and the epoch; whether the content fits is for the handler to
//! say. Whatever does not pass is dropped, and dropping is data: counted by reason. Nothing here, or
//! behind it, may panic because of what a message says.

use vsr_types::message::{Command, Commit, Prepare};
use vsr_types::{Frame, Incarnation, limits};

use super::{Replica, Status};
use crate::{DropReason, Outbox, StateMachine};

/// Whether a message was acted on.
pub(super) type Handled = Result<(), DropReason>;

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_message(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        self.admit(frame)?;
        match frame.command() {
            Command::Request => self.on_request(frame, out),
            Command::Query => self.on_query(frame, out),
            Command::Prepare => self.on_prepare(frame, out),
            Command::PrepareOk => self.on_prepare_ok(frame, out),
            Command::Commit => self.on_commit(frame, out),
            Command::CommitOk => self.on_commit_ok(frame),
            Command::Ping => self.on_ping(frame, out),
            Command::Pong => self.on_pong(frame),
            Command::GetPrepare => self.on_get_prepare(frame, out),
            Command::Headers => self.on_headers(frame, out),
            Command::InitPropose => self.on_init_propose(frame, out),
            Command::InitCommit => self.on_init_commit(frame, out),
            // View change, recovery, transfer and reconfiguration have their layouts and will have
            // their rooms.
            Command::StartViewChange
            | Command::DoViewChange
            | Command::StartView
            | Command::GetView
            | Command::GetHeaders
            | Command::IncarnationQuery
            | Command::IncarnationReply
            | Command::RecoveryRequest
            | Command::RecoveryResponse
            | Command::RecoveryReject
            | Command::GetState
            | Command::NewState
            | Command::EpochReady => Err(DropReason::Unsupported),
            // The driver's business: it never hands these over.
            Command::Hello
            | Command::Welcome
            | Command::Refuse
            | Command::Reply
            | Command::Reject
            | Command::QueryReply
            | Command::InitAck
            | Command::InitResult
            | Command::Inspect
            | Command::InspectReply => Err(DropReason::NotForReplicas),
        }
    }

    /// R0.1 to R0.4.
    fn admit(&mut self, frame: &Frame<'_>) -> Handled {
        let command = frame.command();
        if Self::is_from_outside(command) {
            return Ok(());
        }
        self.admit_sender(frame)?;
        if command.is_outside_clusters() {
            // Pings say what a replica is before it shares anything with us.
            return Ok(());
        }
        // R0.4: a blank replica takes part in nothing. A halted one neither, but it still helps
        // others to repair.
        match self.status {
            Status::Normal => {}
            Status::Halted(_) if command == Command::GetPrepare => {}
            Status::Halted(_) | Status::Blank(_) => return Err(DropReason::WrongStatus),
        }
        if frame.header().epoch() != self.epoch {
            return Err(DropReason::OtherEpoch);
        }
        Ok(())
    }

    /// Messages of clients and tools, or that carry their own proof.
    const fn is_from_outside(command: Command) -> bool {
        matches!(
            command,
            Command::Request | Command::Query | Command::InitPropose | Command::InitCommit
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
        let known = self.crash_vector.of(sender);
        let incarnation = header.incarnation();
        if incarnation < known {
            return Err(DropReason::StaleIncarnation);
        }
        if incarnation > known {
            // Knowing more is always safe: knowledge is only used to reject (R0.1).
            self.raise_incarnation(sender, incarnation)?;
        }
        let member = &mut self.members[sender.as_usize()];
        if member.is_zero() {
            *member = header.member();
        }
        if *member != header.member() {
            return Err(DropReason::WrongMember);
        }
        Ok(())
    }

    fn raise_incarnation(
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
        let leaps = |theirs: u64, ours: u64| theirs > ours.saturating_add(limits::LEAP_MAX);
        if leaps(header.view().raw(), self.view.raw())
            || leaps(header.epoch().raw(), self.epoch.raw())
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
    pub(super) fn admit_view(&self, frame: &Frame<'_>) -> Handled {
        let view = frame.header().view();
        if view < self.view {
            // N3, R2.2: the past decides nothing.
            return Err(DropReason::OlderView);
        }
        if view > self.view {
            // R2.7: a newer view is learnt from its start_view, never adopted from another message.
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
