//! What clients ask and what they are told.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Checksum, ClientId, Op, RequestNumber};

/// See [`Command::Request`]. Everything is in the body, a [`crate::RequestHeader`] and the
/// operation, because that is what travels on through the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// Zero.
    pub reserved: [u64; 5],
}

/// See [`Command::Reply`]. The body is the state machine's reply; the header's view is that of a
/// completed view change (R1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Reply {
    /// The client.
    pub client: ClientId,
    /// Which of its requests. For request 0 (register), `op` is the new session's number.
    pub request: RequestNumber,
    /// The place of the request in the log.
    pub op: Op,
    /// The checksum the client made over the request that this answers.
    pub request_checksum: Checksum,
    /// The place of the request in its batch.
    pub index: u32,
}

/// See [`Command::Reject`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Reject {
    /// The client.
    pub client: ClientId,
    /// Which of its requests or queries.
    pub request: RequestNumber,
    /// A [`RejectReason`].
    pub reason: u32,
    /// The checksum the client made over the request that this answers; zero for a query.
    pub request_checksum: Checksum,
    /// What helps: the session's number, or the state machine's refusal code.
    pub detail: u64,
}

/// The `detail` of a [`RejectReason::Halted`] that means that no op number is left (R10.1): reads go on.
pub const NO_OPS_LEFT: u64 = 1;

/// Why a request or query was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RejectReason {
    /// All queues are full: wait and send the same request again.
    Busy = 1,
    /// The session is not known any more: register under a new client id. Whether the request was
    /// executed is not known.
    Evicted = 2,
    /// The client's session number is older than the session's: a replayed register, see R1.6.
    SessionTooLow = 3,
    /// This replica is not the primary; the header's view says who is.
    NotPrimary = 4,
    /// The state machine refuses the operation as malformed; `detail` is its code.
    Malformed = 5,
    /// The same request number came before with other content: a bug of the client.
    RequestReused = 6,
    /// The operation is larger than a batch may be.
    TooLarge = 7,
    /// The cluster has stopped accepting operations.
    Halted = 8,
    /// No cluster is formed yet, or this replica is recovering.
    NotReady = 9,
}

impl RejectReason {
    /// From the field of [`Reject`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Busy),
            2 => Some(Self::Evicted),
            3 => Some(Self::SessionTooLow),
            4 => Some(Self::NotPrimary),
            5 => Some(Self::Malformed),
            6 => Some(Self::RequestReused),
            7 => Some(Self::TooLarge),
            8 => Some(Self::Halted),
            9 => Some(Self::NotReady),
            _ => None,
        }
    }
}

/// See [`Command::Query`]. The body is the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Query {
    /// Who asks; queries need no session.
    pub client: ClientId,
    /// Which of its queries: the answer repeats it.
    pub query: RequestNumber,
    /// Zero.
    pub reserved: [u64; 2],
}

/// See [`Command::QueryReply`]. The body is the state machine's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct QueryReply {
    /// Who asked.
    pub client: ClientId,
    /// Which of its queries.
    pub query: RequestNumber,
    /// The last op whose effects the answer shows.
    pub op: Op,
    /// Zero.
    pub reserved: u64,
}
