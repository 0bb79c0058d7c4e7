//! What is due when: a timing wheel inside the arena.
//!
//! Eight levels of 64 slots. Level 0 has a slot per millisecond of the current 64, level 1 a slot per
//! 64 ms of the current 4,096, and so on: a deadline goes to the level of the highest six bits in
//! which it differs from the wheel's time, so that each slot's entries are due in order of slots,
//! lower levels before higher ones. When a slot of a higher level begins, its entries move down. The
//! slots' entries are linked through their own memory: scheduling and cancelling take constant time
//! and nothing can run out.
//!
//! No clock drives it: each operation sweeps up to its own timestamp, a bounded number of entries at
//! a time, so every replica deletes the same keys at the same operation. Readers do not depend on
//! the sweep: they compare deadlines themselves.
//!
//! The scheme: Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987).

use super::damage::Damage;
use super::layout::{HEAD_SIZE, Head, Links, Place, WHEEL_HEADS_AT, WHEEL_LEVELS, WHEEL_SLOTS};
use super::store::Store;

/// Bits of a deadline per level.
const LEVEL_BITS: u32 = WHEEL_SLOTS.ilog2();
/// Bits of a deadline that the wheel distinguishes.
const WHEEL_BITS: u32 = LEVEL_BITS * WHEEL_LEVELS as u32;

pub(super) const fn head_at(slot: u32) -> usize {
    WHEEL_HEADS_AT + (slot as usize - 1) * HEAD_SIZE
}

/// The slot (level * 64 + slot + 1) for a deadline, or zero when it is due at `elapsed`.
const fn slot_of(deadline: u64, elapsed: u64) -> u32 {
    // Later than the top level reaches: as late as it can say. When that time comes, thousands of
    // years from now, the entry moves on.
    let horizon = elapsed | ((1 << WHEEL_BITS) - 1);
    let deadline = if deadline < horizon {
        deadline
    } else {
        horizon
    };
    if deadline <= elapsed {
        return 0;
    }
    let level = (deadline ^ elapsed).ilog2() / LEVEL_BITS;
    let slot = (deadline >> (level * LEVEL_BITS)) as u32 & (WHEEL_SLOTS as u32 - 1);
    level * WHEEL_SLOTS as u32 + slot + 1
}

impl Store {
    /// Enters the entry at `place`, which is in no slot, for its deadline.
    pub(super) fn schedule(&mut self, place: Place, deadline: u64) -> Result<(), Damage> {
        self.globals.expiring += 1;
        self.enter(place, deadline)
    }

    /// Takes the entry at `place` out of its slot.
    pub(super) fn cancel(&mut self, place: Place) -> Result<(), Damage> {
        self.globals.expiring -= 1;
        self.leave(place)
    }

    /// Moves the entry at `place` from its old deadline to another; zero is none.
    pub(super) fn reschedule(&mut self, place: Place, deadline: u64) -> Result<(), Damage> {
        if self.links(place)?.due_slot != 0 {
            self.cancel(place)?;
        }
        if deadline != 0 {
            self.schedule(place, deadline)?;
        }
        Ok(())
    }

    /// Removes up to `budget` entries that are due at `now` (milliseconds); moving an entry down a
    /// level counts as well.
    pub(super) fn sweep(&mut self, now: u64, mut budget: u32) -> Result<(), Damage> {
        if self.globals.expiring == 0 {
            // Nothing waits: the wheel may jump.
            self.globals.elapsed = self.globals.elapsed.max(now);
            self.globals.draining = 0;
            return Ok(());
        }
        while let Some((slot, start)) = self.next_slot(now) {
            self.globals.elapsed = self.globals.elapsed.max(start);
            self.globals.draining = u64::from(slot);
            loop {
                let place = self.head(head_at(slot))?;
                if place.is_none() {
                    break;
                }
                if budget == 0 || self.is_spent() {
                    return Ok(());
                }
                budget -= 1;
                self.due(place)?;
            }
            self.globals.draining = 0;
        }
        self.globals.elapsed = self.globals.elapsed.max(now);
        Ok(())
    }

    /// When the next sweep has something to do, in milliseconds; it may only be to move entries.
    pub(super) fn next_sweep(&self) -> Option<u64> {
        self.next_slot(u64::MAX).map(|(_, start)| start)
    }

    /// Removes the first entry of a slot that has begun, or moves it down.
    fn due(&mut self, place: Place) -> Result<(), Damage> {
        let deadline = self.entry(place)?.body.deadline;
        if deadline <= self.globals.elapsed {
            let found = self.locate(place)?;
            self.remove(&found)
        } else {
            self.leave(place)?;
            self.enter(place, deadline)
        }
    }

    /// The slot to empty next, with the time at which it begins, if that is not after `now`.
    fn next_slot(&self, now: u64) -> Option<(u32, u64)> {
        if self.globals.draining != 0 {
            return Some((self.globals.draining as u32, self.globals.elapsed));
        }
        let level = self.globals.wheel.iter().position(|slots| *slots != 0)?;
        let slot = self.globals.wheel[level].trailing_zeros();
        let shift = level as u32 * LEVEL_BITS;
        // The time with the bits from this level down replaced by the slot's.
        let upper = (self.globals.elapsed >> shift) & !(WHEEL_SLOTS as u64 - 1);
        let start = (upper | u64::from(slot)) << shift;
        (start <= now).then_some((level as u32 * WHEEL_SLOTS as u32 + slot + 1, start))
    }

    fn enter(&mut self, place: Place, deadline: u64) -> Result<(), Damage> {
        // What is already due waits in the very next slot, or in the last when there is none: a
        // deadline in the past is never stored by a command, so this is a moment at most.
        let elapsed = self.globals.elapsed;
        let slot = slot_of(deadline.max(elapsed + 1), elapsed);
        let head = self.head(head_at(slot))?;
        let links = Links {
            due_next: head,
            due_previous: Place::NONE,
            due_slot: slot,
            ..self.links(place)?
        };
        self.set_links(place, links);
        if !head.is_none() {
            let after = Links {
                due_previous: place,
                ..self.links(head)?
            };
            self.set_links(head, after);
        }
        self.arena.write(head_at(slot), &Head::new(place));
        let index = slot as usize - 1;
        self.globals.wheel[index / WHEEL_SLOTS] |= 1 << (index % WHEEL_SLOTS);
        Ok(())
    }

    fn leave(&mut self, place: Place) -> Result<(), Damage> {
        let links = self.links(place)?;
        let slot = links.due_slot;
        // An entry with a deadline is in a slot.
        if slot == 0 || slot as usize > WHEEL_LEVELS * WHEEL_SLOTS {
            return Err(Damage::UNKNOWN);
        }
        if !links.due_next.is_none() {
            let after = Links {
                due_previous: links.due_previous,
                ..self.links(links.due_next)?
            };
            self.set_links(links.due_next, after);
        }
        if links.due_previous.is_none() {
            if self.head(head_at(slot))? != place {
                return Err(Damage::UNKNOWN);
            }
            self.arena.write(head_at(slot), &Head::new(links.due_next));
            if links.due_next.is_none() {
                let index = slot as usize - 1;
                self.globals.wheel[index / WHEEL_SLOTS] &= !(1 << (index % WHEEL_SLOTS));
            }
        } else {
            let before = Links {
                due_next: links.due_next,
                ..self.links(links.due_previous)?
            };
            self.set_links(links.due_previous, before);
        }
        let alone = Links {
            due_next: Place::NONE,
            due_previous: Place::NONE,
            due_slot: 0,
            ..links
        };
        self.set_links(place, alone);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_goes_to_the_level_of_its_highest_different_digit() {
        assert_eq!(slot_of(5, 5), 0);
        assert_eq!(slot_of(4, 5), 0);
        assert_eq!(slot_of(6, 5), 7);
        assert_eq!(slot_of(63, 5), 64);
        assert_eq!(slot_of(64, 5), 64 + 1 + 1);
        assert_eq!(
            slot_of(u64::MAX, 5),
            8 * 64,
            "the last slot waits for all that is later"
        );
        assert_eq!(slot_of(u64::MAX, 1 << 60), 8 * 64);
    }
}
