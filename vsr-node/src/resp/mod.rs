//! The Redis serialization protocol: bytes to commands, replies to bytes.
//!
//! Nothing here knows sockets, sessions or what a command means. [`parse()`] finds the next command in
//! a connection's input buffer without copying or allocating: the arguments are ranges of that
//! buffer. [`Writer`] appends replies to an output buffer in the dialect the connection speaks, and
//! [`append_reply`] turns the state machine's replies, which are always RESP3, into that dialect.
//!
//! Both ends of the protocol are text that strangers send, so the parser's work is bounded by the
//! bytes it was given, it never panics, and every complaint has exactly the words Redis uses, since
//! clients match on them.

mod parse;
mod write;

pub use parse::{Args, ParseLimits, Parsed, ProtocolError, parse};
pub use write::{ReplyText, Writer, append_reply, element_size, split_array};

/// The dialect a connection speaks: RESP2 until `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The dialect of Redis 1.2 to 5: no maps, no typed nulls.
    #[default]
    Resp2,
    /// The dialect of Redis 6 and later.
    Resp3,
}

impl Protocol {
    /// The number in `HELLO` and `CLIENT LIST`.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}
