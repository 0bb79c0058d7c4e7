//! The other side of a recovery: who answers whom, and what is learnt from being asked (R6.2, R6.3).

use core::mem::size_of;

use vsr_types::body::{self, LogSuffix, Recovery as Beginning};
use vsr_types::message::{
    IncarnationQuery, IncarnationReply, PeerStatus, Ping, Pong, RecoveryReject, RecoveryRequest,
    RecoveryResponse,
};
use vsr_types::{Command, CrashVector, Digest, Frame, Incarnation, Nonce, ReplicaIndex, limits};

use crate::mutants::Mutant;
use crate::replica::admit::Handled;
use crate::replica::log::SUFFIX_SIZE_MAX;
use crate::replica::{Replica, Status};
use crate::{DropReason, Outbox, Sent, StateMachine};

/// The size of the longest answer's body.
const ANSWER_SIZE_MAX: usize = size_of::<Beginning>() + SUFFIX_SIZE_MAX;
const _: () = assert!(ANSWER_SIZE_MAX <= limits::REPLY_SIZE_MAX);

/// What follows the beginning of an answer.
pub(super) struct Rest<'a> {
    pub(super) suffix: LogSuffix,
    pub(super) headers: &'a [u8],
}

/// The parts of the body of an answer.
pub(super) fn split_response(body: &[u8]) -> Option<(Beginning, Rest<'_>)> {
    let beginning: Beginning = body::read(body)?;
    let rest = body.get(size_of::<Beginning>()..)?;
    let suffix: LogSuffix = body::read(rest)?;
    let headers = &rest[size_of::<LogSuffix>()..];
    Some((beginning, Rest { suffix, headers }))
}

impl<S: StateMachine> Replica<S> {
    /// R6.3: only a replica whose present view is the one it will tell (trace T4).
    fn may_answer_recovery(&self) -> bool {
        let between_views =
            self.status == Status::ViewChange && self.is_off(Mutant::AnswerInViewChange);
        self.is_normal() || between_views
    }

    /// The recovery's part of the way out: who may ask, and who may answer.
    pub(in crate::replica) fn assert_recovery_may_leave(&self, command: Command) {
        if matches!(
            command,
            Command::IncarnationQuery | Command::RecoveryRequest
        ) {
            assert!(
                self.status == Status::Recovering,
                "only who lost its memory asks for it"
            );
        } else {
            assert!(
                self.may_answer_recovery(),
                "only a normal replica answers a recovery (R6.3)"
            );
        }
    }

    /// Whether what this frame says does not depend on which life of its sender is the present one: it
    /// promises nothing, and claims nothing (see [`Self::on_recovery_request`], which registers).
    pub(in crate::replica) fn is_before_registration(frame: &Frame<'_>) -> bool {
        let promises_nothing = |status: u8| {
            matches!(
                PeerStatus::from_raw(status),
                Some(PeerStatus::Blank | PeerStatus::Recovering)
            )
        };
        match frame.command() {
            Command::IncarnationQuery | Command::RecoveryRequest => true,
            Command::Ping => frame
                .fields::<Ping>()
                .is_some_and(|ping| promises_nothing(ping.status)),
            Command::Pong => frame
                .fields::<Pong>()
                .is_some_and(|pong| promises_nothing(pong.status)),
            _ => false,
        }
    }

    /// `peer` takes part, in the life that is known here: nobody else fills its place now.
    pub(in crate::replica) fn note_alive(&mut self, peer: ReplicaIndex) {
        let life = self.crash_vector.of(peer);
        self.recovery.alive[peer.as_usize()] = Some((life, self.now.monotonic));
    }

    fn is_alive(&self, peer: ReplicaIndex) -> bool {
        self.recovery.alive[peer.as_usize()].is_some_and(|(life, heard)| {
            let is_recent = self.now.monotonic.since(heard) < self.config.view_timeout;
            is_recent && life == self.crash_vector.of(peer)
        })
    }

    pub(in crate::replica) fn on_incarnation_query(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let query = *frame
            .fields::<IncarnationQuery>()
            .ok_or(DropReason::Malformed)?;
        if frame.header().cluster() != self.cluster {
            return Err(DropReason::NotAReplica);
        }
        if !self.may_answer_recovery() {
            return Err(DropReason::WrongStatus);
        }
        let reply = IncarnationReply {
            nonce: query.nonce,
            reserved: [0; 3],
        };
        let vector = self.crash_vector;
        let asker = frame.header().replica();
        let _: Sent = self.send(out, asker, reply, bytemuck::bytes_of(&vector));
        Ok(())
    }

    pub(in crate::replica) fn on_recovery_request(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let request = *frame
            .fields::<RecoveryRequest>()
            .ok_or(DropReason::Malformed)?;
        let vector: CrashVector = body::read(frame.body()).ok_or(DropReason::Malformed)?;
        let asker = frame.header().replica();
        let incarnation = frame.header().incarnation();
        if !self.may_answer_recovery() {
            return Err(DropReason::WrongStatus);
        }
        if vector.of(asker) != incarnation {
            return Err(DropReason::Malformed);
        }
        self.admit_vector(&vector)?;
        let known = self.crash_vector.of(asker);
        // A number that was given twice belongs to who registered it first: the other attempt may be over
        // since long, and its question late.
        let is_taken = incarnation.counter == known.counter && incarnation != known;
        if incarnation < known || is_taken {
            self.send_reject(asker, request.nonce, out);
            return Err(DropReason::StaleIncarnation);
        }
        if incarnation > known && self.is_alive(asker) {
            // R6.2: a second process in the place of one that takes part. To believe it would make a
            // healthy replica throw its memory away. If that one has really crashed, its silence will
            // tell, and the question comes again: a fast restart waits for a view time-out.
            return Err(DropReason::StillAlive);
        }
        if !self.is_off(Mutant::VectorsNotJoined) {
            self.join_vector(&vector)?;
            self.members[asker.as_usize()] = frame.header().member();
        }
        if incarnation > known {
            self.note_alive(asker);
        }
        self.answer_recovery(asker, incarnation, request.nonce, out);
        Ok(())
    }

    /// The answer: the promise to know this incarnation, the view, and from its primary the log's end.
    fn answer_recovery(
        &mut self,
        asker: ReplicaIndex,
        incarnation: Incarnation,
        nonce: Nonce,
        out: &mut impl Outbox,
    ) {
        let mut body = core::mem::take(&mut self.reply_buffer);
        let beginning = Beginning {
            for_incarnation: incarnation,
            // What is being replaced is no state.
            digest: if self.has_state() {
                self.digest_now()
            } else {
                Digest::ZERO
            },
        };
        let start = size_of::<Beginning>();
        body[..start].copy_from_slice(bytemuck::bytes_of(&beginning));
        let whole = self.write_suffix(&mut body[start..]);
        let tells_log = self.is_primary() || self.is_off(Mutant::RecoverFromAnybody);
        let size = if tells_log {
            start + whole
        } else {
            let suffix = LogSuffix {
                crash_vector: self.crash_vector,
                ..bytemuck::Zeroable::zeroed()
            };
            let end = start + size_of::<LogSuffix>();
            body[start..end].copy_from_slice(bytemuck::bytes_of(&suffix));
            end
        };
        let response = RecoveryResponse {
            nonce,
            op: self.log_head(),
            applied: self.applied,
            tail: self.journal.tail(),
        };
        self.marks.reply = self.marks.reply.max(size);
        let _: Sent = self.send(out, asker, response, &body[..size]);
        self.reply_buffer = body;
    }

    fn send_reject(&mut self, to: ReplicaIndex, nonce: Nonce, out: &mut impl Outbox) {
        let reject = RecoveryReject {
            nonce,
            reserved: [0; 3],
        };
        let vector = self.crash_vector;
        let _: Sent = self.send(out, to, reject, bytemuck::bytes_of(&vector));
    }

    /// R0.2: tells a process that was superseded so, which it learns from nobody else: what it says is
    /// ignored everywhere. Only in answer to its pings, which come seldom.
    pub(in crate::replica) fn tell_superseded(&mut self, frame: &Frame<'_>, out: &mut impl Outbox) {
        if frame.command() == Command::Ping && self.is_normal() {
            self.send_reject(frame.header().replica(), Nonce::ZERO, out);
        }
    }

    /// R0.3: a counter far ahead is a flipped bit. It would lock its replica out for ever.
    pub(in crate::replica) fn admit_vector(&self, vector: &CrashVector) -> Handled {
        let leaps = |replica: ReplicaIndex| {
            let known = self.crash_vector.of(replica).counter;
            vector.of(replica).counter > known.saturating_add(limits::LEAP_MAX)
        };
        let beyond = ReplicaIndex::all(limits::REPLICAS_MAX as u8)
            .skip(usize::from(self.config.replicas))
            .any(|replica| vector.of(replica) != Incarnation::default());
        if beyond || ReplicaIndex::all(self.config.replicas).any(leaps) {
            return Err(DropReason::ImplausibleNumber);
        }
        Ok(())
    }

    /// As [`Self::join_vector`], without this replica's own entry.
    pub(super) fn join_others(&mut self, vector: &CrashVector) -> Handled {
        for peer in self.peers() {
            let incarnation = vector.of(peer);
            if incarnation > self.crash_vector.of(peer) {
                self.raise_incarnation(peer, incarnation)?;
            }
        }
        Ok(())
    }
}
