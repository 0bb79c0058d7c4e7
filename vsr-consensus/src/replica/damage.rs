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

use core::ops::Range;

use vsr_types::Instant;

use super::Replica;
use crate::counters::Event;
use crate::machine::CHUNK_UNKNOWN;
use crate::sessions::Sessions;
use crate::{Outbox, StateMachine};

/// How many places are remembered one by one; with more the whole state is fetched.
const RANGES_MAX: usize = 8;
/// And so many chunks are fetched one by one.
const CHUNKS_MAX: usize = 16;
/// How many ticks pass before a repair that did not begin is tried again.
const RETRY_TICKS: u32 = 10;

/// What is known of damage in machine and sessions.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Ranges of chunks of the whole image: those of the sessions first.
    ranges: [Range<u64>; RANGES_MAX],
    count: usize,
    /// More than fits, or it cannot be told where.
    is_everywhere: bool,
    /// An operation met it.
    is_blocking: bool,
    /// And had changed something before.
    is_interrupted: bool,
    /// When something is to be done about it; zero: at once.
    due: Instant,
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
    /// Notes that `chunks` are damaged; with `by_operation` an operation met that.
    pub(super) fn note(&mut self, chunks: Range<u64>, by_operation: bool) {
        if by_operation && !self.is_blocking {
            self.is_blocking = true;
            self.due = Instant::ZERO;
        }
        let is_known = |known: &Range<u64>| known.start <= chunks.start && chunks.end <= known.end;
        if self.ranges[..self.count].iter().any(is_known) {
            return;
        }
        if self.count == RANGES_MAX || chunks.end == u64::MAX {
            self.is_everywhere = true;
            return;
        }
        self.ranges[self.count] = chunks;
        self.count += 1;
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

    /// What the machine or the sessions have met since this was last asked; noted as met by an operation
    /// if `by_operation`. Says whether there was anything.
    pub(super) fn note_damage_met(&mut self, by_operation: bool) -> bool {
        let sessions = self.sessions.take_damage();
        let machine = self.machine.damaged();
        let machine = machine.map(|chunk| in_image(&self.sessions, &self.machine, chunk));
        let mut is_any = false;
        for chunks in [sessions, machine].into_iter().flatten() {
            self.note_damage(chunks, by_operation);
            is_any = true;
        }
        if is_any && by_operation {
            self.damage.is_interrupted = self.half_executed().is_some();
        }
        is_any
    }

    /// Notes damaged chunks of the whole image.
    pub(super) fn note_damage(&mut self, chunks: Range<u64>, by_operation: bool) {
        if !self.damage.is_any() {
            self.counters.count(Event::DamagedStates);
            // Peers that find the same kind of damage at the same time do not all begin at once.
            let spread = self.config.view_timeout;
            self.damage.due = self.now.monotonic.after(self.random.jitter(spread));
        }
        self.damage.note(chunks, by_operation);
    }

    /// When something is to be done about damage.
    pub(super) fn damage_deadline(&self) -> Option<Instant> {
        (self.damage.is_any() && !self.is_transferring()).then_some(self.damage.due)
    }

    /// The deadline came.
    pub(super) fn on_damage_timeout(&mut self, out: &mut impl Outbox) {
        if self
            .damage_deadline()
            .is_none_or(|due| self.now.monotonic < due)
        {
            return;
        }
        self.damage.due = self.now.monotonic.after(self.config.tick * RETRY_TICKS);
        if !self.is_normal() || self.config.replicas == 1 {
            return;
        }
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

    /// A state was installed that has been verified as a whole: what was damaged is gone.
    pub(super) fn forget_damage(&mut self) {
        if self.damage.is_any() {
            self.counters.count(Event::StatesRepaired);
        }
        self.damage = Damage::default();
    }
}
