//! Where frames leave: the replica's [`Outbox`], over connections that come and go.
//!
//! Every peer has its send buffer for good; connections are put into it and taken out again. Clients
//! and tools share a fixed number of places. During a step frames are only copied; the turn task
//! writes them, once for every connection that something was written to.

use std::io;
use std::task::Context;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vsr_consensus::{Outbox, Sent};
use vsr_net::{Egress, Flushed, Ingress};
use vsr_types::memory::{Level, Pool};
use vsr_types::message::LinkKind;
use vsr_types::{ClientId, Header, Incarnation, MemberId, ReplicaIndex, limits};

use super::counters::{NetCounters, RateLimit};
use super::inbox::Inbox;
use super::signal::Signal;
use super::table::ClientTable;

/// One in so many places is kept for tools, so that an operator can still ask what is wrong when
/// clients have taken all others.
const TOOLS_SHARE: usize = 16;

/// One connection, or the place for one.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) egress: Egress,
    pub(super) socket: Option<OwnedWriteHalf>,
    /// Raised with every connection, so that what belongs to an older one is recognized.
    pub(super) generation: u32,
    is_dirty: bool,
    /// The task that reads from it.
    pub(super) reader: Option<AbortHandle>,
}

impl Out {
    fn new(capacity: usize) -> Self {
        let egress = Egress::new(capacity);
        Self {
            egress,
            socket: None,
            generation: 0,
            is_dirty: false,
            reader: None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        self.socket.is_some()
    }

    /// Puts a connection into this place and returns its generation.
    fn open(&mut self, socket: OwnedWriteHalf) -> u32 {
        self.close();
        self.socket = Some(socket);
        self.generation
    }

    /// Drops the connection; whoever still works for it will see another generation.
    fn close(&mut self) {
        self.socket = None;
        self.generation = self.generation.wrapping_add(1);
        self.egress.clear();
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
    }
}

/// The link to one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) out: Out,
    /// The process at the other end of the connection.
    pub(super) member: MemberId,
    /// Its life, as far as the replica has believed it; zero while it holds nothing.
    pub(super) life: Incarnation,
    /// Raised when something was received and when the connection ends.
    pub(super) news: Signal,
    pub(super) address: String,
    pub(super) heard: Instant,
    pub(super) connections: u64,
    pub(super) last_error: Option<String>,
}

/// A place for a client or a tool.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) out: Out,
    pub(super) kind: LinkKind,
    /// Raised when the send buffer has emptied enough to read on.
    pub(super) resume: Signal,
    is_paused: bool,
}

/// One end of a connection, or the inside of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A peer, over whichever connection is up.
    Peer(u8),
    /// A client or tool, over this one connection.
    Place { place: u16, generation: u32 },
    /// A client inside this process.
    Local,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Peer(u8),
    Place(u16),
}

/// All connections of a node.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) me: ReplicaIndex,
    pub(super) peers: Vec<Peer>,
    pub(super) places: Vec<Place>,
    free: Vec<u16>,
    /// The most places that were taken at once, and links that were up.
    most_places: usize,
    most_peers: usize,
    /// How many of the places are for tools only.
    for_tools: usize,
    table: ClientTable<Source>,
    pub(super) inbox: Inbox,
    /// Who sent the message that is being handled.
    pub(super) source: Source,
    dirty: Vec<Target>,
    blocked: Vec<Target>,
    /// The newest life of each replica that ours has believed.
    pub(super) newest: [Incarnation; limits::REPLICAS_MAX],
    pub(super) counters: NetCounters,
    pub(super) complaints: RateLimit,
}

/// The sizes that [`Links`] is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) peer_send: usize,
    pub(super) client_send: usize,
    pub(super) connections: usize,
    pub(super) clients: usize,
    pub(super) inbox: usize,
}

impl Links {
    pub(super) fn new(me: ReplicaIndex, peers: &[String], sizes: Sizes, seed: u64) -> Self {
        let peer = |(index, address): (usize, &String)| Peer {
            // No link to oneself, so no buffer either.
            out: Out::new(if index == me.as_usize() {
                vsr_types::HEADER_SIZE
            } else {
                sizes.peer_send
            }),
            member: MemberId::ZERO,
            life: Incarnation::default(),
            news: Signal::default(),
            address: address.clone(),
            heard: Instant::now(),
            connections: 0,
            last_error: None,
        };
        let place = || Place {
            out: Out::new(sizes.client_send),
            kind: LinkKind::Client,
            resume: Signal::default(),
            is_paused: false,
        };
        let targets = peers.len() + sizes.connections;
        Self {
            me,
            peers: peers.iter().enumerate().map(peer).collect(),
            places: (0..sizes.connections).map(|_| place()).collect(),
            free: (0..sizes.connections as u16).rev().collect(),
            most_places: 0,
            most_peers: 0,
            for_tools: sizes.connections / TOOLS_SHARE,
            table: ClientTable::new(sizes.clients, seed),
            inbox: Inbox::new(sizes.inbox),
            source: Source::Local,
            dirty: Vec::with_capacity(targets),
            blocked: Vec::with_capacity(targets),
            newest: [Incarnation::default(); limits::REPLICAS_MAX],
            counters: NetCounters::default(),
            complaints: RateLimit::new(),
        }
    }

    /// What is allocated here.
    pub(super) fn pools(peers: usize, sizes: Sizes) -> Vec<Pool> {
        let pool = Pool {
            part: "peers' send buffers",
            name: "peers' send buffers",
            purpose: "frames for each of the others; the oldest go when one is full",
            setting: "peers",
            unit: "links",
            count: peers,
            size: sizes.peer_send,
            is_later: false,
        };
        let mut pools = vec![
            pool,
            Pool {
                part: "clients' send buffers",
                name: "clients' send buffers",
                purpose: "frames for each native client or tool",
                setting: "connections-max",
                unit: "connections",
                count: sizes.connections,
                size: sizes.client_send,
                ..pool
            },
            Pool {
                part: "the rest",
                name: "links",
                purpose: "what is known of each replica of the list",
                unit: "replicas",
                count: peers + 1,
                size: size_of::<Peer>() + 2 * size_of::<Target>() + size_of::<Ingress>(),
                ..pool
            },
            Pool {
                part: "the rest",
                name: "connections",
                purpose: "what is known of each native client or tool",
                setting: "connections-max",
                unit: "connections",
                count: sizes.connections,
                size: size_of::<Place>()
                    + size_of::<u16>()
                    + 2 * size_of::<Target>()
                    + size_of::<Ingress>(),
                ..pool
            },
            Pool {
                part: "inbox of local clients",
                name: "inbox of local clients",
                purpose: "answers for the RESP port: one fills while the other is read",
                setting: "fixed",
                unit: "buffers",
                count: 2,
                size: sizes.inbox,
                ..pool
            },
        ];
        pools.extend(ClientTable::<Source>::pools(sizes.clients));
        pools
    }

    /// How much of that is used.
    pub(super) fn levels(&self) -> Vec<Level> {
        let taken = self.places_taken();
        let (peers, most_peers) = (self.peers_up(), self.most_peers);
        let fullest = |most: usize, out: &Out| most.max(out.egress.most());
        let of_peers = self.peers.iter().map(|peer| &peer.out).fold(0, fullest);
        let of_places = self.places.iter().map(|place| &place.out).fold(0, fullest);
        let mut levels = vec![
            Level::new("peers' send buffers", peers, most_peers).with_fullest(of_peers),
            Level::new("clients' send buffers", taken, self.most_places).with_fullest(of_places),
            Level::new("links", peers + 1, most_peers + 1),
            Level::new("connections", taken, self.most_places),
            self.inbox.level(),
        ];
        levels.extend(self.table.levels());
        levels
    }

    /// How many links to peers are up.
    pub(super) fn peers_up(&self) -> usize {
        let peers = self.peers.iter();
        peers.filter(|peer| peer.out.is_up()).count()
    }

    /// The most links and the most connections of clients and tools that were up at once.
    pub(super) const fn most_up(&self) -> (usize, usize) {
        (self.most_peers, self.most_places)
    }

    /// Connections of clients and tools that are up.
    pub(super) const fn places_taken(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Touches the buffers: nothing is in them yet.
    pub(super) fn prefault(&mut self) {
        let peers = self.peers.iter_mut().map(|peer| &mut peer.out);
        let places = self.places.iter_mut().map(|place| &mut place.out);
        peers.chain(places).for_each(|out| out.egress.prefault());
        self.inbox.prefault();
    }

    /// A peer's new connection replaces the one before it, with everything that was queued for that.
    pub(super) fn open_peer(
        &mut self,
        peer: ReplicaIndex,
        member: MemberId,
        socket: OwnedWriteHalf,
    ) -> u32 {
        let peer = &mut self.peers[peer.as_usize()];
        peer.member = member;
        peer.life = Incarnation::default();
        peer.heard = Instant::now();
        peer.news.raise();
        peer.connections += 1;
        peer.last_error = None;
        self.counters.peers_welcomed += 1;
        let generation = peer.out.open(socket);
        self.most_peers = self.most_peers.max(self.peers_up());
        generation
    }

    /// Ends the connection of this generation, if it is still there.
    pub(super) fn close_peer(&mut self, peer: ReplicaIndex, generation: u32, why: &str) {
        let peer = &mut self.peers[peer.as_usize()];
        if peer.out.generation == generation && peer.out.is_up() {
            peer.out.close();
            peer.news.raise();
            peer.last_error = Some(why.to_owned());
            self.counters.links_lost += 1;
        }
    }

    /// The replica has believed a message of this life of a peer, received over the peer's link.
    pub(super) fn believed(&mut self, peer: ReplicaIndex, life: Incarnation) {
        let newest = &mut self.newest[peer.as_usize()];
        *newest = (*newest).max(life);
        self.peers[peer.as_usize()].life = life;
    }

    /// Whether a connection of this process and life may take the peer's link without asking: nobody
    /// has it, or the process itself has, or it is the life that is believed and the other is not.
    pub(super) fn may_take(&self, peer: ReplicaIndex, member: MemberId, life: Incarnation) -> bool {
        let at = peer.as_usize();
        let (holder, newest) = (&self.peers[at], self.newest[at]);
        let is_believed = life != Incarnation::default() && life == newest;
        !holder.out.is_up() || holder.member == member || (is_believed && holder.life < newest)
    }

    /// Whether a client or tool may still come in.
    pub(super) fn has_place(&self, kind: LinkKind) -> bool {
        let reserved = if kind == LinkKind::Tool {
            0
        } else {
            self.for_tools
        };
        self.free.len() > reserved
    }

    /// Takes a place for a client's or tool's connection.
    ///
    /// # Panics
    /// When all are taken; see [`Self::has_place`].
    pub(super) fn open_place(&mut self, kind: LinkKind, socket: OwnedWriteHalf) -> (u16, u32) {
        let index = self.free.pop().expect("the caller saw a free place");
        self.most_places = self.most_places.max(self.places_taken());
        let place = &mut self.places[usize::from(index)];
        place.kind = kind;
        place.is_paused = false;
        self.counters.clients_welcomed += 1;
        (index, place.out.open(socket))
    }

    /// Ends the connection of this generation, if it is still there.
    pub(super) fn close_place(&mut self, index: u16, generation: u32) {
        let place = &mut self.places[usize::from(index)];
        if place.out.generation == generation && place.out.is_up() {
            place.out.close();
            self.free.push(index);
        }
    }

    /// Notes where a client was heard from.
    pub(super) fn heard_client(&mut self, client: ClientId) {
        self.table.insert(client, self.source);
    }

    /// Passes a peer's reply on to the client that asked through this node.
    pub(super) fn route_back(&mut self, client: ClientId, frame: &[u8]) {
        match self.table.get(client) {
            // A client that has moved to another replica meanwhile: the peers route only to their
            // own clients, or a reply could go round for ever.
            None | Some(Source::Peer(_)) => self.counters.replies_unroutable += 1,
            Some(source) => {
                let _: Sent = self.send_to(source, frame, &[]);
            }
        }
    }

    /// Whether a place has so much to send that nothing more is read from it.
    pub(super) fn pause_if_congested(&mut self, index: u16) -> bool {
        let place = &mut self.places[usize::from(index)];
        place.is_paused = place.out.egress.is_congested();
        place.is_paused
    }

    fn mark_dirty(&mut self, target: Target) {
        let out = match target {
            Target::Peer(peer) => &mut self.peers[usize::from(peer)].out,
            Target::Place(place) => &mut self.places[usize::from(place)].out,
        };
        if !out.is_dirty {
            out.is_dirty = true;
            self.dirty.push(target);
        }
    }

    fn send_to(&mut self, to: Source, head: &[u8], tail: &[u8]) -> Sent {
        let queued = match to {
            Source::Peer(peer) => {
                let out = &mut self.peers[usize::from(peer)].out;
                let queued = out.is_up() && out.egress.push_parts(head, tail);
                if queued {
                    self.mark_dirty(Target::Peer(peer));
                }
                queued
            }
            Source::Place { place, generation } => {
                let out = &mut self.places[usize::from(place)].out;
                let is_same = out.is_up() && out.generation == generation;
                let queued = is_same && out.egress.push_parts(head, tail);
                if queued {
                    self.mark_dirty(Target::Place(place));
                }
                queued
            }
            Source::Local => self.inbox.push(head, tail),
        };
        if queued { Sent::Queued } else { Sent::Dropped }
    }

    /// Writes what has gathered, one write for each connection as far as the sockets take it.
    ///
    /// What was written last leaves first: a backup passes a prepare on before it acknowledges it, and
    /// in a cluster of three it is the acknowledgement that a client waits for.
    pub(super) fn flush(&mut self) {
        while let Some(target) = self.dirty.pop() {
            self.flush_one(target);
        }
    }

    fn flush_one(&mut self, target: Target) {
        let out = match target {
            Target::Peer(peer) => &mut self.peers[usize::from(peer)].out,
            Target::Place(place) => &mut self.places[usize::from(place)].out,
        };
        out.is_dirty = false;
        let Some(socket) = &out.socket else { return };
        match out.egress.flush(|slices| write(socket, slices)) {
            Ok(Flushed::All) => {}
            Ok(Flushed::Blocked) => {
                // Stays dirty while it is blocked: whatever is appended meanwhile waits with it.
                out.is_dirty = true;
                self.blocked.push(target);
            }
            Err(error) => {
                let generation = out.generation;
                match target {
                    Target::Peer(peer) => {
                        self.close_peer(ReplicaIndex::new(peer), generation, &error.to_string());
                    }
                    Target::Place(place) => self.close_place(place, generation),
                }
                return;
            }
        }
        if let Target::Place(place) = target {
            let place = &mut self.places[usize::from(place)];
            if place.is_paused && !place.out.egress.is_congested() {
                place.is_paused = false;
                place.resume.raise();
            }
        }
    }

    /// Looks whether blocked sockets take more now; those that do are dirty again. The task is woken
    /// when one of the others does.
    pub(super) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> bool {
        let mut at = 0;
        while let Some(&target) = self.blocked.get(at) {
            let out = match target {
                Target::Peer(peer) => &self.peers[usize::from(peer)].out,
                Target::Place(place) => &self.places[usize::from(place)].out,
            };
            let is_ready = match &out.socket {
                // An error shows itself when it is written to.
                Some(socket) => socket.as_ref().poll_write_ready(cx).is_ready(),
                None => true,
            };
            if is_ready {
                self.blocked.swap_remove(at);
                self.dirty.push(target);
            } else {
                at += 1;
            }
        }
        !self.dirty.is_empty()
    }
}

fn write(socket: &OwnedWriteHalf, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => socket.try_write(one),
        several => socket.try_write_vectored(several),
    }
}

impl Outbox for Links {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        let out = &mut self.peers[to.as_usize()].out;
        if !out.is_up() || !out.egress.push_over_oldest(header, body) {
            return Sent::Dropped;
        }
        self.mark_dirty(Target::Peer(to.raw()));
        Sent::Queued
    }

    fn client(&mut self, to: ClientId, header: &Header, body: &[u8]) -> Sent {
        match self.table.get(to) {
            Some(source) => self.send_to(source, bytemuck::bytes_of(header), body),
            None => {
                self.counters.replies_unroutable += 1;
                Sent::Dropped
            }
        }
    }

    fn sender(&mut self, header: &Header, body: &[u8]) -> Sent {
        self.send_to(self.source, bytemuck::bytes_of(header), body)
    }
}
