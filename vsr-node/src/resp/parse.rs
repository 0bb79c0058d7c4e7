//! Finds one command in a buffer.
//!
//! The parser keeps no state between calls: a command that is not complete yet is parsed again when
//! more bytes have come. [`Parsed::Incomplete`] says how many bytes are needed at least, so that a
//! command with tens of thousands of arguments is not parsed again for every packet: each attempt
//! needs a constant fraction more bytes than the one before, which bounds the work at
//! O(bytes x log(arguments)).
//!
//! The order of the checks and their words are those of `processMultibulkBuffer` and
//! `processInlineBuffer` in Redis's `networking.c`.

use memchr::memchr;

/// Lines longer than this (a count, an inline command) are refused, as in Redis.
const LINE_MAX: usize = 64 * 1024;
/// The shortest argument on the wire: `$0\r\n\r\n`.
const ARGUMENT_SIZE_MIN: usize = 6;
/// Below this many parsed arguments, starting again costs less than deferring an error would.
const CHEAP_ARGUMENTS: usize = 64;
/// An unauthenticated connection may not announce more arguments than this.
const UNAUTHENTICATED_ARGUMENTS_MAX: i64 = 10;
/// Redis's `proto-max-bulk-len`: more is nonsense from anybody.
const BULK_PLAUSIBLE_MAX: i64 = 512 * 1024 * 1024;
/// Nor may it announce a longer argument than this.
const UNAUTHENTICATED_BULK_MAX: i64 = 16 * 1024;

/// What the parser may accept from this connection now.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// The most arguments of one command, its name included.
    pub arguments_max: usize,
    /// The largest command in bytes on the wire.
    pub command_size_max: usize,
    /// Whether the connection has given the password, or none is asked for.
    pub authenticated: bool,
}

/// What [`parse()`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A command; its arguments are in [`Args`]. No arguments at all (an empty line, `*0`) is
    /// nothing to answer.
    Command {
        /// How many bytes of the buffer it took.
        consumed: usize,
    },
    /// Not a whole command yet.
    Incomplete {
        /// It cannot be whole before the buffer holds this many bytes.
        needed: usize,
    },
}

/// What a client did wrong. The connection is closed after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The count of arguments is no number or too large.
    InvalidMultibulkLength,
    /// More arguments than a stranger may send.
    UnauthenticatedMultibulkLength,
    /// The line with the count does not end.
    TooBigCount,
    /// An argument does not begin with `$` but with this byte.
    ExpectedDollar(u8),
    /// The length of an argument is no number, or more than fits.
    InvalidBulkLength,
    /// A longer argument than a stranger may send.
    UnauthenticatedBulkLength,
    /// The line with a length does not end.
    TooBigBulkCount,
    /// An inline command does not end.
    TooBigInline,
    /// An inline command's quotes do not match.
    UnbalancedQuotes,
}

impl ProtocolError {
    /// Appends the error reply to `out`.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR Protocol error: ");
        let text: &[u8] = match self {
            Self::InvalidMultibulkLength => b"invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => b"unauthenticated multibulk length",
            Self::TooBigCount => b"too big mbulk count string",
            Self::ExpectedDollar(got) => {
                out.extend_from_slice(b"expected '$', got '");
                // An error reply is one line; a byte that would break it is shown as a space, as
                // Redis does with line ends.
                out.push(if got == b'\r' || got == b'\n' {
                    b' '
                } else {
                    got
                });
                b"'"
            }
            Self::InvalidBulkLength => b"invalid bulk length",
            Self::UnauthenticatedBulkLength => b"unauthenticated bulk length",
            Self::TooBigBulkCount => b"too big bulk count string",
            Self::TooBigInline => b"too big inline request",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
        };
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    size: u32,
}

/// The arguments of one command, as ranges of the buffer it was parsed from. Made once and used for
/// every command, so that nothing is allocated per command.
#[derive(Debug, Default)]
pub struct Args {
    spans: Vec<Span>,
    /// The unquoted words of an inline command; the spans of such a command lie in here.
    words: Vec<u8>,
    inline: bool,
    /// The most arguments that a command before this one had.
    most: usize,
}

impl Args {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Self {
            spans: Vec::with_capacity(CHEAP_ARGUMENTS),
            words: Vec::new(),
            inline: false,
            most: 0,
        }
    }

    /// No arguments, and room for `count` and for the longest inline command: nothing is allocated
    /// later.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self {
            spans: Vec::with_capacity(count),
            words: Vec::with_capacity(LINE_MAX),
            inline: false,
            most: 0,
        }
    }

    /// What an argument takes, in bytes.
    pub const PER_ARGUMENT: usize = size_of::<Span>();
    /// What the words of an inline command take, in bytes.
    pub const WORDS: usize = LINE_MAX;

    /// The most arguments that one command had.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.max(self.spans.len())
    }

    /// How many there are, the command's name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the command was an empty line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index` of the command parsed from `buffer`; empty beyond the last.
    #[must_use]
    #[inline]
    pub fn get<'a>(&'a self, buffer: &'a [u8], index: usize) -> &'a [u8] {
        let bytes = if self.inline { &self.words[..] } else { buffer };
        self.spans
            .get(index)
            .and_then(|span| bytes.get(span.start as usize..(span.start + span.size) as usize))
            .unwrap_or_default()
    }

    /// All arguments of the command parsed from `buffer`, from `first` on.
    pub fn iter_from<'a>(
        &'a self,
        buffer: &'a [u8],
        first: usize,
    ) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let bytes = if self.inline { &self.words[..] } else { buffer };
        self.spans[first.min(self.spans.len())..]
            .iter()
            .map(|span| &bytes[span.start as usize..(span.start + span.size) as usize])
    }

    /// The bytes of the arguments from `first` on, without any framing.
    #[must_use]
    pub fn payload_from(&self, first: usize) -> usize {
        self.spans[first.min(self.spans.len())..]
            .iter()
            .map(|span| span.size as usize)
            .sum()
    }

    fn clear(&mut self, inline: bool) {
        self.most = self.most.max(self.spans.len());
        self.spans.clear();
        self.words.clear();
        self.inline = inline;
    }

    #[inline]
    fn push(&mut self, start: usize, size: usize) {
        self.spans.push(Span {
            start: start as u32,
            size: size as u32,
        });
    }
}

/// Finds the first command in `buffer` and puts its arguments into `args`.
///
/// # Errors
/// When the bytes are no command and never will be.
#[inline]
pub fn parse(
    buffer: &[u8],
    limits: &ParseLimits,
    args: &mut Args,
) -> Result<Parsed, ProtocolError> {
    match buffer.first() {
        None => Ok(Parsed::Incomplete { needed: 1 }),
        Some(b'*') => parse_multibulk(buffer, limits, args),
        Some(_) => parse_inline(buffer, limits, args),
    }
}

/// A line `<type><number>\r\n` that begins at some place of the buffer.
enum Line {
    Number { value: i64, next: usize },
    NotANumber,
    Unfinished,
    TooLong,
}

#[inline]
fn read_line(buffer: &[u8], at: usize) -> Line {
    // The usual case: a few digits and a line end, all there.
    let mut value: i64 = 0;
    let digits = &buffer[at + 1..buffer.len().min(at + 11)];
    for (index, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if index > 0 && (index == 1 || digits[0] != b'0') => {
                let next = at + index + 3;
                return if next <= buffer.len() {
                    Line::Number { value, next }
                } else {
                    Line::Unfinished
                };
            }
            _ => break,
        }
    }
    read_odd_line(buffer, at)
}

/// Negative, long, malformed or unfinished lines.
#[cold]
fn read_odd_line(buffer: &[u8], at: usize) -> Line {
    let rest = &buffer[at..];
    let Some(end) = memchr(b'\r', rest) else {
        return if rest.len() > LINE_MAX {
            Line::TooLong
        } else {
            Line::Unfinished
        };
    };
    if end + 1 >= rest.len() {
        return Line::Unfinished;
    }
    match rest.get(1..end).and_then(parse_integer) {
        Some(value) => Line::Number {
            value,
            next: at + end + 2,
        },
        None => Line::NotANumber,
    }
}

/// A number as Redis's `string2ll` takes it: no plus sign, no leading zeros, no spaces.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [] => false,
        [b'0'] => digits.len() == text.len(),
        [first, rest @ ..] => (b'1'..=b'9').contains(first) && rest.iter().all(u8::is_ascii_digit),
    };
    if !plain {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}

fn parse_multibulk(
    buffer: &[u8],
    limits: &ParseLimits,
    args: &mut Args,
) -> Result<Parsed, ProtocolError> {
    args.clear(false);
    let (count, mut at) = match read_line(buffer, 0) {
        Line::Number { value, next } => (value, next),
        Line::NotANumber => return Err(ProtocolError::InvalidMultibulkLength),
        Line::TooLong => return Err(ProtocolError::TooBigCount),
        Line::Unfinished => {
            return Ok(Parsed::Incomplete {
                needed: buffer.len() + 1,
            });
        }
    };
    let plausible = count <= i64::from(i32::MAX);
    if plausible && count > UNAUTHENTICATED_ARGUMENTS_MAX && !limits.authenticated {
        return Err(ProtocolError::UnauthenticatedMultibulkLength);
    }
    if count > limits.arguments_max as i64 {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    let count = count.max(0) as usize;
    for index in 0..count {
        let left = count - index - 1;
        if at >= buffer.len() {
            return Ok(unfinished_line(buffer, at, left, args.len()));
        }
        let (size, start) = match read_line(buffer, at) {
            Line::Unfinished => return Ok(unfinished_line(buffer, at, left, args.len())),
            Line::TooLong => return Err(ProtocolError::TooBigBulkCount),
            _ if buffer[at] != b'$' => return Err(ProtocolError::ExpectedDollar(buffer[at])),
            Line::NotANumber => return Err(ProtocolError::InvalidBulkLength),
            Line::Number { value, next } => (value, next),
        };
        let plausible = (0..=BULK_PLAUSIBLE_MAX).contains(&size);
        if plausible && size > UNAUTHENTICATED_BULK_MAX && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        // Beyond our limit is answered like beyond Redis's proto-max-bulk-len.
        if !plausible || size as u64 > limits.command_size_max.saturating_sub(start) as u64 {
            return Err(ProtocolError::InvalidBulkLength);
        }
        let size = size as usize;
        let end = start + size + 2;
        if end > buffer.len() {
            return Ok(Parsed::Incomplete { needed: end });
        }
        args.push(start, size);
        at = end;
    }
    Ok(Parsed::Command { consumed: at })
}

/// What is needed when the line of an argument's length is not whole, with `left` arguments to come
/// after it.
fn unfinished_line(buffer: &[u8], at: usize, left: usize, parsed: usize) -> Parsed {
    let needed = if parsed < CHEAP_ARGUMENTS {
        buffer.len() + 1
    } else {
        (at + ARGUMENT_SIZE_MIN).max(buffer.len() + 1) + left * ARGUMENT_SIZE_MIN
    };
    Parsed::Incomplete { needed }
}

fn parse_inline(
    buffer: &[u8],
    limits: &ParseLimits,
    args: &mut Args,
) -> Result<Parsed, ProtocolError> {
    args.clear(true);
    let Some(end) = memchr(b'\n', buffer) else {
        if buffer.len() > LINE_MAX {
            return Err(ProtocolError::TooBigInline);
        }
        return Ok(Parsed::Incomplete {
            needed: buffer.len() + 1,
        });
    };
    let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
    if line.len() > LINE_MAX {
        return Err(ProtocolError::TooBigInline);
    }
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|byte| is_space(**byte)).count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return Ok(Parsed::Command { consumed: end + 1 });
        }
        if args.len() == limits.arguments_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        let start = args.words.len();
        let taken = take_word(rest, &mut args.words).ok_or(ProtocolError::UnbalancedQuotes)?;
        let size = args.words.len() - start;
        args.push(start, size);
        rest = &rest[taken..];
    }
}

/// What C's `isspace` says.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// Appends the first word of `text` to `words`, without its quotes, and returns how many bytes of
/// `text` it took: `sdssplitargs` of Redis. None when the quotes do not match.
fn take_word(text: &[u8], words: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            // A zero byte ends the text where Redis sees a C string.
            0 => return Some(text.len()),
            quote @ (b'"' | b'\'') => {
                at = take_quoted(text, at + 1, quote, words)?;
                // Nothing but a space may follow the closing quote.
                return text
                    .get(at)
                    .is_none_or(|next| is_space(*next))
                    .then_some(at);
            }
            byte if is_space(byte) => break,
            byte => {
                words.push(byte);
                at += 1;
            }
        }
    }
    Some(at)
}

/// The rest of a quoted word from `at` on; returns the place after the closing quote.
fn take_quoted(text: &[u8], mut at: usize, quote: u8, words: &mut Vec<u8>) -> Option<usize> {
    loop {
        match (*text.get(at)?, text.get(at + 1)) {
            (byte, _) if byte == quote => return Some(at + 1),
            (b'\\', Some(b'\'')) if quote == b'\'' => {
                words.push(b'\'');
                at += 2;
            }
            (b'\\', Some(b'x')) if quote == b'"' && hex_pair(text, at + 2).is_some() => {
                words.extend(hex_pair(text, at + 2));
                at += 4;
            }
            (b'\\', Some(&escaped)) if quote == b'"' => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            (byte, _) => {
                words.push(byte);
                at += 1;
            }
        }
    }
}

fn hex_pair(text: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let high = digit(*text.get(at)?)?;
    let low = digit(*text.get(at + 1)?)?;
    Some((high * 16 + low) as u8)
}

#[cfg(test)]
mod tests;
