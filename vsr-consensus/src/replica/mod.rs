//! The replica: one struct, one door in, one sink out, one deadline.
//!
//! [`Replica::step`] takes a message, or the news that the deadline has passed, and hands what it
//! decides to the [`Outbox`] before it returns. It never waits, allocates, or reads a clock. The rooms
//! of this module each hold one concern and its own `impl Replica` block:
//!
//! | room | concern |
//! | --- | --- |
//! | `admit` | the one gate: who may say what to a replica in this status |
//! | `requests` | clients: sessions, batching, admission |
//! | `normal` | prepare, acknowledge, commit, execute |
//! | `chain` | the route of prepares, links that break and mend |
//! | `log` | what a view's log begins with, what of it is held |
//! | `repair` | fetching what is missing from others' journals |
//! | `scrub` | looking for damage before anybody needs what was damaged |
//! | `damage` | state that is not what was written, and how it is got rid of |
//! | `findings` | what was found damaged and what became of it, for people |
//! | `view_change` | leaving a view, and following the next |
//! | `view_change::elect` | from votes to a view that has started |
//! | `hand_over` | letting another replica lead |
//! | `log_choice` | votes in, the log of the new view out |
//! | `recovery` | how a replica that lost its memory comes back |
//! | `transfer` | the state itself, to and from peers |
//! | `reads` | linearizable reads by a quorum round |
//! | `bootstrap` | how a cluster begins |
//! | `pings` | what replicas tell each other all the time: status, digests |
//! | `epochs` | what happens when an epoch's op numbers are used up |
//! | `deadlines` | what happens when, and when next |
//! | `exit` | the one way out, the mirror of `admit` |
//! | `invariants` | what must hold after every step |
//! | `control` | the numbers that promises rest on, kept twice |

mod admit;
mod bootstrap;
mod chain;
mod control;
mod damage;
mod deadlines;
mod epochs;
mod exit;
mod findings;
#[cfg(feature = "sim")]
pub(crate) mod fingerprint;
#[cfg(feature = "flip")]
pub(crate) mod flip;
mod hand_over;
mod invariants;
mod log;
mod log_choice;
mod memory;
mod normal;
mod pings;
mod reads;
mod recovery;
mod repair;
mod requests;
mod scrub;
#[cfg(test)]
mod tests;
mod transfer;
mod unserved;
mod view_change;

use alloc::boxed::Box;
use alloc::vec;

use vsr_journal::Journal;
use vsr_types::message::PeerStatus;
use vsr_types::{
    ClusterId, CrashVector, Digest, Header, Identity, Incarnation, Instant, MemberId, Now, Op,
    ReplicaIndex, Timestamp, View, limits,
};

use crate::counters::Counters;
use crate::digests::Digests;
use crate::mutants::Mutant;
use crate::random::Random;
use crate::sessions::{SessionReport, Sessions, whole_digest};
use crate::{
    Boot, Config, DropReason, EpochWarning, HaltReason, Input, Outbox, Outcome, PeerReport, Report,
    StateMachine,
};
use bootstrap::{Proposal, Renounced};
use chain::Links;
use control::Control;
use damage::Damage;
use findings::Findings;
pub use findings::{Finding, FindingKind, FindingTotals, FoundBy, Remedy};
#[cfg(feature = "flip")]
pub use flip::Place;
use log::Inherited;
use memory::Marks;
use reads::Reads;
use recovery::Recovery;
pub use recovery::{RecoveryPhase, RecoveryReport};
use repair::Repair;
use requests::OpenBatch;
pub use scrub::ScrubReport;
use scrub::Scrubber;
use transfer::Transfer;
pub use transfer::TransferReport;
use view_change::Change;

/// What a replica is doing. Only the `enter_*` functions change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Holds nothing and belongs to no cluster; may have agreed to a proposal to form one.
    Blank(Option<Proposal>),
    /// Lost its memory and gets it back from its peers; takes part in nothing (R6.7).
    Recovering,
    /// Takes part, as primary or backup of its view.
    Normal,
    /// Has left its last view; the next has not started here.
    ViewChange,
    /// Stopped, with a reason, until an operator acts.
    Halted(HaltReason),
}

/// One replica of a cluster that runs the state machine `S`.
#[derive(Debug)]
pub struct Replica<S> {
    config: Config,
    boot: Boot,
    /// What the numbers of the protocol were after the last step; none: no step yet.
    sealed: Option<Control>,
    /// They were found to be others: nothing here can be trusted.
    is_untrusted: bool,
    machine: S,
    status: Status,

    cluster: ClusterId,
    /// `log_view <= view`; equal while Normal.
    view: View,
    /// The view whose log the journal holds.
    log_view: View,
    /// This life; `crash_vector.of(me) == incarnation` (I1).
    incarnation: Incarnation,
    crash_vector: CrashVector,
    /// Which machine fills each slot, once it has been heard of.
    members: [MemberId; limits::REPLICAS_MAX],
    bootstrap: vsr_types::body::BootNonces,
    bootstrap_token: vsr_types::Nonce,
    renounced: Renounced,

    journal: Journal,
    /// What the log's view began with.
    inherited: Inherited,
    /// The last op in the ring that is known to belong to the log of `log_view`.
    verified: Op,
    /// The last op up to which every body is, or was, present: what may be acknowledged.
    held: Op,
    /// The identity of the last op in the journal: the next prepare's parent.
    head: Identity,
    /// The timestamp of that op.
    head_timestamp: Timestamp,
    /// The timestamp of the last entry that was prepared here, or arrived soon after it was prepared, and
    /// when that was. What comes with a log or a state from others may be older than its arrival by any
    /// time, and says nothing about the clock.
    clock_base: Option<(Timestamp, Instant)>,
    /// The bytes of the bodies that this primary has prepared and not executed.
    unexecuted_bytes: usize,
    /// The last op known to be committed. May lie beyond the journal's head at a backup (I3).
    commit: Op,
    /// The last op executed: `applied <= commit`, `applied <= journal.head()`.
    applied: Op,
    /// The last op of the newest epoch whose end this replica's node has archived (R10.4).
    archived: Op,
    /// The identity and time of the last op executed.
    applied_identity: Identity,
    applied_timestamp: Timestamp,
    /// The entry after `applied` was found damaged and must be fetched again before it can run.
    stalled: bool,
    sessions: Sessions,
    /// What of machine and sessions is not what was written.
    damage: Damage,
    scrubber: Scrubber,
    findings: Findings,
    digests: Digests,
    /// The period of replicated time in which the newest digest was taken.
    digest_period: u64,

    batch: OpenBatch,
    links: Links,
    reads: Reads,
    repair: Repair,
    transfer: Transfer,
    change: Change,
    recovery: Recovery,

    /// Counts this primary's heartbeats, or the newest heard from it.
    sequence: u64,
    /// An acknowledgement is owed to the primary.
    ack_due: bool,
    /// The highest op already passed on down the chain.
    forwarded: Op,
    heartbeat_at: Instant,
    ping_at: Instant,
    now: Now,
    random: Random,
    counters: Counters,
    /// Replies are written here before they are stored and sent.
    reply_buffer: Box<[u8]>,
    /// How much of what is used for the length of a call was used at most.
    marks: Marks,
}

impl<S: StateMachine> Replica<S> {
    /// A blank replica. Everything it will ever need is allocated here.
    #[must_use]
    pub fn new(config: &Config, boot: Boot, machine: S) -> Self {
        Self {
            sealed: None,
            is_untrusted: false,
            machine,
            status: Status::Blank(None),
            cluster: ClusterId::ZERO,
            view: View::ZERO,
            log_view: View::ZERO,
            incarnation: Incarnation::default(),
            crash_vector: CrashVector::default(),
            members: [MemberId::ZERO; limits::REPLICAS_MAX],
            bootstrap: bytemuck::Zeroable::zeroed(),
            bootstrap_token: vsr_types::Nonce::ZERO,
            renounced: Renounced::NONE,
            journal: Journal::new(config.journal_slots, config.journal_bytes),
            inherited: Inherited::new(config),
            verified: Op::ZERO,
            held: Op::ZERO,
            head: Identity::default(),
            head_timestamp: Timestamp::default(),
            clock_base: None,
            unexecuted_bytes: 0,
            commit: Op::ZERO,
            applied: Op::ZERO,
            archived: Op::ZERO,
            applied_identity: Identity::default(),
            applied_timestamp: Timestamp::default(),
            stalled: false,
            #[cfg(not(feature = "mutate"))]
            sessions: Sessions::new(config.sessions, config.reply_bytes),
            #[cfg(feature = "mutate")]
            sessions: Sessions::new(config.sessions, config.reply_bytes).without(config.mutant),
            damage: Damage::default(),
            scrubber: Scrubber::default(),
            findings: Findings::default(),
            digests: Digests::new(),
            digest_period: 0,
            batch: OpenBatch::new(config.batch_size_max),
            links: Links::new(config),
            reads: Reads::new(config.query_bytes),
            repair: Repair::new(),
            transfer: Transfer::new(config),
            change: Change::new(config),
            recovery: Recovery::new(config),
            sequence: 0,
            ack_due: false,
            forwarded: Op::ZERO,
            heartbeat_at: Instant::ZERO,
            ping_at: Instant::ZERO,
            now: Now::default(),
            random: Random::new(boot.seed),
            counters: Counters::default(),
            reply_buffer: vec![0; limits::REPLY_SIZE_MAX].into_boxed_slice(),
            marks: Marks::default(),
            config: config.clone(),
            boot,
        }
    }

    /// Handles one input. The only door.
    ///
    /// # Panics
    /// When one of the replica's own invariants is broken; never because of what a message says.
    pub fn step(&mut self, now: Now, input: Input<'_>, out: &mut impl Outbox) -> Outcome {
        // R6.8: what is not what the last step left behind is trusted no more, nor is anything else.
        if self.is_untrusted || !self.is_as_sealed() {
            self.is_untrusted = true;
            self.counters.dropped(DropReason::WrongStatus);
            return Outcome {
                dropped: Some(DropReason::WrongStatus),
            };
        }
        self.now.monotonic = self.now.monotonic.max(now.monotonic);
        self.now.wall = now.wall;
        let handled = match input {
            Input::Message(frame) => {
                self.counters.received(frame.command());
                self.on_message(&frame, out)
            }
            Input::Deadline => {
                self.on_deadline(out);
                Ok(())
            }
            Input::Leave => {
                if let Some(successor) = self.best_successor() {
                    self.begin_hand_over(successor);
                }
                Ok(())
            }
            Input::Archived { epoch } => self.on_archived(epoch),
        };
        if let Err(reason) = handled {
            self.counters.dropped(reason);
        }
        if self.sessions.is_damage_met() {
            self.note_damage_met(false);
        }
        self.check_invariants();
        self.seal();
        Outcome {
            dropped: handled.err(),
        }
    }

    /// This replica's place in the list.
    fn me(&self) -> ReplicaIndex {
        self.config.replica
    }

    /// Who leads the view (N4).
    fn primary(&self) -> ReplicaIndex {
        self.view.primary(self.config.replicas)
    }

    fn is_primary(&self) -> bool {
        self.primary() == self.me()
    }

    fn is_normal(&self) -> bool {
        self.status == Status::Normal
    }

    fn peers(&self) -> impl Iterator<Item = ReplicaIndex> + use<S> {
        let me = self.me();
        ReplicaIndex::all(self.config.replicas).filter(move |&replica| replica != me)
    }

    /// The last op in the log.
    fn op(&self) -> Op {
        self.journal.head()
    }

    /// The identity of `op`, which is in the journal or the genesis.
    fn identity_of(&self, op: Op) -> Option<Identity> {
        if op == self.op() {
            return Some(self.head);
        }
        if op == Op::ZERO {
            return Some(self.genesis());
        }
        if op == self.applied {
            return Some(self.applied_identity);
        }
        self.journal.header(op).map(Header::identity)
    }

    /// The log of this view is known and, at its primary, held: take part in it.
    fn enter_normal(&mut self) {
        self.status = Status::Normal;
        self.log_view = self.view;
        self.links.reset(self.now.monotonic);
        self.heartbeat_at = self.now.monotonic;
        self.ping_at = self.now.monotonic;
        self.forget_leading();
        self.change.on_normal(self.now.monotonic);
        self.watch_primary();
        self.damage_in_new_view();
    }

    /// Whatever a primary had begun ends with its view: clients ask again.
    fn forget_leading(&mut self) {
        self.batch.clear();
        self.reads.clear();
        if !self.is_off(Mutant::TableAtPrepare) {
            self.sessions.clear_in_flight();
        }
        self.unexecuted_bytes = 0;
        self.ack_due = false;
        self.sequence = 0;
        self.forwarded = Op::ZERO;
        self.repair.forget();
    }

    fn enter_halted(&mut self, reason: HaltReason) {
        self.status = Status::Halted(reason);
        self.forget_leading();
    }

    /// The cluster; zero while blank. What frames must belong to.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The state machine, for local reads and inspection.
    #[must_use]
    pub const fn machine(&self) -> &S {
        &self.machine
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The place and time of the last operation executed, for local reads.
    #[must_use]
    pub fn context(&self) -> crate::Context {
        crate::Context {
            stamp: vsr_types::ViewStamp {
                epoch: self.op_max().epoch(self.applied),
                view: self.applied_identity.view,
                op: self.applied,
            },
            timestamp: self.applied_timestamp,
            ..crate::Context::default()
        }
    }

    /// The header of a log entry, if it is held and intact.
    #[must_use]
    pub fn log_header(&self, op: Op) -> Option<Header> {
        self.journal.header(op).copied()
    }

    /// The body of a log entry, if it is held and intact.
    #[must_use]
    pub fn log_body(&self, op: Op) -> Option<&[u8]> {
        self.journal.read(op).ok().map(|(_, body)| body)
    }

    /// The digest of the state after `op`, if it is the last op executed or one of the agreed ops
    /// that are still remembered.
    #[must_use]
    pub fn digest_at(&self, op: Op) -> Option<Digest> {
        if op == self.applied && self.has_state() {
            Some(self.digest_now())
        } else {
            self.digests.at(op)
        }
    }

    /// All sessions, the one that would be evicted first first.
    pub fn sessions(&self) -> impl Iterator<Item = SessionReport> {
        self.sessions.reports()
    }

    /// The digest of machine and sessions as they are.
    fn digest_now(&self) -> Digest {
        whole_digest(self.machine.digest(), self.sessions.digest())
    }

    fn peer_status(&self) -> PeerStatus {
        match self.status {
            _ if self.is_untrusted => PeerStatus::Halted,
            Status::Blank(_) => PeerStatus::Blank,
            Status::Recovering => PeerStatus::Recovering,
            Status::Normal => PeerStatus::Normal,
            Status::ViewChange => PeerStatus::ViewChange,
            Status::Halted(_) => PeerStatus::Halted,
        }
    }

    /// The replica in a few numbers.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut peers = [PeerReport::default(); limits::REPLICAS_MAX];
        for peer in self.peers() {
            peers[peer.as_usize()] = self.links.report(peer, self.is_primary());
        }
        let ops_left = self.op_max().left(self.op());
        Report {
            cluster: self.cluster,
            replica: self.me(),
            replicas: self.config.replicas,
            incarnation: self.incarnation,
            status: self.peer_status(),
            halted: match self.status {
                _ if self.is_untrusted => Some(HaltReason::Memory),
                Status::Halted(reason) => Some(reason),
                // N22: it goes on answering reads and repairing others, so it is Normal.
                Status::Normal if self.is_used_up() => Some(HaltReason::OpMax),
                Status::Blank(_) | Status::Recovering | Status::Normal | Status::ViewChange => None,
            },
            op_max: self.op_max(),
            on_op_max: self.config.on_op_max,
            epoch: self.epoch(),
            ops_left,
            warning: EpochWarning::of(ops_left, self.config.op_max),
            archive_due: self.archive_due(),
            view: self.view,
            primary: self.primary(),
            op: self.op(),
            commit: self.commit,
            applied: self.applied,
            tail: self.journal.tail(),
            digest: self.digests.newest(),
            sessions: self.sessions.count(),
            in_flight: self.in_flight(),
            route: self.links.route(),
            peers,
        }
    }

    /// How many prepares of this primary are not committed.
    fn in_flight(&self) -> usize {
        if self.is_normal() && self.is_primary() {
            self.op().distance_from(self.commit) as usize
        } else {
            0
        }
    }
}
