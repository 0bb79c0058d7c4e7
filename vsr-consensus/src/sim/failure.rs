//! What is said when a seed fails: enough to play it again, and to begin to understand.

use core::fmt;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::check::Violation;
use super::machine::Simulated;
use super::options::Options;
use super::world::World;

/// A seed that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// How it was played.
    pub options: Options,
    /// Which rule was broken.
    pub rule: String,
    /// How.
    pub text: String,
    /// When, in simulated nanoseconds.
    pub at_ns: u64,
    /// The cluster, in words.
    pub cluster: String,
    /// The faults that took part, with their numbers.
    pub faults: Vec<String>,
    /// The replicas as they were then.
    pub replicas: Vec<String>,
    /// The last events.
    pub events: Vec<String>,
    /// What the shrinker did, if it did anything.
    pub shrunk: Option<String>,
}

impl Failure {
    pub(crate) fn new<M: Simulated>(world: &mut World<M>, seed: u64, violation: Violation) -> Self {
        let plan = &world.plan;
        let cluster = format!(
            "{} replicas, {} clients, {:?}, {:?}",
            plan.replicas, plan.load.clients, plan.weather, plan.settings
        );
        let happened = plan.numbers.iter().zip(&plan.faults);
        let faults = happened
            .filter(|(_, fault)| fault.at <= world.now)
            .map(|(number, fault)| format!("{number:4} {fault}"))
            .collect();
        Self {
            seed,
            options: world.options.clone(),
            rule: violation.rule.to_string(),
            text: violation.text,
            at_ns: world.now,
            cluster,
            faults,
            replicas: states_of(world),
            events: world.trace.last(),
            shrunk: None,
        }
    }

    /// The line that plays the seed again.
    #[must_use]
    pub fn replay(&self) -> String {
        replay_line(self.seed, &self.options)
    }

    /// The same as a test.
    #[must_use]
    pub fn replay_as_test(&self) -> String {
        let options = &self.options;
        format!(
            "VSR_SEED={} VSR_OPS={} VSR_FAULTS={} cargo test --release -p vsr-consensus \
             --features sim --test sim_swarm pinned",
            self.seed, options.ops, options.faults
        )
    }
}

/// The line that plays `seed` again as `options` say.
pub(crate) fn replay_line(seed: u64, options: &Options) -> String {
    let mut line = format!("vsr-cli sim --seed {seed}");
    let defaults = Options::default();
    if options.faults != defaults.faults {
        line += &format!(" --faults {}", options.faults);
    }
    if options.ops != defaults.ops {
        line += &format!(" --ops {}", options.ops);
    }
    if let Some(replicas) = options.replicas {
        line += &format!(" --replicas {replicas}");
    }
    if let Some(clients) = options.clients {
        line += &format!(" --clients {clients}");
    }
    if let Some(op_max) = options.op_max {
        line += &format!(" --op-max {op_max}");
    }
    if let Some(mode) = options.on_op_max {
        line += &format!(" --on-op-max {}", mode.name());
    }
    if options.without != defaults.without {
        line += &format!(" --without {}", options.without);
    }
    if !options.skip.is_empty() {
        let skip: Vec<String> = options.skip.iter().map(u32::to_string).collect();
        line += &format!(" --skip {}", skip.join(","));
    }
    line
}

/// A line for each replica, and one more where a second process is in its place.
fn states_of<M: Simulated>(world: &World<M>) -> Vec<String> {
    let mut states = Vec::new();
    for (slot, place) in world.places.iter().enumerate() {
        states.push(state_of(world, slot, place.seat));
        let other = world.other(place.seat);
        if world.nodes[other].replica.is_some() {
            states.push(state_of(world, slot, other) + " (not the one that counts)");
        }
    }
    states
}

fn state_of<M: Simulated>(world: &World<M>, slot: usize, index: usize) -> String {
    let node = &world.nodes[index];
    let Some(replica) = &node.replica else {
        return format!("R{slot} life {:3} down", node.life);
    };
    let report = replica.report();
    format!(
        "R{slot} life {:3} {:10} view {:4} op {:6} commit {:6} applied {:6} tail {:6} in flight {:3} \
         inbox {:3} incarnation {}{}",
        node.life,
        format!("{:?}", report.status),
        report.view,
        report.op,
        report.commit,
        report.applied,
        report.tail,
        report.in_flight,
        node.inbox.len(),
        report.incarnation.counter,
        if node.busy_until > world.now {
            " (busy)"
        } else {
            ""
        },
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} breaks a rule after {:.3} simulated ms",
            self.seed,
            self.at_ns as f64 / 1e6
        )?;
        writeln!(f, "  rule: {}", self.rule)?;
        writeln!(f, "  what: {}", self.text)?;
        writeln!(f, "replay: {}", self.replay())?;
        writeln!(f, "        {}", self.replay_as_test())?;
        if let Some(shrunk) = &self.shrunk {
            writeln!(f, "shrunk: {shrunk}")?;
        }
        writeln!(f, "cluster: {}", self.cluster)?;
        writeln!(f, "the last faults of {}:", self.faults.len())?;
        for fault in self.faults.iter().rev().take(16).rev() {
            writeln!(f, "  {fault}")?;
        }
        writeln!(f, "replicas:")?;
        for replica in &self.replicas {
            writeln!(f, "  {replica}")?;
        }
        writeln!(f, "last events:")?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}
