//! The load, and the book that is kept of it.
//!
//! All connections write and read the same registers, half of the time a few of them, and increment the
//! same counters. A connection that breaks is opened again at the next replica; what it had not been
//! answered may have happened or not, and is counted as that.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep};

use super::history::{Counter, Register, Time};
use super::wire::{Reply, Wire};

/// Connections, spread over all replicas.
pub(super) const CONNECTIONS: usize = 48;
/// Commands that a connection sends before it reads replies.
pub(super) const PIPELINE: usize = 8;
/// The size of a value.
pub(super) const VALUE_SIZE: usize = 128;
/// Registers that everybody writes and reads.
const REGISTERS: u64 = 20_000;
/// Those among them that get half of the load.
const BUSY_REGISTERS: u64 = 64;
/// Counters that all connections share.
const COUNTERS: u64 = 16;
/// How many mistakes are described; more are only counted.
const MISTAKES_SHOWN: usize = 5;
/// The pause after an attempt to connect to a replica that is not there.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);

/// What was acknowledged, and what went wrong.
#[derive(Debug)]
pub(super) struct Book {
    start: Instant,
    /// Acknowledged SETs and INCRs.
    pub(super) writes: u64,
    /// Answered GETs.
    pub(super) reads: u64,
    /// Commands answered with an error, or with something that is no answer to them.
    pub(super) errors: u64,
    /// Commands that were not answered because their connection broke.
    pub(super) unanswered: u64,
    /// Connections that broke, by replica.
    pub(super) broken: Vec<u64>,
    registers: Vec<Register>,
    counters: Vec<Counter>,
    /// Nanoseconds from sending a command to its reply.
    pub(super) latency: Histogram<u64>,
    last_write: Option<Instant>,
    /// The longest time without an acknowledged write.
    pub(super) longest_gap: Duration,
    /// The first few mistakes in words.
    pub(super) mistakes: Vec<String>,
}

impl Book {
    pub(super) fn new(replicas: usize) -> Self {
        Self {
            start: Instant::now(),
            writes: 0,
            reads: 0,
            errors: 0,
            unanswered: 0,
            broken: vec![0; replicas],
            registers: vec![Register::default(); REGISTERS as usize],
            counters: vec![Counter::default(); COUNTERS as usize],
            latency: Histogram::new_with_max(60_000_000_000, 3).expect("constants that make sense"),
            last_write: None,
            longest_gap: Duration::ZERO,
            mistakes: Vec::new(),
        }
    }

    fn time(&self, at: Instant) -> Time {
        Time::try_from((at - self.start).as_nanos()).unwrap_or(Time::MAX - 1)
    }

    fn mistake(&mut self, text: String) {
        self.errors += 1;
        if self.mistakes.len() < MISTAKES_SHOWN {
            self.mistakes.push(text);
        }
    }

    fn wrote(&mut self, now: Instant) {
        self.writes += 1;
        if let Some(last) = self.last_write.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// Counts the reply to `sent`.
    fn answer(&mut self, sent: &Sent, reply: &Reply, since: Instant, now: Instant) {
        let nanos = u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
        let (start, end) = (self.time(since), self.time(now));
        match (*sent, reply) {
            (Sent::Set { register, value }, Reply::Simple(ok)) if ok == "OK" => {
                self.registers[register as usize].wrote(value, end);
                self.wrote(now);
            }
            (Sent::Increment { counter, floor }, &Reply::Integer(result)) => {
                let result = u64::try_from(result).unwrap_or(0);
                self.counters[counter as usize].returned(result, floor);
                self.wrote(now);
            }
            (Sent::Get { register }, Reply::Bulk(_) | Reply::Null) => {
                self.reads += 1;
                match value_in(reply, register) {
                    Some(value) => self.registers[register as usize].read(value, start, end),
                    None => self.mistake(format!("{sent:?} returned {}", show(reply))),
                }
            }
            _ => self.mistake(format!("{sent:?} was answered with {}", show(reply))),
        }
    }

    /// Nobody will ever know what became of `sent`.
    fn no_answer(&mut self, sent: &Sent) {
        self.unanswered += 1;
        if let Sent::Increment { counter, .. } = *sent {
            self.counters[counter as usize].not_answered();
        }
    }

    /// What cannot be in the history of all registers and counters.
    pub(super) fn anomalies(&self) -> u64 {
        let registers: u64 = self.registers.iter().map(Register::anomalies).sum();
        let counters: u64 = self.counters.iter().map(Counter::anomalies).sum();
        registers + counters
    }

    /// How many values were written into registers.
    pub(super) fn values(&self) -> u64 {
        self.registers.iter().map(Register::values).sum()
    }
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Set { register: u64, value: u32 },
    Increment { counter: u64, floor: u64 },
    Get { register: u64 },
}

fn bulk(reply: &Reply) -> Option<&[u8]> {
    match reply {
        Reply::Bulk(bytes) => Some(bytes),
        _ => None,
    }
}

fn show(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes)
            .trim_end_matches('.')
            .to_owned(),
        other => format!("{other:?}"),
    }
}

fn register_name(register: u64) -> String {
    format!("demo:{register}")
}

fn counter_name(counter: u64) -> String {
    format!("demo:counter:{counter}")
}

/// Every value says whose it is, so that one in the wrong place is recognised.
fn value_text(register: u64, value: u32) -> Vec<u8> {
    let mut text = format!("{register}/{value}").into_bytes();
    text.resize(VALUE_SIZE, b'.');
    text
}

/// The number of the value that a read of `register` has returned; none: that is no value of it.
fn value_in(reply: &Reply, register: u64) -> Option<u32> {
    if *reply == Reply::Null {
        return Some(0);
    }
    let bytes = bulk(reply)?;
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('.');
    let value = text.split_once('/')?.1.parse().ok()?;
    (bytes == value_text(register, value)).then_some(value)
}

/// One connection's share of the load, until `deadline`. It begins at the replica of its number.
pub(super) async fn run(
    number: usize,
    addresses: Rc<[String]>,
    deadline: Instant,
    book: Rc<RefCell<Book>>,
) {
    let mut random = vsr_net::Random::new(number as u64 + 1);
    let mut replica = number % addresses.len();
    while Instant::now() < deadline {
        match Wire::connect(&addresses[replica]).await {
            Ok(mut wire) => {
                if converse(&mut wire, &mut random, deadline, &book)
                    .await
                    .is_err()
                {
                    book.borrow_mut().broken[replica] += 1;
                }
            }
            Err(_) => sleep(CONNECT_AGAIN).await,
        }
        replica = (replica + 1) % addresses.len();
    }
}

/// Commands over one connection, until `deadline` or until it breaks.
async fn converse(
    wire: &mut Wire,
    random: &mut vsr_net::Random,
    deadline: Instant,
    book: &RefCell<Book>,
) -> io::Result<()> {
    while Instant::now() < deadline {
        let since = Instant::now();
        let pipeline: Vec<Sent> = (0..PIPELINE)
            .map(|_| queue_one(wire, random, since, &mut book.borrow_mut()))
            .collect();
        let mut broken = wire.flush().await;
        for sent in &pipeline {
            let reply = match broken {
                Ok(()) => wire.reply().await,
                Err(error) => Err(error),
            };
            let mut book = book.borrow_mut();
            broken = match reply {
                Ok(reply) => {
                    book.answer(sent, &reply, since, Instant::now());
                    Ok(())
                }
                Err(error) => {
                    book.no_answer(sent);
                    Err(error)
                }
            };
        }
        broken?;
    }
    Ok(())
}

/// Half SET, a fifth INCR, the rest GET.
fn queue_one(
    wire: &mut Wire,
    random: &mut vsr_net::Random,
    since: Instant,
    book: &mut Book,
) -> Sent {
    let among = if random.below(2) == 0 {
        BUSY_REGISTERS
    } else {
        REGISTERS
    };
    let register = random.below(among);
    match random.below(10) {
        0..5 => {
            let start = book.time(since);
            let value = book.registers[register as usize].write(start);
            let text = value_text(register, value);
            wire.queue(&[b"SET", register_name(register).as_bytes(), &text]);
            Sent::Set { register, value }
        }
        5..7 => {
            let counter = register % COUNTERS;
            let floor = book.counters[counter as usize].floor();
            wire.queue(&[b"INCR", counter_name(counter).as_bytes()]);
            Sent::Increment { counter, floor }
        }
        _ => {
            wire.queue(&[b"GET", register_name(register).as_bytes()]);
            Sent::Get { register }
        }
    }
}

/// What reading everything back has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Acknowledged writes that are not there.
    pub(super) lost: u64,
    /// Increments that were done twice.
    pub(super) doubled: u64,
    /// How many values and counters were compared.
    pub(super) compared: u64,
}

/// Reads everything back through `address` and compares.
pub(super) async fn verify(book: &Book, address: &str) -> io::Result<Verdict> {
    let mut wire = Wire::connect(address).await?;
    let mut verdict = Verdict::default();
    let used: Vec<(u64, &Register)> = (0..)
        .zip(&book.registers)
        .filter(|(_, register)| register.is_used())
        .collect();
    for some in used.chunks(100) {
        for (name, _) in some {
            wire.queue(&[b"GET", register_name(*name).as_bytes()]);
        }
        wire.flush().await?;
        for (name, register) in some {
            let value = value_in(&wire.reply().await?, *name);
            let is_right = value.is_some_and(|value| register.may_end_with(value));
            verdict.lost += u64::from(!is_right);
            verdict.compared += 1;
        }
    }
    for (name, counter) in (0..).zip(&book.counters) {
        let reply = wire.call(&[b"GET", counter_name(name).as_bytes()]).await?;
        let text = bulk(&reply).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let found: u64 = text.unwrap_or("0").parse().unwrap_or(0);
        verdict.lost += counter.lost(found);
        verdict.doubled += counter.doubled(found);
        verdict.compared += 1;
    }
    Ok(verdict)
}

/// One more write, so that time goes on in the log.
pub(super) async fn tick(address: &str) -> io::Result<()> {
    match Wire::connect(address)
        .await?
        .call(&[b"INCR", b"demo:tick"])
        .await?
    {
        Reply::Integer(_) => Ok(()),
        other => Err(io::Error::other(format!(
            "INCR was answered with {}",
            show(&other)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A book after one SET of register 1, with this reply to a GET that followed it.
    fn after_a_set(reply: Reply) -> Book {
        let mut book = Book::new(3);
        let at = |ms| book.start + Duration::from_millis(ms);
        let (begin, end, later, last) = (at(1), at(2), at(3), at(4));
        let value = book.registers[1].write(1_000_000);
        let set = Sent::Set { register: 1, value };
        book.answer(&set, &Reply::Simple("OK".into()), begin, end);
        book.answer(&Sent::Get { register: 1 }, &reply, later, last);
        book
    }

    #[test]
    fn a_wrong_value_is_noticed_whatever_it_is() {
        let right = after_a_set(Reply::Bulk(value_text(1, 1)));
        assert_eq!((right.reads, right.errors, right.anomalies()), (1, 0, 0));
        assert_eq!(
            after_a_set(Reply::Null).anomalies(),
            1,
            "it is not absent any more"
        );
        assert_eq!(after_a_set(Reply::Bulk(value_text(1, 2))).anomalies(), 1);
        let of_another = after_a_set(Reply::Bulk(value_text(2, 1)));
        assert_eq!(of_another.errors, 1);
        assert!(of_another.mistakes[0].contains("2/1"), "{of_another:?}");
        assert_eq!(
            after_a_set(Reply::Bulk(b"1/1".to_vec())).errors,
            1,
            "cut off"
        );
    }

    #[test]
    fn only_what_was_acknowledged_counts() {
        let now = Instant::now();
        let mut book = Book::new(3);
        let set = Sent::Set {
            register: 0,
            value: book.registers[0].write(0),
        };
        book.answer(&set, &Reply::Error("BUSY".into()), now, now);
        assert_eq!((book.writes, book.errors), (0, 1));
        assert!(book.mistakes[0].contains("BUSY"));
        assert!(book.registers[0].may_end_with(0), "it need not be there");
        book.answer(&set, &Reply::Simple("OK".into()), now, now);
        assert_eq!((book.writes, book.errors), (1, 1));
        let increment = Sent::Increment {
            counter: 3,
            floor: 0,
        };
        book.no_answer(&increment);
        book.answer(&increment, &Reply::Integer(1), now, now);
        assert_eq!((book.unanswered, book.counters[3].doubled(2)), (1, 0));
        assert_eq!(book.counters[3].doubled(3), 1);
    }
}
