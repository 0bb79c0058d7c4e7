//! What the server counts beside the replica: connections, and input that was no good.

use std::time::Duration;

use tokio::time::Instant;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Connections and bad input, counted since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct NetCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl NetCounters {
            /// All of them by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections taken from the listener.
    accepted,
    /// Connections closed before they had shaken hands, to make room for newer ones.
    half_open_refused,
    /// Connections that said no hello in time.
    hello_late,
    /// Hellos that were refused.
    hello_refused,
    /// Connections of a second process for a replica whose first one is connected and answers.
    peers_twice,
    /// Clients and tools that shook hands.
    clients_welcomed,
    /// Peers that shook hands, whoever dialled.
    peers_welcomed,
    /// Attempts to reach a peer that failed.
    dials_failed,
    /// Links to peers that ended.
    links_lost,
    /// Links closed because nothing was heard for long.
    links_silent,
    /// Frames received.
    frames_received,
    /// Bytes received from peers.
    peer_bytes_received,
    /// Frames that were damaged or of another cluster.
    frames_bad,
    /// Answers for clients from a life of a replica that has ended.
    frames_stale,
    /// Frames that this kind of connection may not send.
    frames_unexpected,
    /// Connections closed because the stream could not be followed any further.
    streams_lost,
    /// Replies and rejections whose client is not known here any more.
    replies_unroutable,
}

/// Lets one message through in a while and counts the others.
#[derive(Debug)]
pub(super) struct RateLimit {
    next: Instant,
    suppressed: u64,
}

/// At most one line per kind of trouble in this time.
const QUIET: Duration = Duration::from_secs(1);

impl RateLimit {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now(),
            suppressed: 0,
        }
    }

    /// Whether to say it now; if so, how often it was not said since the last time.
    pub(super) fn allow(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now < self.next {
            self.suppressed += 1;
            return None;
        }
        self.next = now + QUIET;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_and_the_rest_is_counted() {
        let mut limit = RateLimit::new();
        assert_eq!(limit.allow(), Some(0));
        assert_eq!(limit.allow(), None);
        assert_eq!(limit.allow(), None);
        tokio::time::advance(QUIET).await;
        assert_eq!(limit.allow(), Some(2));
        assert_eq!(limit.allow(), None);
    }

    #[test]
    fn every_counter_has_a_name() {
        let counters = NetCounters {
            streams_lost: 3,
            ..NetCounters::default()
        };
        assert_eq!(counters.iter().filter(|(_, count)| *count > 0).count(), 1);
        assert!(
            counters
                .iter()
                .any(|counter| counter == ("streams_lost", 3))
        );
    }
}
