//! A connection's receive buffer: bytes in, whole frames out, nothing allocated in between.
//!
//! ```text
//!   0        start            end              capacity
//!   | done   | frame | frame | part of one |   free    |
//! ```
//!
//! The socket is read straight into the free part; frames are handled where they lie. What is left at
//! the end of the buffer is moved to its front only when the frame it begins would not fit otherwise,
//! and an empty buffer starts again at its front, so that under light load always the same few pages
//! are touched.

use core::ops::Range;

use vsr_types::memory::touch;
use vsr_types::{Frame, FrameError, HEADER_SIZE};

/// The most bytes taken by one read. Larger reads save no time (a system call per 256 KiB is nothing)
/// but would let one connection keep the others waiting and push the buffer out of the caches.
pub const READ_SIZE_MAX: usize = 256 << 10;

/// A receive buffer of fixed size.
#[derive(Debug)]
pub struct Ingress {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The size of the frame at `start`, as far as it is known.
    needed: usize,
    frame_size_max: usize,
    /// The most bytes that ever waited.
    most: usize,
}

/// With less room than this behind what waits, moving it to the front is cheaper than small reads.
const ROOM_MIN: usize = 16 << 10;

impl Ingress {
    /// A buffer of `capacity` bytes for frames of at most `frame_size_max`.
    ///
    /// # Panics
    /// When a frame would not fit into the buffer.
    #[must_use]
    pub fn new(capacity: usize, frame_size_max: usize) -> Self {
        assert!(
            frame_size_max >= HEADER_SIZE,
            "a frame is at least a header"
        );
        assert!(
            capacity >= frame_size_max,
            "the buffer holds the largest frame"
        );
        let buffer = vec![0; capacity].into_boxed_slice();
        Self {
            buffer,
            start: 0,
            end: 0,
            needed: HEADER_SIZE,
            frame_size_max,
            most: 0,
        }
    }

    /// The most bytes that waited at once, over all connections it served.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Touches the buffer, so that it is resident before it is used. For a fresh one.
    ///
    /// # Panics
    /// When something was received already.
    pub fn prefault(&mut self) {
        assert!(self.most == 0, "a buffer is touched before it is used");
        touch(&mut self.buffer);
    }

    /// Forgets everything: the buffer serves another connection now.
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.needed = HEADER_SIZE;
    }

    /// How many bytes were received and not handed out yet.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is waiting.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The size of the buffer in bytes.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Where the next bytes from the socket go: at most [`READ_SIZE_MAX`], and never empty once
    /// [`Self::next_frame`] has returned none.
    pub fn space(&mut self) -> &mut [u8] {
        if self.is_empty() {
            self.clear();
        } else if self.start > 0 && self.is_cramped() {
            // What is moved is part of one frame, and it is moved once.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let to = self.buffer.len().min(self.end + READ_SIZE_MAX);
        &mut self.buffer[self.end..to]
    }

    /// Whether the frame that begins at `start` does not fit behind it, or so little is free that
    /// reads would become small.
    fn is_cramped(&self) -> bool {
        let capacity = self.buffer.len();
        self.start + self.needed > capacity || capacity - self.end < ROOM_MIN.min(capacity / 4)
    }

    /// `count` bytes were written into [`Self::space`].
    ///
    /// # Panics
    /// When that is more than there was space for.
    pub fn filled(&mut self, count: usize) {
        assert!(
            count <= self.buffer.len() - self.end,
            "a read stays inside its buffer"
        );
        self.end += count;
        self.most = self.most.max(self.len());
    }

    /// The bytes of the next whole frame; none when more must be read first. The header was checked,
    /// the rest is the business of [`Frame::parse`].
    ///
    /// # Errors
    /// When the stream cannot be followed any further; see [`Frame::peek`].
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        Ok(self.next_range()?.map(|range| &self.buffer[range]))
    }

    /// As [`Self::next_frame`], as a place in the buffer: for callers that go on reading in between.
    pub(crate) fn next_range(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        let waiting = &self.buffer[self.start..self.end];
        let Some(size) = Frame::peek(waiting, self.frame_size_max)? else {
            self.needed = HEADER_SIZE;
            return Ok(None);
        };
        if waiting.len() < size {
            self.needed = size;
            return Ok(None);
        }
        let from = self.start;
        self.start += size;
        self.needed = HEADER_SIZE;
        Ok(Some(from..from + size))
    }

    /// What lies at a place that [`Self::next_range`] gave, until the next [`Self::space`].
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use vsr_types::message::Query;
    use vsr_types::{ClusterId, Header, RequestNumber};

    fn frame(number: u64, body: &[u8]) -> Vec<u8> {
        let mut header = Header::new(Query {
            query: RequestNumber::new(number),
            ..Query::zeroed()
        });
        header.seal(body);
        [bytemuck::bytes_of(&header), body].concat()
    }

    fn receive(ingress: &mut Ingress, mut bytes: &[u8]) -> usize {
        let space = ingress.space();
        let count = space.len().min(bytes.len());
        bytes = &bytes[..count];
        space[..count].copy_from_slice(bytes);
        ingress.filled(count);
        count
    }

    fn numbers(ingress: &mut Ingress) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(bytes) = ingress.next_frame().expect("good frames") {
            let frame = Frame::parse(bytes, ClusterId::ZERO).expect("a good frame");
            numbers.push(frame.fields::<Query>().expect("a query").query.raw());
        }
        numbers
    }

    #[test]
    fn frames_come_out_whole_wherever_the_stream_is_cut() {
        let stream = [frame(1, b"one"), frame(2, b""), frame(3, &[7; 100])].concat();
        for cut in 0..=stream.len() {
            let mut ingress = Ingress::new(512, 300);
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                let mut left = part;
                while !left.is_empty() {
                    left = &left[receive(&mut ingress, left)..];
                    seen.extend(numbers(&mut ingress));
                }
            }
            assert_eq!(seen, [1, 2, 3], "cut at {cut}");
            assert!(ingress.is_empty());
        }
    }

    #[test]
    fn byte_by_byte_through_the_smallest_buffer() {
        let stream: Vec<u8> = (0..50).flat_map(|n| frame(n, &[n as u8; 17])).collect();
        let mut ingress = Ingress::new(HEADER_SIZE + 17, HEADER_SIZE + 17);
        let mut seen = Vec::new();
        for byte in &stream {
            assert_eq!(
                receive(&mut ingress, &[*byte]),
                1,
                "there is always space for one more"
            );
            seen.extend(numbers(&mut ingress));
        }
        assert!(seen.iter().copied().eq(0..50));
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_by_its_header_alone() {
        let large = frame(1, &[0; 200]);
        let mut ingress = Ingress::new(256, 256);
        receive(&mut ingress, &large[..HEADER_SIZE]);
        assert_eq!(
            ingress.next_frame().err(),
            Some(FrameError::Size {
                size: (HEADER_SIZE + 200) as u32
            })
        );
    }

    #[test]
    fn a_damaged_header_ends_the_stream_and_a_damaged_body_does_not() {
        let mut stream = [frame(1, b"abc"), frame(2, b"def")].concat();
        stream[HEADER_SIZE] ^= 1;
        let mut ingress = Ingress::new(1024, 512);
        receive(&mut ingress, &stream);
        let first = ingress
            .next_frame()
            .expect("the header is right")
            .expect("whole");
        assert_eq!(
            Frame::parse(first, ClusterId::ZERO).err(),
            Some(FrameError::BodyChecksum)
        );
        assert_eq!(numbers(&mut ingress), [2], "the stream goes on");

        let mut damaged = frame(3, b"");
        damaged[60] ^= 1;
        receive(&mut ingress, &damaged);
        assert_eq!(ingress.next_frame().err(), Some(FrameError::HeaderChecksum));
    }

    #[test]
    fn a_frame_that_would_not_fit_moves_to_the_front_before_more_of_it_is_read() {
        let (first, second) = (frame(1, &vec![1; 100_000]), frame(2, &vec![2; 150_000]));
        let mut ingress = Ingress::new(200_000, 200_000);
        let stream = [&first[..], &second[..50_000]].concat();
        assert_eq!(receive(&mut ingress, &stream), stream.len());
        assert_eq!(numbers(&mut ingress), [1]);
        assert!(
            ingress.space().len() >= second.len() - 50_000,
            "room for all of the rest"
        );
        receive(&mut ingress, &second[50_000..]);
        assert_eq!(numbers(&mut ingress), [2]);
    }

    #[test]
    fn one_read_takes_no_more_than_its_bound() {
        let mut ingress = Ingress::new(4 * READ_SIZE_MAX, 1024);
        assert_eq!(ingress.space().len(), READ_SIZE_MAX);
    }
}
