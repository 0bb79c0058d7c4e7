//! The repair's part of a replica's fingerprint.

use super::Repair;
use crate::replica::fingerprint::Fingerprint;

impl Repair {
    /// What is missing, whether it was asked for, and who is asked next.
    pub(in crate::replica) fn fingerprint(&self, into: &mut Fingerprint) {
        into.word(self.target.raw());
        into.bit(self.asked.is_some());
        into.bit(
            self.asked
                .is_some_and(|asked| asked.progress == self.progress),
        );
        into.word(u64::from(self.attempts.min(3)));
    }
}
