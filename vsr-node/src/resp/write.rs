//! Replies to bytes, in the dialect of the connection.
//!
//! The state machine answers in RESP3, once, the same bytes on every replica; what a connection
//! needs is decided here. For a RESP3 connection and for every plain reply that is a copy. RESP2
//! lacks maps, sets, doubles, booleans and has two nulls: [`append_reply`] rewrites the types in one
//! pass, which needs no recursion because a RESP value is a prefix code: a container is its header
//! followed by its elements.

use super::Protocol;

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Writer<'a> {
    /// Appends to `out` in dialect `protocol`.
    pub const fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status line; `text` has no line end.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; `text` begins with its code, e.g. `ERR`. Line ends in it become spaces.
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.out.push(b'-');
        let safe = |byte: &u8| {
            if matches!(byte, b'\r' | b'\n') {
                b' '
            } else {
                *byte
            }
        };
        self.out.extend(text.as_ref().iter().map(safe));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A string of bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Text for people, not data: a verbatim string in RESP3.
    pub fn text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.number(b'=', text.len() as i64 + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Nothing, where a string would be.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Nothing, where an array would be.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The header of an array of `count` elements, which follow.
    pub fn array(&mut self, count: usize) {
        self.number(b'*', count as i64);
    }

    /// The header of a map of `count` pairs, which follow.
    pub fn map(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.number(b'*', 2 * count as i64),
            Protocol::Resp3 => self.number(b'%', count as i64),
        }
    }

    /// The header of a set of `count` elements, which follow.
    pub fn set(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.number(b'*', count as i64),
            Protocol::Resp3 => self.number(b'~', count as i64),
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, value: i64) {
        append_number(self.out, kind, value);
    }
}

/// Error texts that are made of parts, in the words of Redis.
#[derive(Debug)]
pub struct ReplyText;

impl ReplyText {
    /// The most bytes of a client's words that an error repeats.
    const REPEATED_MAX: usize = 128;

    /// The command called `name` was given too few or too many arguments.
    #[must_use]
    pub fn arity(name: &str) -> String {
        format!("ERR wrong number of arguments for '{name}' command")
    }

    /// There is no command called `name`.
    #[must_use]
    pub fn unknown_command<'a>(name: &[u8], arguments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut text = b"ERR unknown command '".to_vec();
        text.extend_from_slice(&name[..name.len().min(Self::REPEATED_MAX)]);
        text.extend_from_slice(b"', with args beginning with: ");
        let start = text.len();
        for argument in arguments {
            let used = text.len() - start;
            if used >= Self::REPEATED_MAX {
                break;
            }
            text.push(b'\'');
            text.extend_from_slice(&argument[..argument.len().min(Self::REPEATED_MAX - used)]);
            text.extend_from_slice(b"' ");
        }
        text
    }

    /// `container` has no part called `name`.
    #[must_use]
    pub fn unknown_subcommand(container: &str, name: &[u8]) -> Vec<u8> {
        let mut text = b"ERR unknown subcommand '".to_vec();
        text.extend_from_slice(&name[..name.len().min(Self::REPEATED_MAX)]);
        text.extend_from_slice(format!("'. Try {container} HELP.").as_bytes());
        text
    }
}

fn append_number(out: &mut Vec<u8>, kind: u8, value: i64) {
    let mut digits = itoa::Buffer::new();
    out.push(kind);
    out.extend_from_slice(digits.format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends one reply of the state machine to `out` in dialect `protocol`. `null` is what a null reply
/// becomes in RESP2: `*-1\r\n` for the commands that answer with an array, `$-1\r\n` for all others.
/// False, with nothing appended, when `reply` is not exactly one RESP3 value.
#[must_use]
#[inline]
pub fn append_reply(out: &mut Vec<u8>, reply: &[u8], protocol: Protocol, null: &[u8]) -> bool {
    match (protocol, reply.first()) {
        (_, Some(b'+' | b'-' | b':' | b'$')) | (Protocol::Resp3, Some(_)) => {
            out.extend_from_slice(reply);
            true
        }
        (Protocol::Resp2, Some(b'_')) => {
            out.extend_from_slice(null);
            true
        }
        (_, None) => false,
        (Protocol::Resp2, Some(_)) => {
            let before = out.len();
            let done = downgrade(out, reply).is_some();
            if !done {
                out.truncate(before);
            }
            done
        }
    }
}

/// Rewrites a sequence of RESP3 values as RESP2. None when it is malformed.
fn downgrade(out: &mut Vec<u8>, mut reply: &[u8]) -> Option<()> {
    while let Some(&kind) = reply.first() {
        let (line, rest) = split_line(reply)?;
        let text = &line[1..line.len() - 2];
        reply = rest;
        match kind {
            b'+' | b'-' | b':' => out.extend_from_slice(line),
            b'*' | b'~' | b'>' => append_number(out, b'*', count_in(text)? as i64),
            b'%' => append_number(out, b'*', 2 * count_in(text)? as i64),
            b'_' => out.extend_from_slice(b"$-1\r\n"),
            b'#' => out.extend_from_slice(if text == b"t" { b":1\r\n" } else { b":0\r\n" }),
            b',' | b'(' => append_bulk(out, text),
            b'$' | b'=' | b'!' => {
                let size = count_in(text)?;
                let bytes = reply.get(..size)?;
                reply = reply.get(size + 2..)?;
                match kind {
                    b'$' => append_bulk(out, bytes),
                    b'=' => append_bulk(out, bytes.get(4..)?),
                    _ => {
                        out.push(b'-');
                        out.extend_from_slice(bytes);
                        out.extend_from_slice(b"\r\n");
                    }
                }
            }
            _ => return None,
        }
    }
    Some(())
}

fn append_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    append_number(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The first line of `reply` with its end, and what follows it.
fn split_line(reply: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', reply)?;
    (end >= 2 && reply[end - 1] == b'\r').then(|| reply.split_at(end + 1))
}

/// A count or size: digits only, and small enough that doubling it is safe.
fn count_in(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')),
    )
}

/// The size in bytes of the RESP3 value that `reply` begins with, its elements included. None when
/// `reply` does not begin with a whole value.
#[must_use]
pub fn element_size(reply: &[u8]) -> Option<usize> {
    let mut rest = reply;
    let mut open: usize = 1;
    while open > 0 {
        let (line, after) = split_line(rest)?;
        let text = &line[1..line.len() - 2];
        rest = after;
        open -= 1;
        match line[0] {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'*' | b'~' | b'>' => open = open.checked_add(count_in(text)?)?,
            b'%' => open = open.checked_add(2 * count_in(text)?)?,
            b'$' | b'=' | b'!' => rest = rest.get(count_in(text)? + 2..)?,
            _ => return None,
        }
    }
    Some(reply.len() - rest.len())
}

/// If `reply` begins with the header of an array: how many elements, and the bytes after the header.
#[must_use]
pub fn split_array(reply: &[u8]) -> Option<(usize, &[u8])> {
    let (line, rest) = split_line(reply)?;
    (line[0] == b'*').then_some(())?;
    Some((count_in(&line[1..line.len() - 2])?, rest))
}

#[cfg(test)]
mod tests;
