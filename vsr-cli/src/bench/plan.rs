//! What a run will do, and when each of its batches starts.
//!
//! A *closed* loop starts a batch when the one before is answered: it measures how fast the cluster
//! can go, but it slows down together with the cluster, so its latencies say little about what users
//! who do not wait for one another would see (coordinated omission). An *open* loop has a timetable:
//! batch k starts at `start + k * interval`. Whichever client is free takes the next place in the
//! timetable; when all are busy, the batch starts late, and is measured from the time in the
//! timetable all the same. So a stall shows up in every batch that it delayed.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The parameters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Connections.
    pub(crate) clients: u32,
    /// Commands in a batch.
    pub(crate) pipeline: u32,
    /// Bytes of a value.
    pub(crate) size: usize,
    /// Different keys.
    pub(crate) keys: u64,
    /// The share of reads, 0 to 1.
    pub(crate) reads: f64,
    /// Commands per second, in an open loop.
    pub(crate) rate: Option<f64>,
    /// Before measuring.
    pub(crate) warmup: Duration,
    /// While measuring.
    pub(crate) duration: Duration,
    /// How long a batch may take.
    pub(crate) timeout: Duration,
    /// `WAIT` for this many replicas after each batch.
    pub(crate) wait: Option<u32>,
    /// Seeds the choice of keys.
    pub(crate) seed: u64,
}

/// The timetable of a run.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    measure_from: Instant,
    end: Instant,
    open: Option<Timetable>,
}

#[derive(Debug)]
struct Timetable {
    /// Seconds between two batches.
    interval: f64,
    /// The place that the next free client takes.
    next: Cell<u64>,
    /// How many places there are.
    places: u64,
}

impl Schedule {
    /// The timetable of `plan`, beginning at `start`.
    pub(crate) fn new(plan: &Plan, start: Instant) -> Self {
        let length = plan.warmup + plan.duration;
        let timetable = |rate: f64| {
            let interval = f64::from(plan.pipeline) / rate;
            let places = (length.as_secs_f64() / interval).ceil().max(1.0);
            // Saturates; a run of 2^64 batches does not end anyway.
            Timetable {
                interval,
                next: Cell::new(0),
                places: places as u64,
            }
        };
        Self {
            start,
            measure_from: start + plan.warmup,
            end: start + length,
            open: plan.rate.map(timetable),
        }
    }

    /// When the run began.
    pub(crate) const fn start(&self) -> Instant {
        self.start
    }

    /// When measuring begins.
    pub(crate) const fn measure_from(&self) -> Instant {
        self.measure_from
    }

    /// When the last batch may start.
    pub(crate) const fn end(&self) -> Instant {
        self.end
    }

    /// When the next batch of a client that is free at `now` should start: in the past if it is
    /// late. None when the run is over.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        if now >= self.end {
            return None;
        }
        let Some(timetable) = &self.open else {
            return Some(now);
        };
        let place = timetable.next.get();
        if place >= timetable.places {
            return None;
        }
        timetable.next.set(place + 1);
        Some(self.start + Duration::from_secs_f64(timetable.interval * place as f64))
    }

    /// The times of the batches that should have started, but for which no client was ever free.
    pub(crate) fn missed(&self) -> impl Iterator<Item = Instant> + '_ {
        self.open.iter().flat_map(move |timetable| {
            (timetable.next.get()..timetable.places).map(move |place| {
                self.start + Duration::from_secs_f64(timetable.interval * place as f64)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn plan(rate: Option<f64>) -> Plan {
        Plan {
            clients: 2,
            pipeline: 4,
            size: 16,
            keys: 10,
            reads: 0.5,
            rate,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            wait: None,
            seed: 1,
        }
    }

    #[test]
    fn a_closed_loop_starts_at_once_until_the_end() {
        let start = Instant::now();
        let schedule = Schedule::new(&plan(None), start);
        for millis in [0, 500, 2999] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(schedule.next(now), Some(now));
        }
        assert_eq!(schedule.next(start + Duration::from_secs(3)), None);
        assert_eq!(schedule.missed().count(), 0);
    }

    #[test]
    fn an_open_loop_starts_by_the_timetable_however_late_it_is() {
        let start = Instant::now();
        // 400 commands per second in batches of 4: one batch every 10 ms.
        let schedule = Schedule::new(&plan(Some(400.0)), start);
        let late = start + Duration::from_secs(2);
        for place in 0..5 {
            let intended = schedule.next(late).expect("not over");
            let expected = start + Duration::from_millis(10 * place);
            let error = intended.max(expected) - intended.min(expected);
            assert!(
                error < Duration::from_micros(1),
                "place {place} is off by {error:?}"
            );
        }
        assert_eq!(
            schedule.next(start + Duration::from_secs(3)),
            None,
            "the end is the end"
        );
        assert_eq!(
            schedule.missed().count(),
            300 - 5,
            "three seconds have 300 places"
        );
        assert!(schedule.missed().all(|intended| intended < schedule.end()));
    }
}
