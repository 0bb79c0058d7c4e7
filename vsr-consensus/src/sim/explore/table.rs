//! A hash table from fingerprints to numbers, without an order to leak.

use std::vec;
use std::vec::Vec;

/// No entry.
const FREE: u32 = u32::MAX;

/// Open addressing, linear probing, never emptied.
#[derive(Debug)]
pub(super) struct Table {
    keys: Vec<u128>,
    values: Vec<u32>,
    used: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            keys: vec![0; 1024],
            values: vec![FREE; 1024],
            used: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.used
    }

    /// Where `key` is, or where it would go.
    fn place(&self, key: u128) -> usize {
        let mask = self.keys.len() - 1;
        let mut place = (key as usize) & mask;
        while self.values[place] != FREE && self.keys[place] != key {
            place = (place + 1) & mask;
        }
        place
    }

    pub(super) fn get(&self, key: u128) -> Option<u32> {
        let value = self.values[self.place(key)];
        (value != FREE).then_some(value)
    }

    /// Adds `key`, and says whether it was not there.
    pub(super) fn insert(&mut self, key: u128, value: u32) -> bool {
        assert!(value != FREE, "that value means none");
        let place = self.place(key);
        if self.values[place] != FREE {
            return false;
        }
        self.keys[place] = key;
        self.values[place] = value;
        self.used += 1;
        if self.used * 3 > self.keys.len() * 2 {
            self.grow();
        }
        true
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        let keys = core::mem::replace(&mut self.keys, vec![0; size]);
        let values = core::mem::replace(&mut self.values, vec![FREE; size]);
        for (key, value) in keys.into_iter().zip(values) {
            if value != FREE {
                let place = self.place(key);
                self.keys[place] = key;
                self.values[place] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        let mut table = Table::new();
        for key in 0..10_000_u32 {
            assert!(table.insert(u128::from(key) << 5, key));
            assert!(!table.insert(u128::from(key) << 5, 7));
        }
        assert_eq!(table.len(), 10_000);
        for key in 0..10_000_u32 {
            assert_eq!(table.get(u128::from(key) << 5), Some(key));
            assert_eq!(table.get((u128::from(key) << 5) + 1), None);
        }
    }
}
