//! How a connection opens, or why it does not.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::Digest;

/// See [`Command::Hello`]. No body. The header says the sender's replica, member and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Hello {
    /// Digest of the cluster's name, so that a wrong `--cluster` is named, not guessed.
    pub cluster_name: Digest,
    /// Digest of the peers list, which must be the same everywhere. Zero from clients.
    pub configuration: u64,
    /// The oldest protocol version the sender understands.
    pub protocol_min: u16,
    /// The newest.
    pub protocol_max: u16,
    /// A [`LinkKind`].
    pub kind: u8,
    /// The replica that the sender believes it has reached; 255: any.
    pub target: u8,
    /// Zero.
    pub reserved: [u8; 10],
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkKind {
    /// A replica of the same cluster.
    Peer = 1,
    /// A client.
    Client = 2,
    /// A tool: inspection and init.
    Tool = 3,
}

impl LinkKind {
    /// From the field of [`Hello`].
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Peer),
            2 => Some(Self::Client),
            3 => Some(Self::Tool),
            _ => None,
        }
    }
}

/// See [`Command::Welcome`]. No body. The header says cluster, view, replica and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Welcome {
    /// Digest of the cluster's name.
    pub cluster_name: Digest,
    /// Digest of the peers list.
    pub configuration: u64,
    /// The protocol version both will speak.
    pub protocol: u16,
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// Zero.
    pub reserved: u8,
    /// The largest frame that this replica accepts.
    pub frame_size_max: u32,
    /// The largest operation that this replica accepts.
    pub operation_size_max: u32,
    /// Zero.
    pub reserved_2: u32,
}

/// See [`Command::Refuse`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Refuse {
    /// A [`RefuseReason`].
    pub reason: u32,
    /// Zero.
    pub reserved: u32,
    /// What would have been right, where that is a number.
    pub expected: u64,
    /// What was received.
    pub received: u64,
    /// Zero.
    pub reserved_2: [u64; 2],
}

/// Why a connection is refused or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefuseReason {
    /// The first frame was no hello, or not in time.
    NoHello = 1,
    /// No common protocol version.
    Version = 2,
    /// Another cluster's name.
    ClusterName = 3,
    /// Another peers list.
    Configuration = 4,
    /// The sender believes it has reached another replica.
    WrongReplica = 5,
    /// The sender's replica number is not in the list, or is this replica's own.
    BadReplica = 6,
    /// Another process of the sender's replica is connected and answers.
    StaleIncarnation = 7,
    /// All connections are taken.
    TooManyConnections = 8,
    /// A frame was damaged, too large or of another cluster.
    BadFrame = 9,
    /// The replica is going away.
    ShuttingDown = 10,
}

impl RefuseReason {
    /// From the field of [`Refuse`].
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::NoHello),
            2 => Some(Self::Version),
            3 => Some(Self::ClusterName),
            4 => Some(Self::Configuration),
            5 => Some(Self::WrongReplica),
            6 => Some(Self::BadReplica),
            7 => Some(Self::StaleIncarnation),
            8 => Some(Self::TooManyConnections),
            9 => Some(Self::BadFrame),
            10 => Some(Self::ShuttingDown),
            _ => None,
        }
    }
}
