//! Clusters on loopback, in one thread, with a state machine that adds numbers.

mod adder;
mod bad_input;
mod links;

use super::*;

use std::cell::RefCell as Cells;
use std::future::{Future, poll_fn};
use std::task::Poll;

use adder::{Adder, boot};
use bytemuck::Zeroable;
use tokio::task::LocalSet;
use vsr_consensus::Settings;
use vsr_net::handshake::Identity;
use vsr_net::{Client, ClientError, ClientOptions, Connection, Tool, init};
use vsr_types::message::{self, LinkKind, PeerStatus};
use vsr_types::{
    Epoch, HEADER_SIZE, Header, MemberId, Operation, RequestHeader, RequestNumber, SessionNumber,
};

const NAME: &str = "test";
const WITHIN: Duration = Duration::from_secs(10);

struct Cluster {
    servers: Vec<Server<Adder>>,
    endpoints: Vec<String>,
}

fn config(replica: u8, endpoints: &[String]) -> ServerConfig {
    let mut settings = Settings::new(ReplicaIndex::new(replica), endpoints.len() as u8);
    settings.journal_slots = 4096;
    settings.journal_bytes = 16 << 20;
    settings.sessions = 64;
    // However busy this machine is, the first view is the only one.
    settings.view_timeout = WITHIN;
    let consensus = settings.validate().expect("valid");
    let listen = endpoints[usize::from(replica)].clone();
    let mut config = ServerConfig::new(consensus, NAME.to_owned(), endpoints.to_vec(), listen);
    config.connections_max = 4;
    config.half_open_max = 3;
    config
}

impl Cluster {
    async fn blank(replicas: u8) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..replicas {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let address = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
        let endpoints: Vec<String> = listeners.iter().map(address).collect();
        let start = |(replica, listener)| {
            let replica = replica as u8;
            let config = config(replica, &endpoints);
            Server::start_on(listener, config, boot(replica), Adder::default()).expect("starts")
        };
        let servers = listeners.into_iter().enumerate().map(start).collect();
        Self { servers, endpoints }
    }

    async fn formed(replicas: u8) -> Self {
        let cluster = Self::blank(replicas).await;
        let formed = init::form(&cluster.endpoints, Some(NAME), WITHIN)
            .await
            .expect("formed");
        assert_eq!(formed.replicas, replicas);
        assert!(
            cluster
                .servers
                .iter()
                .all(|server| server.cluster() == formed.cluster)
        );
        cluster
    }

    async fn client(&self) -> Client {
        let options = ClientOptions {
            sessions: 8,
            ..ClientOptions::default()
        };
        Client::connect(&self.endpoints, options)
            .await
            .expect("connected")
    }

    /// Waits until every replica has executed as much as the one that has executed most.
    async fn settled(&self) {
        until(|| {
            let applied = |server: &Server<Adder>| server.report().applied;
            let most = self.servers.iter().map(applied).max();
            self.servers
                .iter()
                .all(|server| Some(applied(server)) == most)
        })
        .await;
    }
}

/// Gives everybody else turns until `is_so`, for a bounded time.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = poll_fn(|cx| {
        if is_so() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    tokio::time::timeout(WITHIN, waiting)
        .await
        .expect("it happens in time");
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

fn sealed(mut header: Header) -> Header {
    header.seal(&[]);
    header
}

fn sum_of(body: &[u8]) -> u64 {
    u64::from_le_bytes(body.try_into().expect("a sum"))
}

#[tokio::test]
async fn a_cluster_forms_executes_and_answers_queries() {
    local(async {
        let cluster = Cluster::formed(3).await;
        let client = cluster.client().await;
        for number in 1..=20_u64 {
            let reply = client
                .execute(&number.to_le_bytes())
                .await
                .expect("executed");
            assert_eq!(sum_of(&reply.body), number * (number + 1) / 2);
            let answer = client.query(&[]).await.expect("answered");
            assert_eq!(
                answer.body, reply.body,
                "a read shows what was acknowledged before it"
            );
        }
        cluster.settled().await;
        for server in &cluster.servers {
            assert_eq!(server.with_replica(|replica| replica.machine().sum), 210);
            assert_eq!(
                server.report().sessions,
                1,
                "one at a time needs one session"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn concurrent_calls_use_sessions_up_to_the_bound_and_each_counts_once() {
    local(async {
        let cluster = Cluster::formed(3).await;
        let client = cluster.client().await;
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.execute(&1_u64.to_le_bytes()).await })
            })
            .collect();
        let mut sums = Vec::new();
        for call in calls {
            sums.push(sum_of(&call.await.expect("runs").expect("executed").body));
        }
        sums.sort_unstable();
        assert!(sums.into_iter().eq(1..=200), "every call exactly once");
        cluster.settled().await;
        assert_eq!(cluster.servers[2].report().sessions, 8);
    })
    .await;
}

#[tokio::test]
async fn a_client_connected_to_a_backup_only_is_served_through_it() {
    local(async {
        let cluster = Cluster::formed(3).await;
        for backup in 1..3 {
            let endpoint = &cluster.endpoints[backup..=backup];
            let client = Client::connect(endpoint, ClientOptions::default())
                .await
                .expect("connected");
            let reply = client
                .execute(&5_u64.to_le_bytes())
                .await
                .expect("executed");
            assert_eq!(sum_of(&reply.body), 5 * backup as u64);
            assert!(client.query(&[]).await.is_ok());
            let counters = cluster.servers[0].net_counters();
            assert_eq!(
                counters.clients_welcomed, 1,
                "only init's tool was at the primary"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn clients_hear_what_the_state_machine_refuses_and_what_is_too_large() {
    local(async {
        let cluster = Cluster::formed(1).await;
        let client = cluster.client().await;
        let refused = client.execute(b"not eight").await.expect_err("refused");
        assert_eq!(refused, ClientError::Malformed { code: 42 });
        assert!(!refused.is_outcome_unknown());
        let most = client.operation_size_max();
        let error = client
            .execute(&vec![0; most + 1])
            .await
            .expect_err("too large");
        assert_eq!(
            error,
            ClientError::TooLarge {
                size: most + 1,
                most
            }
        );
        // The session goes on after a refusal.
        assert!(client.execute(&1_u64.to_le_bytes()).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn init_is_refused_by_replicas_that_have_a_cluster() {
    local(async {
        let cluster = Cluster::formed(3).await;
        let again = init::form(&cluster.endpoints, Some(NAME), WITHIN)
            .await
            .expect_err("refused");
        assert!(again.is_refusal(), "{again}");
        assert!(again.to_string().contains("already"), "{again}");
        let other = init::form(&cluster.endpoints, Some("other"), WITHIN).await;
        assert!(
            other
                .expect_err("refused")
                .to_string()
                .contains("--cluster")
        );
        let some = init::form(&cluster.endpoints[..2], None, WITHIN).await;
        assert!(
            some.expect_err("too few")
                .to_string()
                .contains("2 endpoints")
        );
        let twice = [&cluster.endpoints[..2], &cluster.endpoints[..1]].concat();
        let twice = init::form(&twice, None, WITHIN).await;
        assert!(
            twice
                .expect_err("twice")
                .to_string()
                .contains("given twice")
        );
    })
    .await;
}

#[tokio::test]
async fn init_names_who_is_not_there() {
    local(async {
        let mut cluster = Cluster::blank(3).await;
        let gone = cluster.servers.remove(1);
        gone.stop();
        assert_eq!(gone.stopped().await, StopReason::Asked);
        let missing = cluster.endpoints[1].clone();
        let error = init::form(&cluster.endpoints, None, Duration::from_secs(2))
            .await
            .expect_err("gone");
        assert!(!error.is_refusal());
        assert!(error.to_string().contains(&missing), "{error}");
        assert!(
            cluster
                .servers
                .iter()
                .all(|server| server.cluster().is_zero())
        );
    })
    .await;
}

#[tokio::test]
async fn a_client_of_blank_replicas_is_told_that_there_is_no_cluster() {
    local(async {
        let cluster = Cluster::blank(1).await;
        let options = ClientOptions {
            connect_timeout: Duration::from_millis(100),
            ..ClientOptions::default()
        };
        let error = Client::connect(&cluster.endpoints, options)
            .await
            .expect_err("no cluster");
        assert!(error.to_string().contains("vsr-cli init"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn tools_ping_and_inspect_any_replica() {
    local(async {
        let cluster = Cluster::formed(3).await;
        let server = cluster.servers[2].clone();
        let handle = server.clone();
        server.on_inspect(Rc::new(move |topic, argument| match topic {
            // It may look at the server: nothing is borrowed.
            InspectTopic::Status => Ok(format!("{} {argument}", handle.report().replica)),
            _ => Err("no".to_owned()),
        }));
        let mut tool = Tool::connect(&cluster.endpoints[2], Some(NAME), WITHIN)
            .await
            .expect("connected");
        let pong = tool.ping().await.expect("answered");
        assert_eq!(pong.replica, ReplicaIndex::new(2));
        assert_eq!(pong.status, Some(PeerStatus::Normal));
        assert_eq!(pong.cluster, server.cluster());
        assert_eq!(
            tool.inspect(InspectTopic::Status, 9)
                .await
                .expect("answered"),
            "R2 9"
        );
        let error = tool
            .inspect(InspectTopic::Op, 0)
            .await
            .expect_err("no such topic");
        assert!(error.to_string().ends_with(": no"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_comes_back_is_dialled_again_and_others_go_on_meanwhile() {
    local(async {
        let mut cluster = Cluster::formed(3).await;
        let client = cluster.client().await;
        assert!(client.execute(&1_u64.to_le_bytes()).await.is_ok());
        // R0 leads view 0 and R1 is in the middle of the chain: R1 goes.
        let gone = cluster.servers.remove(1);
        gone.stop();
        for _ in 0..5 {
            assert!(
                client.execute(&1_u64.to_le_bytes()).await.is_ok(),
                "two of three are enough"
            );
        }
        until(|| {
            cluster.servers.iter().all(|server| {
                server
                    .links()
                    .iter()
                    .any(|link| link.replica == ReplicaIndex::new(1) && !link.is_up)
            })
        })
        .await;
        let again = Server::start(config(1, &cluster.endpoints), boot(9), Adder::default())
            .await
            .expect("the port is free again");
        until(|| again.links().iter().all(|link| link.is_up)).await;
        until(|| {
            cluster
                .servers
                .iter()
                .all(|server| server.links().iter().all(|link| link.is_up))
        })
        .await;
        assert!(
            again.cluster().is_zero(),
            "it came back empty and invents nothing"
        );
    })
    .await;
}

/// Keeps what it is sent, and asks for the next from inside the call.
struct Chatty {
    server: Server<Adder>,
    client: ClientId,
    session: Cells<SessionNumber>,
    sums: Cells<Vec<u64>>,
    rejects: Cells<usize>,
}

impl Chatty {
    fn request(&self, number: u64) -> Vec<u8> {
        let kind = if number == 0 {
            Operation::Register
        } else {
            Operation::Apply
        };
        let operation = number.to_le_bytes();
        let operation = if number == 0 { &[][..] } else { &operation[..] };
        let mut request = RequestHeader::new(
            kind,
            self.client,
            Epoch::ZERO,
            *self.session.borrow(),
            RequestNumber::new(number),
        );
        request.seal(operation);
        let mut header = Header::new(message::Request::zeroed());
        header.set_cluster(self.server.cluster());
        header.seal_with(request.size(), request.checksum());
        [
            bytemuck::bytes_of(&header),
            bytemuck::bytes_of(&request),
            operation,
        ]
        .concat()
    }
}

impl LocalClient for Chatty {
    fn on_frame(&self, frame: &Frame<'_>) {
        let Some(reply) = frame.fields::<message::Reply>() else {
            *self.rejects.borrow_mut() += 1;
            return;
        };
        if reply.request == RequestNumber::ZERO {
            self.session.replace(SessionNumber::new(reply.op.raw()));
        } else {
            self.sums.borrow_mut().push(sum_of(frame.body()));
        }
        if reply.request.raw() < 10 {
            let next = self.request(reply.request.raw() + 1);
            self.server.submit(&next).expect("a good frame");
        }
    }
}

#[tokio::test]
async fn local_clients_call_back_from_inside_an_answer_at_the_primary_and_at_a_backup() {
    local(async {
        let cluster = Cluster::formed(3).await;
        until(|| {
            cluster
                .servers
                .iter()
                .all(|s| s.links().iter().all(|link| link.is_up))
        })
        .await;
        for at in [0, 2] {
            let server = cluster.servers[at].clone();
            let chatty = Rc::new(Chatty {
                server: server.clone(),
                client: ClientId::new(900 + at as u128),
                session: Cells::default(),
                sums: Cells::default(),
                rejects: Cells::default(),
            });
            server.attach(chatty.client, chatty.clone());
            server.submit(&chatty.request(0)).expect("a good frame");
            until(|| chatty.sums.borrow().len() == 10).await;
            let before: u64 = if at == 0 { 0 } else { 55 };
            assert_eq!(chatty.sums.borrow().last(), Some(&(before + 55)));
            assert_eq!(*chatty.rejects.borrow(), 0);
            server.detach(chatty.client);
        }
        let bad = cluster.servers[0].submit(&[0; HEADER_SIZE]);
        assert_eq!(bad, Err(FrameError::HeaderChecksum));
        let ping = sealed(Header::new(message::Ping::zeroed()));
        let bad = cluster.servers[0].submit(bytemuck::bytes_of(&ping));
        assert!(
            matches!(bad, Err(FrameError::Command { .. })),
            "not from clients"
        );
    })
    .await;
}

#[tokio::test]
async fn stopping_tells_clients_and_frees_the_port() {
    local(async {
        let mut cluster = Cluster::formed(1).await;
        let identity = Identity::of_client(None);
        let open = Connection::open(&cluster.endpoints[0], &identity, LinkKind::Client, WITHIN);
        let mut connection = open.await.expect("connected");
        let server = cluster.servers.remove(0);
        server.stop();
        server.stop();
        let error = connection.receive().await.expect_err("closed");
        assert!(error.to_string().contains("going away"), "{error}");
        assert_eq!(server.stopped().await, StopReason::Asked);
        let mut stopped = 0;
        until(|| {
            stopped += 1;
            Rc::strong_count(&server.shared) == 1
        })
        .await;
    })
    .await;
}

#[test]
fn replicas_with_other_shared_settings_do_not_even_connect() {
    let endpoints = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
    let digest = |tune: &dyn Fn(&mut Settings), replica: u8, sum: u64| {
        let mut config = config(replica, &endpoints);
        let mut settings = Settings::clone(&config.consensus);
        tune(&mut settings);
        config.consensus = settings.validate().expect("valid");
        shared_settings(&config, &Adder { sum })
    };
    let ours = digest(&|_| {}, 0, 0);
    assert_eq!(digest(&|_| {}, 1, 0), ours, "the same on another replica");
    assert_eq!(
        digest(&|s| s.journal_slots *= 2, 1, 0),
        ours,
        "what each may choose"
    );
    assert_ne!(digest(&|s| s.pipeline = 8, 1, 0), ours);
    assert_ne!(digest(&|s| s.sessions = 65, 1, 0), ours);
    assert_ne!(digest(&|s| s.reply_bytes *= 2, 1, 0), ours);
    assert_ne!(digest(&|s| s.batch_size_max /= 2, 1, 0), ours);
    assert_ne!(digest(&|s| s.op_max = 1000, 1, 0), ours);
    let reset = vsr_consensus::OnOpMax::Reset;
    assert_ne!(digest(&|s| s.on_op_max = reset, 1, 0), ours);
    assert_ne!(digest(&|_| {}, 1, 7), ours, "another machine to begin with");
}
