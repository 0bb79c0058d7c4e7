//! The view change's part of a replica's fingerprint.

use super::{Change, SUSPICION_TICKS};
use crate::StateMachine;
use crate::replica::fingerprint::Fingerprint;
use crate::replica::{Replica, Status};

impl Change {
    /// Whether this replica wants to leave its view.
    pub(in crate::replica) const fn is_suspecting(&self) -> bool {
        self.suspecting
    }
}

impl<S: StateMachine> Replica<S> {
    /// Who wants which view, who voted what, and which log was chosen.
    pub(in crate::replica) fn fingerprint_change(&self, into: &mut Fingerprint) {
        let change = &self.change;
        into.bit(change.suspecting);
        into.bit(change.abdicated);
        into.bit(change.successor.is_some());
        let lasts = self.config.tick * SUSPICION_TICKS;
        for &(view, at) in &change.wanted {
            let is_fresh = view > self.view && self.now.monotonic.since(at) <= lasts;
            into.word(if is_fresh { view.raw() } else { 0 });
        }
        if self.status != Status::ViewChange {
            return;
        }
        into.bytes(&change.own[..change.own_size]);
        into.text(&change.chosen);
        for vote in &change.votes {
            let Some(from) = vote.from else {
                into.word(u64::MAX);
                continue;
            };
            into.incarnation(from);
            into.bytes(bytemuck::bytes_of(&vote.fields));
            into.bytes(bytemuck::bytes_of(&vote.suffix));
            for header in &vote.headers[..vote.count] {
                into.header(header);
            }
        }
    }
}
