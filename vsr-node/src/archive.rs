//! Archives at the end of epochs (N22, R10.4): when the replica asks for one, it is written, and the
//! replica is told, so that the next epoch begins.
//!
//! ```text
//!   turn: archive_due = Some(e) --> run: write(e) --> Ok --> done(e): Input::Archived --> next epoch
//!                                     ^        '---> failed: waits, longer each time, and is visible
//!                                     '--------------'
//! ```
//!
//! Clients wait meanwhile, so what fails is said in the log, in `status` and in the metrics. Who is asked no
//! more while it writes, because another replica leads now, just stops.

use std::cell::RefCell;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use vsr_net::{Backoff, Random};
use vsr_types::Epoch;

/// How long after a failure the next attempt begins.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The same after many of them.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An archive that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Where it is.
    pub path: String,
    /// How many bytes it has.
    pub bytes: u64,
}

/// What became of archives so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The epoch that is being archived.
    pub due: Option<Epoch>,
    /// How many archives were written.
    pub written: u64,
    /// How many attempts failed.
    pub failed: u64,
    /// Why the last attempt failed; none: it did not.
    pub error: Option<String>,
    /// The last archive, and how long writing it took.
    pub last: Option<(Epoch, Written, Duration)>,
}

/// The state of a node's archives.
#[derive(Debug, Default)]
pub struct Archives(RefCell<Report>);

impl Archives {
    /// What became of them so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0.borrow().clone()
    }

    fn begun(&self, epoch: Option<Epoch>) {
        let mut report = self.0.borrow_mut();
        if report.due != epoch {
            report.error = None;
        }
        report.due = epoch;
    }

    fn written(&self, epoch: Epoch, written: &Written, took: Duration) {
        let Written { path, bytes } = written;
        tracing::info!(%epoch, path, bytes, ?took, "archived the epoch");
        let mut report = self.0.borrow_mut();
        report.written += 1;
        report.error = None;
        report.last = Some((epoch, written.clone(), took));
    }

    fn failed(&self, epoch: Epoch, error: String, again_in: Duration) {
        tracing::error!(%epoch, error, ?again_in, "cannot archive the epoch; clients wait");
        let mut report = self.0.borrow_mut();
        report.failed += 1;
        report.error = Some(error);
    }
}

/// Archives whatever `due` asks for, with `write`, and tells `done`, which says whether it was still asked
/// for. Ends when nobody asks any more.
pub async fn run<W: Future<Output = Result<Written, String>>>(
    archives: &Archives,
    mut due: watch::Receiver<Option<Epoch>>,
    write: impl Fn(Epoch) -> W,
    done: impl Fn(Epoch) -> bool,
) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX, Random::from_os());
    loop {
        let asked = *due.borrow_and_update();
        archives.begun(asked);
        let Some(epoch) = asked else {
            backoff.reset();
            if due.changed().await.is_err() {
                return;
            }
            continue;
        };
        let began = Instant::now();
        let result = write(epoch).await;
        let is_asked = *due.borrow() == Some(epoch);
        match result {
            Ok(written) => {
                archives.written(epoch, &written, began.elapsed());
                if done(epoch) {
                    // The replica does not ask for this epoch again.
                    let other = due.wait_for(|asked| *asked != Some(epoch)).await;
                    if other.is_err() {
                        return;
                    }
                    backoff.reset();
                    continue;
                }
            }
            Err(error) if is_asked => {
                let wait = backoff.next_delay();
                archives.failed(epoch, error, wait);
                if let Ok(Err(_)) = timeout(wait, due.changed()).await {
                    return;
                }
                continue;
            }
            // Another replica leads: it archives.
            Err(_) => continue,
        }
        // It was written for nobody: whoever leads now asks its own node.
        if let Ok(Err(_)) = timeout(backoff.next_delay(), due.changed()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    fn written() -> Written {
        Written {
            path: "x".into(),
            bytes: 5,
        }
    }

    const FIRST: Epoch = Epoch::new(7);
    const SECOND: Epoch = Epoch::new(8);

    /// R10.4: what fails is tried again and is seen meanwhile; what succeeds is told once.
    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_archive_that_fails_is_tried_again() {
        let (ask, due) = watch::channel(None);
        let (archives, attempts) = (Archives::default(), Cell::new(0));
        let seen = RefCell::new(Vec::new());
        let told = RefCell::new(Vec::new());
        let write = |epoch| {
            attempts.set(attempts.get() + 1);
            seen.borrow_mut().push(archives.report());
            let result = match attempts.get() {
                1 | 2 => Err(format!("no space for {epoch}")),
                _ => Ok(written()),
            };
            std::future::ready(result)
        };
        let done = |epoch| {
            told.borrow_mut().push(epoch);
            let next = (epoch == FIRST).then_some(SECOND);
            ask.send_replace(next);
            true
        };
        let run = run(&archives, due, write, done);
        ask.send_replace(Some(FIRST));
        assert!(timeout(Duration::from_secs(5), run).await.is_err());
        assert_eq!(*told.borrow(), [FIRST, SECOND]);
        assert_eq!(attempts.get(), 4, "two failures, two archives");
        let seen = seen.borrow();
        assert_eq!((seen[0].due, seen[0].error.clone()), (Some(FIRST), None));
        assert_eq!(seen[1].error.as_deref(), Some("no space for 7"));
        assert_eq!(seen[2].failed, 2);
        let report = archives.report();
        assert_eq!((report.written, report.failed, report.error), (2, 2, None));
        assert_eq!(report.due, None);
        let (epoch, last, _) = report.last.expect("written");
        assert_eq!((epoch, last), (SECOND, written()));
    }

    /// A primary that is deposed while it writes says nothing, and counts no failure.
    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_is_asked_no_more_stops() {
        let (ask, due) = watch::channel(Some(FIRST));
        let ask = Rc::new(ask);
        let archives = Archives::default();
        let write = |_| {
            let ask = Rc::clone(&ask);
            async move {
                ask.send_replace(None);
                Err("the state moved".to_owned())
            }
        };
        let run = run(&archives, due, write, |_| panic!("nothing was written"));
        assert!(timeout(Duration::from_secs(5), run).await.is_err());
        assert_eq!(archives.report(), Report::default());
    }

    /// Nobody asks any more: the node stops.
    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_task_ends_with_the_node() {
        let (ask, due) = watch::channel(None);
        drop(ask);
        let archives = Archives::default();
        let write = |_| std::future::ready(Ok(written()));
        run(&archives, due, write, |_| true).await;
    }
}
