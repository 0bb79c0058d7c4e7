//! How a replica that lost its memory comes back (N13).
//!
//! A process that starts knows nothing of what an earlier one in its place promised. It must not guess:
//! it asks. First how often its place was filled before, so that nobody takes it for one of its former
//! lives (R6.2). Then it registers its new life with a quorum of the *others*, all of them normal, and
//! learns the newest view among them (R6.3, R6.4). That view's primary tells how far its log went
//! after the crash: whatever the former life acknowledged there is in it (2.15). Only when all of that
//! is held again does the replica take part (R6.5). Until then it counts as failed and says nothing but
//! what it is (R6.7).
//!
//! ```text
//!         hears of a cluster         knows its number          knows view and log
//!  Blank -------------------> Asking ---------------> Registering ------------> Restoring
//!                                                     ^   ^                     |  |  |
//!                   a newer life of this replica is known |                     |  |  | all is held
//!                                                     |   '---------------------'  |  v
//!                                                     '----------------------------' Normal
//!                                                        nothing moves any more
//! ```
//!
//! No time-out ends any of this (R6.1): without a quorum of others it asks for ever.

mod answering;
mod answers;
#[cfg(feature = "sim")]
mod fingerprint;

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use vsr_types::body;
use vsr_types::message::{
    IncarnationQuery, IncarnationReply, PeerStatus, RecoveryReject, RecoveryRequest,
    RecoveryResponse,
};
use vsr_types::{
    ClusterId, CrashVector, Frame, HEADER_SIZE, Header, Incarnation, Instant, MemberId, Nonce, Op,
    ReplicaIndex, View, limits,
};

use super::admit::Handled;
use super::log::read_headers;
use super::{Replica, Status};
use crate::mutants::Mutant;
use crate::sessions::mix;
use crate::{Config, DropReason, HaltReason, Outbox, Sent, StateMachine};
use answers::{Answer, Answers};

/// How many ticks pass before the first question is asked again.
const ASK_TICKS: u32 = 2;
/// How much of the random part of an incarnation is random: two processes that register in the same
/// millisecond draw the same once in 268 million times.
const RANDOM_BITS: u32 = 28;
/// How often in a row nothing must have moved before the state is fetched instead of the log.
const STALLS_MAX: u32 = 3;
/// How many view time-outs without enough replicas to go on are worth an alarm (R7.2).
const ALARM_TIMEOUTS: u32 = 10;

/// How far a recovery has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryPhase {
    /// It is none.
    #[default]
    None,
    /// Asks which incarnations are known of it.
    Asking,
    /// Registers a new one, and asks for view and log.
    Registering,
    /// Knows how far the log goes, and fetches it.
    Restoring,
}

/// A recovery in a few numbers, and whether the cluster can do without an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// How far it has come.
    pub phase: RecoveryPhase,
    /// How many replicas have answered the question that is asked now.
    pub replies: u8,
    /// How many must.
    pub needed: u8,
    /// Since when the replica recovers, or takes part.
    pub since: Instant,
    /// The last op that it must hold before it takes part; zero while unknown.
    pub target: Op,
    /// Up to which op it holds everything.
    pub held: Op,
    /// Fewer replicas than a quorum were operational for long: more crashed at once than the cluster
    /// survives, nothing is served, and nothing will be until enough of them are back (R7.2).
    pub quorum_lost: bool,
}

/// The end of a log that came with an answer.
#[derive(Debug)]
struct Suffix {
    headers: Box<[Header]>,
    count: usize,
    /// Whose it is, in which view, and with which op it ends.
    of: Option<(ReplicaIndex, View, Op)>,
}

/// What moves while a log is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    verified: Op,
    held: Op,
    /// Chunks of state.
    taken: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Recovery {
    phase: RecoveryPhase,
    /// The nonce of the question that is asked now.
    nonce: Nonce,
    /// How many nonces and random numbers this process has drawn.
    drawn: u64,
    since: Instant,
    ask_at: Instant,
    patience: Duration,
    answers: Answers,
    suffix: Suffix,
    /// How far the log must be restored: what the primary of the newest view told.
    target: Option<Answer>,
    /// What was held when the last question was asked: nothing is asked while something moves.
    seen: Progress,
    /// How often in a row nothing had moved.
    stalls: u32,
    /// In which life each other replica was last heard of taking part, and when.
    alive: [Option<(Incarnation, Instant)>; limits::REPLICAS_MAX],
}

impl Recovery {
    pub(super) fn new(_config: &Config) -> Self {
        Self {
            phase: RecoveryPhase::None,
            nonce: Nonce::ZERO,
            drawn: 0,
            since: Instant::ZERO,
            ask_at: Instant::ZERO,
            patience: Duration::ZERO,
            answers: Answers::new(),
            suffix: Suffix {
                headers: vec![bytemuck::Zeroable::zeroed(); limits::HEADERS_MAX].into_boxed_slice(),
                count: 0,
                of: None,
            },
            target: None,
            seen: Progress::default(),
            stalls: 0,
            alive: [None; limits::REPLICAS_MAX],
        }
    }

    pub(super) const fn memory() -> usize {
        limits::HEADERS_MAX * HEADER_SIZE
    }
}

/// # Asking
impl<S: StateMachine> Replica<S> {
    /// R6.1: a peer belongs to a running cluster, so this process is not the first in its place.
    pub(super) fn note_operational(
        &mut self,
        peer: ReplicaIndex,
        cluster: ClusterId,
        has_recovered: bool,
        out: &mut impl Outbox,
    ) {
        let Status::Blank(proposal) = self.status else {
            return;
        };
        let is_operational = matches!(
            self.links.status_of(peer),
            Some(PeerStatus::Normal | PeerStatus::ViewChange)
        );
        // R7.1: who has agreed to form this very cluster is told so by those who were told first.
        // Unless it was a process before this one that agreed, and the proposal came again: a peer that
        // has recovered does not know the word, and had a quorum of others, so this one can recover too.
        let takes_part = proposal.is_some_and(|agreed| agreed.is_for(cluster)) && !has_recovered;
        if cluster.is_zero() || !is_operational || takes_part {
            return;
        }
        self.enter_recovering(cluster);
        self.ask_everybody(out);
    }

    fn enter_recovering(&mut self, cluster: ClusterId) {
        assert!(
            matches!(self.status, Status::Blank(_)),
            "only who has no memory recovers"
        );
        self.status = Status::Recovering;
        self.forget_import();
        self.cluster = cluster;
        self.crash_vector = CrashVector::default();
        self.incarnation = Incarnation::default();
        self.members = [MemberId::ZERO; limits::REPLICAS_MAX];
        self.head = self.genesis();
        self.applied_identity = self.genesis();
        self.recovery.since = self.now.monotonic;
        self.begin_asking(RecoveryPhase::Asking);
    }

    /// A new question: what was answered to the last one does not count for it (R6.4).
    fn begin_asking(&mut self, phase: RecoveryPhase) {
        self.recovery.phase = phase;
        self.recovery.nonce = self.fresh_nonce();
        self.recovery.answers = Answers::new();
        self.recovery.suffix.of = None;
        self.recovery.target = None;
        self.recovery.ask_at = self.now.monotonic;
        self.recovery.patience = self.config.tick * ASK_TICKS;
    }

    /// Differs from all that this process and, as far as its boot nonce is random, any other has drawn.
    fn fresh_nonce(&mut self) -> Nonce {
        self.recovery.drawn += 1;
        Nonce::new(
            self.boot
                .nonce
                .raw()
                .wrapping_add(u128::from(self.recovery.drawn)),
        )
    }

    /// R6.2, trace T9: two machines that were given the same counter differ here.
    fn fresh_random(&mut self) -> u64 {
        self.recovery.drawn += 1;
        let nonce = self.boot.nonce.raw();
        mix(nonce as u64) ^ mix((nonce >> 64) as u64 ^ mix(self.recovery.drawn))
    }

    fn ask_everybody(&mut self, out: &mut impl Outbox) {
        let patience = self.recovery.patience;
        self.recovery.ask_at = self.now.monotonic.after(self.random.jitter(patience));
        self.recovery.patience = (patience * 2).min(self.config.view_timeout);
        let nonce = self.recovery.nonce;
        let vector = self.crash_vector;
        for peer in self.peers() {
            let _: Sent = if self.recovery.phase == RecoveryPhase::Asking {
                let query = IncarnationQuery {
                    nonce,
                    reserved: [0; 3],
                };
                self.send(out, peer, query, &[])
            } else {
                let request = RecoveryRequest {
                    nonce,
                    reserved: [0; 3],
                };
                self.send(out, peer, request, bytemuck::bytes_of(&vector))
            };
        }
    }

    pub(super) fn on_incarnation_reply(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let reply = *frame
            .fields::<IncarnationReply>()
            .ok_or(DropReason::Malformed)?;
        let vector: CrashVector = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        if self.status != Status::Recovering || self.recovery.phase != RecoveryPhase::Asking {
            return Err(DropReason::WrongStatus);
        }
        if frame.header().cluster() != self.cluster {
            return Err(DropReason::NotAReplica);
        }
        if reply.nonce != self.recovery.nonce && !self.is_off(Mutant::AnyNonce) {
            return Err(DropReason::Duplicate);
        }
        self.admit_vector(&vector)?;
        self.recovery.answers.record(
            frame.header().replica(),
            Answer {
                vector,
                view: frame.header().view(),
                op: Op::ZERO,
                applied: Op::ZERO,
                digest: vsr_types::Digest::ZERO,
            },
        );
        self.join_others(&vector)?;
        if self.recovery.answers.count() >= self.recovery_quorum() {
            // Not taken into the own entry before: it is another life's (R0.2).
            let known = self.recovery.answers.newest_life_of(self.me());
            self.register(known, out);
        }
        Ok(())
    }

    fn recovery_quorum(&self) -> u8 {
        if self.is_off(Mutant::SmallRecoveryQuorum) {
            self.config.quorum() - 1
        } else {
            self.config.quorum()
        }
    }

    /// The random part of a new life's number (R6.2). It begins with the wall clock in milliseconds, modulo
    /// two years: an attempt that was cut short may have left its number at a replica that this one cannot
    /// ask, with the same counter. If that number were the higher one, this life would have to give up
    /// when it hears of it (R0.2), long after it has recovered: one failure more than there was. Nothing
    /// but this depends on the clock; the rest is random.
    fn tie_breaker(&mut self) -> u64 {
        let millis = self.now.wall.as_nanos() / 1_000_000;
        millis << RANDOM_BITS | self.fresh_random() >> (u64::BITS - RANDOM_BITS)
    }

    /// R6.2: takes the number after `known` and registers it.
    fn register(&mut self, known: Incarnation, out: &mut impl Outbox) {
        let random = self.tie_breaker();
        let next = Incarnation {
            counter: known.counter + 1,
            random: if self.is_off(Mutant::BareCounter) {
                0
            } else {
                random
            },
        };
        let next = if self.is_off(Mutant::SameIncarnation) {
            known
        } else {
            next
        };
        let me = self.me();
        self.crash_vector.raise(me, next);
        self.incarnation = next;
        // A new life is bound to no view.
        self.view = View::ZERO;
        self.log_view = View::ZERO;
        assert!(
            self.crash_vector.of(me) == next,
            "a new life has a higher number than any before it (R6.2)"
        );
        self.begin_asking(RecoveryPhase::Registering);
        self.ask_everybody(out);
    }

    pub(super) fn on_recovery_response(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let fields = *frame
            .fields::<RecoveryResponse>()
            .ok_or(DropReason::Malformed)?;
        let (recovery, rest) =
            answering::split_response(frame.body()).ok_or(DropReason::Malformed)?;
        let is_asking = matches!(
            self.recovery.phase,
            RecoveryPhase::Registering | RecoveryPhase::Restoring
        );
        if self.status != Status::Recovering || !is_asking {
            return Err(DropReason::WrongStatus);
        }
        // R6.4, trace T5. The two checks cover for each other: a nonce is asked with one incarnation.
        let any = self.is_off(Mutant::AnyNonce);
        if fields.nonce != self.recovery.nonce && !any {
            return Err(DropReason::Duplicate);
        }
        let for_any = any || self.is_off(Mutant::ForAnyIncarnation);
        if recovery.for_incarnation != self.incarnation && !for_any {
            return Err(DropReason::StaleIncarnation);
        }
        self.admit_vector(&rest.suffix.crash_vector)?;
        let from = frame.header().replica();
        let view = frame.header().view();
        let answer = Answer {
            vector: rest.suffix.crash_vector,
            view,
            op: fields.op,
            applied: fields.applied,
            digest: recovery.digest,
        };
        if fields.applied > fields.op {
            return Err(DropReason::Malformed);
        }
        let tells_log =
            view.primary(self.config.replicas) == from || self.is_off(Mutant::RecoverFromAnybody);
        if tells_log {
            self.take_suffix(from, view, fields.op, rest.suffix.count, rest.headers)?;
        }
        if !self.recovery.answers.record(from, answer) {
            return Err(DropReason::Duplicate);
        }
        let now = self.now.monotonic;
        let progress = (fields.op, fields.applied, fields.tail);
        self.links
            .told(from, PeerStatus::Normal, view, progress, now);
        if !self.is_off(Mutant::VectorsNotJoined) {
            self.join_others(&answer.vector)?;
        }
        self.weigh_answers(out);
        Ok(())
    }

    /// Keeps the end of a primary's log if it is the newest so far.
    fn take_suffix(
        &mut self,
        from: ReplicaIndex,
        view: View,
        op: Op,
        count: u64,
        bytes: &[u8],
    ) -> Handled {
        let is_older = |&(known, known_view, known_op): &(ReplicaIndex, View, Op)| {
            (known_view, known_op) > (view, op) && known != from
        };
        if (count == 0) != (op == Op::ZERO) {
            return Err(DropReason::Malformed);
        }
        let keeps_other = self.recovery.suffix.of.as_ref().is_some_and(is_older)
            && !self.is_off(Mutant::RecoverFromAnybody);
        if keeps_other {
            return Ok(());
        }
        self.recovery.suffix.of = None;
        let names = self.op_max();
        let headers = &mut self.recovery.suffix.headers;
        let read = read_headers(bytes, count, op, true, names, headers);
        let read = read.ok_or(DropReason::Malformed)?;
        // Who was given its state has no headers from before it: blanks stand for them.
        let is_blank = |header: &&Header| header.command().is_none();
        let known = read.iter().rev().take_while(|h| !is_blank(h)).count();
        let all = read.len();
        if known == 0 && all > 0 {
            // Its last header is damaged; it is asked again when it has been repaired.
            return Err(DropReason::Malformed);
        }
        headers.copy_within(all - known..all, 0);
        self.recovery.suffix.count = known;
        self.marks.recovery = self.marks.recovery.max(known);
        self.recovery.suffix.of = Some((from, view, op));
        Ok(())
    }

    /// R6.5: looks for a set of answers that says where to go.
    fn weigh_answers(&mut self, out: &mut impl Outbox) {
        let quorum = self.recovery_quorum();
        if !self.is_off(Mutant::AnyAnswers) {
            let dropped = self.recovery.answers.drop_inconsistent(&self.crash_vector);
            if dropped > 0 {
                // R6.4: those senders are asked again, and whoever else is late with them.
                self.recovery.ask_at = self.now.monotonic;
            }
        }
        let choice = if self.is_off(Mutant::RecoverFromAnybody) {
            self.recovery.answers.choose_last(quorum)
        } else {
            self.recovery.answers.choose(quorum, self.config.replicas)
        };
        let Some((primary, answer)) = choice else {
            return;
        };
        assert!(primary != self.me(), "nobody answers himself (I14)");
        let is_known = self.recovery.suffix.of == Some((primary, answer.view, answer.op));
        let is_newer = self
            .recovery
            .target
            .is_none_or(|target| (answer.view, answer.op) > (target.view, target.op));
        if is_known && is_newer {
            self.aim_at(answer, out);
        }
    }
}

/// # Restoring
impl<S: StateMachine> Replica<S> {
    /// From now on everything up to the end of this log is fetched.
    fn aim_at(&mut self, target: Answer, out: &mut impl Outbox) {
        assert!(target.view >= self.view, "targets only become newer");
        self.recovery.target = Some(target);
        self.recovery.phase = RecoveryPhase::Restoring;
        self.recovery.patience = self.config.view_timeout;
        self.recovery.ask_at = self.now.monotonic.after(self.config.view_timeout);
        self.recovery.stalls = 0;
        self.view = target.view;
        self.log_view = target.view;
        self.repair.forget();
        if target.op < self.applied {
            // The state that was fetched is newer than what this primary told (R6.5).
            return;
        }
        let headers = core::mem::take(&mut self.recovery.suffix.headers);
        let count = self.recovery.suffix.count;
        let installed = self.install_log(&headers[..count], target.op);
        self.recovery.suffix.headers = headers;
        if let Err(conflict) = installed {
            self.enter_halted(HaltReason::Divergence { op: conflict.op });
            return;
        }
        self.fetch(out);
    }

    /// Fetches the log. The state is fetched if no journal reaches back far enough, which the transfer
    /// finds out by itself, or if the log does not come: a journal of another size than the donors' may
    /// have no room for it.
    fn fetch(&mut self, out: &mut impl Outbox) {
        if self.is_transferring() {
            return;
        }
        if self.recovery.stalls >= STALLS_MAX && !self.has_recovered() {
            self.begin_transfer(out);
        } else {
            self.repair_now(out);
        }
    }

    /// Whether this replica fetches the log that it was told of.
    pub(super) fn is_restoring_log(&self) -> bool {
        self.status == Status::Recovering && self.recovery.phase == RecoveryPhase::Restoring
    }

    /// R6.5: everything that the former life may have acknowledged is here again.
    pub(super) fn has_recovered(&self) -> bool {
        let Some(target) = self.recovery.target.filter(|_| self.is_restoring_log()) else {
            return false;
        };
        let end = target.op;
        let is_whole = self.is_log_whole()
            && self.op() >= end
            && self.applied <= end
            && !self.is_transferring();
        is_whole && (self.held >= end || self.is_off(Mutant::RecoverHeadersOnly))
    }

    /// The state was fetched. If it is newer than the log that the primary told, the primary is asked how
    /// far its log goes now: it may have changed since, in a newer view (R6.5).
    pub(super) fn on_state_restored(&mut self, out: &mut impl Outbox) {
        let is_older = |target: Answer| target.op < self.applied;
        if self.is_restoring_log() && self.recovery.target.is_some_and(is_older) {
            self.ask_everybody(out);
        }
    }

    /// When the recovery wants the deadline to come.
    pub(super) fn recovery_deadline(&self) -> Instant {
        if self.has_recovered() {
            return Instant::ZERO;
        }
        self.recovery.ask_at
    }

    pub(super) fn on_recovering_deadline(&mut self, out: &mut impl Outbox) {
        assert!(self.status == Status::Recovering, "the caller looked");
        self.ack_due = false;
        if self.has_recovered() {
            self.finish_recovery();
            return;
        }
        self.on_repair_timeout(out);
        if self.now.monotonic < self.recovery.ask_at {
            return;
        }
        if self.is_restoring_log() {
            let seen = self.recovery_progress();
            if core::mem::replace(&mut self.recovery.seen, seen) != seen {
                self.recovery.stalls = 0;
                self.recovery.ask_at = self.now.monotonic.after(self.config.view_timeout);
                return;
            }
            self.recovery.stalls += 1;
            self.fetch(out);
        }
        // R6.9: nothing moves. Who answers may have gone on to another view; newer answers replace
        // older ones, so the set converges once a view is stable.
        self.ask_everybody(out);
    }

    fn recovery_progress(&self) -> Progress {
        Progress {
            verified: self.verified,
            held: self.held,
            taken: self.transfer().map_or(0, |transfer| transfer.taken),
        }
    }

    /// R6.5 holds: this replica takes part again, in the view that it was told.
    fn finish_recovery(&mut self) {
        let target = self.recovery.target.expect("the caller looked");
        assert!(self.has_recovered(), "R6.5");
        assert!(
            self.log_view == self.view && self.view == target.view,
            "a recovery ends in the view whose log it fetched (R6.6)"
        );
        assert!(
            self.primary() != self.me() || self.is_off(Mutant::RecoverFromAnybody),
            "each view has one primary incarnation (L4, I12)"
        );
        self.commit = self.commit.max(target.applied).max(self.applied);
        let is_known = target.digest != vsr_types::Digest::ZERO;
        let is_same = self.applied == target.applied && self.applied != Op::ZERO;
        if is_known && is_same && self.digest_now() != target.digest {
            self.enter_halted(HaltReason::Divergence { op: self.applied });
            return;
        }
        self.recovery.phase = RecoveryPhase::None;
        self.recovery.target = None;
        self.note_member();
        self.enter_normal();
        self.ack_due = true;
    }

    pub(super) fn on_recovery_reject(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let reject = *frame
            .fields::<RecoveryReject>()
            .ok_or(DropReason::Malformed)?;
        let vector: CrashVector = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        if self.status != Status::Recovering {
            // Somebody has taken this replica's place: see `join_vector`.
            return self.join_vector(&vector);
        }
        let is_asking = matches!(
            self.recovery.phase,
            RecoveryPhase::Registering | RecoveryPhase::Restoring
        );
        if !is_asking || reject.nonce != self.recovery.nonce {
            return Err(DropReason::Duplicate);
        }
        self.admit_vector(&vector)?;
        let known = vector.of(self.me());
        if known == self.incarnation || known.counter < self.incarnation.counter {
            return Err(DropReason::Duplicate);
        }
        self.join_others(&vector)?;
        // R6.2: an attempt that was never completed may have left a high number with a few.
        self.register(known, out);
        Ok(())
    }

    /// The recovery, and whether there are enough replicas for anything.
    #[must_use]
    pub fn recovery_report(&self) -> RecoveryReport {
        let target = self.recovery.target.map_or(Op::ZERO, |target| target.op);
        RecoveryReport {
            phase: self.recovery.phase,
            replies: self.recovery.answers.count(),
            needed: self.config.quorum(),
            since: self.recovery.since,
            target,
            held: self.held,
            quorum_lost: self.is_quorum_lost(),
        }
    }

    /// This replica takes part from now on.
    pub(super) fn note_member(&mut self) {
        self.recovery.since = self.now.monotonic;
    }

    /// R7.2. A blank replica cannot tell a loss from a cluster that was never formed.
    fn is_quorum_lost(&self) -> bool {
        let long = self.config.view_timeout * ALARM_TIMEOUTS;
        let now = self.now.monotonic;
        let takes_part = |peer: &ReplicaIndex| {
            let report = self.links.report(*peer, false);
            let was_heard = report.heard.is_some_and(|heard| now.since(heard) < long);
            let is_operational = matches!(
                report.status,
                Some(PeerStatus::Normal | PeerStatus::ViewChange)
            );
            was_heard && is_operational
        };
        let others = self.peers().filter(takes_part).count() as u8;
        match self.status {
            Status::Blank(_) | Status::Halted(_) => false,
            _ if now.since(self.recovery.since) <= long => false,
            // R6.9: a quorum of others is needed.
            Status::Recovering => others < self.config.quorum(),
            Status::Normal | Status::ViewChange => others + 1 < self.config.quorum(),
        }
    }
}
