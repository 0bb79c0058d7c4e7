//! The turn: what follows when all readers that were ready have been heard.
//!
//! Local clients get their answers and may ask for more; the replica does what is due, which closes
//! the batch that has gathered; everything that was sent leaves, one write for each connection. Then
//! one timer is set, for the replica's next deadline.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use vsr_consensus::{HaltReason, StateMachine};
use vsr_types::{Epoch, Frame, ReplicaIndex};

use super::core::addressee;
use super::{Shared, StopReason};

/// How often local clients may answer to answers before everybody else gets a turn.
const ROUNDS: usize = 4;

/// A link over which nothing comes for so long is closed: replicas ping each other many times a
/// second, so the other machine or the way to it is gone.
const LINK_SILENCE_MAX: Duration = Duration::from_secs(3);

/// How often links are looked at.
const LINK_CHECK: Duration = Duration::from_millis(500);

/// Runs turns until the server stops.
pub(super) async fn run<S: StateMachine + 'static>(shared: Rc<Shared<S>>) {
    let now = Instant::now();
    let mut timer = pin!(sleep_until(now));
    let armed = Cell::new(now);
    let check_at = Cell::new(now + LINK_CHECK);
    poll_fn(|cx| {
        if shared.is_stopping() {
            return Poll::Ready(());
        }
        // At most one turn per poll: whoever became ready through it comes first.
        let has_fired = timer.as_mut().poll(cx).is_ready();
        if is_called(&shared, cx) || has_fired {
            turn(&shared);
            if has_fired {
                on_timer(&shared, &check_at);
            }
            arm(&shared, timer.as_mut(), &armed, has_fired);
            // Registers this task with everything once more, behind those who are ready now.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

fn is_called<S: StateMachine>(shared: &Shared<S>, cx: &mut Context<'_>) -> bool {
    let is_raised = shared.turn.poll(cx).is_ready();
    let is_unblocked = shared.core.borrow_mut().links.poll_blocked(cx);
    is_raised || is_unblocked
}

fn turn<S: StateMachine>(shared: &Shared<S>) {
    shared.turns.set(shared.turns.get() + 1);
    shared.spin.raise();
    let mut is_more_due = false;
    for _ in 0..ROUNDS {
        deliver(shared);
        let mut core = shared.core.borrow_mut();
        is_more_due = core.step_deadlines();
        if is_more_due || core.links.inbox.is_empty() {
            break;
        }
    }
    let mut core = shared.core.borrow_mut();
    core.links.flush();
    note_archive(shared, core.replica.archive_due());
    if is_more_due || !core.links.inbox.is_empty() {
        shared.turn.raise();
    }
}

/// Tells whoever archives when there is something to archive, and when there is not any more (R10.4).
fn note_archive<S: StateMachine>(shared: &Shared<S>, due: Option<Epoch>) {
    let _: bool = shared.archive_due.send_if_modified(|told| {
        let is_new = *told != due;
        *told = due;
        is_new
    });
}

/// Hands local clients what is theirs, with nothing borrowed.
fn deliver<S: StateMachine>(shared: &Shared<S>) {
    let (cluster, taken) = {
        let mut core = shared.core.borrow_mut();
        (core.replica.cluster(), core.links.inbox.take())
    };
    let Some(mut delivery) = taken else { return };
    while let Some(bytes) = delivery.next_frame() {
        let Ok(frame) = Frame::parse(bytes, cluster) else {
            // Our own bytes, or a peer's that were good a moment ago: memory that lies.
            shared.core.borrow_mut().links.counters.frames_bad += 1;
            continue;
        };
        let Some(client) = addressee(&frame) else {
            continue;
        };
        let sink = shared.locals.borrow().get(&client).cloned();
        match sink {
            Some(sink) => sink.on_frame(&frame),
            None => shared.core.borrow_mut().links.counters.replies_unroutable += 1,
        }
    }
    shared.core.borrow_mut().links.inbox.give_back(delivery);
}

/// What need not be looked at in every turn.
fn on_timer<S: StateMachine>(shared: &Shared<S>, check_at: &Cell<Instant>) {
    let halted = shared.core.borrow().replica.report().halted;
    if let Some(
        reason @ (HaltReason::Divergence { .. } | HaltReason::Superseded | HaltReason::Memory),
    ) = halted
    {
        // Nothing this replica says can be trusted any more, or another process has its place (R0.2).
        // At the last op it still can be trusted (N22); and where no majority agrees its memory may be
        // the right one, so it is kept, for people to look at (N16).
        shared.stop(StopReason::Halted(reason));
    }
    announce_view(shared);
    let now = Instant::now();
    if now >= check_at.get() {
        // Whoever was stopped (SIGSTOP, a suspended machine) has heard nothing meanwhile, and what was
        // said waits in its sockets: it listens first.
        let has_slept = now.duration_since(check_at.get()) > LINK_CHECK;
        check_at.set(now + LINK_CHECK);
        if !has_slept {
            close_silent_links(shared, now);
        }
    }
}

/// Tells clients of a new view: what they have in flight may be lost with the primary before (R13).
fn announce_view<S: StateMachine>(shared: &Shared<S>) {
    let mut told = *shared.view_told.borrow();
    if !shared.core.borrow_mut().announce_view(&mut told) {
        return;
    }
    shared.view_told.send_replace(told);
    let sinks: Vec<_> = shared.locals.borrow().values().cloned().collect();
    for sink in sinks {
        sink.on_view(told);
    }
    shared.turn.raise();
}

fn close_silent_links<S: StateMachine>(shared: &Shared<S>, now: Instant) {
    let mut core = shared.core.borrow_mut();
    for at in 0..core.links.peers.len() {
        let peer = &core.links.peers[at];
        if peer.out.is_up() && now.duration_since(peer.heard) > LINK_SILENCE_MAX {
            let generation = peer.out.generation;
            let index = ReplicaIndex::new(at as u8);
            tracing::warn!(peer = %index, "nothing was heard for {LINK_SILENCE_MAX:?}");
            core.links.counters.links_silent += 1;
            core.links
                .close_peer(index, generation, "nothing was heard for long");
        }
    }
}

/// Sets the timer if it would ring too late. Ringing too early costs one look at the clock.
fn arm<S: StateMachine>(
    shared: &Shared<S>,
    timer: std::pin::Pin<&mut Sleep>,
    armed: &Cell<Instant>,
    has_fired: bool,
) {
    let core = shared.core.borrow();
    let next = core.clock.instant(core.replica.next_deadline());
    if has_fired || next < armed.get() {
        armed.set(next);
        timer.reset(next);
    }
}
