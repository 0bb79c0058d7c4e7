//! Transfers between accounts: blind ones in a transaction, and careful ones that WATCH what they read.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Shared, read};
use crate::check::Findings;
use crate::check::bank::{Bank, Move, Snapshot};
use crate::cluster::WHOLE;
use crate::resp::{Caller, Command, Outcome, Reply, Tally, command};

const ACCOUNTS: usize = 8;
const EACH: i64 = 1000;
const VERSION: &str = "bank:version";

/// The history of all accounts.
#[derive(Debug)]
pub(super) struct Accounts {
    shared: Rc<Shared>,
    bank: RefCell<Bank>,
    tally: RefCell<Tally>,
}

/// A transfer that is tried.
#[derive(Clone, Copy, Debug)]
struct Plan {
    from: usize,
    to: usize,
    amount: i64,
}

fn name(account: usize) -> String {
    format!("bank:{account}")
}

fn snapshot_words() -> Vec<String> {
    let mut words = vec!["MGET".to_owned()];
    words.extend((0..ACCOUNTS).map(name));
    words.push(VERSION.to_owned());
    words
}

fn snapshot(start: u64, end: u64, reply: &Reply) -> Snapshot {
    let Reply::Array(values) = reply else {
        panic!("MGET returns an array: {reply:?}");
    };
    let mut numbers: Vec<i64> = values
        .iter()
        .map(|value| value.number().expect("a number"))
        .collect();
    let version = numbers.pop().expect("the version is the last") as u64;
    Snapshot {
        start,
        end,
        version,
        balances: numbers,
    }
}

impl Accounts {
    pub(super) fn new(shared: &Rc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            bank: RefCell::default(),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Puts the money into the accounts.
    pub(super) async fn open(&self, caller: &mut Caller) {
        let mut words = vec!["MSET".to_owned()];
        for account in 0..ACCOUNTS {
            words.extend([name(account), EACH.to_string()]);
        }
        let opened = caller.insist(&command(&words), WHOLE).await;
        assert!(opened.is_some_and(|reply| reply.is_ok()), "the bank opens");
    }

    /// Until the run is over.
    pub(super) async fn run(self: Rc<Self>, mut caller: Caller) {
        while !self.shared.stop.get() {
            match caller.random.below(10) {
                0..3 => self.look(&mut caller).await,
                3..7 => self.blind(&mut caller).await,
                _ => self.careful(&mut caller).await,
            }
        }
    }

    fn plan(caller: &mut Caller) -> Plan {
        let from = caller.random.below(ACCOUNTS as u64) as usize;
        let distance = 1 + caller.random.below(ACCOUNTS as u64 - 1) as usize;
        Plan {
            from,
            to: (from + distance) % ACCOUNTS,
            amount: 1 + caller.random.below(50) as i64,
        }
    }

    async fn look(&self, caller: &mut Caller) {
        let start = caller.now();
        let outcomes = caller.batch(&[command(&snapshot_words())]).await;
        self.shared.count(&self.tally, &outcomes[0]);
        if let Outcome::Answered(reply, end) = &outcomes[0] {
            let snapshot = snapshot(start, *end, reply);
            self.bank.borrow_mut().snapshots.push(snapshot);
        }
    }

    /// A transfer by difference: it may always happen.
    async fn blind(&self, caller: &mut Caller) {
        let plan = Self::plan(caller);
        let amount = plan.amount.to_string();
        let commands = [
            command(&["DECRBY", &name(plan.from), &amount]),
            command(&["INCRBY", &name(plan.to), &amount]),
        ];
        let start = caller.now();
        let outcome = transaction(caller, commands).await;
        self.note(plan, start, &outcome, |from, to| {
            ((from + plan.amount, to - plan.amount), (from, to))
        });
    }

    /// A transfer by value: it may happen only if nobody came in between.
    async fn careful(&self, caller: &mut Caller) {
        let plan = Self::plan(caller);
        let (from, to) = (name(plan.from), name(plan.to));
        let look = [
            command(&["WATCH", &from, &to]),
            command(&["GET", &from]),
            command(&["GET", &to]),
        ];
        let looked = caller.batch(&look).await;
        let [
            Outcome::Answered(..),
            Outcome::Answered(from_reply, _),
            Outcome::Answered(to_reply, _),
        ] = looked.as_slice()
        else {
            return; // nothing was changed
        };
        let before = (
            from_reply.number().expect("a balance"),
            to_reply.number().expect("a balance"),
        );
        let after = (before.0 - plan.amount, before.1 + plan.amount);
        let commands = [
            command(&["SET", &from, &after.0.to_string()]),
            command(&["SET", &to, &after.1.to_string()]),
        ];
        let start = caller.now();
        let outcome = transaction(caller, commands).await;
        self.note(plan, start, &outcome, |_, _| (before, after));
    }

    fn note(
        &self,
        plan: Plan,
        start: u64,
        outcome: &Outcome,
        balances: impl Fn(i64, i64) -> ((i64, i64), (i64, i64)),
    ) {
        self.shared.count(&self.tally, outcome);
        let mut bank = self.bank.borrow_mut();
        match outcome {
            Outcome::Refused | Outcome::Answered(Reply::Null, _) => {}
            Outcome::Unknown => bank.unknown.push(start),
            Outcome::Answered(Reply::Array(replies), end) => {
                let [from, to, version] = replies.as_slice() else {
                    panic!("three commands, three replies: {replies:?}");
                };
                // Of a transfer by value these are no numbers, and are not looked at.
                let seen = (from.number().unwrap_or(0), to.number().unwrap_or(0));
                let (before, after) = balances(seen.0, seen.1);
                bank.moves.push(Move {
                    start,
                    end: *end,
                    version: version.number().expect("a version") as u64,
                    from: plan.from,
                    to: plan.to,
                    before,
                    after,
                });
            }
            Outcome::Answered(reply, _) => panic!("EXEC: {reply:?}"),
        }
    }

    /// Reads everything once more, and checks.
    pub(super) async fn verify(&self, caller: &mut Caller) -> Findings {
        let words = snapshot_words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let start = caller.now();
        let last = read(caller, &words).await;
        let last = snapshot(start, caller.now(), &last);
        self.bank.take().check(EACH, last)
    }
}

/// Executes two commands and the next version as one; the outcome is that of EXEC.
async fn transaction(caller: &mut Caller, [first, second]: [Command; 2]) -> Outcome {
    let commands = [
        command(&["MULTI"]),
        first,
        second,
        command(&["INCR", VERSION]),
        command(&["EXEC"]),
    ];
    let mut outcomes = caller.batch(&commands).await;
    outcomes.pop().expect("one outcome per command")
}
