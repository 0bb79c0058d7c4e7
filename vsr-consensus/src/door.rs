//! The replica's surroundings: what comes in, what goes out, and what is said about it.

use vsr_types::{ClientId, Frame, Header, Instant, MemberId, Nonce, Op, OpMax, ReplicaIndex, View};
use vsr_types::{ClusterId, Epoch, Incarnation, limits, message::PeerStatus};

use crate::OnOpMax;

/// What happened to the replica.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message arrived.
    Message(Frame<'a>),
    /// [`crate::Replica::next_deadline`] has come. A driver first hands over every message that is
    /// ready and then this: that is how batches form by themselves under load while a lone request
    /// leaves at once.
    Deadline,
    /// The process is about to end: a primary hands over, so that nobody waits for a time-out (N25).
    /// Give it its deadlines until its report shows another view, or for as long as there is time.
    Leave,
    /// The node has archived the state that `epoch` ended with, as [`Report::archive_due`] asked (R10.4).
    Archived {
        /// The epoch that was asked for.
        epoch: Epoch,
    },
}

/// What became of a message that was handed to an [`Outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It is on its way, as far as anybody can know.
    Queued,
    /// There was no room or no connection. The protocol tolerates loss.
    Dropped,
}

/// Where the replica's decisions leave. Implementations copy what they are given before they return;
/// they never block, allocate or call back.
pub trait Outbox {
    /// For another replica.
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent;
    /// For a client, over whatever connection its last message came.
    fn client(&mut self, to: ClientId, header: &Header, body: &[u8]) -> Sent;
    /// For whoever sent the message that is being handled: tools.
    fn sender(&mut self, header: &Header, body: &[u8]) -> Sent;
}

/// What one process knows about itself when it starts: all the randomness a replica ever gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The machine.
    pub member: MemberId,
    /// This process: becomes the random part of its first incarnation (R7.1).
    pub nonce: Nonce,
    /// Seeds the replica's own generator (jitter).
    pub seed: u64,
}

/// What a step did, for the driver's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The message was not for us to act on.
    pub dropped: Option<DropReason>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a message was ignored. Dropping is data: counted, visible, testable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name under which it is counted.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// The sender is no replica of this cluster, or claims to be us.
    NotAReplica => "not_a_replica",
    /// The sender's slot is filled by another machine.
    WrongMember => "wrong_member",
    /// The sender is an earlier life of a replica (R0.1).
    StaleIncarnation => "stale_incarnation",
    /// A number is so far ahead that it must be damage (R0.3).
    ImplausibleNumber => "implausible_number",
    /// The sender's vote is that of a life that has ended since, as somebody else's vote shows (R5.3).
    Inconsistent => "inconsistent",
    /// A process that says it lost its memory, in the place of one that was heard of just now (R6.2).
    StillAlive => "still_alive",
    /// The epoch is not that of the op that the message is about, or not the one that was asked for (R10.2).
    OtherEpoch => "other_epoch",
    /// An older view.
    OlderView => "older_view",
    /// A newer view than ours.
    NewerView => "newer_view",
    /// Not for a replica in this status.
    WrongStatus => "wrong_status",
    /// Only a primary takes this.
    NotPrimary => "not_primary",
    /// Only a backup takes this, or only from its primary.
    NotFromPrimary => "not_from_primary",
    /// The message contradicts itself.
    Malformed => "malformed",
    /// What the answer depends on is inherited and not executed yet; the client asks again.
    NotYetExecuted => "not_yet_executed",
    /// We have it already.
    Duplicate => "duplicate",
    /// A prepare beyond the next one.
    Gap => "gap",
    /// A prepare whose parent is not our last entry.
    WrongParent => "wrong_parent",
    /// An acknowledgement of another entry than ours.
    WrongIdentity => "wrong_identity",
    /// The journal cannot take it before more is executed (R8.1).
    JournalFull => "journal_full",
    /// All queues are full; the client was told.
    Busy => "busy",
    /// The session is not known; the client was told.
    UnknownSession => "unknown_session",
    /// The request is older than the session's last.
    OldRequest => "old_request",
    /// The request is being worked on.
    InFlight => "in_flight",
    /// A request or query was passed on to the primary; not a failure, but nothing is left to do here.
    PassedOn => "passed_on",
    /// A reply was sent again.
    Repeated => "repeated",
    /// The state machine refused the operation; the client was told.
    Refused => "refused",
    /// What is known of the session is damaged; the client asks again.
    Damaged => "damaged",
    /// Not handled by a replica: the driver's business.
    NotForReplicas => "not_for_replicas",
    /// The feature that this message belongs to is not part of this version.
    Unsupported => "unsupported",
}

/// Why a replica has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltReason {
    /// A majority has another state, or another log, at `op` than this replica (N16, R4.2). What it holds is
    /// worth nothing: the driver ends the process, or makes a new replica with a new nonce, which recovers
    /// from the others.
    Divergence {
        /// Where the digests differ.
        op: Op,
    },
    /// No majority agrees about `op`, so nobody can tell which replicas are right (N16, R4.2). This one
    /// serves nobody and keeps what it holds, for people to look at: see
    /// [`crate::Replica::divergence`]. It becomes [`Self::Divergence`] when a majority is seen to agree
    /// without this replica.
    NoMajority {
        /// Where the digests differ.
        op: Op,
    },
    /// The op numbers are used up: those of the epoch, and the operator chose to halt, or all there are.
    OpMax,
    /// A newer life of this replica is known to the others (R0.2): this process must end.
    Superseded,
    /// The numbers of the protocol are not what the replica wrote (R6.8). It says and does nothing any
    /// more: the driver ends the process, or makes a new replica with a new nonce, which recovers.
    Memory,
}

/// How close an epoch is to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EpochWarning {
    /// Less than nine tenths of its op numbers are used.
    #[default]
    None,
    /// Nine tenths of them are.
    Near,
    /// Ninety-nine hundredths.
    Close,
    /// All of them.
    Full,
}

impl EpochWarning {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Near, Self::Close, Self::Full];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Near => "near",
            Self::Close => "close",
            Self::Full => "full",
        }
    }

    /// With `left` ops left of `of`.
    #[must_use]
    pub const fn of(left: u64, of: u64) -> Self {
        let hundredths = left as u128 * 100;
        let of = of as u128;
        match left {
            0 => Self::Full,
            _ if hundredths <= of => Self::Close,
            _ if hundredths <= of * 10 => Self::Near,
            _ => Self::None,
        }
    }
}

/// What a replica knows of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerReport {
    /// When it was last heard of; none: never.
    pub heard: Option<Instant>,
    /// Its status, as it said.
    pub status: Option<PeerStatus>,
    /// The view it said it is in.
    pub view: View,
    /// The last op it holds.
    pub op: Op,
    /// The last op it executed.
    pub applied: Op,
    /// The oldest op whose body it holds.
    pub tail: Op,
    /// The time a ping and its answer took, in nanoseconds; 0: not measured.
    pub round_trip_ns: u64,
    /// At the primary: it does not acknowledge in time and is left out of the chain.
    pub suspect: bool,
}

/// A replica in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The cluster; zero while blank.
    pub cluster: ClusterId,
    /// This replica.
    pub replica: ReplicaIndex,
    /// How many there are.
    pub replicas: u8,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its status.
    pub status: PeerStatus,
    /// Why it stopped, if it has.
    pub halted: Option<HaltReason>,
    /// How ops are named.
    pub op_max: OpMax,
    /// What happens when an epoch's numbers are used up.
    pub on_op_max: OnOpMax,
    /// The epoch of the last op in the log.
    pub epoch: Epoch,
    /// How many ops that epoch has left.
    pub ops_left: u64,
    /// Whether that is worth a warning.
    pub warning: EpochWarning,
    /// The epoch that the node is to archive now; see [`crate::Input::Archived`].
    pub archive_due: Option<Epoch>,
    /// Its view.
    pub view: View,
    /// Who leads that view.
    pub primary: ReplicaIndex,
    /// The last op in the log.
    pub op: Op,
    /// The last op known to be committed.
    pub commit: Op,
    /// The last op executed.
    pub applied: Op,
    /// The oldest op whose body is held.
    pub tail: Op,
    /// The newest op at which a digest was taken, and the digest.
    pub digest: vsr_types::body::DigestReport,
    /// How many sessions are open.
    pub sessions: usize,
    /// How many prepares are in flight (primary only).
    pub in_flight: usize,
    /// The chain's route as of the last prepare (primary only).
    pub route: vsr_types::Route,
    /// What is known of the others, by index.
    pub peers: [PeerReport; limits::REPLICAS_MAX],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_come_in_time() {
        let warning = |left| EpochWarning::of(left, 1_000);
        assert_eq!(warning(1_000), EpochWarning::None);
        assert_eq!(warning(101), EpochWarning::None);
        assert_eq!(warning(100), EpochWarning::Near);
        assert_eq!(warning(11), EpochWarning::Near);
        assert_eq!(warning(10), EpochWarning::Close);
        assert_eq!(warning(1), EpochWarning::Close);
        assert_eq!(warning(0), EpochWarning::Full);
        let most = limits::NUMBER_MAX;
        assert_eq!(EpochWarning::of(most, most), EpochWarning::None);
        assert!(EpochWarning::ALL.is_sorted());
    }
}
