//! A process that cannot trust its memory any more begins again with nothing, by itself.
//!
//! Two things end a life that the protocol can replace: a state or a log that is not that of a majority
//! (N16), and protocol numbers that are not what was written (R6.8). What such a process holds is worth
//! nothing, and everything that it should hold is held by the others, so the right thing is what a
//! supervisor would do after a crash: start the program again, empty, and let it recover. That is what
//! happens here, without waiting for a supervisor: the program replaces itself by itself (`exec`), with
//! the same arguments, in the same process. All memory is gone, and the next life is a new one to the
//! others.
//!
//! Once is bad luck. A process to which it happens again and again has a state machine that is not
//! deterministic, or memory that should not be used, and would take its state from the others for ever:
//! it stops. How often it happened, and when, is carried from life to life in the environment.

use std::time::Duration;

/// What a process does that must not trust its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDoubt {
    /// It begins again with nothing, and recovers from the others.
    Restart,
    /// It ends, with an exit code that says why.
    Exit,
}

/// Why a life was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A majority has another state or log.
    Divergence,
    /// Protocol numbers have changed by themselves.
    Memory,
}

impl Doubt {
    /// As metrics and status name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Divergence => "divergence",
            Self::Memory => "memory",
        }
    }

    /// What to look for when it happens again and again.
    const fn advice(self) -> &'static str {
        match self {
            Self::Divergence => {
                "its state machine is not deterministic (it depends on something other than its \
                 arguments), or this machine's memory is bad"
            }
            Self::Memory => "check this machine's memory",
        }
    }
}

/// The variable that carries the times of earlier restarts, `d` or `m` and seconds since the Unix epoch.
pub const VARIABLE: &str = "VSR_RESTARTED_IN_PLACE";

/// So many restarts within [`WINDOW`] are bad luck; one more is not.
pub const RESTARTS_MAX: usize = 5;

/// The time within which they count.
pub const WINDOW: Duration = Duration::from_secs(600);

/// A restart in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Why.
    pub why: Doubt,
    /// When, in seconds since the Unix epoch.
    pub at: u64,
}

/// The restarts in place that led to this process, within the window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Vec<Restart>);

impl History {
    /// What [`VARIABLE`] says. What makes no sense is left out: somebody else wrote it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let restart = |part: &str| {
            let why = match part.chars().next()? {
                'd' => Doubt::Divergence,
                'm' => Doubt::Memory,
                _ => return None,
            };
            let at = part.get(1..)?.parse().ok()?;
            Some(Restart { why, at })
        };
        Self(
            text.split(',')
                .filter_map(restart)
                .take(RESTARTS_MAX)
                .collect(),
        )
    }

    /// The history of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        std::env::var(VARIABLE).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// The restarts, oldest first.
    #[must_use]
    pub fn restarts(&self) -> &[Restart] {
        &self.0
    }

    /// One more restart, at `now` seconds since the Unix epoch; with too many behind it, none.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn and(&self, why: Doubt, now: u64) -> Result<Self, String> {
        // A clock that was set back makes the past look young: then it counts.
        let is_recent = |restart: &&Restart| restart.at.saturating_add(WINDOW.as_secs()) > now;
        let mut recent: Vec<Restart> = self.0.iter().filter(is_recent).copied().collect();
        if recent.len() >= RESTARTS_MAX {
            return Err(format!(
                "this process has begun again {} times within {} minutes and does not do so once more: {}",
                recent.len(),
                WINDOW.as_secs() / 60,
                why.advice()
            ));
        }
        recent.push(Restart { why, at: now });
        Ok(Self(recent))
    }

    /// As [`VARIABLE`] has it.
    #[must_use]
    pub fn text(&self) -> String {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|restart| {
                let letter = match restart.why {
                    Doubt::Divergence => 'd',
                    Doubt::Memory => 'm',
                };
                format!("{letter}{}", restart.at)
            })
            .collect();
        parts.join(",")
    }
}

/// Replaces this process by a new one of the same program with the same arguments, which starts with
/// nothing. Returns only when that cannot be done.
///
/// Sockets and all other files but the standard ones close with it: none of them is inherited.
#[must_use]
pub fn begin_again(why: Doubt) -> String {
    use std::os::unix::process::CommandExt as _;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let history = match History::of_this_process().and(why, now) {
        Ok(history) => history,
        Err(reason) => return reason,
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("cannot begin again: this program is not found ({error})"),
    };
    tracing::warn!(
        why = why.name(),
        count = history.restarts().len(),
        "this process begins again with nothing and recovers from the others"
    );
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(VARIABLE, history.text()).exec();
    format!("cannot begin again ({}: {error})", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_survives_the_environment_and_nonsense_does_not() {
        let mut history = History::default();
        for (why, at) in [(Doubt::Memory, 100), (Doubt::Divergence, 200)] {
            history = history.and(why, at).expect("few");
        }
        assert_eq!(history.text(), "m100,d200");
        assert_eq!(History::parse(&history.text()), history);
        assert_eq!(History::parse("x1,,m,dd,d7").text(), "d7");
        let many = "d1,".repeat(1000);
        assert_eq!(History::parse(&many).restarts().len(), RESTARTS_MAX);
    }

    #[test]
    fn too_many_within_the_window_are_the_last_and_old_ones_do_not_count() {
        let mut history = History::default();
        for at in 0..RESTARTS_MAX as u64 {
            history = history.and(Doubt::Divergence, 1000 + at).expect("few");
        }
        let refused = history.and(Doubt::Divergence, 1010).expect_err("too many");
        assert!(refused.contains("not deterministic"), "{refused}");
        let refused = history.and(Doubt::Memory, 1010).expect_err("too many");
        assert!(refused.contains("memory"), "{refused}");
        assert!(history.and(Doubt::Memory, 500).is_err(), "a clock set back");
        let later = 1000 + WINDOW.as_secs();
        let later = history.and(Doubt::Memory, later).expect("the first is old");
        assert_eq!(later.restarts().len(), RESTARTS_MAX);
    }
}
