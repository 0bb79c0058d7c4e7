//! Fetching from others' journals what did not come by itself (N14, R3.3, R8.4).
//!
//! A backup whose head is behind what its primary has prepared asks for the entries after its head,
//! naming the identity of its head: a donor whose chain differs there has nothing to offer. Entries
//! come as prepares with an empty route and are appended in order like any other. The donor sends as
//! much as fits and then says where it stopped, so that the next question follows at once; silence
//! makes the asker turn to the next donor.

use core::time::Duration;

use vsr_types::message::{GetPrepare, Headers};
use vsr_types::{Frame, HEADER_SIZE, Identity, Instant, Nonce, Op, ReplicaIndex, Route};

use super::admit::Handled;
use super::{Replica, Status};
use crate::counters::Event;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// The most entries asked for at once.
const ENTRIES_MAX: u64 = 256;
/// The most bytes asked for at once: half of what a link's send queue holds, and several of the largest
/// batches, so that who catches up is faster than the load that goes on meanwhile.
const BYTES_MAX: u64 = 4 << 20;
/// How many ticks without an answer make the asker turn to another donor.
const PATIENCE_TICKS: u32 = 3;
/// How many ticks a lag must last before it is repaired: a prepare on its way is no gap (T_gap).
const GAP_TICKS: u32 = 2;

/// What is being fetched.
#[derive(Debug)]
pub(super) struct Repair {
    /// The highest op that the primary is known to have prepared.
    target: Op,
    /// The question in flight: its nonce is answered by the donor's last word.
    asked: Option<Asked>,
    /// When the head last moved, or the lag began: what is on its way is not missing.
    progress_at: Instant,
    /// Counts donors that stayed silent or had nothing.
    attempts: u8,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    head: Op,
    until: Instant,
}

impl Repair {
    pub(super) const fn new() -> Self {
        Self {
            target: Op::ZERO,
            asked: None,
            progress_at: Instant::ZERO,
            attempts: 0,
        }
    }

    /// The primary is known to have prepared `op`; what is held here ends with `head`.
    pub(super) fn note_target(&mut self, op: Op, head: Op, now: Instant) {
        if self.target <= head && op > head {
            // A heartbeat overtakes the prepares that went down the chain.
            self.progress_at = now;
        }
        self.target = self.target.max(op);
    }

    pub(super) const fn note_progress(&mut self, now: Instant) {
        self.progress_at = now;
    }
}

impl<S: StateMachine> Replica<S> {
    /// Whether something is missing here. Of a primary, only a body that was found damaged.
    fn lags(&self) -> bool {
        let is_behind = !self.is_primary() && self.op() < self.repair.target;
        self.is_normal() && (is_behind || self.stalled)
    }

    fn gap_patience(&self) -> Duration {
        self.config.tick * GAP_TICKS
    }

    /// When the repair wants the deadline to come; none while nothing is missing.
    pub(super) fn repair_deadline(&self) -> Option<Instant> {
        if !self.lags() {
            return None;
        }
        Some(match self.repair.asked {
            Some(asked) => asked.until,
            None => self.repair.progress_at.after(self.gap_patience()),
        })
    }

    /// The deadline came.
    pub(super) fn on_repair_timeout(&mut self, out: &mut impl Outbox) {
        let Some(due) = self.repair_deadline() else {
            self.repair.asked = None;
            return;
        };
        if self.now.monotonic < due {
            return;
        }
        let until = self
            .repair
            .progress_at
            .after(self.config.tick * PATIENCE_TICKS);
        if let Some(asked) = &mut self.repair.asked {
            if asked.head < self.journal.head() && until > self.now.monotonic {
                // The answer is still coming in: asking again would only send the same once more.
                asked.until = until;
                return;
            }
            if asked.head == self.journal.head() {
                // Silence: somebody else may know.
                self.repair.attempts = self.repair.attempts.wrapping_add(1);
            }
        }
        self.ask(out);
    }

    /// A gap was seen: something is missing for certain, so there is nothing to wait for.
    pub(super) fn repair_now(&mut self, out: &mut impl Outbox) {
        if self.lags() && self.repair.asked.is_none() {
            self.ask(out);
        }
    }

    fn ask(&mut self, out: &mut impl Outbox) {
        let patience = self.config.tick * PATIENCE_TICKS;
        let until = self.now.monotonic.after(self.random.jitter(patience));
        self.repair.asked = Some(Asked {
            head: self.op(),
            until,
        });
        // A damaged entry is fetched again by its identity; otherwise what follows the head.
        let (from, to, parent) = if self.stalled {
            let op = self.applied.next();
            (op, op, self.applied_identity)
        } else {
            // Not only up to the target, which is as old as the last heartbeat: the donor knows better.
            let to = self.op().plus(ENTRIES_MAX);
            (self.op().next(), to, self.head)
        };
        let Some(donor) = self.donor(from) else {
            return;
        };
        let question = GetPrepare {
            from,
            to,
            parent,
            budget: BYTES_MAX,
        };
        self.counters.count(Event::RepairsAsked);
        if self.send(out, donor, question, &[]) == Sent::Dropped {
            self.repair.attempts = self.repair.attempts.wrapping_add(1);
        }
    }

    /// Whom to ask for `from`: the hop before this one, then the primary, then anybody (R3.3); for a
    /// long lag first those who have less to do than the primary.
    fn donor(&self, from: Op) -> Option<ReplicaIndex> {
        let replicas = self.config.replicas;
        let predecessor = self.me().successor(replicas - 1, replicas);
        let far = self.repair.target.distance_from(from) > self.config.pipeline as u64;
        let me = self.me();
        let primary = self.primary();
        let mut candidates = [predecessor; vsr_types::limits::REPLICAS_MAX];
        let mut count = 0;
        let mut add = |replica: ReplicaIndex| {
            if replica != me && !candidates[..count].contains(&replica) {
                candidates[count] = replica;
                count += 1;
            }
        };
        if !far {
            add(predecessor);
            add(primary);
        }
        let reaches = |peer: &ReplicaIndex| self.links.tail_of(*peer) <= from;
        self.peers()
            .filter(|&peer| peer != primary)
            .filter(reaches)
            .for_each(&mut add);
        add(primary);
        if count == 0 {
            return None;
        }
        Some(candidates[usize::from(self.repair.attempts) % count])
    }

    pub(super) fn on_get_prepare(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let wanted = *frame.fields::<GetPrepare>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame)?;
        if matches!(self.status, Status::Blank(_)) {
            return Err(DropReason::WrongStatus);
        }
        let asker = frame.header().replica();
        let Some(before) = wanted.from.previous() else {
            return Err(DropReason::Malformed);
        };
        let held = wanted.from >= self.journal.tail() && wanted.from <= self.op();
        // Nothing to offer, or another chain: silence, never "it does not exist" (R8.4).
        let same_chain = |identity: Identity| identity == wanted.parent;
        if !held || !self.identity_of(before).is_none_or(same_chain) {
            return Err(DropReason::WrongIdentity);
        }
        let to = wanted.to.min(self.op()).min(wanted.from.plus(ENTRIES_MAX));
        let mut left = wanted.budget.min(BYTES_MAX);
        let mut op = wanted.from;
        while op <= to {
            let size = self
                .journal
                .header(op)
                .map_or(0, |header| header.size() as u64);
            // The first entry always goes, however large.
            let fits = size <= left || op == wanted.from;
            // N17: what is given to others is verified first, header and body.
            if size == 0 || !fits || self.journal.read(op).is_err() {
                break;
            }
            if self.send_prepare(op, asker, Route::NONE, out) == Sent::Dropped {
                break;
            }
            self.counters.count(Event::RepairsGiven);
            left = left.saturating_sub(size.max(HEADER_SIZE as u64));
            op = op.next();
        }
        let last_word = Headers {
            from: op,
            nonce: Nonce::ZERO,
            reserved: [0; 2],
        };
        let _: Sent = self.send(out, asker, last_word, &[]);
        Ok(())
    }

    /// The donor's last word: where it stopped.
    pub(super) fn on_headers(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let headers = *frame.fields::<Headers>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame)?;
        let Some(asked) = self.repair.asked else {
            return Err(DropReason::Duplicate);
        };
        if headers.from != self.op().next() || self.op() == asked.head {
            return Err(DropReason::Duplicate);
        }
        self.repair.attempts = 0;
        self.repair.asked = None;
        if self.lags() {
            self.ask(out);
        }
        Ok(())
    }
}
