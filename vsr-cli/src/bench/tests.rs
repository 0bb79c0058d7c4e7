//! The load generator against a RESP server in the same process, that can be told to misbehave.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::resp::{self, Value};

/// What the server does instead of answering well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every GET is answered by this error.
    ErrorsOnGet,
    /// WAIT says that nobody acknowledged.
    WaitsForNobody,
    /// Every tenth batch is not answered; the connection is closed instead.
    Hangup,
    /// Answers nothing for this long, once, after the hundredth command.
    StallOnce(Duration),
    /// Answers what is no RESP.
    Garbage,
}

#[derive(Default)]
struct Fake {
    store: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    commands: Cell<u64>,
    connections: Cell<u64>,
    largest_batch: Cell<u64>,
    stalled: Cell<bool>,
}

impl Fake {
    fn answer(&self, words: &[Value], fault: Fault, output: &mut Vec<u8>) {
        self.commands.set(self.commands.get() + 1);
        let word = |index: usize| match &words[index] {
            Value::Bulk(bytes) => bytes.clone(),
            other => panic!("{other:?} is no word of a command"),
        };
        match (word(0).as_slice(), fault) {
            (_, Fault::Garbage) => output.extend_from_slice(b"HTTP/1.1 400\r\n"),
            (b"SET", _) => {
                self.store.borrow_mut().insert(word(1), word(2));
                output.extend_from_slice(b"+OK\r\n");
            }
            (b"GET", Fault::ErrorsOnGet) => output.extend_from_slice(b"-BUSY try again\r\n"),
            (b"GET", _) => match self.store.borrow().get(&word(1)) {
                Some(value) => {
                    output.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                    output.extend_from_slice(value);
                    output.extend_from_slice(b"\r\n");
                }
                None => output.extend_from_slice(b"$-1\r\n"),
            },
            (b"WAIT", Fault::WaitsForNobody) => output.extend_from_slice(b":0\r\n"),
            (b"WAIT", _) => output.extend_from_slice(b":2\r\n"),
            (other, _) => panic!("{other:?} is not part of the load"),
        }
    }

    async fn serve(self: Rc<Self>, mut stream: TcpStream, fault: Fault) {
        stream.set_nodelay(true).expect("a fresh connection");
        let (mut input, mut output) = (Vec::with_capacity(1 << 16), Vec::new());
        let mut batches = 0;
        while stream.read_buf(&mut input).await.is_ok_and(|size| size > 0) {
            let (mut commands, mut taken) = (0, 0);
            while let Ok(Some((Value::Array(words), size))) = resp::parse(&input[taken..]) {
                self.answer(&words, fault, &mut output);
                taken += size;
                commands += 1;
            }
            input.drain(..taken);
            self.largest_batch
                .set(self.largest_batch.get().max(commands));
            batches += 1;
            match fault {
                Fault::Hangup if batches % 10 == 0 => return,
                Fault::StallOnce(length) if self.commands.get() > 100 && !self.stalled.get() => {
                    self.stalled.set(true);
                    tokio::time::sleep(length).await;
                }
                _ => {}
            }
            if stream.write_all(&output).await.is_err() {
                return;
            }
            output.clear();
        }
    }
}

async fn start(fault: Fault) -> (Rc<Fake>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let fake = Rc::new(Fake::default());
    let server = Rc::clone(&fake);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            server.connections.set(server.connections.get() + 1);
            spawn_local(Rc::clone(&server).serve(stream, fault));
        }
    });
    (fake, address)
}

fn plan() -> Plan {
    Plan {
        clients: 4,
        pipeline: 8,
        size: 100,
        keys: 50,
        reads: 0.5,
        rate: None,
        warmup: Duration::from_millis(20),
        duration: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        wait: None,
        seed: 1,
    }
}

/// Runs `plan` against a server with `fault` and returns both.
fn run_against(fault: Fault, plan: &Plan) -> (Rc<Fake>, Rc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let (fake, address) = start(fault).await;
        let loads = (0..plan.clients)
            .map(|c| RespLoad::new(plan, c, address.clone()))
            .collect();
        let shared = drive(plan, loads).await.expect("the server is there");
        (fake, shared)
    })
}

#[test]
fn every_command_of_a_closed_loop_is_answered_and_counted_once() {
    let (fake, shared) = run_against(Fault::None, &plan());
    let recorder = shared.recorder.borrow();
    assert_eq!(recorder.total(), fake.commands.get());
    assert_eq!(recorder.errors_total(), 0);
    assert!(recorder.answers() > 0 && recorder.answers() < recorder.total());
    assert_eq!(
        recorder.latency().len() % 8,
        0,
        "whole batches are measured"
    );
    assert_eq!(fake.connections.get(), 4);
    assert_eq!(
        fake.largest_batch.get(),
        8,
        "a batch is one write, and there is one at a time"
    );
    let keys = fake.store.borrow();
    assert!(keys.len() <= 50 && keys.values().all(|value| value.len() == 100));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let plan = Plan {
        rate: Some(4000.0),
        duration: Duration::from_millis(500),
        ..plan()
    };
    let (fake, shared) = run_against(Fault::None, &plan);
    let recorder = shared.recorder.borrow();
    // 520 ms at 4000 per second in batches of 8.
    assert_eq!(fake.commands.get() + recorder.unsent(), 2080);
    assert!(recorder.answers() > 1000, "{}", recorder.answers());
}

#[test]
fn a_stall_in_an_open_loop_is_seen_by_all_the_batches_it_delays() {
    let stall = Duration::from_millis(200);
    let plan = Plan {
        clients: 1,
        rate: Some(8000.0),
        warmup: Duration::ZERO,
        duration: Duration::from_millis(400),
        ..plan()
    };
    let (_, open) = run_against(Fault::StallOnce(stall), &plan);
    let (_, closed) = run_against(
        Fault::StallOnce(stall),
        &Plan {
            rate: None,
            ..plan.clone()
        },
    );
    let p90 = |shared: &Shared| shared.recorder.borrow().latency().value_at_quantile(0.9) as f64;
    assert!(
        p90(&open) > 50e6,
        "a quarter of the batches wait 100 ms: {} ns",
        p90(&open)
    );
    assert!(
        p90(&closed) < 50e6,
        "a closed loop sees one slow batch: {} ns",
        p90(&closed)
    );
    for shared in [&open, &closed] {
        assert!(shared.recorder.borrow().longest_gap() >= stall);
    }
}

#[test]
fn errors_are_counted_by_their_code_and_not_as_answers() {
    let plan = Plan {
        reads: 1.0,
        ..plan()
    };
    let (fake, shared) = run_against(Fault::ErrorsOnGet, &plan);
    let recorder = shared.recorder.borrow();
    assert_eq!((recorder.answers(), recorder.latency().len()), (0, 0));
    assert!(recorder.errors()["BUSY"] > 0);
    assert!(recorder.errors_total() <= fake.commands.get());
}

#[test]
fn writes_count_only_when_the_wait_has_reached_enough_replicas() {
    let plan = Plan {
        reads: 0.0,
        wait: Some(2),
        ..plan()
    };
    let (fake, shared) = run_against(Fault::None, &plan);
    // Nine commands per batch, of which eight are counted.
    assert_eq!(
        shared.recorder.borrow().total() * 9,
        fake.commands.get() * 8
    );
    assert_eq!(shared.recorder.borrow().errors_total(), 0);
    let (_, shared) = run_against(Fault::WaitsForNobody, &plan);
    assert_eq!(shared.recorder.borrow().total(), 0);
    assert!(shared.recorder.borrow().errors()["WAIT"] > 0);
}

#[test]
fn a_lost_connection_costs_what_was_in_flight_and_is_made_again() {
    let plan = Plan {
        warmup: Duration::ZERO,
        ..plan()
    };
    let (fake, shared) = run_against(Fault::Hangup, &plan);
    let recorder = shared.recorder.borrow();
    let lost = recorder.errors()["connection lost"];
    assert!(lost >= 8 && lost % 8 == 0, "{lost}");
    assert!(recorder.answers() > 0);
    assert_eq!(recorder.total() + lost, fake.commands.get());
    assert!(fake.connections.get() > 4);
}

#[test]
fn garbage_is_a_failure_not_an_answer() {
    let (_, shared) = run_against(Fault::Garbage, &plan());
    assert_eq!(shared.recorder.borrow().total(), 0);
    assert!(shared.recorder.borrow().errors()["garbage"] > 0);
}

#[test]
fn a_batch_larger_than_all_buffers_does_not_block_itself() {
    // 16 MB to the server and as much back, through sockets that hold much less.
    let plan = Plan {
        clients: 1,
        pipeline: 320,
        size: 50_000,
        reads: 0.9,
        keys: 4,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(1),
        timeout: Duration::from_secs(20),
        ..plan()
    };
    let (fake, shared) = run_against(Fault::None, &plan);
    assert_eq!(shared.recorder.borrow().total(), 320);
    assert_eq!(fake.commands.get(), 320);
}

#[test]
fn nobody_there_is_said_with_advice() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let loads = vec![RespLoad::new(&plan(), 0, address)];
        let failure = drive(&plan(), loads).await.expect_err("nobody listens");
        assert!(failure.message().starts_with("cannot connect"), "{failure}");
        assert!(
            failure
                .advice()
                .is_some_and(|advice| advice.contains("--resp"))
        );
    });
}
