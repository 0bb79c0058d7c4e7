//! The words that replicas, clients and tools exchange, and nothing else.
//!
//! Two machines that disagree about the meaning of one byte cannot agree on anything. So this crate
//! fixes every byte once: numbers that could be mistaken for one another are types of their own
//! ([`View`], [`Op`], [`ClientId`], ...), every message is a layout of plain old data whose size and
//! padding are asserted while compiling, and the only way to get a message out of bytes is
//! [`Frame::parse`], which has checked length, version, cluster and both checksums.
//!
//! ```text
//!  0        16                                 80                 120      128            size
//!  | seals  | cluster, member, incarnation,    | message fields   | size,  | body ...      |
//!  |        | epoch, view                      | (40 bytes)       | kind   |               |
//!  +--------+----------------------------------+------------------+--------+---------------+
//!           '---------- covered by `checksum` ----------------------------'
//!                                                                          '- checksum_body'
//! ```
//!
//! **Architecture invariants.** This crate holds no policy: it knows what a `DoViewChange` looks
//! like, never when to send one. It allocates nothing and has no `unsafe`.
//!
//! Where to read next: [`header`] for the layout, [`message`] for the table of messages, [`frame`]
//! for the door, [`batch`] for what a prepare carries, [`limits`] for every bound.
//!
//! ```
//! use vsr_types::{ClusterId, Frame, Header, View, Op, message::PrepareOk};
//! let cluster = ClusterId::new(7);
//! let mut header = Header::new(PrepareOk { op: Op::new(3), ..bytemuck::Zeroable::zeroed() });
//! header.set_cluster(cluster);
//! header.set_view(View::new(1));
//! header.seal(&[]);
//! let frame = Frame::parse(bytemuck::bytes_of(&header), cluster).expect("sealed just now");
//! assert_eq!(frame.fields::<PrepareOk>().expect("is a prepare_ok").op, Op::new(3));
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod batch;
pub mod body;
mod checksum;
mod epochs;
pub mod frame;
pub mod header;
mod ids;
pub mod limits;
pub mod memory;
pub mod message;
pub mod route;
mod time;

pub use batch::{Batch, BatchBuilder, BatchError, Operation, Request, RequestHeader};
pub use checksum::{Checksum, Hasher, checksum, checksum_behind_first};
pub use epochs::{OpMax, OpName};
pub use frame::{Frame, FrameError};
pub use header::{HEADER_SIZE, Header};
pub use ids::{
    ClientId, ClusterId, CrashVector, Digest, Epoch, Identity, Incarnation, MemberId, Nonce, Op,
    ReplicaIndex, RequestNumber, SessionNumber, View, ViewStamp,
};
pub use message::{Command, Message};
pub use route::Route;
pub use time::{Instant, Now, Timestamp};

// Every layout here is little endian on the wire and read in place: a big-endian build would
// exchange other bytes under the same version.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "vsr runs on little-endian machines only"
);
