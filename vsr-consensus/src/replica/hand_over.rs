//! A planned change of the primary: nobody waits for a time-out (N25).
//!
//! The primary accepts nothing more, lets what is in flight commit, sees that its successor has it all,
//! and leaves the view for the next one that the successor leads. Its vote is the order to follow.

use vsr_types::message::{HandOver, HandOverOutcome, HandOverResult, PeerStatus};
use vsr_types::{Frame, ReplicaIndex, View};

use super::Replica;
use super::admit::Handled;
use crate::{DropReason, Outbox, Sent, StateMachine};

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_hand_over(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let order = *frame.fields::<HandOver>().ok_or(DropReason::Malformed)?;
        let target = u8::try_from(order.target).unwrap_or(u8::MAX);
        let outcome = self.begin_hand_over(ReplicaIndex::new(target));
        let result = HandOverResult {
            nonce: order.nonce,
            outcome: outcome as u64,
            view: self.view_after(ReplicaIndex::new(target)).raw(),
            reserved: 0,
        };
        let header = self.letterhead().sealed(result, &[]);
        let _: Sent = out.sender(&header, &[]);
        Ok(())
    }

    fn view_after(&self, target: ReplicaIndex) -> View {
        if target.is_valid(self.config.replicas) {
            self.next_view_of(target)
        } else {
            self.view
        }
    }

    /// Begins to let `target` take over, if it can: says what became of it.
    pub(super) fn begin_hand_over(&mut self, target: ReplicaIndex) -> HandOverOutcome {
        if !self.is_normal() || !self.is_primary() {
            return HandOverOutcome::NotPrimary;
        }
        if target == self.me() {
            return HandOverOutcome::AlreadyPrimary;
        }
        let is_member = target.is_valid(self.config.replicas);
        if !is_member || self.links.status_of(target) != Some(PeerStatus::Normal) {
            return HandOverOutcome::NotFit;
        }
        self.hand_over_to(target);
        HandOverOutcome::Begun
    }

    /// The backup that is best prepared to lead: the one that has executed most, the nearest successor
    /// first.
    pub(super) fn best_successor(&self) -> Option<ReplicaIndex> {
        let replicas = self.config.replicas;
        let successors = (1..replicas).map(|steps| self.me().successor(steps, replicas));
        successors
            .filter(|&peer| self.links.status_of(peer) == Some(PeerStatus::Normal))
            .rev()
            .max_by_key(|&peer| self.links.applied_of(peer))
    }
}
