//! Registers that are read, written and compared-and-set, by value; and a set whose elements everybody
//! tries to be the first to add. Both are checked for linearizability, key by key.
//!
//! The callers move on to fresh keys all the time, because the search grows with the number of unknown
//! outcomes on one key. A caller has at most one command on a key in flight.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Shared, by_key, read};
use crate::check::register::{self, Action, Event};
use crate::check::{Findings, NEVER};
use crate::resp::{Caller, Command, Outcome, Reply, Tally, command};

/// Keys that are in use at a time.
const KEYS: u64 = 128;
/// Commands on them, all together, before the next keys are used.
const GENERATION: u64 = KEYS * 120;

/// What is done to the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// GET, SET, SET IFEQ.
    Register,
    /// SETNX and GET.
    Set,
}

/// The history of all keys.
#[derive(Debug)]
pub(super) struct Registers {
    shared: Rc<Shared>,
    style: Style,
    events: RefCell<Vec<(u64, Event)>>,
    /// What was last seen of the keys in use: what a swap expects.
    known: RefCell<BTreeMap<u64, u64>>,
    sent: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Registers {
    pub(super) fn new(shared: &Rc<Shared>, style: Style) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            style,
            events: RefCell::default(),
            known: RefCell::default(),
            sent: Cell::new(0),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    fn name(&self, key: u64) -> String {
        match self.style {
            Style::Register => format!("register:{key}"),
            Style::Set => format!("element:{key}"),
        }
    }

    /// The next command on `key`, and what it will have done if it is answered well.
    fn draw(&self, caller: &mut Caller, key: u64) -> (Command, Action) {
        let name = self.name(key);
        let (value, dice) = (self.shared.unique(), caller.random.below(10));
        let text = value.to_string();
        if dice < 3 {
            return (command(&["GET", &name]), Action::Read(0));
        }
        let known = self.known.borrow().get(&key).copied();
        let swap = |old| Action::Swap {
            old,
            new: value,
            swapped: None,
        };
        match (self.style, known) {
            (Style::Set, _) => (command(&["SETNX", &name, &text]), swap(0)),
            (Style::Register, Some(old)) if dice < 7 => {
                let old_text = old.to_string();
                (
                    command(&["SET", &name, &text, "IFEQ", &old_text]),
                    swap(old),
                )
            }
            _ => (command(&["SET", &name, &text]), Action::Write(value)),
        }
    }

    /// Until the run is over.
    pub(super) async fn run(self: Rc<Self>, mut caller: Caller) {
        while !self.shared.stop.get() {
            let count = 1 + caller.random.below(self.shared.pipeline.min(KEYS));
            let base = self.sent.get() / GENERATION * KEYS;
            self.sent.set(self.sent.get() + count);
            // Neighbours from a random one on: every key at most once.
            let first = caller.random.below(KEYS);
            let keys: Vec<u64> = (0..count).map(|i| base + (first + i) % KEYS).collect();
            let drawn: Vec<(Command, Action)> = keys
                .iter()
                .map(|&key| self.draw(&mut caller, key))
                .collect();
            let commands: Vec<Command> = drawn.iter().map(|(c, _)| c.clone()).collect();
            let start = caller.now();
            let outcomes = caller.batch(&commands).await;
            for ((key, (_, action)), outcome) in keys.into_iter().zip(drawn).zip(&outcomes) {
                self.shared.count(&self.tally, outcome);
                self.note(key, start, action, outcome);
            }
            let mut known = self.known.borrow_mut();
            *known = known.split_off(&base);
        }
    }

    fn note(&self, key: u64, start: u64, action: Action, outcome: &Outcome) {
        let (end, action) = match (outcome, action) {
            (Outcome::Refused, _) | (Outcome::Unknown, Action::Read(_)) => return,
            (Outcome::Unknown, action) => (NEVER, action),
            (Outcome::Answered(reply, end), Action::Read(_)) => {
                let value = reply.number().expect("a register holds a number");
                (*end, Action::Read(value as u64))
            }
            (Outcome::Answered(reply, end), Action::Write(value)) => {
                assert!(reply.is_ok(), "SET: {reply:?}");
                (*end, Action::Write(value))
            }
            (Outcome::Answered(reply, end), Action::Swap { old, new, .. }) => {
                let swapped = match reply {
                    Reply::Integer(1) => true,
                    Reply::Integer(0) | Reply::Null => false,
                    reply => {
                        assert!(reply.is_ok(), "{reply:?}");
                        true
                    }
                };
                let swapped = Some(swapped);
                (*end, Action::Swap { old, new, swapped })
            }
        };
        let seen = match action {
            Action::Read(value) | Action::Write(value) if value > 0 => Some(value),
            Action::Swap {
                new,
                swapped: Some(true),
                ..
            } => Some(new),
            _ => None,
        };
        if let Some(value) = seen.filter(|_| end != NEVER) {
            self.known.borrow_mut().insert(key, value);
        }
        let event = Event { start, end, action };
        self.events.borrow_mut().push((key, event));
    }

    /// Reads every key once more, and checks.
    pub(super) async fn verify(&self, caller: &mut Caller) -> Findings {
        let mut registers = by_key(self.events.take());
        let keys: Vec<u64> = registers.keys().copied().collect();
        for some in keys.chunks(500) {
            let mut words = vec!["MGET".to_owned()];
            words.extend(some.iter().map(|&key| self.name(key)));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let start = caller.now();
            let Reply::Array(values) = read(caller, &words).await else {
                panic!("MGET returns an array");
            };
            let end = caller.now();
            for (key, value) in some.iter().zip(values) {
                let value = value.number().expect("a register holds a number");
                let action = Action::Read(value as u64);
                let events = registers.get_mut(key).expect("its own key");
                events.push(Event { start, end, action });
            }
        }
        register::check(&self.name(0), registers)
    }
}
