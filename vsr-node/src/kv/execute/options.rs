//! Options of SET, GETEX and the EXPIRE family, and the times in them.

use super::Moment;
use crate::kv::codec::Arguments;
use crate::kv::damage::Failure;
use crate::kv::number::parse_integer;
use crate::kv::reply::{NOT_AN_INTEGER, Reply, SYNTAX};

/// When a key shall be gone, as the client said it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline<'a> {
    /// Not mentioned.
    Unsaid,
    /// Keep what there is.
    Keep,
    /// None.
    Never,
    /// A number, its unit in milliseconds, and whether it counts from now.
    At {
        text: &'a [u8],
        unit: i64,
        relative: bool,
    },
}

/// When a key is changed at all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition<'a> {
    Always,
    Absent,
    Present,
    Equal(&'a [u8]),
    /// Also when it is absent.
    NotEqual(&'a [u8]),
}

impl Condition<'_> {
    /// Whether it holds for a value, or for none.
    pub(super) fn holds(&self, value: Option<&[u8]>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => value.is_none(),
            Self::Present => value.is_some(),
            Self::Equal(expected) => value == Some(*expected),
            Self::NotEqual(other) => value != Some(*other),
        }
    }
}

/// The options of SET.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetOptions<'a> {
    pub(super) condition: Condition<'a>,
    pub(super) get: bool,
    pub(super) deadline: Deadline<'a>,
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// Reads `EX n`, `PX n`, `EXAT n` or `PXAT n`, if `word` begins one. As in Redis the same one may
/// be repeated (the last counts), different ones may not be mixed.
fn timed<'a>(
    word: &[u8],
    rest: &mut Arguments<'a>,
    before: Deadline<'_>,
) -> Result<Option<Deadline<'a>>, Failure> {
    let (unit, relative) = match word.len() {
        2 if is(word, "EX") => (1000, true),
        2 if is(word, "PX") => (1, true),
        4 if is(word, "EXAT") => (1000, false),
        4 if is(word, "PXAT") => (1, false),
        _ => return Ok(None),
    };
    let allowed = match before {
        Deadline::Unsaid => true,
        Deadline::At {
            unit: u,
            relative: r,
            ..
        } => u == unit && r == relative,
        Deadline::Keep | Deadline::Never => false,
    };
    let text = rest.next().filter(|_| allowed).ok_or(SYNTAX)?;
    Ok(Some(Deadline::At {
        text,
        unit,
        relative,
    }))
}

impl<'a> SetOptions<'a> {
    /// Reads what follows key and value.
    pub(super) fn parse(mut rest: Arguments<'a>) -> Result<Self, Failure> {
        let mut options = Self {
            condition: Condition::Always,
            get: false,
            deadline: Deadline::Unsaid,
        };
        while let Some(word) = rest.next() {
            if let Some(deadline) = timed(word, &mut rest, options.deadline)? {
                options.deadline = deadline;
            } else if is(word, "GET") {
                options.get = true;
            } else if is(word, "KEEPTTL") {
                let (Deadline::Unsaid | Deadline::Keep) = options.deadline else {
                    return Err(SYNTAX.into());
                };
                options.deadline = Deadline::Keep;
            } else {
                options.condition = Self::condition(word, &mut rest, options.condition)?;
            }
        }
        Ok(options)
    }

    fn condition(
        word: &[u8],
        rest: &mut Arguments<'a>,
        before: Condition<'a>,
    ) -> Result<Condition<'a>, Failure> {
        match before {
            Condition::Always | Condition::Absent if is(word, "NX") => Ok(Condition::Absent),
            Condition::Always | Condition::Present if is(word, "XX") => Ok(Condition::Present),
            Condition::Always if is(word, "IFEQ") => {
                Ok(Condition::Equal(rest.next().ok_or(SYNTAX)?))
            }
            Condition::Always if is(word, "IFNE") => {
                Ok(Condition::NotEqual(rest.next().ok_or(SYNTAX)?))
            }
            _ => Err(SYNTAX.into()),
        }
    }
}

/// Reads the options of GETEX.
pub(super) fn parse_get_ex(mut rest: Arguments<'_>) -> Result<Deadline<'_>, Failure> {
    let mut deadline = Deadline::Unsaid;
    while let Some(word) = rest.next() {
        if let Some(timed) = timed(word, &mut rest, deadline)? {
            deadline = timed;
        } else if is(word, "PERSIST") && matches!(deadline, Deadline::Unsaid | Deadline::Never) {
            deadline = Deadline::Never;
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(deadline)
}

/// Reads the condition of DELEX.
pub(super) fn parse_delete_condition(mut rest: Arguments<'_>) -> Result<Condition<'_>, Failure> {
    let Some(word) = rest.next() else {
        return Ok(Condition::Present);
    };
    let condition = SetOptions::condition(word, &mut rest, Condition::Always)?;
    match condition {
        Condition::Equal(_) | Condition::NotEqual(_) if rest.next().is_none() => Ok(condition),
        _ => Err(SYNTAX.into()),
    }
}

/// Why a time could not be taken.
pub(super) enum BadTime {
    NotAnInteger,
    Invalid,
}

impl BadTime {
    /// Writes the error of the command called `name`.
    pub(super) fn write(&self, name: &str, reply: &mut Reply<'_>) {
        match self {
            Self::NotAnInteger => reply.error(NOT_AN_INTEGER),
            Self::Invalid => {
                let name = name.as_bytes();
                reply.error_about("ERR invalid expire time in '", name, "' command");
            }
        }
    }
}

/// The absolute deadline of a SET-like command, in milliseconds: more than zero.
pub(super) fn positive_time(
    at: &Moment,
    text: &[u8],
    unit: i64,
    relative: bool,
) -> Result<u64, BadTime> {
    let number = parse_integer(text).ok_or(BadTime::NotAnInteger)?;
    if number <= 0 {
        return Err(BadTime::Invalid);
    }
    absolute(at, number, unit, relative).map(|time| time.max(0) as u64)
}

/// The absolute deadline of an EXPIRE-like command, in milliseconds; it may lie in the past.
pub(super) fn absolute(
    at: &Moment,
    number: i64,
    unit: i64,
    relative: bool,
) -> Result<i64, BadTime> {
    let base = if relative { at.now as i64 } else { 0 };
    number
        .checked_mul(unit)
        .and_then(|time| time.checked_add(base))
        .ok_or(BadTime::Invalid)
}

/// The conditions of the EXPIRE family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExpireOptions {
    absent: bool,
    present: bool,
    greater: bool,
    less: bool,
}

/// Why they could not be taken.
pub(super) enum BadOption<'a> {
    Unknown(&'a [u8]),
    Incompatible(Failure),
}

impl ExpireOptions {
    /// Reads what follows key and time.
    pub(super) fn parse(rest: Arguments<'_>) -> Result<Self, BadOption<'_>> {
        use crate::kv::reply::{GT_LT_INCOMPATIBLE, NX_INCOMPATIBLE};
        let mut options = Self::default();
        for word in rest {
            match word {
                _ if is(word, "NX") => options.absent = true,
                _ if is(word, "XX") => options.present = true,
                _ if is(word, "GT") => options.greater = true,
                _ if is(word, "LT") => options.less = true,
                _ => return Err(BadOption::Unknown(word)),
            }
        }
        if options.absent && (options.present || options.greater || options.less) {
            return Err(BadOption::Incompatible(NX_INCOMPATIBLE.into()));
        }
        if options.greater && options.less {
            return Err(BadOption::Incompatible(GT_LT_INCOMPATIBLE.into()));
        }
        Ok(options)
    }

    /// Whether the deadline may change from `old` (zero: none) to `new`.
    pub(super) const fn allow(self, old: u64, new: i64) -> bool {
        if self.absent && old != 0 || self.present && old == 0 {
            return false;
        }
        // Without a deadline a key counts as living for ever.
        if self.greater && (old == 0 || new <= old as i64) {
            return false;
        }
        !(self.less && old != 0 && new >= old as i64)
    }
}
