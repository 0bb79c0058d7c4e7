//! A progress bar for what takes longer than two seconds, on standard error, only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes longer than this gets a bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bar over a span of time or a number of things; gone without a trace when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For something that is expected to take `length`.
    pub(crate) fn new(length: Duration) -> Self {
        let target = if length > PATIENCE {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(millis(length)), target);
        let style = ProgressStyle::with_template("{bar:40} {elapsed} {msg}");
        bar.set_style(style.expect("a constant template is valid"));
        Self { bar }
    }

    /// For so many things, of which nobody knows how long they take.
    pub(crate) fn counting(count: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:40} {elapsed} {msg}, {eta} left");
        bar.set_style(style.expect("a constant template is valid"));
        Self { bar }
    }

    /// So many of them are done.
    pub(crate) fn reach(&mut self, count: u64, message: String) {
        self.bar.set_message(message);
        self.bar.set_position(count);
    }

    /// Moves it.
    pub(crate) fn show(&mut self, elapsed: Duration, message: String) {
        self.bar.set_message(message);
        self.bar.set_position(millis(elapsed));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
