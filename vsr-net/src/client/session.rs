//! The client's side of exactly-once (R1.1, R1.6): ids, numbers, and which answers count.

use bytemuck::Zeroable;
use vsr_types::message::{self, Reject};
use vsr_types::{
    Checksum, ClientId, ClusterId, Epoch, Header, Operation, RequestHeader, RequestNumber,
    SessionNumber,
};

use super::flight::Flight;
use crate::random;

/// How many bits of a client's id are its session's place in the table.
const PLACE_BITS: u32 = 12;
const _: () = assert!(super::SESSIONS_MAX <= 1 << PLACE_BITS);

/// One session: at most one request in flight, numbers without gaps.
#[derive(Debug)]
pub(super) struct Session {
    client: ClientId,
    session: SessionNumber,
    epoch: Epoch,
    /// The number of the request in flight, else of the next one.
    request: RequestNumber,
    /// What the client's checksum over the request in flight is.
    checksum: Checksum,
    pub(super) flight: Option<Flight>,
}

impl Session {
    /// A session at place `place`, not registered yet.
    pub(super) fn new(place: usize) -> Self {
        Self {
            client: id_at(place),
            session: SessionNumber::ZERO,
            epoch: Epoch::ZERO,
            request: RequestNumber::ZERO,
            checksum: Checksum::default(),
            flight: None,
        }
    }

    /// The place of the session whose client id is `client`, if it is one of ours; to be confirmed by
    /// [`Self::is`].
    pub(super) fn place_of(client: ClientId) -> usize {
        (client.raw() & ((1 << PLACE_BITS) - 1)) as usize
    }

    pub(super) fn is(&self, client: ClientId) -> bool {
        self.client == client
    }

    pub(super) fn is_registered(&self) -> bool {
        self.session != SessionNumber::ZERO
    }

    /// The frame that opens the session.
    pub(super) fn register(&mut self, cluster: ClusterId) -> Vec<u8> {
        self.frame(cluster, Operation::Register, &[])
    }

    /// The frame of the next request.
    pub(super) fn request(&mut self, cluster: ClusterId, operation: &[u8]) -> Vec<u8> {
        self.frame(cluster, Operation::Apply, operation)
    }

    fn frame(&mut self, cluster: ClusterId, kind: Operation, operation: &[u8]) -> Vec<u8> {
        let mut request =
            RequestHeader::new(kind, self.client, self.epoch, self.session, self.request);
        request.seal(operation);
        self.checksum = request.checksum();
        let mut header = Header::new(message::Request::zeroed());
        header.set_cluster(cluster);
        // The body checks itself: its request header carries the frame's checksum.
        header.seal_with(request.size(), request.checksum());
        [
            bytemuck::bytes_of(&header),
            bytemuck::bytes_of(&request),
            operation,
        ]
        .concat()
    }

    /// Whether a reply answers the request in flight. If so, the session moves on and returns the
    /// flight.
    pub(super) fn accept(&mut self, epoch: Epoch, reply: &message::Reply) -> Option<Flight> {
        if reply.request != self.request || reply.request_checksum != self.checksum {
            return None;
        }
        let flight = self.flight.take()?;
        if !self.is_registered() {
            self.session = SessionNumber::new(reply.op.raw());
            self.epoch = epoch;
        }
        self.request = self.request.next();
        Some(flight)
    }

    /// Whether a rejection is about the request in flight.
    pub(super) fn concerns(&self, reject: &Reject) -> bool {
        self.flight.is_some()
            && reject.request == self.request
            && reject.request_checksum == self.checksum
    }

    /// Starts over under a fresh id (R1.6) and returns what was in flight.
    pub(super) fn renew(&mut self, place: usize) -> Option<Flight> {
        std::mem::replace(self, Self::new(place)).flight
    }
}

fn id_at(place: usize) -> ClientId {
    let random = random::client_id().raw() >> PLACE_BITS << PLACE_BITS;
    ClientId::new(random | place as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vsr_types::{Frame, Op};

    fn fly(session: &mut Session, frame: Vec<u8>) {
        let waits = (Duration::from_millis(1), Duration::from_millis(1));
        session.flight = Some(Flight::new(frame, None, waits, 1));
    }

    fn reply(session: &Session, request: u64, op: u64) -> message::Reply {
        message::Reply {
            client: session.client,
            request: RequestNumber::new(request),
            op: Op::new(op),
            request_checksum: session.checksum,
            index: 0,
        }
    }

    #[test]
    fn numbers_follow_each_other_and_only_the_right_answer_counts() {
        let cluster = ClusterId::new(5);
        let mut session = Session::new(7);
        let register = session.register(cluster);
        let frame = Frame::parse(&register, cluster).expect("a good frame");
        let request = frame.request().expect("a request");
        assert_eq!(request.header().operation, Operation::Register as u8);
        assert_eq!(Session::place_of(request.header().client), 7);
        fly(&mut session, register);

        let right = reply(&session, 0, 40);
        let wrong_number = message::Reply {
            request: RequestNumber::new(1),
            ..right
        };
        let wrong_checksum = message::Reply {
            request_checksum: Checksum::new(0),
            ..right
        };
        assert!(session.accept(Epoch::new(2), &wrong_number).is_none());
        assert!(session.accept(Epoch::new(2), &wrong_checksum).is_none());
        assert!(session.accept(Epoch::new(2), &right).is_some());
        assert!(
            session.accept(Epoch::new(2), &right).is_none(),
            "a duplicate"
        );

        for number in 1..4 {
            assert!(session.is_registered());
            let bytes = session.request(cluster, b"operation");
            let frame = Frame::parse(&bytes, cluster).expect("a good frame");
            let request = frame.request().expect("a request");
            assert!(request.is_intact());
            assert_eq!(request.operation(), b"operation");
            assert_eq!(request.header().request, RequestNumber::new(number));
            assert_eq!(request.header().session, SessionNumber::new(40));
            assert_eq!(request.header().epoch, Epoch::new(2));
            fly(&mut session, bytes);
            let reply = reply(&session, number, 40 + number);
            assert!(session.accept(Epoch::new(2), &reply).is_some());
        }
    }

    #[test]
    fn a_renewed_session_has_another_id_at_the_same_place() {
        let mut session = Session::new(3);
        let before = session.client;
        let frame = session.register(ClusterId::ZERO);
        fly(&mut session, frame);
        assert!(session.renew(3).is_some(), "what was in flight comes back");
        assert_ne!(session.client, before);
        assert_eq!(Session::place_of(session.client), 3);
        assert!(!session.is_registered());
    }
}
