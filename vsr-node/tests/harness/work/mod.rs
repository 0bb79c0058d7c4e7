//! What the clients do meanwhile. Every workload keeps its whole history, and hands it to its checker
//! when the run is over.

mod bank;
mod counters;
mod locks;
mod native;
mod registers;
mod texts;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;
use vsr_net::Random;

use crate::check::Findings;
use crate::cluster::{Cluster, WHOLE};
use crate::resp::{Caller, Reply, Tally, command};

/// How many callers each workload has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) registers: usize,
    pub(crate) counters: usize,
    pub(crate) texts: usize,
    pub(crate) sets: usize,
    pub(crate) bank: usize,
    pub(crate) locks: usize,
    pub(crate) pairs: usize,
    pub(crate) native: usize,
    /// The most commands that a caller sends at once.
    pub(crate) pipeline: u64,
}

impl Mix {
    /// Everything, with as much load as a machine with two cores makes.
    pub(crate) const FULL: Self = Self {
        registers: 6,
        counters: 4,
        texts: 4,
        sets: 4,
        bank: 4,
        locks: 3,
        pairs: 3,
        native: 8,
        pipeline: 96,
    };

    /// A little of everything.
    pub(crate) const LIGHT: Self = Self {
        registers: 4,
        counters: 2,
        texts: 2,
        sets: 2,
        bank: 2,
        locks: 2,
        pairs: 2,
        native: 4,
        pipeline: 16,
    };
}

/// What all callers of one run have in common.
#[derive(Debug)]
struct Shared {
    addresses: Rc<Vec<String>>,
    epoch: Instant,
    stop: Cell<bool>,
    /// Answered so far, by all of them.
    answered: Cell<u64>,
    random: RefCell<Random>,
    errors: Rc<RefCell<Tally>>,
    pipeline: u64,
    /// The last unique value that was given out.
    unique: Cell<u64>,
}

impl Shared {
    fn unique(&self) -> u64 {
        self.unique.set(self.unique.get() + 1);
        self.unique.get()
    }

    fn caller(&self, at: usize) -> Caller {
        let seed = self.random.borrow_mut().number();
        let addresses = Rc::clone(&self.addresses);
        Caller::new(addresses, at, self.epoch, seed, Rc::clone(&self.errors))
    }

    fn count(&self, tally: &RefCell<Tally>, outcome: &crate::resp::Outcome) {
        tally.borrow_mut().count(outcome);
        if matches!(outcome, crate::resp::Outcome::Answered(..)) {
            self.answered.set(self.answered.get() + 1);
        }
    }
}

/// The load of a run.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Rc<Shared>,
    registers: Rc<registers::Registers>,
    counters: Rc<counters::Counters>,
    pairs: Rc<counters::Counters>,
    native: Rc<native::Native>,
    texts: Rc<texts::Texts>,
    sets: Rc<registers::Registers>,
    bank: Rc<bank::Accounts>,
    locks: Rc<locks::Locks>,
    tasks: Vec<JoinHandle<()>>,
}

/// One workload's result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) tally: Tally,
    pub(crate) findings: Findings,
}

impl Load {
    /// Starts all callers.
    pub(crate) async fn start(cluster: &Cluster, mix: Mix, seed: u64) -> Self {
        let shared = Rc::new(Shared {
            addresses: cluster.resp_addresses(),
            epoch: Instant::now(),
            stop: Cell::new(false),
            answered: Cell::new(0),
            random: RefCell::new(Random::new(seed)),
            errors: Rc::default(),
            pipeline: mix.pipeline,
            unique: Cell::new(0),
        });
        let mut load = Self {
            registers: registers::Registers::new(&shared, registers::Style::Register),
            sets: registers::Registers::new(&shared, registers::Style::Set),
            counters: counters::Counters::new(&shared, counters::Style::Single),
            pairs: counters::Counters::new(&shared, counters::Style::Pair),
            native: native::Native::new(&shared),
            texts: texts::Texts::new(&shared),
            bank: bank::Accounts::new(&shared),
            locks: locks::Locks::new(&shared),
            tasks: Vec::new(),
            shared,
        };
        load.bank.open(&mut load.shared.caller(0)).await;
        load.spawn(mix, cluster).await;
        load
    }

    async fn spawn(&mut self, mix: Mix, cluster: &Cluster) {
        let shared = Rc::clone(&self.shared);
        let mut next = 0;
        let mut caller = || {
            next += 1;
            shared.caller(next)
        };
        macro_rules! start {
            ($($name:ident),*) => {$(
                for _ in 0..mix.$name {
                    self.tasks.push(spawn_local(Rc::clone(&self.$name).run(caller())));
                }
            )*};
        }
        start!(registers, sets, counters, pairs, texts, bank, locks);
        if mix.native > 0 {
            let tasks = self.native.start(cluster, mix.native).await;
            self.tasks.extend(tasks);
        }
    }

    /// Commands answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.get()
    }

    /// Ends the load, waits for what is in flight, lets the cluster settle, and checks everything.
    pub(crate) async fn finish(self, cluster: &Cluster) -> Vec<Row> {
        self.shared.stop.set(true);
        for task in self.tasks {
            task.await.expect("no caller panics");
        }
        let shared = &self.shared;
        let nudge = || async {
            let mut caller = shared.caller(0);
            let nudged = caller.insist(&command(&["INCR", "nudge"]), WHOLE).await;
            assert!(nudged.is_some(), "a healed cluster serves");
        };
        cluster.until_equal(nudge).await;
        let mut caller = shared.caller(0);
        let caller = &mut caller;
        let mut rows = Vec::new();
        macro_rules! verify {
            ($($name:ident: $word:literal),*) => {$(
                let findings = self.$name.verify(caller).await;
                let tally = self.$name.tally();
                rows.push(Row { name: $word, tally, findings });
            )*};
        }
        verify!(
            registers: "register CAS", sets: "set", counters: "counter", pairs: "MULTI",
            native: "counter, native", texts: "append", bank: "bank", locks: "lock, fenced"
        );
        // Errors are counted for all workloads together.
        if let Some(row) = rows.first_mut() {
            row.tally.errors = shared.errors.borrow().errors.clone();
        }
        rows
    }
}

/// Reads a key until it is answered: the cluster is healed by now.
async fn read(caller: &mut Caller, words: &[&str]) -> Reply {
    let reply = caller.insist(&command(words), WHOLE).await;
    reply.unwrap_or_else(|| panic!("a healed cluster answers {words:?}"))
}

/// Groups what belongs to the same key.
fn by_key<T>(pairs: impl IntoIterator<Item = (u64, T)>) -> BTreeMap<u64, Vec<T>> {
    let mut groups: BTreeMap<u64, Vec<T>> = BTreeMap::new();
    for (key, value) in pairs {
        groups.entry(key).or_default().push(value);
    }
    groups
}
