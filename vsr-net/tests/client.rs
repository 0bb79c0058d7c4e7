//! The client against replicas that misbehave on purpose: what it sends again, where it goes, and what
//! callers are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytemuck::Zeroable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vsr_net::handshake::{Identity, cluster_name_digest};
use vsr_net::{Client, ClientError, ClientOptions, Ingress};
use vsr_types::message::{
    self, Command, PeerStatus, Ping, Pong, QueryReply, Reject, RejectReason, Reply,
};
use vsr_types::{
    ClientId, ClusterId, Frame, HEADER_SIZE, Header, Incarnation, MemberId, Op, Operation,
    ReplicaIndex, RequestHeader, RequestNumber, View, limits,
};

const CLUSTER: ClusterId = ClusterId::new(4711);

/// What a fake replica was sent: a whole frame.
#[derive(Clone, Debug)]
struct Seen {
    replica: u8,
    bytes: Vec<u8>,
}

impl Seen {
    fn request(&self) -> RequestHeader {
        let frame = Frame::parse(&self.bytes, CLUSTER).expect("a good frame");
        *frame.request().expect("a request").header()
    }
}

/// What a fake replica does with a frame: the frames it answers with, or none to hang up.
type Behaviour = dyn Fn(&Frame<'_>) -> Option<Vec<u8>> + Send + Sync;

struct Fake {
    endpoint: String,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn identity(replica: u8, cluster: ClusterId) -> Identity {
    Identity {
        cluster_name: cluster_name_digest("fake"),
        configuration: 1,
        replica: ReplicaIndex::new(replica),
        replicas: 3,
        member: MemberId::new(u128::from(replica)),
        incarnation: Incarnation::default(),
        cluster,
        view: View::ZERO,
    }
}

/// A replica of the cluster that behaves as told, and reports every request and query.
async fn fake(
    replica: u8,
    seen: mpsc::UnboundedSender<Seen>,
    behaviour: impl Fn(&Frame<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    fake_on(listener, identity(replica, CLUSTER), seen, behaviour)
}

fn fake_on(
    listener: TcpListener,
    identity: Identity,
    seen: mpsc::UnboundedSender<Seen>,
    behaviour: impl Fn(&Frame<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Fake {
    let endpoint = listener.local_addr().expect("bound").to_string();
    let behaviour: Arc<Behaviour> = Arc::new(behaviour);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, behaviour) = (seen.clone(), Arc::clone(&behaviour));
            connections.spawn(async move {
                drop(serve(stream, identity, &seen, &*behaviour).await);
            });
        }
    });
    Fake { endpoint, task }
}

async fn serve(
    mut stream: TcpStream,
    identity: Identity,
    seen: &mpsc::UnboundedSender<Seen>,
    behaviour: &Behaviour,
) -> std::io::Result<()> {
    let mut hello = [0; HEADER_SIZE];
    stream.read_exact(&mut hello).await?;
    let answer = match identity.judge_hello(&hello) {
        Ok(caller) => identity.welcome(&caller, 1000),
        Err(refusal) => refusal.frame(),
    };
    stream.write_all(bytemuck::bytes_of(&answer)).await?;
    let mut ingress = Ingress::new(2 * limits::FRAME_SIZE_MAX, limits::FRAME_SIZE_MAX);
    loop {
        let count = stream.read(ingress.space()).await?;
        if count == 0 {
            return Ok(());
        }
        ingress.filled(count);
        let mut answers = Vec::new();
        while let Some(bytes) = ingress.next_frame().expect("clients send frames") {
            let frame = Frame::parse(bytes, CLUSTER).expect("clients send good frames");
            if frame.command() != Command::Ping {
                let replica = identity.replica.raw();
                drop(seen.send(Seen {
                    replica,
                    bytes: bytes.to_vec(),
                }));
            }
            match behaviour(&frame) {
                Some(bytes) => answers.extend(bytes),
                None => return Ok(()),
            }
        }
        stream.write_all(&answers).await?;
    }
}

fn frame<M: message::Message>(view: u64, fields: M, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new(fields);
    header.set_cluster(CLUSTER);
    header.set_view(View::new(view));
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

/// A replica of `view` that executes everything and answers with the operation.
fn answer(view: u64, frame_in: &Frame<'_>) -> Vec<u8> {
    if let Some(ping) = frame_in.fields::<Ping>() {
        let status = PeerStatus::Normal as u8;
        return frame(
            view,
            Pong {
                sent_ns: ping.sent_ns,
                status,
                ..Pong::zeroed()
            },
            &[],
        );
    }
    if let Some(query) = frame_in.fields::<message::Query>() {
        let reply = QueryReply {
            client: query.client,
            query: query.query,
            ..QueryReply::zeroed()
        };
        return frame(view, reply, frame_in.body());
    }
    let request = frame_in.request().expect("a request");
    let header = request.header();
    let reply = Reply {
        client: header.client,
        request: header.request,
        op: Op::new(header.request.raw() + 10),
        request_checksum: header.checksum(),
        index: 0,
    };
    frame(view, reply, request.operation())
}

fn reject(view: u64, frame_in: &Frame<'_>, reason: RejectReason) -> Vec<u8> {
    let request = *frame_in.request().expect("a request").header();
    let reject = Reject {
        client: request.client,
        request: request.request,
        reason: reason as u32,
        request_checksum: request.checksum(),
        detail: 7,
    };
    frame(view, reject, &[])
}

fn is_apply(frame: &Frame<'_>) -> bool {
    let request = frame.request();
    request.is_some_and(|request| request.header().operation == Operation::Apply as u8)
}

fn options() -> ClientOptions {
    ClientOptions {
        sessions: 2,
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(50),
        timeout: Duration::from_secs(10),
        ..ClientOptions::default()
    }
}

async fn connect(fakes: &[&Fake]) -> Client {
    let endpoints: Vec<_> = fakes.iter().map(|fake| &fake.endpoint).collect();
    Client::connect(&endpoints, options())
        .await
        .expect("connected")
}

/// Counts down; the first `count` times it says yes.
fn first(count: usize) -> impl Fn() -> bool + Send + Sync {
    let left = Mutex::new(count);
    move || {
        let mut left = left.lock().expect("not poisoned");
        let was = *left;
        *left = was.saturating_sub(1);
        was > 0
    }
}

async fn next_apply(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    loop {
        let seen = seen.recv().await.expect("more comes");
        let frame = Frame::parse(&seen.bytes, CLUSTER).expect("a good frame");
        if is_apply(&frame) {
            return seen;
        }
    }
}

#[tokio::test]
async fn what_is_lost_is_sent_again_byte_for_byte() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let is_lost = first(2);
    let fake = fake(0, sender, move |frame| {
        let lost = is_apply(frame) && is_lost();
        Some(if lost { Vec::new() } else { answer(0, frame) })
    })
    .await;
    let client = connect(&[&fake]).await;
    assert_eq!(
        client.execute(b"once").await.expect("executed").body,
        b"once"
    );
    let attempts = [
        next_apply(&mut seen).await.bytes,
        next_apply(&mut seen).await.bytes,
        next_apply(&mut seen).await.bytes,
    ];
    assert!(attempts.iter().all(|bytes| *bytes == attempts[0]));
}

#[tokio::test]
async fn a_replica_that_falls_silent_is_left_for_the_next() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut fakes = Vec::new();
    for replica in 0..3 {
        fakes.push(
            fake(replica, sender.clone(), move |frame| {
                // Only replica 2 answers operations; the others only say hello.
                Some(if replica == 2 {
                    answer(2, frame)
                } else {
                    Vec::new()
                })
            })
            .await,
        );
    }
    let client = connect(&[&fakes[0], &fakes[1], &fakes[2]]).await;
    assert_eq!(
        client.execute(b"op").await.expect("executed").view,
        View::new(2)
    );
    while let Ok(seen) = seen.try_recv() {
        let number = seen.request().request;
        assert!(
            number == RequestNumber::ZERO || seen.replica == 2,
            "{seen:?}"
        );
    }
}

/// R13.1.
#[tokio::test]
async fn the_connection_moves_to_the_primary_although_every_replica_would_answer() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut fakes = Vec::new();
    for replica in 0..3 {
        // View 4 of three replicas is led by replica 1; everybody says so.
        fakes.push(fake(replica, sender.clone(), |frame| Some(answer(4, frame))).await);
    }
    for _ in 0..6 {
        // Wherever it begins.
        let client = connect(&[&fakes[0], &fakes[1], &fakes[2]]).await;
        let mut last = None;
        for _ in 0..50 {
            assert!(client.execute(b"op").await.is_ok());
            last = Some(next_apply(&mut seen).await.replica);
        }
        assert_eq!(last, Some(1));
    }
}

#[tokio::test]
async fn who_is_not_the_primary_says_who_is_and_no_retry_is_waited_for() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let mut fakes = Vec::new();
    for replica in 0..3 {
        let behaviour = move |frame: &Frame<'_>| match frame.command() {
            // These do not even answer pings.
            Command::Ping => Some(Vec::new()),
            Command::Request if replica != 1 => Some(reject(4, frame, RejectReason::NotPrimary)),
            _ => Some(answer(4, frame)),
        };
        fakes.push(fake(replica, sender.clone(), behaviour).await);
    }
    for _ in 0..6 {
        let endpoints: Vec<_> = fakes.iter().map(|fake| &fake.endpoint).collect();
        let client = Client::connect(&endpoints, patient())
            .await
            .expect("connected");
        assert!(client.execute(b"op").await.is_ok());
    }
}

/// Waits for answers for ever: whatever happens sooner, happens for another reason.
fn patient() -> ClientOptions {
    let hour = Duration::from_secs(3600);
    ClientOptions {
        retry_min: hour,
        retry_max: hour,
        ..options()
    }
}

#[tokio::test]
async fn busy_replicas_are_asked_again_soon() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let is_busy = first(3);
    let fake = fake(0, sender, move |frame| {
        let busy = frame.command() == Command::Request && is_busy();
        Some(if busy {
            reject(0, frame, RejectReason::Busy)
        } else {
            answer(0, frame)
        })
    })
    .await;
    let client = Client::connect(&[&fake.endpoint], patient())
        .await
        .expect("connected");
    assert!(client.execute(b"op").await.is_ok());
}

/// A normal replica's pong that nobody asked for: it has come to a new view.
fn announcement(view: u64) -> Vec<u8> {
    let status = PeerStatus::Normal as u8;
    let pong = Pong {
        status,
        ..Pong::zeroed()
    };
    frame(view, pong, &[])
}

/// R13.1: what was in flight may be lost with the primary before.
#[tokio::test]
async fn what_is_in_flight_is_sent_again_when_the_view_changes() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let is_lost = first(1);
    let fake = fake(0, sender, move |frame| {
        let lost = is_apply(frame) && is_lost();
        Some(if lost {
            announcement(4)
        } else {
            answer(3, frame)
        })
    })
    .await;
    let client = Client::connect(&[&fake.endpoint], patient())
        .await
        .expect("connected");
    assert!(client.execute(b"op").await.is_ok());
    let (one, two) = (next_apply(&mut seen).await, next_apply(&mut seen).await);
    assert_eq!(one.bytes, two.bytes);
}

/// R13: the primary dies, its successor is not ready yet, and the third passes requests on.
#[tokio::test]
async fn the_same_bytes_go_round_until_somebody_answers() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let is_early = Arc::new(first(4));
    let mut fakes = Vec::new();
    for replica in 0..3 {
        let is_early = Arc::clone(&is_early);
        let behaviour = move |frame: &Frame<'_>| match replica {
            0 if is_apply(frame) => None,
            1 if is_apply(frame) => Some(reject(3, frame, RejectReason::NotReady)),
            2 if is_apply(frame) && is_early() => Some(reject(3, frame, RejectReason::NotPrimary)),
            2 => Some(answer(4, frame)),
            _ => Some(answer(3, frame)),
        };
        fakes.push(fake(replica, sender.clone(), behaviour).await);
    }
    let endpoints: Vec<_> = fakes.iter().map(|fake| &fake.endpoint).collect();
    let client = Client::connect(&endpoints, patient())
        .await
        .expect("connected");
    assert!(client.execute(b"op").await.is_ok());
    let first = next_apply(&mut seen).await;
    let mut others = Vec::new();
    while let Ok(seen) = seen.try_recv() {
        if is_apply(&Frame::parse(&seen.bytes, CLUSTER).expect("a good frame")) {
            assert_eq!(seen.bytes, first.bytes);
            others.push(seen.replica);
        }
    }
    assert!(others.len() >= 4, "{others:?}");
}

/// Takes 32 KiB every other millisecond, so that what is sent fills the sockets on both sides.
async fn serve_slowly(mut stream: TcpStream, identity: Identity) -> std::io::Result<()> {
    let mut hello = [0; HEADER_SIZE];
    stream.read_exact(&mut hello).await?;
    let caller = identity.judge_hello(&hello).expect("a good hello");
    let welcome = identity.welcome(&caller, limits::FRAME_SIZE_MAX / 2);
    stream.write_all(bytemuck::bytes_of(&welcome)).await?;
    let mut ingress = Ingress::new(2 * limits::FRAME_SIZE_MAX, limits::FRAME_SIZE_MAX);
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let mut answers = Vec::new();
    loop {
        pace.tick().await;
        let space = ingress.space();
        let most = space.len().min(32 << 10);
        let count = stream.read(&mut space[..most]).await?;
        if count == 0 {
            return Ok(());
        }
        ingress.filled(count);
        while let Some(bytes) = ingress.next_frame().expect("clients send frames") {
            let frame = Frame::parse(bytes, CLUSTER).expect("clients send good frames");
            // Nothing is said before everything was heard.
            answers.push(answer(0, &frame));
        }
        if answers.len() == 1 + LARGE {
            stream.write_all(&answers.concat()).await?;
        }
    }
}

/// How many queries are sent at once to the slow replica.
const LARGE: usize = 64;

#[tokio::test]
async fn a_full_socket_is_no_silence() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("small");
    let any = "127.0.0.1:0".parse().expect("an address");
    socket.bind(any).expect("a port");
    let listener = socket.listen(16).expect("listening");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *counted.lock().expect("not poisoned") += 1;
            tokio::spawn(serve_slowly(stream, identity(0, CLUSTER)));
        }
    });
    let options = ClientOptions {
        // Longer than the replica takes for what the operating system holds for it, and shorter than for
        // all of it.
        retry_min: Duration::from_millis(1200),
        retry_max: Duration::from_millis(1200),
        ..options()
    };
    let client = Client::connect(&[&endpoint], options)
        .await
        .expect("connected");
    let calls: Vec<_> = (0..LARGE)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.query(&vec![7; 400 << 10]).await })
        })
        .collect();
    // The replica answers all of them or none: a second attempt would begin anew.
    for call in calls {
        assert!(call.await.expect("ran").is_ok());
    }
    assert_eq!(*connections.lock().expect("not poisoned"), 1);
    task.abort();
}

#[tokio::test]
async fn an_evicted_session_is_told_and_the_next_one_has_a_fresh_id() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let is_evicted = first(1);
    let fake = fake(0, sender, move |frame| {
        let evicted = is_apply(frame) && is_evicted();
        Some(if evicted {
            reject(0, frame, RejectReason::Evicted)
        } else {
            answer(0, frame)
        })
    })
    .await;
    let client = connect(&[&fake]).await;
    let error = client.execute(b"op").await.expect_err("evicted");
    assert_eq!(error, ClientError::Evicted);
    assert!(error.is_outcome_unknown());
    assert!(client.execute(b"op").await.is_ok());
    let mut ids: Vec<(ClientId, u64)> = Vec::new();
    while let Ok(seen) = seen.try_recv() {
        let request = seen.request();
        ids.push((request.client, request.request.raw()));
    }
    // The operation that was lost is not repeated under the new id by itself (R1.6).
    let old = ids[0].0;
    assert_eq!(
        ids.iter()
            .filter(|(id, number)| *id == old && *number == 1)
            .count(),
        1
    );
    let (new, numbers): (Vec<_>, Vec<_>) = ids.iter().filter(|(id, _)| *id != old).copied().unzip();
    assert_eq!(numbers, [0, 1], "registered, then used");
    assert_eq!(new[0], new[1]);
}

#[tokio::test]
async fn refusals_of_the_machine_do_not_cost_the_session() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let is_refused = first(1);
    let fake = fake(0, sender, move |frame| {
        let refused = is_apply(frame) && is_refused();
        Some(if refused {
            reject(0, frame, RejectReason::Malformed)
        } else {
            answer(0, frame)
        })
    })
    .await;
    let client = connect(&[&fake]).await;
    let error = client.execute(b"bad").await.expect_err("refused");
    assert_eq!(error, ClientError::Malformed { code: 7 });
    assert_eq!(
        client.execute(b"good").await.expect("executed").body,
        b"good"
    );
    let (bad, good) = (next_apply(&mut seen).await, next_apply(&mut seen).await);
    assert_eq!(bad.request().client, good.request().client);
    assert_eq!(
        bad.request().request,
        good.request().request,
        "the number was not used up"
    );
}

/// Connects to the fakes' endpoints until it begins at the first of them: each client begins anywhere.
async fn connect_to_first(fakes: [&Fake; 2]) -> Client {
    loop {
        let client = connect(&fakes).await;
        if client.cluster() == CLUSTER {
            return client;
        }
    }
}

/// R7.2.
#[tokio::test]
async fn an_endpoint_of_another_cluster_is_skipped_and_only_if_all_are_the_client_ends() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let other = ClusterId::new(1);
    let foreign = |listener| {
        fake_on(listener, identity(1, other), sender.clone(), |frame| {
            Some(answer(0, frame))
        })
    };
    let two = foreign(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    // Hangs up a few times, so that the client comes by the other cluster.
    let hangs_up = first(3);
    let one = fake(0, sender.clone(), move |frame| {
        let gone = is_apply(frame) && hangs_up();
        (!gone).then(|| answer(0, frame))
    })
    .await;
    let client = connect_to_first([&one, &two]).await;
    assert!(client.execute(b"op").await.is_ok());
    while let Ok(seen) = seen.try_recv() {
        assert_eq!(seen.replica, 0, "nothing is sent to another cluster");
    }
    let endpoint = one.endpoint.clone();
    drop(one);
    let listener = loop {
        // The task's socket is closed when the runtime comes to it.
        if let Ok(listener) = TcpListener::bind(&endpoint).await {
            break listener;
        }
        tokio::task::yield_now().await;
    };
    let _one = foreign(listener);
    let error = client.execute(b"op").await.expect_err("another cluster");
    assert!(
        matches!(error, ClientError::WrongCluster { expected, received, .. }
            if expected == CLUSTER && received == other),
        "{error}"
    );
    assert!(error.is_outcome_unknown());
    assert_eq!(client.query(b"q").await.expect_err("for good"), error);
}

#[tokio::test]
async fn a_late_answer_is_a_timeout_whose_outcome_is_unknown_and_the_session_recovers() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let (gate, is_open) = tokio::sync::watch::channel(false);
    let fake = fake(0, sender, move |frame| {
        let held = is_apply(frame) && !*is_open.borrow();
        Some(if held { Vec::new() } else { answer(0, frame) })
    })
    .await;
    let options = ClientOptions {
        sessions: 1,
        timeout: Duration::from_millis(100),
        ..options()
    };
    let client = Client::connect(&[&fake.endpoint], options)
        .await
        .expect("connected");
    let sent = client.execute(b"first").await.expect_err("late");
    assert!(
        matches!(sent, ClientError::Timeout { sent: true, .. }),
        "{sent}"
    );
    assert!(sent.is_outcome_unknown());
    // The only session still waits, so this one never leaves.
    let unsent = client.execute(b"second").await.expect_err("late");
    assert!(
        matches!(unsent, ClientError::Timeout { sent: false, .. }),
        "{unsent}"
    );
    assert!(!unsent.is_outcome_unknown());
    gate.send(true).expect("the replica listens");
    let third = loop {
        // Until the first is answered; each of these is bounded by its time-out.
        if let Ok(reply) = client.execute(b"third").await {
            break reply;
        }
    };
    assert_eq!(third.body, b"third", "and not the answer to the first");
}

#[tokio::test]
async fn answers_to_something_else_are_ignored() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let fake = fake(0, sender, move |frame_in| {
        let right = answer(0, frame_in);
        let mut answers = Vec::new();
        if let Some(request) = frame_in.request() {
            let header = request.header();
            let wrong = Reply {
                client: header.client,
                request: header.request,
                op: Op::new(99),
                request_checksum: vsr_types::Checksum::new(!header.checksum().raw()),
                index: 0,
            };
            answers.extend(frame(0, wrong, b"wrong checksum"));
            let wrong = Reply {
                client: ClientId::new(3),
                ..wrong
            };
            answers.extend(frame(0, wrong, b"wrong client"));
        }
        if let Some(query) = frame_in.fields::<message::Query>() {
            let wrong = QueryReply {
                client: query.client,
                query: query.query.next(),
                ..QueryReply::zeroed()
            };
            answers.extend(frame(0, wrong, b"wrong number"));
        }
        // And the right one twice.
        answers.extend_from_slice(&right);
        answers.extend_from_slice(&right);
        Some(answers)
    })
    .await;
    let client = connect(&[&fake]).await;
    for number in 0..20_u8 {
        assert_eq!(
            client.execute(&[number]).await.expect("executed").body,
            [number]
        );
        assert_eq!(
            client.query(&[number, 1]).await.expect("answered").body,
            [number, 1]
        );
    }
}

#[tokio::test]
async fn when_everybody_refuses_callers_hear_it_at_once() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let fake = fake(0, sender, |frame| Some(answer(0, frame))).await;
    let options = ClientOptions {
        cluster_name: Some("mistyped".to_owned()),
        ..options()
    };
    let error = Client::connect(&[&fake.endpoint], options)
        .await
        .expect_err("refused");
    assert!(matches!(error, ClientError::Refused { .. }));
    assert!(error.to_string().contains("--cluster"), "{error}");
    let none: [&str; 0] = [];
    let error = Client::connect(&none, ClientOptions::default())
        .await
        .expect_err("nobody");
    assert!(error.to_string().contains("none was given"), "{error}");
}

#[tokio::test]
async fn the_connection_closes_with_the_last_handle() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let (closed, mut is_closed) = mpsc::unbounded_channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("the client");
        let answers = |frame: &Frame<'_>| Some(answer(0, frame));
        drop(serve(stream, identity(0, CLUSTER), &sender, &answers).await);
        drop(closed);
    });
    let client = Client::connect(&[&endpoint], options())
        .await
        .expect("connected");
    let clone = client.clone();
    drop(client);
    assert!(clone.execute(b"op").await.is_ok());
    assert_eq!(next_apply(&mut seen).await.replica, 0);
    drop(clone);
    assert_eq!(is_closed.recv().await, None, "the other side saw the end");
    task.await.expect("ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_may_share_a_client() {
    fn is_sendable<T: Send + Sync + 'static>(_: &T) {}
    let (sender, _seen) = mpsc::unbounded_channel();
    let fake = fake(0, sender, |frame| Some(answer(0, frame))).await;
    let client = connect(&[&fake]).await;
    is_sendable(&client);
    let calls: Vec<_> = (0..100_u8)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { (number, client.execute(&[number]).await) })
        })
        .collect();
    for call in calls {
        let (number, reply) = call.await.expect("ran");
        assert_eq!(reply.expect("executed").body, [number]);
    }
}
