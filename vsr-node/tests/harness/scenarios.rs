//! Troubles with a known right answer, one at a time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vsr_node::local;

use crate::check::register::{self, Action, Event};
use crate::cluster::{Cluster, WHOLE, small};
use crate::faults::{Book, Trouble};
use crate::process::LOOK_AGAIN;
use crate::resp::{Caller, Command, Outcome, Reply, Tally, Wire, command};
use crate::summary::{Summary, say};
use crate::work::{Load, Mix};
use crate::{POWERS, run};

const LIMIT: Duration = Duration::from_secs(120);
/// Long enough for everything that a cluster does by itself, and for a node to lose patience.
const LONG: Duration = Duration::from_millis(2500);

/// One Redis client of all replicas.
fn caller(cluster: &Cluster, at: usize) -> Caller {
    let tally: Rc<RefCell<Tally>> = Rc::default();
    Caller::new(cluster.resp_addresses(), at, Instant::now(), 1, tally)
}

fn incr() -> Command {
    command(&["INCR", "probe"])
}

/// Under a light load: does `trouble`, heals, lets everything settle, and checks all histories.
async fn under_load(
    name: &str,
    replicas: usize,
    seed: u64,
    trouble: impl AsyncFnOnce(&Rc<Cluster>, &Trouble),
) {
    let cluster = Cluster::start(name, replicas, &small(), seed).await;
    let load = Load::start(&cluster, Mix::LIGHT, seed).await;
    let began = Instant::now();
    let track = Trouble::new(&cluster, POWERS, seed);
    trouble(&cluster, &track).await;
    cluster.heal();
    // Service goes on: something is answered that was not yet.
    let answered = load.answered();
    let goes_on = track.wait(WHOLE, || load.answered() > answered + 100).await;
    assert!(goes_on, "the load stands still after the trouble");
    let took = began.elapsed();
    let rows = load.finish(&cluster).await;
    let mut summary = Summary::default();
    summary.add(rows, &Book::default(), took);
    assert_eq!(summary.anomalies(), 0, "{}", summary.text());
    assert!(summary.idle().is_empty(), "{:?}", summary.idle());
    cluster.end().await;
}

/// No command is answered while `during` lasts.
async fn serves_nobody(cluster: &Cluster, during: Duration) {
    let deadline = Instant::now() + during;
    let mut clients: Vec<Caller> = (0..cluster.replicas())
        .map(|at| caller(cluster, at))
        .collect();
    while Instant::now() < deadline {
        for client in &mut clients {
            for command in [incr(), command(&["GET", "probe"])] {
                let outcomes = client.batch(&[command]).await;
                assert!(
                    !matches!(outcomes[0], Outcome::Answered(..)),
                    "answered without a quorum: {outcomes:?}"
                );
            }
        }
    }
}

#[test]
fn a_majority_killed_halts_the_cluster_and_it_says_so() {
    let name = "scenarios::a_majority_killed_halts_the_cluster_and_it_says_so";
    run(name, LIMIT, |seed| async move {
        let cluster = Cluster::start("majority", 3, &small(), seed).await;
        let mut client = caller(&cluster, 0);
        let reply = client.insist(&incr(), WHOLE).await;
        assert_eq!(reply, Some(Reply::Integer(1)));
        cluster.kill(1).await;
        cluster.kill(2).await;
        let survivor = cluster.direct(0).expect("it was spared").admin;
        let reason = async {
            loop {
                let (code, text) = local::get(&survivor, "/readyz").await.expect("an answer");
                if code == 503 && text.to_ascii_lowercase().contains("quorum") {
                    return text;
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        let reason = timeout(WHOLE, reason).await.expect("it notices");
        say(&format!("the survivor says: {}", reason.trim()));
        serves_nobody(&cluster, LONG).await;
        // Those that come back are empty, and two empty ones with one full one are no majority.
        cluster.revive(1).await;
        cluster.revive(2).await;
        serves_nobody(&cluster, LONG).await;
        for replica in [1, 2] {
            let status = cluster.status(replica).await.expect("it runs");
            assert!(!status.ready && status.role == "none", "{status:?}");
            assert!(!status.reason.is_empty());
        }
        cluster.end().await;
    });
}

#[test]
fn after_the_loss_of_all_memories_nothing_is_served_ever_again() {
    let name = "scenarios::after_the_loss_of_all_memories_nothing_is_served_ever_again";
    run(name, LIMIT, |seed| async move {
        let cluster = Cluster::start("total-loss", 3, &small(), seed).await;
        let mut client = caller(&cluster, 0);
        assert!(client.insist(&incr(), WHOLE).await.is_some());
        for replica in 0..3 {
            cluster.kill(replica).await;
        }
        for replica in 0..3 {
            cluster.revive(replica).await;
        }
        serves_nobody(&cluster, LONG).await;
        for status in cluster.statuses().await {
            let status = status.expect("it runs");
            assert_eq!((status.ready, status.commit), (false, 0), "{status:?}");
        }
        cluster.end().await;
    });
}

#[test]
fn one_dead_backup_is_borne_without_it() {
    let name = "scenarios::one_dead_backup_is_borne_without_it";
    run(name, LIMIT, |seed| async move {
        let cluster = Cluster::start("dead-backup", 3, &small(), seed).await;
        let (primary, _) = cluster.primary().await.expect("a whole cluster");
        let victim = (primary + 1) % 3;
        let mut client = caller(&cluster, primary);
        let before = client.insist(&incr(), WHOLE).await.expect("served");
        let (killed, status) = cluster.kill(victim).await;
        assert_eq!(status.code(), None, "it was a signal");
        let outcome = client.batch(&[incr()]).await;
        let gap = killed.elapsed();
        let Outcome::Answered(after, _) = &outcome[0] else {
            panic!("{outcome:?} with two of three replicas");
        };
        assert_eq!(after.number(), before.number().map(|number| number + 1));
        assert!(gap < Duration::from_secs(2), "{gap:?}");
        for number in 0..200 {
            let outcome = client.batch(&[incr()]).await;
            assert!(matches!(outcome[0], Outcome::Answered(..)), "{number}");
        }
        cluster.end().await;
    });
}

#[test]
fn flipped_bits_are_noticed_by_whoever_receives_them() {
    let name = "scenarios::flipped_bits_are_noticed_by_whoever_receives_them";
    run(name, LIMIT, |seed| async move {
        under_load("flips", 3, seed, async |cluster, track| {
            for _ in 0..20 {
                for (from, to) in [(0, 1), (1, 0), (2, 0), (0, 2), (1, 2), (2, 1)] {
                    cluster.wire(from, to).flip(1);
                }
                sleep(track.milliseconds(5, 30)).await;
            }
            let flipped: u64 = cluster
                .peer_links()
                .iter()
                .map(|link| link.up.flipped.get() + link.down.flipped.get())
                .sum();
            let mut noticed = 0;
            for replica in 0..3 {
                let names = ["frames_bad", "streams_lost", "hello_refused"]
                    .map(|event| format!("vsr_connection_events_total{{event=\"{event}\"}}"));
                let names = [&*names[0], &*names[1], &*names[2]];
                noticed += cluster.metrics(replica, names).await.iter().sum::<u64>();
            }
            say(&format!("{flipped} bits flipped, {noticed} times noticed"));
            // Several flips may end in one stream that is given up, but not all of them.
            assert!(flipped >= 20 && noticed >= flipped / 4);
        })
        .await;
    });
}

#[test]
fn a_replica_out_of_descriptors_takes_connections_again_when_it_has_some() {
    let name = "scenarios::a_replica_out_of_descriptors_takes_connections_again_when_it_has_some";
    run(name, LIMIT, |seed| async move {
        let cluster = Cluster::start_limited("descriptors", 3, &small(), seed, 64).await;
        let target = cluster.direct(1).expect("it runs");
        let ping = command(&["PING"]);
        let mut held = Vec::new();
        let mut starved = 0;
        for _ in 0..100 {
            let mut wire = Wire::connect(&target.resp).await.expect("the backlog");
            match timeout(Duration::from_millis(50), wire.call(&ping)).await {
                Ok(Ok(Reply::Simple(_))) => {}
                Ok(_) | Err(_) => starved += 1,
            }
            held.push(wire);
            if starved == 5 {
                break;
            }
        }
        assert_eq!(starved, 5, "64 descriptors are enough for 100 connections");
        // Peers and other clients do not notice.
        let mut client = caller(&cluster, 0);
        for _ in 0..100 {
            let outcome = client.batch(&[incr()]).await;
            assert!(matches!(outcome[0], Outcome::Answered(..)), "{outcome:?}");
        }
        drop(held);
        let again = async {
            loop {
                let mut wire = Wire::connect(&target.resp).await.expect("it listens");
                if let Ok(Ok(reply)) = timeout(LONG, wire.call(&ping)).await {
                    return reply;
                }
            }
        };
        let reply = timeout(WHOLE, again).await.expect("it takes connections");
        assert_eq!(reply, Reply::Simple("PONG".into()));
        cluster.until_whole().await;
        cluster.end().await;
    });
}

/// The proof that the harness can fail: what `READONLY` allows is exactly what the checker forbids.
#[test]
fn a_stale_read_from_a_replica_that_is_cut_off_is_found_by_the_checker() {
    let name = "scenarios::a_stale_read_from_a_replica_that_is_cut_off_is_found_by_the_checker";
    run(name, LIMIT, |seed| async move {
        let cluster = Cluster::start("stale", 3, &small(), seed).await;
        let (primary, _) = cluster.primary().await.expect("a whole cluster");
        let backup = (primary + 1) % 3;
        let mut client = caller(&cluster, primary);
        let mut events = Vec::new();
        let write = async |client: &mut Caller, value: u64| {
            let start = client.now();
            let set = command(&["SET", "register", &value.to_string()]);
            assert!(client.insist(&set, WHOLE).await.is_some_and(|r| r.is_ok()));
            let (end, action) = (client.now(), Action::Write(value));
            Event { start, end, action }
        };
        events.push(write(&mut client, 1).await);
        // The backup has executed the first write.
        let op = cluster.status(primary).await.expect("it runs").commit;
        cluster
            .until("the backup has caught up", WHOLE, |statuses| {
                statuses[backup].as_ref().is_some_and(|s| s.applied >= op)
            })
            .await;
        for other in (0..3).filter(|other| *other != backup) {
            cluster.wire(other, backup).block(true);
            cluster.wire(backup, other).block(true);
        }
        events.push(write(&mut client, 2).await);
        let address = cluster.direct(backup).expect("it runs").resp;
        let mut wire = Wire::connect(&address).await.expect("its RESP port");
        let switched = wire.call(&command(&["READONLY"])).await.expect("answered");
        assert!(switched.is_ok(), "{switched:?}");
        let start = client.now();
        let read = wire.call(&command(&["GET", "register"])).await;
        let value = read.expect("answered").number().expect("a number") as u64;
        let (end, action) = (client.now(), Action::Read(value));
        assert_eq!(value, 1, "it was cut off before the second write");
        let fine = register::check("r", BTreeMap::from([(0, events.clone())]));
        assert_eq!(fine.anomalies, 0);
        events.push(Event { start, end, action });
        let stale = register::check("r", BTreeMap::from([(0, events)]));
        assert_eq!(stale.anomalies, 1);
        cluster.end().await;
    });
}
