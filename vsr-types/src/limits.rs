//! Every bound that both ends of a connection must agree on (N23), with the reason beside it.
//!
//! Sizes that an operator may choose (journal, sessions, memory) live in the configuration; here are
//! the bounds of those choices, and the relations between them, asserted while compiling.

use crate::header::HEADER_SIZE;

/// The protocol version this build speaks.
pub const PROTOCOL: u16 = 1;
/// The oldest protocol version this build understands.
pub const PROTOCOL_MIN: u16 = 1;

/// The most replicas of a cluster (N1). Seven survive three failures; more would only be slower.
pub const REPLICAS_MAX: usize = 7;

/// The largest frame on any connection, header included. 1 MiB: large enough that a batch amortizes
/// every per-frame cost (checksums reach their full speed at 64 KiB), small enough that a frame
/// never holds a link for more than a millisecond.
pub const FRAME_SIZE_MAX: usize = 1 << 20;

/// The largest body of a frame.
pub const BODY_SIZE_MAX: usize = FRAME_SIZE_MAX - HEADER_SIZE;

/// The smallest `--batch-max` an operator may choose: a register and a small operation must fit.
pub const BATCH_SIZE_MIN: usize = 4096;

/// The size of the header of one request inside a batch.
pub const REQUEST_HEADER_SIZE: usize = 56;

/// The size of the header of a batch.
pub const BATCH_HEADER_SIZE: usize = 16;

/// The largest operation that a client may send: it must fit, alone, into a batch of the largest
/// frame.
pub const OPERATION_SIZE_MAX: usize = BODY_SIZE_MAX - BATCH_HEADER_SIZE - REQUEST_HEADER_SIZE;

/// The largest reply to one request.
pub const REPLY_SIZE_MAX: usize = BODY_SIZE_MAX;

/// The most requests in one batch: bounds the work of one prepare. A batch of the largest size
/// filled with empty operations would hold no more.
pub const BATCH_REQUESTS_MAX: u32 = (BODY_SIZE_MAX / REQUEST_HEADER_SIZE) as u32;

/// The most prepares in flight that an operator may choose. Also the length of the suffix of headers
/// that a `do_view_change` carries, which must fit into one frame.
pub const PIPELINE_MAX: usize = 256;

/// The fewest journal slots per prepare in flight (R8.1: the ring holds at least four pipelines).
pub const JOURNAL_PIPELINES_MIN: usize = 4;

/// A number from a peer that is further ahead of ours than this is a flipped bit, not progress (R0.3).
pub const LEAP_MAX: u64 = 1 << 32;

/// Ops (over all epochs), views, epochs and counters stop here; nothing ever wraps (R10.1).
pub const NUMBER_MAX: u64 = 1 << 62;

/// The longest cluster name, in bytes of UTF-8.
pub const CLUSTER_NAME_MAX: usize = 64;

/// The most headers in one message: a pipeline and the canonical op before it.
pub const HEADERS_MAX: usize = PIPELINE_MAX + 1;

// A do_view_change carries a suffix of headers and must still be one frame.
const _: () = assert!(HEADERS_MAX * HEADER_SIZE + 512 <= BODY_SIZE_MAX);
// The size field of a header is 32 bits wide.
const _: () = assert!(FRAME_SIZE_MAX <= u32::MAX as usize);
// A route packs one replica into four bits and keeps four bits for the count.
const _: () = assert!(REPLICAS_MAX * 4 <= 28);
// The smallest batch holds a request with something in it.
const _: () = assert!(BATCH_SIZE_MIN >= BATCH_HEADER_SIZE + REQUEST_HEADER_SIZE + 1024);
const _: () = assert!(BATCH_SIZE_MIN <= BODY_SIZE_MAX);
const _: () = assert!(PROTOCOL_MIN <= PROTOCOL);
