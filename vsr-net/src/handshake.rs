//! The first frame on every connection: who I am, what I speak, which cluster and list I mean.
//!
//! ```text
//!   caller                       acceptor
//!     | -- Hello ------------------> |   within a deadline, 128 bytes, nothing before it
//!     | <------------- Welcome ----- |   or Refuse, with what was expected and what was received
//! ```
//!
//! Everything that two processes can disagree about before they exchange a message of the protocol is
//! named here, so that a wrong flag on one machine is a sentence in its log and not a cluster that
//! quietly does not form. A refusal is numbers on the wire and a sentence for people here.
//!
//! Which life of a replica the caller is decides nothing here. The crash vector fences every message
//! (R0.1), and a process that its peers refuse to hear would never learn that it was superseded
//! (R0.2), nor could one that lost its memory introduce itself (R6.1): it says incarnation zero, or a
//! new one that nobody knows yet. Two processes that claim one replica at the same time are told apart
//! by [`Caller::member`], drawn anew by every process; whoever keeps the links decides between them.
//!
//! Both digests are FNV-1a (Fowler, Noll, Vo): they tell honest mistakes apart, they are no secret.

use core::fmt;

use vsr_types::message::{Hello, LinkKind, Refuse, RefuseReason, Welcome};
use vsr_types::{
    ClusterId, Command, Digest, Frame, FrameError, HEADER_SIZE, Header, Incarnation, MemberId,
    ReplicaIndex, View, limits,
};

/// "Any replica" in [`Hello::target`].
pub const TARGET_ANY: u8 = u8::MAX;

/// The digest of a cluster's name, as it stands in a hello.
#[must_use]
pub fn cluster_name_digest(name: &str) -> Digest {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let raw = name.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    Digest::new(raw)
}

/// The digest of a peers list: the same list in the same order everywhere, letter case aside.
#[must_use]
pub fn configuration_digest<S: AsRef<str>>(peers: &[S]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let mut hash = BASIS;
    for peer in peers {
        // No address holds a line break, so it keeps neighbours apart.
        for byte in peer.as_ref().trim().bytes().chain([b'\n']) {
            hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(PRIME);
        }
    }
    hash
}

/// What a replica knows of itself: both sides of the handshake compare against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// See [`cluster_name_digest`].
    pub cluster_name: Digest,
    /// See [`configuration_digest`].
    pub configuration: u64,
    /// This replica; [`ReplicaIndex::CLIENT`] for clients and tools.
    pub replica: ReplicaIndex,
    /// How many the list has.
    pub replicas: u8,
    /// This process, as in [`Caller::member`].
    pub member: MemberId,
    /// This life of it; zero while it holds nothing.
    pub incarnation: Incarnation,
    /// The cluster; zero while it knows none.
    pub cluster: ClusterId,
    /// The view it is in.
    pub view: View,
}

impl Identity {
    /// A client or tool. A `cluster_name` of none takes any cluster.
    #[must_use]
    pub fn of_client(cluster_name: Option<&str>) -> Self {
        Self {
            cluster_name: cluster_name.map_or(Digest::ZERO, cluster_name_digest),
            configuration: 0,
            replica: ReplicaIndex::CLIENT,
            replicas: 0,
            member: MemberId::ZERO,
            incarnation: Incarnation::default(),
            cluster: ClusterId::ZERO,
            view: View::ZERO,
        }
    }

    /// The hello of this replica, client or tool, sealed.
    #[must_use]
    pub fn hello(&self, kind: LinkKind, target: Option<ReplicaIndex>) -> Header {
        self.seal(Header::new(Hello {
            cluster_name: self.cluster_name,
            configuration: self.configuration,
            protocol_min: limits::PROTOCOL_MIN,
            protocol_max: limits::PROTOCOL,
            kind: kind as u8,
            target: target.map_or(TARGET_ANY, ReplicaIndex::raw),
            reserved: [0; 10],
        }))
    }

    /// The answer to `caller`'s good hello, sealed.
    #[must_use]
    pub fn welcome(&self, caller: &Caller, operation_size_max: usize) -> Header {
        self.seal(Header::new(Welcome {
            cluster_name: self.cluster_name,
            configuration: self.configuration,
            protocol: caller.protocol,
            replicas: self.replicas,
            reserved: 0,
            frame_size_max: limits::FRAME_SIZE_MAX as u32,
            operation_size_max: u32::try_from(operation_size_max).unwrap_or(u32::MAX),
            reserved_2: 0,
        }))
    }

    fn seal(&self, mut header: Header) -> Header {
        header.set_cluster(self.cluster);
        header.set_sender(self.replica, self.member, self.incarnation);
        header.set_view(self.view);
        header.seal(&[]);
        header
    }

    /// Judges the first frame of a connection that somebody opened to this replica.
    ///
    /// # Errors
    /// Why the connection is refused; [`Refusal::frame`] tells the caller.
    pub fn judge_hello(&self, first: &[u8]) -> Result<Caller, Refusal> {
        let frame = first_frame(first)?;
        let Some(hello) = frame.fields::<Hello>() else {
            let command = frame.command() as u64;
            return Err(Refusal::new(
                RefuseReason::NoHello,
                Command::Hello as u64,
                command,
            ));
        };
        if hello.protocol_min > limits::PROTOCOL || hello.protocol_max < limits::PROTOCOL_MIN {
            let received = u64::from(hello.protocol_max);
            return Err(Refusal::new(
                RefuseReason::Version,
                limits::PROTOCOL.into(),
                received,
            ));
        }
        let Some(kind) = LinkKind::from_raw(hello.kind) else {
            return Err(Refusal::new(RefuseReason::NoHello, 0, hello.kind.into()));
        };
        let is_peer = kind == LinkKind::Peer;
        if hello.cluster_name != self.cluster_name && (is_peer || !hello.cluster_name.is_zero()) {
            let (expected, received) = (low(self.cluster_name), low(hello.cluster_name));
            return Err(Refusal::new(RefuseReason::ClusterName, expected, received));
        }
        if hello.target != TARGET_ANY && hello.target != self.replica.raw() {
            let (mine, theirs) = (self.replica.raw(), hello.target);
            return Err(Refusal::new(
                RefuseReason::WrongReplica,
                mine.into(),
                theirs.into(),
            ));
        }
        if is_peer {
            self.judge_peer(frame.header(), hello)?;
        }
        Ok(Caller {
            kind,
            replica: frame.header().replica(),
            member: frame.header().member(),
            incarnation: frame.header().incarnation(),
            protocol: hello.protocol_max.min(limits::PROTOCOL),
        })
    }

    fn judge_peer(&self, header: &Header, hello: &Hello) -> Result<(), Refusal> {
        if hello.configuration != self.configuration {
            let (mine, theirs) = (self.configuration, hello.configuration);
            return Err(Refusal::new(RefuseReason::Configuration, mine, theirs));
        }
        // One connection per pair, and the higher number dials: whoever is below or equal is not who
        // it says, or has another number than it thinks.
        let caller = header.replica();
        if !caller.is_valid(self.replicas) || caller <= self.replica {
            let (count, theirs) = (self.replicas.into(), caller.raw().into());
            return Err(Refusal::new(RefuseReason::BadReplica, count, theirs));
        }
        judge_cluster(self.cluster, header.cluster())
    }

    /// Judges the answer to a hello that was sent to `target` (any replica when none).
    ///
    /// # Errors
    /// The acceptor's refusal, or our own when its welcome shows that it is not who we meant.
    pub fn judge_answer(
        &self,
        answer: &[u8],
        target: Option<ReplicaIndex>,
    ) -> Result<Greeting, Refusal> {
        let frame = first_frame(answer)?;
        if let Some(refuse) = frame.fields::<Refuse>() {
            return Err(Refusal::read(refuse));
        }
        let Some(&welcome) = frame.fields::<Welcome>() else {
            let (expected, received) = (Command::Welcome as u64, frame.command() as u64);
            return Err(Refusal::new(RefuseReason::BadFrame, expected, received));
        };
        if welcome.protocol < limits::PROTOCOL_MIN || welcome.protocol > limits::PROTOCOL {
            let received = u64::from(welcome.protocol);
            return Err(Refusal::new(
                RefuseReason::Version,
                limits::PROTOCOL.into(),
                received,
            ));
        }
        if !self.cluster_name.is_zero() && welcome.cluster_name != self.cluster_name {
            let (expected, received) = (low(self.cluster_name), low(welcome.cluster_name));
            return Err(Refusal::new(RefuseReason::ClusterName, expected, received));
        }
        let header = *frame.header();
        if target.is_some_and(|target| header.replica() != target) {
            let expected = target.map_or(0, |target| target.raw().into());
            let received = header.replica().raw().into();
            return Err(Refusal::new(RefuseReason::WrongReplica, expected, received));
        }
        if self.replica != ReplicaIndex::CLIENT {
            if welcome.configuration != self.configuration {
                let (mine, theirs) = (self.configuration, welcome.configuration);
                return Err(Refusal::new(RefuseReason::Configuration, mine, theirs));
            }
            judge_cluster(self.cluster, header.cluster())?;
        }
        Ok(Greeting { header, welcome })
    }
}

/// Two processes of different clusters have nothing to say to each other; one that belongs to none
/// yet may talk to any.
fn judge_cluster(mine: ClusterId, theirs: ClusterId) -> Result<(), Refusal> {
    if mine.is_zero() || theirs.is_zero() || mine == theirs {
        return Ok(());
    }
    let (expected, received) = (mine.raw() as u64, theirs.raw() as u64);
    Err(Refusal::new(RefuseReason::BadFrame, expected, received))
}

fn low(digest: Digest) -> u64 {
    digest.raw() as u64
}

/// The first frame of a connection, which has no body.
fn first_frame(bytes: &[u8]) -> Result<Frame<'_>, Refusal> {
    let refused = |error| match error {
        FrameError::Protocol { protocol } => Refusal::new(
            RefuseReason::Version,
            limits::PROTOCOL.into(),
            protocol.into(),
        ),
        FrameError::Size { size } => {
            Refusal::new(RefuseReason::BadFrame, HEADER_SIZE as u64, size.into())
        }
        FrameError::Truncated => Refusal::new(
            RefuseReason::NoHello,
            HEADER_SIZE as u64,
            bytes.len() as u64,
        ),
        _ => Refusal::new(RefuseReason::BadFrame, 0, 0),
    };
    match Frame::peek(bytes, HEADER_SIZE) {
        Ok(Some(size)) if size == bytes.len() => {}
        Ok(_) => return Err(refused(FrameError::Truncated)),
        Err(error) => return Err(refused(error)),
    }
    // The cluster is compared below, where a mismatch can be named.
    Frame::parse(bytes, ClusterId::ZERO).map_err(refused)
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What for.
    pub kind: LinkKind,
    /// Which replica; [`ReplicaIndex::CLIENT`] when it is none.
    pub replica: ReplicaIndex,
    /// Which process: drawn at random when it starts.
    pub member: MemberId,
    /// Its life; zero while it holds nothing.
    pub incarnation: Incarnation,
    /// The protocol version both speak.
    pub protocol: u16,
}

/// What the acceptor said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Says cluster, view, replica and incarnation.
    pub header: Header,
    /// The rest.
    pub welcome: Welcome,
}

/// Why a connection is refused or closed, with the numbers that explain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub reason: RefuseReason,
    /// What would have been right, where that is a number.
    pub expected: u64,
    /// What was received.
    pub received: u64,
}

impl Refusal {
    /// A refusal with its numbers.
    #[must_use]
    pub const fn new(reason: RefuseReason, expected: u64, received: u64) -> Self {
        Self {
            reason,
            expected,
            received,
        }
    }

    /// As received. A reason that this build does not know counts as a bad frame.
    #[must_use]
    pub fn read(refuse: &Refuse) -> Self {
        let reason = RefuseReason::from_raw(refuse.reason).unwrap_or(RefuseReason::BadFrame);
        Self::new(reason, refuse.expected, refuse.received)
    }

    /// The frame that tells the other side, sealed.
    #[must_use]
    pub fn frame(&self) -> Header {
        let mut header = Header::new(Refuse {
            reason: self.reason as u32,
            reserved: 0,
            expected: self.expected,
            received: self.received,
            reserved_2: [0; 2],
        });
        header.seal(&[]);
        header
    }

    /// Whether trying again later may help: everything else needs an operator.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self.reason,
            RefuseReason::TooManyConnections | RefuseReason::ShuttingDown | RefuseReason::NoHello
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            expected,
            received,
        } = *self;
        match reason {
            RefuseReason::NoHello => f.write_str(
                "the first frame was no hello, or it did not come in time; does this port belong \
                 to a vsr node?",
            ),
            RefuseReason::Version => write!(
                f,
                "no common protocol version: {expected} is spoken here, {received} there; upgrade \
                 the older side"
            ),
            RefuseReason::ClusterName => write!(
                f,
                "another cluster's name (digest {received:016x} instead of {expected:016x}); \
                 compare --cluster on both sides"
            ),
            RefuseReason::Configuration => write!(
                f,
                "another peers list or other settings (digest {received:016x} instead of \
                 {expected:016x}); --peers must be the same list in the same order everywhere, and \
                 --memory, --sessions, --reply-size, --batch-max, --op-max, --on-op-max and --digest-period the \
                 same numbers"
            ),
            RefuseReason::WrongReplica => write!(
                f,
                "this is replica {expected}, not replica {received}; compare the order of --peers \
                 and --replica with the addresses"
            ),
            RefuseReason::BadReplica => write!(
                f,
                "replica {received} may not connect here: of {expected} replicas, those with a \
                 higher number than this one do; is --replica right on both machines?"
            ),
            RefuseReason::StaleIncarnation => write!(
                f,
                "another process of this replica is connected and answers (its life is number \
                 {expected}, this one's {received}); is the replica running twice?"
            ),
            RefuseReason::TooManyConnections => write!(
                f,
                "all {expected} connections are taken; close some, or raise --connections"
            ),
            RefuseReason::BadFrame if expected == 0 && received == 0 => {
                f.write_str("a frame was damaged")
            }
            RefuseReason::BadFrame => write!(
                f,
                "a frame was damaged, too large, of another cluster or not for this kind of \
                 connection ({received:#x}, expected {expected:#x})"
            ),
            RefuseReason::ShuttingDown => f.write_str("the replica is going away"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
