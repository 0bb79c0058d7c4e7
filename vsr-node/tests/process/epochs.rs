//! Epochs that end while clients write and processes die (N22): the next one follows at once, waits for
//! its archive, or never comes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use vsr_node::inspect::Status;
use vsr_node::local::{self, LocalCluster};

use super::{program, run};

/// How many ops an epoch has.
const OP_MAX: u64 = 4;
/// How many epochs must end.
const ROLLOVERS: u64 = 1_000;
/// Clients, each with a key of its own.
const CLIENTS: usize = 6;

async fn cluster(settings: &[(&str, &str)]) -> LocalCluster {
    let mut all = vec![
        ("memory", "8MiB"),
        ("journal-size", "8MiB"),
        ("log-level", "warn"),
        // A machine that builds something else at the same time is slow.
        ("view-timeout", "500ms"),
    ];
    all.extend(settings);
    if !settings.iter().any(|(name, _)| *name == "client-timeout") {
        all.push(("client-timeout", "60s"));
    }
    let members = local::free_members(3).expect("free ports");
    let mut cluster = LocalCluster::spawn(&program(), "test", members, &all).expect("started");
    cluster
        .form()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    cluster
}

/// A connection that sends one command after the other and reads one line for each.
struct Line(BufReader<TcpStream>);

impl Line {
    async fn open(address: &str) -> Self {
        Self(BufReader::new(
            TcpStream::connect(address).await.expect("a RESP port"),
        ))
    }

    async fn ask(&mut self, command: &str) -> String {
        let bytes = format!("{command}\r\n");
        self.0
            .get_mut()
            .write_all(bytes.as_bytes())
            .await
            .expect("sent");
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.expect("answered");
        assert!(read > 0, "{command}: the connection has ended");
        line.trim_end().to_owned()
    }

    /// Counts one up and returns the new number.
    async fn incr(&mut self, key: &str) -> u64 {
        let line = self.ask(&format!("INCR {key}")).await;
        let number = line.strip_prefix(':').and_then(|n| n.parse().ok());
        number.unwrap_or_else(|| panic!("INCR {key}: {line}"))
    }
}

/// What the clients of one test share.
struct Load {
    address: String,
    stop: Cell<bool>,
    /// How often each client has counted up, and was told so.
    counted: RefCell<Vec<u64>>,
}

/// Counts up a key of its own, and one that all share, until it is told to stop.
async fn count(load: Rc<Load>, client: usize) {
    let mut line = Line::open(&load.address).await;
    let mut shared = 0;
    while !load.stop.get() {
        let own = line.incr(&format!("own{client}")).await;
        let before = load.counted.borrow()[client];
        assert_eq!(own, before + 1, "nothing is lost and nothing is doubled");
        load.counted.borrow_mut()[client] = own;
        let next = line.incr("shared").await;
        assert!(next > shared, "{next} after {shared}");
        shared = next;
    }
}

/// Waits until the last op that a replica has executed is of `epoch`.
async fn until_epoch(cluster: &LocalCluster, replica: usize, epoch: u64) -> Status {
    loop {
        let status = cluster.status(replica).await.expect("a status");
        if status.epoch >= epoch {
            return status;
        }
        sleep(Duration::from_millis(20)).await; // the test's own deadline bounds this
    }
}

async fn until_ready(cluster: &LocalCluster, replica: usize) {
    while !cluster.status(replica).await.is_ok_and(|s| s.ready) {
        sleep(Duration::from_millis(20)).await; // as above
    }
}

/// Clients of R1 count while R0 is killed twice and R2 once; then all replicas are equal.
/// Returns what they say then, and how often was counted up.
async fn epochs_under_load(cluster: &mut LocalCluster, rollovers: u64) -> (Vec<Status>, u64) {
    let load = Rc::new(Load {
        address: cluster.members()[1].resp.clone(),
        stop: Cell::new(false),
        counted: RefCell::new(vec![0; CLIENTS]),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| spawn_local(count(Rc::clone(&load), client)))
        .collect();
    for (turn, victim) in [(1, 0), (2, 2), (3, 0)] {
        until_epoch(cluster, 1, turn * rollovers / 4).await;
        cluster.kill(victim).await.expect("killed");
        cluster.restart(victim).expect("started");
        until_ready(cluster, victim).await;
    }
    until_epoch(cluster, 1, rollovers).await;
    load.stop.set(true);
    for client in clients {
        client.await.expect("it counted rightly");
    }
    let mut line = Line::open(&cluster.members()[2].resp).await;
    let mut sum = 0;
    for (client, counted) in load.counted.take().into_iter().enumerate() {
        let held = line.ask(&format!("INCRBY own{client} 0")).await;
        assert_eq!(held, format!(":{counted}"), "client {client}");
        sum += counted;
    }
    assert_eq!(line.ask("INCRBY shared 0").await, format!(":{sum}"));
    (equal(cluster).await, sum)
}

/// Waits until all replicas have executed the same.
async fn equal(cluster: &LocalCluster) -> Vec<Status> {
    loop {
        let statuses = cluster.statuses().await.expect("all answer");
        let first = &statuses[0];
        let is_equal = |s: &Status| {
            s.sequence.applied == s.sequence.op
                && (s.sequence.op, s.epoch) == (first.sequence.op, first.epoch)
                && s.digest == first.digest
        };
        if statuses.iter().all(is_equal) {
            return statuses;
        }
        sleep(Duration::from_millis(20)).await; // as above
    }
}

async fn stop(cluster: LocalCluster) {
    for end in cluster.stop().await {
        assert!(end.expect("waited for").success());
    }
}

/// R10.2.
#[test]
fn a_thousand_epochs_lose_and_double_nothing_while_processes_are_killed() {
    run(LocalSet::new().run_until(async {
        let mut cluster = cluster(&[("op-max", "4"), ("on-op-max", "reset")]).await;
        let (statuses, sum) = epochs_under_load(&mut cluster, ROLLOVERS).await;
        println!("{sum} times two keys were counted up");
        for status in &statuses {
            assert!(status.epoch >= ROLLOVERS, "{status:?}");
            assert_eq!(status.epoch, (status.sequence.op - 1) / OP_MAX);
            assert_eq!(status.op, (status.sequence.op - 1) % OP_MAX + 1);
            assert_eq!(
                (status.epoch_end.op_max, status.halted.as_ref()),
                (OP_MAX, None)
            );
            println!(
                "R{} epoch {} op {}",
                status.replica, status.epoch, status.op
            );
        }
        stop(cluster).await;
    }));
}

/// R10.4: every epoch has its file, whoever led when it ended.
#[test]
fn epochs_are_archived_before_the_next_one_begins() {
    let folder = std::env::temp_dir().join(format!("vsr-epochs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    run(LocalSet::new().run_until(async {
        let path = folder.to_str().expect("a name");
        let settings = [
            ("op-max", "100"),
            ("on-op-max", "archive"),
            ("archive-dir", path),
        ];
        let mut cluster = cluster(&settings).await;
        let (statuses, _) = epochs_under_load(&mut cluster, 20).await;
        let last = statuses[0].epoch;
        let found = std::fs::read_dir(&folder).expect("it is there").count() as u64;
        assert!(found >= last, "{found} files, epoch {last}");
        for epoch in 0..last {
            let id = &statuses[0].cluster.as_ref().expect("it has one")[..8];
            let file = folder.join(format!("test-{id}-epoch{epoch}.vsr"));
            let size = std::fs::metadata(&file).map_or(0, |about| about.len());
            assert!(size > 0, "{} is not there", file.display());
        }
        let written: u64 = statuses
            .iter()
            .filter_map(|s| s.epoch_end.archives.as_ref())
            .map(|a| a.written)
            .sum();
        println!("{last} epochs, {found} files, {written} of them by processes that still run");
        stop(cluster).await;
    }));
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// R10.4: what cannot be archived is seen, clients wait, and go on when it can.
#[test]
fn an_archive_that_cannot_be_written_is_seen_and_tried_again() {
    let folder = std::env::temp_dir().join(format!("vsr-no-archive-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    run(LocalSet::new().run_until(async {
        let path = folder.to_str().expect("a name");
        let settings = [
            ("op-max", "20"),
            ("on-op-max", "archive"),
            ("archive-dir", path),
        ];
        let cluster = cluster(&settings).await;
        let address = cluster.members()[0].resp.clone();
        // The folder goes away: no archive can be written.
        std::fs::remove_dir_all(&folder).expect("removed");
        let writer = spawn_local(async move {
            let mut line = Line::open(&address).await;
            for number in 1..=40 {
                assert_eq!(line.incr("n").await, number);
            }
        });
        let failing = loop {
            let status = cluster.status(0).await.expect("a status");
            let archives = status.epoch_end.archives.clone().expect("it archives");
            if archives.failed > 1 {
                break status;
            }
            sleep(Duration::from_millis(20)).await; // the test's own deadline bounds this
        };
        assert!(
            !failing.ready && failing.reason.contains("cannot be archived"),
            "{failing:?}"
        );
        assert_eq!(
            (failing.op, failing.epoch, failing.epoch_end.archive_due),
            (20, 0, Some(0))
        );
        assert_eq!(
            (failing.view, failing.status.as_str()),
            (0, "normal"),
            "nobody deposes it"
        );
        let mut reader = Line::open(&cluster.members()[1].resp).await;
        assert!(reader.ask("GET n").await.starts_with('$'), "reads go on");
        let (_, metrics) = local::get(&cluster.members()[0].admin, "/metrics")
            .await
            .expect("an answer");
        for line in [
            "vsr_archive_due 1",
            "vsr_archive_failing 1",
            "vsr_epoch_warning 3",
        ] {
            assert!(
                metrics.lines().any(|found| found == line),
                "{line} is not in\n{metrics}"
            );
        }
        std::fs::create_dir_all(&folder).expect("a folder");
        writer.await.expect("everything was counted");
        let status = cluster.status(0).await.expect("a status");
        assert!(status.ready && status.epoch >= 1, "{status:?}");
        stop(cluster).await;
    }));
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// R10.1: writes are refused with a word about why, reads go on, on every replica.
#[test]
fn at_the_last_op_writes_are_refused_and_reads_go_on() {
    run(LocalSet::new().run_until(async {
        let cluster = cluster(&[
            ("op-max", "30"),
            ("on-op-max", "halt"),
            ("client-timeout", "1s"),
        ])
        .await;
        let mut line = Line::open(&cluster.members()[1].resp).await;
        let mut counted = 0;
        let refused = loop {
            let answer = line.ask("INCR n").await;
            if answer.starts_with('-') {
                break answer;
            }
            counted += 1;
            assert_eq!(answer, format!(":{counted}"));
        };
        println!("{refused}");
        assert!(refused.contains("op numbers are used up"), "{refused}");
        assert!(counted > 10 && counted < 30, "{counted}");
        for member in cluster.members() {
            let mut line = Line::open(&member.resp).await;
            assert_eq!(
                line.ask("GET n").await,
                format!("${}", counted.to_string().len())
            );
            assert!(line.0.read_line(&mut String::new()).await.is_ok());
        }
        for status in cluster.statuses().await.expect("all answer") {
            assert_eq!(
                (status.op, status.epoch, status.epoch_end.ops_left),
                (30, 0, 0)
            );
            let halted = status.halted.expect("it says so");
            assert!(halted.contains("--op-max"), "{halted}");
        }
        stop(cluster).await;
    }));
}
