//! Clients: admission, sessions, and the batch that is being filled.
//!
//! A request is answered, refused, or put into the open batch. The batch is cut into a prepare when
//! the driver has nothing more to hand over (the deadline is "now" while it is open), or when it is
//! full: so a lone request leaves at once and many form batches by themselves (N7).

use alloc::boxed::Box;
use alloc::vec;

use vsr_types::memory::{Level, touch};
use vsr_types::message::{Command, Query, Reject, RejectReason, Reply};
use vsr_types::{
    BatchBuilder, Checksum, ClientId, Frame, Operation, Request, RequestNumber, Route,
    SessionNumber,
};

use super::admit::Handled;
use super::exit::send_to_client;
use super::{Replica, Status};
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::sessions::{SessionSlot, Verdict};
use crate::{DropReason, Outbox, Sent, StateMachine};

/// The batch that the primary is filling.
#[derive(Debug)]
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    buffer: Box<[u8]>,
    /// The size of the largest batch so far.
    most: usize,
}

impl OpenBatch {
    pub(super) fn new(size_max: usize) -> Self {
        Self {
            builder: BatchBuilder::new(),
            buffer: vec![0; size_max].into_boxed_slice(),
            most: 0,
        }
    }

    pub(super) const fn level(&self) -> Level {
        Level::new("open batch", self.size(), self.most)
    }

    /// Touches what was allocated: nothing is in it yet.
    pub(super) fn prefault(&mut self) {
        touch(&mut self.buffer);
    }

    /// Drops what is in it.
    pub(super) fn clear(&mut self) {
        self.builder = BatchBuilder::new();
    }

    pub(super) const fn count(&self) -> u32 {
        self.builder.count()
    }

    pub(super) const fn size(&self) -> usize {
        self.builder.size()
    }

    /// Flips a bit of what is in it, as memory does.
    #[cfg(test)]
    pub(super) fn flip(&mut self, byte: usize, bit: usize) {
        self.buffer[byte] ^= 1 << bit;
    }

    /// Ends the batch and returns its bytes and how many requests are in it.
    pub(super) fn finish(&mut self) -> (&[u8], u32) {
        let builder = core::mem::take(&mut self.builder);
        let count = builder.count();
        let size = builder.finish(&mut self.buffer);
        self.most = self.most.max(size);
        (&self.buffer[..size], count)
    }
}

/// Who is told what about a request or query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) client: ClientId,
    pub(super) request: RequestNumber,
    pub(super) request_checksum: Checksum,
}

impl Asker {
    fn of(request: &Request<'_>) -> Self {
        let header = request.header();
        Self {
            client: header.client,
            request: header.request,
            request_checksum: header.checksum(),
        }
    }
}

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_request(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) -> Handled {
        let request = frame.request().ok_or(DropReason::Malformed)?;
        let asker = Asker::of(&request);
        let admitted = self.admit_client(frame, asker, out);
        if admitted == Err(DropReason::PassedOn) {
            self.watch_over(&request);
        }
        admitted?;
        if !self.fits(&request) {
            return self.reject(out, asker, RejectReason::TooLarge, DropReason::Refused);
        }
        match Operation::from_raw(request.header().operation) {
            Some(Operation::Register) => self.on_register(&request, asker, out),
            Some(Operation::Apply) => self.on_apply(&request, asker, out),
            None => Err(DropReason::Malformed),
        }
    }

    /// Whether a batch may hold `request`.
    pub(super) fn fits(&self, request: &Request<'_>) -> bool {
        request.bytes().len() + vsr_types::limits::BATCH_HEADER_SIZE <= self.config.batch_size_max
    }

    /// What holds for requests and queries alike: they are for the primary of a serving cluster, and
    /// a backup passes them on once.
    pub(super) fn admit_client(
        &mut self,
        frame: &Frame<'_>,
        asker: Asker,
        out: &mut impl Outbox,
    ) -> Handled {
        match self.status {
            Status::Normal if !self.change.accepts_nothing() && !self.is_blocked() => {}
            Status::Blank(_) | Status::Recovering | Status::ViewChange | Status::Normal => {
                return self.reject(out, asker, RejectReason::NotReady, DropReason::WrongStatus);
            }
            Status::Halted(_) => {
                return self.reject(out, asker, RejectReason::Halted, DropReason::WrongStatus);
            }
        }
        if self.is_primary() {
            return Ok(());
        }
        if frame.header().route() == Some(Route::PASSED_ON) {
            // It was passed on to the wrong one: say who leads, do not send it in circles.
            return self.reject(out, asker, RejectReason::NotPrimary, DropReason::NotPrimary);
        }
        let mut header = *frame.header();
        header.set_route(Route::PASSED_ON);
        let sent = self.send_to_peer(out, self.primary(), &header, frame.body());
        if sent == Sent::Queued {
            self.counters.count(Event::PassedOn);
        }
        Err(DropReason::PassedOn)
    }

    /// R1.1. A register is idempotent: a repeated one finds the session it opened.
    fn on_register(
        &mut self,
        request: &Request<'_>,
        asker: Asker,
        out: &mut impl Outbox,
    ) -> Handled {
        let header = request.header();
        let is_register = header.session == SessionNumber::ZERO
            && header.request == RequestNumber::ZERO
            && request.operation().is_empty();
        if !is_register {
            return self.reject(out, asker, RejectReason::Malformed, DropReason::Malformed);
        }
        if let Some(slot) = self.sessions.slot_of(header.client) {
            let session = self.sessions.session_number(slot);
            let session = session.ok_or(DropReason::Damaged)?;
            let reply = Reply {
                client: asker.client,
                request: RequestNumber::ZERO,
                op: vsr_types::Op::new(session.raw()),
                request_checksum: asker.request_checksum,
                index: 0,
            };
            let header = self.letterhead().sealed(reply, &[]);
            send_to_client(&mut self.counters, out, asker.client, &header, &[]);
            return Err(DropReason::Repeated);
        }
        self.add_to_batch(request, asker, out)
    }

    /// R1.3.
    fn on_apply(&mut self, request: &Request<'_>, asker: Asker, out: &mut impl Outbox) -> Handled {
        let header = request.header();
        let verdict = self.sessions.verdict(
            header.client,
            header.session,
            header.request,
            asker.request_checksum,
        );
        let slot = match verdict {
            Verdict::Next(held) => held.slot(),
            // R1.3a: what was inherited may hold the register, the eviction of another, or the request
            // before this one, which the last primary has answered.
            Verdict::Unknown | Verdict::OtherSession { .. } | Verdict::Ahead
                if self.applied < self.inherited.head() =>
            {
                return Err(DropReason::NotYetExecuted);
            }
            Verdict::Unknown | Verdict::OtherSession { .. } | Verdict::Ahead => {
                return self.judge_later(header, asker, out);
            }
            Verdict::Old => return Err(DropReason::OldRequest),
            // N17: the client asks again; what is noted is repaired.
            Verdict::Damaged => return Err(DropReason::Damaged),
            Verdict::Repeated(slot) => {
                let was_told = self.reply_again(slot, asker, out).is_some();
                return Err(if was_told {
                    DropReason::Repeated
                } else {
                    DropReason::Damaged
                });
            }
            Verdict::Reused => {
                return self.reject(
                    out,
                    asker,
                    RejectReason::RequestReused,
                    DropReason::Malformed,
                );
            }
        };
        // R1.3e: what is in the pipeline is not prepared twice (trace T23b).
        if self
            .sessions
            .is_in_flight(slot, header.request, self.applied_for_in_flight())
            && !self.is_off(Mutant::PrepareTwice)
        {
            return Err(DropReason::InFlight);
        }
        if let Err(refusal) = self.machine.validate(request.operation()) {
            return self.reject_with(
                out,
                asker,
                RejectReason::Malformed,
                refusal.code,
                DropReason::Refused,
            );
        }
        self.add_to_batch(request, asker, out)?;
        // The open batch is the next to be prepared.
        self.sessions
            .set_in_flight(slot, header.request, self.op().next());
        Ok(())
    }

    /// Up to where a request that was put into a batch is in flight no more. R1.2: what was prepared and
    /// then dropped by a view change is not in flight either (trace T23a).
    fn applied_for_in_flight(&self) -> vsr_types::Op {
        if self.is_off(Mutant::TableAtPrepare) {
            vsr_types::Op::ZERO
        } else {
            self.applied
        }
    }

    fn add_to_batch(
        &mut self,
        request: &Request<'_>,
        asker: Asker,
        out: &mut impl Outbox,
    ) -> Handled {
        let size = request.bytes().len();
        if !self
            .batch
            .builder
            .has_room(size, self.config.batch_size_max)
        {
            self.cut_batch(out);
        }
        if self.is_used_up() {
            // R10.1: never a wrap-around; reads go on. Asked after the cut, which may have taken the
            // last number: what is put into a batch has an op to come.
            let detail = vsr_types::message::NO_OPS_LEFT;
            return self.reject_with(
                out,
                asker,
                RejectReason::Halted,
                detail,
                DropReason::Refused,
            );
        }
        if !self
            .batch
            .builder
            .has_room(size, self.config.batch_size_max)
        {
            // N8: the sender hears it. R10.5: also when the batch waits for an archive.
            return self.reject(out, asker, RejectReason::Busy, DropReason::Busy);
        }
        self.batch.builder.push(&mut self.batch.buffer, request);
        Ok(())
    }

    /// R1.3c, R1.7: the answer that the client missed; none when it is damaged.
    fn reply_again(
        &mut self,
        slot: SessionSlot,
        asker: Asker,
        out: &mut impl Outbox,
    ) -> Option<()> {
        let letterhead = self.letterhead();
        let (executed, body) = self.sessions.reply(slot, &mut self.reply_buffer)?;
        self.marks.reply = self.marks.reply.max(body.len());
        assert!(
            executed.op <= self.applied,
            "a reply is that of an executed op (I20)"
        );
        let reply = Reply {
            client: asker.client,
            request: executed.request,
            op: executed.op,
            request_checksum: executed.request_checksum,
            index: executed.index,
        };
        let header = letterhead.sealed(reply, body);
        send_to_client(&mut self.counters, out, asker.client, &header, body);
        Some(())
    }

    pub(super) fn reject(
        &mut self,
        out: &mut impl Outbox,
        asker: Asker,
        reason: RejectReason,
        dropped: DropReason,
    ) -> Handled {
        self.reject_with(out, asker, reason, 0, dropped)
    }

    fn reject_with(
        &mut self,
        out: &mut impl Outbox,
        asker: Asker,
        reason: RejectReason,
        detail: u64,
        dropped: DropReason,
    ) -> Handled {
        let reject = Reject {
            client: asker.client,
            request: asker.request,
            reason: reason as u32,
            request_checksum: asker.request_checksum,
            detail,
        };
        let header = self.letterhead().sealed(reject, &[]);
        send_to_client(&mut self.counters, out, asker.client, &header, &[]);
        Err(dropped)
    }

    /// The asker of a query.
    pub(super) fn asker_of_query(frame: &Frame<'_>) -> Result<Asker, DropReason> {
        assert!(frame.command() == Command::Query, "the caller has a query");
        let query = frame.fields::<Query>().ok_or(DropReason::Malformed)?;
        Ok(Asker {
            client: query.client,
            request: query.query,
            request_checksum: Checksum::default(),
        })
    }
}
