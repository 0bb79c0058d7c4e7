//! What is checked after every step of a replica.

use vsr_types::Op;
use vsr_types::message::PeerStatus;

use super::check::history::Log;
use super::check::tap::{self, Commands};
use super::check::{Checked, ensure};
use super::machine::Simulated;
use super::node::Seen;
use super::trace::Event as Traced;
use super::world::World;

const fn name_of(status: PeerStatus) -> &'static str {
    match status {
        PeerStatus::Blank => "blank",
        PeerStatus::Recovering => "recovering",
        PeerStatus::Normal => "normal",
        PeerStatus::ViewChange => "changing views",
        PeerStatus::Halted => "halted",
    }
}

impl<M: Simulated> World<M> {
    pub(crate) fn observe(&mut self, index: usize, before: &Seen, sent: Commands) -> Checked {
        let seen = self.nodes[index].seen;
        let slot = usize::from(self.nodes[index].slot);
        tap::check(slot, before.status, seen.status, sent)?;
        self.take_notes(index)?;
        if sent.has(vsr_types::Command::NewState) {
            self.donor = slot as u8;
        }
        if seen == *before {
            return Ok(());
        }
        check_monotone(slot, before, &seen)?;
        self.note_archive(index, before, &seen);
        if (seen.status, seen.view) != (before.status, before.view) {
            self.note_change(index, before, &seen)?;
        }
        self.note_claim(index);
        if seen.superseded && !before.superseded {
            // R0.2: the driver ends the process.
            self.end_superseded(index);
            return Ok(());
        }
        if seen.halted && (before.halted || self.stops_rightly(index)) {
            return Ok(());
        }
        if seen.halted {
            ensure!(
                false,
                "nobody halts",
                "R{slot} halted: {:?}",
                self.nodes[index]
                    .replica
                    .as_ref()
                    .map(|r| r.report().halted)
            );
        }
        if seen.leads(slot) || before.leads(slot) {
            self.observe_primary(index, before, &seen)?;
        }
        ensure!(
            seen.commit <= self.history.committed(),
            "commit numbers come from primaries (R2.6)",
            "R{slot} believes that op {} is committed, but no primary committed more than {}",
            seen.commit,
            self.history.committed()
        );
        if seen.applied != before.applied {
            self.observe_applied(index, before, &seen)?;
        }
        Ok(())
    }

    fn note_change(&mut self, index: usize, before: &Seen, seen: &Seen) -> Checked {
        let slot = self.nodes[index].slot;
        self.view_since = self.now;
        self.trace.mix(seen.view ^ ((seen.status as u64) << 40));
        let event = Traced::Changed {
            replica: slot,
            status: name_of(seen.status),
            view: seen.view,
            op: seen.op.raw(),
            commit: seen.commit.raw(),
        };
        self.trace.push(self.now, event);
        if before.status == PeerStatus::Recovering && seen.status == PeerStatus::Normal {
            self.stats.recovered += 1;
            let took = self.now - self.nodes[index].crashed_at;
            self.stats.recovery_longest = self.stats.recovery_longest.max(took);
        }
        if seen.status == PeerStatus::ViewChange && before.view != seen.view {
            self.stats.views_left += 1;
        }
        if before.status == PeerStatus::Blank {
            self.check_one_cluster(index)?;
        }
        if seen.status == PeerStatus::Normal && !before.is_operational() {
            self.take_seat(index)?;
        }
        // A backup's view, and one that a recovery ends in, was begun by its primary (R5.8, R6.3).
        ensure!(
            seen.status != PeerStatus::Normal
                || seen.leads(usize::from(slot))
                || seen.view == 0
                || self.history.has_started(seen.view),
            "a view is followed once it has started (R5.8, R6.3)",
            "R{slot} is normal in view {}, which nobody has started",
            seen.view
        );
        self.spite_at_turn(usize::from(slot));
        Ok(())
    }

    /// What a serving primary's log shows.
    fn observe_primary(&mut self, index: usize, before: &Seen, seen: &Seen) -> Checked {
        let node = &self.nodes[index];
        let slot = usize::from(node.slot);
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        let leads = seen.leads(slot);
        let began = leads && (!before.leads(slot) || before.view != seen.view);
        let mut op = if began { seen.commit } else { before.op };
        while op < seen.op {
            op = op.next();
            if let Some((header, body)) = replica.entry(op)
                && usize::from(header.replica().raw()) == slot
                && header.incarnation() == seen.incarnation
            {
                self.history.propose(&header, body)?;
            }
        }
        if began {
            let who = (slot, node.life);
            self.history
                .start(who, replica, seen.view, seen.applied, seen.op)?;
        }
        if leads && seen.op > before.op {
            self.spite_at_prepare(slot);
        }
        let Some(replica) = &self.nodes[index].replica else {
            return Ok(());
        };
        let known = self.history.committed();
        if seen.commit > known {
            // It may have left the view in the same step.
            let view = if leads { seen.view } else { before.view };
            self.history.commit(replica, view, seen.commit)?;
            self.check_holders(index, known, seen.commit)?;
        }
        Ok(())
    }

    /// I7: what is committed is held by a quorum, lives that ended since included.
    fn check_holders(&self, primary: usize, from: Op, to: Op) -> Checked {
        let quorum = usize::from(self.plan.replicas / 2 + 1);
        let Some(replica) = &self.nodes[primary].replica else {
            return Ok(());
        };
        let mut op = from;
        while op < to {
            op = op.next();
            let Some(identity) = replica.identity(op) else {
                continue;
            };
            let slots = 0..self.places.len();
            let holders = slots.filter(|&slot| self.vouches_for(slot, op, &identity));
            let holders = holders.count();
            ensure!(
                holders >= quorum,
                "a quorum holds what is committed (I7)",
                "op {op} was committed by R{} with {holders} holders of {quorum}",
                self.nodes[primary].slot
            );
        }
        Ok(())
    }

    fn observe_applied(&mut self, index: usize, before: &Seen, seen: &Seen) -> Checked {
        let node = &self.nodes[index];
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        let from = if before.incarnation == seen.incarnation {
            before.applied
        } else {
            seen.applied
        };
        let slot = usize::from(node.slot);
        self.history.applied(slot, replica, from, seen.applied)?;
        if self.is_tainted(index) {
            return Ok(());
        }
        let digest = replica.digest_at(seen.applied);
        self.trace
            .mix(digest.map_or(0, |digest| digest.raw() as u64));
        self.history.state(slot, node.cursor, seen.applied, digest)
    }
}

/// I2: nothing goes back within a life.
fn check_monotone(index: usize, before: &Seen, seen: &Seen) -> Checked {
    if before.incarnation != seen.incarnation {
        ensure!(
            !before.is_operational() || !seen.is_operational(),
            "a life has one number (R0.2)",
            "R{index} went from {before:?} to {seen:?}"
        );
        return Ok(());
    }
    ensure!(
        seen.view >= before.view && seen.commit >= before.commit && seen.applied >= before.applied,
        "nothing goes back within a life (I2)",
        "R{index} went from {before:?} to {seen:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_types::Incarnation;

    #[test]
    fn a_view_that_goes_back_is_found() {
        let before = Seen {
            status: PeerStatus::Normal,
            halted: false,
            superseded: false,
            incarnation: Incarnation::default(),
            view: 3,
            primary: 0,
            op: Op::new(5),
            commit: Op::new(4),
            applied: Op::new(4),
            archive_due: None,
        };
        let mut seen = before;
        seen.op = Op::new(4);
        assert_eq!(check_monotone(0, &before, &seen), Ok(()), "a suffix may go");
        seen.view = 2;
        assert!(check_monotone(0, &before, &seen).is_err());
        seen.incarnation.counter = 1;
        assert!(check_monotone(0, &before, &seen).is_err(), "another number");
        seen.status = PeerStatus::Recovering;
        assert_eq!(check_monotone(0, &before, &seen), Ok(()), "another life");
    }
}
