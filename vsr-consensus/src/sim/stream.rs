//! Links between replicas as streams of bytes: frames are cut anywhere, stuck together, damaged, and
//! found again by the real decoder.
//!
//! What arrives is what a socket would give: some bytes. The receiver asks [`Frame::peek`] how long the
//! frame at the beginning is, and waits until all of it is there. Where the answer is an error, the
//! stream cannot be followed any further and the connection ends with everything on it.

use std::vec::Vec;

use vsr_types::limits::{FRAME_SIZE_MAX, REPLICAS_MAX};
use vsr_types::{Frame, FrameError};

use super::random::Random;

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
struct Pipe {
    /// Sent and not arrived.
    under_way: Vec<u8>,
    /// Arrived and not a whole frame yet.
    arrived: Vec<u8>,
    /// Where in `arrived` a flipped bit lies.
    damaged: Vec<usize>,
}

/// A frame that was found in a stream.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    /// Whether a bit of it was flipped on the way.
    pub(crate) damaged: bool,
}

/// The connections among the replicas.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pipes: Vec<Pipe>,
    random: Random,
    /// Connections that ended because their bytes made no sense.
    pub(crate) broken: u64,
    /// Pieces that ended within a frame.
    pub(crate) cut: u64,
}

/// The number of a direction between two replicas.
pub(crate) const fn link(from: usize, to: usize) -> u16 {
    (from * REPLICAS_MAX + to) as u16
}

/// The replicas of a link.
pub(crate) const fn ends(link: u16) -> (usize, usize) {
    (link as usize / REPLICAS_MAX, link as usize % REPLICAS_MAX)
}

impl Streams {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            pipes: std::vec![Pipe::default(); REPLICAS_MAX * REPLICAS_MAX],
            random,
            broken: 0,
            cut: 0,
        }
    }

    /// A frame is written to a connection.
    pub(crate) fn write(&mut self, link: u16, frame: &[u8]) {
        self.pipes[usize::from(link)]
            .under_way
            .extend_from_slice(frame);
    }

    /// Everything on a replica's connections is lost.
    pub(crate) fn reset(&mut self, replica: usize) {
        for (place, pipe) in self.pipes.iter_mut().enumerate() {
            let (from, to) = ends(place as u16);
            if from == replica || to == replica {
                *pipe = Pipe::default();
            }
        }
    }

    /// Some bytes arrive; says whether more are under way. With `damage` one of their bits flips.
    pub(crate) fn flow(&mut self, link: u16, damage: bool) -> bool {
        let pipe = &mut self.pipes[usize::from(link)];
        let there = pipe.under_way.len();
        if there == 0 {
            return false;
        }
        // Half of the time everything, otherwise some part of it.
        let count = if self.random.percent(50) {
            there
        } else {
            1 + self.random.below(there as u64) as usize
        };
        let at = pipe.arrived.len();
        pipe.arrived.extend(pipe.under_way.drain(..count));
        if damage {
            let bit = self.random.below(count as u64 * 8) as usize;
            pipe.arrived[at + bit / 8] ^= 1 << (bit % 8);
            pipe.damaged.push(at + bit / 8);
        }
        count < there
    }

    /// The next whole frame that has arrived.
    pub(crate) fn next(&mut self, link: u16) -> Option<Found> {
        let pipe = &mut self.pipes[usize::from(link)];
        match Frame::peek(&pipe.arrived, FRAME_SIZE_MAX) {
            Ok(Some(size)) if size <= pipe.arrived.len() => {
                let bytes: Vec<u8> = pipe.arrived.drain(..size).collect();
                let damaged = pipe.damaged.iter().any(|&at| at < size);
                pipe.damaged.retain(|&at| at >= size);
                for at in &mut pipe.damaged {
                    *at -= size;
                }
                Some(Found { bytes, damaged })
            }
            Ok(_) => {
                self.cut += u64::from(!pipe.arrived.is_empty());
                None
            }
            Err(error) => {
                // The route is outside the header's checksum, so `peek` does not look at it.
                assert!(error != FrameError::Route, "a route is looked at later");
                *pipe = Pipe::default();
                self.broken += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_types::{ClusterId, Header, message::StartViewChange};

    fn frame(view: u64) -> Vec<u8> {
        let mut header = Header::new(StartViewChange { reserved: [0; 5] });
        header.set_view(vsr_types::View::new(view));
        header.set_cluster(ClusterId::new(7));
        header.seal(&[]);
        bytemuck::bytes_of(&header).to_vec()
    }

    fn drain(streams: &mut Streams, damage: bool) -> Vec<Found> {
        let mut found = Vec::new();
        let mut more = true;
        while more {
            more = streams.flow(0, damage);
            found.extend(core::iter::from_fn(|| streams.next(0)));
        }
        found
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut streams = Streams::new(Random::new(1));
        let mut found = Vec::new();
        for view in 0..200 {
            streams.write(0, &frame(view));
            streams.flow(0, false);
            found.extend(core::iter::from_fn(|| streams.next(0)));
        }
        found.extend(drain(&mut streams, false));
        assert_eq!(found.len(), 200);
        for (view, found) in found.iter().enumerate() {
            assert_eq!(found.bytes, frame(view as u64));
            assert!(!found.damaged);
        }
        assert!(streams.cut > 0 && streams.broken == 0);
    }

    #[test]
    fn a_damaged_header_ends_the_connection() {
        let mut streams = Streams::new(Random::new(1));
        streams.write(0, &frame(1));
        assert!(drain(&mut streams, true).is_empty());
        assert_eq!(streams.broken, 1);
        streams.write(0, &frame(2));
        assert_eq!(drain(&mut streams, false).len(), 1, "a new connection");
    }
}
