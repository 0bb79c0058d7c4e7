//! Where each client's last message came from, in a table of fixed size.
//!
//! A reply finds its way back by the client's id alone: to a connection, to a local client, or to the
//! peer that passed the request on. The table holds the clients heard of last; when it is full, the
//! one not heard of for longest is forgotten. It has to ask again, which is all that is lost.
//!
//! Open addressing with linear probing over indexes into an array of entries, which also form a list
//! in the order of their last use. Nothing here allocates after [`ClientTable::new`].

use vsr_types::ClientId;
use vsr_types::memory::{Level, Pool};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    client: ClientId,
    value: V,
    /// Towards the ones used longer ago.
    older: u32,
    /// Towards the ones used more recently.
    newer: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ClientTable<V> {
    /// Indexes into `entries`, or [`NONE`]; at least twice as many as entries, so probes are short.
    buckets: Box<[u32]>,
    entries: Vec<Entry<V>>,
    capacity: usize,
    newest: u32,
    oldest: u32,
    /// Spreads ids over the buckets in a way that a client cannot foresee.
    seed: u64,
}

impl<V: Copy> ClientTable<V> {
    /// A table for `capacity` clients.
    ///
    /// # Panics
    /// When `capacity` is zero or does not fit into 31 bits.
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        assert!(
            capacity > 0 && capacity < 1 << 31,
            "a table holds between 1 and 2^31 clients"
        );
        Self {
            buckets: vec![NONE; Self::buckets(capacity)].into_boxed_slice(),
            entries: Vec::with_capacity(capacity),
            capacity,
            newest: NONE,
            oldest: NONE,
            seed: seed | 1,
        }
    }

    /// What a table for `capacity` clients allocates.
    pub(super) const fn pools(capacity: usize) -> [Pool; 2] {
        let pool = Pool {
            part: "table of clients",
            name: "table of clients",
            purpose: "where each client was heard from: where its replies go",
            setting: "sessions",
            unit: "clients",
            count: capacity,
            size: size_of::<Entry<V>>(),
            is_later: false,
        };
        [
            pool,
            Pool {
                name: "index of clients",
                purpose: "finds a client in that table",
                unit: "places",
                count: Self::buckets(capacity),
                size: size_of::<u32>(),
                ..pool
            },
        ]
    }

    /// Clients are forgotten only for others.
    pub(super) const fn levels(&self) -> [Level; 2] {
        let clients = self.entries.len();
        [
            Level::new("table of clients", clients, clients),
            Level::new("index of clients", clients, clients),
        ]
    }

    const fn buckets(capacity: usize) -> usize {
        (capacity * 2).next_power_of_two()
    }

    /// Where `client` was last seen.
    pub(super) fn get(&self, client: ClientId) -> Option<V> {
        let bucket = self.find(client).ok()?;
        Some(self.entries[self.buckets[bucket] as usize].value)
    }

    /// Notes where `client` was seen just now.
    pub(super) fn insert(&mut self, client: ClientId, value: V) {
        if self.newest != NONE && self.entries[self.newest as usize].client == client {
            // The usual case when one client is busy.
            self.entries[self.newest as usize].value = value;
            return;
        }
        if let Ok(bucket) = self.find(client) {
            let index = self.buckets[bucket];
            self.entries[index as usize].value = value;
            self.unlink(index);
            self.link_newest(index);
            return;
        }
        let index = if self.entries.len() < self.capacity {
            self.entries.push(Entry {
                client,
                value,
                older: NONE,
                newer: NONE,
            });
            (self.entries.len() - 1) as u32
        } else {
            let index = self.oldest;
            self.remove_from_buckets(self.entries[index as usize].client);
            self.unlink(index);
            let entry = &mut self.entries[index as usize];
            entry.client = client;
            entry.value = value;
            index
        };
        match self.find(client) {
            Err(bucket) => self.buckets[bucket] = index,
            Ok(_) => unreachable!("the client is not in the table"),
        }
        self.link_newest(index);
    }

    /// The bucket that holds `client`, or the empty one where it would go.
    fn find(&self, client: ClientId) -> Result<usize, usize> {
        let mask = self.buckets.len() - 1;
        let mut bucket = self.home(client);
        loop {
            match self.buckets[bucket] {
                NONE => return Err(bucket),
                index if self.entries[index as usize].client == client => return Ok(bucket),
                _ => bucket = (bucket + 1) & mask,
            }
        }
    }

    fn home(&self, client: ClientId) -> usize {
        let raw = client.raw();
        let mixed = ((raw >> 64) as u64 ^ self.seed)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29)
            ^ raw as u64;
        let mixed = mixed.wrapping_mul(self.seed | 1);
        (mixed >> 32) as usize & (self.buckets.len() - 1)
    }

    /// Empties the bucket of `client` and closes the gap, so that no probe ends early.
    fn remove_from_buckets(&mut self, client: ClientId) {
        let Ok(mut gap) = self.find(client) else {
            unreachable!("every entry has a bucket");
        };
        let mask = self.buckets.len() - 1;
        self.buckets[gap] = NONE;
        let mut bucket = (gap + 1) & mask;
        while self.buckets[bucket] != NONE {
            let index = self.buckets[bucket];
            let home = self.home(self.entries[index as usize].client);
            // It may move into the gap unless its home lies behind the gap.
            let from_home = bucket.wrapping_sub(home) & mask;
            let from_gap = bucket.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.buckets[gap] = index;
                self.buckets[bucket] = NONE;
                gap = bucket;
            }
            bucket = (bucket + 1) & mask;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { older, newer, .. } = self.entries[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, index: u32) {
        let before = self.newest;
        let entry = &mut self.entries[index as usize];
        entry.older = before;
        entry.newer = NONE;
        match before {
            NONE => self.oldest = index,
            before => self.entries[before as usize].newer = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use vsr_net::Random;

    #[test]
    fn it_remembers_the_clients_heard_of_last_and_no_others() {
        for seed in 1..20 {
            let mut random = Random::new(seed);
            let mut table = ClientTable::new(16, seed);
            // The same by hand: front is oldest.
            let mut model: VecDeque<(ClientId, u64)> = VecDeque::new();
            for step in 0..5000 {
                let client = ClientId::new(u128::from(random.below(40)));
                table.insert(client, step);
                model.retain(|(known, _)| *known != client);
                model.push_back((client, step));
                if model.len() > 16 {
                    model.pop_front();
                }
                for id in 0..40 {
                    let client = ClientId::new(id);
                    let expected = model
                        .iter()
                        .find(|(known, _)| *known == client)
                        .map(|(_, step)| *step);
                    assert_eq!(table.get(client), expected, "seed {seed}, step {step}");
                }
            }
        }
    }

    #[test]
    fn one_place_is_enough() {
        let mut table = ClientTable::new(1, 7);
        for id in 0..100 {
            table.insert(ClientId::new(id), id);
            assert_eq!(table.get(ClientId::new(id)), Some(id));
            assert_eq!(table.get(ClientId::new(id + 1)), None);
        }
    }

    #[test]
    fn it_does_not_grow() {
        let mut table = ClientTable::new(64, 7);
        let before = table.entries.capacity();
        for id in 0..10_000 {
            table.insert(ClientId::new(id), ());
        }
        assert_eq!(table.entries.capacity(), before);
        assert_eq!(table.entries.len(), 64);
    }
}
