//! What must hold after every step, whatever came in. The second of the two places at which each
//! invariant is checked (N29); the first is where the value changes.

use vsr_types::Op;

use super::{Replica, Status};
use crate::StateMachine;

impl<S: StateMachine> Replica<S> {
    /// What never goes back (I2), and what holds at any time.
    pub(super) fn check_invariants(&self) {
        let before = self.sealed.as_ref().expect("sealed when the step began");
        // I1.
        assert!(
            self.crash_vector.of(self.me()) == self.incarnation,
            "a replica knows its own incarnation"
        );
        // I2.
        if before.incarnation == self.incarnation {
            assert!(self.view >= before.view, "the view never goes back");
            assert!(
                self.log_view >= before.log_view,
                "the log's view never goes back"
            );
            assert!(
                self.commit >= before.commit,
                "what is committed stays committed"
            );
            assert!(
                self.applied >= before.applied,
                "what is executed stays executed"
            );
        }
        assert!(self.log_view <= self.view, "the log is not from the future");
        // I3.
        assert!(
            self.applied <= self.commit,
            "nothing is executed before it is committed"
        );
        assert!(
            self.applied <= self.op(),
            "nothing is executed that is not held"
        );
        if self.is_normal() {
            assert!(
                self.log_view == self.view,
                "a normal replica holds its view's log"
            );
            if self.is_primary() {
                assert!(
                    self.commit <= self.op(),
                    "a primary commits what it has prepared"
                );
                let uncommitted = self.op().distance_from(self.commit);
                assert!(
                    uncommitted <= self.config.pipeline as u64,
                    "the pipeline is bounded"
                );
            }
        }
        assert!(
            self.applied <= self.held && self.held <= self.verified && self.verified <= self.op(),
            "executed, held, linked, present: each a part of the next"
        );
        self.check_epochs();
        // I5: what is not executed here is still held.
        assert!(
            self.applied == self.op() || self.journal.tail() <= self.applied.next(),
            "an entry is kept until it is executed"
        );
        // I24: a blank replica belongs to nothing, and nobody becomes blank again.
        match self.status {
            Status::Blank(_) => {
                assert!(
                    matches!(before.status, Status::Blank(_)),
                    "a replica is blank only when it starts"
                );
                assert!(
                    self.cluster.is_zero() && self.op() == Op::ZERO,
                    "blank means empty"
                );
            }
            Status::Recovering | Status::Normal | Status::ViewChange | Status::Halted(_) => {
                assert!(!self.cluster.is_zero(), "a member knows its cluster");
            }
        }
    }
}
