//! What a replica needs to know before it starts, validated once.
//!
//! A [`Config`] is evidence: it can only be made by [`Settings::validate`], so the replica never asks
//! again whether a number makes sense. Everything the replica allocates follows from it.

use core::time::Duration;

use vsr_types::{HEADER_SIZE, OpMax, ReplicaIndex, limits};

/// The choices an operator may make, not yet validated. [`Settings::new`] holds the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many replicas the cluster has.
    pub replicas: u8,
    /// Which of them this is.
    pub replica: ReplicaIndex,
    /// The largest batch, in bytes of body.
    pub batch_size_max: usize,
    /// The most prepares in flight.
    pub pipeline: usize,
    /// How many headers the journal holds.
    pub journal_slots: usize,
    /// How many bytes of bodies the journal holds.
    pub journal_bytes: usize,
    /// How many client sessions are remembered.
    pub sessions: usize,
    /// How many bytes of cached replies are remembered, all sessions together.
    pub reply_bytes: usize,
    /// How many bytes of queries may wait for their read round.
    pub query_bytes: usize,
    /// The unit of all time-outs, and the primary's heartbeat.
    pub tick: Duration,
    /// How long a backup waits for its primary before it suspects it.
    pub view_timeout: Duration,
    /// How long a prepare may stay unacknowledged by a backup before that backup is a suspect.
    pub prepare_timeout: Duration,
    /// Digests are taken, and compared with the others', at the first op of every period of
    /// replicated time. Time and not op numbers: the same ops everywhere, at any load.
    pub digest_period: Duration,
    /// Within this time everything in memory is verified once, used or not.
    pub scrub_period: Duration,
    /// How many bytes of state per second a replica asks for that takes over another's: the donors serve
    /// clients at the same time.
    pub transfer_rate: u64,
    /// Whether prepares travel down the chain; otherwise the primary sends them to every backup.
    pub chain: bool,
    /// The last op number of an epoch (N22).
    pub op_max: u64,
    /// What happens when it is reached.
    pub on_op_max: OnOpMax,
    /// The rule that this replica does without: for tests of the tests.
    #[cfg(feature = "mutate")]
    pub mutant: Option<crate::Mutant>,
}

/// What a cluster does when an epoch's op numbers are used up (N22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOpMax {
    /// It refuses operations, with a clear error, and goes on answering reads.
    #[default]
    Halt,
    /// The next epoch begins at once.
    Reset,
    /// The next epoch begins when the primary's node has archived the state that the last one ended with.
    Archive,
}

impl OnOpMax {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Halt, Self::Reset, Self::Archive];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Reset => "reset",
            Self::Archive => "archive",
        }
    }
}

/// The default of [`Settings::transfer_rate`].
const TRANSFER_RATE: u64 = 768 << 20;
/// The least of it: less than a chunk in a second would let a recovery wait for days.
const TRANSFER_RATE_MIN: usize = 1 << 20;

impl Settings {
    /// The defaults for replica `replica` of `replicas`.
    #[must_use]
    pub const fn new(replica: ReplicaIndex, replicas: u8) -> Self {
        Self {
            replicas,
            replica,
            // A batch as large as a frame allows: at 64 KiB and more the checksums run at full speed.
            batch_size_max: limits::BODY_SIZE_MAX,
            // 32 in flight cover a round trip of a batch at the highest rate measured.
            pipeline: 32,
            // The ring reaches back min(slots, bytes): 64 Ki small batches, or 256 MiB of large ones.
            journal_slots: 65_536,
            journal_bytes: 256 << 20,
            sessions: 4096,
            reply_bytes: 32 << 20,
            query_bytes: 4 << 20,
            tick: Duration::from_millis(10),
            view_timeout: Duration::from_millis(100),
            prepare_timeout: Duration::from_millis(50),
            digest_period: Duration::from_millis(100),
            // Two flips in one slot, or the same piece at two replicas, within ten minutes: rarer than
            // the loss of a whole machine. 4 GiB in that time are 7 MB/s.
            scrub_period: Duration::from_secs(600),
            // Recovery time is part of the failure window, service suffers from haste: see the constant.
            transfer_rate: TRANSFER_RATE,
            chain: true,
            op_max: limits::NUMBER_MAX,
            on_op_max: OnOpMax::Halt,
            #[cfg(feature = "mutate")]
            mutant: None,
        }
    }

    /// Checks every field and every relation between fields.
    ///
    /// # Errors
    /// The first field that is wrong, and what would be right.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let at_least = |field, value: usize, least: usize| {
            if value < least {
                Err(ConfigError::TooSmall {
                    field,
                    value,
                    least,
                })
            } else {
                Ok(())
            }
        };
        let at_most = |field, value: usize, most: usize| {
            if value > most {
                Err(ConfigError::TooLarge { field, value, most })
            } else {
                Ok(())
            }
        };
        at_least("replicas", usize::from(self.replicas), 1)?;
        at_most("replicas", usize::from(self.replicas), limits::REPLICAS_MAX)?;
        at_most(
            "replica",
            self.replica.as_usize(),
            usize::from(self.replicas) - 1,
        )?;
        at_least("batch-max", self.batch_size_max, limits::BATCH_SIZE_MIN)?;
        at_most("batch-max", self.batch_size_max, limits::BODY_SIZE_MAX)?;
        at_least("pipeline", self.pipeline, 1)?;
        at_most("pipeline", self.pipeline, limits::PIPELINE_MAX)?;
        // R8.1: the ring holds at least four pipelines.
        at_least(
            "journal-slots",
            self.journal_slots,
            self.pipeline * limits::JOURNAL_PIPELINES_MIN,
        )?;
        // One pipeline of the largest batches, and as much again for what is not executed yet.
        at_least("journal-size", self.journal_bytes, self.batch_size_max * 4)?;
        at_least("sessions", self.sessions, 1)?;
        at_least("reply-size", self.reply_bytes, 2 * limits::REPLY_SIZE_MAX)?;
        at_least(
            "query-size",
            self.query_bytes,
            limits::FRAME_SIZE_MAX + HEADER_SIZE,
        )?;
        let nanos = |duration: Duration| usize::try_from(duration.as_nanos()).unwrap_or(usize::MAX);
        at_least("tick", nanos(self.tick), 1_000_000)?;
        at_least(
            "view-timeout",
            nanos(self.view_timeout),
            4 * nanos(self.tick),
        )?;
        at_least(
            "prepare-timeout",
            nanos(self.prepare_timeout),
            2 * nanos(self.tick),
        )?;
        at_least("digest-period", nanos(self.digest_period), 1_000_000)?;
        at_least("scrub-period", nanos(self.scrub_period), nanos(self.tick))?;
        at_least(
            "transfer-rate",
            usize::try_from(self.transfer_rate).unwrap_or(usize::MAX),
            TRANSFER_RATE_MIN,
        )?;
        let op_max = usize::try_from(self.op_max).unwrap_or(usize::MAX);
        at_least("op-max", op_max, 1)?;
        at_most("op-max", op_max, limits::NUMBER_MAX as usize)?;
        Ok(Config(self))
    }
}

/// Settings that make sense together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config(Settings);

impl core::ops::Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

impl Config {
    /// How many replicas make a quorum: commit, view change, recovery and reads need as many.
    #[must_use]
    pub const fn quorum(&self) -> u8 {
        self.0.replicas / 2 + 1
    }

    /// How ops are named.
    ///
    /// # Panics
    /// Never: what is validated has an epoch of at least one op.
    #[must_use]
    #[inline]
    pub const fn epochs(&self) -> OpMax {
        OpMax::new(self.0.op_max).expect("validated")
    }

    /// The most prepares in flight, as the length of what may be undecided.
    #[must_use]
    pub(crate) const fn pipeline_length(&self) -> usize {
        self.0.pipeline
    }

    /// How many crashes the cluster survives.
    #[must_use]
    pub const fn failures_survived(&self) -> u8 {
        self.0.replicas - self.quorum()
    }
}

/// Which setting is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Below what the protocol needs.
    TooSmall {
        /// The flag's name.
        field: &'static str,
        /// What it was; durations in nanoseconds.
        value: usize,
        /// The least that works.
        least: usize,
    },
    /// Above what the protocol allows.
    TooLarge {
        /// The flag's name.
        field: &'static str,
        /// What it was.
        value: usize,
        /// The most that works.
        most: usize,
    },
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooSmall {
                field,
                value,
                least,
            } => {
                write!(f, "{field} is {value}, but must be at least {least}")
            }
            Self::TooLarge { field, value, most } => {
                write!(f, "{field} is {value}, but must be at most {most}")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(ReplicaIndex::new(0), 3)
    }

    #[test]
    fn the_defaults_are_valid_at_every_size() {
        for replicas in 1..=7 {
            for replica in ReplicaIndex::all(replicas) {
                let config = Settings::new(replica, replicas).validate().expect("valid");
                assert_eq!(config.quorum(), replicas / 2 + 1);
                assert_eq!(config.quorum() + config.failures_survived(), replicas);
            }
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Break = fn(&mut Settings);
        let cases: [(&str, Break); 13] = [
            ("replicas", |s| s.replicas = 0),
            ("replicas", |s| s.replicas = 8),
            ("replica", |s| s.replica = ReplicaIndex::new(3)),
            ("batch-max", |s| s.batch_size_max = 100),
            ("batch-max", |s| s.batch_size_max = 1 << 30),
            ("pipeline", |s| s.pipeline = 0),
            ("journal-slots", |s| s.journal_slots = s.pipeline * 4 - 1),
            ("journal-size", |s| s.journal_bytes = 1 << 20),
            ("sessions", |s| s.sessions = 0),
            ("view-timeout", |s| s.view_timeout = s.tick),
            ("transfer-rate", |s| s.transfer_rate = 0),
            ("op-max", |s| s.op_max = 0),
            ("op-max", |s| s.op_max = limits::NUMBER_MAX + 1),
        ];
        for (name, break_it) in cases {
            let mut broken = settings();
            break_it(&mut broken);
            let error = broken.validate().expect_err(name);
            let (ConfigError::TooSmall { field, .. } | ConfigError::TooLarge { field, .. }) = error;
            assert_eq!(field, name);
        }
    }
}
