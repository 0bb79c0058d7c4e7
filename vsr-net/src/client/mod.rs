//! The native client: every operation executed exactly once, whatever happens in between.
//!
//! A [`Client`] is a cheap handle; one task behind it owns the connection and the sessions. A session
//! has one request in flight (R1.1), so concurrent calls of [`Client::execute`] use different
//! sessions, up to [`ClientOptions::sessions`]; further calls wait for one to become free. Sessions
//! are registered when they are first needed. A request is sent again, byte for byte the same, until
//! it is answered: the replicas' reply table makes that harmless.
//!
//! ```no_run
//! # async fn example() -> Result<(), vsr_net::ClientError> {
//! use vsr_net::{Client, ClientOptions};
//! let endpoints = ["a:7000", "b:7000", "c:7000"];
//! let client = Client::connect(&endpoints, ClientOptions::default()).await?;
//! let reply = client.execute(b"an operation of your state machine").await?;
//! println!("{:?} at op {}", reply.body, reply.op);
//! # Ok(()) }
//! ```
//!
//! Where to read next: `driver` for the task, `session` for the numbers (R1.*), `flight` for
//! retries (R13).

mod driver;
mod error;
mod flight;
mod link;
mod session;
mod table;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vsr_types::message::InspectTopic;
use vsr_types::{ClusterId, Op, View};

pub use error::ClientError;

use crate::tool::{Tool, ToolError};
use driver::Driver;
use flight::Job;

/// The most sessions of one client: a session's place in the client's table is part of its id.
pub const SESSIONS_MAX: usize = 4096;
/// The most queries of one client in flight; further ones wait.
pub const QUERIES_MAX: usize = 1024;

/// What a client may choose.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster's name, so that an endpoint of another cluster is noticed; none: any.
    pub cluster_name: Option<String>,
    /// How many operations may be in flight: one for each session. 1 to [`SESSIONS_MAX`].
    pub sessions: usize,
    /// How long [`Client::connect`] tries.
    pub connect_timeout: Duration,
    /// How long one attempt to reach one endpoint may take.
    pub dial_timeout: Duration,
    /// How long an operation or query is tried before the caller hears of it.
    pub timeout: Duration,
    /// How long to wait for an answer before sending the same bytes again; doubles each time.
    pub retry_min: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            cluster_name: None,
            // Enough for a process with a few callers; a load generator asks for more.
            sessions: 16,
            connect_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(1),
            // Well beyond a change of view; shorter than people's patience.
            timeout: Duration::from_secs(30),
            // Above the view time-out's default, so that an ordinary change of view costs one retry.
            retry_min: Duration::from_millis(150),
            retry_max: Duration::from_secs(2),
        }
    }
}

/// The answer to an operation or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the state machine answered.
    pub body: Vec<u8>,
    /// Of an operation: its place in the log. Of a query: the last op whose effects it shows.
    pub op: Op,
    /// The place of an operation in its batch.
    pub index: u32,
    /// The view in which the answer was given.
    pub view: View,
}

/// A handle to a cluster. Clones share connection and sessions.
#[derive(Clone, Debug)]
pub struct Client {
    jobs: mpsc::Sender<Job>,
    options: ClientOptions,
    cluster: ClusterId,
    operation_size_max: usize,
}

/// What the driver knows once it has reached a replica of a cluster.
#[derive(Clone, Copy, Debug)]
struct Ready {
    cluster: ClusterId,
    operation_size_max: usize,
}

impl Client {
    /// Reaches any of `endpoints` that belongs to a cluster. Must be called inside a tokio runtime,
    /// on which the client's task then runs.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no endpoint could be reached in time,
    /// [`ClientError::Refused`] when all refuse.
    pub async fn connect<S: AsRef<str>>(
        endpoints: &[S],
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        if endpoints.is_empty() {
            return Err(ClientError::Unreachable(Vec::new()));
        }
        let endpoints = endpoints
            .iter()
            .map(|endpoint| endpoint.as_ref().to_owned())
            .collect();
        let (jobs, receiver) = mpsc::channel(driver::WAITING_MAX);
        let (ready, is_ready) = oneshot::channel();
        let driver = Driver::new(endpoints, options.clone(), receiver, ready);
        tokio::spawn(driver.run());
        let Ready {
            cluster,
            operation_size_max,
        } = is_ready.await.unwrap_or(Err(ClientError::Closed))?;
        Ok(Self {
            jobs,
            options,
            cluster,
            operation_size_max,
        })
    }

    /// The cluster this client talks to, for as long as it lives (R7.2).
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The largest operation the cluster takes, in bytes.
    #[must_use]
    pub const fn operation_size_max(&self) -> usize {
        self.operation_size_max
    }

    /// Executes `operation` exactly once and returns its reply. Dropping the future abandons the
    /// answer, not the operation.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::is_outcome_unknown`] says whether the operation may have
    /// been executed all the same.
    pub async fn execute(&self, operation: &[u8]) -> Result<Reply, ClientError> {
        self.submit(operation, false).await
    }

    /// Answers `query` from the state after everything that was acknowledged to anybody before this
    /// call: linearizable, and not in the log.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn query(&self, query: &[u8]) -> Result<Reply, ClientError> {
        self.submit(query, true).await
    }

    async fn submit(&self, bytes: &[u8], is_query: bool) -> Result<Reply, ClientError> {
        if bytes.len() > self.operation_size_max {
            return Err(ClientError::TooLarge {
                size: bytes.len(),
                most: self.operation_size_max,
            });
        }
        let (answer, is_answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.timeout;
        let job = Job {
            bytes: bytes.to_vec(),
            is_query,
            answer,
            deadline,
        };
        self.jobs.send(job).await.map_err(|_| ClientError::Closed)?;
        is_answered.await.unwrap_or(Err(ClientError::Closed))
    }

    /// Asks the replica at `endpoint` about itself, over a connection of its own; see
    /// [`Tool::inspect`].
    ///
    /// # Errors
    /// See [`ToolError`].
    pub async fn inspect(
        &self,
        endpoint: &str,
        topic: InspectTopic,
        argument: u64,
    ) -> Result<String, ToolError> {
        let name = self.options.cluster_name.as_deref();
        let mut tool = Tool::connect(endpoint, name, self.options.dial_timeout).await?;
        tool.inspect(topic, argument).await
    }
}
