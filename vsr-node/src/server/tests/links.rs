//! Links between replicas: who gets them, who keeps them, and how soon they are back.

use super::*;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use vsr_types::Incarnation;
use vsr_types::message::{Command, Refuse, Reply};

const ONE: ReplicaIndex = ReplicaIndex::new(1);
const LIFE: Incarnation = Incarnation {
    counter: 4,
    random: 9,
};

/// A server for replica 0 of two; what replica 1 does is the test's business.
async fn zero_of_two() -> (Server<Adder>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let endpoints = [endpoint.clone(), "127.0.0.1:1".to_owned()];
    let server = Server::start_on(listener, config(0, &endpoints), boot(0), Adder::default());
    (server.expect("starts"), endpoint)
}

/// What process `member` says of itself when it connects as `replica`.
fn process(server: &Server<Adder>, replica: u8, member: u128, life: Incarnation) -> Identity {
    Identity {
        replica: ReplicaIndex::new(replica),
        member: MemberId::new(member),
        incarnation: life,
        ..server.shared.core.borrow().identity()
    }
}

/// Connects as a peer; returns the connection, and the refusal if there is one.
async fn knock(endpoint: &str, identity: Identity) -> (TcpStream, Option<RefuseReason>) {
    let mut stream = TcpStream::connect(endpoint).await.expect("listening");
    let hello = identity.hello(LinkKind::Peer, None);
    let sent = stream.write_all(bytemuck::bytes_of(&hello)).await;
    sent.expect("taken");
    let mut answer = [0; HEADER_SIZE];
    stream.read_exact(&mut answer).await.expect("an answer");
    let frame = Frame::parse(&answer, identity.cluster).expect("a good frame");
    let refused = frame.fields::<Refuse>();
    let reason = refused.map(|refuse| RefuseReason::from_raw(refuse.reason).expect("known"));
    assert_eq!(frame.command() == Command::Welcome, reason.is_none());
    (stream, reason)
}

/// Says something whenever it hears something, until the other side closes the connection.
async fn stay_alive(mut stream: TcpStream) {
    let sign = sealed(Header::new(message::Ping::zeroed()));
    let mut heard = [0; 4096];
    while matches!(stream.read(&mut heard).await, Ok(count) if count > 0) {
        drop(stream.write_all(bytemuck::bytes_of(&sign)).await);
    }
}

fn connections(server: &Server<Adder>, replica: ReplicaIndex) -> u64 {
    let links = server.links();
    let link = links.iter().find(|link| link.replica == replica);
    link.expect("a peer").connections
}

#[tokio::test]
async fn a_second_blank_process_does_not_cut_off_the_one_that_answers() {
    local(async {
        let cluster = Cluster::formed(3).await;
        let server = &cluster.servers[0];
        let two = ReplicaIndex::new(2);
        until(|| server.links().iter().all(|link| link.is_up)).await;
        let before = connections(server, two);
        for again in 1..=3 {
            let mut blank = process(server, 2, 999, Incarnation::default());
            blank.cluster = ClusterId::ZERO;
            let (_, refused) = knock(&cluster.endpoints[0], blank).await;
            assert_eq!(refused, Some(RefuseReason::StaleIncarnation));
            assert_eq!(server.net_counters().peers_twice, again);
        }
        assert_eq!(connections(server, two), before, "the link never moved");
        assert!(server.links().iter().all(|link| link.is_up));
    })
    .await;
}

#[tokio::test]
async fn a_restarted_process_takes_over_from_one_that_gives_no_sign() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        let blank = Incarnation::default();
        // Its machine lost power: the connection stands and nobody is there.
        let (_dead, refused) = knock(&endpoint, process(&server, 1, 10, blank)).await;
        assert_eq!(refused, None);
        let began = Instant::now();
        let (live, refused) = knock(&endpoint, process(&server, 1, 11, blank)).await;
        assert_eq!(refused, None);
        assert!(began.elapsed() >= accept::SIGN_OF_LIFE, "it was asked");
        assert_eq!(connections(&server, ONE), 2);
        // The same process again: nothing is to be decided, although the process answers.
        let live = spawn_local(stay_alive(live));
        let (_, refused) = knock(&endpoint, process(&server, 1, 11, blank)).await;
        assert_eq!(refused, None);
        live.await.expect("the older connection was closed");
    })
    .await;
}

#[tokio::test]
async fn the_life_that_is_believed_in_takes_the_link_from_a_blank_process_that_answers() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        let (blank, refused) =
            knock(&endpoint, process(&server, 1, 10, Incarnation::default())).await;
        assert_eq!(refused, None);
        let blank = spawn_local(stay_alive(blank));
        server.shared.core.borrow_mut().links.newest[1] = LIFE;
        // A new life that nobody has heard of is no reason: it may be a mistake too (R6.2).
        let unheard_of = Incarnation { counter: 5, ..LIFE };
        let (_, refused) = knock(&endpoint, process(&server, 1, 12, unheard_of)).await;
        assert_eq!(refused, Some(RefuseReason::StaleIncarnation));
        let (_, refused) = knock(&endpoint, process(&server, 1, 11, LIFE)).await;
        assert_eq!(refused, None);
        blank.await.expect("the blank one was closed");
    })
    .await;
}

/// R0.2: a process that was superseded must be able to hear so, if nobody else has its link.
#[tokio::test]
async fn a_superseded_or_blank_process_is_let_in_while_nobody_else_is_there() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        server.shared.core.borrow_mut().links.newest[1] = LIFE;
        for counter in [0, 3, 5] {
            let life = Incarnation { counter, random: 1 };
            let (stream, refused) = knock(&endpoint, process(&server, 1, 10, life)).await;
            assert_eq!(refused, None, "life {counter}");
            drop(stream);
            until(|| !server.links()[0].is_up).await;
        }
        assert_eq!(server.shared.core.borrow().links.newest[1], LIFE, "hearsay");
    })
    .await;
}

#[tokio::test]
async fn what_was_queued_for_a_link_goes_with_it() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        let (_old, _) = knock(&endpoint, process(&server, 1, 10, LIFE)).await;
        let (_new, socket) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let near = TcpStream::connect(address).await.expect("listening");
            (near, listener.accept().await.expect("connected").0)
        };
        let links = &mut server.shared.core.borrow_mut().links;
        let stale = sealed(Header::new(message::Query::zeroed()));
        let _: vsr_consensus::Sent = links.peer(ONE, &stale, &[]);
        assert!(!links.peers[1].out.egress.is_empty());
        links.open_peer(ONE, MemberId::new(11), socket.into_split().1);
        assert!(links.peers[1].out.egress.is_empty());
    })
    .await;
}

/// R0.1, for what the replica never sees.
#[tokio::test]
async fn an_answer_from_a_life_that_has_ended_reaches_no_client() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        let client = ClientId::new(5);
        let listener = Rc::new(Listener::default());
        server.attach(client, listener.clone());
        {
            let mut core = server.shared.core.borrow_mut();
            core.links.newest[1] = LIFE;
            core.links.source = Source::Local;
            core.links.heard_client(client);
        }
        let (mut stream, _) = knock(&endpoint, process(&server, 1, 10, LIFE)).await;
        for (counter, random) in [(3, 9), (4, 8), (4, 9)] {
            let mut reply = Header::new(Reply {
                client,
                request: RequestNumber::new(counter * 10 + random),
                ..Reply::zeroed()
            });
            reply.set_sender(ONE, MemberId::new(10), Incarnation { counter, random });
            let sent = stream.write_all(bytemuck::bytes_of(&sealed(reply))).await;
            sent.expect("taken");
        }
        until(|| !listener.frames.borrow().is_empty()).await;
        assert_eq!(*listener.frames.borrow(), [RequestNumber::new(49)]);
        assert_eq!(server.net_counters().frames_stale, 2);
    })
    .await;
}

/// Notes what it is told.
#[derive(Default)]
struct Listener {
    frames: Cells<Vec<RequestNumber>>,
    views: Cells<Vec<View>>,
}

impl LocalClient for Listener {
    fn on_frame(&self, frame: &Frame<'_>) {
        let reply = frame.fields::<Reply>().expect("a reply");
        self.frames.borrow_mut().push(reply.request);
    }

    fn on_view(&self, view: View) {
        self.views.borrow_mut().push(view);
    }
}

/// R13.1: clients need not wait for their next retry.
#[tokio::test]
async fn clients_are_told_when_the_replica_has_come_to_another_view() {
    local(async {
        let cluster = Cluster::formed(1).await;
        let server = &cluster.servers[0];
        let listener = Rc::new(Listener::default());
        server.attach(ClientId::new(5), listener.clone());
        let identity = Identity::of_client(None);
        let open = Connection::open(&cluster.endpoints[0], &identity, LinkKind::Client, WITHIN);
        let mut connection = open.await.expect("connected");
        assert_eq!(*listener.views.borrow(), [], "nothing has changed");
        // As if it had been in another view when it told clients the last time.
        server.shared.view_told.send_replace(View::new(9));
        let told = tokio::time::timeout(WITHIN, connection.receive()).await;
        let frame = told.expect("in time").expect("told");
        let pong = frame.fields::<message::Pong>().expect("a pong");
        assert_eq!(pong.status, PeerStatus::Normal as u8);
        assert_eq!(frame.header().view(), View::ZERO);
        until(|| !listener.views.borrow().is_empty()).await;
        assert_eq!(*listener.views.borrow(), [View::ZERO]);
    })
    .await;
}

#[tokio::test]
async fn a_lower_replica_that_comes_back_is_found_within_a_tenth_of_a_second() {
    local(async {
        let mut cluster = Cluster::blank(2).await;
        let gone = cluster.servers.remove(0);
        gone.stop();
        let searching = cluster.servers.remove(0);
        // Long enough that every wait has become as long as it gets.
        until(|| searching.net_counters().dials_failed >= 8).await;
        let mut best = Duration::MAX;
        for life in 0..3 {
            let began = Instant::now();
            let again = Server::start(
                config(0, &cluster.endpoints),
                boot(7 + life),
                Adder::default(),
            )
            .await
            .expect("the port is free again");
            until(|| searching.links()[0].is_up && again.links()[0].is_up).await;
            best = best.min(began.elapsed());
            again.stop();
            let failed = searching.net_counters().dials_failed;
            until(|| searching.net_counters().dials_failed >= failed + 8).await;
        }
        assert!(best < Duration::from_millis(150), "{best:?}");
    })
    .await;
}

#[tokio::test]
async fn silent_connections_keep_no_peer_out() {
    local(async {
        let (server, endpoint) = zero_of_two().await;
        let mut silent = Vec::new();
        for round in 1_u8..=5 {
            for _ in 0..20 {
                silent.push(TcpStream::connect(&endpoint).await.expect("listening"));
            }
            let member = 10 + u128::from(round);
            let (stream, refused) = knock(
                &endpoint,
                process(&server, 1, member, Incarnation::default()),
            )
            .await;
            assert_eq!(refused, None);
            drop(stream);
            until(|| !server.links()[0].is_up).await;
        }
        // All but the last few have made room.
        assert_eq!(server.net_counters().half_open_refused, 100 - 2);
    })
    .await;
}
