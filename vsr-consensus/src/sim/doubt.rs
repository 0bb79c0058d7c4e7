//! Machines that are not deterministic, on purpose: one that computes something else is outvoted, stops,
//! and comes back with the others' state; where all compute something else everybody stops (N16, R4.2).
//!
//! What the checkers compare with is the history that a machine of their own makes. A process whose
//! machine has gone its own way is *tainted*: nothing of its state is compared any more, what clients hear
//! from it is not believed, and it must have stopped soon. Everybody else is checked as always.

use std::vec::Vec;

use vsr_types::{Header, Incarnation};

use super::check::{Checked, ensure};
use super::client::Heard;
use super::machine::Simulated;
use super::plan::{MILLISECOND, SECOND, Time};
use super::world::World;
use crate::HaltReason;

/// How long a process may go on whose machine has gone its own way, besides digest periods, pings and the
/// ways of messages.
const PATIENCE: Time = SECOND;
/// How long everybody may take to stop where no majority agrees.
const STOPPED_WITHIN: Time = 20 * SECOND;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Since when a process is tainted, by its number.
    since: Vec<(usize, Time)>,
    /// Whose words are not to be believed.
    lives: Vec<(u8, Incarnation)>,
    /// How many were found, and came back.
    pub(crate) found: u64,
    /// Wrong replies that clients heard from them before.
    pub(crate) wrong: u64,
    /// The longest time from the first wrong step to the last.
    pub(crate) longest: Time,
}

impl<M: Simulated> World<M> {
    pub(crate) fn is_tainted(&self, index: usize) -> bool {
        self.doubts
            .since
            .iter()
            .any(|(tainted, _)| *tainted == index)
    }

    /// The machine of a process has gone its own way.
    pub(crate) fn taint(&mut self, index: usize) {
        let node = &self.nodes[index];
        self.doubts.since.push((index, self.now));
        self.doubts.lives.push((node.slot, node.seen.incarnation));
    }

    /// A process ends, and what was wrong with it.
    pub(crate) fn cleanse(&mut self, index: usize) {
        self.doubts.since.retain(|(tainted, _)| *tainted != index);
    }

    /// A replica has stopped; says whether that is what it should have done.
    pub(crate) fn stops_rightly(&mut self, index: usize) -> bool {
        let found = self
            .doubts
            .since
            .iter()
            .find(|(tainted, _)| *tainted == index);
        let (Some(&(_, since)), Some(replica)) = (found, &self.nodes[index].replica) else {
            return false;
        };
        match replica.report().halted {
            Some(HaltReason::Divergence { .. }) if self.plant_spares_others() => {
                let took = self.now - since;
                self.doubts.longest = self.doubts.longest.max(took);
                self.doubts.found += 1;
                self.stats.crashes += 1;
                self.nodes[index].crashed_at = self.now;
                self.end_process(index);
                self.plan_restart(index, self.now + MILLISECOND);
                true
            }
            Some(HaltReason::NoMajority { .. }) => !self.plant_spares_others(),
            _ => false,
        }
    }

    fn plant_spares_others(&self) -> bool {
        self.options
            .plant
            .is_some_and(|plant| plant.spares_others())
    }

    /// A replica that has gone its own way does not go on for long.
    pub(crate) fn check_doubts(&self) -> Checked {
        let settings = &self.plan.settings;
        let ways = settings.digest_period * 2 + settings.tick * 40;
        let bound = PATIENCE
            + ways.as_nanos() as Time
            + 40 * self.plan.weather.delay
            + 2 * self.plan.load.rest
            + 20 * self.plan.load.think;
        for &(index, since) in &self.doubts.since {
            let goes_on = self.nodes[index].is_operational() && self.now - since > bound;
            ensure!(
                !goes_on,
                "a replica whose state is another is found (N16)",
                "R{} has gone on for {} ms with a state of its own",
                self.nodes[index].slot,
                (self.now - since) / MILLISECOND
            );
        }
        Ok(())
    }

    /// Nor does it when everything is over.
    pub(crate) fn check_found(&self) -> Checked {
        let goes_on = |&&(index, _): &&(usize, Time)| self.nodes[index].is_operational();
        let left = self.doubts.since.iter().find(goes_on);
        ensure!(
            left.is_none(),
            "a replica whose state is another is found (N16)",
            "process {left:?} takes part with a state of its own at the end"
        );
        Ok(())
    }

    /// Whether this comes from a process that had gone its own way when it ended, or goes on so.
    pub(crate) fn is_doubtful(&self, header: &Header) -> bool {
        let life = (header.replica().raw(), header.incarnation());
        self.doubts.lives.contains(&life)
    }

    /// A client hears something from a replica that may say anything. It cannot know; the checkers do.
    pub(crate) fn hear_doubtful(&mut self, index: usize, heard: Heard, body: &[u8]) -> Checked {
        let is_query = match heard {
            Heard::Reply(place) => {
                let number = self.clients[index].request_number();
                let is_right = self.check_reply(index, place, number, body).is_ok();
                self.doubts.wrong += u64::from(!is_right);
                self.stats.operations += 1;
                false
            }
            Heard::Answer(_) => {
                self.stats.queries += 1;
                true
            }
            _ => return Ok(()),
        };
        let client = &mut self.clients[index];
        let key = client.key.take();
        let began = client.began;
        let seen = key.and_then(|_| M::observe(&client.asked, &[]));
        self.served(index);
        match seen {
            Some(seen) if is_query => self.registers.cancel(seen.key),
            Some(seen) => self.registers.abandon(began, &seen),
            None => Ok(()),
        }
    }

    /// All machines have gone their own ways: everybody stops, says why, and answers nobody any more.
    pub(crate) fn expect_no_majority(&mut self) -> Checked {
        let stopped = |world: &Self| {
            let has_stopped = |node: &super::node::Node<M>| {
                let halted = node.replica.as_ref().and_then(|r| r.report().halted);
                matches!(halted, Some(HaltReason::NoMajority { .. }))
            };
            world.members().all(has_stopped)
        };
        let all = self.run_until(self.now + STOPPED_WITHIN, stopped)?;
        ensure!(
            all,
            "without a majority everybody stops (N16)",
            "{} s after no two machines agreed any more somebody goes on",
            STOPPED_WITHIN / SECOND
        );
        for slot in 0..self.places.len() {
            let replica = self.member(slot).replica.as_ref();
            let seen = replica.and_then(|replica| replica.divergence()).copied();
            let told = seen.map_or(0, |seen| seen.digests.iter().flatten().count());
            let quorum = usize::from(self.plan.replicas / 2 + 1);
            ensure!(
                seen.is_some_and(|seen| seen.since < seen.op) && told >= quorum,
                "whoever stops says what it knows (N16)",
                "R{slot} says {seen:?}"
            );
        }
        self.doubts.found += self.places.len() as u64;
        // Answers that were under way arrive.
        self.run_until(self.now + SECOND, |_| false)?;
        let served = self.stats.operations + self.stats.queries;
        self.run_until(self.now + 5 * SECOND, |_| false)?;
        let served = self.stats.operations + self.stats.queries - served;
        ensure!(
            served == 0,
            "without a majority everybody stops (N16)",
            "{served} requests were answered after everybody had stopped"
        );
        Ok(())
    }
}
