//! A replica with sockets and clocks: the loop that joins the pure parts.
//!
//! One thread, no locks, no channels. Tasks that read sockets borrow the core, hand frames to the
//! replica where they lie, and let go; what the replica decides is copied into the send buffers of
//! its connections. The turn task runs behind all readers that were ready, so that batches form by
//! themselves under load while a lone request leaves at once.
//!
//! ```text
//!   reader --\                                   /--> peers' rings ---\
//!   reader ---+--> Core { Replica::step } --Links+--> clients' rings --+--> turn: deliver, deadline,
//!   submit --/                                   \--> inbox (local) --/     one write each, one timer
//! ```
//!
//! Everything is allocated by [`Server::start`]; connections allocate when they are made, frames never.
//!
//! Where to read next: `core` for what happens to a frame, `links` for where frames leave, `turn` for
//! the order of things, `accept` for how connections come about.

mod accept;
mod core;
mod counters;
mod inbox;
mod links;
mod reader;
mod signal;
mod spin;
mod table;
#[cfg(test)]
mod tests;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use vsr_consensus::{Boot, HaltReason, Input, Outbox, Replica, Report, StateMachine};
use vsr_net::handshake::{Refusal, cluster_name_digest, configuration_digest};
use vsr_net::{Ingress, READ_SIZE_MAX};
use vsr_types::memory::{Level, Pool};
use vsr_types::message::{InspectTopic, RefuseReason};
use vsr_types::{
    ClientId, ClusterId, Epoch, Frame, FrameError, HEADER_SIZE, ReplicaIndex, View, limits,
};

use self::core::{Clock, Core};
use links::{Links, Sizes, Source};
use signal::Signal;

pub use counters::NetCounters;

/// What a server is made of. Every buffer follows from it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The replica's own configuration.
    pub consensus: vsr_consensus::Config,
    /// The cluster's name: a guard against connecting what does not belong together.
    pub cluster_name: String,
    /// The addresses of all replicas, `host:port`, the same list everywhere.
    pub peers: Vec<String>,
    /// Where to listen, `host:port`.
    pub listen: String,
    /// How many clients are remembered with where they were heard from.
    pub clients_max: usize,
    /// How many native clients and tools may be connected at once; one in sixteen places is for tools
    /// only. Peers need none of them.
    pub connections_max: usize,
    /// How many connections may be open that have not shaken hands. When there are more, the oldest
    /// make room: whoever belongs here says hello at once, so that nobody who stays silent keeps a peer
    /// out.
    pub half_open_max: usize,
    /// How long a handshake may take, dialled or accepted.
    pub handshake_timeout: Duration,
    /// The send buffer of each peer, in bytes.
    pub peer_send_bytes: usize,
    /// The send buffer of each client's connection, in bytes.
    pub client_send_bytes: usize,
    /// How many bytes of answers may wait for clients inside this process.
    pub inbox_bytes: usize,
    /// How long the loop looks for more before it sleeps; zero: not at all. See `spin`.
    pub spin: Duration,
    /// Whether all of the memory is touched when it is allocated, so that it is resident.
    pub prefault: bool,
}

impl ServerConfig {
    /// The defaults, around the choices that have none.
    #[must_use]
    pub fn new(
        consensus: vsr_consensus::Config,
        cluster_name: String,
        peers: Vec<String>,
        listen: String,
    ) -> Self {
        Self {
            // Every session has a client, and queries come from others too.
            clients_max: 2 * consensus.sessions,
            consensus,
            cluster_name,
            peers,
            listen,
            // Each costs a receive and a send buffer; load comes through few connections with many
            // sessions, or through the RESP port.
            connections_max: 32,
            // As many as a cluster's clients may open at the same moment after an outage.
            half_open_max: 64,
            handshake_timeout: Duration::from_secs(2),
            // Eight batches of the largest size: a few milliseconds of a fast link.
            peer_send_bytes: 8 * limits::FRAME_SIZE_MAX,
            // One reply of the largest size while reading goes on, and one more.
            client_send_bytes: 2 * limits::FRAME_SIZE_MAX,
            inbox_bytes: 4 * limits::FRAME_SIZE_MAX,
            spin: Duration::from_micros(50),
            prefault: false,
        }
    }

    const fn sizes(&self) -> Sizes {
        Sizes {
            peer_send: self.peer_send_bytes,
            client_send: self.client_send_bytes,
            connections: self.connections_max,
            clients: self.clients_max,
            inbox: self.inbox_bytes,
        }
    }

    /// What will be allocated beside the state machine.
    #[must_use]
    pub fn pools<S: StateMachine>(&self) -> Vec<Pool> {
        let peers = self.peers.len().saturating_sub(1);
        let pool = Pool {
            part: "peers' receive buffers",
            name: "peers' receive buffers",
            purpose: "frames of each of the others, where they are handled",
            setting: "peers",
            unit: "links",
            count: peers,
            size: PEER_INGRESS,
            is_later: false,
        };
        let mut pools = Vec::from(Replica::<S>::pools(&self.consensus));
        pools.extend([
            pool,
            Pool {
                part: "clients' receive buffers",
                name: "clients' receive buffers",
                purpose: "frames of each native client or tool",
                setting: "connections-max",
                unit: "connections",
                count: self.connections_max,
                size: CLIENT_INGRESS,
                ..pool
            },
        ]);
        pools.extend(Links::pools(peers, self.sizes()));
        pools.push(Pool {
            part: "the rest",
            name: "replica",
            purpose: "the replica itself: counters, digests, what is known of each peer",
            setting: "fixed",
            unit: "replicas",
            count: 1,
            size: size_of::<Core<S>>(),
            ..pool
        });
        pools
    }

    fn validate(&self) -> Result<(), ServerError> {
        let replicas = usize::from(self.consensus.replicas);
        let wrong = |field, why: String| Err(ServerError::Config { field, why });
        if self.peers.len() != replicas {
            return wrong(
                "peers",
                format!("{} are listed of {replicas}", self.peers.len()),
            );
        }
        if self.cluster_name.is_empty() || self.cluster_name.len() > limits::CLUSTER_NAME_MAX {
            return wrong(
                "cluster",
                format!("1 to {} bytes", limits::CLUSTER_NAME_MAX),
            );
        }
        if self.connections_max == 0 || self.connections_max > usize::from(u16::MAX) {
            return wrong("connections", format!("1 to {}", u16::MAX));
        }
        if self.clients_max == 0 || self.clients_max > 1 << 24 {
            return wrong("clients", format!("1 to {}", 1 << 24));
        }
        if self.half_open_max == 0 {
            return wrong("half-open", "at least 1".to_owned());
        }
        for (field, size) in [
            ("peer-send-buffer", self.peer_send_bytes),
            ("client-send-buffer", self.client_send_bytes),
            ("inbox", self.inbox_bytes),
        ] {
            if size < 2 * limits::FRAME_SIZE_MAX {
                return wrong(
                    field,
                    format!("at least {} bytes", 2 * limits::FRAME_SIZE_MAX),
                );
            }
        }
        Ok(())
    }
}

/// A peer's receive buffer: the rest of a frame of the largest size, and a read behind it.
const PEER_INGRESS: usize = 2 * limits::FRAME_SIZE_MAX;
/// A client's: one frame of the largest size, and a small read behind it.
const CLIENT_INGRESS: usize = limits::FRAME_SIZE_MAX + READ_SIZE_MAX / 4;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A setting makes no sense.
    #[error("{field}: {why}")]
    Config {
        /// Which.
        field: &'static str,
        /// What would be right.
        why: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Why a server has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// [`Server::stop`] was called.
    Asked,
    /// The replica cannot be trusted any more.
    Halted(HaltReason),
}

/// A client inside this process.
pub trait LocalClient {
    /// A `Reply`, `Reject` or `QueryReply` for it. Called by the turn task with nothing borrowed, so
    /// it may call [`Server::submit`].
    fn on_frame(&self, frame: &Frame<'_>);

    /// The replica is normal in another view than before. What this client has in flight may be lost
    /// with the former primary: sending it again now, the same bytes, is sooner than at the next retry.
    /// Called as [`Self::on_frame`] is.
    fn on_view(&self, _view: View) {}
}

/// Answers a tool's question: topic and argument in, JSON out; or, as an error, JSON that says why
/// not.
pub type Inspector = dyn Fn(InspectTopic, u64) -> Result<String, String>;

/// What is known of the link to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// The peer.
    pub replica: ReplicaIndex,
    /// Its address.
    pub address: String,
    /// Whether a connection is up.
    pub is_up: bool,
    /// How long ago something was received; none while down.
    pub silence: Option<Duration>,
    /// How many connections there were.
    pub connections: u64,
    /// Why the last connection ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// Bytes that wait to be sent.
    pub queued_bytes: usize,
    /// Frames dropped because the send buffer was full.
    pub dropped_frames: u64,
}

struct Shared<S> {
    core: RefCell<Core<S>>,
    /// Calls the turn task.
    turn: Signal,
    /// Calls the task that looks for more for a moment.
    spin: Signal,
    turns: Cell<u64>,
    /// The view that clients were told of last, for whoever waits for another.
    view_told: watch::Sender<View>,
    /// The epoch that the replica asks to be archived.
    archive_due: watch::Sender<Option<Epoch>>,
    locals: RefCell<BTreeMap<ClientId, Rc<dyn LocalClient>>>,
    inspector: RefCell<Option<Rc<Inspector>>>,
    tasks: RefCell<Vec<AbortHandle>>,
    stopped: watch::Sender<Option<StopReason>>,
    half_open_max: usize,
    handshake_timeout: Duration,
    address: SocketAddr,
    pools: Vec<Pool>,
}

impl<S: StateMachine> Shared<S> {
    fn is_stopping(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    fn stop(&self, reason: StopReason) {
        let is_first = self.stopped.send_if_modified(|stopped| {
            let is_first = stopped.is_none();
            stopped.get_or_insert(reason);
            is_first
        });
        if !is_first {
            return;
        }
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
        let mut core = self.core.borrow_mut();
        let links = &mut core.links;
        let farewell = Refusal::new(RefuseReason::ShuttingDown, 0, 0).frame();
        for place in 0..links.places.len() as u16 {
            let generation = links.places[usize::from(place)].out.generation;
            links.source = Source::Place { place, generation };
            let _: vsr_consensus::Sent = links.sender(&farewell, &[]);
        }
        links.flush();
        for peer in 0..links.peers.len() {
            let generation = links.peers[peer].out.generation;
            links.close_peer(
                ReplicaIndex::new(peer as u8),
                generation,
                "this replica stopped",
            );
        }
        for place in 0..links.places.len() as u16 {
            let generation = links.places[usize::from(place)].out.generation;
            links.close_place(place, generation);
        }
        drop(core);
        self.turn.raise();
    }

    fn inspect(&self, topic: InspectTopic, argument: u64) -> Result<String, String> {
        let inspector = self.inspector.borrow().clone();
        match inspector {
            Some(inspector) => inspector(topic, argument),
            None => Err(r#"{"error":"this node answers no questions"}"#.to_owned()),
        }
    }
}

/// A running replica. Clones are handles to the same one; it runs until [`Self::stop`].
pub struct Server<S> {
    shared: Rc<Shared<S>>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine + 'static> Server<S> {
    /// Listens, allocates everything, and starts the tasks on the current `LocalSet`.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn start(config: ServerConfig, boot: Boot, machine: S) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen {
            address: config.listen.clone(),
            source,
        };
        let listener = TcpListener::bind(&config.listen).await.map_err(failed)?;
        Self::start_on(listener, config, boot, machine)
    }

    /// As [`Self::start`], on a socket that listens already; `config.listen` is not looked at.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn start_on(
        listener: TcpListener,
        config: ServerConfig,
        boot: Boot,
        machine: S,
    ) -> Result<Self, ServerError> {
        config.validate()?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen {
                address: config.listen.clone(),
                source,
            })?;
        let me = config.consensus.replica;
        let peer = |index: usize| {
            // No link to oneself, so no buffer either.
            if index == me.as_usize() {
                return Ingress::new(HEADER_SIZE, HEADER_SIZE);
            }
            Ingress::new(PEER_INGRESS, limits::FRAME_SIZE_MAX)
        };
        let client = |_| Ingress::new(CLIENT_INGRESS, limits::FRAME_SIZE_MAX);
        let ingress = (0..config.peers.len())
            .map(peer)
            .chain((0..config.connections_max).map(client))
            .collect();
        let overhead = limits::BATCH_HEADER_SIZE + limits::REQUEST_HEADER_SIZE;
        let mut core = Core {
            links: Links::new(me, &config.peers, config.sizes(), boot.seed),
            clock: Clock::new(),
            ingress,
            cluster_name: cluster_name_digest(&config.cluster_name),
            configuration: shared_settings(&config, &machine),
            member: boot.member,
            operation_size_max: config.consensus.batch_size_max - overhead,
            replica: Replica::new(&config.consensus, boot, machine),
        };
        if config.prefault {
            core.prefault();
        }
        let shared = Rc::new(Shared {
            core: RefCell::new(core),
            turn: Signal::default(),
            spin: Signal::default(),
            turns: Cell::new(0),
            view_told: watch::Sender::new(View::ZERO),
            archive_due: watch::Sender::new(None),
            locals: RefCell::default(),
            inspector: RefCell::default(),
            tasks: RefCell::default(),
            stopped: watch::Sender::new(None),
            half_open_max: config.half_open_max,
            handshake_timeout: config.handshake_timeout,
            address,
            pools: config.pools::<S>(),
        });
        Self::spawn(&shared, listener, me, boot.seed);
        if !config.spin.is_zero() {
            let spinning = spawn_local(spin::run(Rc::clone(&shared), config.spin));
            shared.tasks.borrow_mut().push(spinning.abort_handle());
        }
        Ok(Self { shared })
    }

    fn spawn(shared: &Rc<Shared<S>>, listener: TcpListener, me: ReplicaIndex, seed: u64) {
        let mut tasks = shared.tasks.borrow_mut();
        // The turn task ends by itself: it may be the one that stops the others.
        drop(spawn_local(turn::run(Rc::clone(shared))));
        let listening = accept::listen(Rc::clone(shared), listener);
        tasks.push(spawn_local(listening).abort_handle());
        for peer in ReplicaIndex::all(me.raw()) {
            let seed = seed.wrapping_add(u64::from(peer.raw()) + 1);
            let keeping = accept::keep_link(Rc::clone(shared), peer, seed);
            tasks.push(spawn_local(keeping).abort_handle());
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The replica in a few numbers.
    #[must_use]
    pub fn report(&self) -> Report {
        self.with_replica(Replica::report)
    }

    /// The cluster; zero while blank.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.with_replica(Replica::cluster)
    }

    /// Looks at the replica. `f` must not call this server's other methods that do the same.
    pub fn with_replica<R>(&self, f: impl FnOnce(&Replica<S>) -> R) -> R {
        f(&self.shared.core.borrow().replica)
    }

    /// Damages the replica. `f` must not call this server's other methods.
    #[cfg(feature = "flip")]
    pub fn with_replica_mut<R>(&self, f: impl FnOnce(&mut Replica<S>) -> R) -> R {
        f(&mut self.shared.core.borrow_mut().replica)
    }

    /// From now on, what is for `client` goes to `sink`.
    pub fn attach(&self, client: ClientId, sink: Rc<dyn LocalClient>) {
        // Dropped outside the borrow: the one before it may want to call back.
        let before = self.shared.locals.borrow_mut().insert(client, sink);
        drop(before);
    }

    /// Nothing more for `client`.
    pub fn detach(&self, client: ClientId) {
        let before = self.shared.locals.borrow_mut().remove(&client);
        drop(before);
    }

    /// A sealed request or query frame of a local client enters the replica now; a backup passes it
    /// on. The answer comes to what was attached, later. It may be lost: clients ask again.
    ///
    /// # Errors
    /// When the bytes are no request or query of this cluster.
    pub fn submit(&self, frame: &[u8]) -> Result<(), FrameError> {
        self.shared.core.borrow_mut().submit(frame)?;
        self.shared.turn.raise();
        Ok(())
    }

    /// What is known of the links to the other replicas.
    #[must_use]
    pub fn links(&self) -> Vec<LinkReport> {
        let core = self.shared.core.borrow();
        let peers = core.links.peers.iter().enumerate();
        let others = peers.filter(|(index, _)| *index != core.links.me.as_usize());
        let report = |(index, peer): (usize, &links::Peer)| LinkReport {
            replica: ReplicaIndex::new(index as u8),
            address: peer.address.clone(),
            is_up: peer.out.is_up(),
            silence: peer.out.is_up().then(|| peer.heard.elapsed()),
            connections: peer.connections,
            last_error: peer.last_error.clone(),
            queued_bytes: peer.out.egress.len(),
            dropped_frames: peer.out.egress.dropped(),
        };
        others.map(report).collect()
    }

    /// Connections and bad input, counted since the start.
    #[must_use]
    pub fn net_counters(&self) -> NetCounters {
        self.shared.core.borrow().links.counters
    }

    /// Answers for local clients that were dropped because the inbox was full.
    #[must_use]
    pub fn inbox_dropped(&self) -> u64 {
        self.shared.core.borrow().links.inbox.dropped()
    }

    /// What was allocated beside the state machine.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.shared.pools
    }

    /// How much of that is used.
    #[must_use]
    pub fn levels(&self) -> Vec<Level> {
        self.shared.core.borrow().levels()
    }

    /// How often the loop has turned: a number that stands still means a loop that does.
    #[must_use]
    pub fn loop_turns(&self) -> u64 {
        self.shared.turns.get()
    }

    /// Sets who answers tools.
    pub fn on_inspect(&self, inspector: Rc<Inspector>) {
        self.shared.inspector.replace(Some(inspector));
    }

    /// Waits until the server has stopped.
    pub async fn stopped(&self) -> StopReason {
        let mut stopped = self.shared.stopped.subscribe();
        let reason = stopped
            .wait_for(Option::is_some)
            .await
            .map(|reason| *reason);
        reason.ok().flatten().unwrap_or(StopReason::Asked)
    }

    /// The replica is about to go: a primary begins to hand over, so that nobody waits for a time-out
    /// (N25). [`Self::views`] says when another one leads. It may come to nothing, for example because
    /// no backup is up: asking again does no harm.
    pub fn leave(&self) {
        {
            let core = &mut *self.shared.core.borrow_mut();
            let now = core.clock.now();
            core.replica.step(now, Input::Leave, &mut core.links);
        }
        self.shared.turn.raise();
    }

    /// The epoch that is to be archived now, and every one that comes to be (R10.4).
    #[must_use]
    pub fn archives_due(&self) -> watch::Receiver<Option<Epoch>> {
        self.shared.archive_due.subscribe()
    }

    /// The state that `epoch` ended with is archived: the next epoch may begin. Says whether that was
    /// still asked for.
    pub fn archived(&self, epoch: Epoch) -> bool {
        let outcome = {
            let core = &mut *self.shared.core.borrow_mut();
            let now = core.clock.now();
            let input = Input::Archived { epoch };
            core.replica.step(now, input, &mut core.links)
        };
        self.shared.turn.raise();
        outcome.dropped.is_none()
    }

    /// The view that this replica was normal in last, and every one that it comes to.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<View> {
        self.shared.view_told.subscribe()
    }

    /// Closes all connections and ends all tasks.
    pub fn stop(&self) {
        self.shared.stop(StopReason::Asked);
    }
}

/// A digest of everything that must be equal on all replicas: the peers list, and the settings that
/// decide what the replicated state is. Replicas that evict other sessions, take other batches, or
/// have another machine to begin with, would differ sooner or later; so they do not even connect.
fn shared_settings<S: StateMachine>(config: &ServerConfig, machine: &S) -> u64 {
    let consensus = &config.consensus;
    let start = machine.digest().raw();
    let settings = [
        consensus.sessions as u64,
        consensus.reply_bytes as u64,
        consensus.batch_size_max as u64,
        // The length of what may be undecided in a view change (R2.1, R5.5).
        consensus.pipeline as u64,
        consensus.op_max,
        // Who halts where others go on lags for ever.
        consensus.on_op_max as u64,
        consensus.digest_period.as_nanos() as u64,
        (start >> 64) as u64,
        start as u64,
    ];
    // FNV-1a by words (Fowler, Noll, Vo): a guard against mistakes, not against malice.
    let add = |digest: u64, setting: &u64| {
        (digest ^ setting)
            .wrapping_mul(0x0000_0100_0000_01B3)
            .rotate_left(29)
    };
    settings
        .iter()
        .fold(configuration_digest(&config.peers), add)
}
