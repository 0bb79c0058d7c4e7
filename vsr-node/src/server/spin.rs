//! Looking for more for a moment before sleeping.
//!
//! A request of a lone client passes four processes, one after the other, and each sleeps while the
//! others work. Waking a core that has gone idle takes several times as long as the work does, so most
//! of such a client's latency is waking up. After each turn this task keeps the loop awake for some
//! tens of microseconds: it looks for what is ready, and in between offers the core to whoever else
//! wants it, so that it costs others little. Under load there is always something ready and it never
//! gets to spin; without load it spins for a moment at every heartbeat.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Shared;

/// Runs until it is aborted.
pub(super) async fn run<S>(shared: Rc<Shared<S>>, spin: Duration) {
    loop {
        poll_fn(|cx| shared.spin.poll(cx)).await;
        let mut turns = shared.turns.get();
        let mut until = Instant::now() + spin;
        loop {
            // The runtime looks at its sockets before it comes back here.
            tokio::task::yield_now().await;
            let now = Instant::now();
            if shared.turns.get() != turns {
                turns = shared.turns.get();
                until = now + spin;
            } else if now >= until {
                break;
            }
            std::thread::yield_now();
        }
    }
}
