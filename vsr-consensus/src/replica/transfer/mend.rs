//! Chunks of this replica's own state that went bad are replaced in place (M3).
//!
//! Whatever changes a bit in memory changes a few chunks, and the rest is as good as before. So nothing
//! else is fetched than those, as they are at a donor now, and then what has changed since the op that
//! this replica has executed: two ordinary passes and the last one, and in the end the digest of the
//! whole says whether it is a state again. Before the first of them is written, all of them must have come
//! once, and what changed since, and that is thrown away: what nobody can give must not cost this replica
//! the rest of its state (R14.4). Until then it gives what it has itself: two replicas that an operation has
//! stopped at the same op, each by damage of its own, help each other. Meanwhile journal and promises are sound: the replica goes on
//! acknowledging what it holds. But it executes, answers and gives nothing, and it does not lead: a
//! primary leaves its view at once, an elect lets another one lead (R5.6).

use super::super::{Replica, Status};
use super::pass::{Chosen, Pass};
use super::{Copy, Running};
use crate::counters::Event;
use crate::machine::CHUNK_UNKNOWN;
use crate::mutants::Mutant;
use crate::{Outbox, StateMachine};
use vsr_types::message::{GetState, STATE_ALL};
use vsr_types::{Instant, Op, ReplicaIndex};

/// How many ticks one that mends its state waits for another one with a lower number that asked it for help.
const COURTESY_TICKS: u32 = 20;

/// What is known to be bad in this replica's own state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    chunks: Chosen,
    /// There are more than can be named.
    everything: bool,
}

impl Damage {
    pub(super) const NONE: Self = Self {
        chunks: Chosen::NONE,
        everything: false,
    };

    pub(super) const fn is_none(&self) -> bool {
        self.chunks.is_empty() && !self.everything
    }

    fn add(&mut self, chunk: u64) {
        self.everything |= chunk == CHUNK_UNKNOWN || !self.chunks.add(chunk);
    }
}

impl<S: StateMachine> Replica<S> {
    /// The number in the image of a chunk of the machine's: those of the sessions come first.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever scrubs"))]
    pub(in super::super) fn chunk_of_machine(&self, chunk: u64) -> u64 {
        self.sessions.image_chunks().saturating_add(chunk)
    }

    /// These chunks of this replica's own state are not what was written there: fetches them, and
    /// nothing else but what has changed since, and installs the whole when its digest is the donor's
    /// (M3). To be called when a check has failed, with nothing executed since.
    ///
    /// `chunks` counts as the image does: the sessions' from zero, then the machine's, see
    /// [`Self::chunk_of_machine`]. A chunk that is named twice is fetched once; with more than sixteen
    /// different ones, or [`CHUNK_UNKNOWN`], the whole state is (R14.2). What an operation has changed that
    /// met the damage half way, and so is not executed here, is fetched as well, after it was executed
    /// elsewhere. From this call on the state is not used ([`Self::is_transferring`]) until
    /// [`Event::TransfersFinished`] is counted. A primary leaves its view here and now. While a transfer
    /// to this replica is running anyway, the call changes nothing: what it puts together is verified as
    /// a whole.
    ///
    /// Says no when the state cannot be replaced, because no other replica has it: then R6.8 applies.
    #[must_use = "if it says no, this process must end"]
    pub(in super::super) fn repair_state(&mut self, chunks: &[u64], out: &mut impl Outbox) -> bool {
        let is_member = !matches!(self.status, Status::Blank(_) | Status::Halted(_));
        if self.config.replicas == 1 || !is_member {
            return false;
        }
        if self.transfer.running.is_some() {
            return true;
        }
        for &chunk in chunks {
            self.transfer.damage.add(chunk);
        }
        self.go_on_mending(out);
        true
    }

    /// The op that has changed something here and does not count as executed, if there is one. Where it is
    /// executed it changes the same and more: so a state after it replaces all of that.
    pub(in super::super) fn half_executed(&self) -> Option<Op> {
        let applied = self.applied;
        let machine = (0..self.machine.image_chunks())
            .any(|chunk| self.machine.image_changed_at(chunk) > applied);
        let sessions = (0..self.sessions.image_chunks())
            .any(|chunk| self.sessions.image_changed_at(chunk) > applied);
        (machine || sessions).then(|| applied.next())
    }

    /// Whether chunks are bad, and nobody was asked for them yet.
    pub(super) const fn is_damage_waiting(&self) -> bool {
        self.transfer.running.is_none() && !self.transfer.damage.is_none()
    }

    /// Whether it is a state of this replica's own that is being mended. Then its journal holds whatever it
    /// acknowledged behind that state, and it may go on acknowledging (M3).
    pub(in super::super) fn is_mending(&self) -> bool {
        let running = &self.transfer.running;
        self.is_damage_waiting() || running.is_some_and(|running| running.mends)
    }

    /// All that is damaged has come once: somebody has it. So has what changed since, then; from here on it
    /// is written.
    pub(super) fn end_probe(&mut self) {
        let chunks = self.transfer.damage.chunks;
        if let Some(running) = &mut self.transfer.running {
            if running.pass.is_over_chosen() {
                running.pass = Pass::new(running.pass.number + 1, false, self.applied);
                return;
            }
            let (asker, at) = self.transfer.mends_for;
            let lately = self.config.tick * COURTESY_TICKS;
            if asker < self.config.replica
                && self.now.monotonic.since(at) < lately
                && at != Instant::ZERO
            {
                // Each would refuse the other what it needs for the rest.
                self.transfer.running = None;
                self.transfer.damage = Damage::NONE;
                self.postpone_damage(lately);
                return;
            }
            running.probes = false;
            running.pass = Pass::over(running.pass.number + 1, chunks);
            running.pass_bytes = 0;
        }
    }

    /// Nobody can give all that is damaged. Nothing was written: this replica keeps the state that it has.
    pub(super) fn give_up_mending(&mut self) {
        self.transfer.running = None;
        self.transfer.damage = Damage::NONE;
        self.note_nobody_has_it();
    }

    /// Whether this replica may give of its state: it has one, or nothing has been written over the one that
    /// it would mend.
    pub(in super::super) fn gives_state(&self) -> bool {
        let running = &self.transfer.running;
        let is_own = self.has_state() || running.is_none_or(|running| running.probes);
        is_own
            && !self.is_without_state()
            && !self.is_interrupted()
            && (self.machine.is_digest_sound() || self.is_off(Mutant::DamageGiven))
    }

    /// Somebody asks for chunks one by one: he mends his state, and may need this one until he has done so.
    pub(super) fn note_mender(&mut self, asker: ReplicaIndex, wanted: &GetState) {
        if wanted.since == STATE_ALL && wanted.count == 1 {
            self.transfer.mends_for = (asker, self.now.monotonic);
        }
    }

    /// Who is asked for what is damaged of the state.
    pub(in super::super) fn mends_from(&self) -> Option<ReplicaIndex> {
        let running = self.transfer.running.filter(|running| running.mends)?;
        Some(running.donor)
    }

    /// Whether a step towards mending can be made now.
    pub(super) fn can_go_on_mending(&self) -> bool {
        self.is_damage_waiting() && matches!(self.status, Status::Normal | Status::Recovering)
    }

    /// Gives up a view that it leads, or asks for what is bad.
    pub(super) fn go_on_mending(&mut self, out: &mut impl Outbox) {
        if !self.can_go_on_mending() {
            return;
        }
        if self.is_normal() && self.is_primary() {
            // Its clients would wait for it. What is in flight is decided by the votes, as ever.
            let successor = self.best_successor();
            let view = successor.map_or(self.view.next(), |peer| self.next_view_of(peer));
            self.enter_view_change(view, out);
            return;
        }
        let Damage { chunks, everything } = self.transfer.damage;
        self.transfer.copy = Copy {
            since: if everything { STATE_ALL } else { self.applied },
            at_least: self.half_executed().unwrap_or(self.applied),
            is_mixed: false,
        };
        let pass = if everything {
            Pass::new(1, false, STATE_ALL)
        } else {
            Pass::over(1, chunks)
        };
        self.counters.count(Event::TransfersBegun);
        let donor = self.state_donor();
        let now = self.now.monotonic;
        let probes = pass.is_over_chosen() && !self.is_off(Mutant::NothingProbed);
        self.transfer.running = Some(Running {
            mends: true,
            probes,
            pass,
            ..Running::new(donor, self.transfer.copy.since, now)
        });
        self.ask_for_state(out);
    }
}
