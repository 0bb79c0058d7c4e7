//! A lane: one session of the node, shared by many connections.
//!
//! Commands of all the lane's connections are packed into one operation. While that operation is in
//! flight the next one fills, so batches form by themselves under load and a lone command leaves at
//! once. Reads that need no place in the log travel the same way in queries.
//!
//! ```text
//!            push            take off                answered
//!   command ------> Filling ----------> Flight ------------------> replies to the connections
//!                                       |    ^
//!                                       '----' no answer: the same bytes again, later and later
//! ```
//!
//! The session makes every command execute exactly once (R1.1): one request in flight, numbered, sent
//! again with the same bytes until it is answered (R13). When the session is lost nobody knows
//! whether the request in flight was executed, so its commands get an error that says so and are
//! *not* sent again under another session (R1.6).

use std::rc::Rc;

use vsr_types::{
    ClientId, Epoch, Frame, HEADER_SIZE, Header, Instant, Operation, RequestHeader, RequestNumber,
    SessionNumber,
    limits::REQUEST_HEADER_SIZE,
    message::{NO_OPS_LEFT, Query, QueryReply, Reject, RejectReason, Reply, Request},
};

use super::channel::{Channel, Deliver, Failure, Take};
use super::{Cluster, GatewayCounters, Sink};

/// The bytes in front of an operation in a request's frame.
pub(super) const REQUEST_START: usize = HEADER_SIZE + REQUEST_HEADER_SIZE;
/// The bytes in front of a query in its frame.
pub(super) const QUERY_START: usize = HEADER_SIZE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// Not registered: no command has come yet, or the last session was lost.
    None,
    /// The register is in flight.
    Registering,
    Open {
        session: SessionNumber,
        epoch: Epoch,
    },
}

/// See the module's documentation.
pub(super) struct Lane {
    client: ClientId,
    attached: bool,
    session: Session,
    /// The number of the request in flight, or of the next one.
    request: RequestNumber,
    query: RequestNumber,
    pub(super) log: Channel,
    pub(super) queries: Channel,
    sink: Rc<dyn Sink>,
}

impl core::fmt::Debug for Lane {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lane")
            .field("client", &self.client)
            .field("session", &self.session)
            .field("request", &self.request)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

/// What a step of a lane needs to know and to change.
pub(super) struct Around<'a> {
    pub(super) cluster: &'a dyn Cluster,
    pub(super) deliver: &'a mut dyn Deliver,
    pub(super) counters: &'a mut GatewayCounters,
    pub(super) now: Instant,
}

impl Lane {
    /// A lane whose answers arrive at `sink`.
    pub(super) fn new(log: Channel, queries: Channel, sink: Rc<dyn Sink>) -> Self {
        Self {
            client: ClientId::ZERO,
            attached: false,
            session: Session::None,
            request: RequestNumber::ZERO,
            query: RequestNumber::ZERO,
            log,
            queries,
            sink,
        }
    }

    /// Sends what is ready to be sent. Returns whether a channel has room again.
    pub(super) fn turn(&mut self, around: &mut Around<'_>) -> bool {
        let mut room = false;
        if self.queries.is_grounded() {
            self.send_rest_query(around);
        } else if self.queries.is_ready() && self.queries.board(around.deliver) {
            self.attach(around.cluster);
            self.query = self.query.next();
            self.queries.take_off(around.now);
            around.counters.queries += 1;
            self.send_query(around);
            room = true;
        }
        if self.log.is_grounded() {
            self.send_rest_request(around);
        } else if self.log.is_ready() {
            match self.session {
                Session::Open { session, epoch } => {
                    if !self.log.board(around.deliver) {
                        return room;
                    }
                    self.log.take_off(around.now);
                    self.seal_request(Operation::Apply, session, epoch);
                    around.counters.requests += 1;
                    self.send_request(around);
                    room = true;
                }
                Session::None => self.register(around),
                Session::Registering => unreachable!("a register in flight is a flight"),
            }
        }
        room
    }

    /// Sends again what has waited too long, and gives up on what has waited much too long.
    pub(super) fn deadline(&mut self, around: &mut Around<'_>) {
        if self.log.is_due(around.now) {
            around.counters.retries += 1;
            self.send_request(around);
        }
        if self.queries.is_due(around.now) {
            around.counters.retries += 1;
            self.send_query(around);
        }
        for channel in [&mut self.log, &mut self.queries] {
            channel.expire(around.now, around.deliver, around.counters);
        }
    }

    /// Another replica leads: the same bytes again, to it.
    pub(super) fn on_view(&mut self, around: &mut Around<'_>) {
        self.log.hurry(around.now);
        self.queries.hurry(around.now);
        self.deadline(around);
    }

    /// When [`Self::deadline`] has something to do.
    pub(super) fn next_deadline(&self) -> Instant {
        self.log.next_deadline().min(self.queries.next_deadline())
    }

    /// An answer for this lane.
    pub(super) fn on_frame(&mut self, frame: &Frame<'_>, around: &mut Around<'_>) {
        let header = frame.header();
        if let Some(reply) = header.fields::<Reply>() {
            self.on_reply(reply, header.epoch(), frame.body(), around);
        } else if let Some(reply) = header.fields::<QueryReply>() {
            self.on_query_reply(reply, frame.body(), around);
        } else if let Some(reject) = header.fields::<Reject>() {
            self.on_reject(reject, around);
        }
    }

    /// No frame will come any more.
    pub(super) fn detach(&mut self, cluster: &dyn Cluster) {
        if self.attached {
            cluster.detach(self.client);
            self.attached = false;
        }
    }

    fn attach(&mut self, cluster: &dyn Cluster) {
        if !self.attached {
            // R1.6: a fresh random id for every session.
            self.client = ClientId::new(cluster.random());
            self.attached = true;
            cluster.attach(self.client, Rc::clone(&self.sink));
        }
    }

    fn register(&mut self, around: &mut Around<'_>) {
        self.attach(around.cluster);
        self.session = Session::Registering;
        self.request = RequestNumber::ZERO;
        self.log.take_off_empty(around.now);
        self.seal_request(Operation::Register, SessionNumber::ZERO, Epoch::ZERO);
        around.counters.registers += 1;
        self.send_request(around);
    }

    /// Writes the request's header in front of the operation. From here on the bytes stay the same
    /// until the request is answered.
    fn seal_request(&mut self, operation: Operation, session: SessionNumber, epoch: Epoch) {
        let mut header = RequestHeader::new(operation, self.client, epoch, session, self.request);
        header.seal(self.log.flight_operation());
        self.log
            .write_head(HEADER_SIZE, bytemuck::bytes_of(&header));
        self.log.set_checksum(header.checksum());
    }

    fn send_request(&mut self, around: &mut Around<'_>) {
        let size = REQUEST_HEADER_SIZE + self.log.flight_operation().len();
        let mut header = Header::new(Request { reserved: [0; 5] });
        header.set_cluster(around.cluster.cluster_id());
        header.seal_with(size, self.log.checksum());
        self.log.write_head(0, bytemuck::bytes_of(&header));
        self.log.sent(around.now);
        around.counters.request_bytes += size as u64;
        if around.cluster.submit(self.log.flight_bytes()).is_err() {
            around.counters.unsent += 1;
        }
    }

    fn send_query(&mut self, around: &mut Around<'_>) {
        let mut header = Header::new(Query {
            client: self.client,
            query: self.query,
            reserved: [0; 2],
        });
        header.set_cluster(around.cluster.cluster_id());
        header.seal(self.queries.flight_operation());
        self.queries.write_head(0, bytemuck::bytes_of(&header));
        self.queries.sent(around.now);
        if around.cluster.submit(self.queries.flight_bytes()).is_err() {
            around.counters.unsent += 1;
        }
    }

    fn on_reply(&mut self, reply: &Reply, epoch: Epoch, body: &[u8], around: &mut Around<'_>) {
        let ours = self.log.is_flying()
            && !self.log.is_grounded()
            && reply.client == self.client
            && reply.request == self.request
            && reply.request_checksum == self.log.checksum();
        if !ours {
            around.counters.stale_answers += 1;
            return;
        }
        self.request = self.request.next();
        if self.session == Session::Registering {
            self.session = Session::Open {
                session: SessionNumber::new(reply.op.raw()),
                epoch,
            };
            self.log.land_empty();
            return;
        }
        if self.log.land(body, around.deliver, around.counters) == Take::Rest {
            self.send_rest_request(around);
        }
    }

    /// What the last reply had no room for, if there is memory for its replies.
    fn send_rest_request(&mut self, around: &mut Around<'_>) {
        if self.log.board_rest(around.now, around.deliver) {
            let Session::Open { session, epoch } = self.session else {
                unreachable!("an operation was answered, so the session is open");
            };
            self.log.take_off_rest(around.now);
            self.seal_request(Operation::Apply, session, epoch);
            around.counters.requests += 1;
            self.send_request(around);
        }
    }

    fn on_query_reply(&mut self, reply: &QueryReply, body: &[u8], around: &mut Around<'_>) {
        let ours = self.queries.is_flying()
            && !self.queries.is_grounded()
            && reply.client == self.client
            && reply.query == self.query;
        if !ours {
            around.counters.stale_answers += 1;
            return;
        }
        if self.queries.land(body, around.deliver, around.counters) == Take::Rest {
            self.send_rest_query(around);
        }
    }

    fn send_rest_query(&mut self, around: &mut Around<'_>) {
        if self.queries.board_rest(around.now, around.deliver) {
            self.query = self.query.next();
            self.queries.take_off_rest(around.now);
            around.counters.queries += 1;
            self.send_query(around);
        }
    }

    fn on_reject(&mut self, reject: &Reject, around: &mut Around<'_>) {
        if reject.client != self.client {
            around.counters.stale_answers += 1;
            return;
        }
        // A query's reject carries no checksum, a request's always does (zero for an unlucky one in
        // four billion, whose retries then look like a query's and are ignored by the number).
        let for_log = self.log.is_flying()
            && reject.request == self.request
            && reject.request_checksum == self.log.checksum();
        let for_query = !for_log
            && self.queries.is_flying()
            && reject.request == self.query
            && reject.request_checksum.raw() == 0;
        let reason = RejectReason::from_raw(reject.reason);
        around.counters.count_reject(reason);
        if for_log {
            self.on_request_rejected(reason, reject.detail, around);
        } else if for_query {
            self.on_query_rejected(reason, around);
        } else {
            around.counters.stale_answers += 1;
        }
    }

    fn on_request_rejected(
        &mut self,
        reason: Option<RejectReason>,
        detail: u64,
        around: &mut Around<'_>,
    ) {
        use RejectReason as R;
        match reason {
            // Not executed by whoever says so, but an earlier copy may be under way: the same
            // request again, later.
            Some(R::Busy) => self.log.back_off(around.now, Failure::Busy),
            // No primary at the moment. (That this replica itself gets its memory back is said at once.)
            Some(R::NotReady) => self.log.back_off(around.now, Failure::Down),
            Some(R::Halted) if detail == NO_OPS_LEFT => {
                self.log.back_off(around.now, Failure::UsedUp);
            }
            Some(R::Halted) => self.log.back_off(around.now, Failure::Halted),
            Some(R::NotPrimary) | None => self.log.back_off(around.now, Failure::Down),
            Some(R::Evicted | R::SessionTooLow | R::RequestReused) => {
                self.lose_session(around);
            }
            // Never ordered, so the number is still free.
            Some(R::Malformed) => {
                self.log
                    .fail_flight(Failure::Malformed, around.deliver, around.counters);
            }
            Some(R::TooLarge) => {
                self.log
                    .fail_flight(Failure::TooLarge, around.deliver, around.counters);
            }
        }
    }

    fn on_query_rejected(&mut self, reason: Option<RejectReason>, around: &mut Around<'_>) {
        use RejectReason as R;
        match reason {
            Some(R::Malformed) => {
                self.queries
                    .fail_flight(Failure::Malformed, around.deliver, around.counters);
            }
            Some(R::TooLarge) => {
                self.queries
                    .fail_flight(Failure::TooLarge, around.deliver, around.counters);
            }
            Some(R::Busy) => self.queries.back_off(around.now, Failure::Busy),
            Some(R::NotReady) => self.queries.back_off(around.now, Failure::Down),
            Some(R::Halted) => self.queries.back_off(around.now, Failure::Halted),
            _ => self.queries.back_off(around.now, Failure::Down),
        }
    }

    /// R1.6: whether the request in flight was executed cannot be known any more.
    fn lose_session(&mut self, around: &mut Around<'_>) {
        around.counters.sessions_lost += 1;
        let was_registering = self.session == Session::Registering;
        self.session = Session::None;
        self.request = RequestNumber::ZERO;
        if was_registering {
            self.log.land_empty();
        } else {
            self.log
                .fail_flight(Failure::Unknown, around.deliver, around.counters);
        }
        // Queries need no session, but answers to the old id end here: theirs are asked again.
        self.detach(around.cluster);
        self.attach(around.cluster);
        if self.queries.is_flying() && !self.queries.is_grounded() {
            self.query = self.query.next();
            self.send_query(around);
        }
    }
}
