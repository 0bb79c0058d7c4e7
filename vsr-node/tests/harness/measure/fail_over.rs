//! From SIGKILL of the primary to the next acknowledged write, with default settings.
//!
//! Writers on all replicas, over Redis and over the native client, write one thing after the other. A
//! reply that was already on its way when the primary died is not counted: either the write began after
//! the kill, or its answer came later than any such reply could.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use vsr_net::{Client, ClientOptions};
use vsr_node::kv::{Opcode, OperationBuilder};

use super::line;
use crate::cluster::{Cluster, WHOLE, describe};
use crate::resp::{Wire, command};
use crate::summary::say;
use crate::{POWERS, run, setting};

/// A reply that was on its way has arrived by then; no new primary has been chosen so early.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// Writers of each kind at each replica.
const WRITERS: usize = 2;

/// When the last write of each writer was acknowledged, and when it had begun.
#[derive(Debug, Default)]
struct Acks {
    /// Since when; acknowledgements that do not count for this kill are left out.
    killed: Cell<Option<Instant>>,
    resp: RefCell<Option<Duration>>,
    native: RefCell<Option<Duration>>,
    total: Cell<u64>,
    /// What clients were told instead of an answer, lately.
    last_error: RefCell<String>,
}

impl Acks {
    fn note(&self, first: &RefCell<Option<Duration>>, began: Instant) {
        self.total.set(self.total.get() + 1);
        let Some(killed) = self.killed.get() else {
            return;
        };
        let after = killed.elapsed();
        if began >= killed || after >= ON_ITS_WAY {
            first.borrow_mut().get_or_insert(after);
        }
    }

    fn complain(&self, text: String) {
        self.last_error.replace(text);
    }

    fn begin(&self, killed: Instant) {
        self.resp.take();
        self.native.take();
        self.killed.set(Some(killed));
    }
}

async fn write_resp(address: String, acks: Rc<Acks>) {
    let incr = command(&["INCR", "fail-over"]);
    loop {
        let Ok(mut wire) = Wire::connect(&address).await else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        loop {
            let began = Instant::now();
            match timeout(Duration::from_secs(10), wire.call(&incr)).await {
                Ok(Ok(reply)) if reply.number().is_some() => acks.note(&acks.resp, began),
                Ok(Ok(other)) => {
                    acks.complain(format!("{address}: {other:?}"));
                    sleep(Duration::from_millis(5)).await;
                }
                other => {
                    acks.complain(format!("{address}: {other:?}"));
                    break;
                }
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn write_native(client: Client, acks: Rc<Acks>) {
    let mut operation = OperationBuilder::new(vec![0; 64]);
    operation
        .push(Opcode::Incr, &[b"fail-over"])
        .expect("small");
    loop {
        let began = Instant::now();
        match client.execute(operation.operation()).await {
            Ok(_) => acks.note(&acks.native, began),
            Err(error) => {
                acks.complain(format!("native client: {error}"));
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn writers(cluster: &Cluster, acks: &Rc<Acks>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for address in cluster.resp_addresses().iter() {
        for _ in 0..WRITERS {
            tasks.push(spawn_local(write_resp(address.clone(), Rc::clone(acks))));
        }
    }
    for _ in 0..WRITERS {
        let options = ClientOptions::default();
        let client = Client::connect(&cluster.native_addresses(), options)
            .await
            .expect("a whole cluster");
        tasks.push(spawn_local(write_native(client, Rc::clone(acks))));
    }
    tasks
}

/// Kills the primary `kills` times; the times until the next write over Redis, over the native client,
/// and the time until the killed replica takes part again.
async fn kill(cluster: &Cluster, kills: u64) -> [Vec<Duration>; 3] {
    let acks = Rc::new(Acks::default());
    let tasks = writers(cluster, &acks).await;
    let mut times: [Vec<Duration>; 3] = Default::default();
    for number in 0..kills {
        let before = acks.total.get();
        while acks.total.get() < before + 20 {
            sleep(Duration::from_millis(1)).await;
        }
        let (primary, _) = cluster.primary().await.expect("a whole cluster");
        let (killed, _) = cluster.kill(primary).await;
        acks.begin(killed);
        let answered = async {
            while acks.resp.borrow().is_none() || acks.native.borrow().is_none() {
                sleep(Duration::from_micros(500)).await;
            }
        };
        let served = timeout(WHOLE, answered).await;
        assert!(
            served.is_ok(),
            "kill {number}: no write in {WHOLE:?} of one kind: {acks:?}\n{}",
            describe(&cluster.statuses().await)
        );
        times[0].push(acks.resp.take().expect("seen above"));
        times[1].push(acks.native.take().expect("seen above"));
        acks.killed.set(None);
        let back = Instant::now();
        cluster.revive(primary).await;
        cluster.until_whole().await;
        times[2].push(back.elapsed());
    }
    for task in tasks {
        task.abort();
    }
    times
}

fn measure(name: &str, kills: u64, most: Duration) {
    if !(POWERS.view_change && POWERS.recovery) {
        say(&format!("{name}: not possible in this version"));
        return;
    }
    run(name, Duration::from_secs(60 + 10 * kills), |_| async move {
        let settings = [("log-level", "info".to_owned())];
        let cluster = Cluster::start_plain("fail-over", 3, &settings).await;
        let [mut resp, mut native, mut back] = kill(&cluster, kills).await;
        cluster.end().await;
        say("from SIGKILL of the primary, default settings:");
        say(&line("next write, Redis client", &mut resp));
        say(&line("next write, native client", &mut native));
        say(&line("started again, until whole", &mut back));
        let slowest = resp.iter().chain(&native).max().copied();
        assert!(
            slowest.is_some_and(|slowest| slowest <= most),
            "{slowest:?}"
        );
    });
}

/// The promise is a second; a debug build beside other tests is given more.
#[test]
fn a_killed_primary_is_replaced_soon() {
    let name = "measure::fail_over::a_killed_primary_is_replaced_soon";
    measure(name, 5, Duration::from_secs(5));
}

/// `VSR_HARNESS_KILLS` says how many; 500 by default.
#[test]
#[ignore = "a measurement of several minutes, for a release build on a calm machine"]
fn times_over_many_kills() {
    let kills = setting("VSR_HARNESS_KILLS").unwrap_or(500);
    let name = "measure::fail_over::times_over_many_kills";
    measure(name, kills, Duration::from_secs(1));
}
