//! Bits that flip in the memory of running processes, under load (feature `flip`): found by use or by the
//! scrubber, repaired from the others, and no client hears of them. What cannot be repaired ends the life,
//! not the process: it begins again in place, empty, and recovers.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vsr_node::doubt;
use vsr_node::local::{self, LocalCluster};

use crate::cluster::{Cluster, WHOLE, small};
use crate::faults::{Book, Trouble};
use crate::process::LOOK_AGAIN;
use crate::summary::{Summary, say};
use crate::work::{Load, Mix};
use crate::{POWERS, run, setting};

const LIMIT: Duration = Duration::from_secs(150);

/// The kinds of places whose damage is repaired while the replica goes on.
const PLACES: [&str; 6] = ["copy", "header", "body", "sessions", "replies", "state"];

/// Those of them that are flipped on all replicas at once; with `VSR_HARNESS_FLIPS_ALL` all of them are.
/// State that is damaged everywhere at once, in different chunks, is the simulator's business.
const AT_ONCE: [&str; 3] = ["copy", "header", "body"];

/// What replicas count of damage: each must have been seen in a run.
const COUNTED: [&str; 5] = [
    "copies_mended",
    "damaged_entries",
    "entries_repaired",
    "damaged_states",
    "states_repaired",
];

/// Flips a bit in a place of this kind. False when there was none, or nobody answers.
async fn flip(admin: &str, place: &str, number: u64) -> bool {
    let path = format!("/flip/{place}/{number}");
    matches!(local::get(admin, &path).await, Ok((200, _)))
}

async fn flip_at(cluster: &Cluster, replica: usize, place: &str, number: u64) -> bool {
    match cluster.direct(replica) {
        Some(member) => flip(&member.admin, place, number).await,
        None => false,
    }
}

/// Waits until every replica's scrubber has gone round twice more, so that what was flipped before has
/// been seen, and until nothing of that is left: state that is damaged counts as lost until it is repaired,
/// so more damage than the cluster survives must not come before.
async fn repaired(cluster: &Cluster) {
    const NAMES: [&str; 4] = [
        "vsr_events_total{event=\"scrub_rounds\"}",
        "vsr_events_total{event=\"damaged_states\"}",
        "vsr_events_total{event=\"states_repaired\"}",
        "vsr_events_total{event=\"states_overwritten\"}",
    ];
    let deadline = Instant::now() + WHOLE;
    for replica in 0..cluster.replicas() {
        let [before, ..] = cluster.metrics(replica, NAMES).await;
        loop {
            let [rounds, damaged, repaired, overwritten] = cluster.metrics(replica, NAMES).await;
            if rounds >= before + 2 && damaged <= repaired + overwritten {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "R{replica}: {damaged} times damaged, {repaired} repaired, {overwritten} overwritten"
            );
            sleep(LOOK_AGAIN).await;
        }
    }
    cluster.until_whole().await;
}

/// A life of this replica's ends, and the next one takes part, in the same process.
async fn begins_again(cluster: &Cluster, replica: usize, place: &str, number: u64) {
    let pid = cluster.pid(replica);
    let before = cluster.status(replica).await.expect("it is there");
    assert!(flip_at(cluster, replica, place, number).await, "{place}");
    cluster
        .until("it has begun again and takes part", WHOLE, |statuses| {
            statuses[replica].as_ref().is_some_and(|status| {
                status.ready && status.restarts_in_place == before.restarts_in_place + 1
            })
        })
        .await;
    let after = cluster.status(replica).await.expect("it is there");
    assert_eq!(cluster.pid(replica), pid, "the process stays");
    assert_ne!(after.incarnation, before.incarnation, "the life does not");
    cluster.until_whole().await;
}

#[test]
fn bits_flip_under_load_and_no_client_hears_of_it() {
    let name = "flips::bits_flip_under_load_and_no_client_hears_of_it";
    run(name, LIMIT, |seed| async move {
        let mut settings = small();
        settings.push(("scrub-period", "1s".into()));
        let cluster = Cluster::start("flips", 3, &settings, seed).await;
        let load = Load::start(&cluster, Mix::LIGHT, seed).await;
        let track = Trouble::new(&cluster, POWERS, seed);
        let began = Instant::now();
        let goes_on = track.wait(WHOLE, || load.answered() > 2000).await;
        assert!(goes_on, "there is something to damage");
        let flipped = flip_everywhere(&cluster, &track).await;
        let mut book = Book::default();
        for event in COUNTED {
            let count = cluster.counted(event).await;
            assert!(count > 0, "{event} after {flipped} flips");
            book.counted.insert(event, count);
        }
        for replica in 0..3 {
            let status = cluster.status(replica).await.expect("it is there");
            assert_eq!(status.restarts_in_place, 0, "repaired, not restarted");
        }
        // What cannot be repaired; the primary first.
        let (primary, _) = cluster.primary().await.expect("somebody leads");
        for (step, place) in ["control", "unordered", "control", "unordered"]
            .iter()
            .enumerate()
        {
            let replica = (primary + step / 2) % 3;
            begins_again(&cluster, replica, place, track.below(1 << 40)).await;
        }
        let answered = load.answered();
        let goes_on = track.wait(WHOLE, || load.answered() > answered + 100).await;
        assert!(goes_on, "the load stands still after the trouble");
        let took = began.elapsed();
        let rows = load.finish(&cluster).await;
        let mut summary = Summary::default();
        summary.add(rows, &book, took);
        say(&format!("{flipped} bits flipped\n{}", summary.text()));
        assert_eq!(summary.anomalies(), 0, "{}", summary.text());
        assert!(summary.idle().is_empty(), "{:?}", summary.idle());
        cluster.end().await;
    });
}

/// Every kind of place, at one replica after the other and at all of them at once.
async fn flip_everywhere(cluster: &Rc<Cluster>, track: &Rc<Trouble>) -> u64 {
    let rounds = setting("VSR_HARNESS_FLIPS").unwrap_or(2);
    let mut flipped = 0;
    for _ in 0..rounds {
        let at_once = match setting("VSR_HARNESS_FLIPS_ALL") {
            Some(_) => &PLACES[..],
            None => &AT_ONCE,
        };
        let all = &PLACES[..];
        for (who, places, count) in [
            (0..1, all, 4),
            (1..2, all, 4),
            (2..3, all, 4),
            (0..3, at_once, 2),
        ] {
            for replica in who {
                for place in places {
                    for _ in 0..count {
                        let number = track.below(1 << 40);
                        let is_done = flip_at(cluster, replica, place, number).await;
                        flipped += u64::from(is_done);
                    }
                }
            }
            repaired(cluster).await;
        }
    }
    flipped
}

/// A cluster of three without proxies, for what ends processes.
async fn plain(settings: &[(&str, &str)]) -> LocalCluster {
    let mut settings = settings.to_vec();
    settings.extend([("memory", "16MiB"), ("journal-size", "32MiB")]);
    let members = local::free_members(3).expect("free ports");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_vsr-node"));
    let mut cluster = LocalCluster::spawn(program, "flips", members, &settings).expect("processes");
    cluster.form().await.expect("a cluster");
    cluster
}

/// Waits until the page of a replica has this text.
async fn until(cluster: &LocalCluster, replica: usize, path: &str, part: &str) -> String {
    let admin = &cluster.members()[replica].admin;
    let look = async {
        loop {
            if let Ok((_, body)) = local::get(admin, path).await
                && body.contains(part)
            {
                return body;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    let found = timeout(WHOLE, look).await;
    found.unwrap_or_else(|_| panic!("{part:?} on {path} of R{replica}"))
}

#[test]
fn where_no_majority_agrees_everybody_stops_and_keeps_what_it_holds() {
    let name = "flips::where_no_majority_agrees_everybody_stops_and_keeps_what_it_holds";
    run(name, LIMIT, |_| async move {
        let mut cluster = plain(&[]).await;
        let resp = cluster.members()[0].resp.clone();
        let mut client = tokio::net::TcpStream::connect(&resp).await.expect("RESP");
        set(&mut client, "a").await.expect("served");
        for (replica, value) in [(0, 7), (1, 8)] {
            let admin = cluster.members()[replica].admin.clone();
            assert!(flip(&admin, "unordered", value).await);
        }
        // The digest is taken when something is executed.
        let mut served = 0;
        while set(&mut client, "b").await.is_some() {
            served += 1;
            assert!(served < 1000, "the states differ, and everybody goes on");
            sleep(LOOK_AGAIN).await;
        }
        for replica in 0..3 {
            let reason = until(&cluster, replica, "/readyz", "no majority agrees").await;
            say(&format!("R{replica} is not ready: {}", reason.trim()));
            let status = cluster.status(replica).await.expect("it is there");
            let seen = status.divergence.expect("it has seen it");
            assert!(seen.op > seen.since_op, "{seen:?}");
            assert!(!seen.operations.is_empty(), "{seen:?}");
            let mut digests: Vec<_> = seen.digests.iter().flatten().collect();
            digests.dedup();
            assert!(digests.len() > 1, "{seen:?}");
            until(
                &cluster,
                replica,
                "/metrics",
                "vsr_halted{reason=\"no_majority\"} 1",
            )
            .await;
        }
        cluster.check_alive().expect("what they hold is kept");
        for end in cluster.stop().await {
            assert_eq!(end.expect("waited for").code(), Some(4));
        }
    });
}

/// Whether a key can be written within a second.
async fn set(client: &mut tokio::net::TcpStream, key: &str) -> Option<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let command = format!("SET {key} 1\r\n");
    client.write_all(command.as_bytes()).await.ok()?;
    let mut reply = [0; 5];
    let read = client.read_exact(&mut reply);
    timeout(Duration::from_secs(1), read).await.ok()?.ok()?;
    (&reply == b"+OK\r\n").then_some(())
}

#[test]
fn a_process_does_not_begin_again_for_ever() {
    let name = "flips::a_process_does_not_begin_again_for_ever";
    run(name, LIMIT, |_| async move {
        let mut cluster = plain(&[]).await;
        let admin = cluster.members()[1].admin.clone();
        assert!(flip(&admin, "control", 1000).await);
        until(&cluster, 1, "/status", "\"restarts_in_place\":1,").await;
        until(&cluster, 1, "/readyz", "ready\n").await;
        let admin = cluster.members()[2].admin.clone();
        for restart in 1..=doubt::RESTARTS_MAX {
            assert!(flip(&admin, "control", 1000).await);
            let count = format!("\"restarts_in_place\":{restart},");
            until(&cluster, 2, "/status", &count).await;
            until(&cluster, 2, "/readyz", "ready\n").await;
        }
        assert!(flip(&admin, "control", 1000).await);
        let code = end_of(&mut cluster, 2).await;
        assert_eq!(code, Some(5), "memory that cannot be trusted");
        // Who has begun again still notices that its parent wants it to leave.
        for end in cluster.stop().await {
            assert!(end.expect("waited for").success());
        }
        // Whoever does not want it at all is told at once.
        let mut cluster = plain(&[("on-doubt", "exit")]).await;
        let admin = cluster.members()[1].admin.clone();
        assert!(flip(&admin, "control", 1000).await);
        assert_eq!(end_of(&mut cluster, 1).await, Some(5));
        drop(cluster);
    });
}

/// How a process has ended that did so by itself.
async fn end_of(cluster: &mut LocalCluster, replica: usize) -> Option<i32> {
    let deadline = Instant::now() + WHOLE;
    while Instant::now() < deadline {
        let dead = cluster.take_dead().expect("our own children");
        if let Some((_, status)) = dead.iter().find(|(which, _)| *which == replica) {
            assert_eq!(dead.len(), 1, "and nobody else");
            return status.code();
        }
        sleep(LOOK_AGAIN).await;
    }
    panic!("R{replica} goes on");
}
