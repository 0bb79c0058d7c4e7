//! Fetching from others' journals what did not come by itself (N14, R3.3, R8.4).
//!
//! Three things can be missing, and are fetched in this order:
//!
//! - *bodies* of entries whose headers are held: by identity, from anybody, in any view;
//! - *headers* between what is known to belong to the view's log and what the view began with: only
//!   from a replica that holds the same view's log, oldest first, each linked by its parent;
//! - *entries* that the present primary has prepared since: whole prepares of this view, appended in
//!   order like any other.
//!
//! The asker names the identity of the op before the first one wanted: a donor whose chain differs
//! there has nothing to offer. The donor sends as much as fits and then says where it stopped, so that
//! the next question follows at once; silence makes the asker turn to the next donor.

use core::time::Duration;

#[cfg(feature = "sim")]
mod fingerprint;

use alloc::boxed::Box;
use alloc::vec;

use bytemuck::Zeroable;
use vsr_journal::ReadError;
use vsr_types::memory::touch;
use vsr_types::message::{GetHeaders, GetPrepare, Headers, Prepare};
use vsr_types::{
    Frame, HEADER_SIZE, Header, Identity, Instant, Nonce, Op, ReplicaIndex, Route, limits,
};

use super::admit::Handled;
use super::log::read_headers;
use super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// The most entries asked for at once.
const ENTRIES_MAX: u64 = 256;
/// The most bytes asked for at once: half of what a link's send queue holds, and several of the largest
/// batches, so that who catches up is faster than the load that goes on meanwhile.
const BYTES_MAX: u64 = 4 << 20;
/// How many ticks without an answer make the asker turn to another donor.
const PATIENCE_TICKS: u32 = 3;
/// How often everybody must have been silent before the state is fetched instead of the log.
const SILENT_ROUNDS: u32 = 3;
/// How many ticks a lag must last before it is repaired: a prepare on its way is no gap (T_gap).
const GAP_TICKS: u32 = 2;

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Bodies of `from..=to`.
    Bodies { from: Op, to: Op },
    /// Headers of `from..=to`.
    Headers { from: Op, to: Op },
    /// What follows `from - 1` in this view.
    Entries { from: Op },
}

impl Need {
    const fn from(self) -> Op {
        match self {
            Self::Bodies { from, .. } | Self::Headers { from, .. } | Self::Entries { from } => from,
        }
    }
}

/// What is being fetched.
#[derive(Debug)]
pub(super) struct Repair {
    /// The highest op that the primary is known to have prepared.
    target: Op,
    /// The question in flight: it is answered by the donor's last word.
    asked: Option<Asked>,
    /// When something last came in, or the lag began: what is on its way is not missing.
    progress_at: Instant,
    /// Counts what came in.
    progress: u64,
    /// Counts donors that stayed silent or had nothing.
    attempts: u32,
    /// Headers are read from messages into here.
    headers: Box<[Header]>,
    /// And written into messages here.
    bytes: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The progress when it was asked.
    progress: u64,
    until: Instant,
}

impl Repair {
    pub(super) fn new() -> Self {
        Self {
            target: Op::ZERO,
            asked: None,
            progress_at: Instant::ZERO,
            progress: 0,
            attempts: 0,
            headers: vec![Header::zeroed(); limits::HEADERS_MAX].into_boxed_slice(),
            bytes: vec![0; limits::HEADERS_MAX * HEADER_SIZE].into_boxed_slice(),
        }
    }

    pub(super) const fn memory() -> usize {
        2 * limits::HEADERS_MAX * HEADER_SIZE
    }

    /// Touches what was allocated: nothing is in it yet.
    pub(super) fn prefault(&mut self) {
        touch(bytemuck::cast_slice_mut(&mut self.headers));
        touch(&mut self.bytes);
    }

    /// Another view, another log: what was missing in the last one may not exist.
    pub(super) const fn forget(&mut self) {
        self.target = Op::ZERO;
        self.asked = None;
        self.attempts = 0;
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
        self.progress += 1;
    }
}

impl<S: StateMachine> Replica<S> {
    /// What is missing here, the most urgent first.
    fn need(&self) -> Option<Need> {
        if !self.may_repair() || self.is_off(Mutant::NothingFetched) {
            return None;
        }
        if self.stalled {
            let op = self.applied.next();
            return Some(Need::Bodies { from: op, to: op });
        }
        if self.held < self.verified {
            let from = self.held.next();
            let to = self.verified.min(from.plus(ENTRIES_MAX - 1));
            return Some(Need::Bodies { from, to });
        }
        if !self.is_log_whole() {
            let from = self.verified.next();
            let to = from.plus(ENTRIES_MAX - 1).min(self.inherited.head());
            return Some(Need::Headers { from, to });
        }
        if self.is_taking_over()
            && let Some(op) = self.first_unreadable()
        {
            return Some(Need::Bodies { from: op, to: op });
        }
        let follows = self.is_normal() && !self.is_primary();
        let from = self.op().next();
        (follows && self.op() < self.repair.target).then_some(Need::Entries { from })
    }

    /// Whether this replica has a log to complete.
    fn may_repair(&self) -> bool {
        match self.status {
            Status::Normal => true,
            Status::ViewChange => self.is_taking_over(),
            Status::Recovering => self.is_restoring_log(),
            Status::Blank(_) | Status::Halted(_) => false,
        }
    }

    fn gap_patience(&self) -> Duration {
        self.config.tick * GAP_TICKS
    }

    /// When the repair wants the deadline to come; none while nothing is missing.
    pub(super) fn repair_deadline(&self) -> Option<Instant> {
        let need = self.need()?;
        Some(match (self.repair.asked, need) {
            (Some(asked), _) => asked.until,
            (None, Need::Entries { .. }) => self.repair.progress_at.after(self.gap_patience()),
            (None, Need::Bodies { .. } | Need::Headers { .. }) => Instant::ZERO,
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
        let progress = self.repair.progress;
        if let Some(asked) = &mut self.repair.asked {
            if asked.progress < progress && until > self.now.monotonic {
                // The answer is still coming in: asking again would only send the same once more.
                asked.until = until;
                return;
            }
            if asked.progress == progress {
                // Silence: somebody else may know.
                self.repair.attempts = self.repair.attempts.saturating_add(1);
            }
        }
        self.ask(out);
    }

    /// A peer says that it holds ops up to `op` of this view's log: what its primary does not tell, because
    /// the link from there is broken, becomes known all the same (2.14, S44).
    pub(super) fn hear_of_progress(&mut self, op: Op) {
        let is_plausible = op.distance_from(self.op()) <= limits::LEAP_MAX;
        if self.is_normal() && !self.is_primary() && is_plausible {
            self.repair.note_target(op, self.op(), self.now.monotonic);
        }
    }

    /// A gap was seen: something is missing for certain, so there is nothing to wait for.
    pub(super) fn repair_now(&mut self, out: &mut impl Outbox) {
        if self.repair.asked.is_none() {
            self.ask(out);
        }
    }

    fn ask(&mut self, out: &mut impl Outbox) {
        let Some(need) = self.need() else {
            return;
        };
        let patience = self.config.tick * PATIENCE_TICKS;
        let until = self.now.monotonic.after(self.random.jitter(patience));
        self.repair.asked = Some(Asked {
            progress: self.repair.progress,
            until,
        });
        if self.has_asked_everybody(need.from()) {
            // R8.2: whoever still has it in his journal cannot vouch for it, or does not say so.
            self.begin_transfer(out);
            return;
        }
        let Some(donor) = self.donor(need.from()) else {
            return;
        };
        self.counters.count(Event::RepairsAsked);
        let parent = self.evident_parent(need.from()).unwrap_or_default();
        let sent = match need {
            Need::Headers { from, to } => {
                let question = GetHeaders {
                    from,
                    to,
                    nonce: Nonce::ZERO,
                    reserved: 0,
                };
                self.send(out, donor, question, &[])
            }
            Need::Bodies { from, to } => self.send_get_prepare(from, to, parent, donor, out),
            Need::Entries { from } => {
                // Not only up to the target, which is as old as the last heartbeat: the donor knows
                // better.
                self.send_get_prepare(from, from.plus(ENTRIES_MAX - 1), parent, donor, out)
            }
        };
        if sent == Sent::Dropped {
            self.repair.attempts = self.repair.attempts.saturating_add(1);
        }
    }

    /// Whether everybody was asked, more than once, for something that is committed and that somebody
    /// has executed, and nothing came.
    fn has_asked_everybody(&self, next: Op) -> bool {
        let rounds = u32::from(self.config.replicas) * SILENT_ROUNDS;
        let is_lagging_backup = self.is_normal() && !self.is_primary() && self.commit >= next;
        is_lagging_backup
            && self.repair.attempts >= rounds
            && self.peers().any(|peer| self.links.applied_of(peer) >= next)
    }

    pub(super) fn send_get_prepare(
        &mut self,
        from: Op,
        to: Op,
        parent: Identity,
        donor: ReplicaIndex,
        out: &mut impl Outbox,
    ) -> Sent {
        let question = GetPrepare {
            from,
            to,
            parent,
            budget: BYTES_MAX,
        };
        self.send(out, donor, question, &[])
    }

    /// Whom to ask for `from`: the hop before this one, then the primary, then anybody (R3.3); for a
    /// long lag first those who have less to do than the primary.
    fn donor(&self, from: Op) -> Option<ReplicaIndex> {
        let replicas = self.config.replicas;
        let predecessor = self.me().successor(replicas - 1, replicas);
        let far = self.repair.target.distance_from(from) > self.config.pipeline as u64;
        let me = self.me();
        let primary = self.primary();
        let mut candidates = [predecessor; limits::REPLICAS_MAX];
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
        // What is known of their tails may be old.
        self.peers().for_each(&mut add);
        if count == 0 {
            return None;
        }
        Some(candidates[self.repair.attempts as usize % count])
    }

    pub(super) fn on_get_prepare(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let wanted = *frame.fields::<GetPrepare>().ok_or(DropReason::Malformed)?;
        let asker = frame.header().replica();
        let Some(before) = wanted.from.previous() else {
            return Err(DropReason::Malformed);
        };
        let held = wanted.from >= self.journal.tail() && wanted.from <= self.op();
        // Nothing to offer, or another chain: silence, never "it does not exist" (R8.4). Who lost the
        // header before it too cannot name the parent; what it gets it compares with what it knows.
        let is_unknown = wanted.parent == Identity::default();
        let same_chain = |identity: Identity| identity == wanted.parent || is_unknown;
        if !held || !self.identity_of(before).is_none_or(same_chain) {
            return Err(DropReason::WrongIdentity);
        }
        let last = wanted.from.plus(ENTRIES_MAX - 1);
        let to = wanted.to.min(self.op()).min(last);
        let mut left = wanted.budget.min(BYTES_MAX);
        let mut op = wanted.from;
        while op <= to {
            let size = self
                .journal
                .header(op)
                .map_or(0, |header| header.size() as u64);
            if size == 0 {
                self.note_unreadable(op, ReadError::Faulty);
            }
            // The first entry always goes, however large.
            let fits = size <= left || op == wanted.from;
            // N17: what is given to others is verified first, header and body.
            if size == 0 || !fits {
                break;
            }
            if let Err(why) = self.journal.read(op) {
                self.note_unreadable(op, why);
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
            log_view: self.log_view,
            reserved: 0,
        };
        let _: Sent = self.send(out, asker, last_word, &[]);
        Ok(())
    }

    /// Gives headers of this view's log: evidence for those who lag behind what the view began with.
    pub(super) fn on_get_headers(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let wanted = *frame.fields::<GetHeaders>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame, out)?;
        if wanted.from == Op::ZERO {
            return Err(DropReason::Malformed);
        }
        if wanted.from > self.verified {
            return Err(DropReason::WrongIdentity);
        }
        let last = wanted
            .to
            .min(self.verified)
            .min(wanted.from.plus(limits::HEADERS_MAX as u64 - 1));
        let mut count = 0;
        let mut op = wanted.from;
        while op <= last {
            let Some(header) = self.journal.header(op) else {
                break;
            };
            let at = count * HEADER_SIZE;
            self.repair.bytes[at..at + HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(header));
            count += 1;
            op = op.next();
        }
        if count == 0 {
            return Err(DropReason::WrongIdentity);
        }
        let answer = Headers {
            from: wanted.from,
            nonce: wanted.nonce,
            log_view: self.log_view,
            reserved: 0,
        };
        let bytes = core::mem::take(&mut self.repair.bytes);
        self.marks.repair = self.marks.repair.max(count);
        let body = &bytes[..count * HEADER_SIZE];
        let _: Sent = self.send(out, frame.header().replica(), answer, body);
        self.repair.bytes = bytes;
        Ok(())
    }

    pub(super) fn on_headers(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let headers = *frame.fields::<Headers>().ok_or(DropReason::Malformed)?;
        if frame.body().is_empty() {
            return self.on_last_word(out);
        }
        self.admit_view(frame, out)?;
        if !self.may_repair() {
            return Err(DropReason::WrongStatus);
        }
        let is_evidence = self.is_evidence(headers.log_view);
        let count = frame.body().len() / HEADER_SIZE;
        if count == 0 || headers.from == Op::ZERO {
            return Err(DropReason::Malformed);
        }
        let Some(head) = headers
            .from
            .raw()
            .checked_add(count as u64 - 1)
            .map(Op::new)
        else {
            return Err(DropReason::Malformed);
        };
        let mut buffer = core::mem::take(&mut self.repair.headers);
        self.marks.repair = self.marks.repair.max(count.min(buffer.len()));
        let names = self.op_max();
        let read = read_headers(frame.body(), count as u64, head, false, names, &mut buffer);
        let taken = read.map(|headers| {
            let known = if is_evidence {
                headers.len()
            } else {
                self.linked_to_inherited(headers)
            };
            self.take_evidence(&headers[..known])
        });
        self.repair.headers = buffer;
        match taken {
            None => Err(DropReason::Malformed),
            Some(Err(conflict)) => {
                self.enter_halted(crate::HaltReason::Divergence { op: conflict.op });
                Ok(())
            }
            Some(Ok(false)) => Err(DropReason::Duplicate),
            Some(Ok(true)) => {
                self.repair.attempts = 0;
                self.repair.asked = None;
                self.ask(out);
                Ok(())
            }
        }
    }

    /// How many of these headers, which are linked to each other, lead to one that this log begins its view
    /// with: those belong to it, whoever sends them (R8.4). The log of a view that was never started may be
    /// known to nobody else.
    fn linked_to_inherited(&self, headers: &[Header]) -> usize {
        let is_ours = |header: &Header| {
            let op = header.fields::<Prepare>().map(|prepare| prepare.op);
            let ours = op.and_then(|op| self.inherited.header(op));
            ours.is_some_and(|ours| ours.identity() == header.identity())
        };
        headers.iter().rposition(is_ours).map_or(0, |last| last + 1)
    }

    /// Whether headers of the log of `log_view` tell what belongs to this replica's log.
    fn is_evidence(&self, log_view: vsr_types::View) -> bool {
        match self.status {
            // The elect has taken over the log of the votes' newest view (R5.4).
            Status::ViewChange => {
                log_view == self.view || Some(log_view) == self.change.chosen_from()
            }
            _ => log_view == self.view,
        }
    }

    /// The donor's last word: it has sent what it could.
    fn on_last_word(&mut self, out: &mut impl Outbox) -> Handled {
        let Some(asked) = self.repair.asked else {
            return Err(DropReason::Duplicate);
        };
        if asked.progress == self.repair.progress {
            return Err(DropReason::Duplicate);
        }
        self.repair.attempts = 0;
        self.repair.asked = None;
        self.ask(out);
        Ok(())
    }
}
