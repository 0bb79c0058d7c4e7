//! How long an empty replica takes to get its state back, against a plain stream over loopback, and what
//! clients notice of it.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use super::quantile;
use crate::cluster::{Cluster, WHOLE};
use crate::resp::{Wire, command};
use crate::summary::say;
use crate::{POWERS, run, setting};

/// The size of a value of the state.
const VALUE: usize = 64 << 10;
/// How long clients are watched before the kill.
const BEFORE: Duration = Duration::from_secs(4);
/// How long the killed replica stays away.
const DEAD: Duration = Duration::from_secs(2);
/// Connections of the clients, and what each sends at once.
const CLIENTS: usize = 12;
const PIPELINE: usize = 8;
/// How finely the rate is shown.
const SLICE: Duration = Duration::from_millis(100);

/// Bytes per second of one TCP connection over loopback, with nothing else to do.
fn plain_stream(size: usize) -> f64 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let sender = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("listening");
        let chunk = vec![7; 256 << 10];
        for _ in 0..size / chunk.len() {
            stream.write_all(&chunk).expect("somebody reads");
        }
    });
    let (mut stream, _) = listener.accept().expect("somebody connects");
    let began = std::time::Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received += count;
    }
    sender.join().expect("it does not panic");
    received as f64 / began.elapsed().as_secs_f64()
}

/// Fills the cluster with `size` bytes of values.
async fn fill(cluster: &Cluster, size: usize) {
    let (primary, _) = cluster.primary().await.expect("a whole cluster");
    let address = cluster.direct(primary).expect("it runs").resp;
    let mut wire = Wire::connect(&address).await.expect("its RESP port");
    let value = vec![b'v'; VALUE];
    let keys: Vec<usize> = (0..size / VALUE).collect();
    for some in keys.chunks(16) {
        let mut bytes = Vec::new();
        for key in some {
            command(&[b"SET".as_slice(), format!("fill:{key}").as_bytes(), &value])
                .encode(&mut bytes);
        }
        wire.send(&bytes).await.expect("sent");
        for _ in some {
            let reply = wire.reply().await.expect("answered");
            assert!(reply.is_ok(), "{reply:?}");
        }
    }
}

/// What clients notice: how long each batch took, in the phase they are in.
#[derive(Debug, Default)]
struct Watch {
    times: RefCell<Vec<(Instant, Duration)>>,
    stop: Cell<bool>,
}

impl Watch {
    /// What was seen since the last call, which is `during` ago.
    fn take(&self, during: Duration) -> Seen {
        let times = self.times.take();
        let from = Instant::now() - during;
        let mut slices = vec![0; during.as_millis().div_ceil(SLICE.as_millis()) as usize];
        for (at, _) in &times {
            let slice = (*at - from).as_millis() / SLICE.as_millis();
            if let Some(count) = slices.get_mut(slice as usize) {
                *count += PIPELINE as u64 * 1000 / SLICE.as_millis() as u64;
            }
        }
        let commands = (times.len() * PIPELINE) as f64;
        let mut times: Vec<Duration> = times.into_iter().map(|(_, time)| time).collect();
        times.sort_unstable();
        Seen {
            rate: commands / during.as_secs_f64(),
            p99: quantile(&times, 0.99),
            slices,
        }
    }
}

/// What clients have noticed during some time.
#[derive(Clone, Debug)]
struct Seen {
    /// Commands per second.
    rate: f64,
    p99: Duration,
    /// The rate in each [`SLICE`].
    slices: Vec<u64>,
}

async fn client(address: String, number: usize, watch: Rc<Watch>) {
    let mut wire = Wire::connect(&address).await.expect("its RESP port");
    let mut bytes = Vec::new();
    for index in 0..PIPELINE {
        let key = format!("client:{number}:{index}");
        let value = [b'c'; 128];
        command(&[b"SET".as_slice(), key.as_bytes(), &value]).encode(&mut bytes);
    }
    while !watch.stop.get() {
        let began = Instant::now();
        wire.send(&bytes).await.expect("its replica was spared");
        for _ in 0..PIPELINE {
            let reply = wire.reply().await.expect("its replica was spared");
            assert!(reply.is_ok(), "{reply:?}");
        }
        let now = Instant::now();
        watch.times.borrow_mut().push((now, now - began));
    }
}

fn clients(cluster: &Cluster, spared: &[usize], watch: &Rc<Watch>) -> Vec<JoinHandle<()>> {
    (0..CLIENTS)
        .map(|number| {
            let replica = spared[number % spared.len()];
            let address = cluster.direct(replica).expect("it runs").resp;
            spawn_local(client(address, number, Rc::clone(watch)))
        })
        .collect()
}

async fn one_size(size: usize) {
    let memory = (size + size / 2).max(64 << 20) + (64 << 20);
    let settings = [
        ("log-level", "info".to_owned()),
        ("memory", format!("{memory}B")),
    ];
    let cluster = Cluster::start_plain("recovery", 3, &settings).await;
    fill(&cluster, size).await;
    let plain = plain_stream(1 << 30);
    let (primary, _) = cluster.primary().await.expect("a whole cluster");
    let victim = (primary + 1) % 3;
    let spared: Vec<usize> = (0..3).filter(|replica| *replica != victim).collect();
    let watch = Rc::new(Watch::default());
    let tasks = clients(&cluster, &spared, &watch);
    sleep(Duration::from_millis(500)).await;
    watch.take(Duration::from_secs(1));
    sleep(BEFORE).await;
    let before = watch.take(BEFORE);
    cluster.kill(victim).await;
    let dead_since = Instant::now();
    watch.take(Duration::from_secs(1));
    sleep(DEAD).await;
    let dead = watch.take(dead_since.elapsed());
    let began = Instant::now();
    cluster.revive(victim).await;
    let up = began.elapsed();
    cluster
        .until("the empty replica takes part", WHOLE * 4, |statuses| {
            statuses[victim].as_ref().is_some_and(|status| status.ready)
        })
        .await;
    let took = began.elapsed();
    let meanwhile = watch.take(took);
    sleep(BEFORE).await;
    let after = watch.take(BEFORE);
    watch.stop.set(true);
    for task in tasks {
        task.await.expect("no client panics");
    }
    report(
        size,
        (up, took),
        plain,
        [&before, &dead, &meanwhile, &after],
    );
    cluster.end().await;
}

fn report(size: usize, (up, took): (Duration, Duration), plain: f64, seen: [&Seen; 4]) {
    let [before, dead, now, after] = seen;
    let (speed, gibi) = (size as f64 / (took - up).as_secs_f64(), (1u64 << 30) as f64);
    say(&format!(
        "{:>5} MiB  {took:>7.2?} (of it {up:.2?} until the process answers)  {:.2} GiB/s, {:.0} % of a plain \
         stream ({:.2} GiB/s)   clients: {:.0}/s -> {:.0}/s ({:.0} %) -> {:.0}/s, p99 {:.1?} -> {:.1?} -> {:.1?}",
        size >> 20,
        speed / gibi,
        100.0 * speed / plain,
        plain / gibi,
        before.rate,
        now.rate,
        100.0 * now.rate / before.rate,
        after.rate,
        before.p99,
        now.p99,
        after.p99,
    ));
    say(&format!(
        "           one dead: {:.0}/s ({:.0} %), p99 {:.1?}, slices of {SLICE:?}: {:?}",
        dead.rate,
        100.0 * dead.rate / before.rate,
        dead.p99,
        dead.slices
    ));
    say(&format!(
        "           recovering in slices of {SLICE:?}: {:?}",
        now.slices
    ));
}

/// `VSR_HARNESS_MIB` measures one size instead of 0, 256 and 1024 MiB.
#[test]
#[ignore = "a measurement that takes gigabytes, for a release build on a calm machine"]
fn times_by_size() {
    if !POWERS.recovery {
        say("not possible in this version");
        return;
    }
    let name = "measure::recovery::times_by_size";
    run(name, Duration::from_secs(900), |_| async move {
        match setting("VSR_HARNESS_MIB") {
            Some(mebibytes) => one_size((mebibytes as usize) << 20).await,
            None => {
                for mebibytes in [0, 256, 1024] {
                    one_size(mebibytes << 20).await;
                }
            }
        }
    });
}
