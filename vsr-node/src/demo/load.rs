//! The load, and the book that is kept of it.
//!
//! Every connection writes keys that only it writes, so it knows what each of its reads must return;
//! and all of them increment shared counters, where a lost or doubled write shows in the sum. Only
//! what was acknowledged is held against the cluster.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::wire::{Reply, Wire};

/// Connections, spread over all replicas.
pub(super) const CONNECTIONS: usize = 48;
/// Commands that a connection sends before it reads replies.
pub(super) const PIPELINE: usize = 8;
/// The size of a value.
pub(super) const VALUE_SIZE: usize = 128;
/// Keys per connection.
const KEYS: u64 = 500;
/// Counters that all connections share.
const COUNTERS: u64 = 16;
/// How many mistakes are described; more are only counted.
const MISTAKES_SHOWN: usize = 5;

/// What was acknowledged, and what went wrong.
#[derive(Debug)]
pub(super) struct Book {
    /// Acknowledged SETs and INCRs.
    pub(super) writes: u64,
    /// Answered GETs.
    pub(super) reads: u64,
    /// Reads that did not return the last acknowledged value.
    pub(super) stale_reads: u64,
    /// Commands answered with an error.
    pub(super) errors: u64,
    /// Acknowledged increments of each counter.
    increments: [u64; COUNTERS as usize],
    /// Acknowledged value of each key: (connection, key) -> sequence number.
    values: BTreeMap<(usize, u64), u64>,
    /// Nanoseconds from sending a command to its reply.
    pub(super) latency: Histogram<u64>,
    last_write: Option<Instant>,
    /// The longest time without an acknowledged write.
    pub(super) longest_gap: std::time::Duration,
    /// The first few mistakes in words.
    pub(super) mistakes: Vec<String>,
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            writes: 0,
            reads: 0,
            stale_reads: 0,
            errors: 0,
            increments: [0; COUNTERS as usize],
            values: BTreeMap::new(),
            latency: Histogram::new_with_max(60_000_000_000, 3).expect("constants that make sense"),
            last_write: None,
            longest_gap: std::time::Duration::ZERO,
            mistakes: Vec::new(),
        }
    }

    fn mistake(&mut self, text: String) {
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
        match (sent, reply) {
            (_, Reply::Error(text)) => {
                self.errors += 1;
                self.mistake(format!("{sent:?} was answered with an error: {text}"));
            }
            (
                Sent::Set {
                    connection,
                    key,
                    sequence,
                },
                Reply::Simple(ok),
            ) if ok == "OK" => {
                self.values.insert((*connection, *key), *sequence);
                self.wrote(now);
            }
            (Sent::Increment { counter }, Reply::Integer(_)) => {
                self.increments[*counter as usize] += 1;
                self.wrote(now);
            }
            (
                Sent::Get {
                    connection,
                    key,
                    expected,
                },
                Reply::Bulk(_) | Reply::Null,
            ) => {
                self.reads += 1;
                let right = expected.map(|sequence| value(*connection, *key, sequence));
                if bulk(reply) != right.as_deref() {
                    self.stale_reads += 1;
                    self.mistake(format!("{sent:?} returned {}", show(reply)));
                }
            }
            _ => {
                self.errors += 1;
                self.mistake(format!("{sent:?} was answered with {}", show(reply)));
            }
        }
    }
}

/// A command on its way.
#[derive(Clone, Debug)]
enum Sent {
    Set {
        connection: usize,
        key: u64,
        sequence: u64,
    },
    Increment {
        counter: u64,
    },
    Get {
        connection: usize,
        key: u64,
        expected: Option<u64>,
    },
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

fn key_name(connection: usize, key: u64) -> String {
    format!("demo:{connection}:{key}")
}

fn counter_name(counter: u64) -> String {
    format!("demo:counter:{counter}")
}

/// Every value says whose it is, so that one in the wrong place is recognised.
fn value(connection: usize, key: u64, sequence: u64) -> Vec<u8> {
    let mut value = format!("{connection}/{key}/{sequence}").into_bytes();
    value.resize(VALUE_SIZE, b'.');
    value
}

/// One connection's share of the load, until `deadline`.
pub(super) async fn run(
    connection: usize,
    address: String,
    deadline: Instant,
    book: Rc<RefCell<Book>>,
) -> io::Result<()> {
    let mut wire = Wire::connect(&address).await?;
    let mut random = vsr_net::Random::new(connection as u64 + 1);
    // The value that each key has once everything sent so far is done: replies keep their order.
    let mut written: BTreeMap<u64, u64> = BTreeMap::new();
    let mut sequence = 0;
    while Instant::now() < deadline {
        let mut pipeline = Vec::with_capacity(PIPELINE);
        for _ in 0..PIPELINE {
            let key = random.below(KEYS);
            match random.below(10) {
                0..5 => {
                    sequence += 1;
                    written.insert(key, sequence);
                    let (name, value) =
                        (key_name(connection, key), value(connection, key, sequence));
                    wire.queue(&[b"SET", name.as_bytes(), &value]);
                    pipeline.push(Sent::Set {
                        connection,
                        key,
                        sequence,
                    });
                }
                5..7 => {
                    let counter = key % COUNTERS;
                    wire.queue(&[b"INCR", counter_name(counter).as_bytes()]);
                    pipeline.push(Sent::Increment { counter });
                }
                _ => {
                    let expected = written.get(&key).copied();
                    wire.queue(&[b"GET", key_name(connection, key).as_bytes()]);
                    pipeline.push(Sent::Get {
                        connection,
                        key,
                        expected,
                    });
                }
            }
        }
        let since = Instant::now();
        wire.flush().await?;
        for sent in &pipeline {
            let reply = wire.reply().await?;
            book.borrow_mut()
                .answer(sent, &reply, since, Instant::now());
        }
    }
    Ok(())
}

/// What reading everything back has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Acknowledged writes that are not there.
    pub(super) lost: u64,
    /// Increments that were done although nobody was told so, or twice.
    pub(super) doubled: u64,
    /// How many values and counters were compared.
    pub(super) compared: u64,
}

/// Reads every acknowledged write back through `address` and compares.
pub(super) async fn verify(book: &Book, address: &str) -> io::Result<Verdict> {
    let mut wire = Wire::connect(address).await?;
    let mut verdict = Verdict::default();
    let entries: Vec<_> = book.values.iter().collect();
    for chunk in entries.chunks(100) {
        for ((connection, key), _) in chunk {
            wire.queue(&[b"GET", key_name(*connection, *key).as_bytes()]);
        }
        wire.flush().await?;
        for ((connection, key), sequence) in chunk {
            let right = value(*connection, *key, **sequence);
            verdict.lost += u64::from(bulk(&wire.reply().await?) != Some(right.as_slice()));
            verdict.compared += 1;
        }
    }
    for (counter, acknowledged) in (0..COUNTERS).zip(book.increments) {
        let reply = wire
            .call(&[b"GET", counter_name(counter).as_bytes()])
            .await?;
        let text = bulk(&reply)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("0");
        let found: u64 = text.parse().unwrap_or(0);
        verdict.lost += acknowledged.saturating_sub(found);
        verdict.doubled += found.saturating_sub(acknowledged);
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

    fn answered(sent: Sent, reply: Reply) -> Book {
        let mut book = Book::new();
        let now = Instant::now();
        book.answer(&sent, &reply, now, now);
        book
    }

    #[test]
    fn a_wrong_value_is_noticed_whatever_it_is() {
        let get = |expected| Sent::Get {
            connection: 1,
            key: 2,
            expected,
        };
        let right = answered(get(Some(3)), Reply::Bulk(value(1, 2, 3)));
        assert_eq!((right.reads, right.stale_reads), (1, 0));
        for wrong in [
            Reply::Null,
            Reply::Bulk(value(1, 2, 2)),
            Reply::Bulk(value(2, 2, 3)),
        ] {
            assert_eq!(answered(get(Some(3)), wrong).stale_reads, 1);
        }
        assert_eq!(answered(get(None), Reply::Null).stale_reads, 0);
        assert_eq!(
            answered(get(None), Reply::Bulk(value(1, 2, 1))).stale_reads,
            1
        );
    }

    #[test]
    fn only_what_was_acknowledged_counts() {
        let set = Sent::Set {
            connection: 0,
            key: 0,
            sequence: 1,
        };
        let book = answered(set.clone(), Reply::Error("BUSY".into()));
        assert_eq!((book.writes, book.errors, book.values.len()), (0, 1, 0));
        assert!(book.mistakes[0].contains("BUSY"));
        let book = answered(set, Reply::Simple("OK".into()));
        assert_eq!((book.writes, book.errors, book.values.len()), (1, 0, 1));
        let book = answered(Sent::Increment { counter: 3 }, Reply::Integer(1));
        assert_eq!(book.increments[3], 1);
    }
}
