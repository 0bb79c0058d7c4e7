//! What a client of the load generator does: connect, send a batch, wait for its answers.
//!
//! [`work`] is the same for every protocol; a [`Load`] knows one. A broken connection costs the
//! commands that were in flight, which are counted as failed, and is made again after a pause: the
//! generator goes on as users' programs would.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::bench::pacer::Pacer;
use crate::bench::plan::Schedule;
use crate::bench::recorder::Recorder;

/// The pause after the first failure; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// One client's side of a protocol.
pub(crate) trait Load {
    /// Connects, if it is not connected.
    ///
    /// # Errors
    /// Why not, in words.
    async fn connect(&mut self) -> Result<(), String>;

    /// Sends one batch and counts its answers, those that come with an error among them.
    ///
    /// # Errors
    /// A short name for the failure. The connection is unusable then.
    async fn batch(
        &mut self,
        intended: Instant,
        recorder: &RefCell<Recorder>,
    ) -> Result<(), &'static str>;

    /// How many commands of the current batch have not been counted.
    fn missing(&self) -> u64;

    /// Forgets the connection.
    fn disconnect(&mut self);
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// When batches start.
    pub(crate) schedule: Schedule,
    /// What is counted.
    pub(crate) recorder: RefCell<Recorder>,
    /// How long a batch may take.
    pub(crate) timeout: Duration,
    /// Commands in a batch.
    pub(crate) pipeline: u32,
}

/// Sends batches until the schedule ends.
pub(crate) async fn work<L: Load>(mut load: L, mut pacer: Pacer, shared: Rc<Shared>) {
    let mut backoff = BACKOFF_MIN;
    while let Some(intended) = shared.schedule.next(Instant::now()) {
        let outcome = match pacer.until(intended).await {
            Ok(()) => attempt(&mut load, intended, &shared).await,
            Err(_) => Err("timer"),
        };
        let Err(kind) = outcome else {
            backoff = BACKOFF_MIN;
            continue;
        };
        let missing = load.missing();
        load.disconnect();
        shared
            .recorder
            .borrow_mut()
            .failed(kind, Instant::now(), missing);
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn attempt<L: Load>(
    load: &mut L,
    intended: Instant,
    shared: &Shared,
) -> Result<(), &'static str> {
    let batch = async {
        load.connect().await.map_err(|_| "connect")?;
        load.batch(intended, &shared.recorder).await
    };
    tokio::time::timeout(shared.timeout, batch)
        .await
        .unwrap_or(Err("timeout"))
}
