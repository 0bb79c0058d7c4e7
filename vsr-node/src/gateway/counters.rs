//! What the gateway counts, for metrics and `INFO`.

use vsr_types::message::RejectReason;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the gateway's counters. All but `connected_clients` only grow, until
        /// `CONFIG RESETSTAT`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct GatewayCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl GatewayCounters {
            /// Names and values, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections open now.
    connected_clients,
    /// Connections accepted.
    connections,
    /// Connections turned away because all were taken.
    connections_refused,
    /// Connections closed because the client did not read, or left a command unfinished.
    connections_timed_out,
    /// Connections closed because there was no memory for a reply.
    connections_overrun,
    /// Connections closed for sending what is not RESP.
    protocol_errors,
    /// Bytes read from clients.
    input_bytes,
    /// Bytes written to clients.
    output_bytes,
    /// Commands received, of any kind.
    received_commands,
    /// Commands answered by the cluster.
    commands,
    /// Commands answered here.
    local_commands,
    /// Commands answered from this replica's possibly stale state (`READONLY`).
    stale_reads,
    /// Commands answered with an error because the cluster did not.
    failed_commands,
    /// Wrong passwords.
    failed_logins,
    /// Transactions sent.
    transactions,
    /// Sessions registered.
    registers,
    /// Sessions lost.
    sessions_lost,
    /// Requests made, not counting retries.
    requests,
    /// Bytes of requests sent, retries included.
    request_bytes,
    /// Queries made, not counting retries.
    queries,
    /// Requests and queries sent again.
    retries,
    /// Requests and queries that the replica would not take.
    unsent,
    /// Requests and queries given up because the client timeout was over.
    timeouts,
    /// Operations executed in part, the rest sent again.
    split_operations,
    /// Answers to nothing that is in flight.
    stale_answers,
    /// Rejects because queues were full.
    rejected_busy,
    /// Rejects for other reasons.
    rejected_other,
    /// Times that a connection had to wait for room in its lane.
    lane_stalls,
    /// Times that a connection had to wait for memory.
    memory_stalls,
}

impl GatewayCounters {
    pub(super) const fn count_reject(&mut self, reason: Option<RejectReason>) {
        match reason {
            Some(RejectReason::Busy) => self.rejected_busy += 1,
            _ => self.rejected_other += 1,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self {
            connected_clients: self.connected_clients,
            ..Self::default()
        };
    }
}
