//! The kinds of trouble that a seed may draw, and the seeds themselves.

use core::fmt;
use std::string::String;
use std::vec::Vec;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One kind of trouble. Each seed leaves each kind out with a probability of 0.4, so that
        /// they do not drown one another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultClass {
            $($(#[$doc])* $name,)*
        }

        impl FaultClass {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as in `--faults`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

classes! {
    /// Messages that never arrive.
    Loss => "loss",
    /// Messages that arrive twice.
    Duplicate => "duplicate",
    /// Any earlier message arrives again, also from former views and lives.
    Replay => "replay",
    /// Messages that overtake others.
    Reorder => "reorder",
    /// Messages that take many times longer than others.
    Tail => "tail",
    /// A link that holds everything back for a while.
    Clog => "clog",
    /// Replicas that cannot reach each other, or clients their replica.
    Partition => "partition",
    /// A replica loses its memory and starts again, blank.
    Crash => "crash",
    /// A replica loses its memory and does not come back.
    Kill => "kill",
    /// Two processes in one place: one that was believed dead goes on beside its successor, or a second
    /// one is started by mistake.
    Zombie => "zombie",
    /// A process that stands still.
    Pause => "pause",
    /// A replica that takes longer over everything.
    Slow => "slow",
    /// Clocks that run fast, slow, and jump.
    Clock => "clock",
    /// Bits that flip on the way.
    Corrupt => "corrupt",
    /// Log entries whose memory goes bad, and which their replica knows to be bad.
    Rot => "rot",
    /// Clients that give up and come back under another name.
    Churn => "churn",
    /// The cluster is formed while replicas come and go, by more than one operator.
    Init => "init",
    /// The operator moves the primary to another replica.
    HandOver => "move",
    /// More memories lost at the same time than the cluster survives: it must halt.
    BeyondF => "beyond-f",
}

/// A set of [`FaultClass`]es.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Every kind of trouble that the cluster must survive: all but [`FaultClass::BeyondF`].
    #[must_use]
    pub const fn all() -> Self {
        Self(((1 << FaultClass::ALL.len()) - 1) & !(1 << FaultClass::BeyondF as u32))
    }

    /// No trouble at all.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// This set and `class`.
    #[must_use]
    pub const fn with(self, class: FaultClass) -> Self {
        Self(self.0 | (1 << class as u32))
    }

    /// This set without `class`.
    #[must_use]
    pub const fn without(self, class: FaultClass) -> Self {
        Self(self.0 & !(1 << class as u32))
    }

    /// Whether `class` is in the set.
    #[must_use]
    pub const fn has(self, class: FaultClass) -> bool {
        self.0 & (1 << class as u32) != 0
    }

    /// The classes in the set.
    pub fn iter(self) -> impl Iterator<Item = FaultClass> {
        FaultClass::ALL
            .iter()
            .copied()
            .filter(move |&class| self.has(class))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        if *self == Self::all() {
            return f.write_str("all");
        }
        let names: Vec<&str> = self.iter().map(FaultClass::name).collect();
        f.write_str(&names.join(","))
    }
}

impl core::str::FromStr for Faults {
    type Err = UnknownFault;

    /// A list as in `crash,partition`; `all` and `none` stand for themselves, `-crash` takes one out.
    fn from_str(list: &str) -> Result<Self, UnknownFault> {
        let mut faults = Self::none();
        for word in list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let (name, out) = match word.strip_prefix('-') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let named = FaultClass::ALL
                .iter()
                .copied()
                .find(|class| class.name() == name);
            faults = match (name, named, out) {
                ("all", ..) => Self::all(),
                ("none", ..) => Self::none(),
                (_, Some(class), false) => faults.with(class),
                (_, Some(class), true) => faults.without(class),
                (_, None, _) => return Err(UnknownFault(String::from(name))),
            };
        }
        Ok(faults)
    }
}

/// A word in a list of faults that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault(pub String);

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = FaultClass::ALL.iter().map(|class| class.name()).collect();
        write!(
            f,
            "{:?} is no kind of fault; known are all, none, {}",
            self.0,
            names.join(", ")
        )
    }
}

impl core::error::Error for UnknownFault {}

/// The seeds of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(core::ops::Range<u64>);

impl Seeds {
    /// Every seed of the range.
    #[must_use]
    pub const fn range(range: core::ops::Range<u64>) -> Self {
        Self(range)
    }

    /// One seed, to play it again.
    #[must_use]
    pub const fn one(seed: u64) -> Self {
        Self(seed..seed + 1)
    }
}

impl IntoIterator for Seeds {
    type Item = u64;
    type IntoIter = core::ops::Range<u64>;

    fn into_iter(self) -> Self::IntoIter {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn lists_of_faults_are_read_as_they_are_written() {
        for faults in [
            Faults::all(),
            Faults::none(),
            Faults::none()
                .with(FaultClass::Crash)
                .with(FaultClass::Loss),
        ] {
            assert_eq!(faults.to_string().parse(), Ok(faults));
        }
        let parsed: Result<Faults, _> = "all,-crash".parse();
        assert_eq!(parsed, Ok(Faults::all().without(FaultClass::Crash)));
        let wrong: Result<Faults, _> = "loss,cosmic".parse();
        assert_eq!(wrong, Err(UnknownFault(String::from("cosmic"))));
        assert!(!Faults::all().has(FaultClass::BeyondF));
    }
}
