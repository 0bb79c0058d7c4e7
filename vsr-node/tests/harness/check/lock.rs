//! A lock that one at a time holds, with a fencing token that grows from holder to holder.

use super::Findings;

/// A time during which somebody certainly held the lock: from the answer to taking it until giving it
/// back was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) owner: u64,
    /// What it got while it held the lock; none when nobody knows.
    pub(crate) token: Option<u64>,
}

/// Nobody holds it while another does, and later holders have higher tokens.
pub(crate) fn check(what: &str, mut holds: Vec<Hold>) -> Findings {
    let mut findings = Findings {
        checked: holds.len() as u64,
        ..Findings::default()
    };
    holds.sort_unstable_by_key(|hold| hold.from);
    let mut highest: Option<u64> = None;
    let mut last: Option<Hold> = None;
    for hold in holds {
        if let Some(before) = last.filter(|before| before.until > hold.from) {
            findings.wrong(format!("{what}: {hold:?} while {before:?}"));
        }
        if let Some(token) = hold.token {
            if highest.is_some_and(|highest| token <= highest) {
                findings.wrong(format!("{what}: {hold:?} after token {highest:?}"));
            }
            highest = highest.max(Some(token));
        }
        if last.is_none_or(|before| hold.until > before.until) {
            last = Some(hold);
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_at_a_time_and_tokens_that_fall_are_found() {
        let hold = |from, until, token| Hold {
            from,
            until,
            owner: from,
            token,
        };
        let check = |holds: &[Hold]| check("l", holds.to_vec()).anomalies;
        assert_eq!(
            check(&[hold(5, 9, Some(2)), hold(1, 4, Some(1)), hold(10, 11, None)]),
            0
        );
        assert_eq!(check(&[hold(1, 6, Some(1)), hold(5, 9, Some(2))]), 1);
        assert_eq!(check(&[hold(1, 4, Some(2)), hold(5, 9, Some(1))]), 1);
        assert_eq!(
            check(&[hold(1, 20, None), hold(2, 3, None), hold(10, 11, None)]),
            2
        );
    }
}
