//! State that is not what was written: what is known of it, and how it is got rid of (M3, N18).
//!
//! Two cases differ. Damage that the scrubber found, or a question, touches nothing: whatever is read is
//! verified, so the replica goes on executing and serving everything else until it is repaired. When an
//! *operation* met damage, nothing is executed, answered or led from that moment on (R14.3). If it had
//! changed something before, the state lies between two ops, and nothing of it is given to others either.
//! The operation does not count as executed; it will be, on the state that was repaired.
//!
//! A backup fetches the damaged chunks, and what changed since, from a peer (see `transfer`). It goes on
//! acknowledging: its journal and its promises are intact. A primary first lets another one lead.
//!
//! What nobody can give is bad wherever it is held (R14.4). Then the replica keeps what it has, says so, goes
//! on with everything else, and asks again, less and less often. What is written anew over a damaged place
//! ends the damage: a round of the scrubber that does not find it again is the proof.

use core::ops::Range;
use core::time::Duration;

use vsr_types::{Instant, ReplicaIndex};

use super::Replica;
use super::findings::{FoundBy, Remedy};
use crate::counters::Event;
use crate::machine::CHUNK_UNKNOWN;
use crate::sessions::Sessions;
use crate::{Outbox, StateMachine};

/// How many places are remembered one by one; with more the whole state is fetched.
const RANGES_MAX: usize = 8;
/// And so many chunks are fetched one by one.
const CHUNKS_MAX: usize = 16;
/// How many ticks pass before a repair that did not begin is tried again. Twice as many each time.
const RETRY_TICKS: u32 = 10;
/// At most so many times as many.
const RETRY_FACTOR_MAX: u32 = 512;
/// So long, for each replica, the others have to repair themselves before a primary that is damaged too lets
/// one of them lead: about what it takes to hear from everybody that he does not have it.
const TURN_TICKS: u32 = 50;

/// What is known of damage in machine and sessions.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Ranges of chunks of the whole image: those of the sessions first.
    ranges: [Range<u64>; RANGES_MAX],
    /// The scrubber's round in which each was noted last.
    noted: [u64; RANGES_MAX],
    count: usize,
    /// More than fits, or it cannot be told where.
    is_everywhere: bool,
    /// An operation met it.
    is_blocking: bool,
    /// And had changed something before.
    is_interrupted: bool,
    /// When something is to be done about it; zero: at once.
    due: Instant,
    /// How often something was done about it, and when last.
    attempts: u32,
    tried_at: Instant,
    /// When it was noticed first.
    since: Instant,
    /// Every peer was asked, and none could give it.
    is_nobodys: bool,
}

/// The chunks of the whole image that a machine's chunk stands for.
pub(super) fn in_image<S: StateMachine>(
    sessions: &Sessions,
    machine: &S,
    chunk: u64,
) -> Range<u64> {
    if chunk == CHUNK_UNKNOWN {
        return 0..u64::MAX;
    }
    let from = sessions.image_chunks().saturating_add(chunk);
    from..from.saturating_add(machine.damaged_span().max(1))
}

impl Damage {
    /// Notes, in this round of the scrubber, that `chunks` are damaged; with `by_operation` an operation
    /// met that.
    pub(super) fn note(&mut self, chunks: Range<u64>, by_operation: bool, round: u64) {
        if by_operation && !self.is_blocking {
            self.is_blocking = true;
            self.due = Instant::ZERO;
        }
        let is_known = |known: &Range<u64>| known.start <= chunks.start && chunks.end <= known.end;
        if let Some(place) = self.ranges[..self.count].iter().position(is_known) {
            self.noted[place] = round;
            return;
        }
        if self.count == RANGES_MAX || chunks.end == u64::MAX {
            self.is_everywhere = true;
            return;
        }
        self.ranges[self.count] = chunks;
        self.noted[self.count] = round;
        self.count += 1;
    }

    /// A round in which everything was looked at is over: removes a place that was noted before it began
    /// and was not found again. Returns its first chunk.
    fn remove_unseen(&mut self, round: u64) -> Option<u64> {
        let place = self.noted[..self.count]
            .iter()
            .position(|&noted| noted < round)?;
        self.count -= 1;
        self.ranges.swap(place, self.count);
        self.noted.swap(place, self.count);
        Some(self.ranges[self.count].start)
    }

    /// Whether anything is damaged.
    pub(super) const fn is_any(&self) -> bool {
        self.count > 0 || self.is_everywhere || self.is_blocking
    }

    /// Whether `chunk` of the whole image may be.
    pub(super) fn has(&self, chunk: u64) -> bool {
        self.is_everywhere
            || self.ranges[..self.count]
                .iter()
                .any(|range| range.contains(&chunk))
    }

    /// Whether an operation met it: nothing is executed until it is repaired.
    pub(super) const fn is_blocking(&self) -> bool {
        self.is_blocking
    }

    /// Whether the state lies between two ops.
    pub(super) const fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// The first chunk that is known to be damaged.
    pub(super) fn first(&self) -> Option<u64> {
        self.ranges[..self.count].iter().map(|r| r.start).min()
    }

    /// The chunks that are damaged, one by one; with too many, [`CHUNK_UNKNOWN`].
    fn chunks(&self) -> ([u64; CHUNKS_MAX], usize) {
        let mut chunks = [CHUNK_UNKNOWN; CHUNKS_MAX];
        let mut count = 0;
        for chunk in self.ranges[..self.count].iter().cloned().flatten() {
            if self.is_everywhere || count == CHUNKS_MAX {
                return ([CHUNK_UNKNOWN; CHUNKS_MAX], 1);
            }
            chunks[count] = chunk;
            count += 1;
        }
        (chunks, count.max(1))
    }
}

impl<S: StateMachine> Replica<S> {
    /// Whether there is a state that may be executed on, given and spoken for: it is not being replaced,
    /// nor has an operation met damage in it. Local reads must ask.
    #[must_use]
    pub const fn has_state(&self) -> bool {
        !self.is_transferring() && !self.damage.is_interrupted()
    }

    /// Whether an operation met damage: nothing is executed, answered or led.
    pub(super) const fn is_blocked(&self) -> bool {
        self.damage.is_blocking()
    }

    /// Since when the state has been damaged.
    pub(super) fn damaged_since(&self) -> Option<Instant> {
        self.damage.is_any().then_some(self.damage.since)
    }

    /// Whether no peer can give what is damaged of the state.
    pub(super) const fn is_damage_nobodys(&self) -> bool {
        self.damage.is_nobodys
    }

    /// What the machine or the sessions have met since this was last asked; noted as met by an operation
    /// if `by_operation`. Says whether there was anything.
    pub(super) fn note_damage_met(&mut self, by_operation: bool) -> bool {
        let sessions = self.sessions.take_damage();
        let machine = self.machine.damaged();
        let machine = machine.map(|chunk| in_image(&self.sessions, &self.machine, chunk));
        let mut is_any = false;
        for chunks in [sessions, machine].into_iter().flatten() {
            self.note_damage(chunks, by_operation, FoundBy::Use);
            is_any = true;
        }
        if is_any && by_operation {
            self.damage.is_interrupted = self.half_executed().is_some();
        }
        is_any
    }

    /// Whether what was read just now was found damaged. A machine goes on naming what it has met before,
    /// which is no part of what is given.
    pub(super) fn is_damage_news(&self, met_before: &Option<u64>) -> bool {
        self.sessions.is_damage_met() || self.machine.damaged() != *met_before
    }

    /// Whether the state lies between two ops.
    pub(super) const fn is_interrupted(&self) -> bool {
        self.damage.is_interrupted()
    }

    /// Notes damaged chunks of the whole image.
    pub(super) fn note_damage(&mut self, chunks: Range<u64>, by_operation: bool, by: FoundBy) {
        self.found_chunks(&chunks, by);
        if !self.damage.is_any() {
            self.counters.count(Event::DamagedStates);
            self.damage.since = self.now.monotonic;
            // Peers that find the same kind of damage at the same time do not all begin at once.
            let spread = self.config.view_timeout;
            self.damage.due = self.now.monotonic.after(self.random.jitter(spread));
        }
        self.damage
            .note(chunks, by_operation, self.scrubber.rounds());
    }

    /// The scrubber has looked at all of sessions and machine in this round: what it did not find again was
    /// overwritten.
    pub(super) fn end_overwritten(&mut self) {
        if self.is_blocked() || self.machine.damaged().is_some() {
            return;
        }
        while let Some(first) = self.damage.remove_unseen(self.scrubber.rounds()) {
            self.end_chunks(first);
        }
        if !self.damage.is_any() && self.damage.since != Instant::ZERO {
            self.damage = Damage::default();
            self.counters.count(Event::StatesOverwritten);
        }
    }

    /// Tries again after `pause`, without having tried in vain.
    pub(super) fn postpone_damage(&mut self, pause: Duration) {
        self.damage.due = self.now.monotonic.after(pause);
        self.damage.attempts = self.damage.attempts.saturating_sub(1);
    }

    /// Every peer was asked for what is damaged, more than once, and none could give all of it (R14.4).
    pub(super) fn note_nobody_has_it(&mut self) {
        self.counters.count(Event::StatesUnrepaired);
        self.damage.is_nobodys = true;
        self.end_state(Remedy::Nobody);
        self.damage.due = self.now.monotonic.after(self.damage_patience());
    }

    /// A view has begun. Who does not lead repairs itself at once; who leads, and is damaged as well, first
    /// lets the others do so, even if it can execute nothing: nobody was better prepared, and between views
    /// nobody is given anything.
    pub(super) fn damage_in_new_view(&mut self) {
        let now = self.now.monotonic;
        if !self.damage.is_any() {
            return;
        }
        if self.is_primary() {
            let turn = self.config.tick * (TURN_TICKS * u32::from(self.config.replicas));
            self.damage.due = now.after(self.damage_patience().max(turn));
        } else if (self.damage.attempts > 0 || self.is_blocked()) && !self.damage.is_nobodys {
            self.damage.due = now.after(self.random.jitter(self.config.tick));
        }
    }

    /// How long to wait for the next attempt.
    fn damage_patience(&self) -> Duration {
        let factor = 1 << self.damage.attempts.min(RETRY_FACTOR_MAX.ilog2());
        self.config.tick * (RETRY_TICKS * factor)
    }

    /// When something is to be done about damage.
    pub(super) fn damage_deadline(&self) -> Option<Instant> {
        if !self.damage.is_any() || self.is_transferring() {
            return None;
        }
        let is_ahead = |peer| self.links.applied_of(peer) > self.applied;
        // There is somebody to let lead.
        let is_outdone = self.is_blocked() && self.is_normal() && self.is_primary();
        Some(if is_outdone && self.peers().any(is_ahead) {
            self.damage
                .due
                .min(self.damage.tried_at.after(self.config.tick * RETRY_TICKS))
        } else {
            self.damage.due
        })
    }

    /// The deadline came.
    pub(super) fn on_damage_timeout(&mut self, out: &mut impl Outbox) {
        if self
            .damage_deadline()
            .is_none_or(|due| self.now.monotonic < due)
        {
            return;
        }
        self.damage.due = self.now.monotonic.after(self.damage_patience());
        self.damage.tried_at = self.now.monotonic;
        if self.config.replicas == 1 {
            if !self.damage.is_nobodys {
                self.note_nobody_has_it();
            }
            return;
        }
        if !self.is_normal() {
            return;
        }
        self.damage.attempts = self.damage.attempts.saturating_add(1);
        if !self.is_primary() {
            let (chunks, count) = self.damage.chunks();
            // Who is alone is not a backup.
            let _can_be: bool = self.repair_state(&chunks[..count], out);
            return;
        }
        let Some(successor) = self.best_successor() else {
            return;
        };
        if self.is_blocked() {
            // There is nothing to wait for: what is in flight cannot be executed here.
            self.counters.count(Event::HandedOver);
            let view = self.next_view_of(successor);
            self.enter_view_change(view, out);
        } else if !self.change.accepts_nothing() {
            self.begin_hand_over(successor);
        }
    }

    /// A state was installed that has been verified as a whole and came from `donor`: what was damaged is
    /// gone.
    pub(super) fn forget_damage(&mut self, donor: ReplicaIndex) {
        if self.damage.is_any() {
            self.counters.count(Event::StatesRepaired);
            self.end_state(Remedy::Peer(donor));
        }
        self.damage = Damage::default();
    }
}
