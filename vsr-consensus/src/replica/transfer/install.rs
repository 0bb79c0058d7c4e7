//! The end of a transfer: what came is verified, a little at a time, and becomes the state in one step.

use vsr_types::Header;
use vsr_types::message::{Prepare, StateOffer};

use super::super::{Replica, Status};
use super::mend::Damage;
use crate::counters::Event;
use crate::mutants::Mutant;
use crate::{Outbox, StateMachine};

/// How much of what came is verified at once: a fraction of a millisecond's work.
pub(super) const VERIFY_BYTES: usize = 1 << 20;

/// What came is not the state that was offered.
struct NoState;

impl<S: StateMachine> Replica<S> {
    /// Whether everything came and can be verified and installed now: between views a log, and what was
    /// told of it, stays what it is (R5.2).
    pub(super) fn can_verify(&self) -> bool {
        let running = &self.transfer.running;
        matches!(self.status, Status::Normal | Status::Recovering)
            && running.is_some_and(|running| running.is_complete)
    }

    /// Verifies some of what came; installs it after the last of it.
    pub(super) fn verify_some(&mut self, out: &mut impl Outbox) {
        match self.machine.image_verify(VERIFY_BYTES) {
            Ok(false) => {}
            Ok(true) => self.install_state(out),
            Err(_) if self.is_off(Mutant::ImageUnverified) => self.install_state(out),
            Err(_) => self.fail_transfer(out),
        }
    }

    /// Every chunk is here, of one state: installs it, or starts over.
    fn install_state(&mut self, out: &mut impl Outbox) {
        let offer = self
            .transfer
            .running
            .as_ref()
            .and_then(|running| running.offer);
        let installed = offer
            .ok_or(NoState)
            .and_then(|offer| self.try_install(&offer));
        match installed {
            Ok(header) => self.state_installed(&header, out),
            Err(NoState) => self.fail_transfer(out),
        }
    }

    fn try_install(&mut self, offer: &StateOffer) -> Result<Header, NoState> {
        let running = self.transfer.running.as_ref().ok_or(NoState)?;
        let at = running.pass.low().ok_or(NoState)?;
        let header = offer.header;
        let prepare = header.fields::<Prepare>().ok_or(NoState)?;
        let is_sound = header.is_intact()
            && header.route().is_some()
            && header.cluster() == self.cluster
            && header.epoch() == self.op_max().epoch(prepare.op)
            && header.view() <= self.view
            && prepare.op == at
            // I26: what was executed here once stays executed.
            && at >= self.applied
            && offer.session_chunks == self.sessions.image_chunks()
            && running.machine_chunks.is_some();
        if !is_sound {
            return Err(NoState);
        }
        if self.is_off(Mutant::SessionsNotInImage) {
            self.sessions.reset();
        } else {
            self.marks.images += 1;
            self.sessions
                .image_finish(&mut self.transfer.image, at, &mut self.reply_buffer)
                .map_err(|_| NoState)?;
        }
        self.machine.image_finish(at).map_err(|_| NoState)?;
        let is_believed = self.is_off(Mutant::ImageUnverified)
            || self.is_off(Mutant::SessionsNotInImage)
            || self.is_off(Mutant::ChangedChunksKept);
        if self.digest_now() != offer.digest && !is_believed {
            return Err(NoState);
        }
        Ok(header)
    }

    /// Machine and sessions are the state after the prepare of `header`.
    fn state_installed(&mut self, header: &Header, out: &mut impl Outbox) {
        let prepare = *header
            .fields::<Prepare>()
            .expect("the caller verified the header");
        let (op, timestamp) = (prepare.op, prepare.timestamp);
        assert!(op >= self.applied, "what is executed stays executed (I26)");
        // The ring may have gone round since, so that the entry itself is gone.
        let is_own = op == self.applied && header.identity() == self.applied_identity;
        self.applied = op;
        self.applied_identity = header.identity();
        self.applied_timestamp = timestamp;
        self.commit = self.commit.max(op);
        self.stalled = false;
        self.unexecuted_bytes = 0;
        // Digests are taken at the same ops as everywhere else.
        let period = u64::try_from(self.config.digest_period.as_nanos()).unwrap_or(u64::MAX);
        self.digest_period = timestamp.as_nanos() / period.max(1);
        // R8.5: entries behind it that are linked to it stay.
        if op <= self.op() {
            // A slot that cannot be read any more gets its header back: what was acknowledged stays.
            let _ = self.journal.restore_header(header);
        }
        let held = self.journal.header(op).map(Header::identity);
        if self.op() >= op && (is_own || held == Some(header.identity())) {
            self.verified = self.verified.max(op);
        } else {
            self.journal.reset_with(header);
            self.head = header.identity();
            self.head_timestamp = timestamp;
            self.verified = op;
        }
        self.held = op;
        self.extend_log();
        self.recount_held();
        let donor = self.transfer.running.take().map(|running| running.donor);
        self.forget_damage(donor.unwrap_or(self.me()));
        self.transfer.damage = Damage::NONE;
        self.transfer.attempts = 0;
        self.has_state_of(op);
        self.transfer.outrun.installed(op, self.now.monotonic);
        self.counters.count(Event::TransfersFinished);
        self.repair.note_progress(self.now.monotonic);
        self.on_state_restored(out);
    }
}
