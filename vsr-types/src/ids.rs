//! Every number that could be mistaken for another, as a type of its own.
//!
//! No `From<u64>`, no `Deref`, no `Add`: only operations that mean something in the protocol. The raw
//! integer exists in the header and inside the type.

use bytemuck::{Pod, Zeroable};
use core::fmt;

use crate::{Checksum, limits};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);

            /// From the raw number.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The number of a primary's term. The primary of view v is replica v mod n (N4).
    View
}
number! {
    /// A place in the log: the number of a prepare, +1 each, no gaps, for as long as the cluster exists.
    /// 0 is the genesis. People see the op's name in its epoch: [`crate::OpMax::name`].
    Op
}
number! {
    /// The number of a stretch of the log, as [`crate::OpMax`] cuts it.
    Epoch
}
number! {
    /// The number of a client's request within its session: 0 registers, then +1 each.
    RequestNumber
}
number! {
    /// The op that registered a session. 0: not registered yet.
    SessionNumber
}

impl View {
    /// Who leads this view in a cluster of `replicas`.
    ///
    /// # Panics
    /// When `replicas` is zero.
    #[must_use]
    #[inline]
    pub const fn primary(self, replicas: u8) -> ReplicaIndex {
        assert!(replicas > 0, "a cluster has at least one replica");
        let place = match replicas {
            // By constants, which no processor divides by: it is asked several times per message.
            3 => self.0 % 3,
            5 => self.0 % 5,
            _ => self.0 % replicas as u64,
        };
        ReplicaIndex(place as u8)
    }
}

impl Op {
    /// The op before this one, none before the genesis.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0 {
            0 => None,
            n => Some(Self(n - 1)),
        }
    }

    /// How many ops this one is later than `earlier`; 0 when it is not later.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The op `count` places later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// The op `count` places earlier, at least the genesis.
    #[must_use]
    pub const fn minus(self, count: u64) -> Self {
        Self(self.0.saturating_sub(count))
    }

    /// The journal slot of this op in a ring of `slots`.
    ///
    /// # Panics
    /// When `slots` is zero.
    #[must_use]
    #[inline]
    pub const fn slot_of(self, slots: u64) -> usize {
        assert!(slots > 0, "a journal has at least one slot");
        (self.0 % slots) as usize
    }
}

macro_rules! wide {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        // Two words instead of a u128: eight-byte alignment keeps every message free of padding.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            high: u64,
            low: u64,
        }

        impl $name {
            /// All bits zero: "none" where the field is optional.
            pub const ZERO: Self = Self { high: 0, low: 0 };

            /// From the raw number.
            #[must_use]
            pub const fn new(raw: u128) -> Self {
                Self { high: (raw >> 64) as u64, low: raw as u64 }
            }

            /// The raw number.
            #[must_use]
            pub const fn raw(self) -> u128 {
                ((self.high as u128) << 64) | self.low as u128
            }

            /// Whether this is [`Self::ZERO`].
            #[must_use]
            pub const fn is_zero(self) -> bool {
                self.high == 0 && self.low == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.raw())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:x})", stringify!($name), self.raw())
            }
        }
    };
}

wide! {
    /// Names one cluster for ever: drawn at random by the `init` that formed it (R7.1).
    ClusterId
}
wide! {
    /// Names one machine that fills a replica's slot.
    MemberId
}
wide! {
    /// Names one client process: drawn at random when it starts (R1.6).
    ClientId
}
wide! {
    /// Ties an answer to the one question it answers.
    Nonce
}
wide! {
    /// A digest of a whole state: equal states have equal digests.
    Digest
}

/// The place of a replica in the cluster's list, from 0. [`ReplicaIndex::CLIENT`] marks messages
/// that no replica sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct ReplicaIndex(u8);

impl ReplicaIndex {
    /// Not a replica: the sender is a client or a tool.
    pub const CLIENT: Self = Self(u8::MAX);

    /// From the raw number; see [`Self::is_valid`].
    #[must_use]
    pub const fn new(raw: u8) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// As an index into an array of replicas.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Whether a cluster of `replicas` has this one.
    #[must_use]
    pub const fn is_valid(self, replicas: u8) -> bool {
        self.0 < replicas
    }

    /// All replicas of a cluster of `replicas`, in order.
    pub fn all(replicas: u8) -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..replicas).map(Self)
    }

    /// The replica `steps` further round the ring of `replicas`.
    ///
    /// # Panics
    /// When `replicas` is zero.
    #[must_use]
    pub const fn successor(self, steps: u8, replicas: u8) -> Self {
        assert!(replicas > 0, "a cluster has at least one replica");
        Self(((self.0 as u16 + steps as u16) % replicas as u16) as u8)
    }
}

impl fmt::Display for ReplicaIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R{}", self.0)
    }
}

/// Which life of a replica: the counter comes from a quorum, the random part keeps two machines that
/// were given the same counter apart (R6.2, trace T9). Ordered by counter, then by random part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct Incarnation {
    /// One more than any number a quorum knew for the replica.
    pub counter: u64,
    /// What tells lives with the same counter apart: 36 bits of time, so that a later attempt has the higher
    /// number, and 28 random ones. In the first life of a cluster's members: 64 random bits.
    pub random: u64,
}

/// The newest incarnation known of every replica (crash vector of Michael et al., DISC 2017).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CrashVector([Incarnation; limits::REPLICAS_MAX]);

impl CrashVector {
    /// From the entries of all replicas.
    #[must_use]
    pub const fn new(entries: [Incarnation; limits::REPLICAS_MAX]) -> Self {
        Self(entries)
    }

    /// What is known of `replica`.
    ///
    /// # Panics
    /// When `replica` is not below [`limits::REPLICAS_MAX`].
    #[must_use]
    pub const fn of(&self, replica: ReplicaIndex) -> Incarnation {
        self.0[replica.as_usize()]
    }

    /// Raises the entry of `replica` to `incarnation` if that is newer; says whether it was.
    ///
    /// # Panics
    /// When `replica` is not below [`limits::REPLICAS_MAX`].
    pub fn raise(&mut self, replica: ReplicaIndex, incarnation: Incarnation) -> bool {
        let entry = &mut self.0[replica.as_usize()];
        let newer = incarnation > *entry;
        if newer {
            *entry = incarnation;
        }
        newer
    }

    /// The entry-wise maximum of two vectors.
    #[must_use]
    pub fn join(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
        self
    }
}

/// A place in the order of everything that ever happens in a cluster: epoch first, then view, then
/// op (N3). Derived order is lexicographic in that sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct ViewStamp {
    /// The epoch; compared first.
    pub epoch: Epoch,
    /// The view in which the op was first prepared; compared second.
    pub view: View,
    /// The op; compared last.
    pub op: Op,
}

impl fmt::Display for ViewStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.epoch, self.view, self.op)
    }
}

/// What makes a log entry that entry and no other: the view it was first prepared in, and the
/// checksums of its header (which covers its op, and its parent's identity) and of its body (M10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Identity {
    /// The view the entry was first prepared in.
    pub view: View,
    /// The checksum of its header.
    pub checksum: Checksum,
    /// The checksum of its body.
    pub checksum_body: Checksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_is_the_view_modulo_the_replicas() {
        for replicas in 1..=7_u8 {
            for view in 0..30 {
                let primary = View::new(view).primary(replicas);
                assert_eq!(u64::from(primary.raw()), view % u64::from(replicas));
                assert!(primary.is_valid(replicas));
            }
        }
    }

    #[test]
    fn view_stamps_order_by_epoch_then_view_then_op() {
        let stamp = |epoch, view, op| ViewStamp {
            epoch: Epoch::new(epoch),
            view: View::new(view),
            op: Op::new(op),
        };
        let ordered = [
            stamp(0, 0, 9),
            stamp(0, 1, 0),
            stamp(0, 1, 1),
            stamp(0, 9, 0),
            stamp(1, 0, 0),
        ];
        assert!(ordered.is_sorted());
        assert!(ordered.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn joining_crash_vectors_keeps_the_newest_of_each() {
        let old = Incarnation {
            counter: 1,
            random: 99,
        };
        let new = Incarnation {
            counter: 2,
            random: 0,
        };
        let (r0, r1) = (ReplicaIndex::new(0), ReplicaIndex::new(1));
        let mut a = CrashVector::default();
        assert!(a.raise(r0, old));
        assert!(!a.raise(r0, old), "the same life is not news");
        let mut b = CrashVector::default();
        b.raise(r0, new);
        b.raise(r1, old);
        let joined = a.join(&b);
        assert_eq!(joined.of(r0), new);
        assert_eq!(joined.of(r1), old);
        assert_eq!(joined, b.join(&a), "the order of joining does not matter");
    }

    #[test]
    fn successors_walk_round_the_ring() {
        let r2 = ReplicaIndex::new(2);
        assert_eq!(r2.successor(1, 3), ReplicaIndex::new(0));
        assert_eq!(r2.successor(2, 3), ReplicaIndex::new(1));
        assert_eq!(r2.successor(3, 3), r2);
    }

    #[test]
    fn wide_numbers_survive_the_round_trip() {
        for raw in [0, 1, u128::MAX, 1 << 64, u128::from(u64::MAX)] {
            assert_eq!(ClusterId::new(raw).raw(), raw);
        }
    }
}
