//! Whatever is wrong with what arrives is named, bounded and survived.

use super::*;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vsr_types::message::{Command, Hello, Refuse};

#[tokio::test]
async fn garbage_and_silence_are_closed_with_a_reason_and_the_cluster_goes_on() {
    local(async {
        let cluster = Cluster::formed(1).await;
        let endpoint = cluster.endpoints[0].as_str();
        let identity = Identity::of_client(Some(NAME));
        let mut oversized = Header::new(message::Query::zeroed());
        oversized.seal(&[0; 100]);
        let wrong_name = Identity::of_client(Some("wrong")).hello(LinkKind::Client, None);
        let ping = sealed(Header::new(message::Ping::zeroed()));
        let cases: [(&str, Vec<u8>, RefuseReason); 5] = [
            (
                "http",
                b"GET / HTTP/1.1\r\n".repeat(20),
                RefuseReason::BadFrame,
            ),
            ("zeroes", vec![0; HEADER_SIZE], RefuseReason::BadFrame),
            (
                "no hello",
                bytemuck::bytes_of(&ping).to_vec(),
                RefuseReason::NoHello,
            ),
            (
                "a body",
                bytemuck::bytes_of(&oversized).to_vec(),
                RefuseReason::BadFrame,
            ),
            (
                "name",
                bytemuck::bytes_of(&wrong_name).to_vec(),
                RefuseReason::ClusterName,
            ),
        ];
        for (name, bytes, reason) in cases {
            assert_eq!(refusal_of(endpoint, &bytes).await, reason, "{name}");
        }
        // Behind a good hello: the stream is lost, or a frame is not for clients.
        let hello = bytemuck::bytes_of(&identity.hello(LinkKind::Client, None)).to_vec();
        let prepare = sealed(Header::new(message::Prepare::zeroed()));
        let mut foreign = Header::new(message::Query::zeroed());
        foreign.set_cluster(ClusterId::new(1));
        let mut of_cluster = prepare;
        of_cluster.set_cluster(cluster.servers[0].cluster());
        let huge = huge_header();
        for (name, header) in [
            ("damaged", Header::zeroed()),
            ("another cluster", sealed(foreign)),
            ("not for clients", sealed(of_cluster)),
            ("larger than any frame", huge),
        ] {
            let bytes = [&hello[..], bytemuck::bytes_of(&header)].concat();
            assert_eq!(
                refusal_of(endpoint, &bytes).await,
                RefuseReason::BadFrame,
                "{name}"
            );
        }
        assert!(
            cluster
                .client()
                .await
                .execute(&1_u64.to_le_bytes())
                .await
                .is_ok()
        );
    })
    .await;
}

/// A header that is intact and announces four gigabytes.
fn huge_header() -> Header {
    let mut header = sealed(Header::new(message::Query::zeroed()));
    let bytes = bytemuck::bytes_of_mut(&mut header);
    bytes[120..124].copy_from_slice(&u32::MAX.to_le_bytes());
    let sum = vsr_types::checksum(&bytes[12..]).raw().to_le_bytes();
    bytes[..4].copy_from_slice(&sum);
    header
}

/// Sends `bytes` and returns the reason in the refusal that comes; welcomes are skipped.
async fn refusal_of(endpoint: &str, bytes: &[u8]) -> RefuseReason {
    let mut stream = TcpStream::connect(endpoint).await.expect("listening");
    stream.write_all(bytes).await.expect("taken");
    let mut answer = [0; HEADER_SIZE];
    loop {
        stream
            .read_exact(&mut answer)
            .await
            .expect("a reason before the end");
        let frame = Frame::parse(&answer, ClusterId::ZERO).expect("a good frame");
        if let Some(refuse) = frame.fields::<Refuse>() {
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
            assert!(rest.is_empty(), "nothing follows a refusal");
            return RefuseReason::from_raw(refuse.reason).expect("known");
        }
        assert_eq!(frame.command(), Command::Welcome);
    }
}

#[tokio::test]
async fn half_open_connections_are_bounded_and_places_too() {
    local(async {
        let cluster = Cluster::formed(1).await;
        let endpoint = cluster.endpoints[0].as_str();
        let server = &cluster.servers[0];
        let mut oldest = TcpStream::connect(endpoint).await.expect("listening");
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(endpoint).await.expect("listening"));
        }
        // With the fourth that says nothing the first one's time is over.
        assert_eq!(oldest.read(&mut [0]).await.expect("closed"), 0);
        assert_eq!(server.net_counters().half_open_refused, 1);
        drop(silent);
        until(|| server.net_counters().hello_late >= 3).await;

        let identity = Identity::of_client(None);
        let mut connections = Vec::new();
        for _ in 0..4 {
            let open = Connection::open(endpoint, &identity, LinkKind::Client, WITHIN);
            connections.push(open.await.expect("a place"));
        }
        let fifth = Connection::open(endpoint, &identity, LinkKind::Client, WITHIN).await;
        let refusal = fifth.expect_err("all taken").refusal().expect("told");
        assert_eq!(refusal.reason, RefuseReason::TooManyConnections);
        drop(connections.pop());
        let is_free = || {
            server
                .shared
                .core
                .borrow()
                .links
                .has_place(LinkKind::Client)
        };
        until(is_free).await;
        assert!(
            Connection::open(endpoint, &identity, LinkKind::Client, WITHIN)
                .await
                .is_ok()
        );
    })
    .await;
}

#[tokio::test]
async fn clients_leave_a_place_for_whoever_looks_what_is_wrong() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let mut config = config(0, std::slice::from_ref(&endpoint));
        config.connections_max = 16;
        let server = Server::start_on(listener, config, boot(0), Adder::default());
        let _server = server.expect("starts");
        let identity = Identity::of_client(None);
        let open = async |kind| Connection::open(&endpoint, &identity, kind, WITHIN).await;
        let mut clients = Vec::new();
        for _ in 0..15 {
            clients.push(open(LinkKind::Client).await.expect("a place"));
        }
        assert!(
            open(LinkKind::Client).await.is_err(),
            "the last is not theirs"
        );
        assert!(open(LinkKind::Tool).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn peers_of_other_lists_and_wrong_numbers_are_refused() {
    local(async {
        let cluster = Cluster::blank(2).await;
        let right = cluster.servers[0].shared.core.borrow().identity();
        let peer = |change: fn(&mut Identity)| {
            let mut identity = Identity {
                replica: ReplicaIndex::new(1),
                ..right
            };
            change(&mut identity);
            bytemuck::bytes_of(&identity.hello(LinkKind::Peer, None)).to_vec()
        };
        let endpoint = cluster.endpoints[0].as_str();
        let list = peer(|identity| identity.configuration ^= 1);
        assert_eq!(
            refusal_of(endpoint, &list).await,
            RefuseReason::Configuration
        );
        let own = peer(|identity| identity.replica = ReplicaIndex::new(0));
        assert_eq!(refusal_of(endpoint, &own).await, RefuseReason::BadReplica);
        let mut hello = Header::new(Hello {
            target: 1,
            ..hello_fields(&peer(|_| ()))
        });
        hello.set_sender(
            ReplicaIndex::new(1),
            MemberId::ZERO,
            vsr_types::Incarnation::default(),
        );
        let target = bytemuck::bytes_of(&sealed(hello)).to_vec();
        assert_eq!(
            refusal_of(endpoint, &target).await,
            RefuseReason::WrongReplica
        );
    })
    .await;
}

fn hello_fields(bytes: &[u8]) -> Hello {
    let header: Header = bytemuck::pod_read_unaligned(bytes);
    *header.fields().expect("a hello")
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    local(async {
        let endpoints = vec!["127.0.0.1:0".to_owned(); 3];
        type Break = fn(&mut ServerConfig);
        let cases: [(&str, Break); 6] = [
            ("peers", |config| config.peers.truncate(2)),
            ("cluster", |config| config.cluster_name.clear()),
            ("connections", |config| config.connections_max = 0),
            ("clients", |config| config.clients_max = 0),
            ("half-open", |config| config.half_open_max = 0),
            ("inbox", |config| config.inbox_bytes = 1),
        ];
        for (name, change) in cases {
            let mut config = config(0, &endpoints);
            change(&mut config);
            let error = Server::start(config, boot(0), Adder::default())
                .await
                .expect_err(name);
            assert!(
                matches!(error, ServerError::Config { field, .. } if field == name),
                "{error}"
            );
        }
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut config = config(0, &endpoints);
        config.listen = taken.local_addr().expect("bound").to_string();
        let error = Server::start(config, boot(0), Adder::default())
            .await
            .expect_err("taken");
        assert!(error.to_string().contains("another process"), "{error}");
    })
    .await;
}
