//! Everything a client has in flight: its sessions, its queries, and the calls that wait for one.

use std::collections::VecDeque;
use std::time::Duration;

use bytemuck::Zeroable;
use tokio::time::Instant;
use vsr_types::message::{self, QueryReply, Reject, RejectReason};
use vsr_types::{ClientId, ClusterId, Frame, Header, RequestNumber, View};

use super::flight::{Flight, Job, Waiter};
use super::link::Link;
use super::session::Session;
use super::{ClientError, ClientOptions, QUERIES_MAX, Reply, SESSIONS_MAX, driver};
use crate::{Random, random};

/// What the frames that arrived suggest to do with the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing.
    None,
    /// A normal replica is in this view.
    View(View),
    /// This replica cannot help now.
    Rotate,
    /// This connection is over.
    Close(String),
}

impl Advice {
    /// Of two, the one that changes more; of two views, the newer.
    pub(super) fn or(self, next: Self) -> Self {
        match (self, next) {
            (Self::Close(why), _) | (_, Self::Close(why)) => Self::Close(why),
            (Self::Rotate, _) | (_, Self::Rotate) => Self::Rotate,
            (Self::View(a), Self::View(b)) => Self::View(a.max(b)),
            (Self::None, other) | (other, Self::None) => other,
        }
    }
}

/// A query's number is its place and how often the place was used before, so that late answers to
/// earlier ones are not taken for its own.
#[derive(Debug, Default)]
struct QuerySlot {
    uses: u64,
    flight: Option<Flight>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    cluster: ClusterId,
    sessions: Vec<Session>,
    sessions_max: usize,
    idle: Vec<usize>,
    query_client: ClientId,
    queries: Vec<QuerySlot>,
    free_queries: Vec<usize>,
    waiting: VecDeque<Job>,
    waiting_queries: VecDeque<Job>,
    in_flight: usize,
    retry: (Duration, Duration),
    timeout: Duration,
    random: Random,
}

impl Table {
    pub(super) fn new(options: &ClientOptions, random: Random) -> Self {
        Self {
            cluster: driver::NO_CLUSTER,
            sessions: Vec::new(),
            sessions_max: options.sessions.clamp(1, SESSIONS_MAX),
            idle: Vec::new(),
            query_client: random::client_id(),
            queries: Vec::new(),
            free_queries: Vec::new(),
            waiting: VecDeque::new(),
            waiting_queries: VecDeque::new(),
            in_flight: 0,
            retry: (options.retry_min, options.retry_max),
            timeout: options.timeout,
            random,
        }
    }

    pub(super) const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(super) fn set_cluster(&mut self, cluster: ClusterId) {
        self.cluster = cluster;
    }

    /// Whether nothing is in flight and nobody waits: no timer is needed.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty() && self.waiting_queries.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() + self.waiting_queries.len() < driver::WAITING_MAX
    }

    pub(super) fn add(&mut self, job: Job) {
        if job.is_query {
            self.waiting_queries.push_back(job);
        } else {
            self.waiting.push_back(job);
        }
    }

    /// Gives waiting calls to free sessions and query slots, and opens sessions when there are more
    /// calls than sessions.
    pub(super) fn start(&mut self, link: &mut Link) {
        if !matches!(link, Link::Up(_)) {
            return;
        }
        let now = Instant::now();
        while let Some(place) = self.idle.pop() {
            let Some(job) = self.waiting.pop_front() else {
                self.idle.push(place);
                break;
            };
            self.start_request(place, job, link, now);
        }
        let opening = self
            .sessions
            .iter()
            .filter(|session| !session.is_registered())
            .count();
        let wanted = self.waiting.len().saturating_sub(opening);
        for _ in 0..wanted.min(self.sessions_max - self.sessions.len()) {
            self.sessions.push(Session::new(self.sessions.len()));
            self.register(self.sessions.len() - 1, link, now);
        }
        while self.free_queries.len() + QUERIES_MAX > self.queries.len() {
            let Some(job) = self.waiting_queries.pop_front() else {
                break;
            };
            self.start_query(job, link, now);
        }
    }

    fn flight(&mut self, frame: Vec<u8>, waiter: Option<Waiter>) -> Flight {
        self.in_flight += 1;
        Flight::new(frame, waiter, self.retry, self.random.number())
    }

    fn register(&mut self, place: usize, link: &mut Link, now: Instant) {
        let frame = self.sessions[place].register(self.cluster);
        let mut flight = self.flight(frame, None);
        send(&mut flight, link, now);
        self.sessions[place].flight = Some(flight);
    }

    fn start_request(&mut self, place: usize, job: Job, link: &mut Link, now: Instant) {
        let frame = self.sessions[place].request(self.cluster, &job.bytes);
        let waiter = Waiter {
            answer: job.answer,
            deadline: job.deadline,
        };
        let mut flight = self.flight(frame, Some(waiter));
        send(&mut flight, link, now);
        self.sessions[place].flight = Some(flight);
    }

    fn start_query(&mut self, job: Job, link: &mut Link, now: Instant) {
        let place = self.free_queries.pop().unwrap_or_else(|| {
            self.queries.push(QuerySlot::default());
            self.queries.len() - 1
        });
        self.queries[place].uses += 1;
        let query = query_number(place, self.queries[place].uses);
        let mut header = Header::new(message::Query {
            client: self.query_client,
            query,
            ..message::Query::zeroed()
        });
        header.set_cluster(self.cluster);
        header.seal(&job.bytes);
        let frame = [bytemuck::bytes_of(&header), &job.bytes].concat();
        let waiter = Waiter {
            answer: job.answer,
            deadline: job.deadline,
        };
        let mut flight = self.flight(frame, Some(waiter));
        send(&mut flight, link, now);
        self.queries[place].flight = Some(flight);
    }

    /// Takes an answer. Whatever is not about something in flight is ignored: answers may come twice.
    pub(super) fn on_frame(&mut self, frame: &Frame<'_>) -> Advice {
        if let Some(reply) = frame.fields::<message::Reply>() {
            return self.on_reply(frame, reply);
        }
        if let Some(reply) = frame.fields::<QueryReply>() {
            let answer = Reply {
                body: frame.body().to_vec(),
                op: reply.op,
                index: 0,
                view: frame.header().view(),
            };
            let is_mine = reply.client == self.query_client;
            if is_mine && self.finish_query(reply.query, Ok(answer)) {
                return Advice::View(frame.header().view());
            }
            return Advice::None;
        }
        frame
            .fields()
            .map_or(Advice::None, |reject| self.on_reject(frame, reject))
    }

    fn on_reply(&mut self, frame: &Frame<'_>, reply: &message::Reply) -> Advice {
        let place = Session::place_of(reply.client);
        let session = self
            .sessions
            .get_mut(place)
            .filter(|session| session.is(reply.client));
        let flight = session.and_then(|session| session.accept(frame.header().epoch(), reply));
        let Some(flight) = flight else {
            return Advice::None;
        };
        self.in_flight -= 1;
        self.idle.push(place);
        let view = frame.header().view();
        if let Some(waiter) = flight.waiter {
            let body = frame.body().to_vec();
            waiter.tell(Ok(Reply {
                body,
                op: reply.op,
                index: reply.index,
                view,
            }));
        }
        // R1.7: a reply's view is that of a completed view change.
        Advice::View(view)
    }

    /// Ends the query with this number, if it is in flight.
    fn finish_query(&mut self, number: RequestNumber, result: Result<Reply, ClientError>) -> bool {
        let place = query_place(number);
        let Some(slot) = self.queries.get_mut(place) else {
            return false;
        };
        if query_number(place, slot.uses) != number {
            return false;
        }
        let Some(flight) = slot.flight.take() else {
            return false;
        };
        self.in_flight -= 1;
        self.free_queries.push(place);
        if let Some(waiter) = flight.waiter {
            waiter.tell(result);
        }
        true
    }

    fn on_reject(&mut self, frame: &Frame<'_>, reject: &Reject) -> Advice {
        let Some(reason) = RejectReason::from_raw(reject.reason) else {
            return Advice::None;
        };
        let is_mine = if reject.client == self.query_client {
            self.on_query_rejected(reject, reason)
        } else {
            self.on_request_rejected(reject, reason)
        };
        match reason {
            _ if !is_mine || !driver::is_about_replica(reason) => Advice::None,
            RejectReason::NotPrimary => Advice::View(frame.header().view()),
            _ => Advice::Rotate,
        }
    }

    fn on_query_rejected(&mut self, reject: &Reject, reason: RejectReason) -> bool {
        if let Some(error) = self.refusal(reason, reject) {
            return self.finish_query(reject.request, Err(error));
        }
        let place = query_place(reject.request);
        let Some(slot) = self.queries.get_mut(place) else {
            return false;
        };
        if query_number(place, slot.uses) != reject.request {
            return false;
        }
        let Some(flight) = &mut slot.flight else {
            return false;
        };
        flight.postpone(Instant::now());
        true
    }

    fn on_request_rejected(&mut self, reject: &Reject, reason: RejectReason) -> bool {
        let place = Session::place_of(reject.client);
        let error = self.refusal(reason, reject);
        let Some(session) = self
            .sessions
            .get_mut(place)
            .filter(|session| session.is(reject.client))
        else {
            return false;
        };
        if !session.concerns(reject) {
            return false;
        }
        let Some(error) = error else {
            if let Some(flight) = &mut session.flight {
                flight.postpone(Instant::now());
            }
            return true;
        };
        // Refused operations never entered the log: the number is free for the next one. After the
        // other errors nothing is known about the session any more.
        let keeps_session = matches!(
            error,
            ClientError::Malformed { .. } | ClientError::TooLarge { .. }
        ) && session.is_registered();
        let flight = if keeps_session {
            self.idle.push(place);
            session.flight.take()
        } else {
            session.renew(place)
        };
        self.in_flight -= 1;
        if let Some(waiter) = flight.and_then(|flight| flight.waiter) {
            waiter.tell(Err(error));
        }
        if !keeps_session {
            self.reopen(place);
        }
        true
    }

    /// A session that was lost is registered again, under its new id, at the next tick or resend.
    fn reopen(&mut self, place: usize) {
        let frame = self.sessions[place].register(self.cluster);
        let mut flight = self.flight(frame, None);
        flight.postpone(Instant::now());
        self.sessions[place].flight = Some(flight);
    }

    /// What a caller is told; none when trying again is right.
    fn refusal(&self, reason: RejectReason, reject: &Reject) -> Option<ClientError> {
        match reason {
            RejectReason::Busy | RejectReason::NotPrimary | RejectReason::NotReady => None,
            RejectReason::Evicted | RejectReason::SessionTooLow => Some(ClientError::Evicted),
            RejectReason::Malformed => Some(ClientError::Malformed {
                code: reject.detail,
            }),
            RejectReason::RequestReused => Some(ClientError::RequestReused),
            RejectReason::TooLarge => {
                let most = usize::try_from(reject.detail).unwrap_or(usize::MAX);
                Some(ClientError::TooLarge {
                    size: self.size_in_flight(reject),
                    most,
                })
            }
            RejectReason::Halted => Some(ClientError::Halted),
        }
    }

    fn size_in_flight(&self, reject: &Reject) -> usize {
        let overhead = vsr_types::HEADER_SIZE + vsr_types::limits::REQUEST_HEADER_SIZE;
        self.sessions
            .get(Session::place_of(reject.client))
            .and_then(|session| session.flight.as_ref())
            .map_or(0, |flight| flight.frame.len().saturating_sub(overhead))
    }

    /// A new connection: everything in flight is sent again.
    pub(super) fn resend_all(&mut self, link: &mut Link) {
        let now = Instant::now();
        for flight in self.flights() {
            send(flight, link, now);
        }
    }

    /// Tells callers whose time is up, and whether anything must be sent again.
    pub(super) fn on_tick(&mut self, now: Instant) -> bool {
        let timeout = self.timeout;
        let mut is_due = false;
        for flight in self.flights() {
            flight.expire(now, timeout);
            is_due |= flight.retry_at <= now;
        }
        for waiting in [&mut self.waiting, &mut self.waiting_queries] {
            // In order of arrival, and all have the same time-out.
            while waiting.front().is_some_and(|job| job.deadline <= now) {
                let Some(job) = waiting.pop_front() else {
                    break;
                };
                let error = ClientError::Timeout {
                    after: timeout,
                    sent: false,
                };
                drop(job.answer.send(Err(error)));
            }
        }
        is_due
    }

    /// Sends again what is due.
    pub(super) fn resend_due(&mut self, now: Instant, link: &mut Link) {
        for flight in self.flights().filter(|flight| flight.retry_at <= now) {
            send(flight, link, now);
        }
    }

    pub(super) fn fail_all(&mut self, error: &ClientError) {
        let waiters = self.flights().filter_map(|flight| flight.waiter.take());
        for waiter in waiters.collect::<Vec<_>>() {
            waiter.tell(Err(error.clone()));
        }
        for job in self.waiting.drain(..).chain(self.waiting_queries.drain(..)) {
            drop(job.answer.send(Err(error.clone())));
        }
    }

    fn flights(&mut self) -> impl Iterator<Item = &mut Flight> {
        let requests = self
            .sessions
            .iter_mut()
            .filter_map(|session| session.flight.as_mut());
        let queries = self
            .queries
            .iter_mut()
            .filter_map(|slot| slot.flight.as_mut());
        requests.chain(queries)
    }
}

fn send(flight: &mut Flight, link: &mut Link, now: Instant) {
    if link.queue(&flight.frame) {
        flight.sent(now);
    }
}

const QUERY_PLACE_BITS: u32 = 16;
const _: () = assert!(QUERIES_MAX <= 1 << QUERY_PLACE_BITS);

fn query_number(place: usize, uses: u64) -> RequestNumber {
    RequestNumber::new(uses << QUERY_PLACE_BITS | place as u64)
}

fn query_place(number: RequestNumber) -> usize {
    (number.raw() & ((1 << QUERY_PLACE_BITS) - 1)) as usize
}
