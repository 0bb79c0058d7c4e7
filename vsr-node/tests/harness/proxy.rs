//! The network between the processes: one proxy in front of every port, with a knob for every
//! direction of every link.
//!
//! ```text
//!   R2 --dials--> entry 0 of --peers = this proxy --> R0's real --listen address
//!        first frame: Hello, says "R2"     up: R2 -> R0, down: R0 -> R2
//! ```
//!
//! The peers list is part of what replicas compare in their handshake, so every process must be given
//! the same one. Therefore there is one proxy per *target*, and who is calling is read from the first
//! frame. One connection carries both directions of a pair; a fault in one direction is a fault in one
//! [`Wire`] of it.
//!
//! A blocked wire behaves as a network that loses everything: nothing is refused, nothing is closed,
//! what was sent arrives when the wire is free again, and new connections hang. Every wire counts what
//! it did, because a fault that never touched a byte proves nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};
use vsr_net::Random;
use vsr_types::message::{Hello, LinkKind};
use vsr_types::{ClusterId, Frame, HEADER_SIZE};

/// The most that waits inside the proxy in one direction, as in a socket's buffers.
const HELD_MAX: usize = 256 << 10;
/// The most that is read at once.
const CHUNK: usize = 64 << 10;
/// A throttled wire passes its bytes in pieces of this much time.
const PACE: Duration = Duration::from_millis(5);

/// One direction of a link: what shall happen to its bytes, and what has.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    blocked: Cell<bool>,
    delay: Cell<Duration>,
    jitter: Cell<Duration>,
    /// Bytes per second; 0: as fast as it goes.
    rate: Cell<u64>,
    flips_wanted: Cell<u64>,
    cut_wanted: Cell<bool>,
    inject_wanted: RefCell<Vec<u8>>,
    changed: Notify,
    /// Bytes that went through.
    pub(crate) passed: Cell<u64>,
    /// Times that bytes met a blocked wire.
    pub(crate) held: Cell<u64>,
    /// Bytes that waited for their delay.
    pub(crate) delayed: Cell<u64>,
    /// Bytes that were throttled.
    pub(crate) paced: Cell<u64>,
    /// Bits that were flipped.
    pub(crate) flipped: Cell<u64>,
    /// Streams that were ended in the middle.
    pub(crate) cut: Cell<u64>,
    /// Bytes of nonsense put into the stream.
    pub(crate) injected: Cell<u64>,
}

fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl Wire {
    pub(crate) fn block(&self, blocked: bool) {
        self.blocked.set(blocked);
        self.changed.notify_waiters();
    }

    pub(crate) fn slow_down(&self, delay: Duration, jitter: Duration) {
        self.delay.set(delay);
        self.jitter.set(jitter);
    }

    pub(crate) fn pace(&self, bytes_per_second: u64) {
        self.rate.set(bytes_per_second);
        self.changed.notify_waiters();
    }

    /// Flips one bit in each of the next `chunks` chunks.
    pub(crate) fn flip(&self, chunks: u64) {
        self.flips_wanted.set(chunks);
    }

    /// Ends the stream in the middle of the next chunk.
    pub(crate) fn cut(&self) {
        self.cut_wanted.set(true);
    }

    /// Puts `bytes` into the stream in front of the next chunk.
    pub(crate) fn inject(&self, bytes: Vec<u8>) {
        self.inject_wanted.replace(bytes);
    }

    /// Takes all faults away; counters stay.
    pub(crate) fn heal(&self) {
        self.slow_down(Duration::ZERO, Duration::ZERO);
        self.flips_wanted.set(0);
        self.cut_wanted.set(false);
        self.inject_wanted.take();
        self.pace(0);
        self.block(false);
    }

    async fn until_free(&self) {
        while self.blocked.get() {
            self.changed.notified().await;
        }
    }
}

/// Both directions between a caller and a target, and the connections that are up.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// From whoever dialled.
    pub(crate) up: Rc<Wire>,
    /// To whoever dialled.
    pub(crate) down: Rc<Wire>,
    connections: RefCell<Vec<Weak<Connection>>>,
    /// Connections that were made so far.
    pub(crate) made: Cell<u64>,
    /// Connections that were reset.
    pub(crate) reset: Cell<u64>,
    /// Connections whose one end was taken away without the other being told.
    pub(crate) halved: Cell<u64>,
    /// Those of them that the other end has closed since.
    pub(crate) halves_closed: Cell<u64>,
}

impl Link {
    fn live(&self) -> Vec<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there is a connection now.
    pub(crate) fn is_up(&self) -> bool {
        !self.live().is_empty()
    }

    /// Ends every connection as a machine that has lost its memory would: with a reset.
    pub(crate) fn reset(&self) -> u64 {
        self.order(End::Reset)
    }

    /// Resets the caller's side of every connection; the target is not told.
    pub(crate) fn halve(&self) -> u64 {
        self.order(End::Half)
    }

    fn order(&self, end: End) -> u64 {
        let live = self.live();
        for connection in &live {
            connection.end.set(Some(end));
            connection.ended.notify_one();
        }
        live.len() as u64
    }

    pub(crate) fn heal(&self) {
        self.up.heal();
        self.down.heal();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    Half,
}

#[derive(Debug, Default)]
struct Connection {
    end: Cell<Option<End>>,
    ended: Notify,
}

/// One port of one process, reached through this.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: String,
    target: RefCell<String>,
    /// By caller: the replicas, then everybody else.
    links: Vec<Rc<Link>>,
    task: RefCell<Option<AbortHandle>>,
    seed: Cell<u64>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Proxy {
    /// A proxy for a native port that `replicas` peers call besides clients and tools; for a port that
    /// only clients call, `replicas` is 0 and no first frame is looked at.
    pub(crate) async fn start(replicas: usize, seed: u64) -> io::Result<Rc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Rc::new(Self {
            address: listener.local_addr()?.to_string(),
            target: RefCell::default(),
            links: (0..=replicas).map(|_| Rc::default()).collect(),
            task: RefCell::default(),
            seed: Cell::new(seed),
        });
        let task = spawn_local(listen(Rc::downgrade(&proxy), listener));
        proxy.task.replace(Some(task.abort_handle()));
        Ok(proxy)
    }

    /// The process moved: connections from now on go to `address`.
    pub(crate) fn aim(&self, address: &str) {
        address.clone_into(&mut self.target.borrow_mut());
    }

    /// The link from replica `caller`.
    pub(crate) fn peer(&self, caller: usize) -> &Rc<Link> {
        assert!(caller + 1 < self.links.len(), "R{caller} is a replica");
        &self.links[caller]
    }

    /// The link from everybody who is no replica.
    pub(crate) fn clients(&self) -> &Rc<Link> {
        self.links.last().expect("there is always one")
    }

    pub(crate) fn links(&self) -> &[Rc<Link>] {
        &self.links
    }

    fn next_seed(&self) -> u64 {
        let mut random = Random::new(self.seed.get());
        self.seed.set(random.number());
        self.seed.get()
    }
}

async fn listen(proxy: Weak<Proxy>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let Some(proxy) = proxy.upgrade() else { return };
        spawn_local(serve(proxy, stream));
    }
}

/// A connection from its first byte to its end.
async fn serve(proxy: Rc<Proxy>, caller: TcpStream) {
    let mut first = Vec::new();
    let link = if proxy.links.len() == 1 {
        Rc::clone(proxy.clients())
    } else {
        let Some(index) = hear(&caller, &mut first, proxy.links.len() - 1).await else {
            return;
        };
        Rc::clone(&proxy.links[index])
    };
    // A connection needs both directions to come up.
    link.up.until_free().await;
    link.down.until_free().await;
    if !is_alive(&caller, &mut first) {
        return;
    }
    let target = proxy.target.borrow().clone();
    let Ok(address) = target.parse::<SocketAddr>() else {
        return;
    };
    let Ok(target) = TcpStream::connect(address).await else {
        // As if nobody listened there.
        drop(caller.set_zero_linger());
        return;
    };
    drop((caller.set_nodelay(true), target.set_nodelay(true)));
    let seeds = (proxy.next_seed(), proxy.next_seed());
    drop(proxy);
    add(&link.made, 1);
    let connection = Rc::new(Connection::default());
    link.connections
        .borrow_mut()
        .push(Rc::downgrade(&connection));
    carry(&link, &connection, (caller, target), first, seeds).await;
}

/// Reads the hello of whoever calls, and says which link that is.
async fn hear(caller: &TcpStream, first: &mut Vec<u8>, replicas: usize) -> Option<usize> {
    while first.len() < HEADER_SIZE {
        caller.readable().await.ok()?;
        let mut rest = [0; HEADER_SIZE];
        match caller.try_read(&mut rest[..HEADER_SIZE - first.len()]) {
            Ok(0) => return None,
            Ok(count) => first.extend_from_slice(&rest[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    let Ok(frame) = Frame::parse(first, ClusterId::ZERO) else {
        return Some(replicas);
    };
    let is_peer = frame
        .fields::<Hello>()
        .is_some_and(|hello| hello.kind == LinkKind::Peer as u8);
    let index = frame.header().replica().as_usize();
    Some(if is_peer && index < replicas {
        index
    } else {
        replicas
    })
}

/// Whether the caller still waits; what it sent meanwhile is added to `first`.
fn is_alive(caller: &TcpStream, first: &mut Vec<u8>) -> bool {
    let mut more = [0; 4096];
    loop {
        match caller.try_read(&mut more) {
            Ok(0) => return false,
            Ok(count) => first.extend_from_slice(&more[..count]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

async fn carry(
    link: &Link,
    connection: &Connection,
    (caller, target): (TcpStream, TcpStream),
    first: Vec<u8>,
    seeds: (u64, u64),
) {
    let (up, down) = (Lane::new(seeds.0), Lane::new(seeds.1));
    up.push(Instant::now(), first);
    let end = tokio::select! {
        () = up.carry(&link.up, &caller, &target) => None,
        () = down.carry(&link.down, &target, &caller) => None,
        () = connection.ended.notified() => connection.end.get(),
    };
    match end {
        None => {}
        Some(End::Reset) => {
            add(&link.reset, 1);
            drop((caller.set_zero_linger(), target.set_zero_linger()));
        }
        Some(End::Half) => {
            add(&link.halved, 1);
            drop(caller.set_zero_linger());
            drop(caller);
            until_closed(&target).await;
            add(&link.halves_closed, 1);
        }
    }
}

/// Reads and forgets until the other side is gone.
async fn until_closed(stream: &TcpStream) {
    let mut sink = [0; 4096];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut sink) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// One direction of one connection: what was read and not written yet.
#[derive(Debug)]
struct Lane {
    waiting: RefCell<VecDeque<(Instant, Vec<u8>)>>,
    size: Cell<usize>,
    is_over: Cell<bool>,
    pushed: Notify,
    popped: Notify,
    random: RefCell<Random>,
}

impl Lane {
    fn new(seed: u64) -> Self {
        Self {
            waiting: RefCell::default(),
            size: Cell::new(0),
            is_over: Cell::new(false),
            pushed: Notify::new(),
            popped: Notify::new(),
            random: RefCell::new(Random::new(seed)),
        }
    }

    fn push(&self, due: Instant, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.size.set(self.size.get() + bytes.len());
            self.waiting.borrow_mut().push_back((due, bytes));
            self.pushed.notify_one();
        }
    }

    /// Until the stream is over and everything of it was passed on, or the other side is gone.
    async fn carry(&self, wire: &Wire, from: &TcpStream, to: &TcpStream) {
        // Whoever ends first: the writer, after the last byte or when it cannot write.
        tokio::select! {
            () = self.read(wire, from) => {}
            () = self.write(wire, to) => {}
        }
    }

    async fn read(&self, wire: &Wire, from: &TcpStream) {
        let mut buffer = vec![0; CHUNK];
        let mut last_due = Instant::now();
        loop {
            while self.size.get() >= HELD_MAX {
                self.popped.notified().await;
            }
            let count = match from
                .readable()
                .await
                .and_then(|()| from.try_read(&mut buffer))
            {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let jitter = u64::try_from(wire.jitter.get().as_nanos()).unwrap_or(u64::MAX);
            let extra = Duration::from_nanos(self.random.borrow_mut().below(jitter));
            // TCP keeps the order, however much a packet is late.
            last_due = last_due.max(Instant::now() + wire.delay.get() + extra);
            self.push(last_due, buffer[..count].to_vec());
        }
        self.is_over.set(true);
        self.pushed.notify_one();
        // The writer still has something to do, and ends the connection when it is done.
        std::future::pending::<()>().await;
    }

    async fn write(&self, wire: &Wire, to: &TcpStream) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some((due, mut bytes)) = next else {
                if self.is_over.get() {
                    // A lost network does not say that the other side has hung up, either.
                    wire.until_free().await;
                    return;
                }
                self.pushed.notified().await;
                continue;
            };
            let size = bytes.len();
            if due > Instant::now() {
                add(&wire.delayed, size as u64);
                sleep_until(due).await;
            }
            if wire.blocked.get() {
                add(&wire.held, 1);
                wire.until_free().await;
            }
            let goes_on = self.spoil(wire, &mut bytes);
            if send(wire, to, &bytes).await.is_err() || !goes_on {
                return;
            }
            self.size.set(self.size.get() - size);
            self.popped.notify_one();
        }
    }

    /// Does to `bytes` what is wanted; false when the stream must end behind them.
    fn spoil(&self, wire: &Wire, bytes: &mut Vec<u8>) -> bool {
        let mut random = self.random.borrow_mut();
        if let Some(wanted) = wire.flips_wanted.get().checked_sub(1) {
            wire.flips_wanted.set(wanted);
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            add(&wire.flipped, 1);
        }
        let nonsense = wire.inject_wanted.take();
        if !nonsense.is_empty() {
            add(&wire.injected, nonsense.len() as u64);
            bytes.splice(0..0, nonsense);
        }
        if wire.cut_wanted.replace(false) {
            add(&wire.cut, 1);
            bytes.truncate(random.below(bytes.len() as u64) as usize);
            return false;
        }
        true
    }
}

async fn send(wire: &Wire, to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let rate = wire.rate.get();
        let most = if rate == 0 {
            bytes.len()
        } else {
            let piece = u128::from(rate) * PACE.as_millis() / 1000;
            let piece = usize::try_from(piece).unwrap_or(usize::MAX).max(1);
            add(&wire.paced, piece.min(bytes.len()) as u64);
            sleep(PACE).await;
            piece.min(bytes.len())
        };
        let piece = &bytes[..most];
        match to.try_write(piece) {
            Ok(count) => {
                add(&wire.passed, count as u64);
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    /// A proxy in front of somebody who sends back what it gets, and a connection through it.
    async fn echo() -> (Rc<Proxy>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(0, 3).await.unwrap();
        proxy.aim(&listener.local_addr().unwrap().to_string());
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                spawn_local(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let stream = TcpStream::connect(&proxy.address).await.unwrap();
        (proxy, stream)
    }

    async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            timeout(Duration::from_secs(20), test)
                .await
                .expect("in time");
        });
    }

    #[test]
    fn a_blocked_direction_keeps_what_it_got_and_hands_it_over_later() {
        run(async {
            let (proxy, mut stream) = echo().await;
            assert_eq!(exchange(&mut stream, b"one").await.unwrap(), b"one");
            let link = Rc::clone(proxy.clients());
            link.down.block(true);
            stream.write_all(b"two").await.unwrap();
            while link.down.held.get() == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!((link.up.passed.get(), link.down.passed.get()), (6, 3));
            link.heal();
            let mut back = [0; 3];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"two");
        });
    }

    #[test]
    fn every_fault_changes_the_stream_and_is_counted() {
        run(async {
            let (proxy, mut stream) = echo().await;
            let up = Rc::clone(&proxy.clients().up);
            let zeros = [0; 100];
            up.flip(1);
            let back = exchange(&mut stream, &zeros).await.unwrap();
            let ones: u32 = back.iter().map(|byte| byte.count_ones()).sum();
            assert_eq!((ones, up.flipped.get()), (1, 1));
            up.inject(b"nonsense".to_vec());
            assert_eq!(
                exchange(&mut stream, b"12345678").await.unwrap(),
                b"nonsense"
            );
            stream.read_exact(&mut [0; 8]).await.unwrap();
            assert_eq!(up.injected.get(), 8);
            up.slow_down(Duration::from_millis(30), Duration::ZERO);
            let began = Instant::now();
            exchange(&mut stream, b"12345678").await.unwrap();
            assert!(began.elapsed() >= Duration::from_millis(30));
            assert_eq!(up.delayed.get(), 8);
            up.slow_down(Duration::ZERO, Duration::ZERO);
            up.pace(20_000);
            let began = Instant::now();
            exchange(&mut stream, &[1; 2000]).await.unwrap();
            assert!(began.elapsed() >= Duration::from_millis(80), "20 KB/s");
            assert_eq!(up.paced.get(), 2000);
            up.pace(0);
            up.cut();
            assert!(exchange(&mut stream, &zeros).await.is_err());
            assert_eq!(up.cut.get(), 1);
        });
    }

    #[test]
    fn a_reset_is_seen_by_both_sides_and_a_half_by_one() {
        run(async {
            let (proxy, mut stream) = echo().await;
            exchange(&mut stream, b"one").await.unwrap();
            let link = Rc::clone(proxy.clients());
            assert_eq!(link.halve(), 1);
            assert!(stream.read_u8().await.is_err(), "our side is gone");
            assert_eq!((link.halved.get(), link.halves_closed.get()), (1, 0));
            let mut stream = TcpStream::connect(&proxy.address).await.unwrap();
            exchange(&mut stream, b"two").await.unwrap();
            link.reset();
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(link.made.get(), 2);
        });
    }
}
