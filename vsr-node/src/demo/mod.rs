//! `vsr-node demo`: three replicas, load, and a look whether everything that was promised was kept.
//!
//! The replicas are processes of their own on free loopback ports; clients are spread over all three,
//! so two thirds of the commands go through a backup. Afterwards every acknowledged write is read
//! back through another replica than it was written through, counters are added up, and the digests
//! of all replicas are compared at one op.

mod load;
mod report;
mod wire;

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::inspect::{Digest, Status};
use crate::local::{LocalCluster, LocalError, free_members, say};
use load::{Book, CONNECTIONS, PIPELINE, VALUE_SIZE};
use report::{Outcome, grouped};

/// How many replicas.
const REPLICAS: usize = 3;

/// Enough for the demo's keys, and little enough for any machine.
const SETTINGS: [(&str, &str); 3] = [
    ("memory", "64MiB"),
    ("journal-size", "64MiB"),
    ("log-level", "error"),
];

/// How long the replicas may take to come to one op after the load.
const SETTLE: Duration = Duration::from_secs(20);

/// Why the demo could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The cluster did not come about or did not stay.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A client lost its connection.
    #[error("a client lost its connection: {0}")]
    Client(#[from] io::Error),
    /// The replicas did not come to one op.
    #[error("the replicas did not take a digest at one op in {seconds} s: {digests:?}", seconds = SETTLE.as_secs())]
    Unsettled {
        /// The newest digest of each.
        digests: Vec<Digest>,
    },
}

/// Runs the demo with the program `program` as the replicas. True: everything was as promised.
///
/// # Errors
/// When it could not be finished.
pub async fn run(program: PathBuf, seconds: u64) -> Result<bool, DemoError> {
    say(&format!(
        "Starting {REPLICAS} replicas, each a process of its own, on free loopback ports."
    ));
    let mut cluster = LocalCluster::spawn(&program, "demo", free_members(REPLICAS)?, &SETTINGS)?;
    let formed = cluster.form().await?;
    let members = cluster.members().to_vec();
    for (index, member) in members.iter().enumerate() {
        say(&format!(
            "  R{index}  native {}  resp {}  admin {}",
            member.native, member.resp, member.admin
        ));
    }
    say(&format!("Formed cluster {}.\n", formed.cluster));
    say(&format!(
        "Load for {seconds} s: {CONNECTIONS} Redis connections spread over all replicas, {PIPELINE} commands in \
         flight each,\nhalf SET ({VALUE_SIZE} bytes), a fifth INCR of shared counters, the rest GET, checked at once."
    ));
    let start = Instant::now();
    let book = LocalSet::new()
        .run_until(drive(&mut cluster, Duration::from_secs(seconds)))
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    say("Reading every acknowledged write back through another replica.");
    let mut verdict = load::verify(&book, &members[1].resp).await?;
    let second = load::verify(&book, &members[2].resp).await?;
    verdict.lost = verdict.lost.max(second.lost);
    verdict.doubled = verdict.doubled.max(second.doubled);
    say("Comparing the digests of all replicas at one op.");
    let statuses = settle(&mut cluster).await?;
    let ends = cluster.stop().await;
    let stopped_well = ends
        .iter()
        .all(|end| end.as_ref().is_ok_and(std::process::ExitStatus::success));
    Ok(summary(&Outcome {
        book,
        verdict,
        statuses,
        seconds,
        stopped_well,
    }))
}

/// Runs the load and shows how far it is.
async fn drive(cluster: &mut LocalCluster, length: Duration) -> Result<Book, DemoError> {
    let book = Rc::new(RefCell::new(Book::new()));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let address = cluster.members()[connection % REPLICAS].resp.clone();
        clients.spawn_local(load::run(
            connection,
            address,
            start + length,
            Rc::clone(&book),
        ));
    }
    let mut progress = Progress::new(length);
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(Ok(result)) => result?,
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => break,
            },
            _ = ticks.tick() => {
                cluster.check_alive()?;
                let book = book.borrow();
                progress.show(start.elapsed(), book.writes + book.reads);
            }
        }
    }
    progress.finish();
    let book = Rc::into_inner(book).expect("every client has ended and dropped its share");
    Ok(book.into_inner())
}

/// A bar on a terminal, a line every two seconds elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    length: Duration,
    shown_at: Duration,
    shown: u64,
}

impl Progress {
    fn new(length: Duration) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {bar:40} {percent:>3} %  {msg}")
                .expect("the template is a constant");
            ProgressBar::new(length.as_millis() as u64).with_style(style)
        });
        Self {
            bar,
            length,
            shown_at: Duration::ZERO,
            shown: 0,
        }
    }

    fn show(&mut self, elapsed: Duration, operations: u64) {
        let every = if self.bar.is_some() {
            Duration::from_millis(500)
        } else {
            Duration::from_secs(2)
        };
        if let Some(bar) = &self.bar {
            bar.set_position(elapsed.min(self.length).as_millis() as u64);
        }
        if elapsed < self.shown_at + every {
            return;
        }
        let rate = (operations - self.shown) as f64 / (elapsed - self.shown_at).as_secs_f64();
        let text = format!(
            "{} operations, {} per second",
            grouped(operations),
            grouped(rate as u64)
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => say(&format!("  {:>3} s  {text}", elapsed.as_secs())),
        }
        (self.shown_at, self.shown) = (elapsed, operations);
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits until all replicas have taken a digest at one op that comes after all of the load.
async fn settle(cluster: &mut LocalCluster) -> Result<Vec<Status>, DemoError> {
    let loaded = cluster
        .statuses()
        .await?
        .iter()
        .map(|status| status.op)
        .max()
        .unwrap_or_default();
    let deadline = Instant::now() + SETTLE;
    loop {
        // Digests are taken as replicated time goes on, and only operations carry it.
        load::tick(&cluster.members()[0].resp).await?;
        let statuses = cluster.statuses().await?;
        let op = statuses[0].digest.op;
        if op > loaded && statuses.iter().all(|status| status.digest.op == op) {
            return Ok(statuses);
        }
        if Instant::now() >= deadline {
            let digests = statuses.into_iter().map(|status| status.digest).collect();
            return Err(DemoError::Unsettled { digests });
        }
        cluster.check_alive()?;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Prints what came out; true: all is well.
fn summary(outcome: &Outcome) -> bool {
    let (table, good) = outcome.table();
    say(&format!("\n{table}"));
    for mistake in &outcome.book.mistakes {
        say(&format!("  {mistake}"));
    }
    say(if good {
        "All is well: nothing lost, nothing doubled, no read went back in time, all replicas equal.\n\
         This version shows normal operation. Killing the primary and bringing it back empty is part\n\
         of the protocol's next version, and so of the demo's.\n\n\
         Next: `vsr-node dev` keeps such a cluster up for you; then `redis-cli -p 6379`."
    } else {
        "Something is WRONG; see above. Please report it with this output."
    });
    good
}
