//! Blocks of memory inside the arena: two-level segregated free lists (TLSF) with boundary tags.
//!
//! Allocating and freeing take constant time and depend on nothing but the state, so every replica
//! hands out the same places and runs out of memory at the same operation. Neighbouring free blocks
//! are always merged; a free block at the heap's end becomes wilderness again, which makes the image
//! smaller. Freed bytes are left as they are: they are a function of the history, and the history is
//! the same everywhere.
//!
//! The idea: Masmano, Ripoll, Crespo, Real, "TLSF: a new dynamic memory allocator for real-time
//! systems" (2004).

use super::layout::{Block, FIRST_LEVELS, FREE_HEADS_AT, GRANULE, Links, Place, SECOND_LEVELS};
use super::store::{Damage, Store};
use bytemuck::Zeroable;

/// A remainder smaller than this stays with the block it would be split from: no entry fits into it.
const SPLIT_MIN: u32 = 5;

/// Which free list holds blocks of so many granules.
const fn class_of(granules: u32) -> (usize, usize) {
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

const fn head_at(class: (usize, usize)) -> usize {
    FREE_HEADS_AT + (class.0 * SECOND_LEVELS + class.1) * 4
}

/// The granules that `size` bytes take.
pub(super) const fn granules_of(size: usize) -> u32 {
    size.div_ceil(GRANULE) as u32
}

impl Store {
    /// A block of at least `granules`, or `None` when there is none: out of memory.
    pub(super) fn allocate(&mut self, granules: u32) -> Option<Place> {
        let place = match self.take_free(granules) {
            Some(place) => self.split(place, granules),
            None => self.take_wilderness(granules)?,
        };
        self.globals.used += u64::from(self.block(place).granules());
        Some(place)
    }

    /// Gives a block back.
    pub(super) fn free(&mut self, place: Place) {
        let block = self.block(place);
        assert!(!block.is_free(), "state is corrupt: a free block is freed");
        self.globals.used -= u64::from(block.granules());
        let (place, mut granules, previous) = self.absorb_previous(place, block);
        let next = place.after(granules);
        if next != self.globals.heap_end() {
            let after = self.block(next);
            if after.is_free() {
                self.remove_free(next, after);
                self.arena.write(next.at(), &Block::zeroed());
                granules += after.granules();
            }
        }
        self.put_free(place, granules, previous);
    }

    /// The header of the block at `place`, verified.
    #[inline]
    pub(super) fn block(&self, place: Place) -> Block {
        self.try_block(place)
            .expect("state is corrupt: a block's header fails its check")
    }

    #[inline]
    pub(super) fn try_block(&self, place: Place) -> Result<Block, Damage> {
        let inside = place >= self.globals.heap_start() && place < self.globals.heap_end();
        if !inside {
            return Err(Damage(0));
        }
        let block: Block = self.arena.read(place.at());
        if block.is_sound() {
            Ok(block)
        } else {
            Err(Damage(place.at()))
        }
    }

    fn absorb_previous(&mut self, place: Place, block: Block) -> (Place, u32, u32) {
        if block.previous != 0 {
            let before = place.before(block.previous);
            let header = self.block(before);
            assert!(
                header.granules() == block.previous,
                "state is corrupt: neighbouring blocks disagree about their sizes"
            );
            if header.is_free() {
                self.remove_free(before, header);
                self.arena.write(place.at(), &Block::zeroed());
                return (
                    before,
                    header.granules() + block.granules(),
                    header.previous,
                );
            }
        }
        (place, block.granules(), block.previous)
    }

    /// Makes the range a free block, or part of the wilderness when it is the last.
    fn put_free(&mut self, place: Place, granules: u32, previous: u32) {
        let next = place.after(granules);
        if next == self.globals.heap_end() {
            self.globals.heap_end = u64::from(place.raw());
            self.globals.last_size = u64::from(previous);
            return;
        }
        self.arena
            .write(place.at(), &Block::new(granules, true, previous));
        self.set_previous(next, granules);
        self.insert_free(place, granules);
    }

    /// Tells the block after one whose size changed.
    fn set_previous(&mut self, place: Place, granules: u32) {
        if place == self.globals.heap_end() {
            self.globals.last_size = u64::from(granules);
            return;
        }
        let block = self.block(place);
        let changed = Block::new(block.granules(), block.is_free(), granules);
        self.arena.write(place.at(), &changed);
    }

    fn take_wilderness(&mut self, granules: u32) -> Option<Place> {
        let place = self.globals.heap_end();
        let end = self.globals.heap_end + u64::from(granules);
        if end * GRANULE as u64 > self.globals.limit {
            return None;
        }
        let previous = self.globals.last_size as u32;
        self.globals.heap_end = end;
        self.globals.last_size = u64::from(granules);
        // What an earlier life left here is not part of the state and must not become so.
        self.arena
            .bytes_mut(place.at(), granules as usize * GRANULE)
            .fill(0);
        self.arena
            .write(place.at(), &Block::new(granules, false, previous));
        Some(place)
    }

    /// Takes a free block of at least `granules` out of its list.
    fn take_free(&mut self, granules: u32) -> Option<Place> {
        // The list of its own class may hold one that fits although not all of it do.
        let own = class_of(granules);
        let head: Place = self.arena.read(head_at(own));
        if !head.is_none() {
            let block = self.block(head);
            if block.granules() >= granules {
                self.remove_free(head, block);
                return Some(head);
            }
        }
        let (first, second) = class_fitting(granules);
        let same = u32::from(self.globals.second[first]) & (u32::MAX << second);
        let class = if same != 0 {
            (first, same.trailing_zeros() as usize)
        } else {
            let larger = self.globals.first & (u64::MAX << (first + 1));
            if larger == 0 {
                return None;
            }
            let first = larger.trailing_zeros() as usize;
            (first, self.globals.second[first].trailing_zeros() as usize)
        };
        let place: Place = self.arena.read(head_at(class));
        let block = self.block(place);
        assert!(
            block.granules() >= granules,
            "state is corrupt: a free block is in the list of another size"
        );
        self.remove_free(place, block);
        Some(place)
    }

    /// Makes the block at `place`, free and in no list, a used one of `granules` if the rest is
    /// worth keeping.
    fn split(&mut self, place: Place, granules: u32) -> Place {
        let block = self.block(place);
        let rest = block.granules() - granules;
        if rest < SPLIT_MIN {
            let used = Block::new(block.granules(), false, block.previous);
            self.arena.write(place.at(), &used);
            return place;
        }
        self.arena
            .write(place.at(), &Block::new(granules, false, block.previous));
        self.put_free(place.after(granules), rest, granules);
        place
    }

    fn insert_free(&mut self, place: Place, granules: u32) {
        let class = class_of(granules);
        let head: Place = self.arena.read(head_at(class));
        let links = Links {
            next: head,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        if !head.is_none() {
            let after = Links {
                due_previous: place,
                ..self.links(head)
            };
            self.set_links(head, after);
        }
        self.arena.write(head_at(class), &place);
        self.globals.second[class.0] |= 1 << class.1;
        self.globals.first |= 1 << class.0;
    }

    fn remove_free(&mut self, place: Place, block: Block) {
        assert!(
            block.is_free(),
            "state is corrupt: a used block is in a free list"
        );
        let class = class_of(block.granules());
        let links = self.links(place);
        if !links.next.is_none() {
            let after = Links {
                due_previous: links.due_previous,
                ..self.links(links.next)
            };
            self.set_links(links.next, after);
        }
        if !links.due_previous.is_none() {
            let before = Links {
                next: links.next,
                ..self.links(links.due_previous)
            };
            self.set_links(links.due_previous, before);
            return;
        }
        let head: Place = self.arena.read(head_at(class));
        assert!(
            head == place,
            "state is corrupt: a free list does not start with its first block"
        );
        self.arena.write(head_at(class), &links.next);
        if links.next.is_none() {
            self.globals.second[class.0] &= !(1 << class.1);
            if self.globals.second[class.0] == 0 {
                self.globals.first &= !(1 << class.0);
            }
        }
    }

    /// Walks all free lists and returns the granules in them.
    ///
    /// # Errors
    /// At the first sign that lists, bitmaps and blocks disagree.
    pub(super) fn verify_free(&self) -> Result<u64, Damage> {
        let mut total = 0;
        if self.globals.first >> FIRST_LEVELS != 0 {
            return Err(Damage(0));
        }
        for first in 0..FIRST_LEVELS {
            let bits = self.globals.second[first];
            if (self.globals.first >> first & 1 == 1) != (bits != 0) {
                return Err(Damage(0));
            }
            for second in 0..SECOND_LEVELS {
                let granules = self.verify_free_list((first, second))?;
                if (granules != 0) != (bits >> second & 1 == 1) {
                    return Err(Damage(head_at((first, second))));
                }
                total += granules;
            }
        }
        Ok(total)
    }

    fn verify_free_list(&self, class: (usize, usize)) -> Result<u64, Damage> {
        let mut place: Place = self.arena.read(head_at(class));
        let mut previous = Place::NONE;
        let mut total = 0;
        while !place.is_none() {
            let block = self.try_block(place)?;
            let links = self.try_links(place)?;
            let fits = block.is_free() && class_of(block.granules()) == class;
            total += u64::from(block.granules());
            // More than there can be: the list is a ring.
            if !fits || links.due_previous != previous || total > self.globals.heap_end {
                return Err(Damage(place.at()));
            }
            previous = place;
            place = links.next;
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    Some(place) => places.push(place),
                    None => break,
                }
            }
            assert!(places.len() > 100);
            places.sort_by_key(|place| super::super::digest::mix(u64::from(place.raw()), 1));
            for place in places {
                store.free(place);
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
                store.free(place);
            } else if let Some(place) = store.allocate((random >> 8) as u32 % 200 + 4) {
                let granules = store.block(place).granules();
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
