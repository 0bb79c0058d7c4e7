//! What is for clients inside this process: copied here during a step, delivered by the turn task.
//!
//! A step must not call into a client, because the client may want to call back. So the frames are
//! copied into one of two buffers of fixed size; the turn task takes the full one away, with nothing
//! borrowed, while the other fills.

use vsr_types::memory::{Level, touch};
use vsr_types::{HEADER_SIZE, Header};

/// Frames for local clients, in order.
#[derive(Debug)]
pub(super) struct Inbox {
    filling: Box<[u8]>,
    used: usize,
    spare: Box<[u8]>,
    dropped: u64,
    /// The most bytes that waited at once.
    most: usize,
}

/// A filled buffer on loan; comes back through [`Inbox::give_back`].
#[derive(Debug)]
pub(super) struct Delivery {
    buffer: Box<[u8]>,
    used: usize,
    at: usize,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        let buffer = || vec![0; capacity].into_boxed_slice();
        Self {
            filling: buffer(),
            used: 0,
            spare: buffer(),
            dropped: 0,
            most: 0,
        }
    }

    pub(super) fn level(&self) -> Level {
        let in_use = usize::from(self.used > 0) + usize::from(self.spare.is_empty());
        // One is delivered while the other fills: from the first frame on, both are used.
        let most = if self.most > 0 { 2 } else { 0 };
        Level::new("inbox of local clients", in_use, most).with_fullest(self.most)
    }

    /// Touches the buffers: nothing is in them yet.
    pub(super) fn prefault(&mut self) {
        touch(&mut self.filling);
        touch(&mut self.spare);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends a frame; says no, and counts it, when there is no room.
    pub(super) fn push(&mut self, head: &[u8], tail: &[u8]) -> bool {
        let size = head.len() + tail.len();
        let Some(room) = self.filling.get_mut(self.used..self.used + size) else {
            self.dropped += 1;
            return false;
        };
        let (first, second) = room.split_at_mut(head.len());
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        self.used += size;
        self.most = self.most.max(self.used);
        true
    }

    /// Takes away what has gathered; none when nothing has.
    pub(super) fn take(&mut self) -> Option<Delivery> {
        if self.is_empty() {
            return None;
        }
        assert!(
            !self.spare.is_empty(),
            "one delivery is given back before the next is taken"
        );
        let spare = std::mem::take(&mut self.spare);
        let buffer = std::mem::replace(&mut self.filling, spare);
        let used = std::mem::take(&mut self.used);
        Some(Delivery {
            buffer,
            used,
            at: 0,
        })
    }

    pub(super) fn give_back(&mut self, delivery: Delivery) {
        self.spare = delivery.buffer;
    }
}

impl Delivery {
    /// The bytes of the next frame.
    pub(super) fn next_frame(&mut self) -> Option<&[u8]> {
        if self.at == self.used {
            return None;
        }
        let head = &self.buffer[self.at..self.at + HEADER_SIZE];
        let size = bytemuck::pod_read_unaligned::<Header>(head).size();
        let frame = &self.buffer[self.at..self.at + size];
        self.at += size;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use vsr_types::message::Reply;

    fn push(inbox: &mut Inbox, body: &[u8]) -> bool {
        let mut header = Header::new(Reply::zeroed());
        header.seal(body);
        inbox.push(bytemuck::bytes_of(&header), body)
    }

    #[test]
    fn frames_come_out_in_order_while_the_next_gather() {
        let mut inbox = Inbox::new(1000);
        assert!(inbox.take().is_none());
        assert!(push(&mut inbox, b"one"));
        assert!(push(&mut inbox, b""));
        let mut delivery = inbox.take().expect("two frames");
        assert!(
            push(&mut inbox, b"three"),
            "one filled while the other is on loan"
        );
        let mut bodies = Vec::new();
        while let Some(frame) = delivery.next_frame() {
            bodies.push(frame[HEADER_SIZE..].to_vec());
        }
        assert_eq!(bodies, [b"one".to_vec(), b"".to_vec()]);
        inbox.give_back(delivery);
        let mut delivery = inbox.take().expect("the third");
        assert_eq!(
            &delivery.next_frame().expect("a frame")[HEADER_SIZE..],
            b"three"
        );
    }

    #[test]
    fn a_full_inbox_drops_the_newest_and_counts_it() {
        let mut inbox = Inbox::new(2 * HEADER_SIZE);
        assert!(push(&mut inbox, b""));
        assert!(!push(&mut inbox, b"x"));
        assert!(push(&mut inbox, b""));
        assert!(!push(&mut inbox, b""));
        assert_eq!(inbox.dropped(), 2);
    }
}
