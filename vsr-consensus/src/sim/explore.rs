//! The explorer: looks at *all* runs of a small cluster, within bounds.
//!
//! A simulator samples; what it never happens to play it never sees. The explorer takes the real
//! `Replica` and tries everything that can happen next, then everything after that, and so on, and
//! remembers where it has been. Every message that was ever sent may arrive at any time, any number of
//! times, or never: loss, duplication, delay and reordering need no actions of their own. Time-outs,
//! requests and crashes (always with loss of all memory) are actions.
//!
//! Two things make that possible. A replica's next state depends on its present state and its input
//! and on nothing else, so each such step is played once, by the real code, and looked up from then
//! on: millions of states of the cluster are combinations of a few thousand states of single replicas.
//! And states are compared by fingerprints of what the protocol depends on, so that it does not matter
//! in which order things that have nothing to do with each other happened.
//!
//! [`search`] goes breadth first and so finds shortest traces. [`wander`] walks at random, in strides
//! that look like what protocols are broken by: a view change that only some take part in, a recovery
//! that overtakes it, an old vote that arrives late. What either finds is played again from the start,
//! without tables, before it is believed, and shortened.
//!
//! Checked all the time: a committed op stays what it is; each view begins with all that was committed
//! in the views before it, whenever it was committed; each view is led by one life of one replica; no
//! replica breaks an invariant of its own or finds that two logs contradict each other.

mod cluster;
mod graph;
mod judge;
mod messages;
mod node;
mod table;
mod walk;

use std::string::String;
use std::vec::Vec;

#[cfg(feature = "mutate")]
use crate::Mutant;

/// How far the explorer looks.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How many replicas there are: 3 or 5.
    pub replicas: u8,
    /// The last view; views begin with 0.
    pub views: u64,
    /// How many operations each log may have.
    pub ops: u64,
    /// How many requests there are at most.
    pub requests: u8,
    /// How many crashes.
    pub crashes: u8,
    /// How many crashed replicas may be recovering at a time.
    pub down: u8,
    /// Whether primaries speak when they have nothing to prepare, which tells backups what is committed.
    pub heartbeats: bool,
    /// Whether everything is a message of its own. Otherwise a replica that loses patience finds a
    /// quorum of the same mind at once (that vote is for liveness only, R5.1), nobody asks which view
    /// it is, what is missing is fetched in one step from who is asked for it, and only replicas
    /// that take part crash.
    pub detours: bool,
    /// Whether prepares travel down the chain.
    pub chain: bool,
    /// At how many states to give up.
    pub states: usize,
    /// The rule that all replicas do without.
    #[cfg(feature = "mutate")]
    pub mutant: Option<Mutant>,
}

impl Bounds {
    /// Three replicas, views 0 and 1, one op, two crashes that never overlap.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            replicas: 3,
            views: 1,
            ops: 1,
            requests: 1,
            crashes: 2,
            down: 1,
            heartbeats: false,
            detours: false,
            chain: false,
            states: usize::MAX,
            #[cfg(feature = "mutate")]
            mutant: None,
        }
    }
}

/// A run that breaks a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which rule, in words.
    pub rule: String,
    /// What happened, one step a line.
    pub trace: Vec<String>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Different states of the cluster; for [`wander`], steps.
    pub states: usize,
    /// Steps from one to another.
    pub edges: usize,
    /// Different states of single replicas.
    pub local: usize,
    /// Steps that the real code played.
    pub played: usize,
    /// Different messages.
    pub messages: usize,
    /// How many steps the deepest state lies from the beginning.
    pub depth: usize,
    /// States in which something was committed; for [`wander`], walks.
    pub committed: usize,
    /// States in which a later view than the first had started.
    pub changed: usize,
    /// States in which a replica had recovered.
    pub recovered: usize,
    /// Whether everything within the bounds was seen.
    pub exhausted: bool,
    /// What broke.
    pub violation: Option<Violation>,
    /// Runs that seemed to break a rule and did not when they were played again: states that were
    /// taken for equal and are not.
    pub mirages: usize,
}

/// Everything within the bounds, nearest first. `watch` is called now and then.
pub fn search(bounds: &Bounds, watch: &mut dyn FnMut(&Seen)) -> Seen {
    graph::search(bounds, watch)
}

/// Walks at random, one for each seed, until something breaks.
pub fn wander(bounds: &Bounds, seeds: core::ops::Range<u64>) -> Seen {
    walk::wander(bounds, seeds)
}
