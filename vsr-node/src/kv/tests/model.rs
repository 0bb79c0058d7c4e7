//! Thousands of random commands, against a model that is too simple to be wrong.

use super::support::{Fixture, Random, assert_identical, only, pack};
use std::collections::BTreeMap;
use vsr_consensus::StateMachine as _;

type Bytes = Vec<u8>;

/// A map and a clock.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Bytes, (Bytes, u64)>,
}

fn bulk(value: Option<&[u8]>) -> Bytes {
    match value {
        None => b"_\r\n".to_vec(),
        Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
    }
}

fn number(value: i64) -> Bytes {
    format!(":{value}\r\n").into_bytes()
}

fn ok() -> Bytes {
    b"+OK\r\n".to_vec()
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Model {
    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|(value, _)| value.as_slice())
    }

    fn deadline(&self, key: &[u8]) -> u64 {
        self.entries.get(key).map_or(0, |(_, deadline)| *deadline)
    }

    fn set(&mut self, key: &[u8], value: Bytes, deadline: u64) {
        self.entries.insert(key.to_vec(), (value, deadline));
    }

    fn expire(&mut self, now: u64) {
        self.entries
            .retain(|_, (_, deadline)| *deadline == 0 || *deadline > now);
    }

    /// Executes a command line whose syntax is right.
    fn run(&mut self, words: &[Bytes], now: u64) -> Bytes {
        self.expire(now);
        let key = words.get(1).cloned().unwrap_or_default();
        let old = self.value(&key).map(<[u8]>::to_vec);
        match std::str::from_utf8(&words[0]).expect("a name") {
            "get" => bulk(old.as_deref()),
            "strlen" => number(old.map_or(0, |old| old.len()) as i64),
            "exists" => number(
                words[1..]
                    .iter()
                    .filter(|key| self.value(key).is_some())
                    .count() as i64,
            ),
            "dbsize" => number(self.entries.len() as i64),
            "pttl" => number(match (old, self.deadline(&key)) {
                (None, _) => -2,
                (_, 0) => -1,
                (_, deadline) => (deadline - now) as i64,
            }),
            "mget" => {
                let values = words[1..].iter().map(|key| bulk(self.value(key)));
                [format!("*{}\r\n", words.len() - 1).into_bytes()]
                    .into_iter()
                    .chain(values)
                    .flatten()
                    .collect()
            }
            _ => self.write(words, now, &key, old.as_deref()),
        }
    }

    fn write(&mut self, words: &[Bytes], now: u64, key: &[u8], old: Option<&[u8]>) -> Bytes {
        let kept = self.deadline(key);
        let argument = |index: usize| words[index].clone();
        match std::str::from_utf8(&words[0]).expect("a name") {
            "set" => {
                let deadline = words
                    .get(4)
                    .map_or(0, |ttl| now + integer(ttl).expect("a time") as u64);
                self.set(key, argument(2), deadline);
                ok()
            }
            "setnx" => {
                if old.is_none() {
                    self.set(key, argument(2), 0);
                }
                number(i64::from(old.is_none()))
            }
            "getset" => {
                self.set(key, argument(2), 0);
                bulk(old)
            }
            "append" => {
                let value = [old.unwrap_or_default(), &words[2]].concat();
                let size = value.len() as i64;
                self.set(key, value, kept);
                number(size)
            }
            "setrange" => self.set_range(words, key, old),
            "incrby" => match old.map_or(Some(0), integer) {
                None => b"-ERR value is not an integer or out of range\r\n".to_vec(),
                Some(old) => {
                    let new = old + integer(&words[2]).expect("a number");
                    self.set(key, new.to_string().into_bytes(), kept);
                    number(new)
                }
            },
            "mset" => {
                for pair in words[1..].chunks(2) {
                    self.set(&pair[0], pair[1].clone(), 0);
                }
                ok()
            }
            _ => self.write_keys(words, now, key, old),
        }
    }

    fn set_range(&mut self, words: &[Bytes], key: &[u8], old: Option<&[u8]>) -> Bytes {
        let (at, data) = (integer(&words[2]).expect("a number") as usize, &words[3]);
        let mut value = old.unwrap_or_default().to_vec();
        if !data.is_empty() {
            value.resize(value.len().max(at + data.len()), 0);
            value[at..at + data.len()].copy_from_slice(data);
            let kept = self.deadline(key);
            self.set(key, value.clone(), kept);
        }
        number(value.len() as i64)
    }

    fn write_keys(&mut self, words: &[Bytes], now: u64, key: &[u8], old: Option<&[u8]>) -> Bytes {
        match std::str::from_utf8(&words[0]).expect("a name") {
            "del" => {
                let gone = words[1..]
                    .iter()
                    .filter(|key| self.entries.remove(*key).is_some());
                number(gone.count() as i64)
            }
            "getdel" => {
                self.entries.remove(key);
                bulk(old)
            }
            "pexpire" => {
                if let Some(value) = old {
                    let deadline = now as i64 + integer(&words[2]).expect("a time");
                    self.set(key, value.to_vec(), deadline as u64);
                }
                number(i64::from(old.is_some()))
            }
            "persist" => {
                let had = self.deadline(key) != 0;
                if let Some(value) = old {
                    self.set(key, value.to_vec(), 0);
                }
                number(i64::from(had))
            }
            "rename" => {
                let Some(entry) = self.entries.remove(key) else {
                    return b"-ERR no such key\r\n".to_vec();
                };
                self.entries.insert(words[2].clone(), entry);
                ok()
            }
            "copy" => {
                let copies = old.is_some() && self.value(&words[2]).is_none();
                if copies {
                    let entry = self.entries[key].clone();
                    self.entries.insert(words[2].clone(), entry);
                }
                number(i64::from(copies))
            }
            "flushall" => {
                self.entries.clear();
                ok()
            }
            other => panic!("{other} is not in the model"),
        }
    }
}

/// A command line; values up to `size_max`.
fn command(random: &mut Random, size_max: u64) -> Vec<Bytes> {
    let key = |random: &mut Random| format!("key:{}", random.below(300)).into_bytes();
    let value = |random: &mut Random| -> Bytes {
        let size = random.below(size_max) as usize;
        vec![b'a' + (random.next() % 26) as u8; size]
    };
    let number = |random: &mut Random, below| random.below(below).to_string().into_bytes();
    let name = *random.pick(&[
        "get", "get", "set", "set", "set", "setnx", "getset", "append", "setrange", "incrby",
        "mset", "del", "getdel", "pexpire", "persist", "rename", "copy", "strlen", "exists",
        "pttl", "mget", "px", "px", "dbsize", "num",
    ]);
    let mut words = vec![name.as_bytes().to_vec()];
    match name {
        "px" => {
            words = vec![
                b"set".to_vec(),
                key(random),
                value(random),
                b"px".to_vec(),
                number(random, 9000),
            ]
        }
        "num" => words = vec![b"set".to_vec(), key(random), number(random, 1 << 40)],
        "dbsize" => {}
        "set" | "setnx" | "getset" | "append" => words.extend([key(random), value(random)]),
        "setrange" => words.extend([key(random), number(random, 500), value(random)]),
        "incrby" => words.extend([key(random), number(random, 1000)]),
        "mset" => (0..=random.below(4)).for_each(|_| words.extend([key(random), value(random)])),
        "del" | "exists" | "mget" => (0..=random.below(3)).for_each(|_| words.push(key(random))),
        "pexpire" => words.extend([key(random), number(random, 9000)]),
        "rename" | "copy" => {
            words.extend([key(random), key(random)]);
            // COPY onto itself is an error of its own.
            if words[1] == words[2] {
                words = vec![b"dbsize".to_vec()];
            }
        }
        _ => words.push(key(random)),
    }
    // A lifetime of zero is an error for SET and a deletion for PEXPIRE: the transcripts cover them.
    if words.last().is_some_and(|last| last == b"0") {
        words.pop();
        words.push(b"1".to_vec());
    }
    if random.below(4000) == 0 {
        words = vec![b"flushall".to_vec()];
    }
    words
}

fn slices(words: &[Bytes]) -> Vec<&[u8]> {
    words.iter().map(Vec::as_slice).collect()
}

#[test]
fn random_commands_answer_as_the_model_does() {
    for seed in 0..4 {
        let mut random = Random(seed << 32);
        let mut fixture = Fixture::new(8 << 20);
        let mut model = Model::default();
        for step in 0..15_000 {
            fixture.now += random.below(30);
            let words = command(&mut random, 600);
            let expected = model.run(&words, fixture.now);
            let operation = pack(&slices(&words));
            let reply = only(&fixture.apply(&operation));
            assert!(
                reply == expected,
                "seed {seed} step {step}: {:?} gives {:?} instead of {:?}",
                words
                    .iter()
                    .map(|word| String::from_utf8_lossy(word))
                    .collect::<Vec<_>>(),
                String::from_utf8_lossy(&reply),
                String::from_utf8_lossy(&expected),
            );
            if step % 500 == 0 {
                assert!(fixture.machine.verify(), "seed {seed} step {step}");
            }
        }
    }
}

#[test]
fn out_of_memory_changes_nothing_and_comes_at_the_same_command_everywhere() {
    let mut random = Random(99);
    let (mut a, mut b) = (Fixture::new(4 << 20), Fixture::new(4 << 20));
    let mut model = Model::default();
    let mut refused = 0;
    for step in 0..12_000 {
        a.now += random.below(3);
        b.now = a.now;
        let words = command(&mut random, 40_000);
        let operation = pack(&slices(&words));
        let reply = only(&a.apply(&operation));
        assert_eq!(reply, only(&b.apply(&operation)), "step {step}");
        if reply == b"-OOM command not allowed when used memory > 'maxmemory'.\r\n" {
            refused += 1;
            model.expire(a.now);
            assert!(
                a.machine.kv_report().used_bytes > 1 << 20,
                "step {step}: there was memory"
            );
        } else {
            assert!(
                reply == model.run(&words, a.now),
                "step {step}: {:?}",
                words[0]
            );
        }
        if step % 1000 == 0 {
            assert!(a.machine.verify(), "step {step}");
            assert_identical(&a.machine, &b.machine);
        }
    }
    assert!(refused > 100, "only {refused} commands were refused");
    assert_identical(&a.machine, &b.machine);
    // What is freed can be used again: nothing leaks.
    assert_eq!(a.run("flushall"), "+OK\r\n");
    let empty = a.machine.kv_report();
    assert_eq!((empty.keys, empty.expiring, empty.used_bytes), (0, 0, 0));
    assert_ne!(a.machine.digest(), b.machine.digest());
}
