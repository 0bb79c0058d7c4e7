//! Counters that everybody increments; alone, or two at a time in a transaction, so that they must
//! always be equal.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Shared, by_key, read};
use crate::check::counter::Counter;
use crate::check::{Findings, Seen};
use crate::resp::{Caller, Command, Outcome, Reply, Tally, command};

/// How many counters (or pairs of them) there are.
const KEYS: u64 = 8;

/// How a counter is incremented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// INCR, GET.
    Single,
    /// MULTI, INCR, INCR, EXEC; MGET.
    Pair,
}

/// One thing done to a counter, and what became of it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Seen(Seen),
    Unknown(u64),
}

/// The history of all counters.
#[derive(Debug)]
pub(super) struct Counters {
    shared: Rc<Shared>,
    style: Style,
    events: RefCell<Vec<(u64, Event)>>,
    unequal: RefCell<Findings>,
    tally: RefCell<Tally>,
}

impl Counters {
    pub(super) fn new(shared: &Rc<Shared>, style: Style) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            style,
            events: RefCell::default(),
            unequal: RefCell::default(),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// The commands of one operation: the last reply is the one that counts.
    fn commands(&self, key: u64, reads: bool) -> Vec<Command> {
        let (a, b) = (format!("pair:{key}:a"), format!("pair:{key}:b"));
        let single = format!("counter:{key}");
        match (self.style, reads) {
            (Style::Single, true) => vec![command(&["GET", &single])],
            (Style::Single, false) => vec![command(&["INCR", &single])],
            (Style::Pair, true) => vec![command(&["MGET", &a, &b])],
            (Style::Pair, false) => vec![
                command(&["MULTI"]),
                command(&["INCR", &a]),
                command(&["INCR", &b]),
                command(&["EXEC"]),
            ],
        }
    }

    /// Until the run is over.
    pub(super) async fn run(self: Rc<Self>, mut caller: Caller) {
        while !self.shared.stop.get() {
            let mut sent = Vec::new();
            let mut commands = Vec::new();
            for _ in 0..=caller.random.below(self.shared.pipeline) {
                let (key, reads) = (caller.random.below(KEYS), caller.random.below(5) == 0);
                commands.extend(self.commands(key, reads));
                sent.push((key, reads, commands.len() - 1));
            }
            let start = caller.now();
            let outcomes = caller.batch(&commands).await;
            for (key, reads, last) in sent {
                let outcome = &outcomes[last];
                self.shared.count(&self.tally, outcome);
                self.note(key, reads, start, outcome);
            }
        }
    }

    /// The number in an answer, which must be the same twice in a pair.
    fn value(&self, key: u64, reply: &Reply) -> u64 {
        let value = match (self.style, reply) {
            (Style::Single, reply) => reply.number(),
            (Style::Pair, Reply::Array(both)) => {
                let [a, b] = both.as_slice() else {
                    panic!("two numbers: {reply:?}");
                };
                if a != b {
                    let text = format!("pair {key} is not equal: {reply:?}");
                    self.unequal.borrow_mut().wrong(text);
                }
                a.number()
            }
            (Style::Pair, _) => None,
        };
        let value = value.unwrap_or_else(|| panic!("a number: {reply:?}"));
        u64::try_from(value).expect("counters grow from 0")
    }

    fn note(&self, key: u64, reads: bool, start: u64, outcome: &Outcome) {
        let event = match outcome {
            Outcome::Refused => return,
            Outcome::Unknown if reads => return,
            Outcome::Unknown => Event::Unknown(start),
            Outcome::Answered(reply, end) => Event::Seen(Seen {
                start,
                end: *end,
                value: self.value(key, reply),
                made: !reads,
            }),
        };
        self.events.borrow_mut().push((key, event));
    }

    /// Reads every counter once more, and checks.
    pub(super) async fn verify(&self, caller: &mut Caller) -> Findings {
        let mut findings = self.unequal.take();
        for (key, events) in by_key(self.events.take()) {
            let mut counter = Counter::default();
            for event in events {
                match event {
                    Event::Seen(seen) => counter.seen.push(seen),
                    Event::Unknown(start) => counter.unknown.push(start),
                }
            }
            let (single, a, b) = (
                format!("counter:{key}"),
                format!("pair:{key}:a"),
                format!("pair:{key}:b"),
            );
            let words: &[&str] = match self.style {
                Style::Single => &["GET", &single],
                Style::Pair => &["MGET", &a, &b],
            };
            let last = self.value(key, &read(caller, words).await);
            findings.add(counter.check(&format!("{:?} counter {key}", self.style), last));
        }
        findings.add(self.unequal.take());
        findings
    }
}
