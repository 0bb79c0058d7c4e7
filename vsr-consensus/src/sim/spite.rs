//! The past at its worst: earlier frames that come again just where they would do harm.
//!
//! A network may deliver anything again, at any time. Drawn blindly it nearly always picks something
//! that nobody minds; here a frame is picked by what its receiver is doing: an acknowledgement of
//! another view for an entry that is not committed yet, a vote of a life that has ended for a view
//! that is being chosen, an answer to an earlier question of a replica that recovers.

use std::vec::Vec;

use vsr_types::message::{Command, PeerStatus, Prepare, PrepareOk};

use super::FaultClass;
use super::machine::Simulated;
use super::net::{Packet, header_of};
use super::world::{Kind, World};

impl<M: Simulated> World<M> {
    /// Some of what was sent before arrives again where it would do harm: everywhere, or at `only`.
    pub(crate) fn spite(&mut self, only: Option<usize>, most: u64) {
        let kept = self.links.kept().iter().enumerate();
        let harmful = kept.filter(|(_, packet)| self.would_harm(packet, only));
        let harmful: Vec<usize> = harmful.map(|(place, _)| place).collect();
        if harmful.is_empty() {
            return;
        }
        for _ in 0..most {
            let place = harmful[self.haunting.below(harmful.len() as u64) as usize];
            let packet = self.links.again(place, &mut self.packets);
            self.schedule(self.now, Kind::Arrive(packet));
            self.stats.spites += 1;
        }
    }

    fn would_harm(&self, packet: &Packet, only: Option<usize>) -> bool {
        let Some(slot) = packet.to.as_replica() else {
            return false;
        };
        if only.is_some_and(|only| only != slot) {
            return false;
        }
        let seen = &self.member(slot).seen;
        let Some(header) = header_of(packet) else {
            return false;
        };
        let Some(from) = packet.from.as_replica() else {
            let init = matches!(
                header.command(),
                Some(Command::InitPropose | Command::InitCommit)
            );
            return init && seen.status == PeerStatus::Blank;
        };
        let is_dead = header.incarnation() != self.member(from).seen.incarnation;
        let view = header.view().raw();
        let is_normal = seen.status == PeerStatus::Normal;
        match header.command() {
            Some(Command::PrepareOk) => {
                let ok = header.fields::<PrepareOk>().map(|ok| ok.op);
                let is_open = ok.is_some_and(|op| op > seen.commit && op <= seen.op);
                seen.leads(slot) && is_open && (view < seen.view || is_dead)
            }
            Some(Command::Prepare) => {
                let op = header.fields::<Prepare>().map(|prepare| prepare.op);
                is_normal && view < seen.view && op == Some(seen.op.next())
            }
            Some(Command::Commit) => is_normal && view == seen.view && !seen.leads(slot),
            Some(Command::StartView) => is_normal && view == seen.view,
            Some(Command::StartViewChange) => view > seen.view,
            Some(Command::DoViewChange) => {
                seen.status == PeerStatus::ViewChange && view >= seen.view && is_dead
            }
            Some(Command::RecoveryResponse | Command::IncarnationReply) => {
                seen.status == PeerStatus::Recovering
            }
            _ => false,
        }
    }

    /// A replica begins something else: the past may have waited for that.
    pub(crate) fn spite_at_turn(&mut self, slot: usize) {
        let has_past = self.plan.classes.has(FaultClass::Replay);
        if has_past && self.phase == super::world::Phase::Safety && self.haunting.percent(30) {
            self.spite(Some(slot), 3);
        }
    }

    /// A primary waits for acknowledgements: perhaps it may have old ones.
    pub(crate) fn spite_at_prepare(&mut self, slot: usize) {
        let is_time = self.plan.storm && self.phase == super::world::Phase::Safety;
        if is_time && self.plan.classes.has(FaultClass::Replay) && self.haunting.below(8) == 0 {
            self.spite(Some(slot), 2);
        }
    }

    /// R4.1: replicas of `core` hear their dead primary's last heartbeat again and again.
    pub(crate) fn echo_heartbeats(&mut self, core: u8) {
        let members = 0..self.places.len();
        for slot in members.filter(|slot| core & (1 << slot) != 0) {
            let seen = self.member(slot).seen;
            if core & (1 << seen.primary) != 0 {
                continue;
            }
            if let Some(packet) = self.links.beat(seen.primary, slot as u8, &mut self.packets) {
                self.schedule(self.now, Kind::Arrive(packet));
            }
        }
    }

    /// The memory of an entry that a replica holds goes bad, and the replica notices: one near the end
    /// of its log, of which others may have no copy yet. If that many replicas may be unsound.
    pub(crate) fn rot(&mut self, target: super::plan::Target, behind: u8) -> u8 {
        let Some(index) = self.resolve(target) else {
            return 0;
        };
        let slot = usize::from(self.nodes[index].slot);
        if !self.is_sound(slot) || self.failed() >= self.plan.failures_survived() {
            return 0;
        }
        let seen = self.nodes[index].seen;
        let op = seen.op.minus(behind.into());
        let Some(replica) = &mut self.nodes[index].replica else {
            return 0;
        };
        if replica.log_body(op).is_none() {
            return 0;
        }
        replica.damage(op);
        self.nodes[index].rotten = Some(op);
        1 << slot
    }
}
