//! What tools say: forming a cluster and looking into it.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{ClusterId, Nonce};

/// See [`Command::InitPropose`]. No body for a cluster that begins with nothing; an
/// [`ImageOffer`](super::ImageOffer) for one that begins with an image that was put before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InitPropose {
    /// The new cluster's id, drawn at random for this proposal.
    pub cluster: ClusterId,
    /// Tells one proposal from another.
    pub token: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::InitAck`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InitAck {
    /// The proposal.
    pub token: Nonce,
    /// What this process drew when it started: a restarted one has another (R7.1).
    pub boot_nonce: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::InitCommit`]. The body is a [`crate::body::BootNonces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InitCommit {
    /// The new cluster's id.
    pub cluster: ClusterId,
    /// The proposal.
    pub token: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::InitResult`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InitResult {
    /// The proposal.
    pub token: Nonce,
    /// An [`InitOutcome`].
    pub outcome: u32,
    /// Zero.
    pub reserved: u32,
    /// The cluster this replica belongs to; zero when it is blank.
    pub cluster: ClusterId,
}

/// What became of an init at one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InitOutcome {
    /// The replica belongs to the new cluster.
    Applied = 1,
    /// The replica is not blank.
    NotBlank = 2,
    /// The replica sees a peer that belongs to a cluster.
    PeerOperational = 3,
    /// The replica restarted between its ack and the commit, or never saw the proposal.
    UnknownProposal = 4,
    /// The replica agreed to another proposal a moment ago.
    OtherProposal = 5,
    /// The cluster would begin with nothing, but the replica holds an image, or a part of one.
    HoldsImage = 6,
    /// The cluster would begin with an image that the replica does not hold, or has not verified.
    NoImage = 7,
}

impl InitOutcome {
    /// From the field of [`InitResult`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Applied),
            2 => Some(Self::NotBlank),
            3 => Some(Self::PeerOperational),
            4 => Some(Self::UnknownProposal),
            5 => Some(Self::OtherProposal),
            6 => Some(Self::HoldsImage),
            7 => Some(Self::NoImage),
            _ => None,
        }
    }
}

/// See [`Command::HandOver`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HandOver {
    /// Tells one order from another.
    pub nonce: Nonce,
    /// The index of the replica that is to lead.
    pub target: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// See [`Command::HandOverResult`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HandOverResult {
    /// The order that this answers.
    pub nonce: Nonce,
    /// A [`HandOverOutcome`].
    pub outcome: u64,
    /// The view that the new primary is to start.
    pub view: u64,
    /// Zero.
    pub reserved: u64,
}

/// What became of the order to hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum HandOverOutcome {
    /// The primary finishes what is in flight and then lets the target take over.
    Begun = 1,
    /// The target leads already.
    AlreadyPrimary = 2,
    /// The replica that was asked does not lead.
    NotPrimary = 3,
    /// The target is no replica of this cluster, is not heard of, or lags.
    NotFit = 4,
}

impl HandOverOutcome {
    /// From the field of [`HandOverResult`].
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Begun),
            2 => Some(Self::AlreadyPrimary),
            3 => Some(Self::NotPrimary),
            4 => Some(Self::NotFit),
            _ => None,
        }
    }
}

/// See [`Command::Inspect`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Inspect {
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// An [`InspectTopic`].
    pub topic: u32,
    /// Zero.
    pub reserved: u32,
    /// What of it: an op, a count.
    pub argument: u64,
    /// Zero.
    pub reserved_2: u64,
}

/// What a tool may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InspectTopic {
    /// The replica in a few numbers.
    Status = 1,
    /// One op: header and requests.
    Op = 2,
    /// The last `argument` headers of the log.
    Log = 3,
    /// The session table.
    Sessions = 4,
    /// The configuration.
    Config = 5,
    /// The memory plan and every bound.
    Limits = 6,
    /// The metrics, in Prometheus text inside a JSON string.
    Metrics = 7,
    /// The route of the chain and what is known of its links.
    Chain = 8,
    /// The digest of the state at op `argument`; 0: the newest.
    Digest = 9,
    /// Some chunks of the state from chunk `argument` on: digests, and which op changed them last.
    Chunks = 10,
    /// How far the scrubber has come, what was found damaged, and what became of that.
    Scrub = 11,
}

impl InspectTopic {
    /// From the field of [`Inspect`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Status),
            2 => Some(Self::Op),
            3 => Some(Self::Log),
            4 => Some(Self::Sessions),
            5 => Some(Self::Config),
            6 => Some(Self::Limits),
            7 => Some(Self::Metrics),
            8 => Some(Self::Chain),
            9 => Some(Self::Digest),
            10 => Some(Self::Chunks),
            11 => Some(Self::Scrub),
            _ => None,
        }
    }
}

/// See [`Command::InspectReply`]. The body is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InspectReply {
    /// The question that this answers.
    pub nonce: Nonce,
    /// Zero when the question made sense; else the body's `error` says why not.
    pub error: u32,
    /// Zero.
    pub reserved: u32,
    /// Zero.
    pub reserved_2: [u64; 2],
}
