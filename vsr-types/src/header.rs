//! The 128 bytes in front of every message.
//!
//! 128 and not 256: everything that `Prepare` needs fits (identity of the sender, place in the order,
//! identity of the parent, timestamp), and at one request per frame the header is most of the bytes.
//!
//! | bytes | field | why |
//! | --- | --- | --- |
//! | 0..4 | `checksum` | covers bytes 12..128 |
//! | 4..12 | route and its checksum | the envelope, outside the checksum: see [`crate::route`] |
//! | 12..16 | `checksum_body` | covers the body; itself covered by `checksum` |
//! | 16..32 | cluster | two clusters on one network never mix |
//! | 32..48 | member | which machine fills the slot (R0.1) |
//! | 48..64 | incarnation | which life of it (R0.1); in a prepare, the primary's |
//! | 64..80 | epoch, view | the view stamp (N3), with the op among the fields |
//! | 80..120 | fields | 40 bytes that depend on the command, see [`crate::message`] |
//! | 120..128 | size, protocol, command, replica | what it is, how long, from whom |

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;

use crate::message::FIELDS_SIZE;
use crate::{
    Checksum, ClusterId, Command, Epoch, Identity, Incarnation, MemberId, Message, ReplicaIndex,
    Route, View, checksum, checksum_behind_first, limits,
};

/// The size of a header on the wire and in memory.
pub const HEADER_SIZE: usize = 128;

/// Where the part of the header that its checksum covers begins.
const COVERED_FROM: usize = 12;

/// The header of a message. Made with [`Header::new`], finished with [`Header::seal`], read through
/// [`crate::Frame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    checksum: Checksum,
    route: u32,
    route_checksum: Checksum,
    checksum_body: Checksum,
    cluster: ClusterId,
    member: MemberId,
    incarnation: Incarnation,
    epoch: Epoch,
    view: View,
    fields: [u64; FIELDS_SIZE / 8],
    size: u32,
    protocol: u16,
    command: u8,
    replica: ReplicaIndex,
}

const_assert_eq!(size_of::<Header>(), HEADER_SIZE);
const_assert_eq!(align_of::<Header>(), 8);
const_assert_eq!(core::mem::offset_of!(Header, checksum_body), COVERED_FROM);
const_assert_eq!(core::mem::offset_of!(Header, fields), 80);
const_assert_eq!(core::mem::offset_of!(Header, size), 120);

impl Header {
    /// The header of message `fields`, from a client, in no cluster, view 0, with an empty body.
    #[must_use]
    pub fn new<M: Message>(fields: M) -> Self {
        Self {
            fields: bytemuck::cast(fields),
            size: HEADER_SIZE as u32,
            protocol: limits::PROTOCOL,
            command: M::COMMAND as u8,
            replica: ReplicaIndex::CLIENT,
            ..Self::zeroed()
        }
    }

    /// Computes size and checksums for `body`. Every later change needs another seal, except of the
    /// route, which is the envelope.
    ///
    /// # Panics
    /// When `body` is larger than [`limits::BODY_SIZE_MAX`].
    pub fn seal(&mut self, body: &[u8]) {
        self.seal_with(body.len(), checksum(body));
    }

    /// As [`Self::seal`], for a body whose checksum the caller has already computed.
    ///
    /// # Panics
    /// When `body_size` is larger than [`limits::BODY_SIZE_MAX`].
    #[inline]
    pub fn seal_with(&mut self, body_size: usize, checksum_body: Checksum) {
        assert!(
            body_size <= limits::BODY_SIZE_MAX,
            "a body must fit into a frame"
        );
        self.size = (HEADER_SIZE + body_size) as u32;
        self.checksum_body = checksum_body;
        self.route_checksum = Route::parse_unchecked(self.route).checksum();
        self.checksum = self.computed_checksum();
    }

    #[inline]
    fn computed_checksum(&self) -> Checksum {
        checksum_behind_first(&bytemuck::bytes_of(self)[COVERED_FROM - 4..])
    }

    /// Whether the checksum over the header is right.
    #[must_use]
    #[inline]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.computed_checksum()
    }

    /// Whether `body` is the body this header was sealed with.
    ///
    /// For [`Command::Request`] the body checks itself: its request header carries the checksum that
    /// the client made, which is also the body's checksum; see [`crate::batch`].
    #[must_use]
    #[inline]
    pub fn covers(&self, body: &[u8]) -> bool {
        body.len() == self.body_size()
            && match self.command() {
                Some(Command::Request) => {
                    crate::batch::request_checksum(body) == Some(self.checksum_body)
                }
                _ => checksum(body) == self.checksum_body,
            }
    }

    /// The message's fields, if the command is `M`'s.
    #[must_use]
    #[inline]
    pub fn fields<M: Message>(&self) -> Option<&M> {
        (self.command == M::COMMAND as u8).then(|| bytemuck::cast_ref(&self.fields))
    }

    /// The kind of message, if this build knows it.
    #[must_use]
    #[inline]
    pub const fn command(&self) -> Option<Command> {
        Command::from_raw(self.command)
    }

    /// The raw command byte, for error messages.
    #[must_use]
    pub const fn command_raw(&self) -> u8 {
        self.command
    }

    /// The checksum over the header: with the view and the body's checksum, the entry's identity.
    #[must_use]
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// The checksum over the body.
    #[must_use]
    pub const fn checksum_body(&self) -> Checksum {
        self.checksum_body
    }

    /// What makes this log entry that entry and no other (M10).
    #[must_use]
    #[inline]
    pub const fn identity(&self) -> Identity {
        Identity {
            view: self.view,
            checksum: self.checksum,
            checksum_body: self.checksum_body,
        }
    }

    /// The size of the whole frame in bytes. May be nonsense in a header that was not parsed.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// The size of the body in bytes.
    #[must_use]
    #[inline]
    pub const fn body_size(&self) -> usize {
        self.size().saturating_sub(HEADER_SIZE)
    }

    /// The protocol version the sender spoke.
    #[must_use]
    pub const fn protocol(&self) -> u16 {
        self.protocol
    }

    /// The cluster; zero while the sender knows none.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Sets the cluster.
    #[inline]
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        self.cluster = cluster;
    }

    /// The machine behind the replica.
    #[must_use]
    pub const fn member(&self) -> MemberId {
        self.member
    }

    /// The sender; [`ReplicaIndex::CLIENT`] when it is no replica. In a prepare, the primary.
    #[must_use]
    pub const fn replica(&self) -> ReplicaIndex {
        self.replica
    }

    /// The sender's incarnation. In a prepare, the primary's.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Says which replica, of which machine and life, sends this.
    #[inline]
    pub fn set_sender(
        &mut self,
        replica: ReplicaIndex,
        member: MemberId,
        incarnation: Incarnation,
    ) {
        self.replica = replica;
        self.member = member;
        self.incarnation = incarnation;
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sets the epoch.
    #[inline]
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// The sender's view; in a prepare, the view in which the op was first prepared.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// Sets the view.
    #[inline]
    pub fn set_view(&mut self, view: View) {
        self.view = view;
    }

    /// The envelope, if it is intact.
    #[must_use]
    #[inline]
    pub fn route(&self) -> Option<Route> {
        Route::parse(self.route, self.route_checksum)
    }

    /// Changes the envelope, which needs no seal.
    #[inline]
    pub fn set_route(&mut self, route: Route) {
        self.route = route.raw();
        self.route_checksum = route.checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, message::Commit};

    #[test]
    fn the_route_is_outside_the_seal_and_everything_else_inside() {
        let mut header = Header::new(Commit {
            op: Op::new(5),
            ..Commit::zeroed()
        });
        header.set_view(View::new(3));
        header.seal(&[]);
        let identity = header.identity();
        header.set_route(Route::through([ReplicaIndex::new(1)]));
        assert!(header.is_intact());
        assert_eq!(header.identity(), identity, "another way, the same entry");

        for byte in COVERED_FROM..HEADER_SIZE {
            let mut damaged = header;
            bytemuck::bytes_of_mut(&mut damaged)[byte] ^= 1;
            assert!(!damaged.is_intact(), "byte {byte} is not covered");
        }
    }

    #[test]
    #[should_panic(expected = "a body must fit into a frame")]
    fn a_body_beyond_the_frame_is_our_own_bug() {
        Header::new(Commit::zeroed()).seal_with(limits::BODY_SIZE_MAX + 1, Checksum::new(0));
    }
}
