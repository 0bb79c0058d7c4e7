//! Memory for what connections send: blocks in one piece, of three sizes, all of them allocated at
//! the start.
//!
//! A command is parsed where it was read, so it needs to lie in one piece. A connection holds a block
//! only while it has unread bytes: none when it is idle, a small one while it is read from, a larger
//! one from the moment that a command turns out not to fit until that command is consumed. When no
//! block of a size is free, connections wait in line for it, and are not read from meanwhile. Nobody
//! waits for a smaller block than it holds, so the lines cannot wait for each other in a circle.

use std::collections::VecDeque;

use super::memory::buffer;

/// How many sizes there are.
pub(super) const CLASSES: usize = 3;
/// How many bytes beyond the command that it was taken for may be read into a larger block: enough
/// that the lengths of a command's many arguments are not read one by one.
const OVERSHOOT: usize = 4096;

/// A block that somebody holds.
#[derive(Debug)]
pub(super) struct Block {
    class: usize,
    index: usize,
}

impl Block {
    /// Which size it has, from 0.
    pub(super) const fn class(&self) -> usize {
        self.class
    }
}

/// All blocks of one size.
#[derive(Debug)]
struct Class {
    size: usize,
    bytes: Box<[u8]>,
    free: Vec<usize>,
    /// Connections (slot, generation) that wait for one, the first come first.
    line: VecDeque<(u32, u32)>,
    /// The fewest that were free.
    least_free: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    classes: Vec<Class>,
}

impl Blocks {
    /// Blocks of each (size, count); at most `connections` will wait.
    pub(super) fn new(
        plan: &[(usize, usize); CLASSES],
        connections: usize,
        prefault: bool,
    ) -> Self {
        let class = |&(size, count): &(usize, usize)| Class {
            size,
            bytes: buffer(size * count, prefault),
            free: (0..count).rev().collect(),
            line: VecDeque::with_capacity(connections),
            least_free: count,
        };
        Self {
            classes: plan.iter().map(class).collect(),
        }
    }

    /// A block of `class`, if one is free and nobody waits for it.
    pub(super) fn take(&mut self, class: usize) -> Option<Block> {
        let blocks = &mut self.classes[class];
        if !blocks.line.is_empty() {
            return None;
        }
        let index = blocks.free.pop()?;
        blocks.least_free = blocks.least_free.min(blocks.free.len());
        Some(Block { class, index })
    }

    /// What is kept for each connection that may wait, and for each block, in bytes.
    pub(super) const PER_CONNECTION: usize = CLASSES * size_of::<(u32, u32)>();
    pub(super) const PER_BLOCK: usize = size_of::<usize>();

    /// How many blocks of `class` are taken, and how many were at most.
    pub(super) fn taken(&self, class: usize) -> (usize, usize) {
        let blocks = &self.classes[class];
        let count = blocks.bytes.len() / blocks.size;
        (count - blocks.free.len(), count - blocks.least_free)
    }

    /// A connection waits for a block of `class`.
    pub(super) fn wait(&mut self, class: usize, slot: u32, generation: u32) {
        self.classes[class].line.push_back((slot, generation));
    }

    /// A free block and who is the first to wait for it; `give_back` it if it is not there any more.
    pub(super) fn next_grant(&mut self) -> Option<(Block, u32, u32)> {
        for (class, blocks) in self.classes.iter_mut().enumerate() {
            if !blocks.free.is_empty()
                && let Some((slot, generation)) = blocks.line.pop_front()
                && let Some(index) = blocks.free.pop()
            {
                blocks.least_free = blocks.least_free.min(blocks.free.len());
                return Some((Block { class, index }, slot, generation));
            }
        }
        None
    }

    /// Whether anybody waits for a block of `class`.
    pub(super) fn is_contended(&self, class: usize) -> bool {
        !self.classes[class].line.is_empty()
    }

    /// Whether anybody waits who can be served.
    pub(super) fn can_grant(&self) -> bool {
        let served = |class: &Class| !class.line.is_empty() && !class.free.is_empty();
        self.classes.iter().any(served)
    }

    /// The block is free again.
    pub(super) fn give_back(&mut self, block: Block) {
        self.classes[block.class].free.push(block.index);
    }

    /// The smallest class whose blocks have `size` bytes; the largest when none has.
    pub(super) fn class_for(&self, size: usize) -> usize {
        let fits = |class: &Class| class.size >= size;
        let class = self.classes.iter().position(fits);
        class.unwrap_or(self.classes.len() - 1)
    }

    /// The size of the blocks of `class`, in bytes.
    pub(super) fn size_of(&self, class: usize) -> usize {
        self.classes[class].size
    }

    /// How many blocks of each class are free.
    #[cfg(test)]
    pub(super) fn free(&self) -> Vec<usize> {
        self.classes.iter().map(|class| class.free.len()).collect()
    }

    pub(super) fn bytes(&self, block: &Block) -> &[u8] {
        let class = &self.classes[block.class];
        &class.bytes[block.index * class.size..(block.index + 1) * class.size]
    }

    pub(super) fn bytes_mut(&mut self, block: &Block) -> &mut [u8] {
        let class = &mut self.classes[block.class];
        &mut class.bytes[block.index * class.size..(block.index + 1) * class.size]
    }

    /// Copies `size` bytes from `from` on out of `old` to the start of `new`, which has another size.
    fn copy(&mut self, old: &Block, from: usize, size: usize, new: &Block) {
        let start = old.index * self.size_of(old.class) + from;
        let at = new.index * self.size_of(new.class);
        let (below, above) = self.classes.split_at_mut(old.class.max(new.class));
        let (source, target) = if old.class < new.class {
            (&below[old.class], &mut above[0])
        } else {
            (&above[0], &mut below[new.class])
        };
        target.bytes[at..at + size].copy_from_slice(&source.bytes[start..start + size]);
    }
}

/// Bytes read and not yet consumed.
#[derive(Debug, Default)]
pub(super) struct Input {
    block: Option<Block>,
    start: usize,
    end: usize,
    /// The next command cannot be whole before so many bytes are there.
    pub(super) needed: usize,
    /// It stands in line for a block.
    pub(super) waiting: bool,
    /// The size of its block, in bytes.
    capacity: usize,
}

impl Input {
    /// What was read and not consumed.
    pub(super) fn unread<'a>(&self, blocks: &'a Blocks) -> &'a [u8] {
        match &self.block {
            Some(block) => &blocks.bytes(block)[self.start..self.end],
            None => &[],
        }
    }

    /// Whether nothing is unread.
    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there may be another command to parse.
    pub(super) const fn is_worth_parsing(&self) -> bool {
        self.end - self.start >= self.needed && self.end > self.start
    }

    /// Whether it holds a block that somebody waits for.
    pub(super) fn is_in_the_way(&self, blocks: &Blocks) -> bool {
        let block = self.block.as_ref();
        block.is_some_and(|block| blocks.is_contended(block.class()))
    }

    /// How much memory it holds, in bytes.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Which class of block is needed before anything can be read; none: there is space.
    pub(super) fn lacks(&self, blocks: &Blocks) -> Option<usize> {
        let Some(block) = &self.block else {
            return Some(0);
        };
        let size = blocks.size_of(block.class());
        if self.end - self.start < size {
            return None;
        }
        // At least twice as large: announcing a large command costs nobody memory, sending one does.
        let class = blocks.class_for(self.needed.max(size * 2));
        (class > block.class()).then_some(class)
    }

    /// From now on the bytes lie in `block`.
    pub(super) fn put(&mut self, block: Block, blocks: &mut Blocks) {
        self.waiting = false;
        if let Some(old) = self.block.take() {
            blocks.copy(&old, self.start, self.end - self.start, &block);
            blocks.give_back(old);
            self.end -= self.start;
            self.start = 0;
        }
        self.capacity = blocks.size_of(block.class());
        self.block = Some(block);
    }

    /// Where the next bytes from the socket go; empty when nothing can be taken now.
    ///
    /// Into a larger block hardly more is read than the command it was taken for, so that it is free
    /// again after that command, however many others follow.
    pub(super) fn space<'a>(&mut self, blocks: &'a mut Blocks) -> &'a mut [u8] {
        let Some(block) = &self.block else {
            return &mut [];
        };
        let is_small = block.class() == 0;
        let bytes = blocks.bytes_mut(block);
        if self.start > 0 && self.end == bytes.len() {
            bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let most = if is_small {
            bytes.len()
        } else {
            let wanted = (self.start + self.needed).max(self.end + OVERSHOOT);
            wanted.min(bytes.len())
        };
        &mut bytes[self.end..most]
    }

    /// `count` bytes were read into [`Self::space`].
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(
            self.end <= self.capacity,
            "the socket wrote within the space"
        );
    }

    /// The first `count` unread bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        self.needed = 0;
        assert!(self.start <= self.end, "only what was read can be consumed");
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives its block back when nothing is unread, and a larger one for a small one when that does.
    pub(super) fn relax(&mut self, blocks: &mut Blocks) {
        let Some(block) = self.block.take() else {
            return;
        };
        let unread = self.end - self.start;
        if unread == 0 {
            blocks.give_back(block);
            self.capacity = 0;
            return;
        }
        let fits_small =
            block.class() > 0 && unread < blocks.size_of(0) && self.needed < blocks.size_of(0);
        self.block = Some(block);
        if fits_small && let Some(small) = blocks.take(0) {
            self.put(small, blocks);
        }
    }

    /// Gives everything back.
    pub(super) fn release(&mut self, blocks: &mut Blocks) {
        self.consume(self.end - self.start);
        self.relax(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_handed_out_in_the_order_of_the_line() {
        let mut blocks = Blocks::new(&[(4, 1), (8, 1), (16, 1)], 4, false);
        let held = blocks.take(0).expect("free");
        assert!(blocks.take(0).is_none());
        blocks.wait(0, 7, 1);
        blocks.wait(0, 8, 1);
        assert!(blocks.next_grant().is_none() && !blocks.can_grant());
        blocks.give_back(held);
        assert!(blocks.take(0).is_none(), "nobody overtakes");
        let (block, slot, _) = blocks.next_grant().expect("one is free");
        assert_eq!(slot, 7);
        blocks.give_back(block);
        assert_eq!(blocks.next_grant().map(|(_, slot, _)| slot), Some(8));
    }

    #[test]
    fn bytes_move_along_into_a_larger_block() {
        let mut blocks = Blocks::new(&[(4, 1), (8, 1), (16, 1)], 4, false);
        let mut input = Input::default();
        assert_eq!(input.lacks(&blocks), Some(0));
        let block = blocks.take(0).expect("free");
        input.put(block, &mut blocks);
        input.space(&mut blocks).copy_from_slice(b"abcd");
        input.filled(4);
        input.consume(1);
        assert_eq!(input.space(&mut blocks).len(), 1);
        input.space(&mut blocks)[0] = b'e';
        input.filled(1);
        input.needed = 12;
        assert_eq!(input.lacks(&blocks), Some(2));
        let block = blocks.take(2).expect("free");
        input.put(block, &mut blocks);
        assert_eq!(input.unread(&blocks), b"bcde");
        assert_eq!(blocks.free(), [1, 1, 0]);
        input.release(&mut blocks);
        assert_eq!(blocks.free(), [1, 1, 1]);
    }
}
