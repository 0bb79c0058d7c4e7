//! Three real processes on loopback: formed, used through every port, and asked to leave.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::sleep;
use vsr_net::Tool;
use vsr_node::inspect::{Digest, EntryDetail, Limits, Status};
use vsr_node::local::{self, LocalCluster, Member};
use vsr_types::message::InspectTopic;

use super::{program, run, signal};

const SETTINGS: [(&str, &str); 4] = [
    ("memory", "8MiB"),
    ("journal-size", "8MiB"),
    ("log-level", "warn"),
    ("connections-max", "4"),
];

/// Three small replicas, blank, with other settings.
pub(crate) fn spawn(others: &[(&str, &str)]) -> LocalCluster {
    let members = local::free_members(3).expect("free ports");
    let is_other = |&(name, _): &(&str, &str)| others.iter().any(|(other, _)| *other == name);
    let mut settings: Vec<_> = SETTINGS.into_iter().filter(|s| !is_other(s)).collect();
    settings.extend(others);
    LocalCluster::spawn(&program(), "test", members, &settings).expect("started")
}

/// Waits until a replica serves.
pub(crate) async fn until_ready(cluster: &LocalCluster, replica: usize) {
    let address = &cluster.members()[replica].admin;
    while !matches!(local::get(address, "/readyz").await, Ok((200, _))) {
        sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
    }
}

/// Three small replicas that are one cluster.
pub(crate) async fn cluster() -> LocalCluster {
    let mut cluster = spawn(&[]);
    cluster
        .form()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    cluster
}

/// Sends one command and returns the reply's bytes, which must be as long as `expected`.
pub(crate) async fn call(address: &str, command: &[&str], expected: &str) {
    let mut stream = TcpStream::connect(address).await.expect("a RESP port");
    let mut bytes = format!("*{}\r\n", command.len());
    for argument in command {
        bytes.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
    }
    stream.write_all(bytes.as_bytes()).await.expect("sent");
    let mut reply = vec![0; expected.len()];
    let read = stream.read_exact(&mut reply).await;
    let text = String::from_utf8_lossy(&reply);
    assert!(
        read.is_ok(),
        "{command:?} at {address}: {text:?} and then the end"
    );
    assert_eq!(text, expected, "{command:?} at {address}");
}

#[test]
fn every_replica_takes_commands_and_tells_of_itself() {
    run(async {
        let cluster = cluster().await;
        let members = cluster.members().to_vec();
        let [primary, backup, other] = members.as_slice() else {
            panic!("three replicas")
        };
        call(&primary.resp, &["SET", "a", "1"], "+OK\r\n").await;
        call(&backup.resp, &["GET", "a"], "$1\r\n1\r\n").await;
        call(&backup.resp, &["INCR", "a"], ":2\r\n").await;
        call(&other.resp, &["GET", "a"], "$1\r\n2\r\n").await;
        call(&primary.resp, &["GET", "a"], "$1\r\n2\r\n").await;

        let statuses = cluster.statuses().await.unwrap();
        let roles: Vec<&str> = statuses.iter().map(|status| status.role.as_str()).collect();
        assert_eq!(roles, ["primary", "backup", "backup"]);
        for (index, status) in statuses.iter().enumerate() {
            assert!(status.ready, "R{index}: {}", status.reason);
            assert_eq!(usize::from(status.replica), index);
            assert_eq!(status.cluster, statuses[0].cluster);
            assert!(status.cluster.is_some());
            assert!(
                status.commit >= 2,
                "two writes and the sessions: {status:?}"
            );
            assert!(status.peers.iter().all(|peer| peer.connected), "{status:?}");
        }
        for member in &members {
            let (code, metrics) = local::get(&member.admin, "/metrics").await.unwrap();
            assert_eq!(code, 200);
            for name in [
                "vsr_commit_op ",
                "vsr_memory_part_bytes{part=\"journal\"} ",
                "vsr_memory_bytes{pool=\"journal bodies\"} ",
                "vsr_pool_capacity{pool=\"sessions\",unit=\"sessions\"} ",
                "vsr_pool_used{pool=\"sessions\",unit=\"sessions\"} ",
                "vsr_pool_high_water{pool=\"sessions\",unit=\"sessions\"} ",
                "vsr_pool_fullest_bytes{pool=\"peers' send buffers\"} ",
                "vsr_events_total{event=\"executed\"} ",
                "vsr_messages_received_total{command=\"Prepare\"} ",
                "vsr_peer_op{peer=\"",
                "vsr_process_resident_memory_bytes ",
                "vsr_resp_events_total{event=\"connections\"} ",
                "vsr_keys ",
                "# EOF",
            ] {
                let found = metrics.lines().any(|line| line.starts_with(name));
                assert!(found, "{name} is not in\n{metrics}");
            }
        }
        stop(cluster).await;
    });
}

async fn stop(cluster: LocalCluster) {
    for end in cluster.stop().await {
        assert!(end.expect("waited for").success());
    }
}

/// Every pool of the plan says how much of it is used, and what was used shows.
fn pools_are_told(limits: &Limits) {
    let planned: u64 = limits.pools.iter().map(|pool| pool.bytes).sum();
    assert_eq!(planned, limits.memory_bytes);
    for pool in &limits.pools {
        let (used, most) = pool
            .used
            .zip(pool.high_water)
            .unwrap_or_else(|| panic!("{pool:?}"));
        assert!(used <= most && most <= pool.count, "{pool:?}");
        assert_eq!(pool.bytes, pool.count * pool.size_bytes, "{pool:?}");
        assert!(
            pool.fullest_bytes
                .is_none_or(|bytes| bytes <= pool.size_bytes),
            "{pool:?}"
        );
    }
    let most = |name: &str| {
        let pool = limits.pools.iter().find(|pool| pool.pool == name);
        pool.and_then(|pool| pool.high_water).unwrap_or(0)
    };
    // One command over RESP, three links, a session, a tool: all of it left a mark.
    for name in [
        "journal headers",
        "journal bodies",
        "sessions",
        "cached replies",
        "open batch",
        "reply buffer",
        "prepares on their way",
        "peers' receive buffers",
        "peers' send buffers",
        "clients' receive buffers",
        "inbox of local clients",
        "table of clients",
        "RESP operations",
        "RESP commands",
        "RESP connections",
        "RESP small blocks",
        "RESP replies",
        "arena",
    ] {
        assert!(most(name) > 0, "{name} was used: {limits:?}");
    }
}

#[test]
fn tools_are_answered_on_every_topic() {
    run(async {
        let cluster = cluster().await;
        let member = cluster.members()[0].clone();
        call(&member.resp, &["SET", "a", "1"], "+OK\r\n").await;
        let mut tool = Tool::connect(&member.native, Some("test"), Duration::from_secs(10))
            .await
            .unwrap();
        let mut ask = async |topic, argument| tool.inspect(topic, argument).await;
        let status = ask(InspectTopic::Status, 0).await.unwrap();
        let status: Status = serde_json::from_str(&status).unwrap();
        assert_eq!(status.role, "primary");
        let entry = ask(InspectTopic::Op, status.sequence.op).await.unwrap();
        let entry: EntryDetail = serde_json::from_str(&entry).unwrap();
        assert_eq!((entry.entry.op, entry.count), (status.sequence.op, Some(1)));
        assert!(entry.requests[0].intact);
        let limits: Limits =
            serde_json::from_str(&ask(InspectTopic::Limits, 0).await.unwrap()).unwrap();
        let planned: u64 = limits.memory.iter().map(|part| part.value).sum();
        assert_eq!(planned, status.memory_bytes);
        assert_eq!(limits.memory_bytes, status.memory_bytes);
        pools_are_told(&limits);
        let digest = ask(InspectTopic::Digest, 0).await.unwrap();
        let digest: Digest = serde_json::from_str(&digest).unwrap();
        assert_eq!(digest.digest.len(), 32);
        for (topic, part) in [
            (InspectTopic::Log, "\"timestamp_ns\""),
            (InspectTopic::Sessions, "\"client\""),
            (InspectTopic::Config, "\"journal-size\""),
            (InspectTopic::Metrics, "vsr_commit_op"),
            (InspectTopic::Chain, "\"route\""),
        ] {
            let answer = ask(topic, 0).await.unwrap();
            assert!(answer.contains(part), "{topic:?}: {answer}");
        }
        let error = ask(InspectTopic::Op, 1 << 40)
            .await
            .expect_err("no such op");
        assert!(error.to_string().contains("is not in the log"), "{error}");
        stop(cluster).await;
    });
}

#[test]
fn a_blank_replica_is_live_but_not_ready_and_says_why() {
    run(async {
        let member = local::free_members(1).unwrap().remove(0);
        let mut child = start(
            &member,
            &["--peers", &format!("{},127.0.0.1:1", member.native)],
        );
        until_answered(&member, "/livez").await;
        let (code, text) = local::get(&member.admin, "/readyz").await.unwrap();
        assert_eq!(code, 503);
        assert!(
            text.contains("blank") && text.contains("vsr-cli init"),
            "{text}"
        );
        let mut stream = TcpStream::connect(&member.resp).await.unwrap();
        stream.write_all(b"SET a 1\r\n").await.unwrap();
        let mut reply = [0; 8];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"-LOADING");
        child.kill().await.unwrap();
    });
}

/// Starts a replica that nothing but a signal will end.
pub(crate) fn start(member: &Member, more: &[&str]) -> Child {
    let first = if more.contains(&"--replica") {
        &[][..]
    } else {
        &["--replica", "0"]
    };
    Command::new(program())
        .args(["start", "--cluster", "test"])
        .args(first)
        .args(["--resp", &member.resp, "--admin", &member.admin])
        .args([
            "--memory",
            "8MiB",
            "--journal-size",
            "8MiB",
            "--log-level",
            "info",
        ])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started")
}

pub(crate) async fn until_said(lines: &mut Lines<BufReader<ChildStderr>>, part: &str) {
    while let Some(line) = lines.next_line().await.expect("text") {
        if line.contains(part) {
            return;
        }
    }
    panic!("it ended without saying {part:?}");
}

async fn op_of(member: &Member) -> u64 {
    let (_, body) = local::get(&member.admin, "/status")
        .await
        .expect("an answer");
    serde_json::from_str::<Status>(&body)
        .expect("a status")
        .sequence
        .op
}

pub(crate) async fn until_answered(member: &Member, path: &str) {
    while !matches!(local::get(&member.admin, path).await, Ok((200, _))) {
        sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
    }
}

/// How the child ended, and what it said on its standard output and error.
pub(crate) async fn ended(mut child: Child) -> (ExitStatus, String, String) {
    let status = child.wait().await.expect("waited for");
    let (mut out, mut err) = (String::new(), String::new());
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut out)
        .await
        .expect("text");
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut err)
        .await
        .expect("text");
    (status, out, err)
}

#[test]
fn a_cluster_of_one_serves_and_leaves_in_an_orderly_way_on_sigterm() {
    run(async {
        let member = local::free_members(1).unwrap().remove(0);
        let child = start(&member, &["--peers", &member.native]);
        until_answered(&member, "/livez").await;
        vsr_net::init::form(&[&member.native], Some("test"), Duration::from_secs(10))
            .await
            .unwrap();
        until_answered(&member, "/readyz").await;
        call(&member.resp, &["SET", "a", "1"], "+OK\r\n").await;
        // A client that is connected and idle does not keep the process.
        let mut idle = TcpStream::connect(&member.resp).await.unwrap();
        idle.write_all(b"PING\r\n").await.unwrap();
        idle.read_exact(&mut [0; 7]).await.unwrap();
        signal(&child, "TERM").await;
        let (status, out, err) = ended(child).await;
        assert_eq!(status.code(), Some(0), "{err}");
        assert!(out.contains("survives no crash"), "{out}");
        assert!(out.contains("vsr-cli --endpoints"), "{out}");
        assert!(err.contains("SIGTERM"), "{err}");
    });
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    run(async {
        let member = local::free_members(1).unwrap().remove(0);
        let _held = tokio::net::TcpListener::bind(&member.resp).await.unwrap();
        let (status, _, err) = ended(start(&member, &["--peers", &member.native])).await;
        assert_eq!(status.code(), Some(1));
        assert!(
            err.contains(&member.resp) && err.contains("--resp"),
            "{err}"
        );
    });
}

/// A primary with a write in flight that its stopped backups do not acknowledge.
struct Stuck {
    primary: Child,
    backups: Vec<Child>,
    client: TcpStream,
    admin: Member,
}

async fn stuck() -> Stuck {
    let members = local::free_members(3).expect("free ports");
    let peers: Vec<&str> = members
        .iter()
        .map(|member| member.native.as_str())
        .collect();
    let list = peers.join(",");
    let mut children: Vec<Child> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let index = index.to_string();
        let more = [
            "--peers",
            &list,
            "--replica",
            &index,
            "--client-timeout",
            "1m",
        ];
        children.push(start(
            member,
            &[&more[..], &["--drain-timeout", "1m"]].concat(),
        ));
        until_answered(member, "/livez").await;
    }
    let formed = vsr_net::init::form(&peers, Some("test"), Duration::from_secs(10)).await;
    formed.unwrap_or_else(|error| panic!("{error}"));
    until_answered(&members[0], "/readyz").await;
    call(&members[0].resp, &["SET", "a", "1"], "+OK\r\n").await;
    signal(&children[1], "STOP").await;
    signal(&children[2], "STOP").await;
    let op = format!("vsr_op {}", 1 + op_of(&members[0]).await);
    let mut client = TcpStream::connect(&members[0].resp)
        .await
        .expect("a RESP port");
    client.write_all(b"SET a 2\r\n").await.expect("sent");
    while !local::get(&members[0].admin, "/metrics")
        .await
        .expect("an answer")
        .1
        .contains(&op)
    {
        sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
    }
    let primary = children.remove(0);
    Stuck {
        primary,
        backups: children,
        client,
        admin: members[0].clone(),
    }
}

#[test]
fn a_second_signal_ends_a_process_that_still_waits_for_its_clients() {
    run(async {
        let mut stuck = stuck().await;
        let mut lines = BufReader::new(stuck.primary.stderr.take().expect("piped")).lines();
        signal(&stuck.primary, "TERM").await;
        until_said(&mut lines, "once more to end at once").await;
        assert!(
            stuck.primary.try_wait().unwrap().is_none(),
            "it waits for what is in flight"
        );
        signal(&stuck.primary, "TERM").await;
        until_said(&mut lines, "ended at once").await;
        assert_eq!(stuck.primary.wait().await.unwrap().code(), Some(1));
    });
}

#[test]
fn what_is_in_flight_is_answered_before_a_process_leaves() {
    run(async {
        let mut stuck = stuck().await;
        let mut lines = BufReader::new(stuck.primary.stderr.take().expect("piped")).lines();
        signal(&stuck.primary, "TERM").await;
        until_said(&mut lines, "once more to end at once").await;
        for backup in &stuck.backups {
            signal(backup, "CONT").await;
        }
        let mut reply = String::new();
        stuck.client.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply, "+OK\r\n", "and then the connection is closed");
        assert_eq!(stuck.primary.wait().await.unwrap().code(), Some(0));
    });
}

#[test]
fn a_primary_without_a_quorum_is_not_ready_and_ready_again_with_one() {
    run(async {
        let stuck = stuck().await;
        // First a commit that waits, or a view that is left; then it is clear that nobody is there.
        loop {
            let (code, text) = local::get(&stuck.admin.admin, "/readyz").await.unwrap();
            if code == 503 && text.contains("QUORUM_LOST") {
                break;
            }
            sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
        }
        until_answered(&stuck.admin, "/livez").await;
        for backup in &stuck.backups {
            signal(backup, "CONT").await;
        }
        until_answered(&stuck.admin, "/readyz").await;
    });
}
