//! Tasks that read: one for each connection.
//!
//! Each waits for its socket, reads into the buffer in the core, and hands the frames to the replica
//! right there. After every visit the turn task is called; it runs behind all readers that are ready
//! now, so that what they cause leaves together.

use std::future::poll_fn;
use std::rc::Rc;

use tokio::net::tcp::OwnedReadHalf;
use vsr_consensus::{Outbox, StateMachine};
use vsr_types::ReplicaIndex;
use vsr_types::message::InspectTopic;

use super::Shared;
use super::core::Visit;
use super::links::Source;

/// Reads from a peer until the connection ends, and says why it did.
pub(super) async fn read_peer<S: StateMachine + 'static>(
    shared: Rc<Shared<S>>,
    peer: ReplicaIndex,
    generation: u32,
    mut socket: OwnedReadHalf,
) {
    let source = Source::Peer(peer.raw());
    let why = loop {
        match fill(&shared, source, generation, &mut socket).await {
            Ok(0) => break "the other side closed it".to_owned(),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
        if let Some(why) = handle_peer(&shared, peer, generation).await {
            break why;
        }
    };
    tracing::info!(%peer, %why, "a link ended");
    shared
        .core
        .borrow_mut()
        .links
        .close_peer(peer, generation, &why);
}

/// Handles all whole frames; says why if the connection must end.
async fn handle_peer<S: StateMachine>(
    shared: &Shared<S>,
    peer: ReplicaIndex,
    generation: u32,
) -> Option<String> {
    loop {
        let visit = shared.core.borrow_mut().visit_peer(peer, generation);
        shared.turn.raise();
        match visit {
            Visit::Done => return None,
            Visit::More => tokio::task::yield_now().await,
            Visit::Close(why) => return Some(why),
            Visit::Refuse(refusal) => return Some(refusal.to_string()),
            Visit::Congested | Visit::Inspect(_) => {
                unreachable!("peers are neither paused nor do they inspect")
            }
        }
    }
}

/// Reads from a client or tool until the connection ends.
pub(super) async fn read_place<S: StateMachine + 'static>(
    shared: Rc<Shared<S>>,
    place: u16,
    generation: u32,
    mut socket: OwnedReadHalf,
) {
    let source = Source::Place { place, generation };
    loop {
        match fill(&shared, source, generation, &mut socket).await {
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => break,
        }
        if !handle_place(&shared, place, generation).await {
            break;
        }
    }
    shared
        .core
        .borrow_mut()
        .links
        .close_place(place, generation);
}

/// Handles all whole frames; says whether the connection goes on.
async fn handle_place<S: StateMachine>(shared: &Shared<S>, place: u16, generation: u32) -> bool {
    let source = Source::Place { place, generation };
    loop {
        let visit = shared.core.borrow_mut().visit_place(place, generation);
        shared.turn.raise();
        match visit {
            Visit::Done => return true,
            Visit::More => tokio::task::yield_now().await,
            Visit::Congested => resumed(shared, place).await,
            Visit::Inspect(inspect) => {
                let answer = match InspectTopic::from_raw(inspect.topic) {
                    Some(topic) => shared.inspect(topic, inspect.argument),
                    None => Err(format!(r#"{{"error":"unknown topic {}"}}"#, inspect.topic)),
                };
                let mut core = shared.core.borrow_mut();
                core.answer_inspect(source, inspect.nonce, &answer);
            }
            Visit::Close(_) => return false,
            Visit::Refuse(refusal) => {
                tracing::info!(%refusal, "a client's connection is closed");
                let mut core = shared.core.borrow_mut();
                core.links.source = source;
                let _: vsr_consensus::Sent = core.links.sender(&refusal.frame(), &[]);
                core.links.flush();
                return false;
            }
        }
    }
}

async fn fill<S: StateMachine>(
    shared: &Shared<S>,
    source: Source,
    generation: u32,
    socket: &mut OwnedReadHalf,
) -> std::io::Result<usize> {
    poll_fn(|cx| {
        shared
            .core
            .borrow_mut()
            .poll_read(source, generation, socket, cx)
    })
    .await
}

/// Waits until the client has taken enough of what was sent to it.
async fn resumed<S: StateMachine>(shared: &Shared<S>, place: u16) {
    poll_fn(|cx| {
        let core = shared.core.borrow();
        core.links.places[usize::from(place)].resume.poll(cx)
    })
    .await;
}
