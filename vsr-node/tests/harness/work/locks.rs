//! Locks: taken with SET NX, given back with DELIFEQ, and a fencing token drawn by every holder.
//!
//! When nobody knows whether a lock was taken, its owner never uses it; whoever finds it taken by such
//! an owner gives it back.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Shared, by_key};
use crate::check::lock::{self, Hold};
use crate::check::register::{self, Action, Event};
use crate::check::{Findings, NEVER};
use crate::resp::{Caller, Command, Outcome, Reply, Tally, command};

/// How many locks there are at a time.
const KEYS: u64 = 2;
/// Events on one lock before the next is used.
const GENERATION: usize = 400;

/// The history of all locks.
#[derive(Debug)]
pub(super) struct Locks {
    shared: Rc<Shared>,
    events: RefCell<Vec<(u64, Event)>>,
    holds: RefCell<Vec<(u64, Hold)>>,
    /// Owners who may hold a lock and will never know.
    abandoned: RefCell<BTreeSet<u64>>,
    tally: RefCell<Tally>,
}

impl Locks {
    pub(super) fn new(shared: &Rc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            events: RefCell::default(),
            holds: RefCell::default(),
            abandoned: RefCell::default(),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Until the run is over.
    pub(super) async fn run(self: Rc<Self>, mut caller: Caller) {
        while !self.shared.stop.get() {
            let generation = (self.events.borrow().len() / GENERATION) as u64;
            let key = generation * KEYS + caller.random.below(KEYS);
            self.turn(&mut caller, key).await;
        }
    }

    async fn turn(&self, caller: &mut Caller, key: u64) {
        let name = format!("lock:{key}");
        let owner = self.shared.unique();
        let take = command(&["SET", &name, &owner.to_string(), "NX"]);
        let taken = self.swap(caller, key, take, 0, owner).await;
        match taken {
            Outcome::Refused => {}
            Outcome::Unknown => {
                self.abandoned.borrow_mut().insert(owner);
            }
            Outcome::Answered(Reply::Null, _) => self.help(caller, key, &name).await,
            Outcome::Answered(_, from) => {
                let token = self.token(caller, key).await;
                let until = caller.now();
                self.holds.borrow_mut().push((
                    key,
                    Hold {
                        from,
                        until,
                        owner,
                        token,
                    },
                ));
                self.give_back(caller, key, &name, owner).await;
            }
        }
    }

    /// Runs a command that changes the lock from `old` to `new`, or not.
    async fn swap(
        &self,
        caller: &mut Caller,
        key: u64,
        command: Command,
        old: u64,
        new: u64,
    ) -> Outcome {
        let start = caller.now();
        let outcome = caller.batch(&[command]).await.remove(0);
        self.shared.count(&self.tally, &outcome);
        let swapped = match &outcome {
            Outcome::Refused => return outcome,
            Outcome::Unknown => None,
            Outcome::Answered(reply, _) => Some(reply.is_ok() || *reply == Reply::Integer(1)),
        };
        let end = match &outcome {
            Outcome::Answered(_, end) => *end,
            Outcome::Refused | Outcome::Unknown => NEVER,
        };
        let action = Action::Swap { old, new, swapped };
        let event = Event { start, end, action };
        self.events.borrow_mut().push((key, event));
        outcome
    }

    async fn give_back(&self, caller: &mut Caller, key: u64, name: &str, owner: u64) {
        let give = command(&["DELIFEQ", name, &owner.to_string()]);
        let outcome = self.swap(caller, key, give, owner, 0).await;
        if !matches!(outcome, Outcome::Answered(..)) {
            self.abandoned.borrow_mut().insert(owner);
        }
    }

    /// The holder's token, higher than that of every holder before it.
    async fn token(&self, caller: &mut Caller, key: u64) -> Option<u64> {
        let draw = command(&["INCR", &format!("fence:{key}")]);
        let outcome = caller.batch(&[draw]).await.remove(0);
        self.shared.count(&self.tally, &outcome);
        match outcome {
            Outcome::Answered(reply, _) => reply.number().map(|token| token as u64),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// Gives back a lock that is held by somebody who does not know it.
    async fn help(&self, caller: &mut Caller, key: u64, name: &str) {
        let start = caller.now();
        let outcome = caller.batch(&[command(&["GET", name])]).await.remove(0);
        self.shared.count(&self.tally, &outcome);
        let Outcome::Answered(reply, end) = outcome else {
            return;
        };
        let holder = reply.number().expect("an owner") as u64;
        let action = Action::Read(holder);
        let event = Event { start, end, action };
        self.events.borrow_mut().push((key, event));
        let is_abandoned = self.abandoned.borrow().contains(&holder);
        if is_abandoned {
            self.give_back(caller, key, name, holder).await;
        }
    }

    /// Checks both: who held what when, and the lock as a register.
    pub(super) async fn verify(&self, _caller: &mut Caller) -> Findings {
        let mut findings = register::check("lock", by_key(self.events.take()));
        for (key, holds) in by_key(self.holds.take()) {
            findings.add(lock::check(&format!("lock {key}"), holds));
        }
        findings
    }
}
