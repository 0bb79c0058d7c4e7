//! A connection's send buffer: a bounded ring of frames.
//!
//! Frames are appended as the replica decides them; one write per turn sends what has gathered. When
//! a slow peer fills its ring, the *oldest* frames go: they are the ones that the protocol has most
//! likely made up for already. A frame that is partly on its way is never cut, or the receiver would
//! lose the stream. Clients' rings refuse the newest instead, and whoever owns the connection stops
//! reading from it while [`Egress::is_congested`].
//!
//! ```text
//!      start                           start + size
//!   ---| rest of one | frame | frame | frame |---------   (wraps round)
//!        `partial` bytes
//! ```

use std::io::{self, IoSlice};

use vsr_types::memory::touch;
use vsr_types::{HEADER_SIZE, Header};

/// A bounded ring of frames to send.
#[derive(Debug)]
pub struct Egress {
    ring: Box<[u8]>,
    start: usize,
    size: usize,
    /// How much of a frame that is already partly sent is left, at `start`.
    partial: usize,
    dropped: u64,
    /// The most bytes that ever waited.
    most: usize,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flushed {
    /// Everything was written.
    All,
    /// The socket takes no more now.
    Blocked,
}

impl Egress {
    /// A ring of `capacity` bytes.
    ///
    /// # Panics
    /// When not even a header would fit.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(capacity >= HEADER_SIZE, "the ring holds at least one frame");
        let ring = vec![0; capacity].into_boxed_slice();
        Self {
            ring,
            start: 0,
            size: 0,
            partial: 0,
            dropped: 0,
            most: 0,
        }
    }

    /// The most bytes that waited at once, over all connections it served.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Touches the ring, so that it is resident before it is used. For a fresh one.
    ///
    /// # Panics
    /// When something was sent already.
    pub fn prefault(&mut self) {
        assert!(self.most == 0, "a ring is touched before it is used");
        touch(&mut self.ring);
    }

    /// Forgets everything: the ring serves another connection now.
    pub const fn clear(&mut self) {
        self.start = 0;
        self.size = 0;
        self.partial = 0;
    }

    /// How many bytes wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.size
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether more than half of the ring is taken: time to stop reading what makes it grow.
    #[must_use]
    pub const fn is_congested(&self) -> bool {
        self.size > self.ring.len() / 2
    }

    /// The size of the ring in bytes.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// How many frames were dropped, ever.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends a frame, or counts it as dropped and says no when there is no room.
    pub fn push(&mut self, header: &Header, body: &[u8]) -> bool {
        self.push_parts(bytemuck::bytes_of(header), body)
    }

    /// As [`Self::push`], for a frame that lies in one piece.
    pub fn push_bytes(&mut self, frame: &[u8]) -> bool {
        self.push_parts(frame, &[])
    }

    /// Appends a frame and drops as many of the oldest as it takes. Says no, and counts the frame
    /// itself as dropped, only when it fits not even then.
    pub fn push_over_oldest(&mut self, header: &Header, body: &[u8]) -> bool {
        let needed = HEADER_SIZE + body.len();
        if needed > self.ring.len() - self.size {
            if needed > self.ring.len() - self.partial {
                self.dropped += 1;
                return false;
            }
            self.drop_oldest(needed - (self.ring.len() - self.size));
        }
        self.push(header, body)
    }

    /// As [`Self::push`], for a frame in two pieces that are bytes already.
    pub fn push_parts(&mut self, head: &[u8], tail: &[u8]) -> bool {
        if head.len() + tail.len() > self.ring.len() - self.size {
            self.dropped += 1;
            return false;
        }
        self.copy_in(head);
        self.copy_in(tail);
        self.most = self.most.max(self.size);
        true
    }

    fn copy_in(&mut self, bytes: &[u8]) {
        let at = self.wrap(self.start + self.size);
        let (first, second) = bytes.split_at(bytes.len().min(self.ring.len() - at));
        self.ring[at..at + first.len()].copy_from_slice(first);
        self.ring[..second.len()].copy_from_slice(second);
        self.size += bytes.len();
    }

    /// Drops whole frames, oldest first, until at least `needed` bytes are free that were not.
    fn drop_oldest(&mut self, needed: usize) {
        let mut freed = 0;
        while freed < needed {
            freed += self.frame_size_at(self.partial + freed);
            self.dropped += 1;
        }
        // The rest of a frame that is partly sent moves up to the first frame that stays. Backwards,
        // because source and destination may overlap.
        for i in (0..self.partial).rev() {
            let from = self.wrap(self.start + i);
            let to = self.wrap(self.start + freed + i);
            self.ring[to] = self.ring[from];
        }
        self.start = self.wrap(self.start + freed);
        self.size -= freed;
    }

    /// The size of the frame that begins `offset` bytes behind `start`.
    fn frame_size_at(&self, offset: usize) -> usize {
        assert!(
            self.size - offset >= HEADER_SIZE,
            "a ring holds whole frames"
        );
        let at = self.wrap(self.start + offset);
        let header: Header = match self.ring.get(at..at + HEADER_SIZE) {
            Some(bytes) => bytemuck::pod_read_unaligned(bytes),
            None => {
                let mut bytes = [0; HEADER_SIZE];
                let first = self.ring.len() - at;
                bytes[..first].copy_from_slice(&self.ring[at..]);
                bytes[first..].copy_from_slice(&self.ring[..HEADER_SIZE - first]);
                bytemuck::pod_read_unaligned(&bytes)
            }
        };
        assert!(
            header.size() >= HEADER_SIZE && header.size() <= self.size - offset,
            "a ring holds whole frames"
        );
        header.size()
    }

    const fn wrap(&self, position: usize) -> usize {
        if position < self.ring.len() {
            position
        } else {
            position - self.ring.len()
        }
    }

    /// Hands what waits to `write` (a non-blocking vectored write) until all is gone or it says
    /// [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// Whatever else `write` fails with, and [`io::ErrorKind::WriteZero`] when it takes nothing.
    pub fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        while self.size > 0 {
            let first = self.size.min(self.ring.len() - self.start);
            let slices = [
                IoSlice::new(&self.ring[self.start..self.start + first]),
                IoSlice::new(&self.ring[..self.size - first]),
            ];
            let used = if self.size == first {
                &slices[..1]
            } else {
                &slices[..]
            };
            match write(used) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Flushed::All)
    }

    fn sent(&mut self, count: usize) {
        assert!(
            count <= self.size,
            "a write takes at most what it was given"
        );
        if count == self.size {
            // Empty: start at the front again, where the pages are warm.
            self.clear();
            return;
        }
        let mut left = count;
        while left > 0 {
            let frame = if self.partial > 0 {
                self.partial
            } else {
                self.frame_size_at(0)
            };
            let taken = left.min(frame);
            self.partial = frame - taken;
            self.start = self.wrap(self.start + taken);
            self.size -= taken;
            left -= taken;
        }
    }
}

#[cfg(test)]
mod tests;
