//! The links' part of a replica's fingerprint.

use super::{Links, Mode};
use crate::replica::fingerprint::Fingerprint;

impl Links {
    /// What was acknowledged, by whom, and over which way prepares go.
    pub(in crate::replica) fn fingerprint(&self, into: &mut Fingerprint) {
        for peer in &self.peers[..usize::from(self.replicas)] {
            into.word(peer.acked.raw());
            into.word(match peer.mode {
                Mode::Chain => 0,
                Mode::Direct(_) => 1,
                Mode::Suspect => 2,
            });
        }
    }
}
