//! The scrubber: everything at rest is verified within a configured time, whether or not it is used (N18,
//! R14.1).
//!
//! It goes round: the slots of the journal, the sessions with their replies, the machine. A step looks at
//! a small number of bytes; how much time passes until the next one follows from how many there are in
//! all. What it finds in the journal it mends from the other copy or marks and has fetched; damaged
//! sessions and chunks of the machine are noted for `damage`. What it cannot get from anybody it reports
//! and leaves alone: nothing is guessed.

use core::time::Duration;

use vsr_journal::{Journal, ReadError, SlotState};
use vsr_types::{Header, Identity, Instant, Op, ReplicaIndex, message::Prepare};

use super::damage::in_image;
use super::findings::{FoundBy, Remedy};
use super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{Outbox, Scrub, Sent, StateMachine};

/// About how many bytes a step looks at: some tens of microseconds of work. An entry of the journal is
/// looked at in one piece, so a step may take as many as a frame has.
const STEP_BYTES: usize = 64 << 10;
/// The shortest time between two steps: with this a scrubber with an impossible period leaves 9 of 10
/// parts of the loop to others.
const PAUSE_MIN: Duration = Duration::from_micros(200);
/// How far behind its plan it may be and still catch up.
const LAG_MAX: Duration = Duration::from_millis(100);
/// How many ticks without an answer make the asker turn to another donor.
const PATIENCE_TICKS: u32 = 2;
/// How often every peer is asked for a damaged entry before it is given up for now.
const ASK_ROUNDS: usize = 3;
/// How many damaged entries are remembered at a time. The others are found again in the next round.
const FAULTY_MAX: usize = 32;

/// What is being looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Journal,
    Sessions,
    Machine,
}

/// Where the scrubber is.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    part: Part,
    /// The slot, place or byte of that part that comes next.
    next: u64,
    due: Instant,
    began_at: Instant,
    looked_at: u64,
    /// Sessions and machine could not be looked at in this round: they were being replaced.
    has_left_out: bool,
    rounds: u64,
    last_round: Duration,
    faulty: Faulty,
    /// The one that is being asked for, how often it was, and when somebody else is.
    asked: (Op, usize, Instant),
    /// The last entry that nobody could give.
    unrepaired: Option<Op>,
}

/// Entries of the journal that are damaged and wait for a peer's copy.
#[derive(Debug, Default)]
struct Faulty {
    ops: [Op; FAULTY_MAX],
    count: usize,
}

impl Faulty {
    fn ops(&self) -> &[Op] {
        &self.ops[..self.count]
    }

    fn add(&mut self, op: Op) {
        if !self.ops().contains(&op) && self.count < FAULTY_MAX {
            self.ops[self.count] = op;
            self.count += 1;
        }
    }

    fn remove(&mut self, op: Op) {
        if let Some(place) = self.ops().iter().position(|&known| known == op) {
            self.count -= 1;
            self.ops[place] = self.ops[self.count];
        }
    }
}

impl Scrubber {
    pub(super) const fn rounds(&self) -> u64 {
        self.rounds
    }
}

/// How far the scrubber has come, and what is damaged now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How many rounds over everything are complete.
    pub rounds: u64,
    /// How long the last one took.
    pub last_round: Duration,
    /// For how long this one has been going on.
    pub elapsed: Duration,
    /// About how long it will still take.
    pub left: Duration,
    /// How many bytes this one has looked at.
    pub looked_at: u64,
    /// And how many there are.
    pub size: u64,
    /// How many entries of the journal are known to be damaged and are being fetched.
    pub faulty_entries: usize,
    /// The last entry that no peer could give, if it is still damaged: bad wherever it is held.
    pub unrepaired: Option<Op>,
    /// The state is damaged: the op after which it was last sound.
    pub damaged_state: Option<Op>,
    /// The first chunk of its image that is known to be damaged: those of the sessions come first.
    pub damaged_chunk: Option<u64>,
    /// An operation met the damage: nothing is executed until it is repaired.
    pub is_blocked: bool,
    /// Since when the state has been damaged.
    pub damaged_since: Option<Instant>,
    /// No peer can give what is damaged of the state: it is bad wherever it is held.
    pub is_nobodys: bool,
    /// Who is asked for what is damaged.
    pub waits_for: Option<ReplicaIndex>,
}

impl<S: StateMachine> Replica<S> {
    /// How many bytes a round looks at.
    fn scrub_size(&self) -> u64 {
        let slots = Journal::memory(self.config.journal_slots, 0) + self.journal.bytes_used();
        slots as u64 + self.sessions.scrub_size() + self.machine.scrub_size()
    }

    /// When this room and `damage` want the deadline to come.
    pub(super) fn upkeep_deadline(&self) -> Instant {
        let mut next = self.scrub_deadline();
        if let Some(damage) = self.damage_deadline() {
            next = next.min(damage);
        }
        if self.scrubber.faulty.count > 0 && self.faulty_entry().is_some() {
            next = next.min(self.scrubber.asked.2);
        }
        next
    }

    /// The deadline came.
    pub(super) fn on_upkeep(&mut self, out: &mut impl Outbox) {
        self.on_scrub_timeout();
        if self.scrubber.faulty.count > 0 {
            self.ask_for_faulty(out);
        }
        self.on_damage_timeout(out);
    }

    /// When the scrubber looks at the next piece.
    fn scrub_deadline(&self) -> Instant {
        match self.status {
            Status::Blank(_) | Status::Halted(_) => Instant::FAR_FUTURE,
            _ if self.is_off(Mutant::ScrubberOff) => Instant::FAR_FUTURE,
            _ => self.scrubber.due,
        }
    }

    /// The deadline came: a step.
    fn on_scrub_timeout(&mut self) {
        let now = self.now.monotonic;
        if now < self.scrub_deadline() {
            return;
        }
        if self.scrubber.looked_at == 0 {
            self.scrubber.began_at = now;
        }
        let bytes = match self.scrubber.part {
            Part::Journal => self.scrub_journal(),
            Part::Sessions | Part::Machine if !self.has_state() => {
                // It is being replaced, and verified as a whole.
                self.scrubber.has_left_out = true;
                self.next_part();
                0
            }
            Part::Sessions => self.scrub_sessions(),
            Part::Machine => self.scrub_machine(),
        };
        self.counters.add(Event::ScrubbedBytes, bytes as u64);
        self.scrubber.looked_at += bytes as u64;
        let period = self.config.scrub_period.as_nanos();
        let pause = period.saturating_mul(bytes as u128) / u128::from(self.scrub_size().max(1));
        let pause = Duration::from_nanos(u64::try_from(pause).unwrap_or(u64::MAX));
        let is_first = self.scrubber.due == Instant::ZERO;
        let earliest = if is_first { now } else { now.before(LAG_MAX) };
        let planned = self.scrubber.due.max(earliest).after(pause);
        self.scrubber.due = planned.max(now.after(PAUSE_MIN));
    }

    /// This part has been looked at.
    fn next_part(&mut self) {
        self.scrubber.next = 0;
        self.scrubber.part = match self.scrubber.part {
            Part::Journal => Part::Sessions,
            Part::Sessions => Part::Machine,
            Part::Machine => {
                self.counters.count(Event::ScrubRounds);
                if !self.scrubber.has_left_out {
                    self.end_overwritten();
                }
                self.scrubber.has_left_out = false;
                self.scrubber.rounds += 1;
                self.scrubber.last_round = self.now.monotonic.since(self.scrubber.began_at);
                self.scrubber.looked_at = 0;
                Part::Journal
            }
        };
    }

    fn scrub_journal(&mut self) -> usize {
        let mut bytes = 0;
        if self.scrubber.next == 0 {
            let mended = self.inherited.mend(&self.journal, self.verified);
            self.counters.add(Event::CopiesMended, u64::from(mended));
        }
        while bytes < STEP_BYTES {
            let slot = self.scrubber.next as usize;
            if slot == self.journal.slots() {
                self.next_part();
                break;
            }
            self.scrubber.next += 1;
            let seen = self.journal.scrub_slot(slot);
            bytes += seen.bytes;
            self.counters
                .add(Event::CopiesMended, u64::from(seen.mended));
            self.found_copies(slot as u64, seen.op, seen.mended);
            if let Some(op) = seen.faulty {
                self.note_faulty(op, seen.is_news, FoundBy::Scrubber);
            }
        }
        bytes
    }

    fn scrub_sessions(&mut self) -> usize {
        // What was met before is not this step's finding.
        self.note_damage_met(false);
        let from = self.scrubber.next;
        let seen = self
            .sessions
            .scrub(from, STEP_BYTES, &mut self.reply_buffer);
        if let Some(chunks) = seen.damaged {
            self.note_damage(chunks, false, FoundBy::Scrubber);
        }
        match seen.next {
            Some(next) => self.scrubber.next = next,
            None => self.next_part(),
        }
        seen.bytes
    }

    fn scrub_machine(&mut self) -> usize {
        let left = self.machine.scrub_size().saturating_sub(self.scrubber.next);
        if left == 0 {
            self.next_part();
            return 0;
        }
        if let Scrub::Corrupt(chunk) = self.machine.scrub(STEP_BYTES) {
            let chunks = in_image(&self.sessions, &self.machine, chunk);
            self.note_damage(chunks, false, FoundBy::Scrubber);
        }
        let bytes = left.min(STEP_BYTES as u64);
        self.scrubber.next += bytes;
        bytes as usize
    }

    /// The entry of `op` is damaged: it is fetched, whether or not it was executed, because others may
    /// still need it.
    pub(super) fn note_faulty(&mut self, op: Op, is_news: bool, by: FoundBy) {
        self.found_entry(op, by);
        if is_news {
            self.counters.count(Event::DamagedEntries);
        }
        self.scrubber.faulty.add(op);
        if self.config.replicas == 1 {
            // There is nobody to ask.
            self.scrubber.unrepaired = Some(op);
            self.end_entry(op, Remedy::Nobody);
        }
    }

    /// An entry that was to be given or sent could not be read.
    pub(super) fn note_unreadable(&mut self, op: Op, why: ReadError) {
        if why == ReadError::Faulty && op >= self.journal.tail() && op <= self.op() {
            let is_news = self.journal.state(op) == SlotState::Present;
            self.journal.mark_faulty(op);
            self.note_faulty(op, is_news, FoundBy::Use);
        }
    }

    /// A damaged entry that is to be fetched: the next to be executed, if it is one, else the last whose
    /// identity is certain. If headers are lost side by side, that is told by the one behind them.
    fn faulty_entry(&self) -> Option<Op> {
        if matches!(self.status, Status::Blank(_) | Status::Halted(_)) || self.cannot_ask() {
            return None;
        }
        let is_wanted = |op: &Op| {
            *op >= self.journal.tail()
                && *op <= self.verified
                && self.evident_identity(*op).is_some()
        };
        let next = self.applied.next();
        let ops = self.scrubber.faulty.ops().iter().copied();
        ops.filter(is_wanted).max_by_key(|&op| (op == next, op))
    }

    fn cannot_ask(&self) -> bool {
        self.config.replicas == 1
            || self.is_off(Mutant::NothingFetched)
            || (self.status == Status::Recovering && !self.is_restoring_log())
    }

    /// Asks for a damaged entry, one peer after the other. Apart from `repair`, whose questions take
    /// whatever comes in for an answer: under load something always does.
    fn ask_for_faulty(&mut self, out: &mut impl Outbox) {
        let tail = self.journal.tail();
        let gone = |op: &&Op| **op < tail;
        if let Some(&op) = self.scrubber.faulty.ops().iter().find(gone) {
            // It made room for newer ones.
            self.scrubber.faulty.remove(op);
            self.end_entries_gone();
        }
        let Some(op) = self.faulty_entry() else {
            return;
        };
        let (asked, count, until) = self.scrubber.asked;
        if self.now.monotonic < until {
            return;
        }
        let count = if asked == op { count } else { 0 };
        let peers = usize::from(self.config.replicas) - 1;
        if count >= peers * ASK_ROUNDS {
            self.give_up_faulty(op, out);
            return;
        }
        let until = self.now.monotonic.after(self.config.tick * PATIENCE_TICKS);
        self.scrubber.asked = (op, count + 1, until);
        self.counters.count(Event::RepairsAsked);
        let parent = self.evident_parent(op).unwrap_or_default();
        let donor = self.peers().nth(count % peers);
        if let Some(donor) = donor {
            // If it is lost the next peer is asked.
            let _: Sent = self.send_get_prepare(op, op, parent, donor, out);
        }
    }

    /// Nobody has given it: it is bad, or gone, wherever it was held. Said, not guessed (R14.4). A primary
    /// that cannot execute it lets somebody else try.
    fn give_up_faulty(&mut self, op: Op, out: &mut impl Outbox) {
        self.counters.count(Event::EntriesUnrepaired);
        self.end_entry(op, Remedy::Nobody);
        self.scrubber.unrepaired = Some(op);
        self.scrubber.asked.1 = 0;
        // The next round finds it again.
        self.scrubber.faulty.remove(op);
        if !self.stalled || op != self.applied.next() || !self.is_normal() {
            return;
        }
        self.scrubber.faulty.add(op);
        if !self.is_primary() {
            self.begin_transfer(out);
        } else if let Some(successor) = self.best_successor() {
            let view = self.next_view_of(successor);
            self.enter_view_change(view, out);
        }
    }

    /// What the entry of `op` is for certain: its own header, or the chain, says so.
    pub(super) fn evident_identity(&self, op: Op) -> Option<Identity> {
        let by_child = || {
            let child = self.journal.header(op.next())?;
            Some(child.fields::<Prepare>()?.parent)
        };
        self.identity_of(op).or_else(by_child)
    }

    /// The parent of the entry of `op`.
    pub(super) fn evident_parent(&self, op: Op) -> Option<Identity> {
        let by_header = || {
            let header = self.journal.header(op)?;
            Some(header.fields::<Prepare>()?.parent)
        };
        self.identity_of(op.minus(1)).or_else(by_header)
    }

    /// Gives a slot that cannot be read its header back, if the chain says that it is the right one. Says
    /// whether the entry is whole with that.
    pub(super) fn restore_slot(&mut self, op: Op, header: &Header) -> bool {
        self.journal.header(op).is_none()
            && self.evident_identity(op) == Some(header.identity())
            && self.journal.restore_header(header) == Ok(SlotState::Present)
    }

    /// The entry of `op` is whole again.
    pub(super) fn note_repaired(&mut self, op: Op, donor: ReplicaIndex) {
        self.end_entry(op, Remedy::Peer(donor));
        if self.scrubber.faulty.ops().contains(&op) {
            self.scrubber.faulty.remove(op);
            self.scrubber.asked.2 = Instant::ZERO;
            self.counters.count(Event::EntriesRepaired);
        }
        if self.scrubber.unrepaired == Some(op) {
            self.scrubber.unrepaired = None;
        }
    }

    /// About how long this round will still take, at the pace that the period asks for.
    fn time_left(&self) -> Duration {
        let size = self.scrub_size().max(1);
        let rest = size.saturating_sub(self.scrubber.looked_at);
        let period = self.config.scrub_period.as_nanos();
        let left = period.saturating_mul(rest.into()) / u128::from(size);
        Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// Who is asked for what is damaged here.
    fn waits_for(&self) -> Option<ReplicaIndex> {
        if let Some(donor) = self.mends_from() {
            return Some(donor);
        }
        let (op, count, _) = self.scrubber.asked;
        let is_asked = count > 0 && self.scrubber.faulty.ops().contains(&op);
        let peers = usize::from(self.config.replicas).saturating_sub(1);
        is_asked
            .then(|| self.peers().nth((count - 1) % peers.max(1)))
            .flatten()
    }

    /// How far the scrubber has come, and what is damaged now.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        let scrubber = &self.scrubber;
        let still = |op: &Op| self.journal.state(*op) == SlotState::Faulty;
        ScrubReport {
            rounds: scrubber.rounds,
            last_round: scrubber.last_round,
            looked_at: scrubber.looked_at,
            size: self.scrub_size(),
            faulty_entries: scrubber.faulty.count,
            unrepaired: scrubber.unrepaired.filter(still),
            damaged_state: self.damage.is_any().then_some(self.applied),
            damaged_chunk: self.damage.first(),
            is_blocked: self.is_blocked(),
            damaged_since: self.damaged_since(),
            is_nobodys: self.is_damage_nobodys(),
            waits_for: self.waits_for(),
            elapsed: if scrubber.looked_at == 0 {
                Duration::ZERO
            } else {
                self.now.monotonic.since(scrubber.began_at)
            },
            left: self.time_left(),
        }
    }
}
