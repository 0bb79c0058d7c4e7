//! The way of a prepare down the chain (R3.1).
//!
//! A prepare is relayed byte for byte, so its route cannot be part of what its checksum covers: the
//! same prepare may be sent again by another way. The route is the *envelope*: four bytes outside the
//! header's checksum, with a checksum of their own. Every hop finds itself in the list and forwards to
//! the one behind it; nobody rewrites the list.
//!
//! ```text
//! bits  31..28  27..24  ...   7..4    3..0
//!       hop 6   hop 5         hop 0   count
//! ```

use crate::checksum::checksum_of_word;
use crate::{Checksum, ReplicaIndex, limits::REPLICAS_MAX};

/// The replicas that a prepare visits, in order, the primary not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route(u32);

impl Route {
    /// Straight to the receiver, who forwards to nobody.
    pub const NONE: Self = Self(0);

    /// A request that a backup passed on to the primary; it must not be passed on again.
    pub const PASSED_ON: Self = Self(0x10 | 1);

    /// The route through `hops`, in order. At most [`REPLICAS_MAX`]; more are left out.
    #[must_use]
    pub fn through(hops: impl IntoIterator<Item = ReplicaIndex>) -> Self {
        let mut raw = 0_u32;
        let mut count = 0_u32;
        for hop in hops.into_iter().take(REPLICAS_MAX) {
            raw |= (u32::from(hop.raw()) & 0xF) << (4 + 4 * count);
            count += 1;
        }
        Self(raw | count)
    }

    /// From the header's field, if its checksum and its shape are right.
    #[must_use]
    #[inline]
    pub fn parse(raw: u32, sealed: Checksum) -> Option<Self> {
        let count = (raw & 0xF) as usize;
        let right = sealed == Self(raw).checksum()
            && count <= REPLICAS_MAX
            && (count == REPLICAS_MAX || raw >> (4 + 4 * count) == 0);
        right.then_some(Self(raw))
    }

    /// From the header's field as it is, to compute the checksum that seals it.
    pub(crate) const fn parse_unchecked(raw: u32) -> Self {
        Self(raw)
    }

    /// The header's field.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The envelope's own checksum.
    #[must_use]
    #[inline]
    pub fn checksum(self) -> Checksum {
        checksum_of_word(self.0)
    }

    /// How many hops it has.
    #[must_use]
    pub const fn count(self) -> usize {
        (self.0 & 0xF) as usize
    }

    /// The hops in order.
    pub fn hops(self) -> impl Iterator<Item = ReplicaIndex> {
        (0..self.count()).map(move |i| ReplicaIndex::new(((self.0 >> (4 + 4 * i)) & 0xF) as u8))
    }

    /// The hop behind `me`; none when `me` is the last or not on the way.
    #[must_use]
    pub fn next_after(self, me: ReplicaIndex) -> Option<ReplicaIndex> {
        let mut hops = self.hops();
        hops.find(|&hop| hop == me)?;
        hops.next()
    }

    /// The first hop.
    #[must_use]
    pub fn first(self) -> Option<ReplicaIndex> {
        self.hops().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(index: u8) -> ReplicaIndex {
        ReplicaIndex::new(index)
    }

    #[test]
    fn each_hop_finds_the_one_behind_it() {
        let route = Route::through([r(2), r(0), r(6)]);
        assert_eq!(route.first(), Some(r(2)));
        assert_eq!(route.next_after(r(2)), Some(r(0)));
        assert_eq!(route.next_after(r(0)), Some(r(6)));
        assert_eq!(route.next_after(r(6)), None, "the last forwards to nobody");
        assert_eq!(
            route.next_after(r(1)),
            None,
            "who is not on the way forwards to nobody"
        );
        assert_eq!(Route::NONE.first(), None);
    }

    #[test]
    fn every_length_survives_the_round_trip() {
        for count in 0..=REPLICAS_MAX {
            let route = Route::through(ReplicaIndex::all(count as u8));
            assert_eq!(route.count(), count);
            assert_eq!(Route::parse(route.raw(), route.checksum()), Some(route));
        }
    }

    #[test]
    fn a_flipped_bit_is_no_route() {
        let route = Route::through([r(1), r(2)]);
        for bit in 0..32 {
            assert_eq!(
                Route::parse(route.raw() ^ (1 << bit), route.checksum()),
                None
            );
        }
        let misshapen = Route(0xFFFF_FFF1);
        assert_eq!(Route::parse(misshapen.raw(), misshapen.checksum()), None);
    }
}
