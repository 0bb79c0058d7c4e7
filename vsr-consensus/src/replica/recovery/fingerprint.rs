//! The recovery's part of a replica's fingerprint.

use vsr_types::ReplicaIndex;

use super::{Recovery, RecoveryPhase};
use crate::replica::fingerprint::Fingerprint;

impl Recovery {
    /// The question that is asked, and what was answered.
    pub(in crate::replica) fn fingerprint(&self, into: &mut Fingerprint) {
        into.word(match self.phase {
            RecoveryPhase::None => 0,
            RecoveryPhase::Asking => 1,
            RecoveryPhase::Registering => 2,
            RecoveryPhase::Restoring => 3,
        });
        into.word(self.nonce.raw() as u64);
        into.word((self.nonce.raw() >> 64) as u64);
        into.word(self.drawn);
        into.text(&self.answers);
        into.text(&self.target);
        into.text(&self.suffix.of);
        if self.suffix.of.is_some() {
            for header in &self.suffix.headers[..self.suffix.count] {
                into.header(header);
            }
        }
    }

    /// It has been long since `peer` was heard of.
    pub(in crate::replica) fn forget_alive(&mut self, peer: ReplicaIndex) {
        self.alive[peer.as_usize()] = None;
    }
}
