//! What happens when, and when next.
//!
//! There is one deadline. While there is work that needs no further input (a batch to cut, an
//! acknowledgement to send, something to execute) it is "now", and the driver calls as soon as it has
//! no more messages to hand over. Work is done in an order that lets what others wait for leave
//! first: what is to be *sent* is sent in one step, and executing waits for the next, so that a driver
//! that flushes between steps never makes a quorum wait for an execution.

use vsr_types::Instant;

use super::{Replica, Status};
use crate::{Outbox, StateMachine};

impl<S: StateMachine> Replica<S> {
    /// When [`Input::Deadline`](crate::Input::Deadline) is due: at or before the present while there
    /// is work to do. A driver should flush what was sent between two deadlines.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        if self.is_untrusted {
            return Instant::FAR_FUTURE;
        }
        if self.has_to_send() || self.can_execute() || self.can_answer_reads() {
            return Instant::ZERO;
        }
        if self.can_start_view() || self.is_asked_for_state() {
            return Instant::ZERO;
        }
        let mut next = self.ping_at.min(self.change_deadline());
        if self.is_normal() && self.is_primary() {
            next = next.min(self.heartbeat_at);
        }
        if self.status == Status::Recovering {
            next = next.min(self.recovery_deadline());
        }
        if let Some(transfer) = self.transfer_deadline() {
            next = next.min(transfer);
        }
        if let Some(repair) = self.repair_deadline() {
            next = next.min(repair);
        }
        next.min(self.upkeep_deadline())
    }

    fn has_to_send(&self) -> bool {
        (self.batch.count() > 0 && self.can_cut(self.batch.size()))
            || self.ack_due
            || self.can_start_reads()
    }

    pub(super) fn on_deadline(&mut self, out: &mut impl Outbox) {
        let had_to_send = self.has_to_send();
        match self.status {
            Status::Normal if self.is_primary() => self.on_primary_deadline(out),
            Status::Normal => self.on_backup_deadline(out),
            Status::ViewChange => self.on_view_change_deadline(out),
            Status::Recovering => self.on_recovering_deadline(out),
            Status::Blank(_) | Status::Halted(_) => self.ack_due = false,
        }
        self.on_transfer_timeout(out);
        if self.now.monotonic >= self.ping_at {
            self.send_pings(out);
        }
        self.on_upkeep(out);
        if had_to_send {
            return;
        }
        self.execute_some(out);
        if self.can_answer_reads() {
            self.answer_reads(out);
        }
        self.give_some_state(out);
    }

    fn on_primary_deadline(&mut self, out: &mut impl Outbox) {
        assert!(!self.ack_due, "a primary acknowledges to nobody");
        self.cut_batch(out);
        if self.can_start_reads() {
            self.start_reads(out);
        }
        if self.now.monotonic >= self.heartbeat_at {
            self.watch_backups(out);
            if !self.is_normal() {
                // It has left the view.
                return;
            }
            if !self.change.has_abdicated() {
                self.send_heartbeats(out);
            }
        }
        self.on_repair_timeout(out);
    }

    fn on_backup_deadline(&mut self, out: &mut impl Outbox) {
        if self.ack_due {
            self.acknowledge(out);
        }
        self.suspect_primary(out);
        self.on_repair_timeout(out);
    }
}
