//! The client's one connection: being dialled, up, or waiting for the next attempt.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use vsr_types::limits;

use crate::Ingress;
use crate::dial::DialError;
use crate::handshake::Greeting;

type Dial = Pin<Box<dyn Future<Output = Result<(TcpStream, Greeting), DialError>> + Send>>;

/// Where the connection stands.
pub(super) enum Link {
    /// Waiting until the next attempt is due.
    Down(Instant),
    /// An attempt is under way.
    Dialing(Dial),
    /// It can be used.
    Up(Up),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Down(_) => "Down",
            Self::Dialing(_) => "Dialing",
            Self::Up(_) => "Up",
        })
    }
}

/// A connection that has shaken hands.
#[derive(Debug)]
pub(super) struct Up {
    stream: TcpStream,
    pub(super) ingress: Ingress,
    unsent: Vec<u8>,
    written: usize,
    /// Whether the socket had no room at the last attempt to write.
    is_full: bool,
    /// When something last arrived, or the full socket took some more.
    moved: Instant,
}

/// What happened to the connection.
#[derive(Debug)]
pub(super) enum Event {
    /// It is time to dial.
    Due,
    /// An attempt ended.
    Dialed(Result<(TcpStream, Greeting), DialError>),
    /// Something is in [`Up::ingress`].
    Received,
    /// It broke.
    Broken(io::Error),
}

impl Link {
    /// The next event. Safe to cancel.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Down(at) => {
                sleep_until(*at).await;
                Event::Due
            }
            Self::Dialing(dial) => Event::Dialed(dial.await),
            Self::Up(up) => match up.next().await {
                Ok(()) => Event::Received,
                Err(error) => Event::Broken(error),
            },
        }
    }

    /// Appends bytes if the connection is up, and says whether it is.
    pub(super) fn queue(&mut self, bytes: &[u8]) -> bool {
        let Self::Up(up) = self else { return false };
        up.unsent.extend_from_slice(bytes);
        true
    }

    /// Whether bytes are waiting that the socket did not take yet: sending them once more would only
    /// make the queue longer.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Up(up) if up.is_full)
    }

    /// Whether nothing has moved over the connection for longer than `within`, in either direction. A
    /// large operation on its way is no silence, however long it takes.
    pub(super) fn is_stuck(&self, now: Instant, within: Duration) -> bool {
        matches!(self, Self::Up(up) if now.duration_since(up.moved) > within)
    }
}

impl Up {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ingress: Ingress::new(2 * limits::FRAME_SIZE_MAX, limits::FRAME_SIZE_MAX),
            unsent: Vec::new(),
            written: 0,
            is_full: false,
            moved: Instant::now(),
        }
    }

    async fn next(&mut self) -> io::Result<()> {
        loop {
            self.write()?;
            let interest = if self.unsent.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            self.stream.ready(interest).await?;
            if self.read()? {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> io::Result<bool> {
        let space = self.ingress.space();
        if space.is_empty() {
            // Cannot happen while frames are taken out after every event; and if it did, waiting
            // would not help.
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match self.stream.try_read(space) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.ingress.filled(count);
                self.moved = Instant::now();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.unsent.len() {
            match self.stream.try_write(&self.unsent[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    if self.is_full {
                        self.moved = Instant::now();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.written = 0;
        self.is_full = false;
        Ok(())
    }
}

/// A moment that never comes, for timers that are not armed.
pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
