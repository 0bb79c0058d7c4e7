//! The gateway's sockets: the only file of it that does input and output.
//!
//! A task per connection waits for readiness and for nothing else. Replies do not wake it: they are
//! written by whoever brings them, with one `write` per connection, and only what the socket does not
//! take at once is left to the task. So a batch of replies for fifty connections costs fifty system
//! calls and no wake-up.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use vsr_types::memory::Level;
use vsr_types::{Frame, Instant};

use super::core::Core;
use super::{Cluster, GatewayCounters, GatewayOptions, Sink};

/// How often retries and time-outs are looked at while something is in flight.
const DEADLINE_STEP: Duration = Duration::from_millis(5);
/// How often connections are looked over for time-outs.
const SWEEP_STEP: Duration = Duration::from_secs(1);
/// The pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many pages are written at once.
const PIECES_MAX: usize = 64;

struct Socket {
    write: OwnedWriteHalf,
    /// The task, while it waits.
    waker: Cell<Option<Waker>>,
    /// Whether the task waits for bytes from the client.
    reading: Cell<bool>,
}

impl Socket {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What is kept here for each connection that may come, in bytes.
pub(super) const PER_CONNECTION: usize = size_of::<Option<Rc<Socket>>>();

struct Shared {
    core: RefCell<Core>,
    sockets: RefCell<Vec<Option<Rc<Socket>>>>,
    clock: tokio::time::Instant,
    /// There is something to send.
    turn: Notify,
    stopping: Cell<bool>,
}

/// The RESP port of a node, running on the current `LocalSet`.
#[derive(Clone)]
pub struct Gateway(Rc<Shared>);

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("core", &self.0.core)
            .finish_non_exhaustive()
    }
}

/// What is kept here for each lane, in bytes.
pub(super) const PER_LANE: usize = size_of::<LaneSink>() + 2 * size_of::<usize>();

struct LaneSink {
    shared: Weak<Shared>,
    lane: usize,
}

impl Sink for LaneSink {
    fn on_frame(&self, frame: &Frame<'_>) {
        if let Some(shared) = self.shared.upgrade() {
            shared
                .core
                .borrow_mut()
                .on_frame(self.lane, frame, shared.now());
            shared.flush_touched();
            shared.notify_if_needed();
        }
    }

    fn on_view(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.core.borrow_mut().on_view(self.lane, shared.now());
            shared.notify_if_needed();
        }
    }
}

/// Serves RESP clients on `listener` with `cluster` until the future is dropped or the gateway stops.
/// Must run on a `LocalSet`.
pub async fn serve(listener: TcpListener, cluster: Rc<dyn Cluster>, options: GatewayOptions) {
    Gateway::new(cluster, options).run(listener).await;
}

impl Gateway {
    /// A gateway that does not listen yet. Its buffers are allocated here.
    #[must_use]
    pub fn new(cluster: Rc<dyn Cluster>, options: GatewayOptions) -> Self {
        let clock = tokio::time::Instant::now();
        Self(Rc::new_cyclic(|shared: &Weak<Shared>| {
            let sink = |lane| -> Rc<dyn Sink> {
                Rc::new(LaneSink {
                    shared: shared.clone(),
                    lane,
                })
            };
            Shared {
                sockets: RefCell::new(Vec::with_capacity(options.clients_max)),
                core: RefCell::new(Core::new(options, cluster, sink, Instant::ZERO)),
                clock,
                turn: Notify::new(),
                stopping: Cell::new(false),
            }
        }))
    }

    /// How much of the memory of [`GatewayOptions::pools`] is used.
    #[must_use]
    pub fn levels(&self) -> Vec<Level> {
        self.0.core.borrow().levels()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> GatewayCounters {
        self.0.core.borrow().counters
    }

    /// Accepts no connection and no command any more; what is outstanding is still answered.
    pub fn stop(&self) {
        self.0.stopping.set(true);
        self.0.core.borrow_mut().close_all();
        self.0.flush_touched();
        for socket in self.0.sockets.borrow().iter().flatten() {
            socket.wake();
        }
        self.0.turn.notify_one();
    }

    /// Whether every connection is gone.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.core.borrow().counters.connected_clients == 0
    }

    /// Serves clients on `listener` until [`Self::stop`], and then until the last connection is gone.
    pub async fn run(&self, listener: TcpListener) {
        let sweeps = spawn_local(sweep(Rc::downgrade(&self.0)));
        let accepts = spawn_local(accept(Rc::clone(&self.0), listener));
        turns(&self.0).await;
        accepts.abort();
        sweeps.abort();
        self.0.core.borrow_mut().detach();
    }
}

/// Sends what the lanes have collected, after everything that was ready has been read: woken by the
/// first command, it runs behind all tasks that were ready before.
async fn turns(shared: &Rc<Shared>) {
    let timer = tokio::time::sleep(DEADLINE_STEP);
    let mut timer = std::pin::pin!(timer);
    loop {
        let in_flight = shared.core.borrow().next_deadline() != Instant::FAR_FUTURE;
        tokio::select! {
            biased;
            () = shared.turn.notified() => {}
            // Not armed for every turn: that would cost more than looking every few milliseconds.
            () = timer.as_mut(), if in_flight => {
                timer.as_mut().reset(tokio::time::Instant::now() + DEADLINE_STEP);
                let now = shared.now();
                let due = shared.core.borrow().next_deadline() <= now;
                if due {
                    shared.core.borrow_mut().deadline(now);
                }
            }
        }
        shared.core.borrow_mut().turn(shared.now());
        shared.flush_touched();
        if shared.stopping.get() && shared.core.borrow().counters.connected_clients == 0 {
            return;
        }
    }
}

async fn sweep(shared: Weak<Shared>) {
    let mut interval = tokio::time::interval(SWEEP_STEP);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let now = shared.now();
        shared.core.borrow_mut().sweep(now);
        // Tasks whose connection was closed notice when they are woken.
        for (slot, socket) in shared.sockets.borrow().iter().enumerate() {
            if let Some(socket) = socket
                && shared.core.borrow().interest(slot as u32).finished
            {
                socket.wake();
            }
        }
    }
}

/// One connection, from its first byte to its last.
async fn connection(shared: Rc<Shared>, slot: u32, socket: Rc<Socket>, mut read: OwnedReadHalf) {
    loop {
        let open = poll_fn(|cx| shared.poll_connection(slot, &socket, &mut read, cx)).await;
        if !open {
            break;
        }
        shared.flush_touched();
        shared.notify_if_needed();
    }
    shared.core.borrow_mut().closed(slot);
    shared.sockets.borrow_mut()[slot as usize] = None;
    // What it held may be what others wait for.
    shared.flush_touched();
    shared.notify_if_needed();
    if shared.stopping.get() {
        shared.turn.notify_one();
    }
}

async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    while !shared.stopping.get() {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let local = stream.local_addr().ok();
                // A delayed small write would cost every lone command 40 ms; if the socket will
                // not have it, it works all the same.
                stream.set_nodelay(true).ok();
                let slot = shared
                    .core
                    .borrow_mut()
                    .accept(Some(peer), local, shared.now());
                match slot {
                    Some(slot) => shared.open(slot, stream),
                    None => {
                        stream
                            .try_write(b"-ERR max number of clients reached\r\n")
                            .ok();
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn open(self: &Rc<Self>, slot: u32, stream: TcpStream) {
        let (read, write) = stream.into_split();
        let socket = Rc::new(Socket {
            write,
            waker: Cell::new(None),
            reading: Cell::new(false),
        });
        {
            let mut sockets = self.sockets.borrow_mut();
            if sockets.len() <= slot as usize {
                sockets.resize_with(slot as usize + 1, || None);
            }
            sockets[slot as usize] = Some(Rc::clone(&socket));
        }
        spawn_local(connection(Rc::clone(self), slot, socket, read));
    }

    /// Ready with true after something was done, with false when the connection is over.
    fn poll_connection(
        &self,
        slot: u32,
        socket: &Socket,
        read: &mut OwnedReadHalf,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let mut interest = self.core.borrow().interest(slot);
        while interest.write && !interest.finished {
            match socket.write.as_ref().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {
                    self.flush(slot, socket);
                    self.notify_if_needed();
                }
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => break,
            }
            interest = self.core.borrow().interest(slot);
        }
        if interest.finished {
            return Poll::Ready(false);
        }
        if interest.read {
            let mut core = self.core.borrow_mut();
            if let Some(space) = core.read_space(slot) {
                let mut buffer = ReadBuf::new(space);
                match Pin::new(read).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) => {
                        let count = buffer.filled().len();
                        core.received(slot, count, self.now());
                        return Poll::Ready(true);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => core.received_nothing(slot),
                }
            } else {
                interest.read = false;
            }
            if core.can_grant() {
                drop(core);
                self.flush_touched();
            }
        }
        socket.reading.set(interest.read);
        socket.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn socket(&self, slot: u32) -> Option<Rc<Socket>> {
        self.sockets.borrow().get(slot as usize).cloned().flatten()
    }

    /// Writes what all changed connections have to say.
    fn flush_touched(&self) {
        loop {
            let Some(slot) = self.core.borrow_mut().pop_touched() else {
                return;
            };
            if let Some(socket) = self.socket(slot) {
                self.flush(slot, &socket);
                // The task sleeps with the interest it had: writing done here may have changed it.
                let interest = self.core.borrow().interest(slot);
                if interest.finished || interest.write || (interest.read && !socket.reading.get()) {
                    socket.wake();
                }
            }
        }
    }

    /// Writes as much as the socket takes.
    fn flush(&self, slot: u32, socket: &Socket) {
        let mut core = self.core.borrow_mut();
        loop {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(core.unwritten(slot)) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            let written = match &pieces[..count] {
                [] => return,
                [one] => socket.write.try_write(one),
                many => socket.write.try_write_vectored(many),
            };
            match written {
                Ok(0) => return,
                Ok(count) => core.written(slot, count, self.now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return core.kill(slot),
            }
        }
    }

    fn notify_if_needed(&self) {
        if self.core.borrow().wants_turn() {
            self.turn.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
