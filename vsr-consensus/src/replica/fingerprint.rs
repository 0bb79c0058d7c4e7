//! What a replica is, as one number: for the explorer, which must know where it has been before.
//!
//! Only what the protocol depends on goes in: status, views, log, votes, answers. Times, counters and
//! buffers stay out, except for the few questions that the rules ask about time ("is that vote still
//! fresh?"), which go in as their answers. Each room of the replica tells its own part.

use core::fmt::{self, Write};

use vsr_types::message::PeerStatus;
use vsr_types::{CrashVector, Header, Identity, Incarnation, Instant, Op, ReplicaIndex, View};

use super::{Replica, Status};
use crate::sessions::mix;
use crate::{HaltReason, StateMachine};

/// A hash of 128 bits that is fed word by word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint(u64, u64);

impl Fingerprint {
    pub(crate) const fn new() -> Self {
        Self(0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344)
    }

    pub(crate) const fn word(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.1 = mix(self.1.wrapping_add(word).rotate_left(29)) ^ word;
    }

    pub(crate) fn bit(&mut self, bit: bool) {
        self.word(u64::from(bit));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn identity(&mut self, identity: &Identity) {
        self.word(identity.view.raw());
        self.word(
            u64::from(identity.checksum.raw()) << 32 | u64::from(identity.checksum_body.raw()),
        );
    }

    pub(crate) fn header(&mut self, header: &Header) {
        self.identity(&header.identity());
    }

    pub(crate) fn incarnation(&mut self, incarnation: Incarnation) {
        self.word(incarnation.counter);
        self.word(incarnation.random);
    }

    pub(crate) fn vector(&mut self, vector: &CrashVector) {
        self.bytes(bytemuck::bytes_of(vector));
    }

    /// For small things that have no number of their own.
    pub(crate) fn text(&mut self, text: &impl fmt::Debug) {
        write!(self, "{text:?}").expect("hashing does not fail");
    }

    pub(crate) const fn finish(self) -> u128 {
        (mix(self.0) as u128) << 64 | mix(self.1 ^ self.0.rotate_left(17)) as u128
    }
}

impl Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// What the explorer must see of a replica to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) status: PeerStatus,
    pub(crate) halted: Option<HaltReason>,
    pub(crate) view: View,
    pub(crate) leads: bool,
    pub(crate) incarnation: Incarnation,
    pub(crate) tail: Op,
    pub(crate) op: Op,
    pub(crate) commit: Op,
    pub(crate) applied: Op,
    pub(crate) suspects: bool,
    /// Whether something is missing that a deadline would ask for.
    pub(crate) repairs: bool,
}

impl<S: StateMachine> Replica<S> {
    pub(crate) fn sight(&self) -> Sight {
        Sight {
            status: self.peer_status(),
            halted: match self.status {
                Status::Halted(reason) => Some(reason),
                _ => None,
            },
            view: self.view,
            leads: self.is_normal() && self.is_primary(),
            incarnation: self.incarnation,
            tail: self.journal.tail(),
            op: self.op(),
            commit: self.commit,
            applied: self.applied,
            suspects: self.change.is_suspecting(),
            repairs: self.repair_deadline().is_some(),
        }
    }

    /// What the log of this replica holds at `op`.
    pub(crate) fn log_identity(&self, op: Op) -> Option<Identity> {
        self.identity_of(op)
    }

    /// The newest life of `peer` that is known here.
    pub(crate) fn known_life(&self, peer: ReplicaIndex) -> Incarnation {
        self.crash_vector.of(peer)
    }

    /// When this replica loses patience with its view.
    pub(crate) fn patience_ends(&self) -> Instant {
        self.change_deadline()
    }

    /// When a primary speaks next.
    pub(crate) const fn speaks_at(&self) -> Instant {
        self.heartbeat_at
    }

    /// When what is missing is asked for.
    pub(crate) fn asks_at(&self) -> Option<Instant> {
        self.repair_deadline()
    }

    /// Time enough has passed since `peer` was heard of to believe a later life of it (R6.2), while
    /// everything else went on as before.
    pub(crate) fn forget_alive(&mut self, peer: ReplicaIndex) {
        self.recovery.forget_alive(peer);
    }

    /// See the module's documentation.
    pub(crate) fn fingerprint(&self, into: &mut Fingerprint) {
        into.word(self.peer_status() as u64);
        if let Status::Halted(reason) = self.status {
            into.text(&reason);
        }
        for number in [self.view, self.log_view] {
            into.word(number.raw());
        }
        into.incarnation(self.incarnation);
        into.vector(&self.crash_vector);
        for op in [
            self.op(),
            self.commit,
            self.applied,
            self.archived,
            self.verified,
            self.held,
            self.forwarded,
        ] {
            into.word(op.raw());
        }
        into.identity(&self.head);
        into.identity(&self.applied_identity);
        into.bit(self.stalled);
        into.bit(self.ack_due);
        into.word(self.sequence);
        into.word(u64::from(self.batch.count()));
        into.bit(self.is_transferring());
        let digest = self.digest_now().raw();
        into.word(digest as u64);
        into.word((digest >> 64) as u64);
        self.fingerprint_log(into);
        self.links.fingerprint(into);
        self.repair.fingerprint(into);
        if !matches!(self.status, Status::Blank(_) | Status::Recovering) {
            self.fingerprint_change(into);
        }
        if self.status == Status::Recovering {
            self.recovery.fingerprint(into);
        }
    }

    fn fingerprint_log(&self, into: &mut Fingerprint) {
        let mut op = self.journal.tail();
        while op <= self.op() {
            into.word(op.raw());
            into.word(self.journal.state(op) as u64);
            if let Some(header) = self.journal.header(op) {
                into.header(header);
            }
            op = op.next();
        }
        let head = self.inherited.head();
        into.word(head.raw());
        for op in (0..super::log::suffix_length(&self.config) as u64).map(|back| head.minus(back)) {
            if let Some(header) = self.inherited.header(op) {
                into.header(header);
            }
        }
    }
}
