//! A replica that asserts must not take the report with it.
//!
//! Where panics unwind they become violations like any other. In a build in which they abort the
//! process, the seed is printed before it ends.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::panic;
use std::string::{String, ToString};
use std::sync::Once;
use std::thread_local;

use super::check::{Checked, Violation};

thread_local! {
    /// The seed that is being played on this thread.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

static HOOK: Once = Once::new();

fn install() {
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let Some(seed) = SEED.get() else {
                others(info);
                return;
            };
            MESSAGE.with_borrow_mut(|message| *message = info.to_string());
            if cfg!(panic = "abort") {
                std::eprintln!("seed {seed}: vsr-cli sim --seed {seed} plays it again");
                others(info);
            }
        }));
    });
}

/// Plays, and turns a panic into a violation.
pub(crate) fn catch(seed: u64, play: impl FnOnce() -> Checked) -> Checked {
    install();
    SEED.set(Some(seed));
    // What was being changed when it panicked is only looked at, never played on.
    let played = panic::catch_unwind(panic::AssertUnwindSafe(play));
    SEED.set(None);
    played.unwrap_or_else(|_| {
        Err(Violation {
            rule: "no replica breaks its own invariants",
            text: MESSAGE.with_borrow(Clone::clone),
        })
    })
}
