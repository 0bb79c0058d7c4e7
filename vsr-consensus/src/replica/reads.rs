//! Linearizable reads that do not go through the log (N10).
//!
//! The primary may have been deposed without knowing it, so before it answers it proves that it still
//! leads: it notes what is committed, sends a heartbeat, and answers once a quorum has answered that
//! heartbeat or a later one. All queries that arrived before the round started share it. No clock is
//! involved.
//!
//! What a request is told instead of an answer ("you have been evicted") is such a read too: a primary
//! that was deposed while it slept knows nothing of the sessions that were opened since.
//!
//! ```text
//!   gathering --- round starts: sequence s, floor = commit ---> waiting --- quorum answered >= s,
//!   (next round's queries)                                                  applied >= floor: answer
//! ```

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use bytemuck::{Pod, Zeroable};
use vsr_types::memory::{Level, touch};
use vsr_types::message::{QueryReply, Reject, RejectReason};
use vsr_types::{ClientId, Frame, Op, RequestHeader, RequestNumber, checksum};

use super::Replica;
use super::admit::Handled;
use super::damage::in_image;
use super::exit::send_to_client;
use super::findings::FoundBy;
use super::requests::Asker;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::sessions::{Sessions, Verdict};
use crate::{DropReason, Outbox, StateMachine};

/// How old the replicated time may be when a query is answered. Time moves only in the log, so
/// when nothing else is prepared, queries have an empty batch prepared that often.
const CLOCK_GRANULARITY: Duration = Duration::from_millis(10);

/// In front of each query in a buffer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    client: ClientId,
    query: RequestNumber,
    size: u32,
    /// A [`RequestHeader`] that is to be judged, no query.
    is_request: u32,
    /// Over the rest of this and the query: it waits for a round (N17).
    check: u64,
    reserved: u64,
}

impl Entry {
    fn computed_check(&self, body: &[u8]) -> u64 {
        let bare = Self { check: 0, ..*self };
        let entry = checksum(bytemuck::bytes_of(&bare)).raw();
        u64::from(entry) << 32 | u64::from(checksum(body).raw())
    }
}

/// How many bytes of queries and answers one deadline handles.
const ANSWER_BYTES_MAX: usize = 512 << 10;

const ENTRY_SIZE: usize = size_of::<Entry>();

/// Queries, one behind the other.
#[derive(Debug)]
struct Queue {
    bytes: Box<[u8]>,
    used: usize,
    /// The most that was used.
    most: usize,
}

impl Queue {
    fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            used: 0,
            most: 0,
        }
    }

    fn push(
        &mut self,
        client: ClientId,
        query: RequestNumber,
        body: &[u8],
        is_request: bool,
    ) -> bool {
        let end = self.used + ENTRY_SIZE + body.len();
        if end > self.bytes.len() {
            return false;
        }
        let mut entry = Entry {
            client,
            query,
            size: body.len() as u32,
            is_request: u32::from(is_request),
            check: 0,
            reserved: 0,
        };
        entry.check = entry.computed_check(body);
        let body_at = self.used + ENTRY_SIZE;
        self.bytes[self.used..body_at].copy_from_slice(bytemuck::bytes_of(&entry));
        self.bytes[body_at..end].copy_from_slice(body);
        self.used = end;
        self.most = self.most.max(end);
        true
    }

    /// The entry at `at` and where the next one begins, if they are what was written. If not, nothing
    /// behind it can be found either: those clients ask again.
    fn get(&self, at: usize, is_believed: bool) -> Option<(Entry, &[u8], usize)> {
        let (entry, behind) = self.bytes[at..self.used].split_at_checked(ENTRY_SIZE)?;
        let entry: Entry = bytemuck::pod_read_unaligned(entry);
        let body = behind.get(..entry.size as usize)?;
        let is_sound = is_believed || entry.check == entry.computed_check(body);
        is_sound.then_some((entry, body, at + ENTRY_SIZE + body.len()))
    }

    const fn is_empty(&self) -> bool {
        self.used == 0
    }
}

#[cfg(feature = "flip")]
impl Reads {
    /// Flips a bit of the queries of the round under way, as memory does.
    pub(super) fn flip(&mut self, bit: usize) -> bool {
        let used = self.waiting.used;
        super::flip::flip_bit(&mut self.waiting.bytes[..used], bit)
    }
}

/// The queries of the next round and of the one under way.
#[derive(Debug)]
pub(super) struct Reads {
    gathering: Queue,
    waiting: Queue,
    /// Where in `waiting` the first one not answered begins.
    next: usize,
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// The heartbeat that a quorum must answer.
    sequence: u64,
    /// What must be executed before an answer: at least what was committed when the queries came.
    floor: Op,
    /// Both once more: an answer rests on them.
    copy: (u64, Op),
}

impl Round {
    const fn new(sequence: u64, floor: Op) -> Self {
        Self {
            sequence,
            floor,
            copy: (sequence, floor),
        }
    }

    fn is_sound(&self) -> bool {
        self.copy == (self.sequence, self.floor)
    }
}

impl Reads {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            gathering: Queue::new(bytes),
            waiting: Queue::new(bytes),
            next: 0,
            round: None,
        }
    }

    pub(super) fn level(&self) -> Level {
        let [a, b] = [&self.gathering, &self.waiting];
        let in_use = |test: fn(&Queue) -> bool| [a, b].into_iter().filter(|q| test(q)).count();
        Level::new(
            "queries",
            in_use(|queue| !queue.is_empty()),
            in_use(|queue| queue.most > 0),
        )
        .with_fullest(a.most.max(b.most))
    }

    /// Touches what was allocated: nothing is in it yet.
    pub(super) fn prefault(&mut self) {
        touch(&mut self.gathering.bytes);
        touch(&mut self.waiting.bytes);
    }

    /// Drops all queries: their clients ask the next primary.
    pub(super) const fn clear(&mut self) {
        self.gathering.used = 0;
        self.waiting.used = 0;
        self.next = 0;
        self.round = None;
    }
}

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_query(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let asker = Self::asker_of_query(frame)?;
        self.admit_client(frame, asker, out)?;
        if !self
            .reads
            .gathering
            .push(asker.client, asker.request, frame.body(), false)
        {
            return self.reject(out, asker, RejectReason::Busy, DropReason::Busy);
        }
        Ok(())
    }

    pub(super) fn can_start_reads(&self) -> bool {
        self.is_normal()
            && self.is_primary()
            && self.reads.round.is_none()
            && !self.reads.gathering.is_empty()
            // R12.1, trace T30: what was inherited may have been acknowledged by the last primary.
            && (self.applied >= self.inherited.head() || self.is_off(Mutant::ReadTooEarly))
    }

    /// Starts a round for everything gathered. A heartbeat sent from now on proves what it must.
    pub(super) fn start_reads(&mut self, out: &mut impl Outbox) {
        assert!(self.can_start_reads(), "the caller asked");
        if self.is_clock_late() && self.batch.count() == 0 && self.can_cut(self.batch.size()) {
            self.prepare_batch(out);
        }
        // Where what is executed lags in time, the answer waits for the op that moves the clock.
        let floor = if self.runs_late() {
            self.op()
        } else {
            self.commit
        };
        core::mem::swap(&mut self.reads.gathering, &mut self.reads.waiting);
        assert!(
            self.reads.gathering.is_empty(),
            "the last round was answered"
        );
        self.send_heartbeats(out);
        self.reads.round = Some(Round::new(self.sequence, floor));
        self.counters.count(Event::ReadRounds);
    }

    /// Whether the replicated time lags behind the clock by more than its granularity.
    fn is_clock_late(&self) -> bool {
        let lag = self
            .replicated_now()
            .as_nanos()
            .saturating_sub(self.head_timestamp.as_nanos());
        u128::from(lag) > CLOCK_GRANULARITY.as_nanos()
    }

    /// Whether what is executed lags behind the head's time by more than the granularity.
    fn runs_late(&self) -> bool {
        let lag = self
            .head_timestamp
            .as_nanos()
            .saturating_sub(self.applied_timestamp.as_nanos());
        u128::from(lag) > CLOCK_GRANULARITY.as_nanos()
    }

    pub(super) fn can_answer_reads(&self) -> bool {
        let Some(round) = self.reads.round else {
            return false;
        };
        self.is_normal()
            && self.is_primary()
            && self.has_state()
            && !self.is_blocked()
            // A round that is not what was written is never answered: its clients ask again.
            && round.is_sound()
            && self.applied >= round.floor
            // R12, S49: one short of a quorum, the primary itself being the last.
            && (self.links.answers(round.sequence) + 1 >= self.config.quorum()
                || self.is_off(Mutant::ReadWithoutRound))
    }

    pub(super) fn answer_reads(&mut self, out: &mut impl Outbox) {
        assert!(self.can_answer_reads(), "the caller asked (I21)");
        let at = self.context();
        let letterhead = self.letterhead();
        let is_believed = self.is_off(Mutant::QueriesUnverified);
        let Self {
            reads,
            machine,
            sessions,
            counters,
            reply_buffer,
            marks,
            ..
        } = self;
        let (mut bytes, mut met) = (0, None);
        while let Some((entry, body, next)) = reads.waiting.get(reads.next, is_believed) {
            if bytes > ANSWER_BYTES_MAX {
                return;
            }
            reads.next = next;
            bytes += ENTRY_SIZE + body.len();
            if entry.is_request != 0 {
                let request: RequestHeader = bytemuck::pod_read_unaligned(body);
                if let Some(reject) = judge(sessions, &request) {
                    let header = letterhead.sealed(reject, &[]);
                    send_to_client(counters, out, entry.client, &header, &[]);
                }
                continue;
            }
            let at = crate::Context {
                client: entry.client,
                ..at
            };
            let size = machine.query(&at, body, reply_buffer);
            if let Some(chunk) = machine.damaged() {
                // N17: no answer made from it leaves. Its client asks again, whoever leads then.
                met = Some(in_image(sessions, machine, chunk));
                reads.waiting.used = 0;
                break;
            }
            assert!(size <= reply_buffer.len(), "a reply fits into its buffer");
            bytes += size;
            marks.reply = marks.reply.max(size);
            let reply = QueryReply {
                client: entry.client,
                query: entry.query,
                op: at.stamp.op,
                reserved: 0,
            };
            let header = letterhead.sealed(reply, &reply_buffer[..size]);
            send_to_client(counters, out, entry.client, &header, &reply_buffer[..size]);
            counters.count(Event::QueriesAnswered);
        }
        reads.waiting.used = 0;
        reads.next = 0;
        reads.round = None;
        if let Some(chunks) = met {
            self.note_damage(chunks, false, FoundBy::Use);
        }
    }

    /// A request that this primary's session table speaks against is told so when a quorum has said
    /// that this is still the primary, and if the table still does.
    pub(super) fn judge_later(
        &mut self,
        request: &RequestHeader,
        asker: Asker,
        out: &mut impl Outbox,
    ) -> Handled {
        let body = bytemuck::bytes_of(request);
        let gathering = &mut self.reads.gathering;
        if !gathering.push(asker.client, asker.request, body, true) {
            return self.reject(out, asker, RejectReason::Busy, DropReason::Busy);
        }
        Err(DropReason::UnknownSession)
    }
}

/// What the client of `request` must be told; nothing when its retry will be welcome.
fn judge(sessions: &Sessions, request: &RequestHeader) -> Option<Reject> {
    let verdict = sessions.verdict(
        request.client,
        request.session,
        request.request,
        request.checksum(),
    );
    let (reason, detail) = match verdict {
        Verdict::Unknown => (RejectReason::Evicted, 0),
        // R1.6, trace T28: never silence.
        Verdict::OtherSession { session } => (RejectReason::SessionTooLow, session.raw()),
        Verdict::Ahead => (RejectReason::Malformed, 0),
        Verdict::Old
        | Verdict::Repeated(_)
        | Verdict::Reused
        | Verdict::Next(_)
        | Verdict::Damaged => return None,
    };
    Some(Reject {
        client: request.client,
        request: request.request,
        reason: reason as u32,
        request_checksum: request.checksum(),
        detail,
    })
}
