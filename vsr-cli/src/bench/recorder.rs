//! What a run found: one histogram and a few counters, shared by all clients of the one thread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Kinds of errors that are counted apart; a server's words must not fill our memory.
const ERROR_KINDS_MAX: usize = 32;
/// The length of one step of the timeline.
pub(crate) const TIMELINE_STEP: Duration = Duration::from_millis(20);
/// The longest timeline that is kept: an hour.
const TIMELINE_STEPS_MAX: usize = 180_000;

/// Counts answers. Latency is counted for what should have started while measuring; throughput for
/// what was answered while measuring.
#[derive(Debug)]
pub(crate) struct Recorder {
    from: Instant,
    to: Instant,
    latency: Histogram<u64>,
    answered: u64,
    total: u64,
    last_answer: Instant,
    longest_gap: Duration,
    errors: BTreeMap<String, u64>,
    unsent: u64,
    /// Answers by the step in which they came.
    timeline: Vec<u64>,
}

impl Recorder {
    /// That measures between two times.
    pub(crate) fn new(from: Instant, to: Instant) -> Self {
        let most = LATENCY_MAX.as_nanos() as u64;
        let latency = Histogram::new_with_bounds(1, most, 3).expect("constant bounds are valid");
        Self {
            from,
            to,
            latency,
            answered: 0,
            total: 0,
            last_answer: from,
            longest_gap: Duration::ZERO,
            errors: BTreeMap::new(),
            unsent: 0,
            timeline: vec![0; steps(from, to).min(TIMELINE_STEPS_MAX)],
        }
    }

    /// `count` commands that should have started at `intended` were answered at `now`.
    pub(crate) fn answered(&mut self, intended: Instant, now: Instant, count: u64) {
        self.total += count;
        if (self.from..self.to).contains(&intended) {
            self.latency
                .saturating_record_n(nanoseconds(intended, now), count);
        }
        if (self.from..self.to).contains(&now) {
            self.answered += count;
            self.gap_until(now);
            let step = now.duration_since(self.from).as_nanos() / TIMELINE_STEP.as_nanos();
            if let Some(answers) = self.timeline.get_mut(step as usize) {
                *answers += count;
            }
        }
    }

    /// `count` commands got no good answer. They are not part of the latencies.
    pub(crate) fn failed(&mut self, kind: &str, now: Instant, count: u64) {
        if now < self.from || count == 0 {
            return;
        }
        let room = self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(kind);
        let kind = if room { kind } else { "other" };
        *self.errors.entry(kind.to_owned()).or_default() += count;
    }

    /// `count` commands that should have started at `intended` were never sent before the end. Their
    /// age enters the latencies: leaving them out would flatter exactly the worst runs.
    pub(crate) fn missed(&mut self, intended: Instant, count: u64) {
        if (self.from..self.to).contains(&intended) {
            self.unsent += count;
            self.latency
                .saturating_record_n(nanoseconds(intended, self.to), count);
        }
    }

    /// The time after the last answer is a gap like any other.
    pub(crate) fn finish(&mut self) {
        self.gap_until(self.to);
    }

    fn gap_until(&mut self, now: Instant) {
        self.longest_gap = self
            .longest_gap
            .max(now.saturating_duration_since(self.last_answer));
        self.last_answer = now;
    }

    /// All latencies, in nanoseconds.
    pub(crate) const fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Answers in each step of [`TIMELINE_STEP`] while measuring.
    pub(crate) fn timeline(&self) -> &[u64] {
        &self.timeline
    }

    /// Answers while measuring.
    pub(crate) const fn answers(&self) -> u64 {
        self.answered
    }

    /// Answers so far, warm-up included.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// The longest time without an answer while measuring.
    pub(crate) const fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// Failed commands by kind.
    pub(crate) const fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// How many failed.
    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Commands of the timetable that were never sent.
    pub(crate) const fn unsent(&self) -> u64 {
        self.unsent
    }
}

fn steps(from: Instant, to: Instant) -> usize {
    let duration = to.saturating_duration_since(from);
    duration.as_nanos().div_ceil(TIMELINE_STEP.as_nanos()) as usize
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    let elapsed = to.saturating_duration_since(from).as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn recorder() -> (Instant, Recorder) {
        let from = Instant::now() + Duration::from_secs(10);
        (from, Recorder::new(from, from + 1000 * MS))
    }

    #[test]
    fn warm_up_and_aftermath_are_not_measured() {
        let (from, mut recorder) = recorder();
        recorder.answered(from - 2 * MS, from - MS, 5);
        recorder.failed("early", from - MS, 5);
        assert_eq!(
            (
                recorder.latency().len(),
                recorder.answers(),
                recorder.total()
            ),
            (0, 0, 5)
        );
        assert_eq!(recorder.errors_total(), 0);
        // Started while measuring, answered after: a latency, but no throughput.
        recorder.answered(from + 999 * MS, from + 1100 * MS, 1);
        assert_eq!((recorder.latency().len(), recorder.answers()), (1, 0));
    }

    #[test]
    fn a_stall_shows_in_every_batch_that_it_delayed() {
        let (from, mut recorder) = recorder();
        // A timetable of one command per millisecond; the server stalls from 100 to 200 ms and then
        // answers everything at once.
        for place in 0..1000 {
            let intended = from + place * MS;
            let stalled = (100..200).contains(&place);
            let now = if stalled {
                from + 200 * MS
            } else {
                intended + MS / 10
            };
            recorder.answered(intended, now, 1);
        }
        recorder.finish();
        let at = |quantile| recorder.latency().value_at_quantile(quantile) as f64 / 1e6;
        assert!(
            (at(0.5) - 0.1).abs() < 0.01,
            "the median is that of the good times: {}",
            at(0.5)
        );
        assert!(
            (at(0.95) - 50.0).abs() < 1.0,
            "half of the delayed waited 50 ms: {}",
            at(0.95)
        );
        assert!(
            (at(0.999) - 99.0).abs() < 2.0,
            "the first one waited for all of it: {}",
            at(0.999)
        );
        assert!(
            recorder.longest_gap() >= 100 * MS,
            "{:?}",
            recorder.longest_gap()
        );
    }

    #[test]
    fn what_was_never_sent_counts_with_its_age() {
        let (from, mut recorder) = recorder();
        recorder.missed(from + 400 * MS, 8);
        recorder.missed(from - MS, 8);
        assert_eq!(recorder.unsent(), 8);
        assert_eq!(recorder.latency().len(), 8);
        assert!(recorder.latency().min() >= 599_000_000);
    }

    #[test]
    fn silence_at_either_end_is_a_gap() {
        let (from, mut recorder) = recorder();
        recorder.answered(from + 299 * MS, from + 300 * MS, 1);
        assert_eq!(recorder.longest_gap(), 300 * MS);
        recorder.finish();
        assert_eq!(recorder.longest_gap(), 700 * MS);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let (from, mut recorder) = recorder();
        for kind in 0..100 {
            recorder.failed(&format!("E{kind}"), from, 1);
        }
        assert_eq!(recorder.errors_total(), 100);
        assert_eq!(recorder.errors().len(), ERROR_KINDS_MAX + 1);
        assert_eq!(recorder.errors()["other"], 68);
    }

    #[test]
    fn the_timeline_holds_each_answer_in_its_step() {
        let (from, mut recorder) = recorder();
        recorder.answered(from, from + 5 * MS, 3);
        recorder.answered(from, from + 19 * MS, 1);
        recorder.answered(from, from + 20 * MS, 2);
        recorder.answered(from, from + 2000 * MS, 9);
        assert_eq!(recorder.timeline().len(), 50, "a second in steps of 20 ms");
        assert_eq!(recorder.timeline()[..3], [4, 2, 0]);
        assert_eq!(recorder.timeline().iter().sum::<u64>(), recorder.answers());
    }
}
