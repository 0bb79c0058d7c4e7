//! The simulated world: one thread, one clock that jumps from event to event, one seed.
//!
//! ```text
//!   heap -> Arrive -> inbox of a replica -> Turn: every frame in the inbox, then deadlines while due
//!        -> Wake   -> a client asks, or asks again
//!        -> Fault, End, Restart           after each step: observe, check, send what came out
//! ```
//!
//! A replica takes time for its work, and frames that arrive meanwhile are handed over together: that
//! is how batches form, how slow replicas fall behind, and what a pause is.

use std::collections::BinaryHeap;
use std::vec::Vec;

use vsr_types::message::{Query, Request as RequestMessage};
use vsr_types::{ClusterId, Frame, HEADER_SIZE, Header, MemberId, Nonce};

use super::check::history::History;
use super::check::order::Order;
use super::check::registers::Registers;
use super::check::storm::Storm;
use super::check::tap::Commands;
use super::check::{Checked, ensure};
use super::client::Client;
use super::machine::{Note, Simulated, Watched};
use super::net::{Address, CutTable, Links, PacketIndex, Packets};
use super::node::{Clock, Exit, Node, Seen, cluster_of};
use super::options::Options;
use super::places::Place;
use super::plan::{Plan, Time};
use super::random::Random;
use super::stats::Stats;
use super::stream::{self, Streams};
use super::trace::{DEADLINE, Event as Traced, Trace};
use crate::{Boot, DropReason, Input, Replica};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Arrive(PacketIndex),
    Turn(u8),
    Wake(u16),
    Fault(u32),
    /// The fault in this place of the list of lasting ones ends.
    End(u32),
    Restart(u8),
    /// A node comes to the end of archiving an epoch.
    Archive(u8),
    /// Bytes arrive on this link.
    Flow(u16),
    /// Somebody looks whether the phase is over.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    at: Time,
    sequence: u64,
    kind: Kind,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        // The heap's greatest is the earliest.
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A fault that lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lasting {
    Cut(CutTable),
    Slow(usize),
    /// Two processes in the place of this replica.
    Double(usize),
    Over,
}

/// What is being asked of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything goes wrong; nothing may be lost.
    Safety,
    /// A quorum is well: everybody must be served.
    Liveness,
    /// Clients are content; replicas become equal.
    Quiet,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct World<M> {
    pub(crate) plan: Plan,
    pub(crate) options: Options,
    pub(crate) cluster: ClusterId,
    /// The cluster that somebody belongs to.
    pub(crate) born: Option<ClusterId>,
    pub(crate) now: Time,
    sequence: u64,
    heap: BinaryHeap<Event>,
    /// All processes: see [`super::places`].
    pub(crate) nodes: Vec<Node<M>>,
    pub(crate) places: Vec<Place>,
    pub(crate) clients: Vec<Client>,
    pub(crate) packets: Packets,
    pub(crate) links: Links,
    outgoing: Vec<PacketIndex>,
    notes: Vec<Note>,
    pub(crate) history: History<M>,
    pub(crate) order: Order,
    pub(crate) registers: Registers,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) phase: Phase,
    /// Who is well while the phase is [`Phase::Liveness`].
    pub(crate) core: u8,
    /// Whose process in the seat heard of a number that an attempt of its place had left somewhere, ended,
    /// and has not recovered since: a failure that no fault of the plan's is (R0.2).
    pub(crate) outdone: u8,
    /// What clients draw from.
    pub(crate) asking: Random,
    /// What processes draw from when they start.
    booting: Random,
    /// What places with two processes draw from.
    pub(crate) haunting: Random,
    pub(crate) lasting: Vec<Lasting>,
    /// A machine that only says which operations are refused.
    pub(crate) judge: M,
    /// When the newest view began.
    pub(crate) view_since: Time,
    /// Who gave a part of its log or state away last.
    pub(crate) donor: u8,
    /// The primary that was cut off last, and not alone.
    pub(crate) deposed: u8,
    /// What the operator's tool was sent, and by whom.
    pub(crate) mailbox: Vec<(Address, Vec<u8>)>,
    /// Machines that went their own ways.
    pub(crate) doubts: super::doubt::Doubts,
    pub(crate) storm: Storm,
    pub(crate) streams: Streams,
}

/// How many deadlines in a row a replica may want without a message.
const DEADLINES_MAX: u32 = 20_000;

impl<M: Simulated> World<M> {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let plan = Plan::draw(seed, options);
        let root = Random::new(seed);
        let keeps = plan.classes.has(super::FaultClass::Replay);
        let mut asking = root.split(4);
        let clients = (0..plan.load.clients)
            .map(|index| Client::new(index, &mut asking, plan.replicas))
            .collect();
        let mut world = Self {
            cluster: ClusterId::new(root.split(5).wide() | 1),
            born: None,
            now: 0,
            sequence: 0,
            heap: BinaryHeap::with_capacity(4096),
            nodes: Vec::new(),
            places: (0..usize::from(plan.replicas)).map(Place::new).collect(),
            clients,
            packets: Packets::default(),
            links: Links::new(plan.weather, root.split(3), keeps),
            outgoing: Vec::with_capacity(64),
            notes: Vec::with_capacity(64),
            history: History::new(plan.settings.sessions)
                .with_epochs(plan.config(0).epochs(), plan.settings.on_op_max),
            order: Order::default(),
            registers: Registers::default(),
            trace: Trace::new(options.trace),
            stats: Stats::default(),
            phase: Phase::Safety,
            core: u8::MAX,
            outdone: 0,
            asking,
            booting: root.split(6),
            haunting: root.split(8),
            lasting: Vec::new(),
            judge: M::new(),
            view_since: 0,
            donor: 0,
            deposed: 0,
            mailbox: Vec::new(),
            doubts: super::doubt::Doubts::default(),
            storm: Storm::new(plan.replicas, plan.settings.tick.as_nanos() as Time),
            streams: Streams::new(root.split(7)),
            options: options.clone(),
            plan,
        };
        for slot in 0..world.plan.replicas {
            world.add_node(slot);
        }
        for slot in 0..world.plan.replicas {
            world.add_node(slot);
        }
        for index in 0..usize::from(world.plan.replicas) {
            world.start_process(index);
        }
        world
    }

    /// Room for a process in the place of replica `slot`.
    fn add_node(&mut self, slot: u8) {
        let drift = u64::from(self.plan.drift);
        let rate = 1_000_000 - drift + self.booting.below(2 * drift + 1);
        let shown = 1 + self.booting.below(super::plan::SECOND);
        self.nodes.push(Node {
            slot,
            seen: Seen::nothing(),
            replica: None,
            config: self.plan.config(slot),
            life: 0,
            clock: Clock::new(rate, shown),
            inbox: std::collections::VecDeque::with_capacity(64),
            turn_at: Time::MAX,
            busy_until: 0,
            slow: 1,
            cursor: 0,
            deaf_until: 0,
            mute_until: 0,
            is_held: false,
            rotten: None,
            origins: std::vec![None; usize::from(self.plan.load.clients)],
            restart_at: Time::MAX,
            archive_at: Time::MAX,
            crashed_at: 0,
        });
    }

    /// A process that has just started.
    fn boot(&mut self, config: &crate::Config, index: u8) -> Replica<Watched<M>> {
        let boot = Boot {
            // A diskless machine has no name that survives.
            member: MemberId::new(0xA000 + u128::from(index)),
            nonce: Nonce::new(self.booting.wide() | 1),
            seed: self.booting.next(),
        };
        let plant = self.options.plant.filter(|plant| plant.is_at(index));
        let is_first = self.places[usize::from(index)].lives == 0;
        let diverges = is_first && plant.is_some_and(super::options::Plant::is_for_replicas);
        let twists = if diverges { 1 + u32::from(index) } else { 0 };
        Replica::new(config, boot, Watched::new(plant).diverging(twists))
    }

    /// Process `index` starts, with nothing.
    fn start_process(&mut self, index: usize) {
        self.cleanse(index);
        let config = self.nodes[index].config.clone();
        let replica = self.boot(&config, self.nodes[index].slot);
        let place = &mut self.places[usize::from(self.nodes[index].slot)];
        place.lives += 1;
        let node = &mut self.nodes[index];
        node.life = place.lives;
        node.seen = Seen::of(&replica);
        node.replica = Some(replica);
        node.cursor = 0;
        node.restart_at = Time::MAX;
        node.archive_at = Time::MAX;
        node.turn_at = Time::MAX;
        node.busy_until = self.now;
        node.rotten = None;
        (node.deaf_until, node.mute_until) = (0, 0);
        node.origins.fill(None);
    }

    /// The process of a replica starts again, with nothing.
    pub(crate) fn restart(&mut self, index: usize) {
        self.start_process(index);
        self.stats.restarts += 1;
        self.trace_start(index);
        self.plan_turn(index, self.now);
    }

    pub(crate) fn schedule(&mut self, at: Time, kind: Kind) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Event { at, sequence, kind });
    }

    pub(crate) fn plan_turn(&mut self, index: usize, at: Time) {
        let node = &mut self.nodes[index];
        let at = at.max(node.busy_until).max(self.now);
        if at < node.turn_at {
            node.turn_at = at;
            self.schedule(at, Kind::Turn(index as u8));
        }
    }

    /// Lets events happen until `end`, or until `done` says so at a look.
    pub(crate) fn run_until(&mut self, end: Time, done: impl Fn(&Self) -> bool) -> Checked<bool> {
        while let Some(event) = self.heap.peek().copied() {
            if event.at > end {
                break;
            }
            self.heap.pop();
            self.now = event.at;
            self.stats.events += 1;
            if event.kind == Kind::Look {
                self.look()?;
                if done(self) {
                    return Ok(true);
                }
                continue;
            }
            self.happen(event.kind)?;
        }
        self.now = end;
        Ok(done(self))
    }

    fn happen(&mut self, kind: Kind) -> Checked {
        match kind {
            Kind::Arrive(packet) => self.arrive(packet),
            Kind::Turn(index) => {
                let index = usize::from(index);
                if self.nodes[index].turn_at == self.now {
                    self.turn(index)?;
                }
                Ok(())
            }
            Kind::Wake(index) => {
                if self.clients[usize::from(index)].wake_at == self.now {
                    self.wake(usize::from(index));
                }
                Ok(())
            }
            Kind::Fault(index) => self.fire(index as usize),
            Kind::End(index) => {
                self.end(index as usize);
                Ok(())
            }
            Kind::Restart(index) => {
                if self.nodes[usize::from(index)].restart_at == self.now {
                    self.restart(usize::from(index));
                }
                Ok(())
            }
            Kind::Archive(index) => {
                if self.nodes[usize::from(index)].archive_at == self.now {
                    self.archive(usize::from(index))?;
                }
                Ok(())
            }
            Kind::Flow(link) => {
                self.flow(link);
                Ok(())
            }
            Kind::Look => Ok(()),
        }
    }

    fn arrive(&mut self, index: PacketIndex) -> Checked {
        let packet = self.packets.get(index);
        let to = packet.to;
        self.trace.mix(self.now ^ (u64::from(to.raw()) << 56));
        if let Some(slot) = to.as_replica() {
            self.reach(slot, index);
            return Ok(());
        }
        let Some(client) = to.as_client() else {
            self.packets.release(index);
            return Ok(());
        };
        let damaged = packet.damaged;
        let from = packet.from;
        let bytes = self.packets.lend(index);
        let heard = match Frame::parse(&bytes, self.cluster) {
            Ok(frame) => {
                self.trace_arrival(from, to, *frame.header(), None);
                self.hear(usize::from(client), &frame, damaged)
            }
            Err(_) => Ok(()),
        };
        self.packets.give_back(index, bytes);
        heard
    }

    /// A packet has come to the place of a replica.
    fn reach(&mut self, slot: usize, index: PacketIndex) {
        let from = self.packets.get(index).from;
        let now = self.now;
        let hearers = self.hearers(slot, from);
        let hears = |place: Option<usize>| place.filter(|&i| self.nodes[i].deaf_until <= now);
        match (hears(hearers[0]), hears(hearers[1])) {
            (Some(first), Some(second)) => {
                let copy = self.packets.double(index);
                self.packets.get_mut(copy).damaged = self.packets.get(index).damaged;
                self.nodes[first].inbox.push_back(index);
                self.nodes[second].inbox.push_back(copy);
                self.plan_turn(first, self.now);
                self.plan_turn(second, self.now);
            }
            (Some(one), None) | (None, Some(one)) => {
                self.nodes[one].inbox.push_back(index);
                self.plan_turn(one, self.now);
            }
            (None, None) => self.lose(index),
        }
    }

    /// Drops a packet that meets nobody.
    pub(crate) fn lose(&mut self, index: PacketIndex) {
        self.stats.lost += 1;
        let packet = self.packets.get(index);
        if let Some(head) = packet.bytes.get(..HEADER_SIZE) {
            let header: Header = bytemuck::pod_read_unaligned(head);
            let (from, to) = (packet.from, packet.to);
            self.trace.push(self.now, Traced::Lost { from, to, header });
        }
        self.packets.release(index);
    }

    fn trace_arrival(
        &mut self,
        from: Address,
        to: Address,
        header: Header,
        dropped: Option<DropReason>,
    ) {
        self.trace.mix(u64::from(header.checksum().raw()));
        let dropped = dropped.map(DropReason::name);
        let event = Traced::Arrived {
            from,
            to,
            header,
            dropped,
        };
        self.trace.push(self.now, event);
    }

    /// A replica does everything that is ready for it.
    fn turn(&mut self, index: usize) -> Checked {
        let node = &mut self.nodes[index];
        node.turn_at = Time::MAX;
        if node.replica.is_none() {
            return Ok(());
        }
        if node.busy_until > self.now {
            // It was stopped since.
            let at = node.busy_until;
            self.plan_turn(index, at);
            return Ok(());
        }
        let cost = self.plan.cost * node.slow;
        let mut at = self.now;
        for _ in 0..node.inbox.len() {
            let Some(packet) = self.nodes[index].inbox.pop_front() else {
                break;
            };
            at += cost;
            self.hand_over(index, packet, at)?;
        }
        let mut deadlines = 0;
        let clock = self.nodes[index].clock.now(self.now);
        while let Some(replica) = &self.nodes[index].replica {
            if replica.next_deadline() > clock.monotonic {
                break;
            }
            deadlines += 1;
            ensure!(
                deadlines < DEADLINES_MAX,
                "deadlines pass",
                "the deadline of R{index} is due for ever"
            );
            at += cost;
            let me = Address::replica(self.nodes[index].slot);
            self.trace.begin(me, me, &DEADLINE);
            self.step(index, Input::Deadline, Address::TOOL, at)?;
        }
        let node = &mut self.nodes[index];
        node.busy_until = at;
        if let Some(replica) = &node.replica {
            let next = node.clock.when(replica.next_deadline());
            self.plan_turn(index, next);
        }
        Ok(())
    }

    /// A frame reaches a replica's node.
    pub(crate) fn hand_over(&mut self, index: usize, packet: PacketIndex, at: Time) -> Checked {
        if self.nodes[index].replica.is_none() {
            self.lose(packet);
            return Ok(());
        }
        let (from, relay, damaged) = {
            let packet = self.packets.get(packet);
            (packet.from, packet.relay, packet.damaged)
        };
        let bytes = self.packets.lend(packet);
        let done = match (relay, Frame::parse(&bytes, cluster_of(&self.nodes[index]))) {
            (Some(client), _) => {
                // For a client of this node: the replica never sees it.
                let back =
                    self.packets
                        .copy(Address::replica(self.nodes[index].slot), client, &bytes);
                self.packets.get_mut(back).damaged = damaged;
                self.send(back, at);
                Ok(())
            }
            (None, Ok(frame)) => {
                self.note_origin(index, from, &frame);
                let damage = self.is_really_damaged(damaged, &bytes);
                damage.and_then(|()| self.take(index, from, &frame, at))
            }
            (None, Err(_)) => {
                self.stats.refused += 1;
                Ok(())
            }
        };
        self.packets.give_back(packet, bytes);
        done
    }

    fn take(&mut self, index: usize, from: Address, frame: &Frame<'_>, at: Time) -> Checked {
        let to = Address::replica(self.nodes[index].slot);
        self.trace.begin(from, to, frame.header());
        let dropped = self.step(index, Input::Message(*frame), from, at)?;
        self.trace_arrival(from, to, *frame.header(), dropped);
        Ok(())
    }

    /// Damage that the checksums did not find.
    #[expect(clippy::unused_self, reason = "a check like all others")]
    fn is_really_damaged(&self, damaged: bool, bytes: &[u8]) -> Checked {
        ensure!(
            !damaged,
            "damaged bytes are no message (N17)",
            "{} bytes with flipped bits passed for a frame",
            bytes.len()
        );
        Ok(())
    }

    /// Remembers where a client's last message came from, as a node does.
    fn note_origin(&mut self, index: usize, from: Address, frame: &Frame<'_>) {
        let client = if frame.command() == <RequestMessage as vsr_types::Message>::COMMAND {
            frame.request().map(|request| request.header().client)
        } else {
            frame.fields::<Query>().map(|query| query.client)
        };
        if let Some(client) = client
            && let Some(origin) = self.nodes[index]
                .origins
                .get_mut(usize::from(Client::index_of(client)))
        {
            *origin = Some(from);
        }
    }

    /// One step of a replica; what comes out leaves at `at`.
    pub(crate) fn step(
        &mut self,
        index: usize,
        input: Input<'_>,
        sender: Address,
        at: Time,
    ) -> Checked<Option<DropReason>> {
        let node = &mut self.nodes[index];
        let Some(replica) = &mut node.replica else {
            return Ok(None);
        };
        let before = node.seen;
        let mut exit = Exit {
            from: Address::replica(node.slot),
            sender,
            packets: &mut self.packets,
            outgoing: &mut self.outgoing,
            origins: &node.origins,
            sent: Commands::default(),
        };
        let outcome = replica.step(node.clock.now(self.now), input, &mut exit);
        let sent = exit.sent;
        node.seen = Seen::of(replica);
        self.stats.steps += 1;
        self.observe(index, &before, sent)?;
        let mut outgoing = core::mem::take(&mut self.outgoing);
        for packet in outgoing.drain(..) {
            if !self.muted(index, packet) {
                self.send(packet, at);
            }
        }
        self.outgoing = outgoing;
        Ok(outcome.dropped)
    }

    /// Gives a packet to the network.
    pub(crate) fn send(&mut self, index: PacketIndex, at: Time) {
        self.stats.messages += 1;
        let packet = self.packets.get(index);
        if packet.to == Address::TOOL {
            self.mailbox.push((packet.from, packet.bytes.clone()));
            self.packets.release(index);
            return;
        }
        let fate = self.links.fate(self.packets.get(index), at);
        if let Some(second) = fate.second {
            let copy = self.packets.double(index);
            self.schedule(second, Kind::Arrive(copy));
        }
        match fate.first {
            Some(first) if self.is_streamed(index) => {
                let packet = self.packets.get(index);
                let (from, to) = (packet.from.raw(), packet.to.raw());
                let link = stream::link(usize::from(from), usize::from(to));
                self.streams.write(link, &packet.bytes);
                self.packets.release(index);
                self.schedule(first, Kind::Flow(link));
            }
            Some(first) => {
                if fate.damaged {
                    self.stats.damaged += 1;
                    self.links.damage(self.packets.get_mut(index));
                }
                self.schedule(first, Kind::Arrive(index));
            }
            None => self.lose(index),
        }
    }

    /// Whether a packet travels as bytes of a stream. What a node is only to pass on does not.
    fn is_streamed(&self, index: PacketIndex) -> bool {
        let packet = self.packets.get(index);
        self.plan.weather.stream
            && packet.relay.is_none()
            && packet.from.as_replica().is_some()
            && packet.to.as_replica().is_some()
    }

    /// Some bytes of a stream arrive.
    fn flow(&mut self, link: u16) {
        let (from, to) = stream::ends(link);
        let damage = self.links.damages(self.now);
        self.stats.damaged += u64::from(damage);
        if self.streams.flow(link, damage) {
            self.schedule(self.now + super::plan::MICROSECOND, Kind::Flow(link));
        }
        while let Some(found) = self.streams.next(link) {
            let (from, to_address) = (Address::replica(from as u8), Address::replica(to as u8));
            let packet = self.packets.copy(from, to_address, &found.bytes);
            self.packets.get_mut(packet).damaged = found.damaged;
            self.reach(to, packet);
        }
    }

    /// Takes the notes about a replica's machine.
    pub(crate) fn take_notes(&mut self, index: usize) -> Checked {
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else {
            return Ok(());
        };
        replica.machine().drain(&mut self.notes);
        if replica.machine().has_diverged() {
            if !self.is_tainted(index) {
                self.taint(index);
            }
            return Ok(());
        }
        let slot = usize::from(node.slot);
        self.history.notes(slot, &mut node.cursor, &self.notes)
    }
}
