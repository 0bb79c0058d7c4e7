//! What a run counted.

use core::fmt;

use super::faults::FaultClass;
use super::plan::Time;

/// The counts of one seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) messages: u64,
    pub(crate) lost: u64,
    pub(crate) damaged: u64,
    pub(crate) refused: u64,
    pub(crate) operations: u64,
    pub(crate) queries: u64,
    pub(crate) retries: u64,
    pub(crate) repeated: u64,
    pub(crate) refused_operations: u64,
    pub(crate) evicted: u64,
    pub(crate) reborn: u64,
    pub(crate) crashes: u64,
    pub(crate) crashes_while_recovering: u64,
    pub(crate) crashes_of_primaries: u64,
    pub(crate) restarts: u64,
    pub(crate) recovered: u64,
    pub(crate) recovery_longest: Time,
    pub(crate) views_left: u64,
    pub(crate) latency_longest: Time,
    pub(crate) healed_to_served: Time,
    pub(crate) halted: u64,
    pub(crate) superseded: u64,
    pub(crate) outdone: u64,
    pub(crate) doubled: u64,
    pub(crate) outlived: u64,
    pub(crate) spites: u64,
    pub(crate) vanished: u64,
    pub(crate) stillborn: u64,
    pub(crate) archives_failed: u64,
    pub(crate) crashes_while_archiving: u64,
    pub(crate) used_up: u64,
    pub(crate) faults: [u64; FaultClass::ALL.len()],
}

/// What a batch of seeds did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Seeds played.
    pub seeds: u64,
    /// Client operations that were answered.
    pub operations: u64,
    /// Queries that were answered.
    pub queries: u64,
    /// Operations executed in the agreed order.
    pub executed: u64,
    /// Log entries committed.
    pub committed: u64,
    /// Processes that lost their memory.
    pub crashes: u64,
    /// Of those, while they were getting it back.
    pub crashes_while_recovering: u64,
    /// Replicas that got their memory back.
    pub recovered: u64,
    /// Views that began.
    pub views: u64,
    /// Faults of every kind that took effect.
    pub faults: u64,
    /// Messages sent.
    pub messages: u64,
    /// Events that happened.
    pub events: u64,
    /// Simulated time, in nanoseconds.
    pub simulated_ns: u64,
    /// The longest time from the healing of a quorum to the last client's answer, in nanoseconds.
    pub heal_to_served_ns: u64,
    /// Runs in which more memories were lost than the cluster survives, and which halted.
    pub halted: u64,
    /// Epochs that began behind another.
    pub rollovers: u64,
    /// Archives of epochs.
    pub archives: u64,
    /// How often each rare thing happened.
    pub marks: super::Marks,
}

impl Summary {
    /// Adds what another batch did.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.queries += other.queries;
        self.executed += other.executed;
        self.committed += other.committed;
        self.crashes += other.crashes;
        self.crashes_while_recovering += other.crashes_while_recovering;
        self.recovered += other.recovered;
        self.views += other.views;
        self.faults += other.faults;
        self.messages += other.messages;
        self.events += other.events;
        self.simulated_ns += other.simulated_ns;
        self.heal_to_served_ns = self.heal_to_served_ns.max(other.heal_to_served_ns);
        self.halted += other.halted;
        self.rollovers += other.rollovers;
        self.archives += other.archives;
        self.marks.add(&other.marks);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds: {} operations and {} queries answered, {} operations executed in {} entries",
            self.seeds, self.operations, self.queries, self.executed, self.committed
        )?;
        writeln!(
            f,
            "{} faults: {} crashes ({} while recovering, {} recovered); {} views, {} halts",
            self.faults,
            self.crashes,
            self.crashes_while_recovering,
            self.recovered,
            self.views,
            self.halted
        )?;
        writeln!(
            f,
            "{} epochs begun behind another, {} archives",
            self.rollovers, self.archives
        )?;
        write!(
            f,
            "{} messages, {} events, {:.1} simulated s; healed to served in at most {:.2} s",
            self.messages,
            self.events,
            self.simulated_ns as f64 / 1e9,
            self.heal_to_served_ns as f64 / 1e9
        )
    }
}
