//! The client's task: one connection, kept at the primary where possible, and what waits for it.
//!
//! It wakes for a call, for bytes, or for the timer, and never waits for one of them alone. The
//! connection moves to the next endpoint when it breaks or falls silent, and to the primary when a
//! normal replica says who that is (R13.1). Whatever is in flight is sent again on the new one.

use std::time::Duration;

use bytemuck::Zeroable;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vsr_types::message::{LinkKind, PeerStatus, Ping, Pong, Refuse, RejectReason};
use vsr_types::{ClusterId, Frame, Header, ReplicaIndex, View};

use super::flight::Job;
use super::link::{self, Event, Link, Up};
use super::table::{Advice, Table};
use super::{ClientError, ClientOptions, Ready};
use crate::dial::{DialError, dial};
use crate::handshake::{Greeting, Identity, Refusal};
use crate::{Backoff, Random};

/// The most calls that wait inside the task; further ones wait in their callers.
pub(super) const WAITING_MAX: usize = 1024;

/// How precise time-outs and retries are: all of them are looked at once in this time.
const TICK: Duration = Duration::from_millis(5);

/// Between attempts to reach an endpoint that is of use. The longest wait is what a client may lose
/// after a change of view, so it is short; a refused connection costs next to nothing.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

#[derive(Debug)]
struct Endpoint {
    address: String,
    /// Which replica answered there last.
    replica: Option<ReplicaIndex>,
    /// Why the last attempt failed.
    failure: Option<Failure>,
}

#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    /// It belongs to this other cluster.
    WrongCluster(ClusterId),
    Other(String),
}

impl Endpoint {
    /// What only an operator can change, if that is what is wrong with it.
    fn lasting(&self, cluster: ClusterId) -> Option<ClientError> {
        let endpoint = self.address.clone();
        match self.failure.as_ref()? {
            Failure::Refused(refusal) if !refusal.is_temporary() => {
                let refusal = *refusal;
                Some(ClientError::Refused { endpoint, refusal })
            }
            Failure::WrongCluster(received) => Some(ClientError::WrongCluster {
                endpoint,
                expected: cluster,
                received: *received,
            }),
            Failure::Refused(_) | Failure::Other(_) => None,
        }
    }
}

/// The task behind a [`super::Client`].
#[derive(Debug)]
pub(super) struct Driver {
    endpoints: Vec<Endpoint>,
    /// The endpoint in use or being dialled.
    current: usize,
    identity: Identity,
    options: ClientOptions,
    jobs: mpsc::Receiver<Job>,
    ready: Option<oneshot::Sender<Result<Ready, ClientError>>>,
    ready_until: Instant,
    link: Link,
    backoff: Backoff,
    table: Table,
    /// The newest view a normal replica spoke of, and the view whose primary was last looked for.
    view: View,
    sought: Option<View>,
    replicas: u8,
    tick: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        endpoints: Vec<String>,
        options: ClientOptions,
        jobs: mpsc::Receiver<Job>,
        ready: oneshot::Sender<Result<Ready, ClientError>>,
    ) -> Self {
        let mut random = Random::from_os();
        // Clients that start together do not all begin at the same replica.
        let current = random.below(endpoints.len() as u64) as usize;
        let endpoints = endpoints
            .into_iter()
            .map(|address| Endpoint {
                address,
                replica: None,
                failure: None,
            })
            .collect();
        let now = Instant::now();
        let ready_until = now + options.connect_timeout;
        Self {
            endpoints,
            current,
            identity: Identity::of_client(options.cluster_name.as_deref()),
            jobs,
            ready: Some(ready),
            ready_until,
            link: Link::Down(now),
            backoff: Backoff::new(DIAL_BACKOFF.0, DIAL_BACKOFF.1, random.clone()),
            table: Table::new(&options, random),
            options,
            view: View::ZERO,
            sought: None,
            replicas: 0,
            tick: Some(ready_until),
        }
    }

    /// Runs until the last handle is dropped, or nothing can be done any more.
    pub(super) async fn run(mut self) {
        loop {
            self.table.start(&mut self.link);
            if self.tick.is_none() && !self.table.is_idle() {
                self.tick = Some(Instant::now() + TICK);
            }
            let result = tokio::select! {
                job = self.jobs.recv(), if self.table.has_room() => match job {
                    Some(job) => {
                        self.take_jobs(job);
                        Ok(())
                    }
                    None => return,
                },
                event = self.link.next() => self.on_event(event),
                () = link::at(self.tick) => self.on_tick(),
            };
            if let Err(error) = result {
                self.fail(error).await;
                return;
            }
        }
    }

    /// Takes one call and all others that are there, so that they leave in one write.
    fn take_jobs(&mut self, first: Job) {
        self.table.add(first);
        while self.table.has_room() {
            match self.jobs.try_recv() {
                Ok(job) => self.table.add(job),
                Err(_) => return,
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), ClientError> {
        match event {
            Event::Due => {
                self.dial();
                Ok(())
            }
            Event::Dialed(Ok((stream, greeting))) => self.on_greeting(stream, &greeting),
            Event::Dialed(Err(error)) => self.on_failure(&error),
            Event::Received => self.on_received(),
            Event::Broken(error) => {
                self.endpoint().failure = Some(Failure::Other(error.to_string()));
                self.rotate();
                Ok(())
            }
        }
    }

    fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoints[self.current]
    }

    fn dial(&mut self) {
        let address = self.endpoint().address.clone();
        let (identity, within) = (self.identity, self.options.dial_timeout);
        self.link = Link::Dialing(Box::pin(async move {
            dial(&address, &identity, LinkKind::Client, None, within).await
        }));
    }

    /// To the next endpoint, after a moment.
    fn rotate(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len();
        self.link = Link::Down(Instant::now() + self.backoff.next_delay());
    }

    fn on_greeting(&mut self, stream: TcpStream, greeting: &Greeting) -> Result<(), ClientError> {
        let cluster = greeting.header.cluster();
        if cluster.is_zero() {
            let why = "it belongs to no cluster yet; form one with `vsr-cli init`".to_owned();
            self.endpoint().failure = Some(Failure::Other(why));
            self.rotate();
            return Ok(());
        }
        let known = self.table.cluster();
        if !known.is_zero() && known != cluster {
            // R7.2: a new cluster in the old one's place must not be taken for it. But a single wrong
            // endpoint in the list says nothing about the others.
            let endpoint = self.endpoint();
            if !matches!(endpoint.failure, Some(Failure::WrongCluster(_))) {
                let endpoint = &endpoint.address;
                tracing::warn!(endpoint, expected = %known, received = %cluster, "another cluster");
            }
            return self.leave(Failure::WrongCluster(cluster));
        }
        self.table.set_cluster(cluster);
        self.replicas = greeting.welcome.replicas;
        self.endpoint().replica = Some(greeting.header.replica());
        self.endpoint().failure = None;
        self.link = Link::Up(Up::new(stream));
        self.ask_for_view();
        self.table.resend_all(&mut self.link);
        if let Some(ready) = self.ready.take() {
            // Until here the timer was that of the connect time-out.
            self.tick = None;
            let operation_size_max = greeting.welcome.operation_size_max as usize;
            drop(ready.send(Ok(Ready {
                cluster,
                operation_size_max,
            })));
        }
        Ok(())
    }

    /// The welcome's view may be that of a replica in trouble; a pong says the status too (R13.1).
    fn ask_for_view(&mut self) {
        let mut ping = Header::new(Ping::zeroed());
        ping.seal(&[]);
        self.link.queue(bytemuck::bytes_of(&ping));
    }

    fn on_failure(&mut self, error: &DialError) -> Result<(), ClientError> {
        let failure = match error.refusal() {
            Some(refusal) => Failure::Refused(refusal),
            None => Failure::Other(error.to_string()),
        };
        self.leave(failure)
    }

    /// This endpoint is of no use: to the next one, unless every single one says no for good. Then
    /// waiting longer helps nobody.
    fn leave(&mut self, failure: Failure) -> Result<(), ClientError> {
        self.endpoint().failure = Some(failure);
        let cluster = self.table.cluster();
        let lasting = |endpoint: &Endpoint| endpoint.lasting(cluster);
        if self.endpoints.iter().all(|one| lasting(one).is_some()) {
            let errors = self.endpoints.iter().filter_map(lasting);
            // That the data may be gone is the worse news.
            let worst = errors.max_by_key(|one| matches!(one, ClientError::WrongCluster { .. }));
            return Err(worst.expect("a client has endpoints, and all of them refuse"));
        }
        self.rotate();
        Ok(())
    }

    fn on_received(&mut self) -> Result<(), ClientError> {
        let mut advice = Advice::None;
        while let Link::Up(up) = &mut self.link {
            let cluster = self.table.cluster();
            let frame = match up.ingress.next_frame() {
                Ok(Some(bytes)) => Frame::parse(bytes, cluster),
                Ok(None) => break,
                Err(error) => {
                    // The stream cannot be followed any further: what comes behind is no message.
                    advice = Advice::Close(error.to_string());
                    break;
                }
            };
            let next = match frame {
                Ok(frame) => match frame.fields::<Pong>() {
                    Some(pong) => on_pong(&frame, pong),
                    None => match frame.fields::<Refuse>() {
                        Some(refuse) => Advice::Close(Refusal::read(refuse).to_string()),
                        None => self.table.on_frame(&frame),
                    },
                },
                Err(error) => Advice::Close(error.to_string()),
            };
            advice = advice.or(next);
        }
        self.follow(advice);
        Ok(())
    }

    fn follow(&mut self, advice: Advice) {
        match advice {
            Advice::None => {}
            Advice::View(view) => self.seek(view),
            Advice::Rotate => self.rotate(),
            Advice::Close(why) => {
                self.endpoint().failure = Some(Failure::Other(why));
                self.rotate();
            }
        }
    }

    /// Moves the connection to the primary of `view`, once for every view: a backup passes requests
    /// on, so being elsewhere costs time and nothing else. What is in flight is sent again, there or
    /// here: it may have been lost with the primary before.
    fn seek(&mut self, view: View) {
        // Whoever knows a view is of use: the next time that one is looked for begins quickly.
        self.backoff.reset();
        if view < self.view || self.replicas == 0 || self.sought == Some(view) {
            return;
        }
        let is_change = self.sought.is_some();
        self.view = view;
        self.sought = Some(view);
        let has_moved = self.move_to(view);
        if is_change && !has_moved && !self.link.is_full() {
            self.table.resend_all(&mut self.link);
        }
    }

    /// Dials the primary of `view` if that is another endpoint than the present one, and known.
    fn move_to(&mut self, view: View) -> bool {
        let primary = view.primary(self.replicas);
        if self.endpoint().replica == Some(primary) {
            return false;
        }
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.replica == Some(primary));
        // Endpoints are usually given in the order of the peers list.
        let guessed = (self.endpoints.len() == usize::from(self.replicas))
            .then_some(primary.as_usize())
            .filter(|&place| self.endpoints[place].replica.is_none());
        let Some(place) = known.or(guessed) else {
            return false;
        };
        self.current = place;
        self.dial();
        true
    }

    fn on_tick(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        if self.ready.is_some() {
            if now >= self.ready_until {
                return Err(self.unreachable());
            }
            self.tick = Some(self.ready_until);
            return Ok(());
        }
        self.tick = None;
        let is_due = self.table.on_tick(now);
        if is_due {
            if self.link.is_stuck(now, self.options.retry_min) {
                let why = "it is connected, but does not answer".to_owned();
                self.endpoint().failure = Some(Failure::Other(why));
                self.rotate();
            } else if !self.link.is_full() {
                self.table.resend_due(now, &mut self.link);
            }
        }
        Ok(())
    }

    fn unreachable(&self) -> ClientError {
        let failures = self.endpoints.iter().map(|endpoint| {
            let why = match &endpoint.failure {
                Some(Failure::Refused(refusal)) => refusal.to_string(),
                Some(Failure::WrongCluster(cluster)) => format!("it belongs to cluster {cluster}"),
                Some(Failure::Other(why)) => why.clone(),
                None => "not tried in time".to_owned(),
            };
            (endpoint.address.clone(), why)
        });
        ClientError::Unreachable(failures.collect())
    }

    /// Nothing can be done any more: everybody who waits or will call hears why.
    async fn fail(&mut self, error: ClientError) {
        tracing::warn!(%error, "the client stops");
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Err(error)));
            return;
        }
        self.table.fail_all(&error);
        self.link = Link::Down(Instant::now());
        while let Some(job) = self.jobs.recv().await {
            drop(job.answer.send(Err(error.clone())));
        }
    }
}

/// R13.1: a view is adopted from a normal replica only.
fn on_pong(frame: &Frame<'_>, pong: &Pong) -> Advice {
    match PeerStatus::from_raw(pong.status) {
        Some(PeerStatus::Normal) => Advice::View(frame.header().view()),
        Some(PeerStatus::Blank | PeerStatus::Recovering | PeerStatus::Halted) => Advice::Rotate,
        Some(PeerStatus::ViewChange) | None => Advice::None,
    }
}

/// Whether a rejection's reason has to do with the state of the replica that sent it.
pub(super) const fn is_about_replica(reason: RejectReason) -> bool {
    matches!(reason, RejectReason::NotPrimary | RejectReason::NotReady)
}

/// The cluster before any replica was reached.
pub(super) const NO_CLUSTER: ClusterId = ClusterId::ZERO;
