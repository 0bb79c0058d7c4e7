//! `vsr-node demo`: three replicas, load, the primary killed in the middle and brought back empty, and a
//! look whether everything that was promised was kept.
//!
//! The replicas are processes of their own on free loopback ports; clients are spread over all three,
//! so two thirds of the commands go through a backup. Halfway the primary is ended with SIGKILL and its
//! process started again with nothing, while the load goes on. When it has got everything back from the
//! others, every register and counter is read through it and through another replica, the whole history
//! is checked, and the digests of all replicas are compared at one op.

mod history;
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
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::inspect::{Digest, Status};
use crate::local::{LocalCluster, LocalError, Member, free_members, say};
use load::{Book, CONNECTIONS, PIPELINE, VALUE_SIZE};
use report::{Outcome, Story, grouped};

/// How many replicas.
const REPLICAS: usize = 3;

/// Enough for the demo's keys, and little enough for any machine.
const SETTINGS: [(&str, &str); 5] = [
    ("no-prefault", "on"),
    ("memory", "64MiB"),
    ("journal-size", "64MiB"),
    ("log-level", "error"),
    // On a slow machine, too, what is in flight while the primary changes is answered in the end.
    ("client-timeout", "30s"),
];

/// How long the replicas may take to come to one op after the load.
const SETTLE: Duration = Duration::from_secs(20);

/// How long the killed replica may take until it takes part again, and how long clients may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that will change by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why the demo could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The cluster did not come about or did not stay.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A client of the verification lost its connection.
    #[error("a client lost its connection: {0}")]
    Client(#[from] io::Error),
    /// Nobody led the cluster when the primary was to be killed.
    #[error("no replica leads, so there is no primary to kill")]
    NoPrimary,
    /// The killed replica did not come back.
    #[error("R{replica} was killed and has not recovered within {} s: {reason}", PATIENCE.as_secs())]
    NotRecovered {
        /// Which one.
        replica: usize,
        /// What it says itself.
        reason: String,
    },
    /// Clients wait for answers that do not come.
    #[error("some clients were still waiting {} s after the end of the load", PATIENCE.as_secs())]
    Stuck,
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
        let Member {
            native,
            resp,
            admin,
        } = member;
        say(&format!(
            "  R{index}  native {native}  resp {resp}  admin {admin}"
        ));
    }
    say(&format!("Formed cluster {}.\n", formed.cluster));
    say(&format!(
        "Load for {seconds} s: {CONNECTIONS} Redis connections spread over all replicas, {PIPELINE} commands in \
         flight each,\nhalf SET ({VALUE_SIZE} bytes), a fifth INCR of shared counters, the rest GET. Halfway the \
         primary is killed."
    ));
    let start = Instant::now();
    let (book, story) = LocalSet::new()
        .run_until(drive(&mut cluster, Duration::from_secs(seconds)))
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    let (victim, other) = (story.victim, (story.victim + 1) % REPLICAS);
    say(&format!(
        "Reading everything back through R{victim}, which was killed, and through R{other}."
    ));
    let mut verdict = load::verify(&book, &members[victim].resp).await?;
    let second = load::verify(&book, &members[other].resp).await?;
    verdict.lost = verdict.lost.max(second.lost);
    verdict.doubled = verdict.doubled.max(second.doubled);
    say("Comparing the digests of all replicas at one op.");
    let statuses = settle(&mut cluster).await?;
    let ends = cluster.stop().await;
    let stopped_well = ends
        .iter()
        .all(|end| end.as_ref().is_ok_and(std::process::ExitStatus::success));
    Ok(summary(&Outcome {
        anomalies: book.anomalies(),
        book,
        verdict,
        story,
        statuses,
        seconds,
        stopped_well,
    }))
}

/// Runs the load, kills the primary in the middle of it, and shows how far everything is.
async fn drive(cluster: &mut LocalCluster, length: Duration) -> Result<(Book, Story), DemoError> {
    let book = Rc::new(RefCell::new(Book::new(REPLICAS)));
    let start = Instant::now();
    let addresses: Rc<[String]> = cluster.members().iter().map(|m| m.resp.clone()).collect();
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        clients.spawn_local(load::run(
            number,
            Rc::clone(&addresses),
            start + length,
            Rc::clone(&book),
        ));
    }
    let progress = RefCell::new(Progress::new(length));
    let note = |text: &str| progress.borrow().note(text);
    let ended = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
    };
    let limited = async {
        timeout(length + PATIENCE, ended)
            .await
            .map_err(|_| DemoError::Stuck)
    };
    let showing = async {
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let operations = book.borrow().writes + book.borrow().reads;
            progress.borrow_mut().show(start.elapsed(), operations);
        }
    };
    let all = async { tokio::try_join!(limited, misfortune(cluster, start, length / 2, &note)) };
    let ((), story) = tokio::select! {
        result = all => result?,
        () = showing => unreachable!("it goes on until the others have ended"),
    };
    progress.borrow().finish();
    let book = Rc::into_inner(book).expect("every client has ended and dropped its share");
    Ok((book.into_inner(), story))
}

/// Ends the primary with SIGKILL `after` the `start`, starts it again with nothing, and waits until it
/// takes part.
async fn misfortune(
    cluster: &mut LocalCluster,
    start: Instant,
    after: Duration,
    note: &impl Fn(&str),
) -> Result<Story, DemoError> {
    sleep_until(start + after).await;
    let leads = |status: &Status| status.role == "primary";
    let before = cluster.statuses().await?;
    let victim = before.iter().position(leads).ok_or(DemoError::NoPrimary)?;
    let killed_at = Instant::now();
    cluster.kill(victim).await?;
    cluster.restart(victim)?;
    note(&format!(
        "  R{victim}, the primary, was killed at op {}; its process starts again, empty.",
        grouped(before[victim].op)
    ));
    let deadline = killed_at + PATIENCE;
    loop {
        cluster.check_alive()?;
        let reason = match cluster.status(victim).await {
            Ok(status) => match status.recovered {
                Some(recovered) if status.ready => {
                    note(&format!(
                        "  R{victim} has recovered; R{} leads view {}.",
                        status.primary, status.view
                    ));
                    return Ok(Story {
                        victim,
                        successor: status.primary,
                        view: status.view,
                        whole_after: killed_at.elapsed(),
                        recovered,
                    });
                }
                _ => status.reason,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(DemoError::NotRecovered {
                replica: victim,
                reason,
            });
        }
        sleep(LOOK_AGAIN).await;
    }
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

    /// Something that happened, above the bar.
    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
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
        .map(|status| status.sequence.op)
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
        sleep(LOOK_AGAIN).await;
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
        "All is well: nothing lost, nothing doubled, the history is linearizable, all replicas equal.\n\n\
         Next: `vsr-node dev` keeps such a cluster up for you; then `redis-cli -p 6379`."
    } else {
        "Something is WRONG; see above. Please report it with this output."
    });
    good
}
