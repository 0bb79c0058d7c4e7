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
        tap::check(index, before.status, seen.status, sent)?;
        self.take_notes(index)?;
        if sent.has(vsr_types::Command::NewState) {
            self.donor = index as u8;
        }
        if seen == *before {
            return Ok(());
        }
        check_monotone(index, before, &seen)?;
        if (seen.status, seen.view) != (before.status, before.view) {
            self.note_change(index, before, &seen);
        }
        if seen.superseded && !before.superseded {
            // R0.2: the driver ends the process and starts another.
            self.stats.superseded += 1;
            self.end_process(index);
            self.nodes[index].restart_at = self.now + 1;
            self.schedule(self.now + 1, super::world::Kind::Restart(index as u8));
            return Ok(());
        }
        if seen.halted {
            ensure!(
                false,
                "nobody halts",
                "R{index} halted: {:?}",
                self.nodes[index]
                    .replica
                    .as_ref()
                    .map(|r| r.report().halted)
            );
        }
        if seen.leads(index) || before.leads(index) {
            self.observe_primary(index, before, &seen)?;
        }
        ensure!(
            seen.commit <= self.history.committed(),
            "commit numbers come from primaries (R2.6)",
            "R{index} believes that op {} is committed, but no primary committed more than {}",
            seen.commit,
            self.history.committed()
        );
        if seen.applied != before.applied {
            self.observe_applied(index, before, &seen)?;
        }
        Ok(())
    }

    fn note_change(&mut self, index: usize, before: &Seen, seen: &Seen) {
        self.view_since = self.now;
        self.trace.mix(seen.view ^ ((seen.status as u64) << 40));
        let event = Traced::Changed {
            replica: index as u8,
            status: name_of(seen.status),
            view: seen.view,
            op: seen.op.raw(),
            commit: seen.commit.raw(),
        };
        self.trace.push(self.now, event);
        let was = |status| before.status == status && seen.status != status;
        if was(PeerStatus::Recovering) && seen.status == PeerStatus::Normal {
            self.stats.recovered += 1;
            let took = self.now - self.nodes[index].crashed_at;
            self.stats.recovery_longest = self.stats.recovery_longest.max(took);
        }
        if seen.status == PeerStatus::ViewChange && before.view != seen.view {
            self.stats.views_left += 1;
        }
    }

    /// What a serving primary's log shows.
    fn observe_primary(&mut self, index: usize, before: &Seen, seen: &Seen) -> Checked {
        let node = &self.nodes[index];
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        let leads = seen.leads(index);
        let began = leads && (!before.leads(index) || before.view != seen.view);
        let mut op = if began { seen.commit } else { before.op };
        while op < seen.op {
            op = op.next();
            if let Some((header, body)) = replica.entry(op)
                && usize::from(header.replica().raw()) == index
                && header.incarnation() == seen.incarnation
            {
                self.history.propose(&header, body)?;
            }
        }
        if began {
            let who = (index, node.life);
            self.history
                .start(who, replica, seen.view, seen.applied, seen.op)?;
        }
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
            let holders = self.nodes.iter().filter(|n| n.vouches_for(op, &identity));
            let holders = holders.count();
            ensure!(
                holders >= quorum,
                "a quorum holds what is committed (I7)",
                "op {op} was committed by R{primary} with {holders} holders of {quorum}"
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
        self.history.applied(index, replica, from, seen.applied)?;
        let digest = replica.digest_at(seen.applied);
        self.trace
            .mix(digest.map_or(0, |digest| digest.raw() as u64));
        self.history.state(index, node.cursor, seen.applied, digest)
    }
}

/// I2: nothing goes back within a life.
fn check_monotone(index: usize, before: &Seen, seen: &Seen) -> Checked {
    if before.incarnation != seen.incarnation {
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
        };
        let mut seen = before;
        seen.op = Op::new(4);
        assert_eq!(check_monotone(0, &before, &seen), Ok(()), "a suffix may go");
        seen.view = 2;
        assert!(check_monotone(0, &before, &seen).is_err());
        seen.incarnation.counter = 1;
        assert_eq!(check_monotone(0, &before, &seen), Ok(()), "another life");
    }
}
