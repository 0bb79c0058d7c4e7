//! Fewer faults, clients and operations that break the same rule: delta debugging (Zeller and
//! Hildebrandt 2002) over the seed's schedule.
//!
//! The schedule is drawn up front, so a part of it can be left out and the rest played again. What is
//! left out changes what happens after it, so a smaller run is another run: it counts when it breaks
//! the same rule.

use std::format;
use std::vec::Vec;

use super::failure::Failure;
use super::machine::Simulated;
use super::options::Options;
use super::plan::Plan;
use super::{FaultClass, Faults, run};

/// How many runs a shrinking may take.
const RUNS_MAX: u32 = 400;
/// How many simulated events all of them together may take: a bound on the time.
const EVENTS_MAX: u64 = 60_000_000;

struct Shrinker {
    seed: u64,
    rule: std::string::String,
    best: Failure,
    runs: u32,
    events: u64,
}

impl Shrinker {
    fn has_budget(&self) -> bool {
        self.runs < RUNS_MAX && self.events < EVENTS_MAX
    }

    /// Plays with other options; keeps them if the same rule is broken.
    fn tries<M: Simulated>(&mut self, options: Options) -> bool {
        if !self.has_budget() {
            return false;
        }
        self.runs += 1;
        let outcome = run::<M>(self.seed, &options);
        self.events += outcome.summary.events;
        match outcome.failure {
            Some(failure) if failure.rule == self.rule => {
                self.best = failure;
                true
            }
            _ => false,
        }
    }

    fn options(&self) -> Options {
        self.best.options.clone()
    }

    /// Without any trouble, as long as there is all the load: with less of it a mistake that needs no
    /// fault may be reached only because faults drag the run out, and then each of them seems to matter.
    fn everything<M: Simulated>(&mut self) -> bool {
        let mut options = self.options();
        options.without = Faults::all().with(FaultClass::BeyondF);
        self.tries::<M>(options)
    }

    /// Whole kinds of trouble: they are many faults at once.
    fn classes<M: Simulated>(&mut self) {
        for class in Faults::all().iter() {
            let mut options = self.options();
            if options.without.has(class) || !options.faults.has(class) {
                continue;
            }
            options.without = options.without.with(class);
            self.tries::<M>(options);
        }
    }

    /// Then single faults, in halves, quarters, and so on.
    fn faults<M: Simulated>(&mut self) {
        let mut parts = 2;
        loop {
            let kept = self.kept();
            if kept.is_empty() || !self.has_budget() {
                return;
            }
            let size = kept.len().div_ceil(parts);
            let mut smaller = false;
            for part in kept.chunks(size) {
                let mut options = self.options();
                options.skip.extend_from_slice(part);
                options.skip.sort_unstable();
                if self.tries::<M>(options) {
                    smaller = true;
                    break;
                }
            }
            if smaller {
                parts = parts.saturating_sub(1).max(2);
            } else if size == 1 {
                return;
            } else {
                parts = (parts * 2).min(kept.len());
            }
        }
    }

    /// The faults that still take part.
    fn kept(&self) -> Vec<u32> {
        let plan = Plan::draw(self.seed, &self.best.options);
        let until = self.best.at_ns;
        let numbers = plan.numbers.iter().zip(&plan.faults);
        numbers
            .filter(|(_, fault)| fault.at <= until)
            .map(|(&number, _)| number)
            .collect()
    }

    /// Fewer operations and clients.
    fn load<M: Simulated>(&mut self) {
        for ops in [20, 100, 500] {
            if ops < self.best.options.ops
                && self.tries::<M>(Options {
                    ops,
                    ..self.options()
                })
            {
                break;
            }
        }
        for clients in [1, 2, 4, 8] {
            let options = self.options();
            let fewer = Options {
                clients: Some(clients),
                ..options
            };
            if self.tries::<M>(fewer) {
                break;
            }
        }
    }
}

/// The smallest failure found that breaks the rule that `failure` breaks.
pub(crate) fn shrink<M: Simulated>(failure: Failure) -> Failure {
    let before = failure.faults.len();
    // Faults that lie behind the failure never took part.
    let mut shrinker = Shrinker {
        seed: failure.seed,
        rule: failure.rule.clone(),
        best: failure,
        runs: 0,
        events: 0,
    };
    let is_calm = shrinker.everything::<M>();
    shrinker.load::<M>();
    if !is_calm {
        shrinker.classes::<M>();
        shrinker.faults::<M>();
    }
    let Shrinker { mut best, runs, .. } = shrinker;
    best.shrunk = Some(format!(
        "from {before} faults to {} in {runs} runs",
        best.faults.len()
    ));
    best
}
