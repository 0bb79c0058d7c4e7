//! What replicas say while nothing is wrong: prepare, acknowledge, commit, and how they are.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Checksum, Identity, Op, Timestamp, View};

/// See [`Command::Prepare`]. The body is a [`crate::Batch`]. The header's view is the one in which
/// the op was first prepared and its replica and incarnation are that view's primary's: both stay as
/// they are when the entry is relayed, repaired or inherited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Prepare {
    /// The place in the log.
    pub op: Op,
    /// What the primary knew to be committed when it prepared this.
    pub commit: Op,
    /// The replicated time of the batch, later than that of the op before.
    pub timestamp: Timestamp,
    /// The identity of the op before this one: the hash chain.
    pub parent: Identity,
}

/// See [`Command::PrepareOk`]. No body. Cumulative: every op up to `op` is held with its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PrepareOk {
    /// The last op held.
    pub op: Op,
    /// Its identity, which the primary compares with its own entry (R2.4).
    pub prepare: Identity,
    /// The last op executed here.
    pub applied: Op,
    /// The newest [`Commit::sequence`] seen from this primary.
    pub sequence: u64,
}

/// See [`Command::Commit`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Commit {
    /// Counts the primary's heartbeats: an older one proves nothing (R4.1), an answer to this one
    /// proves that the primary still leads after it sent it (read round, R12).
    pub sequence: u64,
    /// The primary's last op.
    pub op: Op,
    /// The last op known to be committed.
    pub commit: Op,
    /// The identity of that op's header and body (R4.2).
    pub commit_checksum: Checksum,
    /// See `commit_checksum`.
    pub commit_checksum_body: Checksum,
    /// The view in which the committed op was first prepared.
    pub commit_view: View,
}

/// See [`Command::CommitOk`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CommitOk {
    /// The heartbeat that this answers.
    pub sequence: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::Ping`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ping {
    /// The sender's clock when it sent this, in nanoseconds; a pong returns it unread.
    pub sent_ns: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// A [`PeerStatus`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// See [`Command::Pong`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Pong {
    /// The ping's `sent_ns`.
    pub sent_ns: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// A [`PeerStatus`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// The status of a replica as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerStatus {
    /// Holds nothing, belongs to no cluster.
    Blank = 1,
    /// Lost its memory and gets it back from its peers.
    Recovering = 2,
    /// Takes part.
    Normal = 3,
    /// Between two views.
    ViewChange = 4,
    /// Stopped, with a reason.
    Halted = 5,
}

impl PeerStatus {
    /// From the field of [`Ping`].
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Blank),
            2 => Some(Self::Recovering),
            3 => Some(Self::Normal),
            4 => Some(Self::ViewChange),
            5 => Some(Self::Halted),
            _ => None,
        }
    }
}
