//! A client as the protocol wants it: one request in flight, numbers that rise by one, the same bytes
//! again until there is an answer, and no answer believed that is not to its own request.

use vsr_types::message::{self, RejectReason, Reply};
use vsr_types::{
    Checksum, ClientId, ClusterId, Command, Epoch, Frame, Header, Op, Operation, RequestHeader,
    RequestNumber, SessionNumber,
};

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Reply {
        request: u64,
        op: u64,
        body: Vec<u8>,
    },
    Reject {
        request: u64,
        reason: RejectReason,
        detail: u64,
    },
    Read {
        query: u64,
        op: u64,
        body: Vec<u8>,
    },
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: ClientId,
    pub session: SessionNumber,
    /// The last request sent; `None` before the register.
    pub request: Option<u64>,
    pub query: u64,
    /// The bytes of that request, to send them again.
    pub frame: Vec<u8>,
    checksum: Checksum,
    /// There is a request without an answer.
    pub waiting: bool,
    /// A query without an answer.
    pub reading: bool,
    pub answers: Vec<Answer>,
}

/// The sealed frame of one request.
pub fn request_frame(cluster: ClusterId, mut request: RequestHeader, operation: &[u8]) -> Vec<u8> {
    request.seal(operation);
    let mut header = Header::new(message::Request { reserved: [0; 5] });
    header.set_cluster(cluster);
    header.seal_with(request.size(), request.checksum());
    [
        bytemuck::bytes_of(&header),
        bytemuck::bytes_of(&request),
        operation,
    ]
    .concat()
}

/// The sealed frame of one query.
pub fn query_frame(cluster: ClusterId, client: ClientId, query: u64, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new(message::Query {
        client,
        query: RequestNumber::new(query),
        reserved: [0; 2],
    });
    header.set_cluster(cluster);
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

impl Client {
    pub const fn new(id: u128) -> Self {
        Self {
            id: ClientId::new(id),
            session: SessionNumber::ZERO,
            request: None,
            query: 0,
            frame: Vec::new(),
            checksum: Checksum::new(0),
            waiting: false,
            reading: false,
            answers: Vec::new(),
        }
    }

    /// The request for a session.
    pub fn register(&mut self, cluster: ClusterId) -> Vec<u8> {
        self.request = Some(0);
        self.make(cluster, Operation::Register, b"")
    }

    /// The next request.
    pub fn request(&mut self, cluster: ClusterId, operation: &[u8]) -> Vec<u8> {
        assert!(!self.waiting, "one request in flight per session (R1.1)");
        self.request = Some(self.request.expect("a registered client") + 1);
        self.make(cluster, Operation::Apply, operation)
    }

    fn make(&mut self, cluster: ClusterId, kind: Operation, operation: &[u8]) -> Vec<u8> {
        let number = RequestNumber::new(self.request.expect("a number was chosen"));
        let mut header = RequestHeader::new(kind, self.id, Epoch::ZERO, self.session, number);
        header.seal(operation);
        self.checksum = header.checksum();
        self.frame = request_frame(cluster, header, operation);
        self.waiting = true;
        self.frame.clone()
    }

    pub fn query(&mut self, cluster: ClusterId, query: &[u8]) -> Vec<u8> {
        self.query += 1;
        self.reading = true;
        query_frame(cluster, self.id, self.query, query)
    }

    /// The same client under a new name, as after an eviction.
    pub fn reborn(&self) -> Self {
        Self::new(self.id.raw() + u128::from(u64::MAX) + 1)
    }

    /// Takes a frame and says whether it told something new.
    pub fn on_frame(&mut self, frame: &Frame<'_>) -> bool {
        let meant = frame
            .fields::<Reply>()
            .map(|reply| reply.client)
            .or_else(|| {
                frame
                    .fields::<message::Reject>()
                    .map(|reject| reject.client)
            })
            .or_else(|| {
                frame
                    .fields::<message::QueryReply>()
                    .map(|reply| reply.client)
            });
        if meant.is_some_and(|client| client != self.id) {
            let is_former_life =
                meant.map(|client| client.raw() as u64) == Some(self.id.raw() as u64);
            assert!(is_former_life, "a reply reached the wrong client");
            return false;
        }
        match frame.command() {
            Command::Reply => self.on_reply(frame),
            Command::Reject => {
                let reject = *frame.fields::<message::Reject>().expect("a reject");
                let reason = RejectReason::from_raw(reject.reason).expect("a known reason");
                let is_for_query = reject.request_checksum == Checksum::default();
                let is_mine = if is_for_query {
                    self.reading && reject.request.raw() == self.query
                } else {
                    self.waiting && reject.request_checksum == self.checksum
                };
                if !is_mine {
                    return false;
                }
                if is_for_query {
                    self.reading = false;
                }
                self.answers.push(Answer::Reject {
                    request: reject.request.raw(),
                    reason,
                    detail: reject.detail,
                });
                true
            }
            Command::QueryReply => {
                let reply = *frame
                    .fields::<message::QueryReply>()
                    .expect("a query's reply");
                if !self.reading || reply.query.raw() != self.query {
                    return false;
                }
                self.reading = false;
                self.answers.push(Answer::Read {
                    query: reply.query.raw(),
                    op: reply.op.raw(),
                    body: frame.body().to_vec(),
                });
                true
            }
            other => panic!("a client was sent a {}", other.name()),
        }
    }

    fn on_reply(&mut self, frame: &Frame<'_>) -> bool {
        let reply = *frame.fields::<Reply>().expect("a reply");
        if reply.request_checksum != self.checksum {
            return false;
        }
        assert_eq!(
            Some(reply.request.raw()),
            self.request,
            "a reply to another request"
        );
        let answer = Answer::Reply {
            request: reply.request.raw(),
            op: reply.op.raw(),
            body: frame.body().to_vec(),
        };
        if !self.waiting && reply.request == RequestNumber::ZERO {
            // A register that was executed again, long after (trace T28): the client has its session.
            return false;
        }
        if !self.waiting {
            // R1.3c: told again, and exactly the same.
            let told = self.answers.iter().rev().find(|told| {
                matches!(told, Answer::Reply { request, .. } if *request == reply.request.raw())
            });
            assert_eq!(
                told,
                Some(&answer),
                "a repeated reply differs from the first"
            );
            return false;
        }
        self.waiting = false;
        if reply.request == RequestNumber::ZERO {
            self.session = SessionNumber::new(reply.op.raw());
        }
        self.answers.push(answer);
        true
    }

    /// The last answer.
    pub fn told(&self) -> Option<&Answer> {
        self.answers.last()
    }

    /// The body of the last answer, as text.
    pub fn text(&self) -> String {
        match self.told() {
            Some(Answer::Reply { body, .. } | Answer::Read { body, .. }) => {
                String::from_utf8_lossy(body).into_owned()
            }
            Some(Answer::Reject { reason, .. }) => format!("{reason:?}"),
            None => "nothing".to_owned(),
        }
    }

    /// How many of its requests after the register were answered.
    pub fn served(&self) -> usize {
        let is_served =
            |answer: &&Answer| matches!(answer, Answer::Reply { request, .. } if *request > 0);
        self.answers.iter().filter(is_served).count()
    }

    pub fn op_of_last(&self) -> Option<Op> {
        match self.told()? {
            Answer::Reply { op, .. } | Answer::Read { op, .. } => Some(Op::new(*op)),
            Answer::Reject { .. } => None,
        }
    }
}
