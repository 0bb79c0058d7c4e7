//! The process harness: real processes, real sockets, real signals, and a network of ours in between.
//!
//! ```text
//!   callers --RESP--> proxy --+          +-- proxy <--peers
//!   client --native-> proxy --+-> R0..Rn +-- SIGKILL, SIGSTOP, partitions, bit flips, floods ..
//! ```
//!
//! Everything that the callers saw is kept and checked whole (`check`); everything that was done to the
//! cluster must have taken effect (`faults`). A failing run prints its seed; the schedule of faults is
//! drawn from it, the interleaving of processes is the machine's.
//!
//! `VSR_SEED` replays a seed, `VSR_HARNESS_SECONDS` and `VSR_HARNESS_OPS` make the storm longer,
//! `VSR_HARNESS_DIARY=1` prints every fault as it happens.

mod check;
mod cluster;
mod faults;
#[cfg(feature = "flip")]
mod flips;
mod process;
mod proxy;
mod resp;
mod summary;
mod work;

mod measure;
mod scenarios;
mod storm;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use faults::Powers;
use tokio::task::LocalSet;

/// What the product can do by now.
const POWERS: Powers = Powers {
    view_change: true,
    recovery: true,
    client_flips: true,
};

/// One at a time: they compete for the same cores, and some of them measure.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `test` with a seed, and says how to run it again when it fails.
fn run<F: Future<Output = ()>>(name: &str, limit: Duration, test: impl FnOnce(u64) -> F) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
    };
    let seed = setting("VSR_SEED").unwrap_or_else(fresh);
    let again = format!(
        "VSR_SEED={seed} cargo test -p vsr-node --test harness {name} -- --exact --nocapture"
    );
    summary::say(&format!("{name}: {again}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let result = catch_unwind(AssertUnwindSafe(|| {
        LocalSet::new().block_on(&runtime, async {
            let outcome = tokio::time::timeout(limit, test(seed)).await;
            assert!(outcome.is_ok(), "{name} did not end within {limit:?}");
        });
    }));
    if let Err(panic) = result {
        summary::say(&format!("{name} failed; again with: {again}"));
        resume_unwind(panic);
    }
}
