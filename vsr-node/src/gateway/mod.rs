//! The RESP port: existing Redis clients use the cluster as they are (N32).
//!
//! ```text
//! connections -> Connection (parse, order of replies) -> Lane (one VSR session) -> Cluster
//!      ^                                                                             |
//!      '------------- replies, straight into the output buffers <--------------------'
//! ```
//!
//! Everything but [`serve`]'s file knows no socket: bytes go in, bytes come out, time is an argument.
//! That is what the tests drive.
//!
//! * `connection` one client: buffers, dialect, reply order.
//! * `transaction` its `MULTI`, `EXEC` and `WATCH`.
//! * `channel` and `lane` pack the commands of many connections into one request of one session.
//! * `core` joins them; `commands` answers what needs no cluster, with the long
//!   answers in `describe`.
//! * `memory` divides what all connections share: `blocks` for what they send, `pages` for what they
//!   are sent.
//! * `sockets` is the only place with input and output.
//!
//! **Invariants.** Replies leave in the order of the commands. All commands of a connection that are
//! outstanding at one time take the same way, log or query, so a client always sees its own writes.
//! Nothing is unbounded: a full lane stops its connections, a full connection stops its client.
//! Nothing is allocated while serving: memory that is not there is waited for in line, and meanwhile
//! the client is not read from. Those in the way, who neither send nor read on, are closed.

mod blocks;
mod channel;
mod commands;
mod connection;
mod core;
mod counters;
mod describe;
#[cfg(test)]
mod fake;
mod lane;
mod memory;
mod pages;
mod sockets;
mod table;
mod text;
mod transaction;

use std::rc::Rc;
use std::time::Duration;

use vsr_consensus::Report;
use vsr_types::{ClientId, ClusterId, Frame, FrameError, limits};

pub use counters::GatewayCounters;
pub(crate) use memory::{BUFFERS_MAX, BUFFERS_MIN};
pub use sockets::{Gateway, serve};

/// What the gateway needs of the replica it runs beside. The server implements it; tests have one in
/// memory.
///
/// No method may call back into the gateway before it returns: answers come later, from the turn
/// task.
pub trait Cluster {
    /// From now on, what is for `client` goes to `sink`.
    fn attach(&self, client: ClientId, sink: Rc<dyn Sink>);
    /// Nothing more for `client`.
    fn detach(&self, client: ClientId);
    /// A sealed request or query frame enters the cluster. It may be lost; the gateway sends it again.
    ///
    /// # Errors
    /// When the frame is not acceptable, e.g. because this replica belongs to no cluster yet.
    fn submit(&self, frame: &[u8]) -> Result<(), FrameError>;
    /// The cluster this replica belongs to; zero while blank.
    fn cluster_id(&self) -> ClusterId;
    /// The replica in a few numbers.
    fn report(&self) -> Report;
    /// Answers a packed query from this replica's own state, possibly stale, into `reply`; returns
    /// the reply's size.
    fn read_stale(&self, query: &[u8], reply: &mut [u8]) -> usize;
    /// 128 random bits, for client ids.
    fn random(&self) -> u128;
}

/// Where the frames for one lane go.
pub trait Sink {
    /// A reply, reject or query reply.
    fn on_frame(&self, frame: &Frame<'_>);

    /// Another replica leads: what is in flight may be lost, and is welcome there at once.
    fn on_view(&self) {}
}

/// What an operator may choose about the RESP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayOptions {
    /// How many VSR sessions the connections share. Two keep the cluster busy while one waits.
    pub lanes: usize,
    /// The most connections.
    pub clients_max: usize,
    /// The largest operation the cluster takes, in bytes.
    pub operation_size_max: usize,
    /// A request with more bytes than this takes no further command: the next one does.
    pub pack_size: usize,
    /// The largest command on the wire, in bytes.
    pub command_size_max: usize,
    /// A connection with more unread reply bytes than this gets no further command executed.
    pub output_soft_max: usize,
    /// The memory that the connections share for what they send and are sent, in bytes
    /// (`--resp-buffers`).
    pub buffers: usize,
    /// How long a command may be unanswered before it fails (`--client-timeout`).
    pub client_timeout: Duration,
    /// A client that reads nothing of its replies for so long is closed.
    pub slow_reader_timeout: Duration,
    /// A client that leaves a command unfinished, or unauthenticated silence, for so long is closed.
    pub half_open_timeout: Duration,
    /// How long a client may neither read nor finish its command while others wait for the memory
    /// that it holds.
    pub contended_timeout: Duration,
    /// A client that sends nothing at all for so long is closed; none: never, as in Redis.
    pub idle_timeout: Option<Duration>,
    /// The password clients must give, if any.
    pub password: Option<Vec<u8>>,
    /// The version reported as `redis_version`.
    pub redis_version: &'static str,
    /// The host and port that `CLUSTER SLOTS` tells clients; by default that of the connection.
    pub announce: Option<(String, u16)>,
    /// Whether all memory is touched when it is allocated, so that it is resident.
    pub prefault: bool,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            lanes: 2,
            clients_max: 10_000,
            operation_size_max: limits::OPERATION_SIZE_MAX,
            pack_size: 256 * 1024,
            command_size_max: limits::FRAME_SIZE_MAX,
            output_soft_max: 256 * 1024,
            buffers: 32 << 20,
            client_timeout: Duration::from_secs(5),
            slow_reader_timeout: Duration::from_secs(30),
            half_open_timeout: Duration::from_secs(30),
            contended_timeout: Duration::from_secs(3),
            idle_timeout: None,
            password: None,
            redis_version: "7.4.0",
            announce: None,
            prefault: false,
        }
    }
}
