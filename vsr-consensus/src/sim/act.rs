//! Faults, when their time has come.

use bytemuck::Zeroable;
use vsr_types::message::HandOver;
use vsr_types::{Header, Nonce};

use super::FaultClass;
use super::check::Checked;
use super::machine::Simulated;
use super::net::{Address, CLIENTS_ROW, CutTable};
use super::plan::{FaultKind, Shape, Target, Time, Way};
use super::trace::Event as Traced;
use super::world::{Kind, Lasting, Phase, World};

impl<M: Simulated> World<M> {
    /// Fault number `index` of the plan happens.
    pub(crate) fn fire(&mut self, index: usize) -> Checked {
        if self.phase != Phase::Safety {
            return Ok(());
        }
        let kind = self.plan.faults[index].kind;
        let mask = self.act(kind)?;
        if mask == 0 {
            return Ok(());
        }
        self.stats.faults[kind.class() as usize] += 1;
        self.trace.mix(index as u64);
        self.trace.push(self.now, Traced::Fault { kind, mask });
        Ok(())
    }

    /// Does it; returns whom it hit, as bits: none when there was nobody to hit.
    fn act(&mut self, kind: FaultKind) -> Checked<u8> {
        let now = self.now;
        Ok(match kind {
            FaultKind::Crash {
                target,
                restart_after,
            } => self.crash(target, restart_after),
            FaultKind::Partition { shape, way, lasts } => self.partition(shape, way, lasts),
            FaultKind::Double { target, how, lasts } => self.double(target, how, lasts),
            FaultKind::Pause { target, lasts } => self.hit(target, |world, index| {
                let node = &mut world.nodes[index];
                node.busy_until = node.busy_until.max(now + lasts);
            }),
            FaultKind::Slow {
                target,
                factor,
                lasts,
            } => self.hit(target, |world, index| {
                world.nodes[index].slow = factor.into();
                world.last(Lasting::Slow(index), now + lasts);
            }),
            FaultKind::Clog { from, to, lasts } => {
                self.links.clog(from, to, now + lasts);
                1 << from
            }
            FaultKind::ClockJump {
                target,
                ahead,
                wall,
            } => self.hit(target, |world, index| {
                world.nodes[index].clock.jump(now, ahead, wall);
                world.plan_turn(index, now);
            }),
            FaultKind::Replay { count } => {
                self.spite(None, u64::from(count));
                for _ in 0..count {
                    if let Some(packet) = self.links.replayed(&mut self.packets) {
                        self.schedule(now, Kind::Arrive(packet));
                    }
                }
                u8::MAX
            }
            FaultKind::Corrupt { one_in, lasts } => {
                self.links.corrupt(one_in, now + lasts);
                u8::MAX
            }
            FaultKind::Rot { target, behind } => self.rot(target, behind),
            FaultKind::HandOver { to } => self.move_primary(to),
            FaultKind::Relapse => self.move_primary(self.deposed),
            FaultKind::Churn { client } => {
                self.give_up(usize::from(client))?;
                u8::MAX
            }
        })
    }

    fn hit(&mut self, target: Target, act: impl FnOnce(&mut Self, usize)) -> u8 {
        let Some(index) = self.resolve(target) else {
            return 0;
        };
        if self.nodes[index].replica.is_none() {
            return 0;
        }
        act(self, index);
        1 << self.nodes[index].slot
    }

    /// Who leads the newest view that anybody is in.
    pub(crate) fn newest_primary(&self) -> usize {
        let views = self.members().filter(|node| node.is_operational());
        let view = views.map(|node| node.seen.view).max().unwrap_or(0);
        (view % u64::from(self.plan.replicas)) as usize
    }

    /// The replica that is meant.
    fn resolve_place(&self, target: Target) -> Option<usize> {
        let n = usize::from(self.plan.replicas);
        let primary = self.newest_primary();
        match target {
            Target::Any(index) => Some(usize::from(index) % n),
            Target::Primary => Some(primary),
            Target::NextPrimary => Some((primary + 1) % n),
            Target::Tail => Some((primary + n - 1) % n),
            Target::Donor => Some(usize::from(self.donor) % n),
            Target::Recovering => (0..n)
                .find(|&i| self.member(i).replica.is_some() && !self.member(i).is_operational()),
        }
    }

    /// The process that is meant.
    pub(crate) fn resolve(&self, target: Target) -> Option<usize> {
        Some(self.places[self.resolve_place(target)?].seat)
    }

    /// A process ends and its memory with it, if that many may.
    fn crash(&mut self, target: Target, restart_after: Option<Time>) -> u8 {
        let Some(index) = self.resolve(target) else {
            return 0;
        };
        let node = &self.nodes[index];
        let slot = node.slot;
        // Who recovers is hit only on purpose: otherwise nobody would ever get so far.
        let is_meant = node.is_operational() || target == Target::Recovering;
        if node.replica.is_none() || !is_meant || !self.may_lose(index) {
            return 0;
        }
        self.lose_process(index, restart_after);
        1 << slot
    }

    /// Whether the memory of this process may be lost as well.
    pub(crate) fn may_lose(&self, index: usize) -> bool {
        let slot = usize::from(self.nodes[index].slot);
        self.plan.classes.has(FaultClass::BeyondF)
            || self.failed() + u8::from(self.is_sound(slot)) <= self.plan.failures_survived()
    }

    /// A process that runs ends, and starts again later, if it does.
    pub(crate) fn lose_process(&mut self, index: usize, restart_after: Option<Time>) {
        let node = &self.nodes[index];
        if !node.is_operational() {
            self.stats.crashes_while_recovering += 1;
        }
        if node.seen.leads(usize::from(node.slot)) {
            self.stats.crashes_of_primaries += 1;
        }
        self.stats.crashes += 1;
        self.nodes[index].crashed_at = self.now;
        self.end_process(index);
        if let Some(after) = restart_after {
            self.plan_restart(index, self.now + after);
        }
    }

    pub(crate) fn end_process(&mut self, index: usize) {
        if self.is_seat(index) {
            self.bury(index);
        }
        let node = &mut self.nodes[index];
        node.replica = None;
        node.turn_at = Time::MAX;
        node.slow = 1;
        self.streams.reset(usize::from(self.nodes[index].slot));
        while let Some(packet) = self.nodes[index].inbox.pop_front() {
            self.lose(packet);
        }
    }

    /// The operator's tool asks the primary to let another replica lead.
    fn move_primary(&mut self, to: u8) -> u8 {
        let primary = self.newest_primary();
        if usize::from(to) == primary {
            return 0;
        }
        let mut header = Header::new(HandOver {
            nonce: Nonce::new(self.now.into()),
            target: to.into(),
            ..HandOver::zeroed()
        });
        header.set_cluster(self.cluster);
        header.seal(&[]);
        let to = Address::replica(primary as u8);
        let packet = self.packets.make(Address::TOOL, to, &header, &[]);
        self.send(packet, self.now);
        self.mailbox.clear();
        1 << primary
    }

    fn partition(&mut self, shape: Shape, way: Way, lasts: Time) -> u8 {
        let Some(table) = self.cut_table(shape, way) else {
            return 0;
        };
        if shape == Shape::Minority {
            self.deposed = self.newest_primary() as u8;
        }
        self.links.cut(&table, true);
        self.last(Lasting::Cut(table), self.now + lasts);
        u8::MAX
    }

    /// Which links a partition blocks.
    fn cut_table(&self, shape: Shape, way: Way) -> Option<CutTable> {
        let n = usize::from(self.plan.replicas);
        let everybody = (1_u8 << n) - 1;
        let clients = 1_u8 << CLIENTS_ROW;
        let mut table = CutTable::default();
        let mut apart = |a: u8, b: u8| {
            for (row, blocked) in table.iter_mut().enumerate() {
                if a & (1 << row) != 0 && way != Way::In {
                    *blocked |= b;
                }
                if b & (1 << row) != 0 && way != Way::Out {
                    *blocked |= a;
                }
            }
        };
        match shape {
            Shape::Isolate(target, clients_too) => {
                let one = 1 << self.resolve_place(target)?;
                let others = everybody & !one;
                apart(
                    one,
                    if clients_too {
                        others | clients
                    } else {
                        others
                    },
                );
            }
            Shape::Split(mask) => apart(mask & everybody, everybody & !mask),
            Shape::Bridge(bridge) => {
                let rest: std::vec::Vec<usize> =
                    (0..n).filter(|&i| i != usize::from(bridge)).collect();
                let half = rest.iter().take(rest.len() / 2).fold(0, |m, i| m | 1 << i);
                apart(half, everybody & !half & !(1 << bridge));
            }
            Shape::Chain => {
                for i in 0..n {
                    let far = (0..n).filter(|&j| j > i + 1).fold(0, |m, j| m | 1 << j);
                    apart(1 << i, far);
                }
            }
            Shape::Minority => {
                let primary = self.newest_primary();
                let count = usize::from(self.plan.failures_survived());
                let few = (0..count).fold(0, |mask, i| mask | 1 << ((primary + i) % n));
                apart(few | clients, everybody & !few);
            }
            Shape::Link(a, b) if a != b => apart(1 << a, 1 << b),
            Shape::Link(..) => return None,
            Shape::Clients(target) => apart(1 << self.resolve_place(target)?, clients),
        }
        Some(table)
    }

    /// Something lasts until `end`.
    pub(crate) fn last(&mut self, what: Lasting, end: Time) {
        let place = self.lasting.len() as u32;
        self.lasting.push(what);
        self.schedule(end, Kind::End(place));
    }

    pub(crate) fn end(&mut self, place: usize) {
        match core::mem::replace(&mut self.lasting[place], Lasting::Over) {
            Lasting::Cut(table) => self.links.cut(&table, false),
            Lasting::Slow(index) => self.nodes[index].slow = 1,
            Lasting::Double(slot) => self.settle(slot),
            Lasting::Over => {}
        }
    }
}
