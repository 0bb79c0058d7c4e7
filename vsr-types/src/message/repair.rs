//! How replicas fetch what they miss: headers, prepares, chunks of state.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Identity, Nonce, Op};

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

/// See [`Command::Headers`]. The body is the headers, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Headers {
    /// The op of the first header.
    pub from: Op,
    /// The question that this answers.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 2],
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

/// See [`Command::GetState`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetState {
    /// Tells one transfer from another.
    pub nonce: Nonce,
    /// The first chunk wanted.
    pub chunk: u64,
    /// How many chunks the asker can take now.
    pub count: u64,
    /// Chunks that did not change after this op are not wanted.
    pub since: Op,
}

/// See [`Command::NewState`]. The body is the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NewState {
    /// The transfer.
    pub nonce: Nonce,
    /// The op at which the chunk was read.
    pub op: Op,
    /// Which chunk.
    pub chunk: u64,
    /// How many there are.
    pub chunks: u64,
}
