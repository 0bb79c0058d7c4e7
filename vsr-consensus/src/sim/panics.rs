//! A replica that asserts must not take the report with it.
//!
//! Where panics unwind they become violations like any other. In a build in which they abort the
//! process, as release builds do, the rule, the seed and the line that plays it again are printed before
//! it ends: the assertion says what went wrong, and a build without optimization shows the rest.

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
    /// The line that plays it again.
    static REPLAY: RefCell<String> = const { RefCell::new(String::new()) };
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
                // This is the last thing that the process says.
                std::eprintln!(
                    "{}",
                    REPLAY.with_borrow(|line| words(seed, &info.to_string(), line))
                );
                others(info);
            }
        }));
    });
}

/// The rule that a panic breaks.
const RULE: &str = "no replica breaks its own invariants";

/// What can be said of a failure when the process ends with it: the beginning of what
/// [`super::Failure`] says otherwise.
fn words(seed: u64, message: &str, replay: &str) -> String {
    std::format!("seed {seed} breaks a rule\n  rule: {RULE}\n  what: {message}\nreplay: {replay}\n")
}

/// Plays, and turns a panic into a violation.
pub(crate) fn catch(seed: u64, play: impl FnOnce() -> Checked) -> Checked {
    catch_saying(seed, String::new(), play)
}

/// As [`catch`]; `replay` plays it again.
pub(crate) fn catch_saying(seed: u64, replay: String, play: impl FnOnce() -> Checked) -> Checked {
    install();
    SEED.set(Some(seed));
    REPLAY.set(replay);
    // What was being changed when it panicked is only looked at, never played on.
    let played = panic::catch_unwind(panic::AssertUnwindSafe(play));
    SEED.set(None);
    played.unwrap_or_else(|_| {
        Err(Violation {
            rule: RULE,
            text: MESSAGE.with_borrow(Clone::clone),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_violation_that_names_the_assertion() {
        let line = String::from("vsr-cli sim --seed 7");
        let caught = catch_saying(7, line, || std::panic!("an op was lost"));
        let violation = caught.expect_err("it panicked");
        assert_eq!(violation.rule, RULE);
        assert!(
            violation.text.contains("an op was lost"),
            "{}",
            violation.text
        );
        assert!(violation.text.contains("panics.rs"), "{}", violation.text);
    }

    #[test]
    fn where_panics_abort_the_last_words_say_how_to_play_it_again() {
        let said = words(
            7,
            "panicked at log.rs:1:1:\nI4",
            "vsr-cli sim --seed 7 --ops 9",
        );
        assert!(said.contains("seed 7 breaks a rule"), "{said}");
        assert!(said.contains(RULE) && said.contains("log.rs:1:1"), "{said}");
        assert!(
            said.contains("replay: vsr-cli sim --seed 7 --ops 9"),
            "{said}"
        );
    }
}
