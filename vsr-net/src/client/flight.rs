//! A request or query on its way: the bytes, who waits for the answer, and when to send them again.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ClientError, Reply};
use crate::{Backoff, Random};

/// What a caller wants done.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) bytes: Vec<u8>,
    pub(super) is_query: bool,
    pub(super) answer: oneshot::Sender<Result<Reply, ClientError>>,
    pub(super) deadline: Instant,
}

/// Somebody who waits for an answer, but not for ever.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) answer: oneshot::Sender<Result<Reply, ClientError>>,
    pub(super) deadline: Instant,
}

impl Waiter {
    pub(super) fn tell(self, result: Result<Reply, ClientError>) {
        // Whoever dropped the future does not want to know.
        drop(self.answer.send(result));
    }
}

/// How soon a replica that said "not now" is asked again: queues empty within milliseconds, and a change
/// of view takes a fraction of a second.
const NOT_NOW: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// One sealed frame that is sent until it is answered.
#[derive(Debug)]
pub(super) struct Flight {
    /// The same bytes at every attempt.
    pub(super) frame: Vec<u8>,
    /// None for a register, and once the caller was told of the time-out: the session cannot go on
    /// before the request is answered, so it stays in flight.
    pub(super) waiter: Option<Waiter>,
    /// When to send it again.
    pub(super) retry_at: Instant,
    /// How often it was sent.
    pub(super) attempts: u32,
    backoff: Backoff,
    not_now: Backoff,
}

impl Flight {
    pub(super) fn new(
        frame: Vec<u8>,
        waiter: Option<Waiter>,
        (retry_min, retry_max): (Duration, Duration),
        seed: u64,
    ) -> Self {
        Self {
            frame,
            waiter,
            retry_at: Instant::now(),
            attempts: 0,
            backoff: Backoff::new(retry_min, retry_max, Random::new(seed)),
            not_now: Backoff::new(NOT_NOW.0, NOT_NOW.1, Random::new(!seed)),
        }
    }

    /// It was written once more.
    pub(super) fn sent(&mut self, now: Instant) {
        self.attempts += 1;
        self.retry_at = now + self.backoff.next_delay();
    }

    /// A replica cannot take it now: again, soon.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.retry_at = now + self.not_now.next_delay();
    }

    /// Tells the caller if the time is up; the frame stays in flight.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration) {
        let is_late = self
            .waiter
            .as_ref()
            .is_some_and(|waiter| waiter.deadline <= now);
        if is_late && let Some(waiter) = self.waiter.take() {
            let sent = self.attempts > 0;
            waiter.tell(Err(ClientError::Timeout {
                after: timeout,
                sent,
            }));
        }
    }
}
