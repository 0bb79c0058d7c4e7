//! Flipped bits on demand, in every kind of place that holds something: for tests of what finds them.

use vsr_journal::SLOT_BITS;
use vsr_types::{Op, ReplicaIndex};

use super::Replica;
use crate::StateMachine;

/// Where a bit flips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In one copy (0 or 1) of the journal's slot of an op: its header, then the notes beside it.
    Slot(Op, usize),
    /// In the body of an entry.
    Body(Op),
    /// In a header that the view began with, counted from the first.
    Inherited(usize),
    /// In the session table: entries, then links, then the index.
    Sessions,
    /// In the bytes of cached replies.
    Replies,
    /// In the numbers of the protocol.
    Control,
    /// In the queries that wait for the end of a round.
    Queries,
    /// In the vote of a replica that waits at an elect: its fields, then what it says of its log, then the
    /// headers.
    Vote(ReplicaIndex),
    /// In this replica's own vote, as it is sent again.
    OwnVote,
}

/// Flips bit `bit` of `bytes`, if it has as many.
pub(crate) fn flip_bit(bytes: &mut [u8], bit: usize) -> bool {
    let Some(byte) = bytes.get_mut(bit / 8) else {
        return false;
    };
    *byte ^= 1 << (bit % 8);
    true
}

/// Flips bit `bit` of several regions, one behind the other.
pub(crate) fn flip_in(regions: &mut [&mut [u8]], mut bit: usize) -> bool {
    for region in regions {
        if bit < region.len() * 8 {
            return flip_bit(region, bit);
        }
        bit -= region.len() * 8;
    }
    false
}

impl<S: StateMachine> Replica<S> {
    /// Flips bit `bit` in `place`, as memory does. False when there is no such bit.
    pub fn flip(&mut self, place: Place, bit: usize) -> bool {
        match place {
            Place::Slot(op, copy) => {
                if copy > 1 || bit >= SLOT_BITS {
                    return false;
                }
                self.journal.flip_bit_in_header(op, copy, bit);
                true
            }
            Place::Body(op) => {
                let size = self.journal.read(op).map_or(0, |(_, body)| body.len());
                if bit >= size * 8 {
                    return false;
                }
                self.journal.flip_bit_in_body(op, bit);
                true
            }
            Place::Inherited(index) => self.inherited.flip(index, bit),
            Place::Sessions => self.sessions.flip(bit),
            Place::Replies => self.sessions.flip_reply(bit),
            Place::Control => self.flip_control(bit),
            Place::Queries => self.reads.flip(bit),
            Place::Vote(replica) => self.change.flip_vote(replica, bit),
            Place::OwnVote => self.change.flip_own_vote(bit),
        }
    }

    /// The state machine, to damage it.
    pub const fn machine_mut(&mut self) -> &mut S {
        &mut self.machine
    }

    fn flip_control(&mut self, bit: usize) -> bool {
        use bytemuck::bytes_of_mut;
        let Self {
            cluster,
            view,
            log_view,
            incarnation,
            crash_vector,
            verified,
            held,
            head,
            head_timestamp,
            commit,
            applied,
            archived,
            applied_identity,
            applied_timestamp,
            ..
        } = self;
        let mut fields = [
            bytes_of_mut(cluster),
            bytes_of_mut(view),
            bytes_of_mut(log_view),
            bytes_of_mut(incarnation),
            bytes_of_mut(crash_vector),
            bytes_of_mut(verified),
            bytes_of_mut(held),
            bytes_of_mut(head),
            bytes_of_mut(head_timestamp),
            bytes_of_mut(commit),
            bytes_of_mut(applied),
            bytes_of_mut(archived),
            bytes_of_mut(applied_identity),
            bytes_of_mut(applied_timestamp),
        ];
        flip_in(&mut fields, bit)
    }
}
