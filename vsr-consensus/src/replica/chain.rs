//! The chain: the route of prepares, links that break, and how they mend (N6).
//!
//! The primary sends each prepare to its successor, which passes the same bytes on. Nobody waits for
//! anybody: acknowledgements go straight to the primary, and nobody's acknowledgement speaks for
//! another (R3.2, trace T7b). A backup that does not acknowledge in time, because it, its link, or a
//! hop before it is dead or slow, becomes a *suspect*: it is left out of the route at once, so that
//! the others are served past it, and fetches what it misses by itself. Once it has caught up it is
//! served *directly* for a while, and if that goes well it returns to the *chain*.
//!
//! ```text
//!            late, or its queue is full
//!   Chain ----------------------------> Suspect
//!     ^                                    | has caught up to the pipeline
//!     '------------- Direct <--------------'
//!       a probation, longer each time it fails
//! ```

#[cfg(feature = "sim")]
mod fingerprint;

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use vsr_types::limits::REPLICAS_MAX;
use vsr_types::message::PeerStatus;
use vsr_types::{Header, Instant, Op, ReplicaIndex, Route, View};

use super::Replica;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{Config, Outbox, PeerReport, Sent, StateMachine};

/// The first probation after a failure.
const PROBATION_MIN: Duration = Duration::from_millis(250);
/// The longest: a link that flaps costs at most one time-out every so often.
const PROBATION_MAX: Duration = Duration::from_secs(16);
/// The most bytes that are sent to a backup when it stops being a suspect: half of what a link's send
/// queue holds.
const WELCOME_BYTES_MAX: usize = 4 << 20;

/// How a backup gets its prepares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// From the hop before it.
    Chain,
    /// From the primary, until the instant when it may return to the chain.
    Direct(Instant),
    /// Not at all: it fetches them.
    Suspect,
}

/// What is known of another replica.
#[derive(Clone, Copy, Debug)]
struct Peer {
    heard: Option<Instant>,
    /// When it last answered something that this replica had sent: the link works both ways.
    answered: Option<Instant>,
    status: Option<PeerStatus>,
    view: View,
    op: Op,
    applied: Op,
    tail: Op,
    round_trip_ns: u64,
    mode: Mode,
    /// The last op it acknowledged in this view (R2.4).
    acked: Op,
    /// The newest heartbeat it answered.
    sequence: u64,
    probation: Duration,
    suspected_at: Instant,
    /// When it was last given everything it lacked: lateness is counted from then.
    welcomed_at: Instant,
}

impl Peer {
    const fn unknown(mode: Mode) -> Self {
        Self {
            heard: None,
            answered: None,
            status: None,
            view: View::ZERO,
            op: Op::ZERO,
            applied: Op::ZERO,
            tail: Op::ZERO,
            round_trip_ns: 0,
            mode,
            acked: Op::ZERO,
            sequence: 0,
            probation: PROBATION_MIN,
            suspected_at: Instant::ZERO,
            welcomed_at: Instant::ZERO,
        }
    }
}

/// What this replica knows of the others, and how it reaches them.
#[derive(Debug)]
pub(super) struct Links {
    me: ReplicaIndex,
    replicas: u8,
    chain: bool,
    peers: [Peer; REPLICAS_MAX],
    /// When each of the last prepares was sent, by op modulo the length.
    sent_at: Box<[Instant]>,
    prepare_timeout: Duration,
    /// Since when a backup that is no suspect holds the ring back (R8.1).
    waiting_since: Option<Instant>,
    /// The route of the last prepare.
    route: Route,
}

impl Links {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            me: config.replica,
            replicas: config.replicas,
            chain: config.chain,
            peers: [Peer::unknown(Mode::Chain); REPLICAS_MAX],
            sent_at: vec![Instant::ZERO; Self::sent_at_count(config)].into_boxed_slice(),
            prepare_timeout: config.prepare_timeout,
            waiting_since: None,
            route: Route::NONE,
        }
    }

    /// How many prepares are remembered with when they were sent.
    pub(super) fn sent_at_count(config: &Config) -> usize {
        config.pipeline * 4
    }

    /// A new view begins: nobody has acknowledged anything in it, nobody is suspected (R2.4).
    pub(super) fn reset(&mut self, now: Instant) {
        self.waiting_since = None;
        self.sent_at.fill(now);
        let mode = self.first_mode();
        for peer in &mut self.peers {
            let known = *peer;
            *peer = Peer {
                heard: known.heard,
                answered: known.answered,
                status: known.status,
                view: known.view,
                op: known.op,
                applied: known.applied,
                tail: known.tail,
                round_trip_ns: known.round_trip_ns,
                ..Peer::unknown(mode)
            };
        }
        self.route = self.route_now();
    }

    const fn first_mode(&self) -> Mode {
        if self.chain {
            Mode::Chain
        } else {
            Mode::Direct(Instant::FAR_FUTURE)
        }
    }

    /// What a former life of `peer` said is not counted any more (R2.4).
    pub(super) fn forget(&mut self, peer: ReplicaIndex) {
        self.peers[peer.as_usize()] = Peer::unknown(Mode::Suspect);
        self.route = self.route_now();
    }

    pub(super) fn report(&self, peer: ReplicaIndex, at_primary: bool) -> PeerReport {
        let peer = &self.peers[peer.as_usize()];
        PeerReport {
            heard: peer.heard,
            status: peer.status,
            view: peer.view,
            op: peer.op,
            applied: peer.applied,
            tail: peer.tail,
            round_trip_ns: peer.round_trip_ns,
            suspect: at_primary && peer.mode == Mode::Suspect,
        }
    }

    pub(super) const fn route(&self) -> Route {
        self.route
    }

    pub(super) fn heard(&mut self, peer: ReplicaIndex, now: Instant) {
        self.peers[peer.as_usize()].heard = Some(now);
    }

    /// `peer` answered something that was sent from here.
    pub(super) fn answered_me(&mut self, peer: ReplicaIndex, now: Instant) {
        self.peers[peer.as_usize()].heard = Some(now);
        self.peers[peer.as_usize()].answered = Some(now);
    }

    /// How many of the others have answered something after `since`.
    pub(super) fn answered_since(&self, since: Instant) -> u8 {
        let has = |peer: &ReplicaIndex| {
            self.peers[peer.as_usize()]
                .answered
                .is_some_and(|at| at >= since)
        };
        self.backups().filter(has).count() as u8
    }

    /// What a ping or pong of `peer` says.
    pub(super) fn told(
        &mut self,
        peer: ReplicaIndex,
        status: PeerStatus,
        view: View,
        (op, applied, tail): (Op, Op, Op),
        now: Instant,
    ) {
        let peer = &mut self.peers[peer.as_usize()];
        peer.heard = Some(now);
        peer.status = Some(status);
        peer.view = view;
        peer.op = op;
        peer.applied = applied;
        peer.tail = tail;
    }

    pub(super) fn measured(&mut self, peer: ReplicaIndex, round_trip_ns: u64) {
        self.peers[peer.as_usize()].round_trip_ns = round_trip_ns;
    }

    /// The last op that `peer` said it has executed.
    pub(super) fn applied_of(&self, peer: ReplicaIndex) -> Op {
        self.peers[peer.as_usize()].applied
    }

    /// The status that `peer` last told.
    pub(super) fn status_of(&self, peer: ReplicaIndex) -> Option<PeerStatus> {
        self.peers[peer.as_usize()].status
    }

    /// Whether `peer` was heard of after `since`.
    pub(super) fn heard_since(&self, peer: ReplicaIndex, since: Instant) -> bool {
        self.peers[peer.as_usize()]
            .heard
            .is_some_and(|heard| heard >= since)
    }

    /// Whether `peer` has not said that it has lost its memory.
    pub(super) fn has_memory(&self, peer: ReplicaIndex) -> bool {
        !matches!(
            self.peers[peer.as_usize()].status,
            Some(PeerStatus::Blank | PeerStatus::Recovering)
        )
    }

    /// The oldest op whose body `peer` said it holds.
    pub(super) fn tail_of(&self, peer: ReplicaIndex) -> Op {
        self.peers[peer.as_usize()].tail
    }

    /// A heartbeat was answered.
    pub(super) fn answered(
        &mut self,
        peer: ReplicaIndex,
        sequence: u64,
        op: Op,
        applied: Op,
        tail: Op,
    ) {
        let peer = &mut self.peers[peer.as_usize()];
        peer.sequence = peer.sequence.max(sequence);
        peer.op = op;
        peer.applied = peer.applied.max(applied);
        peer.tail = tail;
    }

    /// How many backups have answered heartbeat `sequence` or a later one.
    pub(super) fn answers(&self, sequence: u64) -> u8 {
        self.backups()
            .filter(|&peer| self.peers[peer.as_usize()].sequence >= sequence)
            .count() as u8
    }

    fn backups(&self) -> impl DoubleEndedIterator<Item = ReplicaIndex> + use<> {
        let (me, replicas) = (self.me, self.replicas);
        (1..replicas).map(move |steps| me.successor(steps, replicas))
    }

    /// A prepare goes out.
    pub(super) fn note_sent(&mut self, op: Op, now: Instant) {
        let slot = op.slot_of(self.sent_at.len() as u64);
        self.sent_at[slot] = now;
    }

    /// When `op`, or the oldest op after it that is remembered, was sent.
    fn sent(&self, op: Op, head: Op) -> Instant {
        let oldest = head.minus(self.sent_at.len() as u64 - 1);
        self.sent_at[op.max(oldest).slot_of(self.sent_at.len() as u64)]
    }

    /// R2.4: cumulative, per backup, never lower than before.
    pub(super) fn acknowledged(
        &mut self,
        backup: ReplicaIndex,
        op: Op,
        applied: Op,
        head: Op,
        now: Instant,
    ) {
        assert!(
            op <= head,
            "the caller compared the acknowledgement with the log"
        );
        let peer = &mut self.peers[backup.as_usize()];
        peer.acked = peer.acked.max(op);
        peer.applied = peer.applied.max(applied);
        peer.op = peer.op.max(op);
        if let Mode::Direct(until) = peer.mode
            && now >= until
            && self.chain
        {
            peer.mode = Mode::Chain;
            self.route = self.route_now();
        }
    }

    /// What each backup has acknowledged.
    #[inline]
    pub(super) fn acknowledged_ops(&self) -> [Op; REPLICAS_MAX] {
        core::array::from_fn(|peer| self.peers[peer].acked)
    }

    /// The last op that `quorum` replicas hold, this primary with `head` being one of them.
    pub(super) fn acknowledged_by_quorum(&self, quorum: u8, head: Op) -> Op {
        let mut acked = [Op::ZERO; REPLICAS_MAX];
        let mut count = 0;
        for peer in self.backups() {
            acked[count] = self.peers[peer.as_usize()].acked;
            count += 1;
        }
        // A set of replicas, each with its maximum, never a counter of messages (S33).
        acked[count] = head;
        count += 1;
        assert!(
            quorum >= 1 && usize::from(quorum) <= count,
            "a quorum is part of the cluster"
        );
        let acked = &mut acked[..count];
        acked.sort_unstable();
        acked[count - usize::from(quorum)]
    }

    /// The way that the next prepare takes: the primary's successors, suspects left out (M5).
    fn route_now(&self) -> Route {
        let in_chain = |peer: &ReplicaIndex| self.peers[peer.as_usize()].mode == Mode::Chain;
        Route::through(self.backups().filter(in_chain))
    }

    fn direct(&self) -> impl Iterator<Item = ReplicaIndex> + '_ {
        let is_direct =
            |peer: &ReplicaIndex| matches!(self.peers[peer.as_usize()].mode, Mode::Direct(_));
        self.backups().filter(is_direct)
    }

    /// R3.3, R3.4: slow and dead look the same, and neither may hold up the others.
    fn suspect(&mut self, backup: ReplicaIndex, now: Instant) -> bool {
        let peer = &mut self.peers[backup.as_usize()];
        if peer.mode == Mode::Suspect {
            return false;
        }
        // A link that broke again soon after it was mended gets a longer probation.
        let recent = now.since(peer.suspected_at) < peer.probation * 8;
        peer.probation = if recent {
            (peer.probation * 2).min(PROBATION_MAX)
        } else {
            PROBATION_MIN
        };
        peer.mode = Mode::Suspect;
        peer.suspected_at = now;
        self.route = self.route_now();
        true
    }

    /// Whether `backup` has not acknowledged in time what was sent to it.
    fn is_late(&self, backup: ReplicaIndex, head: Op, now: Instant) -> bool {
        let peer = &self.peers[backup.as_usize()];
        let since = || self.sent(peer.acked.next(), head).max(peer.welcomed_at);
        peer.mode != Mode::Suspect && peer.acked < head && now.since(since()) > self.prepare_timeout
    }

    /// Whether appending must wait for a backup in the chain that has executed too little (R8.1).
    pub(super) fn must_wait(&self, head: Op, slots: u64) -> bool {
        self.holds_back(head, slots).is_some()
    }

    fn holds_back(&self, head: Op, slots: u64) -> Option<ReplicaIndex> {
        let floor = head.minus(slots / 4 * 3);
        self.backups().find(|peer| {
            let peer = &self.peers[peer.as_usize()];
            peer.mode != Mode::Suspect && peer.applied < floor
        })
    }
}

impl<S: StateMachine> Replica<S> {
    /// Sends the newest prepare on its way. A hop whose queue is full is a suspect, and the prepare
    /// goes to the next one at once.
    pub(super) fn send_down_the_chain(&mut self, op: Op, out: &mut impl Outbox) {
        for _ in 0..self.config.replicas {
            let Some(first) = self.links.route.first() else {
                break;
            };
            if self.send_prepare(op, first, self.links.route, out) == Sent::Queued {
                break;
            }
            self.suspect(first);
        }
        for hop in ReplicaIndex::all(self.config.replicas) {
            let is_direct = self.links.direct().any(|direct| direct == hop);
            if is_direct && self.send_prepare(op, hop, Route::NONE, out) == Sent::Dropped {
                self.suspect(hop);
            }
        }
    }

    /// Sends the entry `op` of the journal, as it lies there.
    pub(super) fn send_prepare(
        &mut self,
        op: Op,
        to: ReplicaIndex,
        route: Route,
        out: &mut impl Outbox,
    ) -> Sent {
        // The body is not read here a second time: the receiver verifies it, and so does whoever
        // executes it.
        let Ok((header, body)) = self.journal.read_unverified_body(op) else {
            return Sent::Dropped;
        };
        let mut header = *header;
        header.set_route(route);
        assert!(
            !self.cluster.is_zero() && to != self.me(),
            "members send entries to others"
        );
        self.counters.sent(vsr_types::Command::Prepare);
        let sent = out.peer(to, &header, body);
        if sent == Sent::Dropped {
            self.counters.count(Event::OutboxDropped);
        }
        sent
    }

    /// R3.1: the unchanged prepare to the next hop, at most once per op, in the view it belongs to.
    pub(super) fn forward(
        &mut self,
        header: &Header,
        body: &[u8],
        op: Op,
        route: Route,
        out: &mut impl Outbox,
    ) {
        assert!(self.is_normal() && header.view() == self.view, "I25");
        let Some(next) = route.next_after(self.me()) else {
            return;
        };
        let is_hop =
            next.is_valid(self.config.replicas) && next != self.me() && next != self.primary();
        if op <= self.forwarded || !is_hop {
            return;
        }
        self.forwarded = op;
        if self.send_to_peer(out, next, header, body) == Sent::Queued {
            self.counters.count(Event::Forwarded);
        }
    }

    /// The broken primaries of tests that count more acknowledgements than there are.
    pub(super) fn count_too_much(&mut self, backup: ReplicaIndex, op: Op) {
        let (head, now) = (self.op(), self.now.monotonic);
        let is_repeated = self.links.peers[backup.as_usize()].acked >= op;
        if self.is_off(Mutant::CountAcks) && is_repeated {
            // One more copy, one more voice.
            let lacks = |peer: &ReplicaIndex| self.links.peers[peer.as_usize()].acked < op;
            if let Some(other) = self.peers().find(lacks) {
                self.links.acknowledged(other, op, Op::ZERO, head, now);
            }
        }
        if self.is_off(Mutant::TailAck) {
            let route = self.links.route;
            for hop in route.hops().take_while(|&hop| hop != backup) {
                self.links.acknowledged(hop, op, Op::ZERO, head, now);
            }
        }
    }

    /// Looks for backups that do not keep up (primary, at every heartbeat).
    pub(super) fn check_links(&mut self) {
        let (head, now) = (self.op(), self.now.monotonic);
        for backup in self.peers() {
            if self.links.is_late(backup, head, now) {
                self.suspect(backup);
            }
        }
        let slots = self.config.journal_slots as u64;
        match (self.links.holds_back(head, slots), self.links.waiting_since) {
            (None, _) => self.links.waiting_since = None,
            (Some(_), None) => self.links.waiting_since = Some(now),
            // R8.1: back-pressure for a bounded time, then it falls behind.
            (Some(backup), Some(since)) if now.since(since) > self.config.prepare_timeout => {
                self.suspect(backup);
            }
            (Some(_), Some(_)) => {}
        }
    }

    pub(super) fn suspect(&mut self, backup: ReplicaIndex) {
        if self.is_off(Mutant::NeverSuspect) {
            return;
        }
        if self.links.suspect(backup, self.now.monotonic) {
            self.counters.count(Event::Suspected);
        }
    }

    /// A suspect that has caught up to the pipeline is served directly again, starting with what it
    /// lacks, so that no gap is left between what it fetched and what it is sent.
    pub(super) fn welcome_back(&mut self, backup: ReplicaIndex, out: &mut impl Outbox) {
        let peer = self.links.peers[backup.as_usize()];
        let missing = self.op().distance_from(peer.acked);
        // R3.3: caught up to the pipeline. What is committed meanwhile does not count: under load
        // there is always something, and the acknowledgement took its time to arrive here.
        let close = missing <= 2 * self.config.pipeline as u64;
        if peer.mode != Mode::Suspect || !close {
            return;
        }
        let mut bytes = 0;
        let mut op = peer.acked;
        while op < self.op() {
            op = op.next();
            bytes += self
                .journal
                .header(op)
                .map_or(WELCOME_BYTES_MAX, Header::size);
            if bytes > WELCOME_BYTES_MAX {
                // It sees the gap and fetches the rest. Waiting until everything fits would leave it
                // out for as long as batches are large and the pipeline is full.
                break;
            }
            if self.send_prepare(op, backup, Route::NONE, out) == Sent::Dropped {
                return;
            }
        }
        let until = if self.config.chain {
            self.now.monotonic.after(peer.probation)
        } else {
            Instant::FAR_FUTURE
        };
        let peer = &mut self.links.peers[backup.as_usize()];
        peer.mode = Mode::Direct(until);
        peer.welcomed_at = self.now.monotonic;
        self.counters.count(Event::Rejoined);
    }
}
