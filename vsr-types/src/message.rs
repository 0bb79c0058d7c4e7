//! Every message of the protocol, as forty bytes inside the header.
//!
//! One struct per message, all of one size, so that a header is one size too and a message without
//! a body is exactly one header. Messages that need more (headers of a log suffix, a crash vector,
//! a chunk of state) carry it in the body, whose layouts are in [`crate::body`] and [`crate::batch`].
//!
//! The names are those of Liskov and Cowling, *Viewstamped Replication Revisited* (2012), where the
//! paper has one. Fields called `reserved` are zero and ignored.

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;

use crate::{
    Checksum, ClientId, ClusterId, Digest, Identity, Nonce, Op, RequestNumber, Timestamp, View,
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
    /// "I hold the sealed state of the last epoch."
    EpochReady = 80,
    /// A tool asks a replica about itself.
    Inspect = 90,
    /// The answer, as JSON.
    InspectReply = 91,
}

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
    /// A newer incarnation of the sender is known.
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

/// See [`Command::Prepare`]. The body is a [`crate::Batch`]. The header's view is the one in which
/// the op was first prepared and its replica and incarnation are that view's primary's: both stay as
/// they are when the entry is relayed, repaired or inherited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Prepare {
    /// The place in the log.
    pub op: Op,
    /// What the primary knew to be committed when it prepared this.
    pub commit: Op,
    /// The replicated time of the batch, later than that of the op before.
    pub timestamp: Timestamp,
    /// The identity of the op before this one: the hash chain.
    pub parent: Identity,
}

/// See [`Command::PrepareOk`]. No body. Cumulative: every op up to `op` is held with its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PrepareOk {
    /// The last op held.
    pub op: Op,
    /// Its identity, which the primary compares with its own entry (R2.4).
    pub prepare: Identity,
    /// The last op executed here.
    pub applied: Op,
    /// The newest [`Commit::sequence`] seen from this primary.
    pub sequence: u64,
}

/// See [`Command::Commit`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Commit {
    /// Counts the primary's heartbeats: an older one proves nothing (R4.1), an answer to this one
    /// proves that the primary still leads after it sent it (read round, R12).
    pub sequence: u64,
    /// The primary's last op.
    pub op: Op,
    /// The last op known to be committed.
    pub commit: Op,
    /// The identity of that op's header and body (R4.2).
    pub commit_checksum: Checksum,
    /// See `commit_checksum`.
    pub commit_checksum_body: Checksum,
    /// The view in which the committed op was first prepared.
    pub commit_view: View,
}

/// See [`Command::CommitOk`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CommitOk {
    /// The heartbeat that this answers.
    pub sequence: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::Ping`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ping {
    /// The sender's clock when it sent this, in nanoseconds; a pong returns it unread.
    pub sent_ns: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// A [`PeerStatus`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// See [`Command::Pong`]. The body is a [`crate::body::DigestReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Pong {
    /// The ping's `sent_ns`.
    pub sent_ns: u64,
    /// The last op held.
    pub op: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is still held.
    pub tail: Op,
    /// A [`PeerStatus`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// The status of a replica as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerStatus {
    /// Holds nothing, belongs to no cluster.
    Blank = 1,
    /// Lost its memory and gets it back from its peers.
    Recovering = 2,
    /// Takes part.
    Normal = 3,
    /// Between two views.
    ViewChange = 4,
    /// Stopped, with a reason.
    Halted = 5,
}

impl PeerStatus {
    /// From the field of [`Ping`].
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Blank),
            2 => Some(Self::Recovering),
            3 => Some(Self::Normal),
            4 => Some(Self::ViewChange),
            5 => Some(Self::Halted),
            _ => None,
        }
    }
}

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

/// See [`Command::GetHeaders`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetHeaders {
    /// The first op wanted.
    pub from: Op,
    /// The last op wanted.
    pub to: Op,
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: u64,
}

/// See [`Command::Headers`]. The body is the headers, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Headers {
    /// The op of the first header.
    pub from: Op,
    /// The question that this answers.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 2],
}

/// See [`Command::GetPrepare`]. No body. Answered by prepares with an empty route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetPrepare {
    /// The first op wanted.
    pub from: Op,
    /// The last op wanted; the donor sends as many as it likes.
    pub to: Op,
    /// The identity of the op before `from`, as the asker has it: a donor whose chain differs there
    /// has nothing to offer. When `from` equals `to`, zero in `parent` asks by `identity` instead.
    pub parent: Identity,
    /// The most bytes the asker can take now.
    pub budget: u64,
}

/// See [`Command::IncarnationQuery`]. No body.
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

/// See [`Command::RecoveryRequest`]. The body is a [`crate::CrashVector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryRequest {
    /// Tells the answer from others.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::RecoveryResponse`]. The body is a [`crate::body::Recovery`]; from the primary, the
/// headers of its log's suffix follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryResponse {
    /// The question that this answers.
    pub nonce: Nonce,
    /// From the primary: its last op. Zero from others.
    pub op: Op,
    /// From the primary: the last op it executed.
    pub applied: Op,
    /// From the primary: the oldest op whose body it holds.
    pub tail: Op,
}

/// See [`Command::RecoveryReject`]. The body is a [`crate::CrashVector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecoveryReject {
    /// The question that this answers.
    pub nonce: Nonce,
    /// Zero.
    pub reserved: [u64; 3],
}

/// See [`Command::GetState`]. No body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GetState {
    /// Tells one transfer from another.
    pub nonce: Nonce,
    /// The first chunk wanted.
    pub chunk: u64,
    /// How many chunks the asker can take now.
    pub count: u64,
    /// Chunks that did not change after this op are not wanted.
    pub since: Op,
}

/// See [`Command::NewState`]. The body is the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NewState {
    /// The transfer.
    pub nonce: Nonce,
    /// The op at which the chunk was read.
    pub op: Op,
    /// Which chunk.
    pub chunk: u64,
    /// How many there are.
    pub chunks: u64,
}

/// See [`Command::InitPropose`]. No body.
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
            _ => None,
        }
    }
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
        }
    }
}
