//! Every message of the protocol, as forty bytes inside the header.
//!
//! One struct per message, all of one size, so that a header is one size too and a message without
//! a body is exactly one header. Messages that need more (headers of a log suffix, a crash vector,
//! a chunk of state) carry it in the body, whose layouts are in [`crate::body`] and [`crate::batch`].
//!
//! The names are those of Liskov and Cowling, *Viewstamped Replication Revisited* (2012), where the
//! paper has one. Fields called `reserved` are zero and ignored.

mod change;
mod client;
mod handshake;
mod image;
mod normal;
mod operate;
mod repair;

use bytemuck::Pod;
use static_assertions::const_assert_eq;

pub use change::{
    DoViewChange, EpochReady, GetView, IncarnationQuery, IncarnationReply, RecoveryReject,
    RecoveryRequest, RecoveryResponse, StartView, StartViewChange,
};
pub use client::{NO_OPS_LEFT, Query, QueryReply, Reject, RejectReason, Reply, Request};
pub use handshake::{Hello, LinkKind, Refuse, RefuseReason, Welcome};
pub use image::{
    GetImage, IMAGE_REFUSED, Image, ImageLayout, ImageOffer, ImageRefusal, PUT_BEGIN, PUT_CHUNK,
    PUT_END, PutImage, PutImageResult, PutOutcome,
};
pub use normal::{Commit, CommitOk, PeerStatus, Ping, Pong, Prepare, PrepareOk};
pub use operate::{
    HandOver, HandOverOutcome, HandOverResult, InitAck, InitCommit, InitOutcome, InitPropose,
    InitResult, Inspect, InspectReply, InspectTopic,
};
pub use repair::{
    GetHeaders, GetPrepare, GetState, Headers, NewState, STATE_ALL, STATE_CHUNK, STATE_DONE,
    STATE_END, STATE_HELD, STATE_LIVE, STATE_SLOWLY, StateOffer,
};

/// The size of every message's fields.
pub const FIELDS_SIZE: usize = 40;

/// A message: plain data of [`FIELDS_SIZE`] bytes, and the command that announces it.
pub trait Message: Pod {
    /// The command in the header of this message.
    const COMMAND: Command;
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $raw:literal,)*) => {
        /// The kinds of messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Command {
            $($(#[$doc])* $name = $raw,)*
        }

        impl Command {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// From the header's byte; none when this build does not know it.
            #[must_use]
            #[inline]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw {
                    $($raw => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as in the tables of the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }

        $(
            impl Message for $name {
                const COMMAND: Command = Command::$name;
            }
            const_assert_eq!(size_of::<$name>(), FIELDS_SIZE);
            const_assert_eq!(align_of::<$name>(), 8);
        )*
    };
}

commands! {
    /// Opens a connection: who I am, what I speak, which cluster and list I mean.
    Hello = 1,
    /// The answer to a good hello.
    Welcome = 2,
    /// The answer to a bad hello, or the last word before a connection is closed.
    Refuse = 3,
    /// A client's operation, for the log.
    Request = 10,
    /// Its result, after the commit.
    Reply = 11,
    /// Why there will be no result, or not yet.
    Reject = 12,
    /// A read that does not go through the log.
    Query = 13,
    /// Its result.
    QueryReply = 14,
    /// A batch with its place in the log.
    Prepare = 20,
    /// "I hold everything up to here."
    PrepareOk = 21,
    /// The primary's heartbeat: what is committed, and a read round.
    Commit = 22,
    /// A backup's answer to it.
    CommitOk = 23,
    /// Between all pairs: view, status, digest.
    Ping = 24,
    /// The answer to a ping, with the same.
    Pong = 25,
    /// A vote for leaving the view.
    StartViewChange = 30,
    /// A log for the next primary to choose from.
    DoViewChange = 31,
    /// The chosen log.
    StartView = 32,
    /// Asks for the log of a started view.
    GetView = 33,
    /// Asks for headers.
    GetHeaders = 40,
    /// Headers.
    Headers = 41,
    /// Asks for prepares.
    GetPrepare = 42,
    /// Asks which incarnations are known.
    IncarnationQuery = 50,
    /// The answer, a crash vector.
    IncarnationReply = 51,
    /// Registers a new incarnation and asks for view and log.
    RecoveryRequest = 52,
    /// The answer.
    RecoveryResponse = 53,
    /// "A newer incarnation of you is known."
    RecoveryReject = 54,
    /// Asks for chunks of state.
    GetState = 60,
    /// A chunk of state.
    NewState = 61,
    /// An operator proposes to form a cluster.
    InitPropose = 70,
    /// A blank replica agrees.
    InitAck = 71,
    /// All agreed: the cluster exists.
    InitCommit = 72,
    /// A replica applied the commit, or says why it refuses to take part.
    InitResult = 73,
    /// An operator asks the primary to let another replica lead.
    HandOver = 74,
    /// The answer.
    HandOverResult = 75,
    /// A tool asks for chunks of state, to make a file of them.
    GetImage = 76,
    /// A chunk for a tool.
    Image = 77,
    /// A tool brings a chunk to a blank replica.
    PutImage = 78,
    /// The answer.
    PutImageResult = 79,
    /// "I hold the sealed state of the last epoch."
    EpochReady = 80,
    /// A tool asks a replica about itself.
    Inspect = 90,
    /// The answer, as JSON.
    InspectReply = 91,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_the_round_trip_and_no_other_byte_is_one() {
        let known = (0..=u8::MAX).filter_map(Command::from_raw);
        assert!(known.eq(Command::ALL.iter().copied()));
        for &command in Command::ALL {
            assert_eq!(Command::from_raw(command as u8), Some(command));
        }
    }

    #[test]
    fn every_reason_survives_the_round_trip() {
        for raw in 0..64 {
            assert!(RejectReason::from_raw(raw).is_none_or(|reason| reason as u32 == raw));
            assert!(RefuseReason::from_raw(raw).is_none_or(|reason| reason as u32 == raw));
            assert!(InitOutcome::from_raw(raw).is_none_or(|outcome| outcome as u32 == raw));
            assert!(InspectTopic::from_raw(raw).is_none_or(|topic| topic as u32 == raw));
            assert!(ImageRefusal::from_raw(raw).is_none_or(|refusal| refusal as u32 == raw));
            assert!(PutOutcome::from_raw(raw).is_none_or(|outcome| outcome as u32 == raw));
            let raw = u64::from(raw);
            assert!(HandOverOutcome::from_raw(raw).is_none_or(|outcome| outcome as u64 == raw));
        }
    }
}
