//! What must never happen, checked while it happens.
//!
//! The checkers stand outside: they see what a replica shows of itself after each step
//! ([`crate::Replica::report`], its log), what was done to its machine, what left it, and what clients
//! were told. From that they keep the one history that everybody must agree on.
//!
//! | checker | what it would notice |
//! | --- | --- |
//! | [`history`] | two entries committed under one number, an entry nobody proposed, a broken chain, a commit without a quorum of holders, a started view without a committed entry, two primaries of a view, different states |
//! | [`sessions`] | an operation executed twice, left out, or in a wrong session: a model of the session table says what must be executed |
//! | [`order`] | an answer that is older than one given before the question was asked |
//! | [`registers`] | answers that no order of the operations explains, whatever their numbers say |
//! | [`storm`] | messages that multiply |
//! | [`tap`] | what may not leave a replica that has no memory |

pub(crate) mod epochs;
pub(crate) mod history;
pub(crate) mod order;
pub(crate) mod registers;
pub(crate) mod sessions;
pub(crate) mod storm;
pub(crate) mod tap;

use std::string::String;

/// What was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
}

/// The outcome of a check.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Returns a [`Violation`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $rule:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::sim::check::Violation {
                rule: $rule,
                text: std::format!($($text)+),
            });
        }
    };
}
pub(crate) use ensure;
