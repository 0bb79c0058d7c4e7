//! The donor's side: chunks out, a bounded number per question, and holding back execution at the end.
//!
//! Questions wait until everything else is done, and are answered one per deadline: whoever waits for an
//! acknowledgement or a reply does not wait for somebody's state as well.

use core::time::Duration;

use vsr_types::message::{
    GetState, NewState, STATE_ALL, STATE_CHUNK, STATE_DONE, STATE_END, STATE_HELD, STATE_LIVE,
    STATE_SLOWLY, StateOffer,
};
use vsr_types::{Frame, Header, Instant, Op, ReplicaIndex};

use super::super::Replica;
use super::super::admit::Handled;
use super::export::{HOLD_FOR_TOOL_MAX, HOLD_SILENCE};
use super::pass::{ANSWER_CHUNKS_MAX, SPAN_MAX, WINDOWS};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// The most bytes of chunks in one answer. A donor reads, checksums and sends so many in a tenth of a
/// millisecond, which is how long prepares and acknowledgements wait for it; all answers in flight stay
/// well below what a link's send queue holds.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How many questions wait: a few askers' windows. Whoever is turned away asks again.
const QUESTIONS_MAX: usize = 2 * WINDOWS;
/// How long a backup holds back execution at most. Its acknowledgements go on, so clients do not notice;
/// what waits is bounded by the ring as well.
const HOLD_MAX: Duration = Duration::from_millis(1000);
/// And a primary: its clients wait for their replies.
const HOLD_AT_PRIMARY_MAX: Duration = Duration::from_millis(50);

/// Questions that wait for an answer, the oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Questions {
    waiting: [Option<(ReplicaIndex, GetState)>; QUESTIONS_MAX],
}

impl Questions {
    pub(super) const NONE: Self = Self {
        waiting: [None; QUESTIONS_MAX],
    };

    const fn is_empty(&self) -> bool {
        self.waiting[0].is_none()
    }

    fn push(&mut self, asker: ReplicaIndex, question: GetState) -> Handled {
        let free = self.waiting.iter_mut().find(|place| place.is_none());
        *free.ok_or(DropReason::Busy)? = Some((asker, question));
        Ok(())
    }

    fn pop(&mut self) -> Option<(ReplicaIndex, GetState)> {
        let first = self.waiting[0].take();
        self.waiting.rotate_left(1);
        first
    }
}

/// Who is given state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// Another replica.
    Replica(ReplicaIndex),
    /// A tool, which has drawn this number.
    Tool(u32),
}

/// Execution is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// For whom.
    asker: Asker,
    pub(super) until: Instant,
    /// It is never prolonged beyond.
    latest: Instant,
}

impl<S: StateMachine> Replica<S> {
    /// Whether execution waits for a transfer to end: as long as the ring has room for what comes
    /// meanwhile (R8.1).
    pub(in super::super) fn holds_execution(&self) -> bool {
        let Some(hold) = self.transfer.hold else {
            return false;
        };
        let waiting = self.op().distance_from(self.applied);
        self.is_normal()
            && self.now.monotonic < hold.until
            && waiting <= self.journal.slots() as u64 / 2
            && self
                .journal
                .room(self.journal.capacity_bytes() / 4, self.applied.next())
    }

    pub(super) fn end_hold_in_time(&mut self) {
        if let Some(hold) = self.transfer.hold
            && !self.holds_execution()
        {
            self.end_hold_of(hold.asker);
        }
    }

    /// Goes on executing, if it was held back for `asker`.
    pub(super) fn end_hold_of(&mut self, asker: Asker) {
        if self.transfer.hold.is_none_or(|hold| hold.asker != asker) {
            return;
        }
        self.transfer.hold = None;
        if matches!(asker, Asker::Tool(_)) {
            self.transfer.exports.held(self.now.monotonic);
        }
    }

    pub(in super::super) fn on_get_state(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let wanted = *frame.fields::<GetState>().ok_or(DropReason::Malformed)?;
        self.admit_view(frame, out)?;
        let asker = frame.header().replica();
        if wanted.wish == STATE_SLOWLY {
            return self.on_slowly(asker, &wanted);
        }
        if !self.is_normal() || !self.gives_state() {
            return Err(DropReason::WrongStatus);
        }
        self.end_hold_in_time();
        match wanted.wish {
            STATE_DONE => {
                self.end_hold_of(Asker::Replica(asker));
                return Ok(());
            }
            STATE_LIVE => {}
            STATE_HELD => self.hold_for(Asker::Replica(asker), &wanted)?,
            _ => return Err(DropReason::Malformed),
        }
        self.may_answer(&wanted)?;
        self.note_mender(asker, &wanted);
        self.transfer.questions.push(asker, wanted)
    }

    fn may_answer(&self, wanted: &GetState) -> Handled {
        if !self.is_normal() || !self.gives_state() {
            return Err(DropReason::WrongStatus);
        }
        if self.applied < wanted.at_least || self.applied == Op::ZERO {
            // It has chunks of later states: silence, it will ask again or somebody else.
            return Err(DropReason::NotYetExecuted);
        }
        Ok(())
    }

    /// Whether somebody waits for chunks.
    pub(in super::super) const fn is_asked_for_state(&self) -> bool {
        !self.transfer.questions.is_empty()
    }

    /// Answers the oldest question, if it still can be answered.
    pub(in super::super) fn give_some_state(&mut self, out: &mut impl Outbox) {
        let Some((asker, wanted)) = self.transfer.questions.pop() else {
            return;
        };
        match self.may_answer(&wanted) {
            Ok(()) => self.give_state(Asker::Replica(asker), &wanted, out),
            Err(reason) => self.counters.dropped(reason),
        }
    }

    /// Stops executing for `asker`'s last pass, unless there is a backlog from the last time.
    pub(super) fn hold_for(&mut self, asker: Asker, wanted: &GetState) -> Handled {
        let now = self.now.monotonic;
        let is_tool = matches!(asker, Asker::Tool(_));
        if let Some(hold) = &mut self.transfer.hold {
            // Whoever else asks shares it; it ends when it would have ended.
            if is_tool && hold.asker == asker {
                hold.until = now.after(HOLD_SILENCE).min(hold.latest);
            }
            return Ok(());
        }
        if is_tool && !self.transfer.exports.may_hold(now) {
            return Err(DropReason::Busy);
        }
        let backlog = self.commit.min(self.held).distance_from(self.applied);
        if backlog > self.config.pipeline as u64 || self.applied < wanted.at_least {
            return Err(DropReason::NotYetExecuted);
        }
        let longest = match asker {
            _ if self.is_primary() => HOLD_AT_PRIMARY_MAX,
            Asker::Tool(_) => HOLD_FOR_TOOL_MAX,
            Asker::Replica(_) => HOLD_MAX,
        };
        let latest = now.after(longest);
        self.transfer.hold = Some(Hold {
            asker,
            until: match is_tool {
                true => now.after(HOLD_SILENCE).min(latest),
                false => latest,
            },
            latest,
        });
        self.counters.count(Event::Holds);
        Ok(())
    }

    pub(super) fn give_state(&mut self, asker: Asker, wanted: &GetState, out: &mut impl Outbox) {
        let session_chunks = self.sessions.image_chunks();
        let chunks = session_chunks + self.machine.image_chunks();
        let count = wanted.count.min(SPAN_MAX);
        let last = wanted.from.saturating_add(u64::from(count)).min(chunks);
        let mut answer = NewState {
            question: wanted.question,
            op: self.applied,
            chunk: wanted.from,
            chunks,
            number: 0,
            kind: STATE_CHUNK,
        };
        let mut buffer = core::mem::take(&mut self.reply_buffer);
        let mut bytes = 0;
        let met_before = self.machine.damaged();
        while answer.chunk < last && answer.number < ANSWER_CHUNKS_MAX {
            let (chunk, of_machine) = (answer.chunk, answer.chunk.checked_sub(session_chunks));
            let changed_at = match of_machine {
                Some(chunk) => self.machine.image_changed_at(chunk),
                None => self.sessions.image_changed_at(chunk),
            };
            if wanted.since == STATE_ALL || changed_at > wanted.since {
                let given = self.is_off(Mutant::DamageGiven);
                if self.damage.has(answer.chunk) && !given {
                    // N18: damage is not given on. Somebody else has this one.
                    break;
                }
                let size = match of_machine {
                    Some(chunk) => self.machine.image_read(chunk, &mut buffer),
                    None => self.sessions.image_read(chunk, &mut buffer),
                };
                if self.is_damage_news(&met_before) && !given {
                    self.note_damage_met(false);
                    break;
                }
                if answer.number > 0 && bytes + size > ANSWER_BYTES_MAX {
                    break;
                }
                if self.send_state(asker, answer, &buffer[..size], out) == Sent::Dropped {
                    break;
                }
                bytes += size;
                self.marks.reply = self.marks.reply.max(size);
                answer.number += 1;
                self.counters.count(Event::StateChunksGiven);
                self.counters.add(Event::StateBytesGiven, size as u64);
            }
            answer.chunk += 1;
        }
        self.reply_buffer = buffer;
        answer.kind = STATE_END;
        let offer = self.state_offer(wanted.wish, session_chunks);
        let image = self.image_offer();
        let body = match asker {
            Asker::Replica(_) => offer.as_ref().map_or(&[][..], bytemuck::bytes_of),
            Asker::Tool(_) => image.as_ref().map_or(&[][..], bytemuck::bytes_of),
        };
        let _: Sent = self.send_state(asker, answer, body, out);
    }

    fn send_state(
        &mut self,
        asker: Asker,
        answer: NewState,
        body: &[u8],
        out: &mut impl Outbox,
    ) -> Sent {
        match asker {
            Asker::Replica(replica) => self.send(out, replica, answer, body),
            Asker::Tool(_) => self.send_image(out, answer, body),
        }
    }

    /// What the chunks of a held answer are the state of.
    fn state_offer(&self, wish: u32, session_chunks: u64) -> Option<StateOffer> {
        let header: Header = *self.journal.header(self.applied)?;
        (wish == STATE_HELD && header.identity() == self.applied_identity).then(|| StateOffer {
            header,
            digest: self.digest_now(),
            session_chunks,
        })
    }
}
