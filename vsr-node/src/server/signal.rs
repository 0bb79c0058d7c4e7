//! A flag that one task waits for and others of the same thread raise.
//!
//! What a channel or a `Notify` would do, without their locks: everything here lives on one thread.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Raised any number of times before it is seen, it is seen once.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Raises the flag and wakes whoever waits.
    pub(super) fn raise(&self) {
        if !self.raised.replace(true)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Ready, and lowered again, when it was raised; else the task will be woken.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|known| known.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
