//! The state as a file: tools that read it from a replica, and tools that bring it to blank ones.
//!
//! Reading follows [`super::GetState`], so that a donor has one way to give its state away; bringing is a
//! plain sequence of chunks, since nobody else writes to a blank replica's memory.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Digest, Header, Nonce, Op};

/// See [`Command::GetImage`]. No body. As [`super::GetState`], from a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetImage {
    /// Tells the answer from those to other questions. The upper half names the export: a number that
    /// the tool draws once.
    pub question: u64,
    /// Chunks that did not change after this op are not wanted; all are if it is [`super::STATE_ALL`].
    pub since: Op,
    /// A replica that has executed less must not answer.
    pub at_least: Op,
    /// The first chunk wanted.
    pub from: u64,
    /// How many chunks are looked at, changed or not.
    pub count: u32,
    /// [`super::STATE_LIVE`], [`super::STATE_HELD`] or [`super::STATE_DONE`].
    pub wish: u32,
}

/// See [`Command::Image`]. The body is the chunk; at the end of an answer an [`ImageOffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Image {
    /// The question that this answers.
    pub question: u64,
    /// The op that the replica had executed when it read the chunk.
    pub op: Op,
    /// Which chunk; at the end, the first that was not looked at.
    pub chunk: u64,
    /// How many there are.
    pub chunks: u64,
    /// Counts the chunks of this answer from 0; at the end, how many it had; in a refusal, an
    /// [`ImageRefusal`].
    pub number: u32,
    /// [`super::STATE_CHUNK`], [`super::STATE_END`] or [`IMAGE_REFUSED`].
    pub kind: u32,
}

/// In [`Image::kind`]: there are no chunks, and the reason is said.
pub const IMAGE_REFUSED: u32 = 2;

/// Why a tool gets no image now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ImageRefusal {
    /// The replica is blank, recovers, repairs its state, or has executed nothing yet.
    NoState = 1,
    /// It gives its state to as many tools as it ever does at once.
    Busy = 2,
    /// It has not executed as much as is asked for, or not held back for long enough since the last time.
    NotYet = 3,
}

impl ImageRefusal {
    /// From the field of [`Image`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::NoState),
            2 => Some(Self::Busy),
            3 => Some(Self::NotYet),
            _ => None,
        }
    }
}

/// What an image of a state machine must fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ImageLayout {
    /// The format of the chunks: a name in ASCII, zero behind its end.
    pub name: [u8; 16],
    /// The machine's memory in bytes, if that is part of its state; otherwise zero.
    pub capacity: u64,
}

/// What the chunks of an image are the state of, and what they fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ImageOffer {
    /// The prepare of the last op executed.
    pub header: Header,
    /// The digest of machine and sessions after it.
    pub digest: Digest,
    /// What the machine's chunks fit.
    pub layout: ImageLayout,
    /// How many chunks there are.
    pub chunks: u64,
    /// How many of them are the sessions'; they come first.
    pub session_chunks: u64,
    /// How many sessions the table has room for.
    pub sessions: u64,
    /// And for how many bytes of replies.
    pub reply_bytes: u64,
    /// No chunk is larger, in bytes.
    pub chunk_size: u64,
}

/// See [`Command::PutImage`]. The body is an [`ImageOffer`] with [`PUT_BEGIN`], a chunk with [`PUT_CHUNK`],
/// otherwise empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PutImage {
    /// The proposal that will follow.
    pub token: Nonce,
    /// Which chunk: they come in order.
    pub chunk: u64,
    /// [`PUT_BEGIN`], [`PUT_CHUNK`] or [`PUT_END`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Zero.
    pub reserved_2: u64,
}

/// In [`PutImage::kind`]: asks whether the replica would take such an image. Changes nothing.
pub const PUT_BEGIN: u32 = 0;
/// In [`PutImage::kind`]: a chunk.
pub const PUT_CHUNK: u32 = 1;
/// In [`PutImage::kind`]: that was all; is it the state that was announced? Asked again until it is known.
pub const PUT_END: u32 = 2;

/// See [`Command::PutImageResult`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PutImageResult {
    /// The proposal.
    pub token: Nonce,
    /// The chunk that is wanted next.
    pub next: u64,
    /// A [`PutOutcome`].
    pub outcome: u32,
    /// Which [`PutImage::kind`] this answers.
    pub kind: u32,
    /// Zero.
    pub reserved: u64,
}

/// What became of a part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PutOutcome {
    /// It was taken.
    Taken = 1,
    /// Everything is there and is being verified.
    Verifying = 2,
    /// Everything is there, and it is the state that was announced.
    Verified = 3,
    /// The replica is not blank.
    NotBlank = 4,
    /// The replica sees a peer that belongs to a cluster.
    PeerOperational = 5,
    /// The replica agreed to another proposal, or takes another image.
    OtherProposal = 6,
    /// The announcement contradicts itself.
    Malformed = 7,
    /// It is an image of another machine, or of one with another memory.
    OtherMachine = 8,
    /// It is of a cluster with another number of sessions, or room for replies.
    OtherSessions = 9,
    /// It is larger than the machine's memory.
    TooLarge = 10,
    /// The chunk is not the next one, or was not announced.
    OutOfOrder = 11,
    /// The chunk cannot be part of such an image, or the whole is not the state that was announced.
    NoState = 12,
}

impl PutOutcome {
    /// From the field of [`PutImageResult`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Taken),
            2 => Some(Self::Verifying),
            3 => Some(Self::Verified),
            4 => Some(Self::NotBlank),
            5 => Some(Self::PeerOperational),
            6 => Some(Self::OtherProposal),
            7 => Some(Self::Malformed),
            8 => Some(Self::OtherMachine),
            9 => Some(Self::OtherSessions),
            10 => Some(Self::TooLarge),
            11 => Some(Self::OutOfOrder),
            12 => Some(Self::NoState),
            _ => None,
        }
    }
}
