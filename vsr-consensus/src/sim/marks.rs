//! Rare things, counted by name: a batch that never reached one of them has not tested it.

use core::fmt;
use std::collections::BTreeMap;

/// How often each rare thing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    pub(crate) fn count(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, times) in other.iter() {
            self.count(name, times);
        }
    }

    /// How often `name` happened.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(&name, &times)| (name, times))
    }

    /// Those that never happened.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.iter()
            .filter(|&(_, times)| times == 0)
            .map(|(name, _)| name)
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, times) in self.iter() {
            writeln!(f, "{times:12} {name}")?;
        }
        Ok(())
    }
}
