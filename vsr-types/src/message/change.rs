//! What replicas say when a view, a memory or an epoch is lost: view change, recovery, reconfiguration.
//!
//! The layouts are fixed from the first day, so that the versions that use them need no other header.

use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use super::Command;
use crate::{Digest, Nonce, Op, View};

/// See [`Command::StartViewChange`]. No body; the header's view is the proposed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StartViewChange {
    /// Zero.
    pub reserved: [u64; 5],
}

/// See [`Command::DoViewChange`]. The body is a [`crate::body::LogSuffix`] and its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DoViewChange {
    /// The view whose log this is: the last in which the sender was normal (v′ in the paper).
    pub log_view: View,
    /// The last op of that log.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The last op known to be committed.
    pub commit: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
}

/// See [`Command::StartView`]. The body is a [`crate::body::LogSuffix`] and its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StartView {
    /// The last op of the view's log.
    pub op: Op,
    /// The last op known to be committed.
    pub commit: Op,
    /// The question that this answers; zero when nobody asked.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::GetView`]. No body; the header's view is the least that helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetView {
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::IncarnationQuery`]. No body. The header's incarnation is zero: the sender has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IncarnationQuery {
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::IncarnationReply`]. The body is a [`crate::CrashVector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IncarnationReply {
    /// The question that this answers.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::RecoveryRequest`]. The body is a [`crate::CrashVector`], in which the sender's entry is
/// its new incarnation, as in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryRequest {
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::RecoveryResponse`]. The body is a [`crate::body::Recovery`], then a
/// [`crate::body::LogSuffix`], which has headers when it comes from the primary of the header's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryResponse {
    /// The question that this answers.
    pub nonce: Nonce,
    /// The sender's last op. Only the primary's tells how far to recover (R6.5).
    pub op: Op,
    /// The last op it executed.
    pub applied: Op,
    /// The oldest op whose body it holds.
    pub tail: Op,
}

/// See [`Command::RecoveryReject`]. The body is a [`crate::CrashVector`], in which the receiver's entry
/// is newer than the incarnation it speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryReject {
    /// The question that this answers; zero when it answers a ping of a process that was superseded.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::EpochReady`]. The body is a [`crate::CrashVector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EpochReady {
    /// The op that sealed the last epoch.
    pub op: Op,
    /// The digest of the state after it.
    pub digest: Digest,
    /// Zero.
    pub reserved: [u64; 2],
}
