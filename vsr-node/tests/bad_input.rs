//! Bad input to real processes, through every door they have: each gets its clear error or is
//! closed, and the cluster goes on.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytemuck::Zeroable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vsr_net::handshake::{Identity, cluster_name_digest, configuration_digest};
use vsr_node::local::{self, LocalCluster};
use vsr_types::message::{Hello, LinkKind, Ping, Prepare, Refuse, RefuseReason, Request};
use vsr_types::{HEADER_SIZE, Header, ReplicaIndex};

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_vsr-node").into()
}

/// A good beginning of a command line, to which mistakes are added.
const START: [&str; 7] = [
    "start",
    "--cluster",
    "c",
    "--peers",
    "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3",
    "--replica",
    "0",
];

#[test]
fn command_lines_that_make_no_sense_end_with_code_2_and_say_why() {
    let start = |more: &[&'static str]| START.iter().chain(more).copied().collect::<Vec<_>>();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec![], "Usage"),
        (vec!["fly"], "unrecognized subcommand"),
        (vec!["start"], "cluster: missing"),
        (vec!["start", "--cluster", "c"], "peers: missing"),
        (start(&["--replica"]), "a value is required"),
        (start(&["--colour", "red"]), "unexpected argument"),
        (start(&["--tick", "10"]), "perhaps 10ms"),
        (start(&["--memory", "1G"]), "1GiB"),
        (start(&["--resp", "127.0.0.1:0", "--no-resp"]), "contradict"),
        (start(&["--standby"]), "not in this version"),
        (start(&["--tls-cert", "x"]), "not in this version"),
        (start(&["--on-op-max", "archive"]), "needs a folder"),
        (start(&["--config", "/no/such/file.toml"]), "cannot be read"),
        (
            start(&["--requirepass-file", "/no/such/file"]),
            "cannot be read",
        ),
        (
            vec![
                "start",
                "--cluster",
                "c",
                "--peers",
                "a:1,a:1",
                "--replica",
                "0",
            ],
            "twice",
        ),
        (
            vec!["start", "--cluster", "c", "--peers", "a", "--replica", "0"],
            "has no port",
        ),
        (
            vec![
                "start",
                "--cluster",
                "c",
                "--peers",
                "a:1",
                "--replica",
                "1",
            ],
            "no replica 1",
        ),
        (vec!["dev", "--replicas", "8"], "8 is not in 1..=7"),
        (vec!["dev", "--base-port", "80"], "80 is not in"),
        (vec!["demo", "--seconds", "0"], "0 is not in"),
        (vec!["config"], "Usage"),
        (vec!["config", "check"], "required"),
        (
            vec!["config", "check", "/no/such/file.toml"],
            "cannot be read",
        ),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(program())
            .args(&arguments)
            .output()
            .expect("started");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.contains(expected),
            "{arguments:?} is answered with: {error}"
        );
    }
}

/// What must become of a connection.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Refused for this reason, then closed.
    Refused(RefuseReason),
    /// Closed, with or without a word.
    Closed,
    /// Answered with this, whatever becomes of it.
    Says(&'static str),
}

/// Sends `bytes`, closes our half if asked to, and reads until the end or until what is expected is
/// there.
async fn meet(address: &str, bytes: &[u8], half_close: bool, expect: Expect) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    // It may close before it has read everything: then writing fails, and reading still tells.
    let _ignored = stream.write_all(bytes).await;
    if half_close {
        let _ignored = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..count]);
        let is_there = |text: &str| {
            answer
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        if matches!(expect, Expect::Says(text) if is_there(text)) {
            break;
        }
    }
    answer
}

fn refusals(answer: &[u8]) -> Vec<u32> {
    let (frames, _) = answer.as_chunks::<HEADER_SIZE>();
    let headers = frames
        .iter()
        .map(|frame| bytemuck::pod_read_unaligned::<Header>(frame));
    headers
        .filter_map(|header| Some(header.fields::<Refuse>()?.reason))
        .collect()
}

async fn check(name: &str, address: &str, bytes: &[u8], half_close: bool, expect: Expect) {
    let met = timeout(
        Duration::from_secs(20),
        meet(address, bytes, half_close, expect),
    )
    .await;
    let answer = met.unwrap_or_else(|_| panic!("{name}: neither closed nor answered"));
    let text = String::from_utf8_lossy(&answer);
    match expect {
        Expect::Refused(reason) => {
            assert_eq!(refusals(&answer), [reason as u32], "{name}: {text:?}");
        }
        Expect::Closed => {}
        Expect::Says(expected) => assert!(text.contains(expected), "{name}: {text:?}"),
    }
}

/// A hello that is good but for what `change` makes of it.
fn hello(kind: LinkKind, peers: &[&str], change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut fields = Hello {
        cluster_name: cluster_name_digest("test"),
        configuration: configuration_digest(peers),
        protocol_min: 1,
        protocol_max: 1,
        kind: kind as u8,
        target: u8::MAX,
        ..Hello::zeroed()
    };
    change(&mut fields);
    let mut header = Header::new(fields);
    if kind == LinkKind::Peer {
        let incarnation = vsr_types::Incarnation {
            counter: 1,
            random: 1,
        };
        header.set_sender(
            ReplicaIndex::new(2),
            vsr_types::MemberId::new(1),
            incarnation,
        );
    }
    header.seal(&[]);
    bytemuck::bytes_of(&header).to_vec()
}

fn frame(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn native_cases(peers: &[&str]) -> Vec<(&'static str, Vec<u8>, bool, Expect)> {
    use Expect::{Closed, Refused};
    let client = |change: fn(&mut Hello)| hello(LinkKind::Client, peers, change);
    let after_hello = |more: Vec<u8>| [client(|_| ()), more].concat();
    let flipped = |at: usize| {
        let mut bytes = client(|_| ());
        bytes[at] ^= 1;
        bytes
    };
    let mut oversized = frame(Header::new(Ping::zeroed()), &[]);
    oversized[120..124].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut damaged = frame(Header::new(Request::zeroed()), b"body");
    *damaged.last_mut().expect("a body") ^= 1;
    let stranger = {
        let mut header = Header::new(Hello {
            kind: 1,
            ..Hello::zeroed()
        });
        header.set_sender(
            ReplicaIndex::new(9),
            vsr_types::MemberId::ZERO,
            Default::default(),
        );
        frame(header, &[])
    };
    vec![
        ("nothing at all", vec![], true, Closed),
        ("half a hello", client(|_| ())[..60].to_vec(), true, Closed),
        (
            "half a hello and silence",
            client(|_| ())[..60].to_vec(),
            false,
            Closed,
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(8),
            false,
            Closed,
        ),
        ("zeros", vec![0; 4096], false, Closed),
        ("ones", vec![0xFF; 4096], false, Closed),
        ("a flipped bit in the header", flipped(90), false, Closed),
        ("a flipped bit in the checksum", flipped(0), false, Closed),
        (
            "no hello",
            frame(Header::new(Ping::zeroed()), &[]),
            false,
            Refused(RefuseReason::NoHello),
        ),
        (
            "no kind of link",
            client(|h| h.kind = 9),
            false,
            Refused(RefuseReason::NoHello),
        ),
        (
            "another cluster's name",
            client(|h| h.cluster_name = cluster_name_digest("other")),
            false,
            Refused(RefuseReason::ClusterName),
        ),
        (
            "only newer protocols",
            client(|h| (h.protocol_min, h.protocol_max) = (90, 99)),
            false,
            Refused(RefuseReason::Version),
        ),
        (
            "another replica meant",
            client(|h| h.target = 2),
            false,
            Refused(RefuseReason::WrongReplica),
        ),
        (
            "a peer with another list",
            hello(LinkKind::Peer, &["a:1", "b:1", "c:1"], |_| ()),
            false,
            Refused(RefuseReason::Configuration),
        ),
        ("a replica of no list", stranger, false, Closed),
        ("a frame of 4 GiB", after_hello(oversized), false, Closed),
        ("a damaged body", after_hello(damaged), false, Closed),
        (
            "a prepare from a client",
            after_hello(frame(Header::new(Prepare::zeroed()), b"x")),
            false,
            Closed,
        ),
        ("hello twice", after_hello(client(|_| ())), false, Closed),
        (
            "a request without its header",
            after_hello(frame(Header::new(Request::zeroed()), b"")),
            true,
            Closed,
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn resp_cases() -> Vec<(&'static str, Vec<u8>, bool, Expect)> {
    use Expect::{Closed, Says};
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "an unknown command",
            text("*1\r\n$3\r\nFLY\r\n"),
            false,
            Says("-ERR unknown command"),
        ),
        (
            "too few arguments",
            text("*2\r\n$3\r\nSET\r\n$1\r\na\r\n"),
            false,
            Says("-ERR wrong number of arguments"),
        ),
        (
            "a negative count",
            text("*-5\r\nPING\r\n"),
            false,
            Says("+PONG"),
        ),
        (
            "a billion arguments",
            text("*1000000000\r\n"),
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "a negative length",
            text("*1\r\n$-2\r\n"),
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "a huge length",
            text("*1\r\n$99999999999\r\n"),
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "no length",
            text("*1\r\n:1\r\n"),
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "a count that is no number",
            text("*x\r\n"),
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "an endless line",
            vec![b'x'; 200_000],
            false,
            Says("-ERR Protocol error"),
        ),
        (
            "half a command",
            text("*2\r\n$3\r\nGET\r\n$10\r\nabc"),
            true,
            Closed,
        ),
        (
            "another protocol version",
            text("HELLO 9\r\n"),
            false,
            Says("-NOPROTO"),
        ),
        (
            "another database",
            text("SELECT 5\r\n"),
            false,
            Says("-ERR"),
        ),
        (
            "a replica's command",
            text("REPLICAOF a 1\r\n"),
            false,
            Says("-ERR"),
        ),
        (
            "not a number",
            text("SET a x\r\nINCR a\r\n"),
            false,
            Says("-ERR value is not an integer"),
        ),
        (
            "EXEC alone",
            text("EXEC\r\n"),
            false,
            Says("-ERR EXEC without MULTI"),
        ),
        (
            "TLS",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, b'\r', b'\n'],
            false,
            Says("-ERR"),
        ),
    ]
}

fn admin_cases() -> Vec<(&'static str, Vec<u8>, bool, Expect)> {
    use Expect::{Closed, Says};
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "no HTTP",
            text("hello\r\n\r\n"),
            false,
            Says("400 Bad Request"),
        ),
        (
            "a huge head",
            format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(99_999)).into(),
            false,
            Says("431 "),
        ),
        (
            "POST",
            text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
            false,
            Says("405 "),
        ),
        (
            "no such page",
            text("GET /secret HTTP/1.1\r\nhost: a\r\n\r\n"),
            false,
            Says("404 "),
        ),
        (
            "a way out",
            text("GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\n\r\n"),
            false,
            Says("404 "),
        ),
        ("half a request", text("GET / HT"), true, Closed),
    ]
}

#[test]
fn whatever_is_sent_to_a_port_the_cluster_goes_on() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let settings = [
            ("memory", "8MiB"),
            ("journal-size", "8MiB"),
            ("log-level", "error"),
        ];
        let members = local::free_members(3).expect("free ports");
        let mut cluster = LocalCluster::spawn(&program(), "test", members, &settings).unwrap();
        cluster
            .form()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let members = cluster.members().to_vec();
        let peers: Vec<&str> = members
            .iter()
            .map(|member| member.native.as_str())
            .collect();
        for member in &members[..2] {
            for (name, bytes, half_close, expect) in native_cases(&peers) {
                check(name, &member.native, &bytes, half_close, expect).await;
            }
            for (name, bytes, half_close, expect) in resp_cases() {
                check(name, &member.resp, &bytes, half_close, expect).await;
            }
            for (name, bytes, half_close, expect) in admin_cases() {
                check(name, &member.admin, &bytes, half_close, expect).await;
            }
        }
        // Connections that never say a word, more than there are places for them.
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(peers[0]).await.unwrap());
        }
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
        check("SET", &members[1].resp, set, false, Expect::Says("+OK")).await;
        let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        check("GET", &members[2].resp, get, false, Expect::Says("$1\r\nv")).await;
        drop(silent);
        // A good client is welcome all the same.
        let good = Identity::of_client(Some("test")).hello(LinkKind::Tool, None);
        let answer = meet(peers[0], bytemuck::bytes_of(&good), true, Expect::Closed).await;
        assert!(
            answer.len() >= HEADER_SIZE && refusals(&answer).is_empty(),
            "a welcome"
        );
        for status in cluster.statuses().await.unwrap() {
            assert!(status.ready, "R{}: {}", status.replica, status.reason);
        }
        for end in cluster.stop().await {
            assert!(end.expect("waited for").success());
        }
    });
}
