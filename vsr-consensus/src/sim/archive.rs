//! The node's part at the end of an epoch: it archives when its replica asks for it, takes its time, fails
//! now and then, and sometimes dies over it.

use vsr_types::Epoch;

use super::FaultClass;
use super::check::Checked;
use super::machine::Simulated;
use super::net::Address;
use super::node::Seen;
use super::plan::{MILLISECOND, Time};
use super::world::{Kind, Phase, World};
use crate::Input;

/// In a hundred: how often a node cannot write.
const FAILS: u64 = 10;
/// In a hundred: how often its process dies before it says that it has written, or before it has.
const DIES: u64 = 6;

impl<M: Simulated> World<M> {
    /// A replica asks for an archive, or does not ask any more.
    pub(crate) fn note_archive(&mut self, index: usize, before: &Seen, seen: &Seen) {
        if before.archive_due == seen.archive_due {
            return;
        }
        self.nodes[index].archive_at = Time::MAX;
        if seen.archive_due.is_some() {
            self.archive_later(index);
        }
    }

    fn archive_later(&mut self, index: usize) {
        let takes = self.haunting.waiting(self.plan.archiving) + 1;
        let at = self.now.max(self.nodes[index].busy_until) + takes;
        self.nodes[index].archive_at = at;
        self.schedule(at, Kind::Archive(index as u8));
    }

    /// A node comes to the end of archiving.
    pub(crate) fn archive(&mut self, index: usize) -> Checked {
        let node = &self.nodes[index];
        let Some(epoch) = node.seen.archive_due.filter(|_| node.replica.is_some()) else {
            return Ok(());
        };
        if node.busy_until > self.now {
            // It stands still.
            self.archive_later(index);
            return Ok(());
        }
        let (fails, dies) = (self.haunting.percent(FAILS), self.haunting.percent(DIES));
        let has_written = self.haunting.percent(50);
        let may_die = self.phase == Phase::Safety && self.plan.classes.has(FaultClass::Crash);
        if dies && may_die && self.may_lose(index) {
            if has_written {
                self.write_archive(index, epoch)?;
            }
            self.stats.crashes_while_archiving += 1;
            let after = self.haunting.below(300 * MILLISECOND);
            self.lose_process(index, Some(after));
            return Ok(());
        }
        if fails {
            self.stats.archives_failed += 1;
            self.archive_later(index);
            return Ok(());
        }
        self.write_archive(index, epoch)?;
        self.nodes[index].archive_at = Time::MAX;
        self.step(index, Input::Archived { epoch }, Address::TOOL, self.now)?;
        self.plan_turn(index, self.now);
        Ok(())
    }

    fn write_archive(&mut self, index: usize, epoch: Epoch) -> Checked {
        let node = &self.nodes[index];
        let applied = node.seen.applied;
        let replica = node.replica.as_ref();
        let digest = replica.and_then(|replica| replica.digest_at(applied));
        let slot = usize::from(node.slot);
        self.trace.mix(epoch.raw() ^ (0xA5 << 56));
        self.history.archive(slot, epoch, applied, digest)
    }
}
