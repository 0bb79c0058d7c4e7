//! How long an empty replica takes to get its state back, against a plain stream over loopback, and what
//! clients notice of it.
//!
//! Two things happen one after the other, and are told apart. First the process takes the memory that it
//! promises to have: the kernel's work, compared with a plain loop that touches as much. Then it
//! answers, finds out who it is, and takes over the state.

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

/// How long this machine takes to hand out `size` bytes of memory.
fn plain_touch(size: usize) -> Duration {
    let began = std::time::Instant::now();
    let mut memory = vec![0_u8; size];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&mut memory);
    began.elapsed()
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
    times: RefCell<Times>,
    stop: Cell<bool>,
}

/// When a batch was answered, and how long it took.
type Times = Vec<(Instant, Duration)>;

/// What clients have noticed during some time.
#[derive(Clone, Debug)]
struct Seen {
    /// Commands per second.
    rate: f64,
    p99: Duration,
    /// The rate in each [`SLICE`].
    slices: Vec<u64>,
}

impl Seen {
    /// Between two instants.
    fn between(times: &Times, from: Instant, to: Instant) -> Self {
        let during = to.duration_since(from);
        let mut slices = vec![0; during.as_millis().div_ceil(SLICE.as_millis()) as usize];
        let mut durations = Vec::new();
        for (at, duration) in times {
            if *at < from || *at >= to {
                continue;
            }
            durations.push(*duration);
            let slice = at.duration_since(from).as_millis() / SLICE.as_millis();
            if let Some(count) = slices.get_mut(slice as usize) {
                *count += PIPELINE as u64 * 1000 / SLICE.as_millis() as u64;
            }
        }
        let commands = (durations.len() * PIPELINE) as f64;
        durations.sort_unstable();
        Self {
            rate: commands / during.as_secs_f64(),
            p99: quantile(&durations, 0.99),
            slices,
        }
    }

    /// In words, compared with what was before.
    fn against(&self, before: &Self) -> String {
        let share = 100.0 * self.rate / before.rate;
        format!("{:.0}/s ({share:.0} %), p99 {:.1?}", self.rate, self.p99)
    }
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

/// The phases of a measurement.
struct Phases {
    /// How long the killed replica took to answer anybody.
    up: Duration,
    /// And to take part.
    took: Duration,
    before: Seen,
    dead: Seen,
    starting: Seen,
    transfer: Seen,
    whole: Seen,
    after: Seen,
}

/// Kills a replica, brings it back empty, and watches.
async fn watched(cluster: &Cluster, victim: usize, watch: &Watch) -> Phases {
    sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    sleep(BEFORE).await;
    cluster.kill(victim).await;
    let killed = Instant::now();
    sleep(DEAD).await;
    let revived = Instant::now();
    cluster.revive(victim).await;
    let answers = Instant::now();
    cluster
        .until("the empty replica takes part", WHOLE * 4, |statuses| {
            statuses[victim].as_ref().is_some_and(|status| status.ready)
        })
        .await;
    let ready = Instant::now();
    sleep(BEFORE).await;
    let end = Instant::now();
    let times = watch.times.take();
    let seen = |from, to| Seen::between(&times, from, to);
    Phases {
        up: answers - revived,
        took: ready - revived,
        before: seen(began, began + BEFORE),
        dead: seen(killed, revived),
        starting: seen(revived, answers),
        transfer: seen(answers, ready),
        whole: seen(revived, ready),
        after: seen(ready, end),
    }
}

async fn one_size(size: usize) {
    let memory = (size + size / 2).max(64 << 20) + (64 << 20);
    let mut settings = vec![
        ("log-level", "info".to_owned()),
        ("memory", format!("{memory}B")),
    ];
    if let Some(mebibytes) = setting("VSR_HARNESS_TRANSFER_MIB") {
        settings.push(("transfer-rate", format!("{mebibytes}MiB")));
    }
    let cluster = Cluster::start_plain("recovery", 3, &settings).await;
    fill(&cluster, size).await;
    let plain = plain_stream(1 << 30);
    let touch = plain_touch(memory);
    let (primary, _) = cluster.primary().await.expect("a whole cluster");
    let victim = (primary + 1) % 3;
    let spared: Vec<usize> = (0..3).filter(|replica| *replica != victim).collect();
    let watch = Rc::new(Watch::default());
    let tasks = clients(&cluster, &spared, &watch);
    let phases = watched(&cluster, victim, &watch).await;
    watch.stop.set(true);
    for task in tasks {
        task.await.expect("no client panics");
    }
    report(size, memory, plain, touch, &phases);
    cluster.end().await;
}

fn report(size: usize, memory: usize, plain: f64, touch: Duration, phases: &Phases) {
    let gibi = (1u64 << 30) as f64;
    let &Phases { up, took, .. } = phases;
    let before = &phases.before;
    let speed = size as f64 / (took - up).as_secs_f64();
    say(&format!(
        "{:>5} MiB  {took:>7.2?} = {up:.2?} until the process answers ({touch:.2?} to touch an arena of {} MiB) \
         + {:.2?} of transfer: {:.2} GiB/s, {:.0} % of a plain stream ({:.2} GiB/s)",
        size >> 20,
        memory >> 20,
        took - up,
        speed / gibi,
        100.0 * speed / plain,
        plain / gibi,
    ));
    say(&format!(
        "           before       {:.0}/s, p99 {:.1?}",
        before.rate, before.p99
    ));
    for (phase, seen) in [
        ("one dead", &phases.dead),
        ("starting", &phases.starting),
        ("transfer", &phases.transfer),
        ("both", &phases.whole),
        ("after", &phases.after),
    ] {
        let seen = seen.against(before);
        say(&format!("           {phase:<12} {seen}"));
    }
    for (phase, seen) in [
        ("one dead", &phases.dead),
        ("starting", &phases.starting),
        ("transfer", &phases.transfer),
    ] {
        say(&format!(
            "           {phase:<12} in slices of {SLICE:?}: {:?}",
            seen.slices
        ));
    }
}

/// `VSR_HARNESS_MIB` measures one size instead of 0, 256 and 1024 MiB, `VSR_HARNESS_TRANSFER_MIB` with
/// another rate than the default.
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
