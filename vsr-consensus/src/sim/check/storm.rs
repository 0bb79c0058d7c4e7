//! Messages stay in proportion to the work: replicas that answer each other's questions with questions
//! are found here.

use super::{Checked, ensure};
use crate::sim::plan::{SECOND, Time};

/// Counts in windows of one second.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    window_from: Time,
    messages: u64,
    work: u64,
    /// Messages that a quiet cluster exchanges in a second.
    idle: u64,
    /// Messages for one thing asked.
    each: u64,
    /// The most messages of one window, in percent of what was allowed.
    pub(crate) worst: u64,
}

impl Storm {
    /// `replicas` that beat every `tick` nanoseconds.
    pub(crate) const fn new(replicas: u8, tick: Time) -> Self {
        let n = replicas as u64;
        let beats = SECOND / tick;
        Self {
            window_from: 0,
            messages: 0,
            work: 0,
            // Heartbeats and answers to them, pings, questions while something is missing.
            idle: 4_000 + 20 * n * n * beats,
            each: 60 * n,
            worst: 0,
        }
    }

    /// Counts from now on.
    pub(crate) const fn begin(&mut self, now: Time, messages: u64) {
        self.window_from = now;
        self.messages = messages;
    }

    /// Looks at the counts so far.
    pub(crate) fn check(&mut self, now: Time, messages: u64, work: u64) -> Checked {
        let length = now - self.window_from;
        if length < SECOND {
            return Ok(());
        }
        let sent = messages - self.messages;
        let seconds = length.div_ceil(SECOND);
        let allowed = self.idle * seconds + self.each * (work - self.work);
        self.worst = self.worst.max(sent * 100 / allowed);
        ensure!(
            sent <= allowed,
            "messages are bounded",
            "{sent} messages in {seconds} s, where {allowed} would be many"
        );
        (self.window_from, self.messages, self.work) = (now, messages, work);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_found() {
        let mut storm = Storm::new(3, SECOND / 100);
        storm.check(SECOND, 3_000, 10).expect("heartbeats");
        storm
            .check(2 * SECOND, 100_000, 1_000)
            .expect("much was asked");
        assert!(storm.check(3 * SECOND, 900_000, 1_001).is_err());
    }
}
