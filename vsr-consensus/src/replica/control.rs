//! The numbers that the protocol's promises rest on, kept twice (R6.8, N19).
//!
//! View, log view, incarnation, commit number, what was acknowledged: a bit that flips in one of them is a
//! broken promise, and no message of a peer would show it. So every step ends with a copy of all of them
//! and begins with a comparison. If they differ, nobody can tell which one is right, nor what else is
//! wrong: the replica says and does nothing any more. Its driver ends the process, or makes a new replica;
//! either way a new life begins that has lost its memory and recovers like any other.
//!
//! Two copies and not a checksum: comparing and copying some hundred bytes is cheaper than hashing them
//! twice per step, and finds every difference.

use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{
    ClusterId, CrashVector, Identity, Incarnation, MemberId, Op, ReplicaIndex, Timestamp, View,
};

use super::{Replica, Status};
use crate::StateMachine;
use crate::mutants::Mutant;
use crate::sessions::Numbers;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) me: ReplicaIndex,
    pub(super) replicas: u8,
    pub(super) member: MemberId,
    pub(super) status: Status,
    pub(super) cluster: ClusterId,
    pub(super) view: View,
    pub(super) log_view: View,
    pub(super) incarnation: Incarnation,
    pub(super) crash_vector: CrashVector,
    pub(super) verified: Op,
    pub(super) held: Op,
    pub(super) head: Identity,
    pub(super) head_timestamp: Timestamp,
    pub(super) commit: Op,
    pub(super) applied: Op,
    pub(super) archived: Op,
    pub(super) applied_identity: Identity,
    pub(super) applied_timestamp: Timestamp,
    pub(super) inherited_head: Op,
    /// Head, oldest, tail, and where the bodies begin and end.
    pub(super) journal: [u64; 7],
    pub(super) sessions: Numbers,
    /// What each backup has acknowledged in this view.
    pub(super) acknowledged: [Op; REPLICAS_MAX],
}

impl<S: StateMachine> Replica<S> {
    /// Whether the numbers are what the last step left behind.
    #[inline]
    pub(super) fn is_as_sealed(&mut self) -> bool {
        match &self.sealed {
            Some(sealed) => *sealed == self.control() || self.is_off(Mutant::NumbersUncompared),
            None => {
                // The first step.
                self.seal();
                true
            }
        }
    }

    /// What the numbers are now is what they are meant to be.
    pub(super) fn seal(&mut self) {
        self.sealed = Some(self.control());
    }

    #[inline]
    pub(super) fn control(&self) -> Control {
        Control {
            me: self.config.replica,
            replicas: self.config.replicas,
            member: self.boot.member,
            status: self.status,
            cluster: self.cluster,
            view: self.view,
            log_view: self.log_view,
            incarnation: self.incarnation,
            crash_vector: self.crash_vector,
            verified: self.verified,
            held: self.held,
            head: self.head,
            head_timestamp: self.head_timestamp,
            commit: self.commit,
            applied: self.applied,
            archived: self.archived,
            applied_identity: self.applied_identity,
            applied_timestamp: self.applied_timestamp,
            inherited_head: self.inherited.head(),
            journal: self.journal.numbers(),
            sessions: self.sessions.numbers(),
            acknowledged: self.links.acknowledged_ops(),
        }
    }
}
