//! What can go wrong for a caller, and whether the operation may have been executed all the same.

use std::time::Duration;

use vsr_types::ClusterId;

use crate::handshake::Refusal;

/// Why an operation or query has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No answer in time. If the operation was sent, nobody knows yet whether it is executed.
    #[error(
        "no answer within {after:?}; {}",
        if *.sent { "the operation was sent, and may or may not be executed" }
        else { "the operation was not sent" }
    )]
    Timeout {
        /// How long we waited.
        after: Duration,
        /// Whether it left this process.
        sent: bool,
    },
    /// The cluster forgot the session, because too many newer ones were opened. Whether the last
    /// operation was executed is not known, and repeating it could execute it twice (R1.6).
    #[error(
        "the cluster has forgotten this session because others needed its place; whether the \
         operation was executed is not known. Raise --sessions on the replicas"
    )]
    Evicted,
    /// The state machine refuses the operation; it was not executed.
    #[error("the state machine refuses the operation (code {code})")]
    Malformed {
        /// The machine's own code.
        code: u64,
    },
    /// The operation is larger than the cluster takes; it was not executed.
    #[error("the operation has {size} bytes, but the cluster takes at most {most}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The most that fits.
        most: usize,
    },
    /// The cluster has stopped accepting operations; it was not executed.
    #[error("the cluster has stopped accepting operations; see `vsr-cli status`")]
    Halted,
    /// A replica answered that this request number was used for something else: a bug in this client.
    #[error("a request number was used twice; this is a bug in the client")]
    RequestReused,
    /// All endpoints refuse to talk to us.
    #[error("{endpoint}: {refusal}")]
    Refused {
        /// The one that refused last.
        endpoint: String,
        /// Why.
        refusal: Refusal,
    },
    /// No endpoint could be reached, or none belongs to a cluster.
    #[error("no endpoint could be reached:{}", lines(.0))]
    Unreachable(Vec<(String, String)>),
    /// All endpoints refuse, and this one because it belongs to another cluster than before: the one we
    /// were talking to was lost and a new, empty one stands in its place (R7.2).
    #[error(
        "{endpoint} belongs to cluster {received}, but this client talks to cluster {expected}; \
         nothing of the old cluster's data can be assumed to be there"
    )]
    WrongCluster {
        /// The endpoint.
        endpoint: String,
        /// The cluster we were talking to.
        expected: ClusterId,
        /// The cluster of the endpoint.
        received: ClusterId,
    },
    /// The client's task has ended, with its runtime.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the operation may have been executed, or may still be. When all endpoints refuse it may
    /// have been sent before they began to.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Timeout { sent: true, .. }
                | Self::Evicted
                | Self::RequestReused
                | Self::Refused { .. }
                | Self::WrongCluster { .. }
                | Self::Closed
        )
    }
}

fn lines(items: &[(String, String)]) -> String {
    if items.is_empty() {
        return " none was given".to_owned();
    }
    items
        .iter()
        .map(|(endpoint, why)| format!("\n  {endpoint}: {why}"))
        .collect()
}
