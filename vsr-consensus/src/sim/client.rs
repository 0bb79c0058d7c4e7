//! Clients as the protocol wants them: one request in flight, numbers that rise by one, the same bytes
//! again until there is an answer, another replica each time, a new name after an eviction.

use std::vec::Vec;

use vsr_types::message::{Query, QueryReply, Reject, RejectReason, Reply, Request};
use vsr_types::{
    Checksum, ClientId, ClusterId, Epoch, Header, Op, Operation, RequestHeader, RequestNumber,
    SessionNumber,
};

use super::check::order::Place;
use super::plan::Time;
use super::random::Random;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Nothing,
    Session,
    Reply,
    Answer,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: u16,
    pub(crate) id: ClientId,
    session: SessionNumber,
    request: u64,
    query: u64,
    pub(crate) waiting: Waiting,
    /// The operation or query under way, without headers.
    pub(crate) asked: Vec<u8>,
    /// The frame of it, to be sent again as it is.
    pub(crate) frame: Vec<u8>,
    checksum: Checksum,
    /// When it was sent first, and what had been told then.
    pub(crate) began: Time,
    pub(crate) floor: Place,
    /// The register that the request is about, while the checker follows it.
    pub(crate) key: Option<u64>,
    attempts: u32,
    /// Which replica is asked next.
    pub(crate) target: u8,
    pub(crate) wake_at: Time,
    /// No op number is left: it only asks queries.
    pub(crate) reads_only: bool,
    /// How many requests and queries were answered.
    pub(crate) served: u64,
}

/// What an answer means to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Not an answer to what is under way.
    Nothing,
    /// A session, at this op.
    Session(Op),
    /// The request was executed there.
    Reply(Place),
    /// The request was executed there, as was said before.
    Again(Place, u64),
    /// The query was answered with the state after this op.
    Answer(Op),
    /// There will be no answer, and why.
    Refused(RejectReason),
    /// Ask again later.
    Later,
    /// Whoever was asked has stopped, or no op number is left.
    Halted,
}

impl Client {
    pub(crate) fn new(index: u16, random: &mut Random, replicas: u8) -> Self {
        Self {
            index,
            id: Self::draw(index, random),
            session: SessionNumber::ZERO,
            request: 0,
            query: 0,
            waiting: Waiting::Nothing,
            asked: Vec::new(),
            frame: Vec::new(),
            checksum: Checksum::default(),
            began: 0,
            floor: Place::default(),
            key: None,
            attempts: 0,
            target: random.below(u64::from(replicas)) as u8,
            wake_at: 0,
            reads_only: false,
            served: 0,
        }
    }

    /// A fresh name, which says whose it is.
    fn draw(index: u16, random: &mut Random) -> ClientId {
        ClientId::new((random.wide() << 16) | u128::from(index))
    }

    /// Whose name this is.
    pub(crate) const fn index_of(id: ClientId) -> u16 {
        id.raw() as u16
    }

    /// R1.6: another name; what is under way is given up.
    pub(crate) fn be_reborn(&mut self, random: &mut Random) {
        self.id = Self::draw(self.index, random);
        self.session = SessionNumber::ZERO;
        self.request = 0;
        self.waiting = Waiting::Nothing;
        self.attempts = 0;
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session != SessionNumber::ZERO
    }

    /// Asks for a session.
    pub(crate) fn register(&mut self, cluster: ClusterId, now: Time) {
        self.asked.clear();
        self.request = 0;
        self.make(cluster, Operation::Register, now);
        self.waiting = Waiting::Session;
    }

    /// Asks for the operation in `asked`.
    pub(crate) fn request(&mut self, cluster: ClusterId, now: Time) {
        self.request += 1;
        self.make(cluster, Operation::Apply, now);
        self.waiting = Waiting::Reply;
    }

    fn make(&mut self, cluster: ClusterId, kind: Operation, now: Time) {
        let number = RequestNumber::new(self.request);
        let mut request = RequestHeader::new(kind, self.id, Epoch::ZERO, self.session, number);
        request.seal(&self.asked);
        self.checksum = request.checksum();
        let mut header = Header::new(Request { reserved: [0; 5] });
        header.set_cluster(cluster);
        header.seal_with(request.size(), request.checksum());
        self.frame.clear();
        self.frame.extend_from_slice(bytemuck::bytes_of(&header));
        self.frame.extend_from_slice(bytemuck::bytes_of(&request));
        self.frame.extend_from_slice(&self.asked);
        self.began = now;
        self.attempts = 0;
    }

    /// Asks the query in `asked`.
    pub(crate) fn query(&mut self, cluster: ClusterId, now: Time) {
        self.query += 1;
        let mut header = Header::new(Query {
            client: self.id,
            query: RequestNumber::new(self.query),
            reserved: [0; 2],
        });
        header.set_cluster(cluster);
        header.seal(&self.asked);
        self.frame.clear();
        self.frame.extend_from_slice(bytemuck::bytes_of(&header));
        self.frame.extend_from_slice(&self.asked);
        self.began = now;
        self.attempts = 0;
        self.waiting = Waiting::Answer;
    }

    /// Asks for nothing any more.
    pub(crate) const fn rest(&mut self) {
        self.waiting = Waiting::Nothing;
        self.wake_at = Time::MAX;
    }

    /// Forgets how often it asked in vain.
    pub(crate) const fn calm_down(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait before the next attempt, doubling up to sixteen times.
    pub(crate) fn patience(&mut self, retry: Time, random: &mut Random) -> Time {
        let wait = retry << self.attempts.min(4);
        self.attempts += 1;
        wait + random.below(wait / 2 + 1)
    }

    /// What a frame means. Nothing is believed that is not about what is under way.
    pub(crate) fn hear(&mut self, header: &Header) -> Heard {
        if let Some(reply) = header.fields::<Reply>() {
            return self.hear_reply(reply);
        }
        if let Some(answer) = header.fields::<QueryReply>() {
            let is_mine = self.waiting == Waiting::Answer
                && answer.client == self.id
                && answer.query.raw() == self.query;
            return if is_mine {
                Heard::Answer(answer.op)
            } else {
                Heard::Nothing
            };
        }
        let Some(reject) = header.fields::<Reject>() else {
            return Heard::Nothing;
        };
        let is_mine = reject.client == self.id
            && match self.waiting {
                Waiting::Nothing => false,
                Waiting::Session | Waiting::Reply => reject.request_checksum == self.checksum,
                Waiting::Answer => {
                    reject.request_checksum == Checksum::default()
                        && reject.request.raw() == self.query
                }
            };
        match RejectReason::from_raw(reject.reason) {
            _ if !is_mine => Heard::Nothing,
            None => Heard::Nothing,
            Some(RejectReason::Busy | RejectReason::NotPrimary | RejectReason::NotReady) => {
                Heard::Later
            }
            Some(RejectReason::Halted) => Heard::Halted,
            Some(reason) => Heard::Refused(reason),
        }
    }

    fn hear_reply(&mut self, reply: &Reply) -> Heard {
        if reply.client != self.id || reply.request_checksum != self.checksum {
            return Heard::Nothing;
        }
        let place = (reply.op, reply.index);
        match self.waiting {
            Waiting::Session if reply.request == RequestNumber::ZERO => {
                self.session = SessionNumber::new(reply.op.raw());
                Heard::Session(reply.op)
            }
            Waiting::Reply if reply.request.raw() == self.request => Heard::Reply(place),
            // A register may be executed again, long after (trace T28).
            _ if reply.request == RequestNumber::ZERO => Heard::Nothing,
            _ => Heard::Again(place, reply.request.raw()),
        }
    }

    /// The request under way was never ordered: its number is free again.
    pub(crate) const fn take_back(&mut self) {
        self.request -= 1;
    }

    pub(crate) const fn session_number(&self) -> SessionNumber {
        self.session
    }

    pub(crate) const fn request_number(&self) -> u64 {
        self.request
    }
}
