//! The donor's side for tools: the state leaves for a file, while clients are served (N26, R8.9).
//!
//! A tool asks as a replica does whose state must be replaced, and is answered from the same memory: live
//! passes, and a last one of one state. It is answered at once, since nobody knows its address later.
//! Three things differ. A tool may ask a replica that is between views or has lost its peers: what was
//! executed there is what an operator wants to save then (R7.3). No more than a few tools are answered
//! at a time. And execution is held back for a tool only as long as it goes on asking: a tool that is gone
//! ends that by its silence, and for a while after each time nothing is held back for tools at all.

use core::time::Duration;

use vsr_types::message::{
    GetImage, GetState, IMAGE_REFUSED, Image, ImageOffer, ImageRefusal, NewState, STATE_DONE,
    STATE_HELD, STATE_LIVE,
};
use vsr_types::{Frame, Instant, Op, Route};

use super::super::admit::Handled;
use super::super::{Replica, Status};
use super::donor::Asker;
use crate::sessions::CHUNK_SIZE as SESSION_CHUNK_SIZE;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// How many tools are given the state at the same time.
const EXPORTS_MAX: usize = 2;
/// Who has not asked for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long execution waits for a tool's next question: a busy machine lets a process wait that long.
pub(super) const HOLD_SILENCE: Duration = Duration::from_millis(300);
/// How long a backup holds it back at most. Nobody waits for what a backup executes, nobody can go slowly for
/// a tool as a primary does for a replica, and what waits is bounded by the ring all the same.
pub(super) const HOLD_FOR_TOOL_MAX: Duration = Duration::from_secs(5);
/// How long it is not held back for tools after it was.
const HOLD_PAUSE: Duration = Duration::from_secs(1);

/// The tools that are given the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exports {
    known: [Option<(u32, Instant)>; EXPORTS_MAX],
    /// Not before then is execution held back for a tool.
    hold_from: Instant,
}

impl Exports {
    pub(super) const NONE: Self = Self {
        known: [None; EXPORTS_MAX],
        hold_from: Instant::ZERO,
    };

    /// Whether `tool` is one of those that are answered.
    fn admit(&mut self, tool: u32, now: Instant) -> bool {
        let is_over = |known: &Option<(u32, Instant)>| match known {
            Some((other, heard)) => *other == tool || now.since(*heard) > SILENCE_MAX,
            None => true,
        };
        // Its own place before a free one.
        let own = self
            .known
            .iter()
            .position(|known| known.is_some_and(|(other, _)| other == tool));
        let Some(place) = own.or_else(|| self.known.iter().position(is_over)) else {
            return false;
        };
        self.known[place] = Some((tool, now));
        true
    }

    fn forget(&mut self, tool: u32) {
        for place in &mut self.known {
            if place.is_some_and(|(known, _)| known == tool) {
                *place = None;
            }
        }
    }

    /// A hold for a tool has ended.
    pub(super) fn held(&mut self, now: Instant) {
        self.hold_from = now.after(HOLD_PAUSE);
    }

    pub(super) fn may_hold(&self, now: Instant) -> bool {
        now >= self.hold_from
    }
}

/// # What an export or an archive reads
impl<S: StateMachine> Replica<S> {
    /// What the chunks of [`Self::image_chunk`] are the state of, now; none while there is no state that
    /// was ordered by anybody: blank, recovering, repairing, or nothing executed yet.
    #[must_use]
    pub fn image_offer(&self) -> Option<ImageOffer> {
        let takes_part = matches!(self.status, Status::Normal | Status::ViewChange);
        if !takes_part || !self.has_state() || self.applied == Op::ZERO {
            return None;
        }
        let mut header = *self.journal.header(self.applied)?;
        // Which way it went is no part of what it is, and differs between replicas.
        header.set_route(Route::default());
        let session_chunks = self.sessions.image_chunks();
        (header.identity() == self.applied_identity).then(|| ImageOffer {
            header,
            digest: self.digest_now(),
            layout: self.machine.image_layout(),
            chunks: session_chunks + self.machine.image_chunks(),
            session_chunks,
            sessions: self.config.sessions as u64,
            reply_bytes: self.config.reply_bytes as u64,
            chunk_size: self.machine.image_chunk_size().max(SESSION_CHUNK_SIZE) as u64,
        })
    }

    /// Copies a chunk of the image into `into`, which holds [`ImageOffer::chunk_size`] bytes, and returns
    /// its size. The sessions' chunks come first. None when there is no such chunk, or it is damaged: N18,
    /// damage is not given on.
    #[must_use]
    pub fn image_chunk(&self, chunk: u64, into: &mut [u8]) -> Option<usize> {
        let session_chunks = self.sessions.image_chunks();
        if !self.has_state() || self.damage.has(chunk) {
            return None;
        }
        let size = match chunk.checked_sub(session_chunks) {
            None => self.sessions.image_read(chunk, into),
            Some(chunk) if chunk < self.machine.image_chunks() => {
                self.machine.image_read(chunk, into)
            }
            Some(_) => return None,
        };
        let is_damaged = self.machine.damaged().is_some() || self.sessions.is_damage_met();
        (!is_damaged).then_some(size)
    }
}

impl<S: StateMachine> Replica<S> {
    /// R8.9: a tool asks for chunks.
    pub(in super::super) fn on_get_image(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let wanted = *frame.fields::<GetImage>().ok_or(DropReason::Malformed)?;
        let tool = (wanted.question >> 32) as u32;
        self.end_hold_in_time();
        match wanted.wish {
            STATE_DONE => {
                self.end_hold_of(Asker::Tool(tool));
                self.transfer.exports.forget(tool);
                return Ok(());
            }
            STATE_LIVE | STATE_HELD => {}
            _ => return Err(DropReason::Malformed),
        }
        let wanted = GetState {
            question: wanted.question,
            since: wanted.since,
            at_least: wanted.at_least,
            from: wanted.from,
            count: wanted.count,
            wish: wanted.wish,
        };
        if let Err((refusal, reason)) = self.may_export(tool, &wanted) {
            let answer = NewState {
                question: wanted.question,
                op: self.applied,
                chunk: wanted.from,
                chunks: 0,
                number: refusal as u32,
                kind: IMAGE_REFUSED,
            };
            let _: Sent = self.send_image(out, answer, &[]);
            return Err(reason);
        }
        self.give_state(Asker::Tool(tool), &wanted, out);
        Ok(())
    }

    fn may_export(
        &mut self,
        tool: u32,
        wanted: &GetState,
    ) -> Result<(), (ImageRefusal, DropReason)> {
        if self.image_offer().is_none() {
            return Err((ImageRefusal::NoState, DropReason::WrongStatus));
        }
        if !self.transfer.exports.admit(tool, self.now.monotonic) {
            return Err((ImageRefusal::Busy, DropReason::Busy));
        }
        let is_held = wanted.wish == STATE_HELD && self.is_normal();
        let may_hold = match is_held {
            true => self.hold_for(Asker::Tool(tool), wanted),
            false => Ok(()),
        };
        if self.applied < wanted.at_least || may_hold.is_err() {
            return Err((ImageRefusal::NotYet, DropReason::NotYetExecuted));
        }
        Ok(())
    }

    /// An answer to the tool whose question is being handled.
    pub(super) fn send_image(
        &mut self,
        out: &mut impl Outbox,
        answer: NewState,
        body: &[u8],
    ) -> Sent {
        let image = Image {
            question: answer.question,
            op: answer.op,
            chunk: answer.chunk,
            chunks: answer.chunks,
            number: answer.number,
            kind: answer.kind,
        };
        assert!(
            body.is_empty() || self.has_state(),
            "what is not a state is not given"
        );
        let header = self.letterhead().sealed(image, body);
        out.sender(&header, body)
    }
}
