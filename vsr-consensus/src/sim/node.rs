//! One process of the simulated cluster: a replica, its inbox, its clock, and what was last seen of it.

use std::collections::VecDeque;
use std::vec::Vec;

use vsr_types::message::{PeerStatus, Prepare};
use vsr_types::{
    ClientId, ClusterId, Epoch, Header, Identity, Incarnation, Instant, Now, Op, ReplicaIndex,
    Timestamp,
};

use super::check::history::Log;
use super::check::tap::Commands;
use super::client::Client;
use super::machine::{Simulated, Watched};
use super::net::{Address, PacketIndex, Packets};
use super::plan::Time;
use crate::{Config, HaltReason, Outbox, Replica, Sent};

/// When the story begins, on the wall clock: any number that is not the monotonic clock's.
const WALL_START: u64 = 1_700_000_000_000_000_000;

/// A machine's clocks: a rate of their own, and jumps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    since: Time,
    shown: u64,
    wall: i64,
    /// Local nanoseconds per million true ones.
    rate: u64,
}

impl Clock {
    pub(crate) const fn new(rate: u64, shown: u64) -> Self {
        Self {
            since: 0,
            shown,
            wall: 0,
            rate,
        }
    }

    const fn shows(&self, now: Time) -> u64 {
        let passed = (now - self.since) as u128 * self.rate as u128 / 1_000_000;
        self.shown + passed as u64
    }

    pub(crate) fn now(&self, now: Time) -> Now {
        let monotonic = self.shows(now);
        let wall = (WALL_START + monotonic).saturating_add_signed(self.wall);
        Now {
            monotonic: Instant::from_nanos(monotonic),
            wall: Timestamp::from_nanos(wall),
        }
    }

    /// When the clock will show at least `instant`.
    pub(crate) fn when(&self, instant: Instant) -> Time {
        let left = u128::from(instant.as_nanos().saturating_sub(self.shown));
        let passed = (left * 1_000_000).div_ceil(u128::from(self.rate));
        self.since
            .saturating_add(Time::try_from(passed).unwrap_or(Time::MAX))
    }

    pub(crate) const fn jump(&mut self, now: Time, ahead: u64, wall: i64) {
        self.shown = self.shows(now) + ahead;
        self.since = now;
        self.wall += wall;
    }
}

/// What was seen of a replica after its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: PeerStatus,
    pub(crate) halted: bool,
    pub(crate) superseded: bool,
    pub(crate) incarnation: Incarnation,
    pub(crate) view: u64,
    pub(crate) primary: u8,
    pub(crate) op: Op,
    pub(crate) commit: Op,
    pub(crate) applied: Op,
    pub(crate) archive_due: Option<Epoch>,
}

impl Seen {
    /// Of a process that has never run.
    pub(crate) fn nothing() -> Self {
        Self {
            status: PeerStatus::Blank,
            halted: false,
            superseded: false,
            incarnation: Incarnation::default(),
            view: 0,
            primary: 0,
            op: Op::ZERO,
            commit: Op::ZERO,
            applied: Op::ZERO,
            archive_due: None,
        }
    }

    pub(crate) fn of<M: Simulated>(replica: &Replica<Watched<M>>) -> Self {
        let report = replica.report();
        Self {
            status: report.status,
            // The end of all numbers is no failure, and whoever is at it takes part.
            halted: report.halted.is_some_and(|why| why != HaltReason::OpMax),
            superseded: report.halted == Some(HaltReason::Superseded),
            incarnation: report.incarnation,
            view: report.view.raw(),
            primary: report.primary.raw(),
            op: report.op,
            commit: report.commit,
            applied: report.applied,
            archive_due: report.archive_due,
        }
    }

    /// Whether it has its memory.
    pub(crate) fn is_operational(&self) -> bool {
        matches!(self.status, PeerStatus::Normal | PeerStatus::ViewChange)
    }

    pub(crate) fn leads(&self, replica: usize) -> bool {
        self.status == PeerStatus::Normal && usize::from(self.primary) == replica
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Node<M> {
    /// Whose place it fills.
    pub(crate) slot: u8,
    /// None while the process is down.
    pub(crate) replica: Option<Replica<Watched<M>>>,
    pub(crate) config: Config,
    pub(crate) life: u32,
    pub(crate) clock: Clock,
    pub(crate) inbox: VecDeque<PacketIndex>,
    /// When its next turn is; [`Time::MAX`]: none is planned.
    pub(crate) turn_at: Time,
    /// It does nothing before this.
    pub(crate) busy_until: Time,
    /// How many times longer everything takes.
    pub(crate) slow: u64,
    pub(crate) seen: Seen,
    /// How much of the history its machine has executed.
    pub(crate) cursor: usize,
    /// Nothing that is sent to it arrives before this.
    pub(crate) deaf_until: Time,
    /// Nothing that it sends arrives before this.
    pub(crate) mute_until: Time,
    /// Whether what it sends meanwhile arrives then, or never.
    pub(crate) is_held: bool,
    /// The entry whose memory went bad last.
    pub(crate) rotten: Option<Op>,
    /// Where each client's last message came from.
    pub(crate) origins: Vec<Option<Address>>,
    /// When it starts again; [`Time::MAX`]: not before everything is healed.
    pub(crate) restart_at: Time,
    /// When it is done with archiving; [`Time::MAX`]: it is not at it.
    pub(crate) archive_at: Time,
    /// When it lost its memory last.
    pub(crate) crashed_at: Time,
}

impl<M: Simulated> Log for Replica<Watched<M>> {
    fn identity(&self, op: Op) -> Option<Identity> {
        let header = self.log_header(op)?;
        // A ring never shows another lap's entry; the checker asks all the same.
        let is_it = header.fields::<Prepare>().is_some_and(|p| p.op == op);
        is_it.then(|| header.identity())
    }

    fn entry(&self, op: Op) -> Option<(Header, &[u8])> {
        Some((self.log_header(op)?, self.log_body(op)?))
    }
}

impl<M: Simulated> Node<M> {
    /// Whether the process runs and has its memory.
    pub(crate) fn is_operational(&self) -> bool {
        self.replica.is_some() && self.seen.is_operational()
    }

    /// Whether an entry that went bad, and is still to be executed, has not been replaced yet.
    pub(crate) fn is_rotten(&self) -> bool {
        let (Some(op), Some(replica)) = (self.rotten, &self.replica) else {
            return false;
        };
        let is_open = op > self.seen.applied && op <= self.seen.op;
        is_open && replica.log_header(op).is_some() && replica.log_body(op).is_none()
    }

    /// Whether this process holds the entry, or has executed it.
    pub(crate) fn holds(&self, op: Op, identity: &Identity) -> bool {
        self.replica.as_ref().is_some_and(|replica| {
            self.seen.applied >= op || replica.identity(op).is_some_and(|held| held == *identity)
        })
    }
}

/// A replica's way out: everything is copied into packets, which the network gets after the step.
#[derive(Debug)]
pub(crate) struct Exit<'a> {
    pub(crate) from: Address,
    pub(crate) sender: Address,
    pub(crate) packets: &'a mut Packets,
    pub(crate) outgoing: &'a mut Vec<PacketIndex>,
    pub(crate) origins: &'a [Option<Address>],
    pub(crate) sent: Commands,
}

impl Exit<'_> {
    fn leave(&mut self, to: Address, header: &Header, body: &[u8]) -> PacketIndex {
        let index = self.packets.make(self.from, to, header, body);
        self.outgoing.push(index);
        index
    }

    fn note(&mut self, header: &Header) {
        if let Some(command) = header.command() {
            self.sent.add(command);
        }
    }
}

impl Outbox for Exit<'_> {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        self.note(header);
        self.leave(Address::replica(to.raw()), header, body);
        Sent::Queued
    }

    fn client(&mut self, to: ClientId, header: &Header, body: &[u8]) -> Sent {
        self.note(header);
        let client = Client::index_of(to);
        match self.origins.get(usize::from(client)).copied().flatten() {
            // It came through another replica's node, which passes the answer back.
            Some(origin) if origin.as_replica().is_some() => {
                let index = self.leave(origin, header, body);
                self.packets.get_mut(index).relay = Some(Address::client(client));
                Sent::Queued
            }
            Some(origin) => {
                self.leave(origin, header, body);
                Sent::Queued
            }
            None => Sent::Dropped,
        }
    }

    fn sender(&mut self, header: &Header, body: &[u8]) -> Sent {
        self.note(header);
        self.leave(self.sender, header, body);
        Sent::Queued
    }
}

/// What frames must belong to, for a process that is down.
pub(crate) fn cluster_of<M: Simulated>(node: &Node<M>) -> ClusterId {
    node.replica
        .as_ref()
        .map_or(ClusterId::ZERO, Replica::cluster)
}
