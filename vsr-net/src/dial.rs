//! Opening a connection: resolve, connect, shake hands, all within one time-out.
//!
//! Names are resolved at every attempt, because a replica that comes back may have another address.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use vsr_types::message::{LinkKind, RefuseReason};
use vsr_types::{HEADER_SIZE, ReplicaIndex};

use crate::handshake::{Greeting, Identity, Refusal};

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name could not be resolved.
    #[error("{endpoint}: the name cannot be resolved: {source}")]
    Resolve {
        /// What was dialled.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// No address took the connection, or it broke before the handshake was done.
    #[error("{endpoint}: {source}")]
    Connect {
        /// What was dialled.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The other side did not answer in time.
    #[error("{endpoint}: no answer within {within:?}")]
    Timeout {
        /// What was dialled.
        endpoint: String,
        /// How long we waited.
        within: Duration,
    },
    /// The other side said no, or is not who we meant.
    #[error("{endpoint}: {refusal}")]
    Refused {
        /// What was dialled.
        endpoint: String,
        /// Why.
        refusal: Refusal,
    },
}

impl DialError {
    /// The refusal, when that is what it was.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }
}

/// Dials `endpoint` (`host:port`, the host being a name or an address) and shakes hands as `identity`.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(
    endpoint: &str,
    identity: &Identity,
    kind: LinkKind,
    target: Option<ReplicaIndex>,
    within: Duration,
) -> Result<(TcpStream, Greeting), DialError> {
    let attempt = attempt(endpoint, identity, kind, target);
    match timeout_at(Instant::now() + within, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout {
            endpoint: endpoint.to_owned(),
            within,
        }),
    }
}

async fn attempt(
    endpoint: &str,
    identity: &Identity,
    kind: LinkKind,
    target: Option<ReplicaIndex>,
) -> Result<(TcpStream, Greeting), DialError> {
    let broken = |source| DialError::Connect {
        endpoint: endpoint.to_owned(),
        source,
    };
    let mut stream = connect(endpoint).await?;
    let hello = identity.hello(kind, target);
    stream
        .write_all(bytemuck::bytes_of(&hello))
        .await
        .map_err(broken)?;
    let mut answer = [0; HEADER_SIZE];
    stream.read_exact(&mut answer).await.map_err(broken)?;
    match identity.judge_answer(&answer, target) {
        Ok(greeting) => Ok((stream, greeting)),
        Err(refusal) => Err(DialError::Refused {
            endpoint: endpoint.to_owned(),
            refusal,
        }),
    }
}

async fn connect(endpoint: &str) -> Result<TcpStream, DialError> {
    let addresses =
        tokio::net::lookup_host(endpoint)
            .await
            .map_err(|source| DialError::Resolve {
                endpoint: endpoint.to_owned(),
                source,
            })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => match prepare(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => last = error,
            },
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect {
        endpoint: endpoint.to_owned(),
        source: last,
    })
}

/// Options of every connection, dialled or accepted: frames leave when they are written, because the
/// sender has gathered them already, and a machine that vanished is noticed within about 20 seconds,
/// so that dead clients do not take up places for ever.
///
/// # Errors
/// When the operating system refuses.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(3))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Reads the first frame of a connection that somebody opened to us: exactly one header, and in time.
/// What follows stays in the socket.
///
/// # Errors
/// The refusal to answer with; none when the caller is gone and nobody would hear it.
pub async fn hear_hello(
    stream: &mut (impl AsyncRead + Unpin),
    within: Duration,
) -> Result<[u8; HEADER_SIZE], Option<Refusal>> {
    let mut first = [0; HEADER_SIZE];
    match timeout_at(Instant::now() + within, stream.read_exact(&mut first)).await {
        Ok(Ok(_)) => Ok(first),
        Ok(Err(_)) => Err(None),
        Err(_) => {
            let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            Err(Some(Refusal::new(RefuseReason::NoHello, within, 0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn client() -> Identity {
        Identity::of_client(None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_half_open_connection_is_refused_at_the_deadline() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(&[0; 100]).await.expect("room");
        let before = Instant::now();
        let refused = hear_hello(&mut near, Duration::from_secs(2)).await;
        assert_eq!(
            refused.expect_err("late").expect("told").reason,
            RefuseReason::NoHello
        );
        assert_eq!(before.elapsed(), Duration::from_secs(2));
        drop(far);
        assert_eq!(
            hear_hello(&mut near, Duration::from_secs(2)).await,
            Err(None),
            "gone"
        );
    }

    #[tokio::test]
    async fn what_follows_the_hello_stays_in_the_socket() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(&[7; HEADER_SIZE + 3]).await.expect("room");
        let first = hear_hello(&mut near, Duration::from_secs(2)).await;
        assert_eq!(first, Ok([7; HEADER_SIZE]));
        let mut rest = [0; 3];
        near.read_exact(&mut rest).await.expect("there");
        assert_eq!(rest, [7; 3]);
    }

    #[tokio::test]
    async fn nobody_there_and_no_such_name_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let within = Duration::from_secs(5);
        let error = dial(&address, &client(), LinkKind::Client, None, within).await;
        assert!(matches!(error, Err(DialError::Connect { .. })), "{error:?}");
        let error = dial("no port at all", &client(), LinkKind::Client, None, within).await;
        assert!(matches!(error, Err(DialError::Resolve { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn an_acceptor_that_says_nothing_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let within = Duration::from_millis(20);
        let error = dial(&address, &client(), LinkKind::Client, None, within).await;
        assert!(matches!(error, Err(DialError::Timeout { .. })), "{error:?}");
    }
}
