//! What is done to a cluster, and the proof that it was.
//!
//! Several tracks run side by side: most hurt wires and knock on ports, one hurts processes and cuts the
//! network in pieces, and waits after each blow until the cluster is whole again. Every fault says whether it took effect; one that never did is a failure of the run.

pub(crate) mod intruders;
mod processes;
mod wires;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};
use vsr_net::Random;

use crate::cluster::Cluster;

pub(crate) use processes::ProcessFault;
pub(crate) use wires::WireFault;

/// Tracks that hurt wires: most of their faults wait for traffic, and do not disturb each other.
const WIRE_TRACKS: usize = 3;

/// What the product under test can do by now. A fault that needs more is not drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Powers {
    /// A dead or unreachable primary is replaced.
    pub(crate) view_change: bool,
    /// A replica that comes back empty gets its state from the others.
    pub(crate) recovery: bool,
    /// The native client survives damaged frames.
    pub(crate) client_flips: bool,
}

/// How often a fault was tried, and how often it took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) tried: u64,
    pub(crate) effective: u64,
}

/// All faults of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(crate) scores: BTreeMap<&'static str, Score>,
    /// What was done when, in seconds of the run; for the report of a failure.
    pub(crate) diary: Vec<String>,
    /// How often the view changed.
    pub(crate) views: u64,
    /// What the replicas counted since their last start.
    pub(crate) counted: BTreeMap<&'static str, u64>,
}

impl Book {
    pub(crate) fn note(&mut self, name: &'static str, effective: bool) {
        let score = self.scores.entry(name).or_default();
        score.tried += 1;
        score.effective += u64::from(effective);
    }

    pub(crate) fn effective(&self) -> u64 {
        self.scores.values().map(|score| score.effective).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, score) in &other.scores {
            let sum = self.scores.entry(name).or_default();
            sum.tried += score.tried;
            sum.effective += score.effective;
        }
        self.views += other.views;
        for (event, count) in &other.counted {
            *self.counted.entry(event).or_default() += count;
        }
    }

    /// Faults that were tried often enough and never took effect.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let never = |score: &Score| score.effective == 0 && score.tried >= 3;
        let scores = self.scores.iter().filter(|(_, score)| never(score));
        scores.map(|(name, _)| *name).collect()
    }
}

/// What all tracks need.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) random: RefCell<Random>,
    pub(crate) book: RefCell<Book>,
    pub(crate) powers: Powers,
    pub(crate) epoch: Instant,
    stop: Cell<bool>,
    /// Intruders that are still at it.
    errands: RefCell<Vec<JoinHandle<()>>>,
}

impl Trouble {
    pub(crate) fn new(cluster: &Rc<Cluster>, powers: Powers, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            cluster: Rc::clone(cluster),
            random: RefCell::new(Random::new(seed)),
            book: RefCell::default(),
            powers,
            epoch: Instant::now(),
            stop: Cell::new(false),
            errands: RefCell::default(),
        })
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub(crate) fn milliseconds(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub(crate) fn replica(&self) -> usize {
        self.below(self.cluster.replicas() as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn say(&self, text: &str) {
        let at = self.epoch.elapsed().as_secs_f64();
        let line = format!("{at:8.3} s  {text}");
        if std::env::var_os("VSR_HARNESS_DIARY").is_some() {
            crate::summary::say(&line);
        }
        self.book.borrow_mut().diary.push(line);
    }

    /// Something that goes on beside the track and notes its own effect.
    fn errand(self: &Rc<Self>, errand: impl Future<Output = ()> + 'static) {
        self.errands.borrow_mut().push(spawn_local(errand));
    }

    /// Waits until `is_so`; false when it is not so in time.
    pub(crate) async fn wait(&self, within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + within;
        while !is_so() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Runs all tracks until [`Self::end`].
    pub(crate) fn start(self: &Rc<Self>) -> Vec<JoinHandle<()>> {
        let mut tracks = vec![spawn_local(Rc::clone(self).hurt_processes())];
        for _ in 0..WIRE_TRACKS {
            tracks.push(spawn_local(Rc::clone(self).hurt_wires()));
        }
        tracks
    }

    async fn hurt_wires(self: Rc<Self>) {
        let faults = WireFault::possible(self.powers);
        while !self.stop.get() {
            let fault = self.pick(&faults);
            self.do_wire(fault).await;
            sleep(self.milliseconds(5, 60)).await;
        }
    }

    /// Every fault once, in a random order, and then as it comes.
    async fn hurt_processes(self: Rc<Self>) {
        let faults = ProcessFault::possible(self.powers);
        let mut first = faults.clone();
        while !self.stop.get() {
            let fault = match first.len() {
                0 => self.pick(&faults),
                left => first.swap_remove(self.below(left as u64) as usize),
            };
            self.do_process(fault).await;
            sleep(self.milliseconds(20, 300)).await;
        }
    }

    /// Ends all tracks, takes all faults away, and hands over the book.
    pub(crate) async fn end(&self, tracks: Vec<JoinHandle<()>>) -> Book {
        self.stop.set(true);
        for track in tracks {
            track.await.expect("no track panics");
        }
        let errands = self.errands.take();
        for errand in errands {
            errand.await.expect("no errand panics");
        }
        self.cluster.heal();
        self.book.borrow().clone()
    }
}
