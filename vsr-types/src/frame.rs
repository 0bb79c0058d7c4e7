//! The door: bytes become a message here or nowhere.
//!
//! A [`Frame`] is evidence. Whoever holds one knows that the length fits, that the sender speaks our
//! version, that it means our cluster, and that both checksums were right. There is no other way to
//! make one, so no handler checks any of this again.
//!
//! Reading from a stream goes in two steps, so that no byte of a body is taken before its size is
//! known to be bounded: [`Frame::peek`] on the first 128 bytes says how long the frame is, then
//! [`Frame::parse`] on the whole.

use crate::{ClusterId, Command, HEADER_SIZE, Header, Message, Request, limits};

/// A message whose bytes were verified.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: Header,
    /// The header's, known since the frame was parsed.
    command: Command,
    body: &'a [u8],
}

/// Why bytes are not a message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header, or than the header says.
    Truncated,
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// The body's checksum is wrong.
    BodyChecksum,
    /// The size is below a header or above what is accepted.
    Size {
        /// What the header says.
        size: u32,
    },
    /// A protocol version we do not speak.
    Protocol {
        /// What the header says.
        protocol: u16,
    },
    /// A kind of message we do not know.
    Command {
        /// What the header says.
        command: u8,
    },
    /// Another cluster's message.
    Cluster,
    /// The envelope is damaged.
    Route,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the frame ends early"),
            Self::HeaderChecksum => f.write_str("the checksum over the frame's header is wrong"),
            Self::BodyChecksum => f.write_str("the checksum over the frame's body is wrong"),
            Self::Size { size } => write!(
                f,
                "a frame of {size} bytes: between {HEADER_SIZE} and {} are accepted",
                limits::FRAME_SIZE_MAX
            ),
            Self::Protocol { protocol } => write!(
                f,
                "protocol version {protocol}: this build speaks {} to {}",
                limits::PROTOCOL_MIN,
                limits::PROTOCOL
            ),
            Self::Command { command } => write!(f, "unknown kind of message {command}"),
            Self::Cluster => f.write_str("the frame belongs to another cluster"),
            Self::Route => f.write_str("the frame's route is damaged"),
        }
    }
}

impl core::error::Error for FrameError {}

impl<'a> Frame<'a> {
    /// How long the frame is that begins with `bytes`: none while fewer than a header are there.
    ///
    /// # Errors
    /// When the header is damaged, of another version, or longer than `size_max`: the stream cannot
    /// be followed any further.
    #[inline]
    pub fn peek(bytes: &[u8], size_max: usize) -> Result<Option<usize>, FrameError> {
        let Some(head) = bytes.get(..HEADER_SIZE) else {
            return Ok(None);
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
        check_header(&header, size_max)?;
        Ok(Some(header.size()))
    }

    /// The message in `bytes`, which must be exactly one frame. A message that belongs to a cluster
    /// must belong to `cluster`; see [`Command::is_outside_clusters`].
    ///
    /// # Errors
    /// When anything about the bytes is not as it must be.
    #[inline]
    pub fn parse(bytes: &'a [u8], cluster: ClusterId) -> Result<Self, FrameError> {
        let (head, body) = bytes
            .split_at_checked(HEADER_SIZE)
            .ok_or(FrameError::Truncated)?;
        let header: Header = bytemuck::pod_read_unaligned(head);
        check_header(&header, limits::FRAME_SIZE_MAX)?;
        if header.size() != bytes.len() {
            return Err(FrameError::Truncated);
        }
        let command = header.command().ok_or(FrameError::Command {
            command: header.command_raw(),
        })?;
        if header.cluster() != cluster && !command.is_outside_clusters() {
            return Err(FrameError::Cluster);
        }
        if header.route().is_none() {
            return Err(FrameError::Route);
        }
        if !header.covers(body) {
            return Err(FrameError::BodyChecksum);
        }
        Ok(Self {
            header,
            command,
            body,
        })
    }

    /// The header.
    #[must_use]
    #[inline]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The body.
    #[must_use]
    #[inline]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The kind of message.
    #[must_use]
    #[inline]
    pub const fn command(&self) -> Command {
        self.command
    }

    /// The fields, if the message is an `M`.
    #[must_use]
    #[inline]
    pub fn fields<M: Message>(&self) -> Option<&M> {
        self.header.fields()
    }

    /// The request in a [`Command::Request`]: its checksum was verified with the frame.
    #[must_use]
    #[inline]
    pub fn request(&self) -> Option<Request<'a>> {
        let is_request = self.command == Command::Request;
        is_request
            .then(|| Request::first_in(self.body))
            .flatten()
            .filter(|request| {
                // Nothing may follow the one request of a request frame.
                request.bytes().len() == self.body.len()
            })
    }
}

#[inline]
fn check_header(header: &Header, size_max: usize) -> Result<(), FrameError> {
    // The checksum first: nothing else in a damaged header means anything.
    if !header.is_intact() {
        return Err(FrameError::HeaderChecksum);
    }
    if header.protocol() < limits::PROTOCOL_MIN || header.protocol() > limits::PROTOCOL {
        return Err(FrameError::Protocol {
            protocol: header.protocol(),
        });
    }
    if header.size() < HEADER_SIZE || header.size() > size_max {
        return Err(FrameError::Size {
            size: header.size() as u32,
        });
    }
    Ok(())
}

impl Command {
    /// Whether the message makes sense before sender and receiver share a cluster: the handshake,
    /// pings (which tell a blank replica that its peers have one), recovery's first question and its
    /// answer, init and inspection.
    #[must_use]
    #[inline]
    pub const fn is_outside_clusters(self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::Welcome
                | Self::Refuse
                | Self::Ping
                | Self::Pong
                | Self::IncarnationQuery
                | Self::IncarnationReply
                | Self::InitPropose
                | Self::InitAck
                | Self::InitCommit
                | Self::InitResult
                | Self::HandOver
                | Self::HandOverResult
                | Self::GetImage
                | Self::Image
                | Self::PutImage
                | Self::PutImageResult
                | Self::Inspect
                | Self::InspectReply
                | Self::Reject
        )
    }
}

#[cfg(test)]
mod tests;
