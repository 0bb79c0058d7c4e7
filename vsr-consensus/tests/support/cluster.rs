//! The cluster that tests play with.

use std::collections::BTreeMap;
use std::time::Duration;

use vsr_consensus::{Boot, Config, DropReason, Input, Outbox, Replica, Sent, Settings};
use vsr_types::message::{InitAck, InitCommit, InitPropose, PeerStatus};
use vsr_types::{
    ClientId, ClusterId, Command, Digest, Frame, Header, Instant, MemberId, Nonce, Now, Op,
    ReplicaIndex, Timestamp, body::BootNonces,
};

use super::{Client, Ledger, Network, Node, describe};

/// The replicas' tick in all tests.
pub const TICK: Duration = Duration::from_millis(10);

/// When the story begins, on the wall clock: any number that is not the monotonic clock's.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// The client ids of tests: `c3` is the third.
const CLIENT_BASE: u128 = 0xC11E_0000;

/// Real replicas, a network, clients and one clock.
pub struct Cluster {
    pub replicas: Vec<Replica<Ledger>>,
    pub config: Vec<Config>,
    pub net: Network,
    pub clients: Vec<Client>,
    pub now: Now,
    /// Replicas that do nothing at all; what is sent to them waits.
    pub stopped: Vec<bool>,
    /// How many processes there have been in each place.
    pub lives: Vec<u64>,
    /// By how much each replica's wall clock is ahead, in nanoseconds.
    pub ahead: Vec<u64>,
    /// Replicas that get one deadline per turn only, as when executing takes for ever.
    pub lazy: Vec<bool>,
    /// What happened, in words, while `show` is set.
    pub trace: Vec<String>,
    pub show: bool,
    /// Whether pings are part of the trace.
    pub show_pings: bool,
    pub drops: Vec<(u8, DropReason)>,
    /// Whether clients take what they are sent: not in a storm of forgeries.
    pub clients_listen: bool,
    /// Called around every step, and around what the outbox does in it: where allocations are counted.
    pub inside: fn(&mut dyn FnMut()),
    pub outside: fn(&mut dyn FnMut()),
    /// Makes the machine of a replica that is restarted.
    pub reborn: fn() -> Ledger,
    id: ClusterId,
}

fn directly(run: &mut dyn FnMut()) {
    run();
}

/// A replica's way out, into the network.
struct Exit<'a> {
    from: Node,
    sender: Option<Node>,
    net: &'a mut Network,
    trace: Option<&'a mut Vec<String>>,
    show_pings: bool,
    now: Instant,
    outside: fn(&mut dyn FnMut()),
}

impl Exit<'_> {
    fn leave(&mut self, to: Node, header: &Header, body: &[u8]) -> Sent {
        let mut queued = false;
        let outside = self.outside;
        outside(&mut || {
            queued = self.net.send(self.from, to, header, body, self.now);
            let is_ping = matches!(header.command(), Some(Command::Ping | Command::Pong));
            let Some(trace) = self
                .trace
                .as_deref_mut()
                .filter(|_| self.show_pings || !is_ping)
            else {
                return;
            };
            let bytes = [bytemuck::bytes_of(header), body].concat();
            let frame = Frame::parse(&bytes, header.cluster()).expect("what leaves is sound");
            let lost = if queued { "" } else { " (no room)" };
            trace.push(format!("{} -> {to} {}{lost}", self.from, describe(&frame)));
        });
        if queued { Sent::Queued } else { Sent::Dropped }
    }
}

impl Outbox for Exit<'_> {
    fn peer(&mut self, to: ReplicaIndex, header: &Header, body: &[u8]) -> Sent {
        self.leave(Node::Replica(to.raw()), header, body)
    }

    fn client(&mut self, to: ClientId, header: &Header, body: &[u8]) -> Sent {
        // The upper half counts a client's lives.
        match (to.raw() as u64).checked_sub(CLIENT_BASE as u64) {
            Some(index @ 0..256) => self.leave(Node::Client(index as u8), header, body),
            _ => Sent::Dropped,
        }
    }

    fn sender(&mut self, header: &Header, body: &[u8]) -> Sent {
        match self.sender {
            Some(sender) => self.leave(sender, header, body),
            None => Sent::Dropped,
        }
    }
}

/// # Making one
impl Cluster {
    /// `n` blank replicas, with small memories and then as `tune` wants them.
    pub fn new(n: u8, tune: impl Fn(&mut Settings)) -> Self {
        Self::with_machines(n, tune, |_| Ledger::remembering())
    }

    pub fn with_machines(
        n: u8,
        tune: impl Fn(&mut Settings),
        machine: impl Fn(u8) -> Ledger,
    ) -> Self {
        let config: Vec<Config> = ReplicaIndex::all(n)
            .map(|replica| {
                let mut settings = Settings::new(replica, n);
                settings.journal_slots = 256;
                settings.batch_size_max = 16 << 10;
                settings.journal_bytes = 4 << 20;
                settings.sessions = 64;
                settings.reply_bytes = 4 << 20;
                settings.query_bytes = 2 << 20;
                settings.tick = TICK;
                tune(&mut settings);
                settings.validate().expect("the tests' settings make sense")
            })
            .collect();
        let replicas = (0..n).map(|i| Self::replica(&config[i as usize], 1, machine(i)));
        Self {
            replicas: replicas.collect(),
            config,
            net: Network::default(),
            clients: (0..=255).map(|i| Client::new(CLIENT_BASE + i)).collect(),
            now: Now {
                monotonic: Instant::from_nanos(1_000_000),
                wall: Timestamp::from_nanos(EPOCH_NS),
            },
            stopped: vec![false; usize::from(n)],
            lives: vec![1; usize::from(n)],
            ahead: vec![0; usize::from(n)],
            lazy: vec![false; usize::from(n)],
            trace: Vec::new(),
            show: false,
            show_pings: false,
            drops: Vec::new(),
            clients_listen: true,
            inside: directly,
            outside: directly,
            reborn: Ledger::remembering,
            id: ClusterId::ZERO,
        }
    }

    /// A blank replica; each life of it has another nonce.
    pub fn replica(config: &Config, life: u64, machine: Ledger) -> Replica<Ledger> {
        Self::replica_on(config, life, life, machine)
    }

    /// The same on the machine that was that of life `member`.
    pub fn replica_on(config: &Config, life: u64, member: u64, machine: Ledger) -> Replica<Ledger> {
        let index = u128::from(config.replica.raw());
        let boot = Boot {
            member: MemberId::new((u128::from(member - 1) << 32) + 0xA000 + index),
            nonce: Nonce::new((u128::from(life) << 64) + 0xB007 + index * 0x0101_0101),
            seed: index as u64,
        };
        Replica::new(config, boot, machine)
    }

    /// A formed cluster, nothing executed yet.
    pub fn formed(n: u8) -> Self {
        Self::formed_with(n, |_| {})
    }

    pub fn formed_with(n: u8, tune: impl Fn(&mut Settings)) -> Self {
        let mut cluster = Self::new(n, tune);
        cluster.init();
        cluster
    }

    pub fn n(&self) -> u8 {
        self.replicas.len() as u8
    }

    pub const fn id(&self) -> ClusterId {
        self.id
    }

    /// Forms the cluster as an operator's tool does.
    pub fn init(&mut self) {
        let (cluster, token) = (ClusterId::new(0xFEED), Nonce::new(0x70CE));
        let nonces = self.propose(cluster, token);
        assert!(
            nonces.nonces[..usize::from(self.n())]
                .iter()
                .all(|nonce| !nonce.is_zero()),
            "all agree"
        );
        self.commit_init(cluster, token, nonces);
        self.id = cluster;
        self.run();
    }

    /// Proposes a cluster to all and returns the nonces of those who agreed.
    pub fn propose(&mut self, cluster: ClusterId, token: Nonce) -> BootNonces {
        let propose = InitPropose {
            cluster,
            token,
            reserved: 0,
        };
        let mut header = Header::new(propose);
        header.seal(&[]);
        let mut nonces: BootNonces = bytemuck::Zeroable::zeroed();
        for i in 0..self.n() {
            self.net.send(
                Node::Tool,
                Node::Replica(i),
                &header,
                &[],
                self.now.monotonic,
            );
            self.deliver(Node::Tool, Node::Replica(i));
            while let Some(packet) = self
                .net
                .link(Node::Replica(i), Node::Tool)
                .queue
                .pop_front()
            {
                let frame = Frame::parse(&packet.bytes, self.id).expect("a frame for a tool");
                if let Some(ack) = frame.fields::<InitAck>().filter(|ack| ack.token == token) {
                    nonces.nonces[usize::from(i)] = ack.boot_nonce;
                }
            }
        }
        nonces
    }

    /// Tells all that all have agreed.
    pub fn commit_init(&mut self, cluster: ClusterId, token: Nonce, nonces: BootNonces) {
        let mut header = Header::new(InitCommit {
            cluster,
            token,
            reserved: 0,
        });
        header.seal(bytemuck::bytes_of(&nonces));
        for i in 0..self.n() {
            let (to, body) = (Node::Replica(i), bytemuck::bytes_of(&nonces));
            self.net
                .send(Node::Tool, to, &header, body, self.now.monotonic);
            self.deliver(Node::Tool, to);
            self.net.link(to, Node::Tool).queue.clear();
        }
    }
}

/// # Driving it
impl Cluster {
    fn step(&mut self, at: u8, input: Input<'_>, sender: Option<Node>) -> Option<DropReason> {
        let mut exit = Exit {
            from: Node::Replica(at),
            sender,
            net: &mut self.net,
            trace: self.show.then_some(&mut self.trace),
            show_pings: self.show_pings,
            now: self.now.monotonic,
            outside: self.outside,
        };
        let place = usize::from(at);
        let wall = self.now.wall.as_nanos() + self.ahead[place];
        let now = Now {
            wall: Timestamp::from_nanos(wall),
            ..self.now
        };
        let replica = &mut self.replicas[place];
        let mut dropped = None;
        let inside = self.inside;
        inside(&mut || dropped = replica.step(now, input, &mut exit).dropped);
        dropped
    }

    /// Hands one frame to a replica, without the deadline that follows.
    pub fn hand_over(&mut self, from: Node, to: u8, bytes: &[u8]) -> Option<DropReason> {
        let cluster = self.replicas[usize::from(to)].cluster();
        let frame = Frame::parse(bytes, cluster).ok()?;
        let before = self.trace.len();
        let dropped = self.step(to, Input::Message(frame), Some(from));
        if let Some(reason) = dropped {
            self.drops.push((to, reason));
            let is_ping = matches!(frame.command(), Command::Ping | Command::Pong);
            if self.show && (self.show_pings || !is_ping) {
                let (what, why) = (frame.command().name(), reason.name());
                self.trace
                    .insert(before, format!("R{to} ignores {from}'s {what}: {why}"));
            }
        }
        dropped
    }

    /// A replica is about to go: a primary begins to hand over.
    pub fn leave(&mut self, replica: u8) {
        self.step(replica, Input::Leave, None);
        self.settle(replica);
    }

    /// A replica's node has archived an epoch.
    pub fn archived(&mut self, replica: u8, epoch: u64) -> Option<DropReason> {
        let epoch = vsr_types::Epoch::new(epoch);
        let dropped = self.step(replica, Input::Archived { epoch }, None);
        self.settle(replica);
        dropped
    }

    /// Gives a replica its deadline for as long as it is due.
    pub fn settle(&mut self, replica: u8) {
        for _ in 0..100_000 {
            let place = usize::from(replica);
            if self.stopped[place] || self.replicas[place].next_deadline() > self.now.monotonic {
                return;
            }
            self.step(replica, Input::Deadline, None);
            if self.lazy[place] {
                return;
            }
        }
        panic!("the deadline of R{replica} never passes");
    }

    /// Delivers what is on a link now, and no more. Says how many frames that were.
    pub fn deliver(&mut self, from: Node, to: Node) -> usize {
        if matches!(to, Node::Replica(i) if self.stopped[usize::from(i)]) {
            return 0;
        }
        let now = self.now.monotonic;
        let queue = &mut self.net.link(from, to).queue;
        let mut ready = Vec::new();
        while queue.front().is_some_and(|packet| packet.due <= now) {
            ready.extend(queue.pop_front());
        }
        for packet in &ready {
            self.arrive(from, to, &packet.bytes);
        }
        if let Node::Replica(i) = to
            && !ready.is_empty()
        {
            self.settle(i);
        }
        ready.len()
    }

    /// What arrives at a node; at a replica the deadline must follow.
    pub fn arrive(&mut self, from: Node, to: Node, bytes: &[u8]) {
        match to {
            Node::Replica(i) => {
                self.hand_over(from, i, bytes);
            }
            Node::Client(_) if !self.clients_listen => {}
            Node::Client(i) => {
                let frame = Frame::parse(bytes, self.id).expect("a sound frame for a client");
                self.clients[usize::from(i)].on_frame(&frame);
            }
            Node::Tool => {}
        }
    }

    /// One turn of every replica: all that is ready for it, then its deadlines.
    pub fn turn(&mut self) -> usize {
        let mut delivered = 0;
        for i in 0..self.n() {
            let to = Node::Replica(i);
            if self.stopped[usize::from(i)] {
                continue;
            }
            let now = self.now.monotonic;
            let mut ready = Vec::new();
            for (from, to) in self.net.between(None, Some(to)) {
                let queue = &mut self.net.link(from, to).queue;
                while queue.front().is_some_and(|packet| packet.due <= now) {
                    ready.extend(queue.pop_front().map(|packet| (from, packet)));
                }
            }
            for (from, packet) in &ready {
                self.arrive(*from, to, &packet.bytes);
            }
            delivered += ready.len();
            self.settle(i);
        }
        for (from, to) in self.net.between(None, None) {
            if matches!(to, Node::Client(_) | Node::Tool) {
                delivered += self.deliver(from, to);
            }
        }
        delivered
    }

    /// Delivers everything, and what follows from it, while time stands still.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            if self.turn() == 0 {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// Moves the clocks and fires what is due, delivering nothing.
    pub fn tick(&mut self, time: Duration) {
        self.advance(time);
        for i in 0..self.n() {
            self.settle(i);
        }
    }

    pub fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic.after(time);
        let wall = self.now.wall.as_nanos() + time.as_nanos() as u64;
        self.now.wall = Timestamp::from_nanos(wall);
    }

    /// Lets time go by in small steps, with everything delivered as it comes.
    pub fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(1);
        let mut left = time;
        while left > Duration::ZERO {
            self.tick(step.min(left));
            self.run();
            left = left.saturating_sub(step);
        }
    }
}

/// # Crashes
impl Cluster {
    /// The process of a replica ends, and its memory with it. What is sent to it until it is restarted
    /// is lost; what it has sent may still arrive.
    pub fn crash(&mut self, replica: u8) {
        self.stopped[usize::from(replica)] = true;
    }

    /// A new process in the place of one that crashed: it knows nothing. Returns the old one.
    pub fn restart(&mut self, replica: u8) -> Replica<Ledger> {
        let place = usize::from(replica);
        for (from, to) in self.net.between(None, Some(Node::Replica(replica))) {
            self.net.link(from, to).queue.clear();
        }
        self.lives[place] += 1;
        let blank = Self::replica(&self.config[place], self.lives[place], (self.reborn)());
        self.stopped[place] = false;
        std::mem::replace(&mut self.replicas[place], blank)
    }

    /// Lets time go by until `is_so`, at most for `patience`. Says whether it came to be so.
    pub fn wait(&mut self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.monotonic.after(patience);
        while !is_so(self) {
            if self.now.monotonic >= end {
                return false;
            }
            self.pass(Duration::from_millis(1));
        }
        true
    }
}

/// # Clients
impl Cluster {
    pub fn client(&mut self, client: u8) -> &mut Client {
        &mut self.clients[usize::from(client)]
    }

    /// Puts a client's register on its way to `to`.
    pub fn register_at(&mut self, client: u8, to: u8) {
        let bytes = self.clients[usize::from(client)].register(self.id);
        self.put(Node::Client(client), to, bytes);
    }

    /// Opens a session and waits for it.
    pub fn register(&mut self, client: u8) {
        self.register_at(client, 0);
        self.run();
        assert!(!self.client(client).waiting, "c{client} has its session");
    }

    /// Puts a client's next request on its way to `to`.
    pub fn request_at(&mut self, client: u8, to: u8, operation: &str) {
        let bytes = self.clients[usize::from(client)].request(self.id, operation.as_bytes());
        self.put(Node::Client(client), to, bytes);
    }

    /// Sends the last request's bytes again.
    pub fn retry_at(&mut self, client: u8, to: u8) {
        let bytes = self.clients[usize::from(client)].frame.clone();
        self.put(Node::Client(client), to, bytes);
    }

    pub fn query_at(&mut self, client: u8, to: u8, query: &str) {
        let bytes = self.clients[usize::from(client)].query(self.id, query.as_bytes());
        self.put(Node::Client(client), to, bytes);
    }

    /// Puts bytes on the link to a replica.
    pub fn put(&mut self, from: Node, to: u8, bytes: Vec<u8>) {
        let header: Header = bytemuck::pod_read_unaligned(&bytes[..vsr_types::HEADER_SIZE]);
        let body = &bytes[vsr_types::HEADER_SIZE..];
        self.net
            .send(from, Node::Replica(to), &header, body, self.now.monotonic);
    }

    /// A request, everything delivered, and the text of the answer.
    pub fn ask(&mut self, client: u8, operation: &str) -> String {
        self.request_at(client, 0, operation);
        self.run();
        assert!(!self.client(client).waiting, "c{client} is served");
        self.client(client).text()
    }
}

/// # What holds
impl Cluster {
    pub fn op(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].report().op.raw()
    }

    pub fn commit(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].report().commit.raw()
    }

    pub fn applied(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].report().applied.raw()
    }

    pub fn count(&self, replica: u8) -> u64 {
        self.replicas[usize::from(replica)].machine().count()
    }

    pub fn status(&self, replica: u8) -> PeerStatus {
        self.replicas[usize::from(replica)].report().status
    }

    pub fn is_suspect(&self, replica: u8) -> bool {
        self.replicas[0].report().peers[usize::from(replica)].suspect
    }

    /// The digest of machine and sessions after the last op executed.
    pub fn digest(&self, replica: u8) -> Digest {
        let replica = &self.replicas[usize::from(replica)];
        let applied: Op = replica.report().applied;
        replica.digest_at(applied).expect("the present digest")
    }

    /// All replicas have executed the same, everything of it, and agree on the outcome.
    pub fn assert_equal(&self) {
        for i in 1..self.n() {
            assert_eq!(
                self.applied(i),
                self.applied(0),
                "R{i} has executed as much as R0"
            );
            assert_eq!(
                self.digest(i),
                self.digest(0),
                "R{i} and R0 hold the same state"
            );
            let sessions = |r: u8| self.replicas[usize::from(r)].sessions().collect::<Vec<_>>();
            assert_eq!(
                sessions(i),
                sessions(0),
                "R{i} and R0 remember the same sessions"
            );
        }
        self.assert_prefixes();
    }

    /// Whatever was executed anywhere was executed alike elsewhere, and nothing twice. Who was given
    /// the state of another has not executed what led to it.
    pub fn assert_prefixes(&self) {
        let place = |e: &super::Executed| (e.op, e.index);
        let mut all = BTreeMap::new();
        for (i, replica) in self.replicas.iter().enumerate() {
            let history = replica.machine().history();
            let in_order = history
                .windows(2)
                .all(|pair| place(&pair[0]) < place(&pair[1]));
            assert!(
                in_order,
                "R{i} executes each place in the log once, in order"
            );
            for executed in history {
                let first = *all.entry(place(executed)).or_insert(executed);
                assert_eq!(executed, first, "R{i} executed something else");
            }
        }
    }
}
