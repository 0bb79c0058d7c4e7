//! Nothing on the path of a frame allocates after the start: three replicas in one thread serve a
//! client over a socket, through a backup, and a client inside the process, and the thread's
//! allocations are counted meanwhile.

#[path = "../src/server/tests/adder.rs"]
mod adder;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adder::{Adder, boot};
use bytemuck::Zeroable;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use vsr_consensus::Settings;
use vsr_net::handshake::Identity;
use vsr_net::init;
use vsr_node::server::{LocalClient, Server, ServerConfig};
use vsr_types::message::{self, LinkKind, Reply};
use vsr_types::{
    ClientId, ClusterId, Epoch, Frame, HEADER_SIZE, Header, Operation, ReplicaIndex, RequestHeader,
    RequestNumber, SessionNumber,
};

const OPERATION: [u8; 8] = [7; 8];
const REQUEST_MAX: usize = HEADER_SIZE + size_of::<RequestHeader>() + OPERATION.len();

/// One request after the other, each made in place.
#[derive(Clone, Copy)]
struct Requests {
    cluster: ClusterId,
    client: ClientId,
    session: SessionNumber,
    number: RequestNumber,
}

impl Requests {
    fn new(cluster: ClusterId, client: u128) -> Self {
        let client = ClientId::new(client);
        Self {
            cluster,
            client,
            session: SessionNumber::ZERO,
            number: RequestNumber::ZERO,
        }
    }

    /// The frame of the request with the present number.
    fn write<'a>(&self, into: &'a mut [u8; REQUEST_MAX]) -> &'a [u8] {
        let is_register = self.number == RequestNumber::ZERO;
        let kind = if is_register {
            Operation::Register
        } else {
            Operation::Apply
        };
        let operation = if is_register { &[][..] } else { &OPERATION[..] };
        let mut request =
            RequestHeader::new(kind, self.client, Epoch::ZERO, self.session, self.number);
        request.seal(operation);
        let mut header = Header::new(message::Request::zeroed());
        header.set_cluster(self.cluster);
        header.seal_with(request.size(), request.checksum());
        let size = HEADER_SIZE + request.size();
        into[..HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
        into[HEADER_SIZE..size - operation.len()].copy_from_slice(bytemuck::bytes_of(&request));
        into[size - operation.len()..size].copy_from_slice(operation);
        &into[..size]
    }

    /// Moves on if `reply` answers the present request.
    fn accept(&mut self, reply: &Reply) -> bool {
        if reply.client != self.client || reply.request != self.number {
            return false;
        }
        if self.number == RequestNumber::ZERO {
            self.session = SessionNumber::new(reply.op.raw());
        }
        self.number = self.number.next();
        true
    }
}

/// A client inside the process that asks again as soon as it is answered.
struct Inside {
    server: Server<Adder>,
    requests: Cell<Requests>,
}

impl LocalClient for Inside {
    fn on_frame(&self, frame: &Frame<'_>) {
        let mut requests = self.requests.get();
        if frame.fields().is_some_and(|reply| requests.accept(reply)) {
            self.requests.set(requests);
            self.ask();
        }
    }
}

impl Inside {
    fn ask(&self) {
        let mut buffer = [0; REQUEST_MAX];
        self.server
            .submit(self.requests.get().write(&mut buffer))
            .expect("a good frame");
    }
}

/// A client over a socket, in a thread of its own: `count` requests after `warm_up` others, and a
/// query behind each.
fn outside(endpoint: &str, mut requests: Requests, phases: [(u64, Arc<Notify>); 2]) {
    let mut stream = TcpStream::connect(endpoint).expect("listening");
    stream.set_nodelay(true).expect("no delay");
    let hello = Identity::of_client(None).hello(LinkKind::Client, None);
    stream.write_all(bytemuck::bytes_of(&hello)).expect("open");
    let mut answer = [0; HEADER_SIZE + 1024];
    stream
        .read_exact(&mut answer[..HEADER_SIZE])
        .expect("welcome");
    let mut buffer = [0; REQUEST_MAX];
    let asker = ClientId::new(requests.client.raw() + 1000);
    for (count, done) in phases {
        for number in 0..count {
            stream.write_all(requests.write(&mut buffer)).expect("open");
            let reply = read(&mut stream, &mut answer, requests.cluster);
            assert!(
                reply.fields().is_some_and(|reply| requests.accept(reply)),
                "{reply:?}"
            );
            let mut query = Header::new(message::Query {
                // Not the id of the requests: answers to both would be told apart by their kind only.
                client: asker,
                query: RequestNumber::new(number),
                ..message::Query::zeroed()
            });
            query.set_cluster(requests.cluster);
            query.seal(&[]);
            stream.write_all(bytemuck::bytes_of(&query)).expect("open");
            let reply = read(&mut stream, &mut answer, requests.cluster);
            assert!(reply.fields::<message::QueryReply>().is_some(), "{reply:?}");
        }
        done.notify_one();
    }
}

fn read<'a>(stream: &mut TcpStream, into: &'a mut [u8], cluster: ClusterId) -> Frame<'a> {
    stream
        .read_exact(&mut into[..HEADER_SIZE])
        .expect("an answer");
    let size = Frame::peek(&into[..HEADER_SIZE], into.len())
        .expect("good")
        .expect("a header");
    stream
        .read_exact(&mut into[HEADER_SIZE..size])
        .expect("its body");
    Frame::parse(&into[..size], cluster).expect("a good frame")
}

async fn start() -> (Vec<Server<Adder>>, Vec<String>) {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let address = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
    let endpoints: Vec<String> = listeners.iter().map(address).collect();
    let mut servers = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let mut settings = Settings::new(ReplicaIndex::new(index as u8), 3);
        // Small enough that the ring wraps while we count.
        settings.journal_slots = 128;
        settings.journal_bytes = 8 << 20;
        // However busy this machine is, the first view is the only one.
        settings.view_timeout = Duration::from_secs(60);
        let consensus = settings.validate().expect("valid");
        let listen = endpoints[index].clone();
        let mut config = ServerConfig::new(consensus, "test".to_owned(), endpoints.clone(), listen);
        // Looking for more between turns is no part of a frame's path, and the runtime notes who looks
        // in a list that it makes anew for every `block_on` below: its first entries would be counted.
        config.spin = Duration::ZERO;
        let server = Server::start_on(listener, config, boot(index as u8), Adder::default());
        servers.push(server.expect("starts"));
    }
    (servers, endpoints)
}

#[test]
fn nothing_allocates_between_a_request_and_its_reply() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let (warm, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (servers, threads) = runtime.block_on(local.run_until(async {
        let (servers, endpoints) = start().await;
        let within = Duration::from_secs(10);
        let cluster = init::form(&endpoints, None, within)
            .await
            .expect("formed")
            .cluster;
        let phases = |warm: &Arc<Notify>, done: &Arc<Notify>| {
            [(200, Arc::clone(warm)), (2000, Arc::clone(done))]
        };
        let mut threads = Vec::new();
        // At the primary, and at a backup that passes everything on. Both are waited for.
        for (at, id) in [(0, 1), (2, 2)] {
            let endpoint = endpoints[at].clone();
            let phases = phases(&warm, &done);
            let requests = Requests::new(cluster, id);
            threads.push(std::thread::spawn(move || {
                outside(&endpoint, requests, phases)
            }));
        }
        let requests = Cell::new(Requests::new(cluster, 3));
        let inside = Rc::new(Inside {
            server: servers[1].clone(),
            requests,
        });
        servers[1].attach(ClientId::new(3), inside.clone());
        inside.ask();
        // The first to be warm may be far ahead of the other; enough has been touched by then.
        warm.notified().await;
        (servers, threads)
    }));
    let before = servers[0].report().applied;
    let counted = allocation_counter::measure(|| {
        runtime.block_on(local.run_until(done.notified()));
    });
    let executed = servers[0].report().applied.distance_from(before);
    assert!(executed > 1000, "{executed} batches went through meanwhile");
    assert_eq!(
        counted.count_total, 0,
        "allocations while {executed} batches went through"
    );
    // The other thread is still served.
    runtime.block_on(local.run_until(async {
        let waiting = tokio::task::spawn_blocking(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().expect("served"));
        });
        waiting.await.expect("both are done");
    }));
}
