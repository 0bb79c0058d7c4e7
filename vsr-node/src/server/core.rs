//! The replica, its connections and their receive buffers, behind one `RefCell`.
//!
//! Tasks borrow it, do their part without waiting, and let go. What lies in a receive buffer is parsed
//! and handed to the replica where it lies.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytemuck::Zeroable;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;
use vsr_consensus::{Input, Replica, StateMachine};
use vsr_net::Ingress;
use vsr_net::handshake::{Identity, Refusal};
use vsr_types::memory::Level;
use vsr_types::message::{
    self, Command, Inspect, InspectReply, LinkKind, PeerStatus, Ping, Pong, QueryReply, Refuse,
    RefuseReason, Reject,
};
use vsr_types::{
    ClientId, Digest, Frame, FrameError, Header, MemberId, Nonce, Now, ReplicaIndex, Timestamp,
    View, limits,
};

use super::links::{Links, Source};

/// The most frames of one connection that are handled before others get their turn.
const FRAMES_PER_VISIT: usize = 128;

/// The most deadlines of the replica that are handled in a row.
const DEADLINES_PER_TURN: usize = 64;

/// And for how long: a replica that works off a backlog, or gives its state away, still hears everybody
/// in between.
const DEADLINES_TIME_MAX: Duration = Duration::from_micros(200);

/// Both clocks. The monotonic one begins when the server does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            monotonic: vsr_types::Instant::ZERO.after(self.start.elapsed()),
            wall: Timestamp::from_nanos(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)),
        }
    }

    /// The runtime's instant of a replica's deadline; far ones are cut, and looked at again.
    pub(super) fn instant(&self, deadline: vsr_types::Instant) -> Instant {
        const FAR: Duration = Duration::from_secs(3600);
        let from_start = Duration::from_nanos(deadline.as_nanos());
        (self.start + from_start.min(self.start.elapsed() + FAR)).max(self.start)
    }
}

/// What handling a connection's frames came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// All whole frames were handled.
    Done,
    /// There are more, but it is others' turn.
    More,
    /// Nothing more is taken before the connection's send buffer has emptied.
    Congested,
    /// A tool asks something that is answered with nothing borrowed.
    Inspect(Inspect),
    /// The connection is at its end.
    Close(String),
    /// The connection is at its end, and the other side is told why.
    Refuse(Refusal),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Core<S> {
    pub(super) replica: Replica<S>,
    pub(super) links: Links,
    pub(super) clock: Clock,
    /// Receive buffers of peers by index, then of the places.
    pub(super) ingress: Vec<Ingress>,
    pub(super) cluster_name: Digest,
    pub(super) configuration: u64,
    pub(super) member: MemberId,
    pub(super) operation_size_max: usize,
}

impl<S: StateMachine> Core<S> {
    /// What this replica says of itself in a handshake.
    pub(super) fn identity(&self) -> Identity {
        let report = self.replica.report();
        Identity {
            cluster_name: self.cluster_name,
            configuration: self.configuration,
            replica: report.replica,
            replicas: report.replicas,
            member: self.member,
            incarnation: report.incarnation,
            cluster: report.cluster,
            view: report.view,
        }
    }

    /// How much of what the server allocated is used.
    pub(super) fn levels(&self) -> Vec<Level> {
        let (peers, places) = self.ingress.split_at(self.links.peers.len());
        let fullest = |of: &[Ingress]| of.iter().map(Ingress::most).max().unwrap_or(0);
        let (most_peers, most_places) = self.links.most_up();
        let mut levels = Vec::from(self.replica.levels());
        levels.extend([
            Level::new("peers' receive buffers", self.links.peers_up(), most_peers)
                .with_fullest(fullest(peers)),
            Level::new(
                "clients' receive buffers",
                self.links.places_taken(),
                most_places,
            )
            .with_fullest(fullest(places)),
        ]);
        levels.extend(self.links.levels());
        levels.push(Level::new("replica", 1, 1));
        levels
    }

    /// Touches everything that was allocated, before anything is in it.
    pub(super) fn prefault(&mut self) {
        self.ingress.iter_mut().for_each(Ingress::prefault);
        self.links.prefault();
        self.replica.prefault();
    }

    fn ingress_of(&mut self, source: Source) -> &mut Ingress {
        let at = match source {
            Source::Peer(peer) => usize::from(peer),
            Source::Place { place, .. } => self.links.peers.len() + usize::from(place),
            Source::Local => unreachable!("local clients have no socket"),
        };
        &mut self.ingress[at]
    }

    /// A new connection begins with an empty buffer.
    pub(super) fn clear_ingress(&mut self, source: Source) {
        self.ingress_of(source).clear();
    }

    /// Whether `source` still is the connection of `generation`.
    fn is_current(&self, source: Source, generation: u32) -> bool {
        let out = match source {
            Source::Peer(peer) => &self.links.peers[usize::from(peer)].out,
            Source::Place { place, .. } => &self.links.places[usize::from(place)].out,
            Source::Local => return false,
        };
        out.is_up() && out.generation == generation
    }

    /// Reads what is there into the connection's buffer. Zero bytes: the connection is at its end.
    pub(super) fn poll_read(
        &mut self,
        source: Source,
        generation: u32,
        socket: &mut OwnedReadHalf,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        if !self.is_current(source, generation) {
            return Poll::Ready(Ok(0));
        }
        let ingress = self.ingress_of(source);
        let mut buffer = ReadBuf::new(ingress.space());
        // `poll_read` and not `try_read`: it remembers that a short read emptied the socket, which
        // saves the system call that would find that out.
        ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        ingress.filled(count);
        if let Source::Peer(peer) = source {
            self.links.counters.peer_bytes_received += count as u64;
            let peer = &mut self.links.peers[usize::from(peer)];
            peer.heard = Instant::now();
            peer.news.raise();
        }
        Poll::Ready(Ok(count))
    }

    /// Handles frames that a peer sent.
    pub(super) fn visit_peer(&mut self, peer: ReplicaIndex, generation: u32) -> Visit {
        let source = Source::Peer(peer.raw());
        if !self.is_current(source, generation) {
            return Visit::Close("replaced by a newer connection".to_owned());
        }
        let now = self.clock.now();
        let Self {
            replica,
            links,
            ingress,
            ..
        } = self;
        let ingress = &mut ingress[peer.as_usize()];
        links.source = source;
        for _ in 0..FRAMES_PER_VISIT {
            let bytes = match ingress.next_frame() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Visit::Done,
                Err(error) => {
                    links.counters.streams_lost += 1;
                    return Visit::Close(error.to_string());
                }
            };
            links.counters.frames_received += 1;
            let frame = match Frame::parse(bytes, replica.cluster()) {
                Ok(frame) => frame,
                Err(error) => {
                    // The stream is whole: the next frame may be better. While a cluster is formed,
                    // peers that belong to it already speak to us, who do not yet: no complaint.
                    if error != FrameError::Cluster || !replica.cluster().is_zero() {
                        complain(links, peer, error);
                    }
                    continue;
                }
            };
            match frame.command() {
                Command::Reply | Command::Reject | Command::QueryReply => {
                    // Clients know nothing of lives, so what a former one says ends here (R0.1).
                    if frame.header().incarnation() < links.newest[peer.as_usize()] {
                        links.counters.frames_stale += 1;
                    } else if let Some(client) = addressee(&frame) {
                        links.route_back(client, bytes);
                    }
                }
                Command::Refuse => return Visit::Close(refusal_in(&frame)),
                Command::Hello | Command::Welcome | Command::Inspect => {
                    links.counters.frames_unexpected += 1;
                    return Visit::Close("it sent what no peer sends".to_owned());
                }
                command => {
                    let is_of_itself = matches!(command, Command::Ping | Command::Pong)
                        && frame.header().replica() == peer;
                    let (life, theirs) = (frame.header().incarnation(), frame.header().cluster());
                    if let Some(client) = asker(&frame) {
                        links.heard_client(client);
                    }
                    let outcome = replica.step(now, Input::Message(frame), links);
                    let is_ours = !theirs.is_zero() && theirs == replica.cluster();
                    if is_of_itself && is_ours && outcome.dropped.is_none() {
                        links.believed(peer, life);
                    }
                }
            }
        }
        Visit::More
    }

    /// Handles frames that a client or tool sent.
    pub(super) fn visit_place(&mut self, place: u16, generation: u32) -> Visit {
        let source = Source::Place { place, generation };
        if !self.is_current(source, generation) {
            return Visit::Close("closed".to_owned());
        }
        let now = self.clock.now();
        let Self {
            replica,
            links,
            ingress,
            ..
        } = self;
        let kind = links.places[usize::from(place)].kind;
        let ingress = &mut ingress[links.peers.len() + usize::from(place)];
        for _ in 0..FRAMES_PER_VISIT {
            if links.pause_if_congested(place) {
                return Visit::Congested;
            }
            let parsed = match ingress.next_frame() {
                Ok(Some(bytes)) => Frame::parse(bytes, replica.cluster()),
                Ok(None) => return Visit::Done,
                Err(error) => {
                    links.counters.streams_lost += 1;
                    Err(error)
                }
            };
            links.counters.frames_received += 1;
            links.source = source;
            let frame = match parsed {
                Ok(frame) => frame,
                Err(error) => {
                    links.counters.frames_bad += 1;
                    return Visit::Refuse(refusal_of(error));
                }
            };
            match (kind, frame.command()) {
                (_, Command::Ping) => answer_ping(replica, links, &frame),
                (LinkKind::Client, Command::Request | Command::Query) => {
                    if let Some(client) = asker(&frame) {
                        links.heard_client(client);
                    }
                    replica.step(now, Input::Message(frame), links);
                }
                (
                    LinkKind::Tool,
                    Command::InitPropose
                    | Command::InitCommit
                    | Command::HandOver
                    | Command::GetImage
                    | Command::PutImage,
                ) => {
                    replica.step(now, Input::Message(frame), links);
                }
                (LinkKind::Tool, Command::Inspect) => {
                    if let Some(&inspect) = frame.fields() {
                        return Visit::Inspect(inspect);
                    }
                }
                (_, command) => {
                    links.counters.frames_unexpected += 1;
                    let received = command as u64;
                    return Visit::Refuse(Refusal::new(RefuseReason::BadFrame, 0, received));
                }
            }
        }
        Visit::More
    }

    /// A request or query of a client inside this process.
    pub(super) fn submit(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let frame = Frame::parse(bytes, self.replica.cluster())?;
        let Some(client) = asker(&frame) else {
            // Nothing else comes from clients.
            return Err(FrameError::Command {
                command: frame.command() as u8,
            });
        };
        self.links.source = Source::Local;
        self.links.heard_client(client);
        self.replica
            .step(self.clock.now(), Input::Message(frame), &mut self.links);
        Ok(())
    }

    /// Lets the replica do what is due, for a bounded time; says whether more is.
    pub(super) fn step_deadlines(&mut self) -> bool {
        let begun = self.clock.now().monotonic;
        for _ in 0..DEADLINES_PER_TURN {
            let now = self.clock.now();
            if self.replica.next_deadline() > now.monotonic {
                return false;
            }
            if now.monotonic.since(begun) > DEADLINES_TIME_MAX {
                return true;
            }
            self.replica.step(now, Input::Deadline, &mut self.links);
            // The replica sends in one deadline and executes in the next: nobody waits for the latter.
            self.links.flush();
        }
        true
    }

    /// Answers a tool.
    pub(super) fn answer_inspect(
        &mut self,
        source: Source,
        nonce: Nonce,
        answer: &Result<String, String>,
    ) {
        let too_large = r#"{"error":"the answer is larger than a frame"}"#;
        let (body, error) = match answer {
            Ok(json) if json.len() > limits::BODY_SIZE_MAX => (too_large, 1),
            Ok(json) => (json.as_str(), 0),
            Err(message) if message.len() > limits::BODY_SIZE_MAX => (too_large, 1),
            Err(message) => (message.as_str(), 1),
        };
        let reply = InspectReply {
            nonce,
            error,
            ..InspectReply::zeroed()
        };
        let report = self.replica.report();
        let mut header = Header::new(reply);
        header.set_cluster(report.cluster);
        header.set_sender(report.replica, self.member, report.incarnation);
        header.set_view(report.view);
        header.seal(body.as_bytes());
        self.links.source = source;
        let _: vsr_consensus::Sent =
            vsr_consensus::Outbox::sender(&mut self.links, &header, body.as_bytes());
    }

    /// Asks whoever holds the link to `peer` to give a sign, and returns the connection's generation.
    pub(super) fn probe(&mut self, peer: ReplicaIndex) -> u32 {
        let report = self.replica.report();
        let mut header = Header::new(Ping {
            sent_ns: self.clock.now().monotonic.as_nanos(),
            op: report.op,
            applied: report.applied,
            tail: report.tail,
            status: report.status as u8,
            reserved: [0; 7],
        });
        header.set_cluster(report.cluster);
        header.set_sender(report.replica, self.member, report.incarnation);
        header.set_epoch(report.epoch);
        header.set_view(report.view);
        let body = bytemuck::bytes_of(&report.digest);
        header.seal(body);
        let _: vsr_consensus::Sent =
            vsr_consensus::Outbox::peer(&mut self.links, peer, &header, body);
        self.links.peers[peer.as_usize()].out.generation
    }

    /// Tells clients over sockets, when the replica has come to another view than the one that was
    /// told last, so that they need not find out by waiting. Says whether there is something to tell.
    pub(super) fn announce_view(&mut self, told: &mut View) -> bool {
        let report = self.replica.report();
        if report.view == *told || report.status != PeerStatus::Normal {
            return false;
        }
        *told = report.view;
        for place in 0..self.links.places.len() as u16 {
            let at = &self.links.places[usize::from(place)];
            let generation = at.out.generation;
            if at.kind == LinkKind::Client && at.out.is_up() {
                self.links.source = Source::Place { place, generation };
                send_pong(&self.replica, &mut self.links, 0);
            }
        }
        true
    }
}

/// Answers a client's or tool's ping: that is the node's business, replicas ping only each other.
fn answer_ping<S: StateMachine>(replica: &Replica<S>, links: &mut Links, frame: &Frame<'_>) {
    if let Some(ping) = frame.fields::<Ping>() {
        send_pong(replica, links, ping.sent_ns);
    }
}

/// Says what this replica is to the source of the links.
fn send_pong<S: StateMachine>(replica: &Replica<S>, links: &mut Links, sent_ns: u64) {
    let report = replica.report();
    let mut header = Header::new(Pong {
        sent_ns,
        op: report.op,
        applied: report.applied,
        tail: report.tail,
        status: report.status as u8,
        reserved: [0; 7],
    });
    header.set_cluster(report.cluster);
    header.set_sender(report.replica, MemberId::ZERO, report.incarnation);
    header.set_epoch(report.epoch);
    header.set_view(report.view);
    header.seal(bytemuck::bytes_of(&report.digest));
    let body = bytemuck::bytes_of(&report.digest);
    let _: vsr_consensus::Sent = vsr_consensus::Outbox::sender(links, &header, body);
}

/// Who asks, if the message is a request or a query.
fn asker(frame: &Frame<'_>) -> Option<ClientId> {
    match frame.command() {
        Command::Request => Some(frame.request()?.header().client),
        Command::Query => Some(frame.fields::<message::Query>()?.client),
        _ => None,
    }
}

/// Whom an answer is for.
pub(super) fn addressee(frame: &Frame<'_>) -> Option<ClientId> {
    frame
        .fields::<message::Reply>()
        .map(|reply| reply.client)
        .or_else(|| frame.fields::<QueryReply>().map(|reply| reply.client))
        .or_else(|| frame.fields::<Reject>().map(|reject| reject.client))
}

fn refusal_in(frame: &Frame<'_>) -> String {
    frame
        .fields::<Refuse>()
        .map_or_else(String::new, |refuse| Refusal::read(refuse).to_string())
}

fn refusal_of(error: FrameError) -> Refusal {
    match error {
        FrameError::Size { size } => Refusal::new(
            RefuseReason::BadFrame,
            limits::FRAME_SIZE_MAX as u64,
            u64::from(size),
        ),
        FrameError::Protocol { protocol } => Refusal::new(
            RefuseReason::Version,
            limits::PROTOCOL.into(),
            protocol.into(),
        ),
        _ => Refusal::new(RefuseReason::BadFrame, 0, 0),
    }
}

fn complain(links: &mut Links, peer: ReplicaIndex, error: FrameError) {
    links.counters.frames_bad += 1;
    if let Some(suppressed) = links.complaints.allow() {
        tracing::warn!(%peer, %error, suppressed, "a frame from a peer was dropped");
    }
}
