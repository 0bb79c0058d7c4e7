//! The story of a run: a cluster is formed, everything goes wrong, a quorum is healed and must serve,
//! everything is healed and must become equal.

use std::vec::Vec;

use vsr_types::message::{InitAck, InitCommit, InitPropose, PeerStatus};
use vsr_types::{Frame, Header, Nonce, body::BootNonces};

use super::FaultClass;
use super::check::{Checked, ensure};
use super::machine::Simulated;
use super::net::Address;
use super::node::cluster_of;
use super::plan::{MILLISECOND, SECOND, Time};
use super::world::{Kind, Phase, World};

/// How often somebody looks whether a phase is over.
const LOOK_EVERY: Time = 20 * MILLISECOND;
/// How long a healed quorum may take to serve everybody.
const SERVED_WITHIN: Time = 30 * SECOND;
/// How long replicas may take to become equal when nobody asks for anything.
const QUIET_WITHIN: Time = 30 * SECOND;
/// How long everything may take to become equal once everything is healed.
const HEALED_WITHIN: Time = 60 * SECOND;
/// How long nothing may change before the cluster counts as quiet.
const QUIET_FOR: Time = SECOND;
/// How often an operator proposes again to who has agreed to something else.
const FORMED_AFTER: u32 = 3;
/// How many answers a client in reach must get.
const SERVED_TIMES: u64 = 2;

impl<M: Simulated> World<M> {
    /// Plays the whole story.
    pub(crate) fn play(&mut self) -> Checked {
        let is_born = if self.plan.classes.has(FaultClass::Init) {
            self.be_born()?
        } else {
            self.form()?;
            true
        };
        if !is_born {
            return Ok(());
        }
        self.begin();
        if self.options.plant == Some(super::options::Plant::AllDiverge) {
            return self.expect_no_majority();
        }
        let (horizon, ops) = (self.now + self.plan.horizon, self.plan.ops);
        self.run_until(horizon, |world| {
            world.stats.operations + world.stats.queries >= ops
        })?;
        let Some(core) = self.choose_core() else {
            return self.expect_halt();
        };
        self.liveness(core)?;
        if self.lost_to_attempts() > 0 && self.failed() > self.plan.failures_survived() {
            // Nobody can recover from those who are left.
            return Ok(());
        }
        self.heal()?;
        self.check_found()
    }

    /// Forms the cluster as an operator's tool does: the word goes out when everybody has agreed. Whoever
    /// has agreed to another proposal just now is asked again when that is over.
    pub(crate) fn form(&mut self) -> Checked {
        let cluster = self.cluster;
        let token = Nonce::new(0x70CE);
        let mut nonces = self.propose(token)?;
        for _ in 0..FORMED_AFTER {
            let missing = nonces.nonces[..self.places.len()].contains(&Nonce::ZERO);
            if !missing {
                break;
            }
            self.run_until(self.now + 6 * SECOND, |_| false)?;
            nonces = self.propose(token)?;
        }
        let mut header = Header::new(InitCommit {
            cluster,
            token,
            reserved: 0,
        });
        let body = bytemuck::bytes_of(&nonces);
        header.seal(body);
        self.tell_all(&header, body)?;
        self.mailbox.clear();
        for (slot, node) in self.members().enumerate() {
            ensure!(
                cluster_of(node) == cluster,
                "an operator's word forms a cluster (R7.1)",
                "R{slot} did not join"
            );
        }
        Ok(())
    }

    /// Asks everybody to form the cluster; returns the nonces of those who agree.
    fn propose(&mut self, token: Nonce) -> Checked<BootNonces> {
        let cluster = self.cluster;
        self.mailbox.clear();
        let mut header = Header::new(InitPropose {
            cluster,
            token,
            reserved: 0,
        });
        header.seal(&[]);
        self.tell_all(&header, &[])?;
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        for (from, bytes) in core::mem::take(&mut self.mailbox) {
            let frame = Frame::parse(&bytes, cluster).ok();
            let ack = frame.and_then(|frame| frame.fields::<InitAck>().copied());
            if let (Some(ack), Some(replica)) = (ack, from.as_replica()) {
                nonces.nonces[replica] = ack.boot_nonce;
            }
        }
        Ok(nonces)
    }

    fn tell_all(&mut self, header: &Header, body: &[u8]) -> Checked {
        for index in 0..self.places.len() {
            let to = Address::replica(index as u8);
            let packet = self.packets.make(Address::TOOL, to, header, body);
            // So that it can come again.
            let _ = self.links.fate(self.packets.get(packet), self.now);
            self.hand_over(index, packet, self.now)?;
        }
        Ok(())
    }

    /// Plans everything that is known from the start.
    fn begin(&mut self) {
        for index in 0..self.places.len() {
            self.plan_turn(index, self.now);
        }
        for index in 0..self.plan.faults.len() {
            let at = self.now + self.plan.faults[index].at;
            self.schedule(at, Kind::Fault(index as u32));
        }
        self.storm.begin(self.now, self.stats.messages);
        for index in 0..self.clients.len() {
            let wait = self.asking.below(self.plan.load.think + MILLISECOND);
            self.wake_later(index, wait);
        }
        self.schedule(self.now + LOOK_EVERY, Kind::Look);
    }

    /// Looks again, later.
    pub(crate) fn look(&mut self) -> Checked {
        self.check_doubts()?;
        self.schedule(self.now + LOOK_EVERY, Kind::Look);
        if self.phase == Phase::Liveness && self.plan.classes.has(FaultClass::Replay) {
            self.echo_heartbeats(self.core);
        }
        self.check_storm()
    }

    /// A random quorum of replicas that have their memory; none when there is no such quorum.
    fn choose_core(&mut self) -> Option<u8> {
        let quorum = usize::from(self.plan.replicas / 2 + 1);
        let n = self.places.len();
        let mut able: Vec<usize> = (0..n).filter(|&slot| self.is_sound(slot)).collect();
        if able.len() < quorum {
            // A bad entry is no lost memory: it is replaced, or denied by those who never had it.
            able = (0..n).filter(|&slot| self.is_undisputed(slot)).collect();
        }
        // Often without the primary: somebody else must lead then.
        let primary = self.newest_primary();
        if able.len() > quorum && self.haunting.percent(50) {
            able.retain(|&slot| slot != primary);
        }
        while able.len() > quorum {
            let out = self.asking.below(able.len() as u64) as usize;
            able.remove(out);
        }
        (able.len() == quorum).then(|| able.iter().fold(0, |mask, i| mask | 1 << i))
    }

    /// More memories are lost than the cluster survives: nobody may be served.
    fn expect_halt(&mut self) -> Checked {
        let unplanned = self.lost_to_attempts();
        if !self.plan.classes.has(FaultClass::BeyondF)
            && self.failed() - unplanned <= self.plan.failures_survived()
        {
            self.stats.outdone += 1;
            return Ok(());
        }
        ensure!(
            self.plan.classes.has(FaultClass::BeyondF),
            "the simulator keeps within f",
            "{} of {} replicas are without their memory",
            self.failed(),
            self.plan.replicas
        );
        self.stats.halted += 1;
        self.stop_faults();
        self.links.heal(u8::MAX, false);
        let served = self.stats.operations + self.stats.queries;
        self.run_until(self.now + 5 * SECOND, |_| false)?;
        // Answers that were under way when the last memory was lost may still arrive.
        let served = self.stats.operations + self.stats.queries - served;
        ensure!(
            served <= self.clients.len() as u64,
            "beyond f the cluster halts (R7.2)",
            "{served} requests were answered without a quorum of memories"
        );
        Ok(())
    }

    /// From here on nothing new goes wrong.
    fn stop_faults(&mut self) {
        self.phase = Phase::Liveness;
        for place in 0..self.lasting.len() {
            self.lasting[place] = super::world::Lasting::Over;
        }
        self.lift();
    }

    /// The replicas of `core` and the clients are well; all else stays as bad as it is.
    fn liveness(&mut self, core: u8) -> Checked {
        self.stop_faults();
        self.core = core;
        // A deaf replica must not disturb the others, nor hold them up if it leads (R4.3, R5.1).
        let is_heard = self.haunting.percent(50);
        self.links.heal(core, is_heard);
        for index in 0..self.nodes.len() {
            if core & (1 << self.nodes[index].slot) != 0 && self.nodes[index].replica.is_some() {
                self.recover_pace(index);
            } else {
                // Its process will not come back in this phase.
                self.nodes[index].restart_at = Time::MAX;
            }
        }
        self.plan.load.retry = self.plan.load.retry.min(100 * MILLISECOND);
        let began = self.now;
        let before: Vec<u64> = self.clients.iter().map(|client| client.served).collect();
        for index in 0..self.clients.len() {
            self.clients[index].calm_down();
            if index < self.plan.settings.sessions {
                self.wake_later(index, self.plan.load.retry);
            } else {
                // More clients than sessions would only take them from one another.
                self.clients[index].rest();
            }
        }
        let sessions = self.plan.settings.sessions;
        let is_served = |world: &Self| {
            let mut clients = world.clients.iter().zip(&before).take(sessions);
            clients.all(|(client, before)| client.served >= before + SERVED_TIMES)
        };
        let is_lost = |world: &Self| core & world.outdone != 0;
        let over = |world: &Self| is_served(world) || is_lost(world);
        let served = self.run_until(began + SERVED_WITHIN, over)?;
        if is_lost(self) {
            return self.go_on_without();
        }
        ensure!(
            served,
            "a healed quorum serves everybody (I28)",
            "{} s after the replicas {core:#b} were healed, clients {:?} are not served",
            SERVED_WITHIN / SECOND,
            self.unserved(&before)
        );
        self.stats.healed_to_served = self.now - began;
        self.phase = Phase::Quiet;
        let end = self.now + QUIET_WITHIN;
        let over = |world: &Self| world.is_quiet(core) || is_lost(world);
        let quiet = self.run_until(end, over)?;
        if is_lost(self) {
            return self.go_on_without();
        }
        ensure!(
            quiet,
            "a healed quorum comes to rest (I28)",
            "the replicas {core:#b} are not equal: {}",
            self.differences(core)
        );
        Ok(())
    }

    /// A healed replica has lost its memory since, by no fault of this run: others are healed.
    fn go_on_without(&mut self) -> Checked {
        match self.choose_core() {
            Some(core) => self.liveness(core),
            None => self.expect_halt(),
        }
    }

    fn unserved(&self, before: &[u64]) -> Vec<u16> {
        let clients = self.clients.iter().zip(before);
        clients
            .take(self.plan.settings.sessions)
            .filter(|(client, before)| client.served < *before + SERVED_TIMES)
            .map(|(client, _)| client.index)
            .collect()
    }

    /// A replica that was held up goes on.
    fn recover_pace(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.slow = 1;
        node.busy_until = node.busy_until.min(self.now);
        node.turn_at = Time::MAX;
        self.plan_turn(index, self.now);
    }

    /// Whether the replicas of `core` have been equal, and in one view, for a while.
    fn is_quiet(&self, core: u8) -> bool {
        self.now >= self.view_since + QUIET_FOR
            && self
                .clients
                .iter()
                .all(|c| c.waiting == super::client::Waiting::Nothing)
            && self.differences(core).is_empty()
    }

    /// In what the replicas of `core` differ, in words; nothing when they are equal.
    fn differences(&self, core: u8) -> std::string::String {
        let members = (0..self.places.len()).filter(|i| core & (1 << i) != 0);
        let mut first = None;
        for index in members {
            let seen = &self.member(index).seen;
            if seen.status != PeerStatus::Normal {
                return std::format!("R{index} is {:?}", seen.status);
            }
            let state = (seen.view, seen.op, seen.commit, seen.applied);
            if seen.applied != seen.op {
                return std::format!("R{index} has executed {} of {}", seen.applied, seen.op);
            }
            let (_, first) = first.get_or_insert((index, state));
            if *first != state {
                return std::format!("R{index} is at {state:?}, another at {first:?}");
            }
        }
        if let Some(ghost) = self
            .ghost()
            .filter(|_| core.count_ones() as usize == self.places.len())
        {
            return std::format!("a former life of R{} takes part", self.nodes[ghost].slot);
        }
        std::string::String::new()
    }

    /// Everything is well again, and everybody comes back.
    fn heal(&mut self) -> Checked {
        self.links.heal(u8::MAX, false);
        for index in 0..self.nodes.len() {
            let is_seat = self.is_seat(index);
            let is_running = self.nodes[index].replica.is_some();
            if is_seat && !is_running {
                self.restart(index);
            } else if !is_seat && is_running && !self.nodes[index].is_operational() {
                // Somebody notices that there is one process too many.
                self.end_process(index);
            }
            if self.nodes[index].replica.is_some() {
                self.recover_pace(index);
            }
        }
        let all = (1 << self.places.len()) - 1;
        let end = self.now + HEALED_WITHIN;
        let healed = self.run_until(end, |world| world.is_quiet(all))?;
        ensure!(
            healed,
            "everything heals (I28)",
            "{} s after everything was healed: {}",
            HEALED_WITHIN / SECOND,
            self.differences(all)
        );
        Ok(())
    }

    /// The number of messages stays in proportion to what is done.
    fn check_storm(&mut self) -> Checked {
        let storm = &mut self.storm;
        storm.check(
            self.now,
            self.stats.messages,
            self.stats.operations + self.stats.queries + self.stats.retries,
        )
    }
}
