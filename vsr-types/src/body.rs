//! Layouts of the bodies that are not batches.

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;

use crate::limits::{HEADERS_MAX, REPLICAS_MAX};
use crate::{CrashVector, Digest, Incarnation, Nonce, Op};

/// "At this op my state had this digest": replicas at the same op compare (N16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DigestReport {
    /// The op, a multiple of the digest interval; 0: nothing to report yet.
    pub op: Op,
    /// The digest after that op was executed.
    pub digest: Digest,
}

/// The nonces that the replicas drew when they started, in the order of the peers list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BootNonces {
    /// One for each replica; zero beyond the last.
    pub nonces: [Nonce; REPLICAS_MAX],
}

/// In front of the headers of a log suffix, in `do_view_change`, `start_view` and `recovery_response`.
/// The headers follow, oldest first; bit i of a map belongs to the i-th header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LogSuffix {
    /// What the sender knows of everybody's incarnations; required in a `do_view_change` (R5.3).
    pub crash_vector: CrashVector,
    /// Whose body is held and verified.
    pub present: [u64; SUFFIX_WORDS],
    /// Whose body the sender never held ("I did not have it"; a damaged one never counts, R5.5).
    pub nack: [u64; SUFFIX_WORDS],
    /// How many headers follow.
    pub count: u64,
}

/// Words in the bit maps of a [`LogSuffix`].
pub const SUFFIX_WORDS: usize = HEADERS_MAX.div_ceil(64);

/// The beginning of the body of a `recovery_response`. A [`LogSuffix`] follows: the crash vector of the
/// sender, the asker's new incarnation included, and from the primary the last headers of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Recovery {
    /// The incarnation that asked.
    pub for_incarnation: Incarnation,
    /// The digest of the sender's state after the last op it has executed; zero while it has none.
    pub digest: Digest,
}

const_assert_eq!(size_of::<DigestReport>(), 24);
const_assert_eq!(size_of::<BootNonces>(), 112);
const_assert_eq!(size_of::<CrashVector>(), 112);
const_assert_eq!(size_of::<LogSuffix>(), 112 + 2 * 8 * SUFFIX_WORDS + 8);
const_assert_eq!(size_of::<Recovery>(), 32);

/// Reads a fixed layout at the beginning of a body.
#[must_use]
pub fn read<T: Pod>(body: &[u8]) -> Option<T> {
    body.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_body_is_no_report() {
        let report = DigestReport {
            op: Op::new(64),
            digest: Digest::new(1 << 100),
        };
        let bytes = bytemuck::bytes_of(&report);
        assert_eq!(read::<DigestReport>(bytes), Some(report));
        assert_eq!(read::<DigestReport>(&bytes[..23]), None);
    }
}
