//! Two kinds of time that must never meet.
//!
//! [`Instant`] is this machine's monotonic clock: it drives time-outs and never leaves the machine.
//! [`Timestamp`] is the replicated time that the primary writes into each prepare: it is data, equal
//! everywhere, and no decision of the protocol depends on it. [`Now`] carries both into the replica,
//! which has no clock of its own.

use bytemuck::{Pod, Zeroable};
use core::time::Duration;

/// A point on this machine's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The clock's start.
    pub const ZERO: Self = Self(0);
    /// Later than any instant that will be reached: "never" as a deadline.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// From nanoseconds since the clock's start.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant moved later by `duration`, at most to [`Self::FAR_FUTURE`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// This instant moved earlier by `duration`, at most to [`Self::ZERO`].
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Replicated time: nanoseconds since the Unix epoch as the primary saw them when it prepared a
/// batch. Strictly increasing in the log, whatever the clocks do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The smallest timestamp that is later than this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What the driver's clocks show at the moment of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, for time-outs.
    pub monotonic: Instant,
    /// The wall clock, a proposal for the timestamp of the next prepare.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_move_no_further_than_their_ends() {
        let at = Instant::from_nanos(10);
        assert_eq!(at.after(Duration::from_nanos(5)), Instant::from_nanos(15));
        assert_eq!(at.before(Duration::from_nanos(4)), Instant::from_nanos(6));
        assert_eq!(at.before(Duration::from_nanos(11)), Instant::ZERO);
        assert_eq!(at.before(Duration::MAX), Instant::ZERO);
        assert_eq!(at.after(Duration::MAX), Instant::FAR_FUTURE);
        assert_eq!(at.since(Instant::from_nanos(11)), Duration::ZERO);
    }
}
