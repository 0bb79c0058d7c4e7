//! One connection as a sequence of frames, for tools and benchmarks.
//!
//! The replica's own loop does not use this: it reads into and writes from buffers that it shares out
//! itself. Here one owner sends and receives, one frame at a time or several in a row.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vsr_types::message::LinkKind;
use vsr_types::{ClusterId, Frame, FrameError, Header, ReplicaIndex, limits};

use crate::Ingress;
use crate::dial::{DialError, dial};
use crate::handshake::{Greeting, Identity, Refusal};

/// A connection that has shaken hands.
#[derive(Debug)]
pub struct Connection {
    endpoint: String,
    stream: TcpStream,
    ingress: Ingress,
    greeting: Greeting,
    /// Frames must be of this cluster. Zero, and not looked at, for tools.
    cluster: ClusterId,
    unsent: Vec<u8>,
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It broke, or the other side closed it.
    #[error("{endpoint}: the connection broke: {source}")]
    Io {
        /// The other side.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// What arrived is no frame for us.
    #[error("{endpoint}: {error}")]
    Frame {
        /// The other side.
        endpoint: String,
        /// What is wrong with it.
        error: FrameError,
    },
    /// The other side said why it closes the connection.
    #[error("{endpoint}: {refusal}")]
    Refused {
        /// The other side.
        endpoint: String,
        /// Why.
        refusal: Refusal,
    },
}

impl Connection {
    /// Dials `endpoint` and shakes hands.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn open(
        endpoint: &str,
        identity: &Identity,
        kind: LinkKind,
        within: Duration,
    ) -> Result<Self, DialError> {
        let (stream, greeting) = dial(endpoint, identity, kind, None, within).await?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            stream,
            ingress: Ingress::new(2 * limits::FRAME_SIZE_MAX, limits::FRAME_SIZE_MAX),
            cluster: greeting.header.cluster(),
            greeting,
            unsent: Vec::new(),
        })
    }

    /// The other side's address as it was dialled.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What the other side said of itself.
    #[must_use]
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Which replica the other side is.
    #[must_use]
    pub const fn replica(&self) -> ReplicaIndex {
        self.greeting.header.replica()
    }

    /// The cluster of the other side; zero when it belonged to none at the handshake.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Appends a frame to what the next [`Self::flush`] sends.
    pub fn queue(&mut self, header: &Header, body: &[u8]) {
        self.unsent.extend_from_slice(bytemuck::bytes_of(header));
        self.unsent.extend_from_slice(body);
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<(), ConnectionError> {
        let result = self.stream.write_all(&self.unsent).await;
        self.unsent.clear();
        result.map_err(|source| self.broken(source))
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&mut self, header: &Header, body: &[u8]) -> Result<(), ConnectionError> {
        self.queue(header, body);
        self.flush().await
    }

    /// The next frame. Safe to cancel: nothing received is lost.
    ///
    /// # Errors
    /// When the connection broke, was refused, or sent what is no frame.
    pub async fn receive(&mut self) -> Result<Frame<'_>, ConnectionError> {
        let range = loop {
            match self.ingress.next_range() {
                Ok(Some(range)) => break range,
                Ok(None) => {}
                Err(error) => return Err(self.not_a_frame(error)),
            }
            match self.stream.read(self.ingress.space()).await {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.ingress.filled(count),
                Err(source) => return Err(self.broken(source)),
            }
        };
        let endpoint = &self.endpoint;
        let frame = Frame::parse(self.ingress.bytes(range), self.cluster).map_err(|error| {
            ConnectionError::Frame {
                endpoint: endpoint.clone(),
                error,
            }
        })?;
        if let Some(refuse) = frame.fields() {
            let refusal = Refusal::read(refuse);
            return Err(ConnectionError::Refused {
                endpoint: endpoint.clone(),
                refusal,
            });
        }
        Ok(frame)
    }

    fn broken(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Io {
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    fn not_a_frame(&self, error: FrameError) -> ConnectionError {
        ConnectionError::Frame {
            endpoint: self.endpoint.clone(),
            error,
        }
    }
}
