//! A transfer ends under any load (R8.6).
//!
//! The load may change more than a donor can give while it holds back execution, or fill every ring while
//! what came is verified. A transfer that is overtaken like that is followed by another, which brings less;
//! but at some load the next one is overtaken as well, and so for ever, with one replica fewer than there
//! could be. So whoever was overtaken several times asks the primary to go slowly: until it has caught up,
//! and no more than a part of the ring ahead of the state that is being fetched, the primary prepares
//! as before, from there on a batch now and then. For a bounded time: if that is not enough, clients come
//! first again.

use core::time::Duration;

use vsr_types::message::{GetState, STATE_SLOWLY};
use vsr_types::{Instant, Op, ReplicaIndex};

use super::super::Replica;
use super::super::admit::Handled;
use crate::counters::Event;
use crate::{DropReason, Outbox, Sent, StateMachine};

/// How often a transfer may be overtaken before the primary is asked to go slowly.
const OVERTAKEN_MAX: u32 = 2;
/// How many ticks a word to the primary is good for; it is repeated every tick.
const WORD_TICKS: u32 = 5;
/// How many ticks lie between two batches of a primary that goes slowly: clients see that it lives.
const SLOW_TICKS: u32 = 10;
/// How long a primary goes slowly at most, and then as long not again.
const SLOWLY_MAX: Duration = Duration::from_secs(10);
/// Which part of its ring's slots a primary may be ahead: less than a donor that holds back execution
/// has room for.
const SLOTS_SHARE: u64 = 4;
/// And of the bytes.
const BYTES_SHARE: usize = 2;

/// At a receiver: how often the load was faster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outrun {
    /// Transfers that had to be followed by another, and last passes that a donor had to break off.
    times: u32,
    /// The state installed last, and when, if this replica has not caught up since.
    installed: Option<(Op, Instant)>,
    /// The state from which on the primary is asked to wait; none: it is not asked.
    from: Option<Op>,
    /// When it is told again.
    tell_at: Instant,
}

impl Outrun {
    pub(super) const NEVER: Self = Self {
        times: 0,
        installed: None,
        from: None,
        tell_at: Instant::ZERO,
    };

    /// The donor had to go on, or the log has gone on further than any ring holds.
    pub(super) const fn once_more(&mut self) {
        self.times = self.times.saturating_add(1);
    }

    pub(super) const fn installed(&mut self, op: Op, now: Instant) {
        self.installed = Some((op, now));
    }

    /// Another transfer begins: if the last one did not lead to the log, it was overtaken.
    pub(super) const fn begin(&mut self) {
        if self.installed.is_some() {
            self.once_more();
        }
    }

    const fn is_hopeless(&self) -> bool {
        self.times > OVERTAKEN_MAX
    }
}

/// At a primary: how far it may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slowly {
    asker: ReplicaIndex,
    from: Op,
    begun: Instant,
    until: Instant,
}

impl<S: StateMachine> Replica<S> {
    /// When the receiver wants to speak to the primary.
    pub(super) fn outrun_deadline(&self) -> Option<Instant> {
        let outrun = &self.transfer.outrun;
        outrun
            .from
            .filter(|_| self.may_speak_of_load())
            .map(|_| outrun.tell_at)
    }

    /// Whether there is a primary to speak to.
    fn may_speak_of_load(&self) -> bool {
        self.takes_state() && self.primary() != self.me()
    }

    /// The receiver: asks the primary to go slowly, or forgets that it ever had to.
    pub(super) fn watch_the_load(&mut self, out: &mut impl Outbox) {
        if self.has_caught_up() {
            self.transfer.outrun = Outrun::NEVER;
            return;
        }
        let now = self.now.monotonic;
        if !self.transfer.outrun.is_hopeless() || !self.may_speak_of_load() {
            return;
        }
        // Whatever is fetched from now on is at least of this state.
        let low = match &self.transfer.running {
            Some(running) => running.pass.low(),
            None => Some(self.applied),
        };
        let outrun = &mut self.transfer.outrun;
        let Some(from) = outrun.from.or(low) else {
            return;
        };
        if outrun.from.replace(from).is_some() && now < outrun.tell_at {
            return;
        }
        outrun.tell_at = now.after(self.config.tick);
        let word = GetState {
            question: 0,
            since: from,
            at_least: from,
            from: 0,
            count: 0,
            wish: STATE_SLOWLY,
        };
        // If it is lost it is said again.
        let _: Sent = self.send(out, self.primary(), word, &[]);
    }

    /// Whether this replica has executed beyond the state that it fetched, and about as much as others. If
    /// there is nothing beyond it, that must be true for a while: a word of the primary's may be on its way.
    fn has_caught_up(&self) -> bool {
        let Some((installed, at)) = self.transfer.outrun.installed else {
            return false;
        };
        let known = self.commit.max(self.log_head());
        let a_while = self.config.tick * SLOW_TICKS;
        self.is_normal()
            && self.transfer.running.is_none()
            && (self.applied > installed || self.now.monotonic.since(at) > a_while)
            && known.distance_from(self.applied) <= self.config.pipeline as u64
    }

    /// The primary is asked to go slowly.
    pub(super) fn on_slowly(&mut self, asker: ReplicaIndex, wanted: &GetState) -> Handled {
        self.admit_at_primary()?;
        if wanted.since > self.op() {
            return Err(DropReason::ImplausibleNumber);
        }
        let now = self.now.monotonic;
        let mut begun = now;
        if let Some(slowly) = self.transfer.slowly {
            let is_over = now >= slowly.begun.after(SLOWLY_MAX);
            let may_begin_again = now >= slowly.begun.after(SLOWLY_MAX * 2);
            let is_heard = now < slowly.until;
            if (is_over && !may_begin_again) || (is_heard && slowly.asker != asker) {
                return Err(DropReason::Busy);
            }
            if !may_begin_again {
                begun = slowly.begun;
            }
        }
        if begun == now {
            self.counters.count(Event::WentSlowly);
        }
        self.transfer.slowly = Some(Slowly {
            asker,
            from: wanted.since,
            begun,
            until: now.after(self.config.tick * WORD_TICKS),
        });
        Ok(())
    }

    /// Whether the primary waits before it prepares another batch of this size, for the sake of a replica
    /// that could not catch up otherwise.
    pub(in super::super) fn goes_slowly(&self, body_size: usize) -> bool {
        let Some(slowly) = self.transfer.slowly else {
            return false;
        };
        let now = self.now.monotonic;
        if now >= slowly.until.min(slowly.begun.after(SLOWLY_MAX)) {
            return false;
        }
        let room = (self.journal.capacity_bytes() / BYTES_SHARE).max(body_size);
        let is_far = self.op().distance_from(slowly.from)
            >= self.journal.slots() as u64 / SLOTS_SHARE
            || !self.journal.room(room, slowly.from.next());
        let a_while = self.config.tick * SLOW_TICKS;
        let was_just_now = self
            .clock_base
            .is_some_and(|(_, prepared_at)| now.since(prepared_at) < a_while);
        is_far && was_just_now
    }
}
