//! Whatever a peer, a client or a tool sends: a replica never panics because of it.
//!
//! The table says what becomes of each kind of message in each status. The storm takes real messages
//! and made-up ones, writes any values into their fields, seals them again, and hands them to replicas
//! in every status, so that nothing but the replicas' own judgement stands between the bytes and the
//! state.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use vsr_types::message::PeerStatus;
use vsr_types::{Command, HEADER_SIZE, Header, ReplicaIndex};

use crate::support::{Cluster, Ledger, Node, Random, chosen_seeds};

/// Where the fields that depend on the command lie, and the bytes behind them.
const FIELDS: std::ops::Range<usize> = 80..120;
const COMMAND: usize = 126;
const REPLICA: usize = 127;

/// Seals a header whose bytes were written over, whatever they say now.
fn sealed(mut bytes: [u8; HEADER_SIZE], body: &[u8]) -> Vec<u8> {
    let mut header: Header = bytemuck::cast(bytes);
    let is_request = header.command() == Some(Command::Request);
    if is_request && let Some(request) = vsr_types::Request::first_in(body) {
        header.seal_with(body.len(), request.header().checksum());
    } else {
        header.seal(body);
    }
    bytes = bytemuck::cast(header);
    [&bytes[..], body].concat()
}

fn head_of(frame: &[u8]) -> [u8; HEADER_SIZE] {
    frame[..HEADER_SIZE].try_into().expect("a whole header")
}

/// A cluster of three in which R0 leads, R1 follows, and the one asked for is as wanted.
fn in_status(status: &str) -> (Cluster, u8) {
    let mut cluster = Cluster::formed(3);
    cluster.register(1);
    cluster.ask(1, "add 1");
    cluster.pass(Duration::from_millis(30));
    let at = match status {
        "primary" => 0,
        "backup" => 1,
        "blank" => {
            let config = cluster.config[1].clone();
            cluster.replicas[1] = Cluster::replica(&config, 2, Ledger::default());
            cluster.settle(1);
            1
        }
        "elect" => {
            // R1 leads the next view as soon as it has another vote.
            cluster.stopped[0] = true;
            for _ in 0..200 {
                cluster.tick(Duration::from_millis(1));
                if cluster.status(1) == PeerStatus::Normal {
                    cluster.deliver(Node::Replica(2), Node::Replica(1));
                }
            }
            assert_eq!(cluster.status(1), PeerStatus::ViewChange);
            1
        }
        "recovering" => {
            cluster.crash(1);
            cluster.restart(1);
            cluster.stopped[2] = true;
            let is_back = cluster.wait(Duration::from_secs(1), |cluster| {
                cluster.status(1) == PeerStatus::Recovering
            });
            assert!(is_back, "R1 knows that there is a cluster");
            1
        }
        "halted" => {
            cluster.replicas[1].machine().flip.set(true);
            for _ in 0..3 {
                cluster.request_at(1, 0, "add 1");
                cluster.pass(Duration::from_millis(150));
                cluster.client(1).waiting = false;
            }
            assert_eq!(cluster.status(1), PeerStatus::Halted);
            1
        }
        other => panic!("no status {other}"),
    };
    cluster.net.links.clear();
    (cluster, at)
}

/// A frame of this kind with nothing in it, from R2.
fn empty(cluster: &Cluster, command: Command, to: u8) -> Vec<u8> {
    let mut template = Header::new(vsr_types::message::Request { reserved: [0; 5] });
    template.set_cluster(cluster.replicas[usize::from(to)].cluster());
    let peer = cluster.replicas[2].report();
    let (replica, member) = (ReplicaIndex::new(2), vsr_types::MemberId::new(0xA002));
    template.set_sender(replica, member, peer.incarnation);
    let mut bytes: [u8; HEADER_SIZE] = bytemuck::cast(template);
    bytes[COMMAND] = command as u8;
    sealed(bytes, &[])
}

/// A request is nothing without a body: c1's next one.
fn whole_request(cluster: &mut Cluster, to: u8) -> Vec<u8> {
    let cluster_of_receiver = cluster.replicas[usize::from(to)].cluster();
    cluster.client(1).waiting = false;
    cluster.client(1).request(cluster_of_receiver, b"add 1")
}

#[test]
fn every_kind_of_message_has_its_outcome_in_every_status() {
    let statuses = [
        "blank",
        "primary",
        "backup",
        "elect",
        "recovering",
        "halted",
    ];
    let mut table = format!("{:<17}", "message");
    for status in statuses {
        let _: std::fmt::Result = write!(table, " | {status:<16}");
    }
    table.truncate(table.trim_end().len());
    table.push('\n');
    for &command in Command::ALL {
        let mut line = format!("{:<17}", command.name());
        for status in statuses {
            let (mut cluster, at) = in_status(status);
            let frame = match command {
                Command::Request => whole_request(&mut cluster, at),
                _ => empty(&cluster, command, at),
            };
            let parsed =
                vsr_types::Frame::parse(&frame, cluster.replicas[usize::from(at)].cluster());
            assert!(
                parsed.is_ok(),
                "a {} of this table passes the door",
                command.name()
            );
            let dropped = cluster.hand_over(Node::Replica(2), at, &frame);
            let name = dropped.map_or("taken", vsr_consensus::DropReason::name);
            // Writing to a string cannot fail.
            let _: std::fmt::Result = write!(line, " | {name:<16}");
            cluster.settle(at);
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/outcomes.txt");
    if std::env::var("VSR_TRANSCRIPTS").is_ok_and(|value| value == "write") {
        std::fs::write(&file, &table).expect("the table can be written");
    }
    let told = std::fs::read_to_string(&file).expect("the table");
    assert!(
        told == table,
        "VSR_TRANSCRIPTS=write writes it anew:\n{table}"
    );
}

/// A value that somebody might have forgotten.
fn any_value(random: &mut Random, near: u64) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => 1,
        2 => near,
        3 => near + 1,
        4 => near.saturating_sub(1),
        5 => u64::MAX,
        6 => 1 << 62,
        7 => near + random.below(1 << 33),
        8 => random.below(1 << 16),
        _ => random.next(),
    }
}

/// Frames as they really were, of as many kinds as possible.
fn corpus() -> (Cluster, Vec<Vec<u8>>) {
    let mut cluster = Cluster::formed_with(3, |settings| {
        settings.journal_slots = 64;
        settings.pipeline = 8;
        settings.sessions = 4;
    });
    cluster.net.record = Some(Vec::new());
    for round in 0..6_u8 {
        for client in 0..3 {
            if round == 0 {
                cluster.register_at(client, 0);
            } else {
                cluster.request_at(client, round % 3, "add 1");
            }
        }
        cluster.query_at(0, 0, "total");
        if round == 3 {
            // A lost prepare: repair is part of the corpus.
            cluster.deliver(Node::Client(0), Node::Replica(0));
            cluster.deliver(Node::Client(1), Node::Replica(0));
            cluster
                .net
                .link(Node::Replica(0), Node::Replica(1))
                .queue
                .clear();
        }
        cluster.run();
        cluster.pass(Duration::from_millis(40));
    }
    // A primary that is heard no more, one that misses the start of the next view, and the old primary
    // that follows: views are part of the corpus.
    cluster.stopped[0] = true;
    let missed = (Node::Replica(1), Node::Replica(2), Command::StartView);
    cluster.net.lose.push(missed);
    cluster.pass(Duration::from_millis(300));
    cluster.net.lose.clear();
    cluster.pass(Duration::from_millis(100));
    cluster.retry_at(0, 1);
    cluster.run();
    cluster.stopped[0] = false;
    cluster.pass(Duration::from_millis(200));
    let mut corpus = cluster.net.record.take().expect("a record");
    for &command in Command::ALL {
        corpus.push(empty(&cluster, command, 0));
    }
    (cluster, corpus)
}

fn mutated(random: &mut Random, frame: &[u8], near: u64) -> Vec<u8> {
    let mut head = head_of(frame);
    let mut body = frame[HEADER_SIZE..].to_vec();
    for _ in 0..random.below(4) {
        let place = match random.below(8) {
            // Incarnation, epoch and view now and then; mostly what the message says.
            0 => 48 + 8 * random.below(4) as usize,
            _ => FIELDS.start + 8 * random.below(5) as usize,
        };
        let value = any_value(random, near).to_le_bytes();
        if random.percent(80) {
            head[place..place + 8].copy_from_slice(&value);
        } else {
            let half = place + 4 * random.below(2) as usize;
            head[half..half + 4].copy_from_slice(&value[..4]);
        }
    }
    if random.percent(10) {
        head[REPLICA] = random.below(5) as u8;
    }
    if random.percent(10) {
        head[COMMAND] = *random.pick(Command::ALL) as u8;
    }
    if random.percent(15) {
        let size = random.below(600) as usize;
        body.resize(size, 0xEE);
    }
    if !body.is_empty() && random.percent(20) {
        let place = random.below(body.len() as u64) as usize;
        body[place] ^= 1 << random.below(8);
    }
    if random.percent(10) {
        let mut header: Header = bytemuck::cast(head);
        let hops = (0..random.below(8)).map(|_| ReplicaIndex::new(random.below(16) as u8));
        header.set_route(vsr_types::Route::through(hops.collect::<Vec<_>>()));
        head = bytemuck::cast(header);
    }
    sealed(head, &body)
}

/// The messages of one seed, in a cluster that also goes on with its own work.
fn storm(seed: u64) {
    let mut random = Random::new(seed);
    let (mut cluster, corpus) = corpus();
    // What the storm makes replicas say is not what a client of ours would believe.
    cluster.clients_listen = false;
    if random.percent(30) {
        let config = cluster.config[2].clone();
        cluster.replicas[2] = Cluster::replica(&config, 2, Ledger::remembering());
    }
    for step in 0..400_u64 {
        let to = random.below(3) as u8;
        let near = cluster.op(to);
        let frame = random.pick(&corpus).clone();
        let frame = mutated(&mut random, &frame, near);
        let from = *random.pick(&[
            Node::Replica(0),
            Node::Replica(1),
            Node::Client(1),
            Node::Tool,
        ]);
        cluster.hand_over(from, to, &frame);
        if random.percent(50) {
            cluster.settle(to);
        }
        if step % 8 == 0 {
            cluster.tick(Duration::from_millis(random.below(20)));
            cluster.turn();
        }
    }
}

#[test]
fn no_sealed_nonsense_makes_a_replica_panic() {
    for seed in chosen_seeds().unwrap_or(0..60) {
        if let Err(panic) = std::panic::catch_unwind(|| storm(seed)) {
            eprintln!("VSR_SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Sums and differences with such numbers are what overflows.
const EXTREMES: [u64; 6] = [0, 1, 255, 1 << 62, u64::MAX - 1, u64::MAX];

#[test]
fn no_extreme_number_in_any_field_makes_a_replica_panic() {
    let (_, corpus) = corpus();
    // A body of the right shape, and crumbs of one.
    let bodies = |command: Command| {
        let real = corpus.iter().rfind(|f| f[COMMAND] == command as u8);
        let mut bodies: Vec<Vec<u8>> = [0, 1, HEADER_SIZE - 1, HEADER_SIZE, 3 * HEADER_SIZE]
            .map(|size| vec![0xEE; size])
            .to_vec();
        bodies.extend(real.map(|frame| frame[HEADER_SIZE..].to_vec()));
        bodies
    };
    for status in ["blank", "primary", "backup", "elect", "recovering"] {
        for &command in Command::ALL {
            let (mut cluster, at) = in_status(status);
            for body in bodies(command) {
                let head = head_of(&empty(&cluster, command, at));
                for place in FIELDS.step_by(8) {
                    for value in EXTREMES {
                        let mut head = head;
                        head[place..place + 8].copy_from_slice(&value.to_le_bytes());
                        cluster.hand_over(Node::Replica(2), at, &sealed(head, &body));
                        // All of them at once, but for this one.
                        head[FIELDS].fill(0xFF);
                        head[place..place + 8].copy_from_slice(&value.to_le_bytes());
                        cluster.hand_over(Node::Replica(2), at, &sealed(head, &body));
                    }
                }
            }
            cluster.settle(at);
        }
    }
}

#[test]
fn the_corpus_has_the_messages_of_normal_operation_and_of_view_changes() {
    let (_, corpus) = corpus();
    let seen = |command: Command| {
        corpus
            .iter()
            .filter(|f| f[COMMAND] == command as u8)
            .count()
    };
    for command in [
        Command::StartViewChange,
        Command::DoViewChange,
        Command::StartView,
        Command::GetView,
        Command::Request,
        Command::Query,
        Command::Prepare,
        Command::PrepareOk,
        Command::Commit,
        Command::CommitOk,
        Command::Ping,
        Command::Pong,
        Command::GetPrepare,
        Command::Headers,
        Command::Reply,
        Command::QueryReply,
    ] {
        assert!(seen(command) > 1, "no {} was really sent", command.name());
    }
}

#[test]
fn a_piece_of_a_request_is_no_request() {
    let (mut cluster, at) = in_status("primary");
    let good = cluster.client(1).frame.clone();
    // Every prefix of the body, sealed as a frame of its own.
    for size in 0..good.len() - HEADER_SIZE {
        let frame = sealed(head_of(&good), &good[HEADER_SIZE..HEADER_SIZE + size]);
        let dropped = cluster.hand_over(Node::Client(1), at, &frame);
        let is_refused_by_the_door = vsr_types::Frame::parse(&frame, cluster.id()).is_err();
        assert!(is_refused_by_the_door || dropped.is_some(), "{size} bytes");
    }
    cluster.settle(at);
    assert_eq!(cluster.op(0), 2, "nothing of it was prepared");
}
