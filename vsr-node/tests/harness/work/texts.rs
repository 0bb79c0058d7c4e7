//! Texts that everybody appends unique elements to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Shared, by_key, read};
use crate::check::append::{Append, EMPTY, Look, Text, encode, hash};
use crate::check::{Findings, NEVER};
use crate::resp::{Caller, Outcome, Reply, Tally, command};

/// Texts in use at a time.
const KEYS: u64 = 16;
/// Elements in all of them before new ones are begun: they are read as a whole.
const GENERATION: u64 = KEYS * 100;

#[derive(Clone, Copy, Debug)]
enum Event {
    Append(Append),
    Look(Look),
}

/// The history of all texts.
#[derive(Debug)]
pub(super) struct Texts {
    shared: Rc<Shared>,
    events: RefCell<Vec<(u64, Event)>>,
    sent: Cell<u64>,
    tally: RefCell<Tally>,
}

fn name(key: u64) -> String {
    format!("text:{key}")
}

fn bytes(reply: &Reply) -> &[u8] {
    match reply {
        Reply::Bulk(bytes) => bytes,
        Reply::Null => &[],
        reply => panic!("a text: {reply:?}"),
    }
}

impl Texts {
    pub(super) fn new(shared: &Rc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            events: RefCell::default(),
            sent: Cell::new(0),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Until the run is over.
    pub(super) async fn run(self: Rc<Self>, mut caller: Caller) {
        while !self.shared.stop.get() {
            let count = 1 + caller.random.below(self.shared.pipeline);
            let base = self.sent.get() / GENERATION * KEYS;
            self.sent.set(self.sent.get() + count);
            let mut sent = Vec::new();
            let mut commands = Vec::new();
            for _ in 0..count {
                let key = base + caller.random.below(KEYS);
                let element = (caller.random.below(20) > 0).then(|| self.shared.unique());
                commands.push(match element {
                    Some(element) => command(&["APPEND", &name(key), &encode(element)]),
                    None => command(&["GET", &name(key)]),
                });
                sent.push((key, element));
            }
            let start = caller.now();
            let outcomes = caller.batch(&commands).await;
            for ((key, element), outcome) in sent.into_iter().zip(&outcomes) {
                self.shared.count(&self.tally, outcome);
                if let Some(event) = event(start, element, outcome) {
                    self.events.borrow_mut().push((key, event));
                }
            }
        }
    }

    /// Reads every text once more, and checks.
    pub(super) async fn verify(&self, caller: &mut Caller) -> Findings {
        let mut findings = Findings::default();
        for (key, events) in by_key(self.events.take()) {
            let mut text = Text::default();
            for event in events {
                match event {
                    Event::Append(append) => text.appends.push(append),
                    Event::Look(look) => text.looks.push(look),
                }
            }
            let last = read(caller, &["GET", &name(key)]).await;
            findings.add(text.check(&name(key), bytes(&last)));
        }
        findings
    }
}

fn event(start: u64, element: Option<u64>, outcome: &Outcome) -> Option<Event> {
    match (element, outcome) {
        (_, Outcome::Refused) | (None, Outcome::Unknown) => None,
        (Some(element), Outcome::Unknown) => Some(Event::Append(Append {
            start,
            end: NEVER,
            element,
            length: None,
        })),
        (Some(element), Outcome::Answered(reply, end)) => Some(Event::Append(Append {
            start,
            end: *end,
            element,
            length: Some(reply.number().expect("a length") as u64),
        })),
        (None, Outcome::Answered(reply, end)) => Some(Event::Look(Look {
            start,
            end: *end,
            length: bytes(reply).len() as u64,
            hash: hash(EMPTY, bytes(reply)),
        })),
    }
}
