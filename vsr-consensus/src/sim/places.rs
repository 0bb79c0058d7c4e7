//! Who fills a replica's place: usually one process, sometimes two.
//!
//! A process that was believed dead (it stood still, or nobody could reach it) may go on beside its
//! successor, and an operator may start a second process by mistake. Both have memories and numbers of
//! their own, and the network carries what both say. What must hold: at most one of them counts. The
//! others drop what a former life says (R0.1), it stops as soon as it hears of the later one (R0.2), and
//! a second process is not believed while the first is heard of (R6.2).
//!
//! Process `i` and process `i + n` belong to the place of replica `i`. The *seat* is the process that
//! was last seen to get its memory back; everything that is asked of "the replica" is asked of it.

use std::vec::Vec;

use vsr_types::message::PeerStatus;
use vsr_types::{Identity, Incarnation, Op};

use super::check::{Checked, ensure};
use super::machine::Simulated;
use super::net::{Address, PacketIndex};
use super::node::Node;
use super::plan::{Doubling, MILLISECOND, SECOND, Target, Time};
use super::trace::Event as Traced;
use super::world::{Kind, Lasting, Phase, World};

/// Which of two processes in one place hears what is sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Both: nobody could be so unlucky in a real network, so it is the worst.
    Both,
    /// One of them, for each sender another: each has dialled, or was dialled, last. It changes.
    Either,
}

/// The place of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The process that counts.
    pub(crate) seat: usize,
    /// How many processes have been started here.
    pub(crate) lives: u32,
    /// What former lives held and nobody knew to be committed.
    pub(crate) former: Vec<(Op, Identity)>,
    /// The incarnations that took part here.
    lived: Vec<Incarnation>,
    /// Another process is there, or was, that may be given the place: the memory of the one in the seat
    /// may be worth nothing.
    contested: bool,
    /// That process has drawn a number of its own.
    claimed: bool,
    delivery: Delivery,
    /// Which senders reach the seat's other process, when it is one of them.
    astray: u16,
}

impl Place {
    pub(crate) const fn new(seat: usize) -> Self {
        Self {
            seat,
            lives: 0,
            former: Vec::new(),
            lived: Vec::new(),
            contested: false,
            claimed: false,
            delivery: Delivery::Both,
            astray: 0,
        }
    }
}

/// # Asking
impl<M: Simulated> World<M> {
    /// The process that counts as replica `slot`.
    pub(crate) fn member(&self, slot: usize) -> &Node<M> {
        &self.nodes[self.places[slot].seat]
    }

    /// All replicas, in order.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Node<M>> {
        self.places.iter().map(|place| &self.nodes[place.seat])
    }

    /// The other process in the place of process `index`.
    pub(crate) fn other(&self, index: usize) -> usize {
        let n = self.places.len();
        if index < n { index + n } else { index - n }
    }

    pub(crate) fn is_seat(&self, index: usize) -> bool {
        self.places[usize::from(self.nodes[index].slot)].seat == index
    }

    /// Whether replica `slot` has its memory, and nobody else may have been given its place.
    pub(crate) fn is_undisputed(&self, slot: usize) -> bool {
        self.member(slot).is_operational() && !self.places[slot].contested
    }

    /// Whether it has, and everything in it is good.
    pub(crate) fn is_sound(&self, slot: usize) -> bool {
        self.is_undisputed(slot) && !self.member(slot).is_rotten()
    }

    /// How many replicas are without their memory.
    pub(crate) fn failed(&self) -> u8 {
        (0..self.places.len())
            .filter(|&slot| !self.is_sound(slot))
            .count() as u8
    }

    /// Whether replica `slot` holds the entry, or has executed it, or held it in a life that ended.
    pub(crate) fn vouches_for(&self, slot: usize, op: Op, identity: &Identity) -> bool {
        self.member(slot).holds(op, identity) || self.places[slot].former.contains(&(op, *identity))
    }

    /// Who hears what `from` sends to replica `slot`: none, one or both.
    pub(crate) fn hearers(&mut self, slot: usize, from: Address) -> [Option<usize>; 2] {
        let seat = self.places[slot].seat;
        let other = self.other(seat);
        let is_there = |index: usize| self.nodes[index].replica.is_some().then_some(index);
        let (first, second) = (is_there(seat), is_there(other));
        if first.is_none() || second.is_none() {
            return [first, second];
        }
        if self.places[slot].delivery == Delivery::Both {
            return [first, second];
        }
        let change = self.haunting.below(64) == 0;
        let bit = 1 << from.row();
        let place = &mut self.places[slot];
        if change {
            place.astray ^= bit;
        }
        if place.astray & bit == 0 {
            [first, None]
        } else {
            [None, second]
        }
    }
}

/// # Happening
impl<M: Simulated> World<M> {
    /// A second process comes to a place, if that many may be without their memory.
    pub(crate) fn double(&mut self, target: Target, how: Doubling, lasts: Time) -> u8 {
        let Some(index) = self.resolve(target) else {
            return 0;
        };
        let slot = usize::from(self.nodes[index].slot);
        let other = self.other(index);
        let is_free =
            self.nodes[other].replica.is_none() && self.nodes[other].restart_at == Time::MAX;
        if !self.is_sound(slot) || !is_free || self.failed() >= self.plan.failures_survived() {
            return 0;
        }
        self.stats.doubled += 1;
        self.contest(slot);
        let now = self.now;
        let after = now + self.haunting.below(lasts / 2 + 1);
        let delivery = if self.haunting.percent(50) {
            Delivery::Both
        } else {
            Delivery::Either
        };
        self.places[slot].delivery = delivery;
        self.places[slot].astray = self.haunting.next() as u16;
        let node = &mut self.nodes[index];
        match how {
            Doubling::Mistake => {}
            Doubling::Stopped => node.busy_until = node.busy_until.max(now + lasts),
            Doubling::Unreachable { deaf, held } => {
                node.mute_until = now + lasts;
                node.is_held = held;
                node.deaf_until = if deaf { now + lasts } else { now };
            }
            Doubling::Twins => {
                self.stats.crashes += 1;
                self.end_process(index);
                self.plan_restart(index, after);
            }
        }
        self.plan_restart(other, after);
        let rest = if how == Doubling::Mistake {
            lasts
        } else {
            2 * lasts
        };
        self.last(Lasting::Double(slot), now + rest + 500 * MILLISECOND);
        1 << slot
    }

    fn contest(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        place.contested = true;
        place.claimed = false;
    }

    pub(crate) fn plan_restart(&mut self, index: usize, at: Time) {
        self.nodes[index].restart_at = at;
        self.schedule(at, Kind::Restart(index as u8));
    }

    /// Somebody looks after a place that two processes have claimed: who waits there is ended, and if
    /// it may have been given the place meanwhile, the other one starts anew as well.
    pub(crate) fn settle(&mut self, slot: usize) {
        let seat = self.places[slot].seat;
        let other = self.other(seat);
        if self.nodes[other].replica.is_some() && !self.nodes[other].is_operational() {
            self.end_process(other);
        }
        if self.nodes[other].replica.is_none() {
            self.nodes[other].restart_at = Time::MAX;
        }
        let place = &mut self.places[slot];
        if !place.claimed {
            place.contested = false;
        }
        if place.contested && self.nodes[seat].replica.is_some() {
            self.stats.crashes += 1;
            self.end_process(seat);
            self.plan_restart(seat, self.now + MILLISECOND);
        }
    }

    /// A process that was told of its successor ends; another is started in its stead, by a supervisor
    /// that knows no better, if it was in the seat, and sometimes if it was not.
    pub(crate) fn end_superseded(&mut self, index: usize) {
        self.stats.superseded += 1;
        let slot = usize::from(self.nodes[index].slot);
        let is_seat = self.is_seat(index);
        let may_claim = self.is_sound(slot) && self.failed() < self.plan.failures_survived();
        self.end_process(index);
        if is_seat {
            self.outdone |= 1 << slot;
            self.plan_restart(index, self.now + 1);
        } else if may_claim && self.phase == Phase::Safety && self.haunting.percent(30) {
            self.contest(slot);
            self.plan_restart(index, self.now + 1);
            self.last(Lasting::Double(slot), self.now + SECOND);
        }
    }

    /// How many replicas are without their memory because of what [`Self::outdone`] says.
    pub(crate) fn lost_to_attempts(&self) -> u8 {
        (0..self.places.len())
            .filter(|&slot| self.outdone & (1 << slot) != 0 && !self.is_sound(slot))
            .count() as u8
    }

    /// A process of this place asks for a number of its own.
    pub(crate) fn note_claim(&mut self, index: usize) {
        let node = &self.nodes[index];
        let claims = node.seen.status == PeerStatus::Recovering
            && node.seen.incarnation != Incarnation::default();
        if claims && !self.is_seat(index) {
            self.places[usize::from(node.slot)].claimed = true;
        }
    }

    /// A process has its memory, and a number under which it takes part: the place is its own.
    pub(crate) fn take_seat(&mut self, index: usize) -> Checked {
        let (slot, incarnation) = (
            usize::from(self.nodes[index].slot),
            self.nodes[index].seen.incarnation,
        );
        ensure!(
            !self.places[slot].lived.contains(&incarnation),
            "an incarnation is one life's (R6.2)",
            "two processes of R{slot} take part as incarnation {incarnation:?}"
        );
        let is_newest = self.places[slot]
            .lived
            .iter()
            .all(|lived| *lived < incarnation);
        self.places[slot].lived.push(incarnation);
        self.outdone &= !(1 << slot);
        if !is_newest {
            // It was overtaken while it got its memory back, and does not know yet.
            return Ok(());
        }
        let other = self.other(index);
        if self.nodes[other].replica.is_some() {
            self.stats.outlived += 1;
            // What it holds now was acknowledged before anybody who answered knew its successor; what it
            // takes from now on counts for nothing.
            self.bury(other);
        }
        let waits = !self.nodes[other].is_operational()
            && (self.nodes[other].replica.is_some() || self.nodes[other].restart_at != Time::MAX);
        let place = &mut self.places[slot];
        place.seat = index;
        place.contested &= waits;
        Ok(())
    }

    /// Notes what a process held beyond what is committed: it may have acknowledged it.
    pub(crate) fn bury(&mut self, index: usize) {
        let committed = self.history.committed();
        let node = &self.nodes[index];
        let Some(replica) = &node.replica else {
            return;
        };
        let former = &mut self.places[usize::from(node.slot)].former;
        former.retain(|(op, _)| *op > committed);
        let mut op = committed;
        while op < node.seen.op {
            op = op.next();
            if let Some(identity) = super::check::history::Log::identity(replica, op) {
                former.push((op, identity));
            }
        }
    }

    /// What leaves a process that nobody can reach: lost, or held back until it can be reached again.
    /// None: it leaves as always.
    pub(crate) fn muted(&mut self, index: usize, packet: PacketIndex) -> bool {
        let node = &self.nodes[index];
        if node.mute_until <= self.now {
            return false;
        }
        let to_replica = self.packets.get(packet).to.as_replica().is_some();
        if !node.is_held || !to_replica {
            self.lose(packet);
            return true;
        }
        let wait = self.haunting.below(20 * MILLISECOND);
        self.schedule(self.nodes[index].mute_until + wait, Kind::Arrive(packet));
        true
    }

    /// Every process hears everything from now on, and a place with two processes gives both a voice.
    pub(crate) fn lift(&mut self) {
        for node in &mut self.nodes {
            node.mute_until = 0;
            node.deaf_until = 0;
        }
        for place in &mut self.places {
            place.delivery = Delivery::Both;
        }
    }

    /// A former life that still takes part, if there is one.
    pub(crate) fn ghost(&self) -> Option<usize> {
        (0..self.nodes.len())
            .find(|&index| !self.is_seat(index) && self.nodes[index].is_operational())
    }

    pub(crate) fn trace_start(&mut self, index: usize) {
        let node = &self.nodes[index];
        let (replica, life) = (node.slot, node.life);
        self.trace.push(self.now, Traced::Started { replica, life });
    }
}
