//! How replicas fetch what they miss: headers, prepares, chunks of state.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Digest, Header, Identity, Nonce, Op, View};

/// See [`Command::GetHeaders`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetHeaders {
    /// The first op wanted.
    pub from: Op,
    /// The last op wanted.
    pub to: Op,
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::Headers`]. The body is the headers, oldest first. Without a body it is the donor's
/// last word on a [`GetPrepare`]: where it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Headers {
    /// The op of the first header.
    pub from: Op,
    /// The question that this answers.
    pub nonce: Nonce,
    /// The view whose log the sender holds: its headers are evidence for that log only.
    pub log_view: View,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::GetPrepare`]. No body. Answered by prepares with an empty route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetPrepare {
    /// The first op wanted.
    pub from: Op,
    /// The last op wanted; the donor sends as many as it likes.
    pub to: Op,
    /// The identity of the op before `from`, as the asker has it: a donor whose chain differs there
    /// has nothing to offer.
    pub parent: Identity,
    /// The most bytes the asker can take now.
    pub budget: u64,
}

/// See [`Command::GetState`]. No body. Answered by chunks ([`STATE_CHUNK`]) and then by where the
/// donor stopped ([`STATE_END`]). The image's chunks are counted from the sessions' first to the state
/// machine's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetState {
    /// Tells the answer from those to other questions.
    pub question: u64,
    /// Chunks that did not change after this op are not wanted; all are if it is [`STATE_ALL`].
    pub since: Op,
    /// A donor that has executed less must not answer: the asker holds chunks of later states.
    pub at_least: Op,
    /// The first chunk wanted.
    pub from: u64,
    /// How many chunks are looked at, changed or not.
    pub count: u32,
    /// [`STATE_LIVE`], [`STATE_HELD`], [`STATE_DONE`] or [`STATE_SLOWLY`].
    pub wish: u32,
}

/// In [`GetState::since`]: every chunk is wanted.
pub const STATE_ALL: Op = Op::new(u64::MAX);

/// In [`GetState::wish`]: chunks as they are now, while the donor goes on executing.
pub const STATE_LIVE: u32 = 0;
/// In [`GetState::wish`]: chunks of one state. The donor holds back execution until all have left, for a
/// bounded time.
pub const STATE_HELD: u32 = 1;
/// In [`GetState::wish`]: everything has arrived, the donor may go on.
pub const STATE_DONE: u32 = 2;
/// In [`GetState::wish`]: to the primary. The load has overtaken the asker's transfers; until it has
/// caught up, prepares far beyond the state after [`GetState::since`] should come slowly.
pub const STATE_SLOWLY: u32 = 3;

/// See [`Command::NewState`]. The body is the chunk, or at the end of a held answer a [`StateOffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NewState {
    /// The question that this answers.
    pub question: u64,
    /// The op that the donor had executed when it read the chunk.
    pub op: Op,
    /// Which chunk; at the end, the first that the donor did not look at.
    pub chunk: u64,
    /// How many there are.
    pub chunks: u64,
    /// Counts the chunks of this answer from 0; at the end, how many it had.
    pub number: u32,
    /// [`STATE_CHUNK`] or [`STATE_END`].
    pub kind: u32,
}

/// In [`NewState::kind`]: a chunk.
pub const STATE_CHUNK: u32 = 0;
/// In [`NewState::kind`]: where the donor stopped.
pub const STATE_END: u32 = 1;

/// What the chunks of a held answer are the state of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StateOffer {
    /// The prepare of the last op executed.
    pub header: Header,
    /// The digest of machine and sessions after it.
    pub digest: Digest,
    /// How many of the chunks are the sessions'.
    pub session_chunks: u64,
}
