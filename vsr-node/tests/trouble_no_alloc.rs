//! Nothing allocates in a real server when there is trouble either (N20): an empty replica takes over the
//! state while the others serve, primaries hang and are replaced, one hands over, laggards catch up from
//! the log and from the state, and scrubbers go round, while the allocations of every server's thread are
//! counted.
//!
//! Connections are made before it begins and none ends meanwhile: the runtime makes their tasks and
//! registers their sockets, which the memory plan counts per connection. A replica that hangs keeps its
//! connections, as a process does that the system does not run for a while.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytemuck::Zeroable;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use vsr_consensus::{Boot, Event, Report, Settings};
use vsr_net::handshake::Identity;
use vsr_net::init;
use vsr_node::kv::{KvMachine, Opcode, OperationBuilder};
use vsr_node::server::{Server, ServerConfig};
use vsr_types::message::{self, LinkKind, PeerStatus, Reply};
use vsr_types::{
    ClientId, ClusterId, Epoch, Frame, Header, MemberId, Nonce, Operation, ReplicaIndex,
    RequestHeader, RequestNumber, SessionNumber,
};

/// The state that an empty replica takes over, in values of this size.
const VALUES: u64 = 400;
const VALUE: usize = 60_000;
/// So long that the others replace a primary which hangs.
const HANG: Duration = Duration::from_millis(700);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the test tells a server's thread, and what that says.
#[derive(Debug, Default)]
struct Wire {
    /// The thread does nothing for [`HANG`]: once per request.
    hang: AtomicBool,
    leave: AtomicBool,
    /// Its allocations are counted from here on.
    count: AtomicBool,
    is_counting: AtomicBool,
    end: AtomicBool,
    /// Nobody's connections end before everybody has counted.
    has_counted: AtomicBool,
    stop: AtomicBool,
    /// `Report::view`, `Report::applied` and whether it takes part.
    view: AtomicU64,
    applied: AtomicU64,
    is_normal: AtomicBool,
    is_linked: AtomicBool,
    /// What was counted.
    allocated: AtomicU64,
    events: Mutex<Vec<(&'static str, u64)>>,
}

impl Wire {
    fn publish(&self, report: &Report, is_linked: bool) {
        self.view.store(report.view.raw(), Ordering::Relaxed);
        self.applied.store(report.applied.raw(), Ordering::Relaxed);
        self.is_linked.store(is_linked, Ordering::Relaxed);
        let is_normal = report.status == PeerStatus::Normal;
        self.is_normal.store(is_normal, Ordering::Relaxed);
    }

    fn is_set(flag: &AtomicBool) -> bool {
        flag.load(Ordering::Relaxed)
    }
}

fn settings(replica: u8) -> Settings {
    let mut settings = Settings::new(ReplicaIndex::new(replica), 3);
    // A short ring: whoever is away for a moment needs the state.
    settings.batch_size_max = 128 << 10;
    settings.journal_slots = 256;
    settings.journal_bytes = 1 << 20;
    settings.sessions = 16;
    settings.reply_bytes = 4 << 20;
    settings.scrub_period = Duration::from_millis(500);
    // So slow that a transfer is still under way when everybody counts.
    settings.transfer_rate = 8 << 20;
    settings
}

/// One life of a replica, in a thread of its own.
fn live(
    replica: u8,
    life: u64,
    listener: std::net::TcpListener,
    peers: Vec<String>,
    wire: Arc<Wire>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let local = LocalSet::new();
        let server = runtime.block_on(local.run_until(async {
            listener.set_nonblocking(true).expect("it is ours");
            let listener = TcpListener::from_std(listener).expect("it listens");
            let consensus = settings(replica).validate().expect("valid");
            let listen = peers[usize::from(replica)].clone();
            let mut config = ServerConfig::new(consensus, "test".to_owned(), peers, listen);
            config.spin = Duration::ZERO;
            let boot = Boot {
                member: MemberId::new(u128::from(life) << 8 | u128::from(replica)),
                nonce: Nonce::new(u128::from(life) << 8 | u128::from(replica)),
                seed: life,
            };
            let machine = KvMachine::new(64 << 20);
            Server::start_on(listener, config, boot, machine).expect("it starts")
        }));
        runtime.block_on(local.run_until(serve(&server, &wire, &wire.count)));
        if !Wire::is_set(&wire.end) {
            let counted = allocation_counter::measure(|| {
                wire.is_counting.store(true, Ordering::Relaxed);
                runtime.block_on(local.run_until(serve(&server, &wire, &wire.end)));
            });
            wire.allocated.store(counted.count_total, Ordering::Relaxed);
            wire.has_counted.store(true, Ordering::Relaxed);
            wait("all have counted", || Wire::is_set(&wire.stop));
        }
        let counters = server.with_replica(|replica| replica.counters().clone());
        *wire.events.lock().expect("nobody panics") = counters.events().collect();
        server.stop();
    })
}

/// Does what it is told until `until` is set.
async fn serve(server: &Server<KvMachine>, wire: &Wire, until: &AtomicBool) {
    while !Wire::is_set(until) && !Wire::is_set(&wire.end) {
        if wire.hang.swap(false, Ordering::Relaxed) {
            std::thread::sleep(HANG);
        }
        if wire.leave.swap(false, Ordering::Relaxed) {
            server.leave();
        }
        let report = server.report();
        // What it says of its links allocates: only before it is counted.
        let is_linked = Wire::is_set(&wire.is_counting) || server.links().iter().all(|l| l.is_up);
        wire.publish(&report, is_linked);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client over one connection that it never leaves: it asks again and again until it is answered.
struct Client {
    stream: TcpStream,
    cluster: ClusterId,
    client: ClientId,
    session: SessionNumber,
    number: RequestNumber,
    buffer: Vec<u8>,
    got: usize,
}

impl Client {
    fn connect(endpoint: &str, cluster: ClusterId, id: u128) -> Self {
        let mut stream = TcpStream::connect(endpoint).expect("listening");
        stream.set_nodelay(true).expect("no delay");
        let hello = Identity::of_client(None).hello(LinkKind::Client, None);
        stream.write_all(bytemuck::bytes_of(&hello)).expect("open");
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time-out");
        Self {
            stream,
            cluster,
            client: ClientId::new(id),
            session: SessionNumber::ZERO,
            number: RequestNumber::ZERO,
            buffer: vec![0; 1 << 20],
            got: 0,
        }
    }

    fn frame(&self, operation: &[u8]) -> Vec<u8> {
        let kind = match self.number == RequestNumber::ZERO {
            true => Operation::Register,
            false => Operation::Apply,
        };
        let mut request =
            RequestHeader::new(kind, self.client, Epoch::ZERO, self.session, self.number);
        request.seal(operation);
        let mut header = Header::new(message::Request::zeroed());
        header.set_cluster(self.cluster);
        header.seal_with(request.size(), request.checksum());
        [
            bytemuck::bytes_of(&header),
            bytemuck::bytes_of(&request),
            operation,
        ]
        .concat()
    }

    /// Whether the answer to the present request has come within a moment.
    fn is_answered(&mut self) -> bool {
        loop {
            while let Some(size) = Frame::peek(&self.buffer[..self.got], self.buffer.len())
                .expect("good frames")
                .filter(|size| *size <= self.got)
            {
                let frame = Frame::parse(&self.buffer[..size], self.cluster);
                let reply = frame
                    .ok()
                    .and_then(|frame| frame.fields::<Reply>().copied());
                self.buffer.copy_within(size..self.got, 0);
                self.got -= size;
                if let Some(reply) = reply.filter(|reply| reply.request == self.number) {
                    if self.number == RequestNumber::ZERO {
                        self.session = SessionNumber::new(reply.op.raw());
                    }
                    self.number = self.number.next();
                    return true;
                }
            }
            match self.stream.read(&mut self.buffer[self.got..]) {
                Ok(0) => panic!("the connection was closed"),
                Ok(count) => self.got += count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn execute(&mut self, operation: &[u8]) {
        let frame = self.frame(operation);
        let until = Instant::now() + PATIENCE;
        loop {
            self.stream.write_all(&frame).expect("open");
            if self.is_answered() {
                return;
            }
            assert!(Instant::now() < until, "nobody answers {:?}", self.client);
        }
    }
}

/// Asks for as long as `end` is not set; returns how often it was answered, with its connection, which
/// is not to end while servers count.
fn load(
    endpoint: String,
    cluster: ClusterId,
    id: u128,
    end: Arc<AtomicBool>,
) -> JoinHandle<(Client, u64)> {
    std::thread::spawn(move || {
        let mut client = Client::connect(&endpoint, cluster, id);
        let mut builder = OperationBuilder::new(vec![0; 100_000]);
        let mut number = 0_u64;
        client.execute(&[]);
        while !end.load(Ordering::Relaxed) {
            let key = (number % VALUES).to_le_bytes();
            let value = vec![
                number as u8;
                if number.is_multiple_of(20) {
                    VALUE
                } else {
                    2000
                }
            ];
            builder.clear();
            builder.push(Opcode::Set, &[&key, &value]).expect("it fits");
            client.execute(builder.operation());
            number += 1;
        }
        (client, number)
    })
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn form(peers: &[String]) -> ClusterId {
    let runtime = Builder::new_current_thread().enable_all().build();
    let formed =
        runtime
            .expect("a runtime")
            .block_on(init::form(peers, None, Duration::from_secs(10)));
    formed.expect("formed").cluster
}

/// Fills the state, so that there is something to take over.
fn fill(endpoint: &str, cluster: ClusterId) {
    let mut client = Client::connect(endpoint, cluster, 99);
    let mut builder = OperationBuilder::new(vec![0; 100_000]);
    client.execute(&[]);
    for number in 0..VALUES {
        builder.clear();
        let value = vec![1; VALUE];
        let set = builder.push(Opcode::Set, &[&number.to_le_bytes(), &value]);
        set.expect("it fits");
        client.execute(builder.operation());
    }
}

/// Primaries hang, one hands over; the load goes on.
fn trouble(wires: &[Arc<Wire>]) {
    let view = || {
        wires
            .iter()
            .map(|wire| wire.view.load(Ordering::Relaxed))
            .max()
    };
    let whole = || {
        let normal = |wire: &Arc<Wire>| Wire::is_set(&wire.is_normal);
        let applied = |wire: &Arc<Wire>| wire.applied.load(Ordering::Relaxed);
        let (most, least) = (
            wires.iter().map(applied).max(),
            wires.iter().map(applied).min(),
        );
        wires.iter().all(normal)
            && most
                .zip(least)
                .is_some_and(|(most, least)| most < least + 100)
    };
    for round in 0..4 {
        wait("the cluster is whole", whole);
        let before = view().expect("three");
        let primary = &wires[(before % 3) as usize];
        match round {
            2 => primary.leave.store(true, Ordering::Relaxed),
            _ => primary.hang.store(true, Ordering::Relaxed),
        }
        wait("another leads", || view() > Some(before));
    }
    wait("the cluster is whole in the end", whole);
}

#[test]
fn nothing_allocates_while_replicas_recover_hang_and_hand_over() {
    let listeners: Vec<_> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let address = |l: &std::net::TcpListener| l.local_addr().expect("bound").to_string();
    let peers: Vec<String> = listeners.iter().map(address).collect();
    // The last one will die: its place must stay free for the next life.
    let again = listeners[2].try_clone().expect("a second handle");
    let mut wires: Vec<Arc<Wire>> = (0..3).map(|_| Arc::default()).collect();
    let mut threads = Vec::new();
    for (replica, listener) in listeners.into_iter().enumerate() {
        let wire = Arc::clone(&wires[replica]);
        threads.push(live(replica as u8, 1, listener, peers.clone(), wire));
    }
    let cluster = form(&peers);
    fill(&peers[0], cluster);
    wires[2].end.store(true, Ordering::Relaxed);
    threads.remove(2).join().expect("it ends in order");
    wires[2] = Arc::default();
    threads.push(live(2, 2, again, peers.clone(), Arc::clone(&wires[2])));
    let end = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|at| load(peers[at].clone(), cluster, at as u128 + 1, Arc::clone(&end)))
        .collect();
    wait("all links are up", || {
        wires.iter().all(|wire| Wire::is_set(&wire.is_linked))
    });
    for wire in &wires {
        wire.count.store(true, Ordering::Relaxed);
    }
    wait("all count", || {
        wires.iter().all(|wire| Wire::is_set(&wire.is_counting))
    });
    assert!(
        !Wire::is_set(&wires[2].is_normal),
        "it has not recovered so soon"
    );
    trouble(&wires);
    end.store(true, Ordering::Relaxed);
    let clients: Vec<(Client, u64)> = clients
        .into_iter()
        .map(|client| client.join().expect("it was answered"))
        .collect();
    for wire in &wires {
        wire.end.store(true, Ordering::Relaxed);
    }
    let has_counted = |wire: &Arc<Wire>| Wire::is_set(&wire.has_counted);
    wait("all have counted", || wires.iter().all(has_counted));
    for wire in &wires {
        wire.stop.store(true, Ordering::Relaxed);
    }
    for thread in threads {
        thread.join().expect("it ends in order");
    }
    judge(&wires);
    let answers: u64 = clients.iter().map(|(_, answers)| answers).sum();
    assert!(answers > 100, "{answers} answers");
}

/// Everything that was wanted happened, and nothing was allocated.
fn judge(wires: &[Arc<Wire>]) {
    let sum = |event: Event| -> u64 {
        let of = |wire: &Arc<Wire>| {
            let events = wire.events.lock().expect("nobody panics");
            let found = events.iter().find(|(name, _)| *name == event.name());
            found.map_or(0, |(_, count)| *count)
        };
        wires.iter().map(of).sum()
    };
    for event in [
        Event::ViewsStarted,
        Event::ViewsFollowed,
        Event::HandedOver,
        Event::TransfersFinished,
        Event::StateChunksGiven,
        Event::RepairsGiven,
        Event::ScrubRounds,
    ] {
        assert!(sum(event) > 0, "there was no {}", event.name());
    }
    let allocated: Vec<u64> = wires
        .iter()
        .map(|wire| wire.allocated.load(Ordering::Relaxed))
        .collect();
    assert_eq!(allocated, [0, 0, 0], "allocations of each server's thread");
}
