//! The deterministic simulator: a whole cluster, its clients, its network and its misfortunes in one
//! thread, from one seed.
//!
//! The replicas are the real ones, with the real journal and the real sessions; network, clocks and
//! crashes are simulated. One run has three phases: *safety* (everything goes wrong, nothing may be
//! lost), *liveness* (a random quorum is healed, all other faults become permanent, everybody in reach
//! must be served), and *heal* (everything is well, all replicas must become equal). Checkers look on
//! after every step.
//!
//! ```
//! use vsr_consensus::sim::{Faults, Options, Seeds, Store, check_with};
//!
//! let options = Options { ops: 200, ..Options::new(Faults::all()) };
//! let summary = check_with::<Store>(Seeds::range(0..2), &options).expect("nothing is lost");
//! assert!(summary.operations > 100);
//! ```
//!
//! The same seed always tells the same story, in debug and in release builds, on every machine. A
//! [`Failure`] says how to play it again.
//!
//! Where to read next: [`check`], [`Options`], [`Simulated`].

mod act;
mod archive;
mod ask;
mod birth;
mod check;
mod client;
mod doubt;
pub mod explore;
mod failure;
mod faults;
mod machine;
mod marks;
mod net;
mod node;
mod observe;
mod options;
mod panics;
mod phases;
mod places;
mod plan;
mod random;
mod shrink;
mod spite;
mod stats;
mod store;
mod stream;
mod trace;
mod world;

use std::boxed::Box;
use std::string::String;

pub use failure::Failure;
pub use faults::{FaultClass, Faults, Seeds, UnknownFault};
pub use machine::{Observation, Simulated};
pub use marks::Marks;
pub use options::{Options, Plant};
pub use random::Random;
pub use stats::Summary;
pub use store::Store;

use check::Violation;
use world::World;

/// What one seed did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was counted.
    pub summary: Summary,
    /// The hash of everything that happened: equal for equal seed, options and build of the protocol.
    pub trace_hash: u64,
    /// Everything that happened, in words, if [`Options::trace`] asked for it.
    pub trace: Option<String>,
    /// The rule that was broken, if one was.
    pub failure: Option<Failure>,
}

/// Plays `seeds` with the machine `M` under the kinds of trouble in `faults`.
///
/// # Errors
/// The first seed that breaks a rule.
pub fn check<M: Simulated>(seeds: Seeds, faults: Faults) -> Result<Summary, Box<Failure>> {
    check_with::<M>(seeds, &Options::new(faults))
}

/// As [`check`], with everything that can be chosen.
///
/// # Errors
/// The first seed that breaks a rule.
pub fn check_with<M: Simulated>(seeds: Seeds, options: &Options) -> Result<Summary, Box<Failure>> {
    let mut summary = Summary::default();
    for seed in seeds {
        let outcome = run::<M>(seed, options);
        if let Some(failure) = outcome.failure {
            return Err(Box::new(if options.shrink {
                shrink::shrink::<M>(failure)
            } else {
                failure
            }));
        }
        summary.add(&outcome.summary);
    }
    Ok(summary)
}

/// Looks for a smaller run that breaks the rule that `failure` breaks.
#[must_use]
pub fn shrink<M: Simulated>(failure: Failure) -> Failure {
    shrink::shrink::<M>(failure)
}

/// Plays one seed.
#[must_use]
pub fn run<M: Simulated>(seed: u64, options: &Options) -> Outcome {
    let mut world: World<M> = World::new(seed, options);
    let replay = failure::replay_line(seed, options);
    let played = panics::catch_saying(seed, replay, || world.play());
    let trace_hash = world.trace.hash();
    let summary = summary_of(&world);
    let failure = played
        .err()
        .map(|violation: Violation| Failure::new(&mut world, seed, violation));
    Outcome {
        summary,
        trace_hash,
        trace: world.trace.take_lines(),
        failure,
    }
}

fn summary_of<M: Simulated>(world: &World<M>) -> Summary {
    let stats = &world.stats;
    Summary {
        seeds: 1,
        operations: stats.operations,
        queries: stats.queries,
        executed: world.history.executed() as u64,
        committed: world.history.committed().raw(),
        crashes: stats.crashes,
        crashes_while_recovering: stats.crashes_while_recovering,
        recovered: stats.recovered,
        views: world.history.views() as u64,
        faults: stats.faults.iter().sum(),
        messages: stats.messages,
        events: stats.events,
        simulated_ns: world.now,
        heal_to_served_ns: stats.healed_to_served,
        halted: stats.halted,
        rollovers: world.history.rollovers(),
        archives: world.history.archived().0,
        marks: marks_of(world),
    }
}

/// What of all rare things happened in this run.
fn marks_of<M: Simulated>(world: &World<M>) -> Marks {
    let stats = &world.stats;
    let mut marks = Marks::default();
    for &class in FaultClass::ALL {
        let weather = &world.plan.weather;
        let everywhere = match class {
            FaultClass::Loss => weather.loss > 0,
            FaultClass::Duplicate => weather.duplicate > 0,
            FaultClass::Reorder => weather.reorder > 0,
            FaultClass::Tail => weather.tail > 0,
            _ => false,
        };
        marks.count(
            class.name(),
            stats.faults[class as usize] + u64::from(everywhere),
        );
    }
    let counted = [
        ("states of their own found", world.doubts.found),
        ("wrong replies before that", world.doubts.wrong),
        ("longest, ms", world.doubts.longest / plan::MILLISECOND),
        ("messages lost", stats.lost),
        ("messages damaged", stats.damaged),
        ("frames refused", stats.refused),
        ("replies repeated", stats.repeated),
        ("operations refused", stats.refused_operations),
        ("clients evicted", stats.evicted),
        ("sessions evicted", world.history.evictions()),
        ("crashes of primaries", stats.crashes_of_primaries),
        ("crashes while recovering", stats.crashes_while_recovering),
        ("recovered", stats.recovered),
        ("streams cut within a frame", world.streams.cut),
        ("streams broken", world.streams.broken),
        ("superseded", stats.superseded),
        ("beyond f because superseded", stats.outdone),
        ("restarts while a cluster was formed", stats.vanished),
        ("clusters that were stillborn", stats.stillborn),
        ("frames replayed where they hurt", stats.spites),
        ("places with two processes", stats.doubled),
        ("former lives that live on", stats.outlived),
        ("views left", stats.views_left),
        ("epochs begun", world.history.rollovers()),
        ("epochs archived", world.history.archived().0),
        ("epochs archived again", world.history.archived().1),
        ("archives that failed", stats.archives_failed),
        ("crashes while archiving", stats.crashes_while_archiving),
        ("clients refused at the last op", stats.used_up),
        ("register windows explained", world.registers.windows),
        ("register operations explained", world.registers.explained),
        ("registers given up", world.registers.given_up),
    ];
    for (name, times) in counted {
        marks.count(name, times);
    }
    for node in &world.nodes {
        let Some(replica) = &node.replica else {
            continue;
        };
        for (name, times) in replica.counters().events() {
            marks.count(name, times);
        }
    }
    marks
}
