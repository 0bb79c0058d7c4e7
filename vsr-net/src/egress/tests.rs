//! What the send queue keeps, drops, and never tears apart.

use super::*;
use crate::{Ingress, Random};
use bytemuck::Zeroable;
use vsr_types::message::Query;
use vsr_types::{ClusterId, Frame, RequestNumber};

fn header(number: u64, body: &[u8]) -> Header {
    let mut header = Header::new(Query {
        query: RequestNumber::new(number),
        ..Query::zeroed()
    });
    header.seal(body);
    header
}

/// Collects what a flush writes, at most `budget` bytes of it.
struct Socket {
    bytes: Vec<u8>,
    budget: usize,
}

impl Socket {
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.budget == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices {
            let taken = slice.len().min(self.budget);
            self.bytes.extend_from_slice(&slice[..taken]);
            self.budget -= taken;
            count += taken;
        }
        Ok(count)
    }

    fn flush(&mut self, egress: &mut Egress, budget: usize) -> Flushed {
        self.budget = budget;
        egress.flush(|slices| self.write(slices)).expect("no error")
    }

    fn numbers(&self) -> Vec<u64> {
        let mut ingress = Ingress::new(self.bytes.len().max(4096), 4096);
        let mut numbers = Vec::new();
        let mut left = &self.bytes[..];
        loop {
            let space = ingress.space();
            let count = space.len().min(left.len());
            space[..count].copy_from_slice(&left[..count]);
            left = &left[count..];
            ingress.filled(count);
            while let Some(bytes) = ingress.next_frame().expect("the stream is whole") {
                let frame = Frame::parse(bytes, ClusterId::ZERO).expect("frames are whole");
                numbers.push(frame.fields::<Query>().expect("a query").query.raw());
            }
            if left.is_empty() {
                assert!(ingress.is_empty(), "nothing half is left");
                return numbers;
            }
        }
    }
}

#[test]
fn frames_leave_in_order_in_one_write() {
    let mut egress = Egress::new(1024);
    for number in 0..4 {
        assert!(egress.push(&header(number, b"body"), b"body"));
    }
    let mut socket = Socket {
        bytes: Vec::new(),
        budget: 0,
    };
    let mut writes = 0;
    socket.budget = usize::MAX;
    let flushed = egress.flush(|slices| {
        writes += 1;
        socket.write(slices)
    });
    assert_eq!(flushed.expect("no error"), Flushed::All);
    assert_eq!(writes, 1);
    assert_eq!(socket.numbers(), [0, 1, 2, 3]);
}

#[test]
fn a_full_ring_drops_its_oldest_whole_frames_and_never_the_half_sent_one() {
    let size = HEADER_SIZE + 10;
    let mut egress = Egress::new(size * 4);
    let mut socket = Socket {
        bytes: Vec::new(),
        budget: 0,
    };
    let body = [1; 10];
    for number in 0..4 {
        assert!(egress.push_over_oldest(&header(number, &body), &body));
    }
    // Ten bytes of frame 0 are gone: it must stay, so 1, 2 and 3 go for 4, 5 and 6.
    assert_eq!(socket.flush(&mut egress, 10), Flushed::Blocked);
    for number in 4..7 {
        assert!(egress.push_over_oldest(&header(number, &body), &body));
    }
    assert_eq!(egress.dropped(), 3);
    assert_eq!(socket.flush(&mut egress, usize::MAX), Flushed::All);
    assert_eq!(socket.numbers(), [0, 4, 5, 6]);
}

#[test]
fn what_can_never_fit_is_dropped_itself() {
    let mut egress = Egress::new(HEADER_SIZE * 2);
    let body = [0; HEADER_SIZE + 1];
    assert!(egress.push_over_oldest(&header(0, &[]), &[]));
    assert!(!egress.push_over_oldest(&header(1, &body), &body));
    assert_eq!(egress.dropped(), 1);
    assert_eq!(egress.len(), HEADER_SIZE, "the frame before it stays");
}

#[test]
fn without_dropping_a_full_ring_refuses_the_newest() {
    let mut egress = Egress::new(HEADER_SIZE * 2);
    assert!(egress.push(&header(0, &[]), &[]));
    assert!(!egress.is_congested());
    assert!(egress.push(&header(1, &[]), &[]));
    assert!(egress.is_congested());
    assert!(!egress.push(&header(2, &[]), &[]));
    let mut socket = Socket {
        bytes: Vec::new(),
        budget: 0,
    };
    assert_eq!(socket.flush(&mut egress, usize::MAX), Flushed::All);
    assert_eq!(socket.numbers(), [0, 1]);
}

#[test]
fn whatever_the_writes_take_the_stream_stays_whole_and_ordered() {
    for seed in 1..200 {
        let mut random = Random::new(seed);
        let mut egress = Egress::new(1500);
        let mut socket = Socket {
            bytes: Vec::new(),
            budget: 0,
        };
        for number in 0..300 {
            let body = vec![number as u8; random.below(400) as usize];
            assert!(egress.push_over_oldest(&header(number, &body), &body));
            let budget = random.below(350) as usize;
            let _ = socket.flush(&mut egress, budget);
        }
        assert_eq!(socket.flush(&mut egress, usize::MAX), Flushed::All);
        let numbers = socket.numbers();
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "order kept, nothing twice"
        );
        assert_eq!(
            numbers.len() as u64 + egress.dropped(),
            300,
            "sent or counted"
        );
        assert_eq!(
            numbers.last(),
            Some(&299),
            "the newest is never the one that goes"
        );
        assert!(egress.dropped() > 0, "the test fills the ring");
    }
}

#[test]
fn errors_of_the_socket_come_through() {
    let mut egress = Egress::new(1024);
    assert!(egress.push(&header(0, &[]), &[]));
    let broken = egress.flush(|_| Err(io::ErrorKind::BrokenPipe.into()));
    assert_eq!(
        broken.expect_err("broken").kind(),
        io::ErrorKind::BrokenPipe
    );
    let closed = egress.flush(|_| Ok(0));
    assert_eq!(closed.expect_err("closed").kind(), io::ErrorKind::WriteZero);
}
