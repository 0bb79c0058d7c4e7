//! The ring of bytes, and the arithmetic of positions in it.
//!
//! A position is a lap and a line within the lap, and only grows. So "was this overwritten?" is one
//! comparison, no lap can be mistaken for another, and nothing on the way of an append divides.

use alloc::{boxed::Box, vec};

use bytemuck::{Pod, Zeroable};

/// Bodies begin at multiples of this many bytes, a cache line: two bodies never share one, and copies
/// run at the speed of aligned ones.
pub const LINE_SIZE: usize = 64;

/// What fresh memory is filled with. Not zero, so that writing it cannot be turned into asking the
/// system for zeroed pages, which would not be resident.
const FRESH: u8 = 0xA5;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_SIZE]);

/// A place in the ring. Starts have `line` below the ring's count of lines; an end may equal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) lap: u64,
    pub(crate) line: u64,
}

impl Position {
    pub(crate) const FIRST: Self = Self { lap: 0, line: 0 };
}

/// A fixed region of bytes in which bodies are placed one after the other, each in one piece.
pub(crate) struct Ring {
    lines: Box<[Line]>,
}

impl Ring {
    /// A ring of at least `bytes`, rounded up to whole lines.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            lines: vec![Line([FRESH; LINE_SIZE]); bytes.div_ceil(LINE_SIZE)].into_boxed_slice(),
        }
    }

    /// How many bytes [`Self::new`] allocates.
    pub(crate) const fn memory(bytes: usize) -> usize {
        bytes.div_ceil(LINE_SIZE) * LINE_SIZE
    }

    /// How many bytes it holds.
    pub(crate) const fn capacity(&self) -> usize {
        self.lines.len() * LINE_SIZE
    }

    /// How many lines a body of `size` takes. An empty one takes a line too, so that no two ops share
    /// a position and "overwritten" means the same for all.
    const fn lines_of(size: usize) -> u64 {
        if size == 0 {
            1
        } else {
            size.div_ceil(LINE_SIZE) as u64
        }
    }

    /// Whether a body of `size` fits at all.
    pub(crate) const fn fits(&self, size: usize) -> bool {
        Self::lines_of(size) <= self.lines.len() as u64
    }

    /// Where a body of `size` begins whose predecessor ends at `end`: right there, or at the start
    /// of the next lap when it would run over the region's end.
    pub(crate) const fn place(&self, end: Position, size: usize) -> Position {
        if end.line + Self::lines_of(size) <= self.lines.len() as u64 {
            end
        } else {
            Position {
                lap: end.lap + 1,
                line: 0,
            }
        }
    }

    /// Where a body of `size` ends that begins at `start`.
    pub(crate) const fn end_of(start: Position, size: usize) -> Position {
        Position {
            lap: start.lap,
            line: start.line + Self::lines_of(size),
        }
    }

    /// Where a body of `size` begins that ends at `end`; none when it would not be in one piece.
    pub(crate) fn start_of(&self, end: Position, size: usize) -> Option<Position> {
        let (lap, line) = match end.line {
            0 => (end.lap.checked_sub(1)?, self.lines.len() as u64),
            line => (end.lap, line),
        };
        let line = line.checked_sub(Self::lines_of(size))?;
        Some(Position { lap, line })
    }

    /// Whether what begins at `start` is intact when everything up to `end` was written.
    pub(crate) fn is_intact(start: Position, end: Position) -> bool {
        (start.lap + 1, start.line) >= (end.lap, end.line)
    }

    /// The oldest position that is intact when everything up to `end` was written.
    pub(crate) const fn oldest_intact(end: Position) -> Position {
        match end.lap.checked_sub(1) {
            Some(lap) => Position {
                lap,
                line: end.line,
            },
            None => Position::FIRST,
        }
    }

    /// How many bytes lie from `start` to `end`, skipped ones included.
    pub(crate) const fn distance(&self, start: Position, end: Position) -> usize {
        let laps = (end.lap - start.lap) as usize;
        laps * self.capacity() + end.line as usize * LINE_SIZE - start.line as usize * LINE_SIZE
    }

    /// The `size` bytes at `start`.
    pub(crate) fn get(&self, start: Position, size: usize) -> &[u8] {
        let offset = start.line as usize * LINE_SIZE;
        &bytemuck::cast_slice(&self.lines)[offset..offset + size]
    }

    /// The `size` bytes at `start`, to be written.
    pub(crate) fn get_mut(&mut self, start: Position, size: usize) -> &mut [u8] {
        let offset = start.line as usize * LINE_SIZE;
        &mut bytemuck::cast_slice_mut(&mut self.lines)[offset..offset + size]
    }

    /// Copies `body` to `start`.
    pub(crate) fn put(&mut self, start: Position, body: &[u8]) {
        self.get_mut(start, body.len()).copy_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lap: u64, line: u64) -> Position {
        Position { lap, line }
    }

    #[test]
    fn a_body_that_does_not_fit_before_the_end_begins_the_next_lap() {
        let ring = Ring::new(256);
        assert_eq!(ring.place(at(0, 0), 256), at(0, 0));
        assert_eq!(ring.place(at(0, 1), 192), at(0, 1), "up to the very end");
        assert_eq!(ring.place(at(0, 1), 193), at(1, 0));
        assert_eq!(ring.place(at(1, 2), 129), at(2, 0));
        assert_eq!(ring.place(at(5, 4), 0), at(6, 0), "an empty body too");
    }

    #[test]
    fn a_start_is_found_from_its_end() {
        let ring = Ring::new(256);
        for (lap, line, size) in [(3, 0, 256), (3, 1, 192), (3, 2, 0), (3, 0, 1)] {
            let end = Ring::end_of(at(lap, line), size);
            assert_eq!(ring.start_of(end, size), Some(at(lap, line)));
        }
        assert_eq!(
            ring.start_of(at(4, 0), 100),
            Some(at(3, 2)),
            "before the lap"
        );
        assert_eq!(ring.start_of(at(0, 0), 100), None);
        assert_eq!(ring.start_of(at(4, 1), 100), None, "not in one piece");
    }

    #[test]
    fn a_line_is_intact_until_the_next_lap_reaches_it() {
        assert!(Ring::is_intact(at(1, 2), at(1, 4)));
        assert!(Ring::is_intact(at(1, 2), at(2, 2)));
        assert!(!Ring::is_intact(at(1, 2), at(2, 3)));
        assert!(!Ring::is_intact(at(1, 2), at(3, 0)));
        for end in [at(0, 3), at(1, 0), at(7, 3)] {
            assert!(Ring::is_intact(Ring::oldest_intact(end), end));
        }
        let ring = Ring::new(256);
        assert_eq!(ring.distance(at(1, 2), at(2, 1)), 192);
    }

    #[test]
    fn sizes_are_rounded_up_to_lines() {
        assert_eq!(Ring::new(1).capacity(), 64);
        assert_eq!(Ring::memory(65), 128);
        assert_eq!(Ring::lines_of(0), 1);
        assert_eq!(Ring::lines_of(64), 1);
        assert_eq!(Ring::lines_of(65), 2);
        assert!(Ring::new(128).fits(128) && !Ring::new(128).fits(129));
    }
}
