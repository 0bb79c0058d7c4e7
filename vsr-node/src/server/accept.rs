//! Tasks that make connections: the listener's, and one for each peer that this replica dials.
//!
//! Of every pair the replica with the higher number dials. A connection costs next to nothing until
//! it has shaken hands: 128 bytes, one task, a deadline, and a bound on how many there are.
//!
//! A replica that was killed and comes back finds its link free: its system has closed the old
//! connection. If a link is taken by another process than the one that connects, its holder is asked
//! for a sign. A holder that answers keeps the link, or a second process, started for the same replica
//! by mistake, would cut the first one off again and again; one that does not (its machine is gone, and
//! no system is left to close the connection) loses it after [`SIGN_OF_LIFE`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tokio::time::{Instant, timeout_at};
use vsr_consensus::StateMachine;
use vsr_net::dial::{dial, hear_hello, prepare};
use vsr_net::handshake::{Caller, Refusal};
use vsr_net::{Backoff, Random};
use vsr_types::message::{LinkKind, RefuseReason};
use vsr_types::{MemberId, ReplicaIndex};

use super::Shared;
use super::links::Source;
use super::reader::{read_peer, read_place};

/// Between attempts to reach a peer. The longest wait is what a replica that comes back may lose, so it
/// is short: a refused connection costs some tens of microseconds.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(80));

/// How long the holder of a link may take to show that it is there: several round trips between
/// continents, and well below what a recovery takes.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

/// How long whoever is refused may take to read why.
const LINGER: Duration = Duration::from_millis(500);

/// The tasks of connections that have not shaken hands, in the order in which they came.
#[derive(Debug, Default)]
struct HalfOpen {
    tasks: RefCell<BTreeMap<u64, AbortHandle>>,
}

impl HalfOpen {
    /// Ends the oldest if there are `most`; says whether it did.
    fn make_room(&self, most: usize) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let oldest = (tasks.len() >= most).then(|| tasks.pop_first()).flatten();
        drop(tasks);
        oldest.inspect(|(_, task)| task.abort()).is_some()
    }
}

/// Takes connections until the server stops.
pub(super) async fn listen<S: StateMachine + 'static>(
    shared: Rc<Shared<S>>,
    listener: TcpListener,
) {
    let half_open = Rc::new(HalfOpen::default());
    for number in 0.. {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others must close first.
                tracing::warn!(%error, "cannot take connections");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        shared.core.borrow_mut().links.counters.accepted += 1;
        if half_open.make_room(shared.half_open_max) {
            shared.core.borrow_mut().links.counters.half_open_refused += 1;
            // Whoever has said hello meanwhile is heard before the next one comes in.
            yield_now().await;
        }
        let (shared, tasks) = (Rc::clone(&shared), Rc::clone(&half_open));
        let task = spawn_local(async move {
            greet(&shared, stream).await;
            tasks.tasks.borrow_mut().remove(&number);
        });
        half_open
            .tasks
            .borrow_mut()
            .insert(number, task.abort_handle());
    }
}

/// The handshake with whoever connected.
async fn greet<S: StateMachine + 'static>(shared: &Rc<Shared<S>>, mut stream: TcpStream) {
    if prepare(&stream).is_err() {
        return;
    }
    let first = match hear_hello(&mut stream, shared.handshake_timeout).await {
        Ok(first) => first,
        Err(refusal) => {
            shared.core.borrow_mut().links.counters.hello_late += 1;
            if let Some(refusal) = refusal {
                say(stream, &refusal).await;
            }
            return;
        }
    };
    let judged = match judge(shared, &first) {
        Ok(caller) if caller.kind == LinkKind::Peer => contest(shared, caller).await,
        judged => judged,
    };
    match judged {
        Ok(caller) => welcome(shared, &caller, stream),
        Err(refusal) => {
            complain(shared, refusal);
            say(stream, &refusal).await;
        }
    }
}

/// Who is there; or why that one may not come in.
fn judge<S: StateMachine>(shared: &Shared<S>, first: &[u8]) -> Result<Caller, Refusal> {
    let core = shared.core.borrow();
    let caller = core.identity().judge_hello(first)?;
    if caller.kind == LinkKind::Peer || core.links.has_place(caller.kind) {
        return Ok(caller);
    }
    let places = core.links.places.len() as u64;
    Err(Refusal::new(
        RefuseReason::TooManyConnections,
        places,
        places + 1,
    ))
}

fn complain<S: StateMachine>(shared: &Shared<S>, refusal: Refusal) {
    let mut core = shared.core.borrow_mut();
    core.links.counters.hello_refused += 1;
    if let Some(suppressed) = core.links.complaints.allow() {
        tracing::warn!(%refusal, suppressed, "a connection was refused");
    }
}

/// Whether a peer may have the link: not while another process for the same replica has it and answers.
async fn contest<S: StateMachine>(shared: &Shared<S>, caller: Caller) -> Result<Caller, Refusal> {
    let Caller {
        replica,
        member,
        incarnation,
        ..
    } = caller;
    loop {
        let asked = Instant::now();
        let generation = {
            let mut core = shared.core.borrow_mut();
            if core.links.may_take(replica, member, incarnation) {
                return Ok(caller);
            }
            core.probe(replica)
        };
        shared.turn.raise();
        let sign = poll_fn(|cx| {
            loop {
                let core = shared.core.borrow();
                let holder = &core.links.peers[replica.as_usize()];
                if !holder.out.is_up() || holder.out.generation != generation {
                    return Poll::Ready(None);
                }
                if holder.heard > asked {
                    return Poll::Ready(Some(holder.life));
                }
                if holder.news.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        match timeout_at(asked + SIGN_OF_LIFE, sign).await {
            // Gone, or replaced by somebody else meanwhile.
            Ok(None) => {}
            Ok(Some(life)) => {
                shared.core.borrow_mut().links.counters.peers_twice += 1;
                let (theirs, ours) = (life.counter, incarnation.counter);
                return Err(Refusal::new(RefuseReason::StaleIncarnation, theirs, ours));
            }
            Err(_) => return Ok(caller),
        }
    }
}

/// Answers a good hello, and lets the connection in.
fn welcome<S: StateMachine + 'static>(shared: &Rc<Shared<S>>, caller: &Caller, stream: TcpStream) {
    let core = shared.core.borrow();
    let welcome = core.identity().welcome(caller, core.operation_size_max);
    drop(core);
    // 128 bytes into an empty socket go in one piece, or the other side is gone.
    let welcomed = stream.try_write(bytemuck::bytes_of(&welcome));
    if matches!(welcomed, Ok(vsr_types::HEADER_SIZE)) && !shared.is_stopping() {
        install(shared, caller, stream);
    }
}

/// Gives a connection that has shaken hands its place and its reader.
fn install<S: StateMachine + 'static>(shared: &Rc<Shared<S>>, caller: &Caller, stream: TcpStream) {
    if caller.kind == LinkKind::Peer {
        drop(open_peer(shared, caller.replica, caller.member, stream));
        return;
    }
    let (read, write) = stream.into_split();
    let mut core = shared.core.borrow_mut();
    let (place, generation) = core.links.open_place(caller.kind, write);
    core.clear_ingress(Source::Place { place, generation });
    let reader = spawn_local(read_place(Rc::clone(shared), place, generation, read));
    core.links.places[usize::from(place)].out.reader = Some(reader.abort_handle());
}

fn open_peer<S: StateMachine + 'static>(
    shared: &Rc<Shared<S>>,
    peer: ReplicaIndex,
    member: MemberId,
    stream: TcpStream,
) -> tokio::task::JoinHandle<()> {
    tracing::info!(%peer, "a link is up");
    let (read, write) = stream.into_split();
    let mut core = shared.core.borrow_mut();
    let generation = core.links.open_peer(peer, member, write);
    core.clear_ingress(Source::Peer(peer.raw()));
    let reader = spawn_local(read_peer(Rc::clone(shared), peer, generation, read));
    core.links.peers[peer.as_usize()].out.reader = Some(reader.abort_handle());
    reader
}

/// Says why, and gives the other side a moment to read it: closing at once, with bytes unread, would
/// make its system throw the reason away.
async fn say(mut stream: TcpStream, refusal: &Refusal) {
    let deadline = Instant::now() + LINGER;
    let goodbye = async {
        stream
            .write_all(bytemuck::bytes_of(&refusal.frame()))
            .await?;
        stream.shutdown().await?;
        // At most 64 KiB are taken off somebody who goes on talking.
        let mut sink = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut sink).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // Late or broken: nobody is left to tell.
    drop(timeout_at(deadline, goodbye).await);
}

/// Keeps a link to `peer`, which has a lower number, until the server stops.
pub(super) async fn keep_link<S: StateMachine + 'static>(
    shared: Rc<Shared<S>>,
    peer: ReplicaIndex,
    seed: u64,
) {
    let mut backoff = Backoff::new(DIAL_BACKOFF.0, DIAL_BACKOFF.1, Random::new(seed));
    loop {
        let (identity, address) = {
            let core = shared.core.borrow();
            (
                core.identity(),
                core.links.peers[peer.as_usize()].address.clone(),
            )
        };
        let within = shared.handshake_timeout;
        match dial(&address, &identity, LinkKind::Peer, Some(peer), within).await {
            Ok((stream, greeting)) => {
                let began = Instant::now();
                let member = greeting.header.member();
                // Ends when the link does; aborted when it is closed from here.
                drop(open_peer(&shared, peer, member, stream).await);
                if began.elapsed() > DIAL_BACKOFF.1 {
                    backoff.reset();
                }
            }
            Err(error) => {
                let mut core = shared.core.borrow_mut();
                core.links.counters.dials_failed += 1;
                let said = &mut core.links.peers[peer.as_usize()].last_error;
                let text = error.to_string();
                // The same sentence is worth saying once.
                if said.as_ref() != Some(&text) {
                    tracing::info!(%peer, error = text, "cannot reach a peer; trying on");
                    *said = Some(text);
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
