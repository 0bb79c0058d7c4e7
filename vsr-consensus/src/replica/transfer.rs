//! The state itself, to and from peers, while clients are served (N14, R8.5, M4).
//!
//! A replica that lost its memory, or that lags so far that no journal reaches back to what it needs,
//! takes over another's state: machine and sessions, as an *image* of chunks. Nobody stops for it and
//! nobody makes a copy. The receiver asks, window by window, for the chunks that changed since what its
//! own memory holds; the donor reads them as they are at that moment and goes on executing. What
//! changed meanwhile is asked for again in the next *pass*, and the less that is, the shorter the pass
//! takes. For the last pass the donor, a backup if there is one, holds back *execution*, not
//! acknowledgement: for a bounded time, and never so long that its ring fills up. So that pass is of
//! one state, at one op, and with it the whole copy is.
//!
//! ```text
//!   receiver                                      donor (goes on executing)
//!     |-- get_state live, since 0, chunks 0..16 ----->|
//!     |<--------------- chunk, chunk, chunk, end -----|  state at 1000
//!     |   ...                                         |  ... at 1740
//!     |-- get_state live, since 1000 ---------------->|  pass 2: what changed after 1000
//!     |   ...                                         |
//!     |-- get_state held, since 1740 ---------------->|  pass 3: execution stops at 1802
//!     |<--------- chunk, end + prepare 1802 + digest--|
//!     |-- get_state done ---------------------------->|  ... and goes on
//!     | digest of the copy == digest of the donor: install
//! ```
//!
//! There is no second copy of the memory: what comes is written over what was there. For a replica that
//! recovers nothing is lost by that. One that merely lags gives up a state that nobody needs: an op is
//! committed that it never held, so a quorum *without this replica* acknowledged that op, and each of
//! that quorum holds everything before it. What it promised about views and lives it still knows. So it
//! stays a member that votes (M3: strictly less than a crash); but until the new state stands it
//! executes, acknowledges, gives and leads nothing. Ending its life instead (R6.8) would be safe too,
//! but a cluster of three in which a second replica is recovering could then never get either back.
//!
//! **Invariants.** What is being put together is executed on by nobody, and read by nobody. Nothing is
//! installed whose digest differs from the donor's. Answers count only for questions in flight, and
//! donors that have executed less than the copy already holds stay silent, so that no chunk is ever
//! replaced by an older one; therefore another donor can go on where one has failed.

mod donor;
mod export;
mod import;
mod install;
mod mend;
mod pace;
mod pass;
#[cfg(test)]
mod tests;
mod throttle;

use core::time::Duration;

use vsr_types::limits::{self, REPLICAS_MAX};
use vsr_types::message::{
    GetState, NewState, PeerStatus, STATE_ALL, STATE_CHUNK, STATE_DONE, STATE_END, STATE_HELD,
    STATE_LIVE, StateOffer,
};
use vsr_types::{Frame, Instant, Op, ReplicaIndex, body};

use super::admit::Handled;
use super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::sessions::SessionsImage;
use crate::{Config, DropReason, ImageError, Outbox, Sent, StateMachine};
use donor::{Hold, Questions};
use export::Exports;
use import::Import;
use mend::Damage;
use pace::Pace;
use pass::Pass;
use throttle::{Outrun, Slowly};

/// How many ticks without anything new make the receiver ask again.
const PATIENCE_TICKS: u32 = 5;
/// How many such silences make it turn to another donor.
const SILENCES_MAX: u32 = 2;
/// How often all of them may be silent before everything is fetched anew.
const FRUITLESS_ROUNDS_MAX: usize = 2;
/// A pass that brought no more than this is followed by the last one: about what a donor gives while it
/// holds back execution for a few tens of milliseconds.
const SMALL_BYTES: u64 = 32 << 20;
/// How many view time-outs ago is too long ago to believe what a journal reaches back to.
const LATELY_TIMEOUTS: u32 = 5;
/// So many passes are made at most before the last one, however much changes meanwhile.
const LIVE_PASSES_MAX: u32 = 4;
/// No image has more chunks: as many of 64 KiB are 256 TiB.
const CHUNKS_MAX: u64 = 1 << 32;

/// What this replica gives and takes of state.
#[derive(Debug)]
pub(super) struct Transfer {
    running: Option<Running>,
    copy: Copy,
    /// What of this replica's own state went bad.
    damage: Damage,
    image: SessionsImage,
    /// As a donor: what was asked and not answered.
    questions: Questions,
    /// As a donor: since when, and for whom, execution is held back.
    hold: Option<Hold>,
    exports: Exports,
    /// As a blank process: what a tool brings.
    import: Option<Import>,
    /// As a primary: for whom prepares come slowly.
    slowly: Option<Slowly>,
    /// How often the load was faster than the transfer.
    outrun: Outrun,
    /// Counts donors tried.
    attempts: u8,
    /// Who mends its state, as a donor knows, and when it asked last.
    mends_for: (ReplicaIndex, Instant),
}

/// What the memory of machine and sessions holds while it is no state to execute on.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// Every chunk is as it was after this op or a later one; [`STATE_ALL`]: nothing is known of it.
    since: Op,
    /// And none is newer than this.
    at_least: Op,
    /// Whether something was put: until then it is this replica's own state.
    is_mixed: bool,
}

/// A transfer to this replica.
#[derive(Clone, Copy, Debug)]
struct Running {
    donor: ReplicaIndex,
    pass: Pass,
    pace: Pace,
    /// Everything is here; it is verified now.
    is_complete: bool,
    /// Whether only damage is repaired: everything else of the copy is this replica's own state.
    mends: bool,
    /// Whether it is only found out yet if somebody has what is damaged: nothing is written.
    probes: bool,
    offer: Option<StateOffer>,
    /// How many chunks the machine was told to expect.
    machine_chunks: Option<u64>,
    heard_at: Instant,
    silences: u32,
    /// Donors in turn that brought nothing new.
    fruitless: usize,
    begun_at: Instant,
    taken: u64,
    bytes: u64,
    /// Bytes of the pass at hand, and of the one before it.
    pass_bytes: u64,
    last_pass_bytes: u64,
}

/// How far a transfer to a replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferReport {
    /// Who gives.
    pub donor: ReplicaIndex,
    /// Counts passes over the image from 1; each brings what changed during the one before.
    pub pass: u32,
    /// Whether the donor holds back execution: the last pass.
    pub held: bool,
    /// How many chunks the image has; none until the donor said so.
    pub chunks: Option<u64>,
    /// How many of them are behind this pass.
    pub looked_at: u64,
    /// How many chunks came, in all passes.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how long it has been going on.
    pub elapsed: Duration,
}

impl Running {
    /// Begins with everything that changed after `since`.
    const fn new(donor: ReplicaIndex, since: Op, now: Instant) -> Self {
        Self {
            donor,
            pass: Pass::new(1, false, since),
            pace: Pace::new(now),
            is_complete: false,
            mends: false,
            probes: false,
            offer: None,
            machine_chunks: None,
            heard_at: now,
            silences: 0,
            fruitless: 0,
            begun_at: now,
            taken: 0,
            bytes: 0,
            pass_bytes: 0,
            last_pass_bytes: 0,
        }
    }
}

impl Transfer {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            running: None,
            copy: Copy {
                // A fresh process holds the state before the first op, as everybody once did.
                since: Op::ZERO,
                at_least: Op::ZERO,
                is_mixed: false,
            },
            damage: Damage::NONE,
            image: SessionsImage::new(config.sessions, config.reply_bytes),
            questions: Questions::NONE,
            hold: None,
            exports: Exports::NONE,
            import: None,
            slowly: None,
            outrun: Outrun::NEVER,
            attempts: 0,
            mends_for: (ReplicaIndex::new(0), Instant::ZERO),
        }
    }
}

impl<S: StateMachine> Replica<S> {
    /// Whether this replica's state is being replaced, or must be: it executes nothing, and speaks for
    /// nothing that takes a state.
    pub(super) const fn is_transferring(&self) -> bool {
        self.transfer.running.is_some() || self.is_damage_waiting() || self.is_without_state()
    }

    /// Whether this memory is nobody's state and nothing replaces it yet: an image was brought to a process
    /// that was blank, in whole or in part, and no cluster begins with it (R7.4).
    pub(super) const fn is_without_state(&self) -> bool {
        self.transfer.copy.is_mixed && self.transfer.running.is_none()
    }

    /// An image is written over the state that this blank process had, and no cluster has begun with it.
    pub(super) fn give_up_state(&mut self) {
        self.transfer.copy = Copy {
            since: STATE_ALL,
            at_least: Op::ZERO,
            is_mixed: true,
        };
    }

    /// What is in memory is the state after `op`, verified.
    pub(super) fn has_state_of(&mut self, op: Op) {
        self.transfer.copy = Copy {
            since: op,
            at_least: op,
            is_mixed: false,
        };
    }

    /// Whether whatever was brought to this process must be replaced by what the cluster has that it
    /// found: the log leads on from a state that is not here, however far back it reaches.
    fn must_take_state(&self) -> bool {
        self.is_without_state() && self.is_restoring_log()
    }

    /// How far the transfer to this replica has come; none while there is none.
    #[must_use]
    pub fn transfer(&self) -> Option<TransferReport> {
        let running = self.transfer.running.as_ref()?;
        Some(TransferReport {
            donor: running.donor,
            pass: running.pass.number,
            held: running.pass.held,
            chunks: running.pass.chunks(),
            looked_at: running.pass.looked_at(),
            taken: running.taken,
            bytes: running.bytes,
            elapsed: self.now.monotonic.since(running.begun_at),
        })
    }

    /// Whether what is needed next is in no journal any more, as far as those who were heard lately have
    /// told (R8.2).
    fn is_beyond_journals(&self) -> bool {
        self.journals_reach()
            .is_some_and(|reach| reach > self.held.next())
    }

    /// The oldest op, of those that are of use here, that a journal holds: as far as those who were heard
    /// lately have told. None when nothing is missing, or nobody told.
    fn journals_reach(&self) -> Option<Op> {
        let may_lag = match self.status {
            Status::Normal => !self.is_primary(),
            Status::Recovering => self.is_restoring_log(),
            Status::Blank(_) | Status::ViewChange | Status::Halted(_) => false,
        };
        let next = self.held.next();
        if !may_lag || self.commit.max(self.log_head()) < next {
            return None;
        }
        let lately = self.config.view_timeout * LATELY_TIMEOUTS;
        let reach = |peer| {
            let report = self.links.report(peer, false);
            let serves = matches!(
                report.status,
                Some(PeerStatus::Normal | PeerStatus::ViewChange | PeerStatus::Halted)
            );
            let was_heard = report
                .heard
                .is_some_and(|heard| self.now.monotonic.since(heard) < lately);
            (serves && was_heard && report.op >= next).then_some(report.tail)
        };
        self.peers().filter_map(reach).min()
    }

    /// Whether the state may be fetched now, if something is missing.
    fn may_begin_transfer(&self) -> bool {
        if self.transfer.running.is_some() || self.config.replicas == 1 {
            return false;
        }
        let next = self.held.next();
        let is_committed = || {
            // What a peer has executed is committed, whether or not the primary's word came through.
            self.commit >= next || self.peers().any(|peer| self.links.applied_of(peer) >= next)
        };
        match self.status {
            // What was held here, and acknowledged, is not given up for less than a committed op that
            // this replica never held, or cannot read any more.
            Status::Normal => {
                !self.is_primary() && (is_committed() || (self.stalled && self.is_spare()))
            }
            Status::Recovering => true,
            Status::Blank(_) | Status::ViewChange | Status::Halted(_) => false,
        }
    }

    /// Whether the others can do without this replica's state: with its own, no more than f states are
    /// missing or behind it. Of a replica that merely lags that is certain (see above). One that cannot
    /// read an entry which it held may be the only one left to execute on while another takes its state
    /// over; it waits for that one to be done. Whoever is silent is not waited for.
    fn is_spare(&self) -> bool {
        let lately = self.config.view_timeout * LATELY_TIMEOUTS;
        let is_behind = |&peer: &ReplicaIndex| {
            let report = self.links.report(peer, false);
            // Who has stopped, or belongs to no cluster, will not come nearer.
            let goes_on = matches!(
                report.status,
                Some(PeerStatus::Normal | PeerStatus::ViewChange | PeerStatus::Recovering)
            );
            let heard = report.heard;
            goes_on
                && heard.is_some_and(|heard| self.now.monotonic.since(heard) < lately)
                && self.links.applied_of(peer) < self.applied
        };
        let behind = self.peers().filter(is_behind).count();
        // f is zero for two replicas, of which neither can spare the other in any case.
        behind == 0 || behind < usize::from(self.config.failures_survived())
    }

    /// No journal reaches back to what is needed here: fetches the state.
    pub(super) fn begin_transfer(&mut self, out: &mut impl Outbox) {
        if self.is_damage_waiting() {
            self.go_on_mending(out);
            return;
        }
        if !self.may_begin_transfer() {
            return;
        }
        if self.transfer.copy.is_mixed {
            self.sessions.image_begin(&mut self.transfer.image);
        } else {
            self.has_state_of(self.applied);
        }
        self.counters.count(Event::TransfersBegun);
        self.transfer.outrun.begin();
        let (donor, now) = (self.state_donor(), self.now.monotonic);
        self.transfer.running = Some(Running::new(donor, self.transfer.copy.since, now));
        self.ask_for_state(out);
    }

    /// Whom to ask: the last backup of the route first, which has the least to do, then those before
    /// it, and only then the primary, whose clients wait while it holds back execution. But whoever is
    /// known to be too far behind comes after all of those: two replicas that lag equally far would give
    /// each other what both have, for ever. It is no more than an order, because what nobody has executed
    /// yet may have to wait for this replica's acknowledgement.
    fn state_donor(&self) -> ReplicaIndex {
        let replicas = self.config.replicas;
        let primary = self.primary();
        // From here on a log goes on, as far as is known.
        let reach = self
            .journals_reach()
            .map_or(Op::ZERO, |reach| reach.minus(1));
        let useful = reach.max(self.applied.next());
        let mut donors = [primary; REPLICAS_MAX];
        let mut count = 0;
        // What is known may be old: who is not known to be of help comes last.
        let mends = self.is_damage_waiting() || self.mends_from().is_some();
        let doubts = |peer: ReplicaIndex| {
            let serves = self.links.status_of(peer) == Some(PeerStatus::Normal);
            let applied = self.links.applied_of(peer);
            match serves {
                // Nothing has changed there since, so damaged chunks are all that is needed.
                true if mends && applied == self.applied => 0,
                true if applied >= useful => 1,
                true => 2,
                false => 3,
            }
        };
        let backups = (1..replicas)
            .rev()
            .map(|steps| primary.successor(steps, replicas));
        for doubt in 0..=3 {
            for peer in backups.clone().chain([primary]) {
                if peer != self.me() && doubts(peer) == doubt {
                    donors[count] = peer;
                    count += 1;
                }
            }
        }
        donors[usize::from(self.transfer.attempts) % count]
    }

    /// Asks for what comes next, as much as may be in flight and is paid for.
    fn ask_for_state(&mut self, out: &mut impl Outbox) {
        loop {
            // Never zero: that marks what is not asked for.
            let question = self.random.next() | 1;
            let Some(running) = &mut self.transfer.running else {
                return;
            };
            if running.pace.paid_at() > self.now.monotonic {
                return;
            }
            let Some(range) = running.pass.next(question) else {
                return;
            };
            let question = GetState {
                question: range.question,
                since: running.pass.since,
                at_least: self.transfer.copy.at_least,
                from: range.from,
                count: range.count,
                wish: if running.pass.held {
                    STATE_HELD
                } else {
                    STATE_LIVE
                },
            };
            let donor = running.donor;
            // If it is lost it is asked again.
            let _: Sent = self.send(out, donor, question, &[]);
        }
    }

    /// Between views nobody gives state, and whoever has none cannot lead. As long as nothing was written
    /// over this replica's own, it has one: what it lacks may be in the others' journals after all, if the
    /// next primary says so. Otherwise two replicas that each miss one entry would let each other lead,
    /// for ever.
    pub(super) fn end_untouched_transfer(&mut self) {
        let is_untouched = !self.transfer.copy.is_mixed;
        let running = &mut self.transfer.running;
        if is_untouched && running.is_some_and(|running| !running.mends || running.probes) {
            *running = None;
            // What is damaged is asked for again when the next view has begun.
            self.transfer.damage = Damage::NONE;
        }
    }

    /// When the deadline is wanted: a silence here, or the end of a hold at a donor.
    pub(super) fn transfer_deadline(&self) -> Option<Instant> {
        if self.can_verify()
            || self.is_verifying_import()
            || self.can_go_on_mending()
            || ((self.is_beyond_journals() || self.must_take_state()) && self.may_begin_transfer())
        {
            return Some(Instant::ZERO);
        }
        let hold = self.transfer.hold.map(|hold| hold.until);
        let running = self.transfer.running.filter(|running| !running.is_complete);
        let next = running.map(|running| {
            let silence = running.heard_at.after(self.transfer_patience());
            if self.takes_state() && running.pass.wants() {
                silence.min(running.pace.paid_at())
            } else {
                silence
            }
        });
        [hold, next, self.outrun_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn transfer_patience(&self) -> Duration {
        self.config.tick * PATIENCE_TICKS
    }

    /// Whether questions about state may be asked: between views nobody answers them.
    const fn takes_state(&self) -> bool {
        matches!(self.status, Status::Normal | Status::Recovering)
    }

    /// The deadline came.
    pub(super) fn on_transfer_timeout(&mut self, out: &mut impl Outbox) {
        self.end_hold_in_time();
        self.verify_import();
        self.watch_the_load(out);
        if self.is_damage_waiting() {
            self.go_on_mending(out);
        } else if self.is_beyond_journals() || self.must_take_state() {
            self.begin_transfer(out);
        }
        if self.can_verify() {
            self.verify_some(out);
        }
        let patience = self.transfer_patience();
        let takes_part = self.takes_state();
        let running = self.transfer.running.as_mut();
        let Some(running) = running.filter(|running| !running.is_complete) else {
            return;
        };
        if self.now.monotonic < running.heard_at.after(patience) {
            if takes_part {
                // What came is paid for.
                self.ask_for_state(out);
            }
            return;
        }
        running.heard_at = self.now.monotonic;
        if !takes_part {
            // Nobody gives between views.
            return;
        }
        running.silences += 1;
        running.pass.rewind();
        if running.silences > SILENCES_MAX {
            running.fruitless += 1;
            if running.fruitless > FRUITLESS_ROUNDS_MAX * usize::from(self.config.replicas) {
                if running.probes {
                    self.give_up_mending();
                    return;
                }
                // Nobody can go on from here: a number that was damaged on its way may ask for a
                // state that nobody will have.
                self.fail_transfer(out);
            } else {
                // It may be dead, cut off, or busy: another one goes on where it stopped.
                self.turn_to_next_donor(out);
            }
            return;
        }
        self.ask_for_state(out);
    }

    /// Another donor goes on: live, from where this one stopped, or in a held pass from the start, since
    /// that is of one state.
    fn turn_to_next_donor(&mut self, out: &mut impl Outbox) {
        self.transfer.attempts = self.transfer.attempts.wrapping_add(1);
        let donor = self.state_donor();
        let Some(running) = &mut self.transfer.running else {
            return;
        };
        running.silences = 0;
        running.donor = donor;
        running.pass.rewind();
        if running.pass.held {
            self.restart_pass(false);
        }
        self.ask_for_state(out);
    }

    /// The same pass again from the first chunk: what came is kept, but what it is of cannot be said.
    fn restart_pass(&mut self, held: bool) {
        let since = self.transfer.copy.since;
        let Some(running) = &mut self.transfer.running else {
            return;
        };
        running.pass = Pass::new(running.pass.number + 1, held, since);
        running.offer = None;
        running.pass_bytes = 0;
    }

    pub(super) fn on_new_state(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let state = *frame.fields::<NewState>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame, out)?;
        // What was told of the log counts: a fresh process holds nothing, and its cluster may be old.
        let known = self.commit.max(self.log_head()).raw();
        let Some(running) = &mut self.transfer.running else {
            return Err(DropReason::Duplicate);
        };
        if frame.header().replica() != running.donor {
            return Err(DropReason::Duplicate);
        }
        if state.op.raw() > known.saturating_add(limits::LEAP_MAX) {
            return Err(DropReason::ImplausibleNumber);
        }
        // The donor was told what it must have executed.
        if state.op < self.transfer.copy.at_least || state.chunks > CHUNKS_MAX {
            return Err(DropReason::Malformed);
        }
        match state.kind {
            STATE_CHUNK => self.take_chunk(&state, frame.body(), out)?,
            STATE_END => {
                running.pass.take_end(&state)?;
                running.heard_at = self.now.monotonic;
                running.silences = 0;
                if running.pass.held {
                    running.offer = body::read(frame.body());
                }
            }
            _ => return Err(DropReason::Malformed),
        }
        self.go_on(out);
        Ok(())
    }

    /// Writes a chunk into the copy.
    fn take_chunk(&mut self, state: &NewState, bytes: &[u8], out: &mut impl Outbox) -> Handled {
        let Some(running) = &mut self.transfer.running else {
            return Err(DropReason::Duplicate);
        };
        running.pass.expects(state)?;
        if running.probes {
            running.pass.took(state);
            running.heard_at = self.now.monotonic;
            running.silences = 0;
            return Ok(());
        }
        let session_chunks = self.sessions.image_chunks();
        let Some(machine_chunks) = state.chunks.checked_sub(session_chunks) else {
            return Err(DropReason::Malformed);
        };
        if !self.transfer.copy.is_mixed {
            // From here on this memory is nobody's state.
            self.transfer.copy.is_mixed = true;
            self.sessions.image_begin(&mut self.transfer.image);
        }
        if running.machine_chunks != Some(machine_chunks) {
            if self.machine.image_begin(machine_chunks) == Err(ImageError::TooLarge) {
                self.fail_transfer(out);
                return Err(DropReason::Malformed);
            }
            running.machine_chunks = Some(machine_chunks);
        }
        let put = match state.chunk.checked_sub(session_chunks) {
            Some(chunk) => self.machine.image_put(chunk, bytes),
            None => self
                .sessions
                .image_put(&mut self.transfer.image, state.chunk, bytes),
        };
        put.map_err(|_| DropReason::Malformed)?;
        running.pass.took(state);
        running.heard_at = self.now.monotonic;
        running.silences = 0;
        running.fruitless = 0;
        running.taken += 1;
        running.bytes += bytes.len() as u64;
        running
            .pace
            .took(bytes.len(), self.config.transfer_rate, self.now.monotonic);
        running.pass_bytes += bytes.len() as u64;
        let (is_again, size) = (running.pass.number > 1, bytes.len() as u64);
        self.transfer.copy.at_least = self.transfer.copy.at_least.max(state.op);
        self.counters.count(Event::StateChunksTaken);
        self.counters.add(Event::StateBytesTaken, size);
        if is_again {
            self.counters.count(Event::StateChunksTakenAgain);
        }
        Ok(())
    }

    /// Something came: asks for more, or ends the pass.
    fn go_on(&mut self, out: &mut impl Outbox) {
        let Some(running) = &self.transfer.running else {
            return;
        };
        if running.pass.held && !running.pass.is_of_one_state() {
            // The donor had to go on before everything had left.
            self.counters.count(Event::HoldsBroken);
            self.transfer.outrun.once_more();
            self.restart_pass(false);
        } else if running.pass.is_complete() {
            self.end_pass(out);
        }
        self.ask_for_state(out);
    }

    /// Everything that changed since the last pass is here.
    fn end_pass(&mut self, out: &mut impl Outbox) {
        let Some(running) = &mut self.transfer.running else {
            return;
        };
        let pass = running.pass;
        let low = pass.low().expect("a complete pass was answered");
        if pass.held {
            let done = GetState {
                question: 0,
                since: low,
                at_least: low,
                from: 0,
                count: 0,
                wish: STATE_DONE,
            };
            running.is_complete = true;
            let donor = running.donor;
            // If it is lost, the donor goes on when the time is up.
            let _: Sent = self.send(out, donor, done, &[]);
            return;
        }
        if running.probes {
            self.end_probe();
            return;
        }
        if pass.is_over_chosen() {
            // What was damaged is here. Everything else is as it was when this replica stopped executing.
            self.transfer.damage = Damage::NONE;
            self.restart_pass(false);
            return;
        }
        let is_small = running.pass_bytes <= SMALL_BYTES;
        let gains = pass.number == 1 || running.pass_bytes < running.last_pass_bytes / 2;
        let held = is_small || !gains || pass.number >= LIVE_PASSES_MAX;
        running.last_pass_bytes = running.pass_bytes;
        // Chunks read at `low` or later are as they were then; what changed after it comes again.
        self.transfer.copy.since = if self.is_off(Mutant::ChangedChunksKept) {
            STATE_ALL.minus(1)
        } else {
            low
        };
        self.restart_pass(held);
    }

    /// What came is no state: everything is fetched anew, from another donor.
    fn fail_transfer(&mut self, out: &mut impl Outbox) {
        self.counters.count(Event::TransfersFailed);
        // Every chunk comes anew, so nothing is older than what is asked for.
        self.transfer.copy = Copy {
            since: STATE_ALL,
            at_least: self.applied,
            is_mixed: true,
        };
        self.sessions.image_begin(&mut self.transfer.image);
        if let Some(running) = &mut self.transfer.running {
            running.pass = Pass::new(0, false, STATE_ALL);
            running.is_complete = false;
            running.machine_chunks = None;
            running.fruitless = 0;
        }
        self.restart_pass(false);
        self.turn_to_next_donor(out);
    }
}
