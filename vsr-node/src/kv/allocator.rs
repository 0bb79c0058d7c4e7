//! Blocks of memory inside the arena: two-level segregated free lists (TLSF) with boundary tags.
//!
//! Allocating and freeing take constant time and depend on nothing but the state, so every replica
//! hands out the same places and runs out of memory at the same operation. Neighbouring free blocks
//! are always merged; a free block at the heap's end becomes wilderness again, which makes the image
//! smaller. Freed bytes are zeroed, except in the wilderness: a bit that flips in what nobody uses is
//! noticed too, and does not wait there for the block's next owner.
//!
//! The idea: Masmano, Ripoll, Crespo, Real, "TLSF: a new dynamic memory allocator for real-time
//! systems" (2004).

use super::damage::{Damage, Denied};
use super::layout::{
    Block, FREE_HEADS_AT, GRANULE, HEAD_SIZE, Head, LINKS_END, Links, Place, SECOND_LEVELS,
};
use super::store::Store;
use bytemuck::Zeroable;

/// A remainder smaller than this stays with the block it would be split from: no entry fits into it.
const SPLIT_MIN: u32 = 5;

/// Which free list holds blocks of so many granules.
pub(super) const fn class_of(granules: u32) -> (usize, usize) {
    if granules < SECOND_LEVELS as u32 {
        return (0, granules as usize);
    }
    let log = granules.ilog2();
    let second = (granules >> (log - 4)) as usize & (SECOND_LEVELS - 1);
    (log as usize - 3, second)
}

/// The first list all of whose blocks have at least so many granules.
const fn class_fitting(granules: u32) -> (usize, usize) {
    if granules < SECOND_LEVELS as u32 {
        return class_of(granules);
    }
    let step = 1 << (granules.ilog2() - 4);
    class_of(granules + (step - 1))
}

pub(super) const fn head_at(class: (usize, usize)) -> usize {
    FREE_HEADS_AT + (class.0 * SECOND_LEVELS + class.1) * HEAD_SIZE
}

/// The granules that `size` bytes take.
pub(super) const fn granules_of(size: usize) -> u32 {
    size.div_ceil(GRANULE) as u32
}

impl Store {
    /// A block of at least `granules`, its content zero.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn allocate(&mut self, granules: u32) -> Result<Place, Denied> {
        let place = match self.take_free(granules)? {
            Some(place) => self.split(place, granules)?,
            None => self.take_wilderness(granules).ok_or(Denied::OutOfMemory)?,
        };
        self.globals.used += u64::from(self.block(place)?.granules());
        Ok(place)
    }

    /// Gives a block back.
    pub(super) fn free(&mut self, freed: Place) -> Result<(), Damage> {
        let block = self.block(freed)?;
        if block.is_free() {
            return Err(Damage::UNKNOWN);
        }
        self.globals.used -= u64::from(block.granules());
        let (place, mut granules, previous) = self.absorb_previous(freed, block)?;
        let next = freed.after(block.granules());
        let mut wipe_to = next.at();
        if next != self.globals.heap_end() {
            let after = self.block(next)?;
            if after.is_free() {
                self.remove_free(next, after)?;
                self.boundary_moves(next, place);
                granules += after.granules();
                wipe_to += LINKS_END;
            }
        }
        // The wilderness is wiped when it is taken.
        if place.after(granules) != self.globals.heap_end() {
            self.arena.zero(freed.at(), wipe_to - freed.at());
        }
        self.put_free(place, granules, previous)
    }

    /// The header of the block at `place`, verified.
    #[inline]
    pub(super) fn block(&self, place: Place) -> Result<Block, Damage> {
        let inside = place >= self.globals.heap_start() && place < self.globals.heap_end();
        if !inside {
            return Err(Damage::UNKNOWN);
        }
        let block: Block = self.arena.read(place.at());
        if block.is_sound() {
            Ok(block)
        } else {
            Err(Damage::within(place.at(), size_of::<Block>()))
        }
    }

    /// The first block of a free list.
    pub(super) fn first_free(&self, class: (usize, usize)) -> Result<Place, Damage> {
        self.head(head_at(class))
    }

    fn absorb_previous(&mut self, place: Place, block: Block) -> Result<(Place, u32, u32), Damage> {
        let alone = (place, block.granules(), block.previous);
        if block.previous == 0 {
            return Ok(alone);
        }
        let before = place.before(block.previous);
        let header = self.block(before)?;
        if header.granules() != block.previous {
            return Err(Damage::UNKNOWN);
        }
        if !header.is_free() {
            return Ok(alone);
        }
        self.remove_free(before, header)?;
        self.boundary_moves(place, before);
        let granules = header.granules() + block.granules();
        Ok((before, granules, header.previous))
    }

    /// Makes the range, all zero but for an old header and links at its start, a free block, or part of
    /// the wilderness when it is the last.
    fn put_free(&mut self, place: Place, granules: u32, previous: u32) -> Result<(), Damage> {
        let next = place.after(granules);
        if next == self.globals.heap_end() {
            self.globals.heap_end = u64::from(place.raw());
            self.globals.last_size = u64::from(previous);
            self.heap_ends(place);
            return Ok(());
        }
        self.arena
            .write(place.at(), &Block::new(granules, true, previous));
        self.set_previous(next, granules)?;
        self.insert_free(place, granules)
    }

    /// Tells the block after one whose size changed.
    fn set_previous(&mut self, place: Place, granules: u32) -> Result<(), Damage> {
        if place == self.globals.heap_end() {
            self.globals.last_size = u64::from(granules);
            return Ok(());
        }
        let block = self.block(place)?;
        let changed = Block::new(block.granules(), block.is_free(), granules);
        self.arena.write(place.at(), &changed);
        Ok(())
    }

    fn take_wilderness(&mut self, granules: u32) -> Option<Place> {
        let place = self.globals.heap_end();
        let end = self.globals.heap_end + u64::from(granules);
        if end * GRANULE as u64 > self.globals.limit {
            return None;
        }
        let previous = self.globals.last_size as u32;
        self.globals.heap_end = end;
        self.furthest = self.furthest.max(end);
        self.globals.last_size = u64::from(granules);
        // What an earlier life left here is not part of the state and must not become so.
        self.arena.zero(place.at(), granules as usize * GRANULE);
        self.arena
            .write(place.at(), &Block::new(granules, false, previous));
        Some(place)
    }

    /// Takes a free block of at least `granules` out of its list.
    fn take_free(&mut self, granules: u32) -> Result<Option<Place>, Damage> {
        // The list of its own class may hold one that fits although not all of it do.
        let head = self.first_free(class_of(granules))?;
        if !head.is_none() {
            let block = self.block(head)?;
            if block.granules() >= granules {
                self.remove_free(head, block)?;
                return Ok(Some(head));
            }
        }
        let (first, second) = class_fitting(granules);
        let same = u32::from(self.globals.second[first]) & (u32::MAX << second);
        let class = if same != 0 {
            (first, same.trailing_zeros() as usize)
        } else {
            let larger = self.globals.first & (u64::MAX << (first + 1));
            if larger == 0 {
                return Ok(None);
            }
            let first = larger.trailing_zeros() as usize;
            let second = self.globals.second[first].trailing_zeros() as usize;
            if second == SECOND_LEVELS {
                return Err(Damage::UNKNOWN);
            }
            (first, second)
        };
        let place = self.first_free(class)?;
        let block = self.block(place)?;
        if block.granules() < granules {
            return Err(Damage::UNKNOWN);
        }
        self.remove_free(place, block)?;
        Ok(Some(place))
    }

    /// Makes the block at `place`, free and in no list, a used one of `granules` if the rest is
    /// worth keeping.
    fn split(&mut self, place: Place, granules: u32) -> Result<Place, Damage> {
        let block = self.block(place)?;
        let rest = block.granules() - granules;
        let kept = if rest < SPLIT_MIN {
            block.granules()
        } else {
            granules
        };
        self.arena
            .write(place.at(), &Block::new(kept, false, block.previous));
        if kept == granules && rest > 0 {
            self.put_free(place.after(granules), rest, granules)?;
        }
        Ok(place)
    }

    fn insert_free(&mut self, place: Place, granules: u32) -> Result<(), Damage> {
        let class = class_of(granules);
        let head = self.first_free(class)?;
        let links = Links {
            next: head,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        if !head.is_none() {
            let after = Links {
                due_previous: place,
                ..self.links(head)?
            };
            self.set_links(head, after);
        }
        self.arena.write(head_at(class), &Head::new(place));
        self.globals.second[class.0] |= 1 << class.1;
        self.globals.first |= 1 << class.0;
        Ok(())
    }

    fn remove_free(&mut self, place: Place, block: Block) -> Result<(), Damage> {
        if !block.is_free() {
            return Err(Damage::UNKNOWN);
        }
        let class = class_of(block.granules());
        let links = self.links(place)?;
        if !links.next.is_none() {
            let after = Links {
                due_previous: links.due_previous,
                ..self.links(links.next)?
            };
            self.set_links(links.next, after);
        }
        if !links.due_previous.is_none() {
            let before = Links {
                next: links.next,
                ..self.links(links.due_previous)?
            };
            self.set_links(links.due_previous, before);
            return Ok(());
        }
        if self.first_free(class)? != place {
            return Err(Damage::UNKNOWN);
        }
        self.arena.write(head_at(class), &Head::new(links.next));
        if links.next.is_none() {
            self.globals.second[class.0] &= !(1 << class.1);
            if self.globals.second[class.0] == 0 {
                self.globals.first &= !(1 << class.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::layout::FIRST_LEVELS;

    impl Store {
        /// Walks all free lists and returns the granules in them.
        ///
        /// # Errors
        /// At the first sign that lists, bitmaps and blocks disagree.
        fn verify_free(&self) -> Result<u64, Damage> {
            let mut total = 0;
            if self.globals.first >> FIRST_LEVELS != 0 {
                return Err(Damage::UNKNOWN);
            }
            for first in 0..FIRST_LEVELS {
                let bits = self.globals.second[first];
                if (self.globals.first >> first & 1 == 1) != (bits != 0) {
                    return Err(Damage::UNKNOWN);
                }
                for second in 0..SECOND_LEVELS {
                    let granules = self.verify_free_list((first, second))?;
                    if (granules != 0) != (bits >> second & 1 == 1) {
                        return Err(Damage::UNKNOWN);
                    }
                    total += granules;
                }
            }
            Ok(total)
        }

        fn verify_free_list(&self, class: (usize, usize)) -> Result<u64, Damage> {
            let mut place: Place = self.head(head_at(class))?;
            let mut previous = Place::NONE;
            let mut total = 0;
            while !place.is_none() {
                let block = self.block(place)?;
                let links = self.links(place)?;
                let fits = block.is_free() && class_of(block.granules()) == class;
                total += u64::from(block.granules());
                // More than there can be: the list is a ring.
                if !fits || links.due_previous != previous || total > self.globals.heap_end {
                    return Err(Damage::UNKNOWN);
                }
                previous = place;
                place = links.next;
            }
            Ok(total)
        }
    }

    #[test]
    fn classes_are_ordered_and_fitting_classes_hold_only_large_enough_blocks() {
        let mut last = (0, 0);
        for granules in 1..100_000 {
            let class = class_of(granules);
            assert!(class >= last, "{granules}");
            last = class;
            let fitting = class_fitting(granules);
            assert!(fitting >= class);
            assert!(
                class_of(granules - 1) < fitting,
                "{granules}: a smaller one is in its list"
            );
        }
        assert!(class_fitting((1 << 31) - 1).0 < FIRST_LEVELS);
    }

    #[test]
    fn freeing_everything_gives_all_memory_back_in_any_order() {
        let mut store = Store::new(1 << 20);
        let empty = store.globals;
        for stride in [1, 3, 7, 11] {
            let mut places = Vec::new();
            for size in (5..).step_by(stride) {
                match store.allocate(size % 90 + 5) {
                    Ok(place) => places.push(place),
                    Err(_) => break,
                }
            }
            assert!(places.len() > 100);
            places.sort_by_key(|place| super::super::digest::mix(u64::from(place.raw()), 1));
            for place in places {
                store.free(place).expect("sound");
                store.verify_free().expect("sound");
            }
            assert_eq!(store.globals, empty, "stride {stride}");
        }
    }

    #[test]
    fn blocks_never_overlap() {
        let mut store = Store::new(1 << 20);
        let mut live: Vec<(Place, u32)> = Vec::new();
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = super::super::digest::mix(random, 1);
            if random & 3 == 0 && !live.is_empty() {
                let (place, _) = live.swap_remove(random as usize / 4 % live.len());
                store.free(place).expect("sound");
            } else if let Ok(place) = store.allocate((random >> 8) as u32 % 200 + 4) {
                let granules = store.block(place).expect("sound").granules();
                live.push((place, granules));
            }
        }
        live.sort();
        assert!(
            live.windows(2)
                .all(|two| two[0].0.after(two[0].1) <= two[1].0)
        );
        let used: u64 = live.iter().map(|(_, granules)| u64::from(*granules)).sum();
        assert_eq!(store.globals.used, used);
        let free = store.verify_free().expect("sound");
        let heap = store.globals.heap_end - u64::from(store.globals.heap_start().raw());
        assert_eq!(used + free, heap, "every granule is used or free");
    }
}
