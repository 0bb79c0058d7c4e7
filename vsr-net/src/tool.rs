//! What operators ask of a single replica: is it there, and how is it.
//!
//! Inspection is answered by the node, not through the log, so it works on a replica that is blank,
//! recovering or halted: those are the ones that people want to look at.

use std::time::Duration;

use bytemuck::Zeroable;
use tokio::time::{Instant, timeout_at};
use vsr_types::message::{
    HandOver, HandOverOutcome, HandOverResult, Inspect, InspectReply, InspectTopic, LinkKind,
    PeerStatus, Ping, Pong,
};
use vsr_types::{ClusterId, Frame, Header, Op, ReplicaIndex, View};

use crate::connection::{Connection, ConnectionError};
use crate::dial::DialError;
use crate::handshake::Identity;
use crate::random;

/// A tool's connection to one replica.
#[derive(Debug)]
pub struct Tool {
    connection: Connection,
    within: Duration,
}

/// Why a tool got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// No connection came about.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection is of no more use.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// No answer came in time.
    #[error("{endpoint}: no answer within {within:?}")]
    Timeout {
        /// Who was asked.
        endpoint: String,
        /// How long we waited.
        within: Duration,
    },
    /// The replica does not understand the question, or has no such thing.
    #[error("{endpoint}: {message}")]
    Answer {
        /// Who was asked.
        endpoint: String,
        /// What it said, as JSON.
        message: String,
    },
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// From before the ping was written until after its answer was read.
    pub round_trip: Duration,
    /// Who answered.
    pub replica: ReplicaIndex,
    /// Its cluster; zero while blank.
    pub cluster: ClusterId,
    /// The view it is in.
    pub view: View,
    /// Its status; none when this build does not know the number.
    pub status: Option<PeerStatus>,
    /// The last op it holds.
    pub op: Op,
    /// The last op it executed.
    pub applied: Op,
    /// The oldest op whose body it holds.
    pub tail: Op,
}

impl PingReport {
    fn read(header: &Header, pong: &Pong, round_trip: Duration) -> Self {
        Self {
            round_trip,
            replica: header.replica(),
            cluster: header.cluster(),
            view: header.view(),
            status: PeerStatus::from_raw(pong.status),
            op: pong.op,
            applied: pong.applied,
            tail: pong.tail,
        }
    }
}

impl Tool {
    /// Connects to the replica at `endpoint`, of the cluster named `cluster_name` if one is given.
    /// `within` bounds the dial and each question.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(
        endpoint: &str,
        cluster_name: Option<&str>,
        within: Duration,
    ) -> Result<Self, DialError> {
        let identity = Identity::of_client(cluster_name);
        let connection = Connection::open(endpoint, &identity, LinkKind::Tool, within).await?;
        Ok(Self { connection, within })
    }

    /// Which replica the other side is.
    #[must_use]
    pub const fn replica(&self) -> ReplicaIndex {
        self.connection.replica()
    }

    /// The connection, for messages that have no method here.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Asks about `topic` and returns the answer, a JSON document.
    ///
    /// # Errors
    /// See [`ToolError`].
    pub async fn inspect(
        &mut self,
        topic: InspectTopic,
        argument: u64,
    ) -> Result<String, ToolError> {
        let nonce = random::nonce();
        let question = Inspect {
            nonce,
            topic: topic as u32,
            argument,
            ..Inspect::zeroed()
        };
        let (good, json) = self
            .ask(Header::new(question), |frame, _| {
                let reply = frame
                    .fields::<InspectReply>()
                    .filter(|reply| reply.nonce == nonce)?;
                Some((
                    reply.error == 0,
                    String::from_utf8_lossy(frame.body()).into_owned(),
                ))
            })
            .await?;
        if good {
            Ok(json)
        } else {
            let endpoint = self.connection.endpoint().to_owned();
            Err(ToolError::Answer {
                endpoint,
                message: json,
            })
        }
    }

    /// One round trip to the replica's node.
    ///
    /// # Errors
    /// See [`ToolError`].
    pub async fn ping(&mut self) -> Result<PingReport, ToolError> {
        // The number only has to come back: it ties the answer to the question.
        let sent_ns = random::nonce().raw() as u64;
        let ping = Header::new(Ping {
            sent_ns,
            ..Ping::zeroed()
        });
        self.ask(ping, |frame, round_trip| {
            let pong = frame
                .fields::<Pong>()
                .filter(|pong| pong.sent_ns == sent_ns)?;
            Some(PingReport::read(frame.header(), pong, round_trip))
        })
        .await
    }

    /// Asks the primary to let replica `target` lead. Returns what became of it and the view that
    /// `target` is to start.
    ///
    /// # Errors
    /// See [`ToolError`].
    pub async fn hand_over(&mut self, target: u8) -> Result<(HandOverOutcome, u64), ToolError> {
        let nonce = random::nonce();
        let order = HandOver {
            nonce,
            target: u64::from(target),
            reserved: [0; 2],
        };
        self.ask(Header::new(order), |frame, _| {
            let result = frame
                .fields::<HandOverResult>()
                .filter(|result| result.nonce == nonce)?;
            let outcome = HandOverOutcome::from_raw(result.outcome)?;
            Some((outcome, result.view))
        })
        .await
    }

    /// Sends a question without a body and waits for the frame in which `answer` sees its answer.
    async fn ask<T>(
        &mut self,
        mut question: Header,
        mut answer: impl FnMut(&Frame<'_>, Duration) -> Option<T>,
    ) -> Result<T, ToolError> {
        question.seal(&[]);
        let began = Instant::now();
        let connection = &mut self.connection;
        let exchange = async {
            connection.send(&question, &[]).await?;
            loop {
                let frame = connection.receive().await?;
                if let Some(answer) = answer(&frame, began.elapsed()) {
                    return Ok(answer);
                }
            }
        };
        let result: Result<Result<T, ConnectionError>, _> =
            timeout_at(began + self.within, exchange).await;
        match result {
            Ok(result) => Ok(result?),
            Err(_) => {
                let endpoint = self.connection.endpoint().to_owned();
                Err(ToolError::Timeout {
                    endpoint,
                    within: self.within,
                })
            }
        }
    }
}
