//! Tasks that make connections: the listener's, and one for each peer that this replica dials.
//!
//! Of every pair the replica with the higher number dials. A connection costs next to nothing until
//! it has shaken hands: 128 bytes, one task, a deadline, and a bound on how many there are.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};
use vsr_consensus::StateMachine;
use vsr_net::dial::{dial, hear_hello, prepare};
use vsr_net::handshake::{Caller, Refusal};
use vsr_net::{Backoff, Random};
use vsr_types::message::{LinkKind, RefuseReason};
use vsr_types::{Header, ReplicaIndex};

use super::Shared;
use super::links::Source;
use super::reader::{read_peer, read_place};

/// Between attempts to reach a peer: soon after it went away, and never so often that it hurts.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long whoever is refused may take to read why.
const LINGER: Duration = Duration::from_millis(500);

/// Takes connections until the server stops.
pub(super) async fn listen<S: StateMachine + 'static>(
    shared: Rc<Shared<S>>,
    listener: TcpListener,
) {
    let half_open = Rc::new(Cell::new(0_usize));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others must close first.
                tracing::warn!(%error, "cannot take connections");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let mut core = shared.core.borrow_mut();
        core.links.counters.accepted += 1;
        let most = shared.half_open_max;
        if half_open.get() >= most {
            core.links.counters.half_open_refused += 1;
            let refusal = Refusal::new(
                RefuseReason::TooManyConnections,
                most as u64,
                most as u64 + 1,
            );
            // What the socket takes at once, and not a byte more.
            drop(stream.try_write(bytemuck::bytes_of(&refusal.frame())));
            continue;
        }
        drop(core);
        half_open.set(half_open.get() + 1);
        let (shared, half_open) = (Rc::clone(&shared), Rc::clone(&half_open));
        spawn_local(async move {
            greet(&shared, stream).await;
            half_open.set(half_open.get() - 1);
        });
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
                say(stream, &refusal.frame()).await;
            }
            return;
        }
    };
    match judge(shared, &first) {
        Ok((caller, welcome)) => {
            // 128 bytes into an empty socket go in one piece, or the other side is gone.
            let welcomed = stream.try_write(bytemuck::bytes_of(&welcome));
            if matches!(welcomed, Ok(vsr_types::HEADER_SIZE)) && !shared.is_stopping() {
                let hello: Header = bytemuck::pod_read_unaligned(&first);
                install(shared, &caller, &hello, stream);
            }
        }
        Err(refusal) => say(stream, &refusal.frame()).await,
    }
}

/// Who is there, and the welcome; or why not.
fn judge<S: StateMachine>(shared: &Shared<S>, first: &[u8]) -> Result<(Caller, Header), Refusal> {
    let mut core = shared.core.borrow_mut();
    let identity = core.identity();
    let judged = identity
        .judge_hello(first, &core.links.newest)
        .and_then(|caller| {
            let places = core.links.places.len() as u64;
            if caller.kind == LinkKind::Peer || core.links.has_place() {
                Ok(caller)
            } else {
                Err(Refusal::new(
                    RefuseReason::TooManyConnections,
                    places,
                    places + 1,
                ))
            }
        });
    match judged {
        Ok(caller) => Ok((caller, identity.welcome(&caller, core.operation_size_max))),
        Err(refusal) => {
            core.links.counters.hello_refused += 1;
            if let Some(suppressed) = core.links.complaints.allow() {
                tracing::warn!(%refusal, suppressed, "a connection was refused");
            }
            Err(refusal)
        }
    }
}

/// Gives a connection that has shaken hands its place and its reader.
fn install<S: StateMachine + 'static>(
    shared: &Rc<Shared<S>>,
    caller: &Caller,
    hello: &Header,
    stream: TcpStream,
) {
    if caller.kind == LinkKind::Peer {
        shared.core.borrow_mut().saw_peer(caller.replica, hello);
        drop(open_peer(shared, caller.replica, stream));
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
    stream: TcpStream,
) -> tokio::task::JoinHandle<()> {
    tracing::info!(%peer, "a link is up");
    let (read, write) = stream.into_split();
    let mut core = shared.core.borrow_mut();
    let generation = core.links.open_peer(peer, write);
    core.clear_ingress(Source::Peer(peer.raw()));
    let reader = spawn_local(read_peer(Rc::clone(shared), peer, generation, read));
    core.links.peers[peer.as_usize()].out.reader = Some(reader.abort_handle());
    reader
}

/// Says why, and gives the other side a moment to read it: closing at once, with bytes unread, would
/// make its system throw the reason away.
async fn say(mut stream: TcpStream, refusal: &Header) {
    let deadline = Instant::now() + LINGER;
    let goodbye = async {
        stream.write_all(bytemuck::bytes_of(refusal)).await?;
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
                shared.core.borrow_mut().saw_peer(peer, &greeting.header);
                let began = Instant::now();
                // Ends when the link does; aborted when it is closed from here.
                drop(open_peer(&shared, peer, stream).await);
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
