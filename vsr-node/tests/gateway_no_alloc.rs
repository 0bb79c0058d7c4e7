//! Nothing on the RESP port's path of data allocates after the start: a gateway, a replica and the
//! key-value machine in one thread serve many connections with small and large commands, and the
//! thread's allocations are counted meanwhile.
//!
//! Taking a connection in is not counted: the runtime makes its task and registers its socket then,
//! which the memory plan counts per connection. So are answers about the server itself (`INFO` and its
//! like), which no load consists of.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use vsr_consensus::{Boot, Report, Settings, StateMachine as _};
use vsr_net::init;
use vsr_node::gateway::{Cluster, Gateway, GatewayOptions, Sink};
use vsr_node::kv::KvMachine;
use vsr_node::server::{LocalClient, Server, ServerConfig};
use vsr_types::{ClientId, ClusterId, Frame, FrameError, MemberId, Nonce, ReplicaIndex};

/// The replica as the gateway sees it.
struct Port(Server<KvMachine>, Cell<u128>);

struct Lane(Rc<dyn Sink>);

impl LocalClient for Lane {
    fn on_frame(&self, frame: &Frame<'_>) {
        self.0.on_frame(frame);
    }
}

impl Cluster for Port {
    fn attach(&self, client: ClientId, sink: Rc<dyn Sink>) {
        self.0.attach(client, Rc::new(Lane(sink)));
    }

    fn detach(&self, client: ClientId) {
        self.0.detach(client);
    }

    fn submit(&self, frame: &[u8]) -> Result<(), FrameError> {
        self.0.submit(frame)
    }

    fn cluster_id(&self) -> ClusterId {
        self.0.cluster()
    }

    fn report(&self) -> Report {
        self.0.report()
    }

    fn read_stale(&self, query: &[u8], reply: &mut [u8]) -> usize {
        self.0
            .with_replica(|replica| replica.machine().query(&replica.context(), query, reply))
    }

    fn random(&self) -> u128 {
        self.1.set(self.1.get() + 1);
        self.1.get()
    }
}

const CLIENTS: usize = 12;

/// A command as clients send it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// What a client sends again and again, and how many bytes come back.
fn script(number: usize, large: usize) -> (Vec<u8>, usize) {
    let key = format!("key:{number}").into_bytes();
    let value = vec![b'x'; large];
    let small = [b'v'; 100];
    let bulk = |size: usize| format!("${size}\r\n").len() + size + 2;
    let mut sent = Vec::new();
    let mut expected = 0;
    let mut say = |words: &[&[u8]], answer: usize| {
        sent.extend(command(words));
        expected += answer;
    };
    for _ in 0..16 {
        say(&[b"SET", &key, &small], 5);
        say(&[b"GET", &key], bulk(small.len()));
        say(&[b"PING"], 7);
    }
    say(&[b"SET", &key, &value], 5);
    say(&[b"GET", &key], bulk(large));
    say(&[b"MGET", &key, b"none"], 4 + bulk(large) + 5);
    say(&[b"ECHO", &value], bulk(large));
    say(&[b"MULTI"], 5);
    say(&[b"SET", &key, &value], 9);
    say(&[b"PING"], 9);
    say(&[b"GET", &key], 9);
    say(&[b"EXEC"], 4 + 5 + 7 + bulk(large));
    say(&[b"WATCH", &key], 5);
    say(&[b"UNWATCH"], 5);
    say(&[b"READONLY"], 5);
    say(&[b"GET", b"none"], 5);
    say(&[b"READWRITE"], 5);
    (sent, expected)
}

/// Sends the script `count` times and reads all answers.
fn talk(stream: &mut TcpStream, (sent, expected): &(Vec<u8>, usize), count: usize) {
    let mut answer = vec![0; *expected];
    let mut writer = stream.try_clone().expect("a second handle");
    for _ in 0..count {
        // Both directions at once: nobody waits for the other with full buffers.
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(sent).expect("taken"));
            let mut got = 0;
            while got < answer.len() {
                match stream.read(&mut answer[got..]) {
                    Ok(count) if count > 0 => got += count,
                    end => {
                        let tail = String::from_utf8_lossy(&answer[got.saturating_sub(200)..got]);
                        panic!("{end:?} after {got} of {expected} bytes, the last of them {tail}");
                    }
                }
            }
        });
        assert!(
            !answer.windows(5).any(|bytes| bytes == b"-ERR "),
            "an error"
        );
    }
}

/// Clients with values up to the largest, in threads of their own, in two phases.
fn clients(
    address: SocketAddr,
    phases: [(usize, Arc<Notify>); 2],
    leave: Arc<Barrier>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let barrier = Barrier::new(CLIENTS);
        let sizes = [100, 5000, 20_000, 120_000, 300_000, 1_000_000];
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (barrier, phases, leave) = (&barrier, &phases, &leave);
                scope.spawn(move || {
                    let script = script(number, sizes[number % sizes.len()]);
                    let mut stream = TcpStream::connect(address).expect("listening");
                    for (count, done) in phases {
                        talk(&mut stream, &script, *count);
                        if barrier.wait().is_leader() {
                            done.notify_one();
                        }
                    }
                    // Whoever goes away is not counted either.
                    leave.wait();
                });
            }
        });
    })
}

async fn start() -> (Server<KvMachine>, Gateway, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let mut settings = Settings::new(ReplicaIndex::new(0), 1);
    settings.journal_slots = 256;
    settings.journal_bytes = 16 << 20;
    let consensus = settings.validate().expect("valid");
    let peers = vec![endpoint.clone()];
    let mut config = ServerConfig::new(consensus, "test".to_owned(), peers.clone(), endpoint);
    // As in server_no_alloc.rs: the runtime's list of those who look for more is not counted.
    config.spin = Duration::ZERO;
    let boot = Boot {
        member: MemberId::new(1),
        nonce: Nonce::new(1),
        seed: 1,
    };
    let machine = KvMachine::new(64 << 20);
    let server = Server::start_on(listener, config, boot, machine).expect("starts");
    init::form(&peers, None, Duration::from_secs(10))
        .await
        .expect("formed");
    let options = GatewayOptions {
        buffers: 64 << 20,
        clients_max: 100,
        ..GatewayOptions::default()
    };
    let gateway = Gateway::new(Rc::new(Port(server.clone(), Cell::new(100))), options);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = gateway.clone();
    spawn_local(async move { serving.run(listener).await });
    (server, gateway, address)
}

#[test]
fn nothing_allocates_between_a_command_and_its_reply() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let leave = Arc::new(Barrier::new(CLIENTS + 1));
    let (warm, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (_server, gateway, threads) = runtime.block_on(local.run_until(async {
        let (server, gateway, address) = start().await;
        let phases = [(2, Arc::clone(&warm)), (20, Arc::clone(&done))];
        let threads = clients(address, phases, Arc::clone(&leave));
        let answered = tokio::time::timeout(Duration::from_secs(60), warm.notified());
        answered.await.expect("all clients are answered");
        (server, gateway, threads)
    }));
    let before = gateway.counters();
    let counted = allocation_counter::measure(|| {
        runtime.block_on(local.run_until(async {
            let answered = tokio::time::timeout(Duration::from_secs(60), done.notified());
            answered.await.expect("all clients are answered");
        }));
    });
    let after = gateway.counters();
    let commands = after.received_commands - before.received_commands;
    let bytes = after.output_bytes - before.output_bytes;
    assert!(
        commands > 10_000 && bytes > 100 << 20,
        "{commands} commands, {bytes} bytes"
    );
    assert_eq!(after.connections, 12, "nobody came anew or was closed");
    assert_eq!(after.connections_overrun, 0);
    assert_eq!(
        counted.count_total, 0,
        "{counted:?} while {commands} commands with {bytes} bytes of replies went through"
    );
    leave.wait();
    threads.join().expect("served");
}
