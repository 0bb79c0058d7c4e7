//! An image comes to a blank replica, for a cluster that will begin with it (N26, R7.4 to R7.6).
//!
//! An operator's tool announces the image to all replicas of the cluster-to-be, each of which says whether
//! it would fit; then it brings the chunks, in order, and asks each whether what came is the state that was
//! announced. Only then does it propose the cluster, by the token under which the image came, and whoever
//! agrees holds and has verified exactly that state. So all replicas begin with one state at one op, or no
//! cluster begins.
//!
//! There is no second copy of the memory. From the first chunk on this process has no state, not even that
//! of op 0 (`Replica::is_without_state`): it takes part in no cluster that begins with nothing, and if it
//! finds a cluster that it is to recover from, it takes over that one's state, however far back journals
//! reach.

use vsr_types::body;
use vsr_types::message::{
    ImageOffer, PUT_BEGIN, PUT_CHUNK, PUT_END, Prepare, PutImage, PutImageResult, PutOutcome,
};
use vsr_types::{Frame, Header, Instant, Nonce, Op, limits};

use super::super::admit::Handled;
use super::super::bootstrap::AGREED_FOR;
use super::super::{Replica, Status};
use super::CHUNKS_MAX;
use super::install::VERIFY_BYTES;
use crate::mutants::Mutant;
use crate::sessions::CHUNK_SIZE as SESSION_CHUNK_SIZE;
use crate::{DropReason, ImageError, Outbox, Sent, StateMachine};

/// How far an image has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was announced, or chunks of it came.
    Coming,
    /// All chunks are here.
    Verifying,
    /// And they are the state that was announced.
    Verified,
    /// Or not.
    Failed,
}

/// An image that a tool brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Import {
    token: Nonce,
    offer: ImageOffer,
    /// The chunk that is wanted next.
    next: u64,
    stage: Stage,
    heard: Instant,
}

impl<S: StateMachine> Replica<S> {
    /// R7.4: a tool brings a part of an image.
    pub(in super::super) fn on_put_image(
        &mut self,
        frame: &Frame<'_>,
        out: &mut impl Outbox,
    ) -> Handled {
        let put = *frame.fields::<PutImage>().ok_or(DropReason::Malformed)?;
        if put.token.is_zero() {
            return Err(DropReason::Malformed);
        }
        let result = match put.kind {
            _ if !matches!(self.status, Status::Blank(_)) => Err(PutOutcome::NotBlank),
            _ if self.sees_a_cluster() => Err(PutOutcome::PeerOperational),
            PUT_BEGIN if self.has_agreed_to(put.token) => Err(PutOutcome::OtherProposal),
            PUT_BEGIN => self.announce_image(&put, frame.body()),
            PUT_CHUNK if self.has_agreed() => Err(PutOutcome::OtherProposal),
            PUT_CHUNK => self.take_image_chunk(&put, frame.body()),
            PUT_END => self.end_of_image(&put),
            _ => return Err(DropReason::Malformed),
        };
        let import = self.transfer.import.filter(|i| i.token == put.token);
        let result_of_put = PutImageResult {
            token: put.token,
            next: import.map_or(0, |import| import.next),
            outcome: result.unwrap_or_else(|refusal| refusal) as u32,
            kind: put.kind,
            reserved: 0,
        };
        let header = self.letterhead().sealed(result_of_put, &[]);
        let _: Sent = out.sender(&header, &[]);
        result.map(|_| ()).map_err(|_| DropReason::WrongStatus)
    }

    /// Whether this image could be taken. Nothing is written yet.
    fn announce_image(&mut self, put: &PutImage, bytes: &[u8]) -> Result<PutOutcome, PutOutcome> {
        let now = self.now.monotonic;
        let is_another = self.transfer.import.is_some_and(|import| {
            import.token != put.token && now.since(import.heard) < AGREED_FOR
        });
        if is_another || !self.renounce_agreed(put.token) {
            return Err(PutOutcome::OtherProposal);
        }
        let offer: ImageOffer = body::read(bytes).ok_or(PutOutcome::Malformed)?;
        self.judge_offer(&offer)?;
        self.transfer.import = Some(Import {
            token: put.token,
            offer,
            next: 0,
            stage: Stage::Coming,
            heard: now,
        });
        Ok(PutOutcome::Taken)
    }

    /// R7.5: what can be said of an image before it comes.
    fn judge_offer(&self, offer: &ImageOffer) -> Result<(), PutOutcome> {
        let is_plausible = |prepare: &Prepare| {
            prepare.op > Op::ZERO
                && prepare.op.raw() < limits::NUMBER_MAX
                // Time goes on from there.
                && prepare.timestamp.as_nanos() < limits::NUMBER_MAX
        };
        let is_sound = offer.header.is_intact()
            && offer.header.fields::<Prepare>().is_some_and(is_plausible)
            && offer.chunks <= CHUNKS_MAX
            && offer.session_chunks <= offer.chunks
            && offer.chunk_size <= limits::BODY_SIZE_MAX as u64;
        if !is_sound {
            return Err(PutOutcome::Malformed);
        }
        let layout = self.machine.image_layout();
        let chunk_size = self.machine.image_chunk_size().max(SESSION_CHUNK_SIZE) as u64;
        if offer.layout != layout || offer.chunk_size != chunk_size {
            return Err(PutOutcome::OtherMachine);
        }
        let sessions = (self.config.sessions as u64, self.config.reply_bytes as u64);
        if (offer.sessions, offer.reply_bytes) != sessions
            || offer.session_chunks != self.sessions.image_chunks()
        {
            return Err(PutOutcome::OtherSessions);
        }
        let size = (offer.chunks - offer.session_chunks)
            .saturating_sub(1)
            .saturating_mul(self.machine.image_chunk_size() as u64);
        if layout.capacity > 0 && size >= layout.capacity {
            return Err(PutOutcome::TooLarge);
        }
        Ok(())
    }

    fn take_image_chunk(&mut self, put: &PutImage, bytes: &[u8]) -> Result<PutOutcome, PutOutcome> {
        let now = self.now.monotonic;
        let import = self.transfer.import.as_mut();
        let import = import
            .filter(|import| import.token == put.token)
            .ok_or(PutOutcome::OtherProposal)?;
        if import.stage != Stage::Coming
            || put.chunk != import.next
            || put.chunk >= import.offer.chunks
        {
            return Err(PutOutcome::OutOfOrder);
        }
        import.heard = now;
        import.next += 1;
        let offer = import.offer;
        if put.chunk == 0 {
            match self
                .machine
                .image_begin(offer.chunks - offer.session_chunks)
            {
                Ok(()) => {}
                Err(ImageError::TooLarge) => return Err(self.fail_import(PutOutcome::TooLarge)),
                Err(_) => return Err(self.fail_import(PutOutcome::NoState)),
            }
            self.sessions.image_begin(&mut self.transfer.image);
            self.give_up_state();
        }
        let taken = match put.chunk.checked_sub(offer.session_chunks) {
            Some(chunk) => self.machine.image_put(chunk, bytes),
            None => self
                .sessions
                .image_put(&mut self.transfer.image, put.chunk, bytes),
        };
        match taken {
            Ok(()) => Ok(PutOutcome::Taken),
            Err(_) => Err(self.fail_import(PutOutcome::NoState)),
        }
    }

    fn fail_import(&mut self, outcome: PutOutcome) -> PutOutcome {
        if let Some(import) = &mut self.transfer.import {
            import.stage = Stage::Failed;
        }
        outcome
    }

    fn end_of_image(&mut self, put: &PutImage) -> Result<PutOutcome, PutOutcome> {
        let now = self.now.monotonic;
        let import = self.transfer.import.as_mut();
        let import = import
            .filter(|import| import.token == put.token)
            .ok_or(PutOutcome::OtherProposal)?;
        import.heard = now;
        if import.stage == Stage::Coming && import.next == import.offer.chunks {
            import.stage = Stage::Verifying;
        }
        match import.stage {
            Stage::Coming => Err(PutOutcome::OutOfOrder),
            Stage::Verifying => Ok(PutOutcome::Verifying),
            Stage::Verified => Ok(PutOutcome::Verified),
            Stage::Failed => Err(PutOutcome::NoState),
        }
    }

    /// Whether what was brought is to be verified now.
    pub(super) fn is_verifying_import(&self) -> bool {
        let import = &self.transfer.import;
        import.is_some_and(|import| import.stage == Stage::Verifying)
    }

    /// R7.5: verifies some of what was brought. What it is told to be proves nothing: the whole is
    /// walked over, and its digest is the announced one.
    pub(super) fn verify_import(&mut self) {
        if !self.is_verifying_import() {
            return;
        }
        let verified = match self.machine.image_verify(VERIFY_BYTES) {
            Ok(false) => return,
            Ok(true) => self.finish_import(),
            Err(_) => false,
        };
        let is_believed = verified || self.is_off(Mutant::ImportUnverified);
        if let Some(import) = &mut self.transfer.import {
            import.stage = if is_believed {
                Stage::Verified
            } else {
                Stage::Failed
            };
        }
    }

    fn finish_import(&mut self) -> bool {
        let Some(import) = self.transfer.import else {
            return false;
        };
        let Some(at) = op_of(&import.offer) else {
            return false;
        };
        let buffer = &mut self.reply_buffer;
        let image = &mut self.transfer.image;
        self.sessions.image_finish(image, at, buffer).is_ok()
            && self.machine.image_finish(at).is_ok()
            && self.digest_now() == import.offer.digest
    }

    /// Whether the image that `offer` announces was brought by `token` and is held here, verified.
    pub(in super::super) fn holds_image(&self, token: Nonce, offer: &ImageOffer) -> bool {
        self.transfer.import.is_some_and(|import| {
            import.token == token
                && import.stage == Stage::Verified
                && bytemuck::bytes_of(&import.offer) == bytemuck::bytes_of(offer)
        })
    }

    /// The image that was brought by `token`, if it is held here, verified.
    pub(in super::super) fn image_of(&self, token: Nonce) -> Option<ImageOffer> {
        let import = self.transfer.import?;
        (import.token == token && import.stage == Stage::Verified).then_some(import.offer)
    }

    /// This process belongs to a cluster now, by whatever way.
    pub(in super::super) const fn forget_import(&mut self) {
        self.transfer.import = None;
    }

    /// R7.6: the cluster has begun, with the image: this is the state after the op of `header`, the
    /// genesis, as if it had been taken over from another replica.
    pub(in super::super) fn begin_with(&mut self, header: &Header) {
        let prepare = *header
            .fields::<Prepare>()
            .expect("a genesis looks like a prepare");
        let op = prepare.op;
        assert!(
            matches!(self.status, Status::Blank(_)) && self.op() == Op::ZERO,
            "who begins has no log yet (I24)"
        );
        self.applied = op;
        self.applied_identity = header.identity();
        self.applied_timestamp = prepare.timestamp;
        self.commit = op;
        // R10.4: the image is the archive of what the border ends.
        if self.op_max().is_border(op) {
            self.archived = op;
        }
        self.journal.reset_with(header);
        self.head = header.identity();
        self.head_timestamp = prepare.timestamp;
        self.verified = op;
        self.held = op;
        self.begin_inherited(header);
        let period = u64::try_from(self.config.digest_period.as_nanos()).unwrap_or(u64::MAX);
        self.digest_period = prepare.timestamp.as_nanos() / period.max(1);
        self.has_state_of(op);
    }
}

/// The op after which the announced state was taken.
fn op_of(offer: &ImageOffer) -> Option<Op> {
    offer.header.fields::<Prepare>().map(|prepare| prepare.op)
}
