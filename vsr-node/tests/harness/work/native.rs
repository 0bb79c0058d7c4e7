//! Counters through the native client, which promises more than Redis can: exactly once, whatever
//! happens in between, without an unknown outcome while it is given time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use vsr_net::{Client, ClientOptions};
use vsr_node::kv::{Opcode, OperationBuilder, ReplyReader};

use super::{Shared, read};
use crate::check::counter::Counter;
use crate::check::{Findings, Seen};
use crate::cluster::{Cluster, WHOLE};
use crate::resp::{Caller, Outcome, Reply, Tally};

const KEY: &str = "native";

/// The history of the counter.
#[derive(Debug)]
pub(super) struct Native {
    shared: Rc<Shared>,
    counter: RefCell<Counter>,
    tally: RefCell<Tally>,
}

impl Native {
    pub(super) fn new(shared: &Rc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            counter: RefCell::default(),
            tally: RefCell::default(),
        })
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Starts `sessions` callers of one client.
    pub(super) async fn start(
        self: &Rc<Self>,
        cluster: &Cluster,
        sessions: usize,
    ) -> Vec<JoinHandle<()>> {
        let options = ClientOptions {
            cluster_name: Some("harness".into()),
            sessions,
            connect_timeout: WHOLE,
            timeout: WHOLE,
            ..ClientOptions::default()
        };
        let client = Client::connect(&cluster.native_addresses(), options)
            .await
            .expect("a whole cluster");
        let run = |index| spawn_local(Rc::clone(self).run(client.clone(), index));
        (0..sessions).map(run).collect()
    }

    async fn run(self: Rc<Self>, client: Client, index: usize) {
        let mut caller = self.shared.caller(index);
        let mut operation = OperationBuilder::new(vec![0; 256]);
        while !self.shared.stop.get() {
            let reads = caller.random.below(5) == 0;
            operation.clear();
            let opcode = if reads { Opcode::Get } else { Opcode::Incr };
            operation
                .push(opcode, &[KEY.as_bytes()])
                .expect("a small operation");
            let start = caller.now();
            let result = if reads {
                client.query(operation.operation()).await
            } else {
                client.execute(operation.operation()).await
            };
            let outcome = match result {
                Ok(reply) => Outcome::Answered(Reply::Integer(number(&reply.body)), caller.now()),
                Err(error) => {
                    let mut tally = self.shared.errors.borrow_mut();
                    tally.error(&format!("(native:\u{a0}{error})").replace(' ', "\u{a0}"));
                    if error.is_outcome_unknown() {
                        Outcome::Unknown
                    } else {
                        Outcome::Refused
                    }
                }
            };
            self.shared.count(&self.tally, &outcome);
            self.note(reads, start, &outcome);
            if !matches!(outcome, Outcome::Answered(..)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn note(&self, reads: bool, start: u64, outcome: &Outcome) {
        let mut counter = self.counter.borrow_mut();
        match outcome {
            Outcome::Refused => {}
            Outcome::Unknown => {
                if !reads {
                    counter.unknown.push(start);
                }
            }
            Outcome::Answered(reply, end) => {
                let value = reply.number().expect("a number") as u64;
                counter.seen.push(Seen {
                    start,
                    end: *end,
                    value,
                    made: !reads,
                });
            }
        }
    }

    /// Reads the counter once more, and checks.
    pub(super) async fn verify(&self, caller: &mut Caller) -> Findings {
        let last = read(caller, &["GET", KEY]).await;
        let last = last.number().expect("a number") as u64;
        self.counter.take().check("the native counter", last)
    }
}

/// The number in the one reply of `body`: `:1`, `$1` and a line with it, or `_`.
fn number(body: &[u8]) -> i64 {
    let mut replies = ReplyReader::parse(body).expect("the machine's reply");
    let reply = replies.next().expect("one command, one reply");
    let text = std::str::from_utf8(reply).expect("a number");
    let line = match text.strip_prefix('$') {
        Some(rest) => rest.split("\r\n").nth(1).unwrap_or_default(),
        None => text.trim_start_matches(':'),
    };
    if text.starts_with('_') {
        return 0;
    }
    line.trim().parse().expect("a number")
}
