//! The commands of a load: which keys, reads or writes, and their bytes.
//!
//! The bytes of a command are a template in which only the digits of the key change, so that making
//! a batch costs little more than copying it.

use crate::bench::plan::Plan;
use crate::resp;

/// Digits of a key, as redis-benchmark has them.
const DIGITS: usize = 12;

/// A small generator (splitmix64): equal seeds choose equal keys.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    state: u64,
    keys: u64,
    reads_below: u64,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The number of the key.
    pub(crate) key: u64,
    /// Whether to read it.
    pub(crate) read: bool,
}

impl Choices {
    /// For client `client` of `plan`.
    pub(crate) fn new(plan: &Plan, client: u32) -> Self {
        let mut choices = Self {
            state: plan.seed ^ (u64::from(client) << 32),
            keys: plan.keys,
            // Saturates at both ends, which are "never" and, but for one in 2^64, "always".
            reads_below: (plan.reads * u64::MAX as f64) as u64,
        };
        // Neighbouring seeds begin alike; a step separates them.
        choices.state = choices.draw();
        choices
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// The next command.
    pub(crate) fn next(&mut self) -> Choice {
        let key = ((u128::from(self.draw()) * u128::from(self.keys)) >> 64) as u64;
        let read = match self.reads_below {
            0 => false,
            u64::MAX => true,
            below => self.draw() < below,
        };
        Choice { key, read }
    }
}

/// The key with number `number`.
pub(crate) fn key(number: u64) -> [u8; 4 + DIGITS] {
    let mut key = *b"key:000000000000";
    write_digits(&mut key[4..], number);
    key
}

fn write_digits(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A value of `size` bytes, printable and not all the same.
pub(crate) fn value(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| b'a' + ((index * 7 + index / 26) % 26) as u8)
        .collect()
}

/// Batches of RESP commands.
#[derive(Clone, Debug)]
pub(crate) struct RespBatches {
    choices: Choices,
    count: u32,
    set: Template,
    get: Template,
    wait: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    digits_at: usize,
}

impl Template {
    fn new(words: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        resp::encode(words, &mut bytes);
        let place = bytes
            .windows(4 + DIGITS)
            .position(|window| window == key(0));
        let digits_at = place.expect("the template has the key with number 0") + 4;
        Self { bytes, digits_at }
    }

    fn append(&self, number: u64, into: &mut Vec<u8>) {
        let at = into.len() + self.digits_at;
        into.extend_from_slice(&self.bytes);
        write_digits(&mut into[at..at + DIGITS], number);
    }
}

impl RespBatches {
    /// For client `client` of `plan`.
    pub(crate) fn new(plan: &Plan, client: u32) -> Self {
        let mut wait = Vec::new();
        if let Some(replicas) = plan.wait {
            resp::encode(&["WAIT", &replicas.to_string(), "0"], &mut wait);
        }
        Self {
            choices: Choices::new(plan, client),
            count: plan.pipeline,
            set: Template::new(&[b"SET", &key(0), &value(plan.size)]),
            get: Template::new(&[b"GET", &key(0)]),
            wait,
        }
    }

    /// Replaces `into` by the next batch.
    pub(crate) fn fill(&mut self, into: &mut Vec<u8>) {
        into.clear();
        for _ in 0..self.count {
            let choice = self.choices.next();
            let template = if choice.read { &self.get } else { &self.set };
            template.append(choice.key, into);
        }
        into.extend_from_slice(&self.wait);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn plan(reads: f64, wait: Option<u32>) -> Plan {
        Plan {
            clients: 1,
            pipeline: 3,
            size: 5,
            keys: 1000,
            reads,
            rate: None,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            wait,
            seed: 7,
        }
    }

    #[test]
    fn a_batch_is_as_many_commands_as_asked_for_and_perhaps_a_wait() {
        let mut bytes = Vec::new();
        RespBatches::new(&plan(0.0, Some(1)), 0).fill(&mut bytes);
        let mut rest = bytes.as_slice();
        let mut words = Vec::new();
        while let Some((resp::Value::Array(command), size)) = resp::parse(rest).expect("is RESP") {
            words.push(command);
            rest = &rest[size..];
        }
        assert!(rest.is_empty());
        assert_eq!(words.len(), 4);
        assert!(words[..3].iter().all(|command| command.len() == 3
            && command[0] == resp::Value::Bulk(b"SET".to_vec())
            && command[2] == resp::Value::Bulk(value(5))));
        assert_eq!(words[3][0], resp::Value::Bulk(b"WAIT".to_vec()));
    }

    #[test]
    fn keys_stay_in_their_range_and_cover_it() {
        let mut choices = Choices::new(&plan(0.25, None), 0);
        let mut seen = vec![0_u32; 1000];
        let mut reads = 0;
        for _ in 0..100_000 {
            let choice = choices.next();
            seen[usize::try_from(choice.key).expect("small")] += 1;
            reads += u32::from(choice.read);
        }
        assert!(
            seen.iter().all(|&times| times > 40),
            "some key is hardly ever chosen"
        );
        assert!(
            (24_000..26_000).contains(&reads),
            "{reads} reads of 100000 are not a quarter"
        );
    }

    #[test]
    fn clients_choose_differently_and_seeds_repeat() {
        let first = |client| Choices::new(&plan(0.0, None), client).next().key;
        assert_eq!(first(3), first(3));
        assert_ne!(first(0), first(1));
    }

    #[test]
    fn the_ends_of_the_share_of_reads_are_exact() {
        for (share, read) in [(0.0, false), (1.0, true)] {
            let mut choices = Choices::new(&plan(share, None), 0);
            assert!((0..1000).all(|_| choices.next().read == read));
        }
    }

    #[test]
    fn a_key_has_twelve_digits() {
        assert_eq!(&key(42), b"key:000000000042");
        assert_eq!(&key(999_999_999_999), b"key:999999999999");
    }
}
