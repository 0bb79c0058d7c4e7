//! How a cluster is born when nothing goes right: replicas that are not there yet, two operators who
//! do the same at once, tools that are slow, restarts between an agreement and the word to all, and
//! messages of all of that which come again.
//!
//! What must hold: one cluster is formed, or none, never two (R7.1). If a quorum took part in it, the
//! others find their way in; if fewer did, because the rest had restarted meanwhile, nobody is served
//! and an operator begins anew (R7.2).

use std::vec;
use std::vec::Vec;

use vsr_types::body::BootNonces;
use vsr_types::message::{InitAck, InitCommit, InitPropose, InitResult};
use vsr_types::{ClusterId, Frame, Header, Nonce};

use super::FaultClass;
use super::check::{Checked, ensure};
use super::machine::Simulated;
use super::net::Address;
use super::node::cluster_of;
use super::plan::{MILLISECOND, SECOND, Time};
use super::world::{Kind, World};

/// How often tools look at their answers, and misfortune at the replicas.
const STEP: Time = 5 * MILLISECOND;
/// How long operators try.
const TRIED_FOR: Time = 16 * SECOND;
/// How long a tool waits for all to agree, from the first who does: less than an agreement lasts.
const PATIENCE: Time = 3 * SECOND;
/// How long those who were left out may take to find their way in.
const GROWN_WITHIN: Time = 60 * SECOND;

/// An operator's tool at work.
#[derive(Clone, Debug)]
struct Tool {
    cluster: ClusterId,
    token: Nonce,
    nonces: Vec<Option<Nonce>>,
    /// When the first replica agreed.
    agreed_at: Option<Time>,
    ask_at: Time,
    /// How long it takes from the last agreement to its word to all.
    pace: Time,
    /// When it says so.
    commit_at: Option<Time>,
    is_refused: bool,
    /// It has given its word, or given up.
    is_done: bool,
    attempts: u32,
}

impl<M: Simulated> World<M> {
    fn tool(&mut self, ask_at: Time, attempts: u32) -> Tool {
        let random = &mut self.haunting;
        Tool {
            cluster: ClusterId::new(random.wide() | 1),
            token: Nonce::new(random.wide() | 1),
            nonces: vec![None; self.places.len()],
            agreed_at: None,
            ask_at,
            pace: random.pick(&[0, 0, MILLISECOND, 30 * MILLISECOND, SECOND]),
            commit_at: None,
            is_refused: false,
            is_done: false,
            attempts,
        }
    }

    /// Forms a cluster against all odds. Says whether there is one that can work.
    pub(crate) fn be_born(&mut self) -> Checked<bool> {
        self.stats.faults[FaultClass::Init as usize] += 1;
        for index in 0..self.places.len() {
            self.plan_turn(index, self.now);
            if self.haunting.percent(40) {
                self.vanish(index, SECOND);
            }
        }
        let later = self.haunting.below(6 * SECOND);
        let mut tools = vec![self.tool(0, 0)];
        if self.haunting.percent(70) {
            let at = if later.is_multiple_of(2) { 0 } else { later };
            tools.push(self.tool(at, 0));
        }
        while self.now < TRIED_FOR && !self.is_complete() {
            self.run_until(self.now + STEP, |_| false)?;
            self.deliver_answers(&mut tools);
            for tool in &mut tools {
                self.operate(tool);
                if tool.is_done && tool.attempts < 4 {
                    let at = self.now + self.haunting.below(6 * SECOND);
                    *tool = self.tool(at, tool.attempts + 1);
                }
            }
            self.disturb_birth();
        }
        self.mailbox.clear();
        self.grow_up()
    }

    /// Whether everybody belongs to a cluster and takes part.
    fn is_complete(&self) -> bool {
        self.members().all(|node| node.is_operational())
    }

    /// A process ends and comes back.
    fn vanish(&mut self, index: usize, longest: Time) {
        self.stats.vanished += 1;
        self.end_process(index);
        let after = self.haunting.below(longest);
        self.plan_restart(index, self.now + after);
    }

    fn disturb_birth(&mut self) {
        let quorum = usize::from(self.plan.replicas / 2 + 1);
        if self.now < TRIED_FOR / 2 && self.haunting.below(40) == 0 {
            let index = self.haunting.below(self.places.len() as u64) as usize;
            let members = self.members().filter(|node| node.is_operational()).count();
            let is_missed = self.nodes[index].is_operational() && members <= quorum;
            if self.nodes[index].replica.is_some() && !is_missed {
                self.vanish(index, 300 * MILLISECOND);
            }
        }
        if self.plan.classes.has(FaultClass::Replay)
            && self.haunting.below(4) == 0
            && let Some(packet) = self.links.replayed(&mut self.packets)
        {
            self.schedule(self.now, Kind::Arrive(packet));
        }
    }

    fn deliver_answers(&mut self, tools: &mut [Tool]) {
        for (from, bytes) in core::mem::take(&mut self.mailbox) {
            let Ok(frame) = Frame::parse(&bytes, ClusterId::ZERO) else {
                continue;
            };
            let Some(slot) = from.as_replica() else {
                continue;
            };
            for tool in tools.iter_mut() {
                if let Some(ack) = frame.fields::<InitAck>()
                    && ack.token == tool.token
                {
                    tool.nonces[slot] = Some(ack.boot_nonce);
                    tool.agreed_at.get_or_insert(self.now);
                }
                let result = frame.fields::<InitResult>();
                tool.is_refused |= result.is_some_and(|result| result.token == tool.token);
            }
        }
    }

    /// What `vsr-cli init` does: asks all, and when all have agreed, tells all.
    fn operate(&mut self, tool: &mut Tool) {
        if tool.is_done {
            return;
        }
        if let Some(at) = tool.commit_at {
            if self.now >= at {
                self.say_commit(tool);
                tool.is_done = true;
            }
            return;
        }
        let is_late = tool.agreed_at.is_some_and(|at| self.now > at + PATIENCE);
        if tool.is_refused || is_late {
            tool.is_done = true;
        } else if tool.nonces.iter().all(Option::is_some) {
            tool.commit_at = Some(self.now + tool.pace);
        } else if self.now >= tool.ask_at {
            tool.ask_at = self.now + 200 * MILLISECOND;
            let mut header = Header::new(InitPropose {
                cluster: tool.cluster,
                token: tool.token,
                reserved: 0,
            });
            header.seal(&[]);
            self.say_to_all(&header, &[]);
        }
    }

    fn say_commit(&mut self, tool: &Tool) {
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        for (slot, nonce) in tool.nonces.iter().enumerate() {
            nonces.nonces[slot] = nonce.unwrap_or(Nonce::ZERO);
        }
        let mut header = Header::new(InitCommit {
            cluster: tool.cluster,
            token: tool.token,
            reserved: 0,
        });
        let body = bytemuck::bytes_of(&nonces);
        header.seal(body);
        self.say_to_all(&header, body);
    }

    fn say_to_all(&mut self, header: &Header, body: &[u8]) {
        for slot in 0..self.places.len() {
            let to = Address::replica(slot as u8);
            let packet = self.packets.make(Address::TOOL, to, header, body);
            self.send(packet, self.now);
        }
    }

    /// Nobody disturbs any more, for a while: whoever was left out finds its way in, if a quorum is there.
    fn grow_up(&mut self) -> Checked<bool> {
        let climate = self.links.climate();
        self.links.heal(u8::MAX, false);
        let is_grown = self.grow();
        self.links.restore(&climate);
        is_grown
    }

    fn grow(&mut self) -> Checked<bool> {
        let quorum = usize::from(self.plan.replicas / 2 + 1);
        let end = self.now + GROWN_WITHIN;
        let none_by = self.now + 6 * SECOND;
        while self.now < end && !self.is_complete() {
            self.run_until(self.now + 20 * MILLISECOND, |_| false)?;
            if self.now > none_by && self.born.is_none() {
                break;
            }
        }
        let members = self.members().filter(|node| node.is_operational()).count();
        self.cluster = self.born.unwrap_or(self.cluster);
        self.mailbox.clear();
        if self.is_complete() {
            return Ok(true);
        }
        ensure!(
            members < quorum,
            "who was left out of an init finds its way in (R7.1)",
            "{members} of {} replicas take part {} s after an init",
            self.plan.replicas,
            GROWN_WITHIN / SECOND
        );
        if self.born.is_none() {
            // Nobody ever agreed with all others. A last attempt, in peace.
            self.form()?;
            return Ok(true);
        }
        self.stats.stillborn += 1;
        Ok(false)
    }

    /// R7.1: whoever belongs to a cluster belongs to the same one as all others.
    pub(crate) fn check_one_cluster(&mut self, index: usize) -> Checked {
        let cluster = cluster_of(&self.nodes[index]);
        let born = *self.born.get_or_insert(cluster);
        ensure!(
            cluster == born,
            "one cluster or none (R7.1)",
            "R{} belongs to cluster {cluster}, others to {born}",
            self.nodes[index].slot
        );
        Ok(())
    }
}
