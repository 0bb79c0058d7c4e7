//! Just enough RESP for a client: commands out, replies in.
//!
//! Two readers of the same bytes: [`scan`] only finds where a reply ends and of what kind it is,
//! without allocating, because the load generator reads millions; [`parse`] builds a [`Value`] to
//! show. Both refuse what no server would send instead of waiting for the rest of it.

use std::io;

/// The longest line (type, number, status, error) that is not garbage.
const LINE_MAX: usize = 64 * 1024;
/// The longest string, Redis's own limit.
const BULK_MAX: i64 = 512 * 1024 * 1024;
/// The deepest nesting of aggregates.
const DEPTH_MAX: usize = 32;

/// The bytes are no RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

impl From<Garbage> for io::Error {
    fn from(_: Garbage) -> Self {
        Self::new(io::ErrorKind::InvalidData, "the answer is no RESP")
    }
}

/// Appends a command as an array of bulk strings.
pub(crate) fn encode<W: AsRef<[u8]>>(words: &[W], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

/// What kind of reply it is, as far as a load generator cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// An error, without the `-`.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// Anything else.
    Other,
}

/// The first reply in `bytes`: its size and kind; none while it is incomplete.
///
/// # Errors
/// [`Garbage`] when no bytes to come could make it a reply.
pub(crate) fn scan(bytes: &[u8]) -> Result<Option<(usize, Kind<'_>)>, Garbage> {
    let Some(line) = line(bytes)? else {
        return Ok(None);
    };
    let (&first, text) = line.split_first().ok_or(Garbage)?;
    let after = line.len() + 2;
    match first {
        b'+' | b',' | b'#' | b'(' | b'_' => Ok(Some((after, Kind::Other))),
        b'-' => Ok(Some((after, Kind::Error(text)))),
        b':' => Ok(Some((after, Kind::Integer(integer(text)?)))),
        b'$' | b'=' | b'!' => match integer(text)? {
            -1 => Ok(Some((after, Kind::Other))),
            size => {
                let Some(body) = bulk(bytes, after, size)? else {
                    return Ok(None);
                };
                let kind = if first == b'!' {
                    Kind::Error(body)
                } else {
                    Kind::Other
                };
                Ok(Some((after + body.len() + 2, kind)))
            }
        },
        _ => match parse(bytes)? {
            Some((_, size)) => Ok(Some((size, Kind::Other))),
            None => Ok(None),
        },
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A status line such as `OK`.
    Simple(String),
    /// An error.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// A number of any size, as text.
    Big(String),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Null,
    /// An array, a set or a push.
    Array(Vec<Self>),
    /// Pairs.
    Map(Vec<(Self, Self)>),
}

/// The first reply in `bytes` and its size; none while it is incomplete.
///
/// # Errors
/// [`Garbage`] when no bytes to come could make it a reply.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Garbage> {
    parse_nested(bytes, 0, DEPTH_MAX)
}

fn parse_nested(bytes: &[u8], at: usize, depth: usize) -> Result<Option<(Value, usize)>, Garbage> {
    let Some(line) = line(&bytes[at..])? else {
        return Ok(None);
    };
    let (&first, text) = line.split_first().ok_or(Garbage)?;
    let after = at + line.len() + 2;
    let words = || String::from_utf8_lossy(text).into_owned();
    let value = match first {
        b'+' => Value::Simple(words()),
        b'-' => Value::Error(words()),
        b':' => Value::Integer(integer(text)?),
        b'(' => Value::Big(words()),
        b'_' => Value::Null,
        b'#' => Value::Boolean(text == b"t"),
        b',' => Value::Double(words().parse().map_err(|_| Garbage)?),
        b'$' | b'=' | b'!' => {
            let size = integer(text)?;
            if size == -1 {
                return Ok(Some((Value::Null, after)));
            }
            let Some(body) = bulk(bytes, after, size)? else {
                return Ok(None);
            };
            let value = match first {
                b'!' => Value::Error(String::from_utf8_lossy(body).into_owned()),
                // A verbatim string begins with its format, "txt:".
                b'=' => Value::Bulk(body.get(4..).unwrap_or_default().to_vec()),
                _ => Value::Bulk(body.to_vec()),
            };
            return Ok(Some((value, after + body.len() + 2)));
        }
        b'*' | b'~' | b'>' | b'%' => {
            let count = integer(text)?;
            if count == -1 {
                return Ok(Some((Value::Null, after)));
            }
            return aggregate(bytes, after, first, count, depth);
        }
        _ => return Err(Garbage),
    };
    Ok(Some((value, after)))
}

fn aggregate(
    bytes: &[u8],
    mut at: usize,
    first: u8,
    count: i64,
    depth: usize,
) -> Result<Option<(Value, usize)>, Garbage> {
    let depth = depth.checked_sub(1).ok_or(Garbage)?;
    let count = usize::try_from(count).map_err(|_| Garbage)?;
    let elements = if first == b'%' {
        count.checked_mul(2).ok_or(Garbage)?
    } else {
        count
    };
    // The count is the server's word; memory is taken only for what has arrived.
    let mut values = Vec::new();
    for _ in 0..elements {
        let Some((value, end)) = parse_nested(bytes, at, depth)? else {
            return Ok(None);
        };
        values.push(value);
        at = end;
    }
    if first != b'%' {
        return Ok(Some((Value::Array(values), at)));
    }
    let mut pairs = Vec::with_capacity(count);
    let mut values = values.into_iter();
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        pairs.push((key, value));
    }
    Ok(Some((Value::Map(pairs), at)))
}

fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Garbage> {
    match bytes.iter().take(LINE_MAX).position(|&byte| byte == b'\n') {
        Some(end) if end >= 2 && bytes[end - 1] == b'\r' => Ok(Some(&bytes[..end - 1])),
        Some(_) => Err(Garbage),
        None if bytes.len() >= LINE_MAX => Err(Garbage),
        None => Ok(None),
    }
}

fn bulk(bytes: &[u8], at: usize, size: i64) -> Result<Option<&[u8]>, Garbage> {
    if !(0..=BULK_MAX).contains(&size) {
        return Err(Garbage);
    }
    let size = usize::try_from(size).map_err(|_| Garbage)?;
    match bytes.get(at..at + size + 2) {
        Some(body) if body.ends_with(b"\r\n") => Ok(Some(&body[..size])),
        Some(_) => Err(Garbage),
        None => Ok(None),
    }
}

fn integer(text: &[u8]) -> Result<i64, Garbage> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Garbage)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&[u8]; 16] = [
        b"+OK\r\n",
        b"-ERR unknown command 'x'\r\n",
        b":-42\r\n",
        b"$5\r\nhello\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(12345678901234567890\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"!5\r\nERR x\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"%1\r\n+a\r\n:1\r\n",
        b"~1\r\n$2\r\n\r\n\r\n",
    ];

    #[test]
    fn a_reply_is_found_exactly_when_it_is_complete() {
        for reply in REPLIES {
            for end in 0..reply.len() {
                assert_eq!(scan(&reply[..end]), Ok(None), "{reply:?} cut at {end}");
                assert_eq!(parse(&reply[..end]), Ok(None), "{reply:?} cut at {end}");
            }
            let mut more = reply.to_vec();
            more.extend_from_slice(b"+next\r\n");
            assert_eq!(
                scan(&more).map(|found| found.map(|(size, _)| size)),
                Ok(Some(reply.len()))
            );
            assert_eq!(
                parse(&more).map(|found| found.map(|(_, size)| size)),
                Ok(Some(reply.len()))
            );
        }
    }

    #[test]
    fn values_are_what_the_bytes_say() {
        let value = |bytes| parse(bytes).expect("no garbage").expect("complete").0;
        assert_eq!(value(REPLIES[3]), Value::Bulk(b"hello".to_vec()));
        assert_eq!(value(REPLIES[6]), Value::Null);
        assert_eq!(value(REPLIES[9]), Value::Double(1.5));
        assert_eq!(value(REPLIES[11]), Value::Bulk(b"abc".to_vec()));
        assert_eq!(
            value(REPLIES[13]),
            Value::Array(vec![
                Value::Bulk(b"a".to_vec()),
                Value::Array(vec![Value::Integer(1)])
            ])
        );
        assert_eq!(
            value(REPLIES[14]),
            Value::Map(vec![(Value::Simple("a".to_owned()), Value::Integer(1))])
        );
    }

    #[test]
    fn kinds_tell_errors_and_integers() {
        let kind = |bytes| scan(bytes).expect("no garbage").expect("complete").1;
        assert_eq!(kind(REPLIES[1]), Kind::Error(b"ERR unknown command 'x'"));
        assert_eq!(kind(REPLIES[2]), Kind::Integer(-42));
        assert_eq!(kind(REPLIES[12]), Kind::Error(b"ERR x"));
        assert_eq!(kind(REPLIES[13]), Kind::Other);
    }

    #[test]
    fn garbage_is_refused_instead_of_waited_for() {
        let endless = vec![b'+'; LINE_MAX];
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 2);
        for garbage in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"+no carriage return\n",
            b":twelve\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc",
            b"*-7\r\n",
            &endless,
            &deep,
        ] {
            assert_eq!(
                scan(garbage),
                Err(Garbage),
                "{:?}",
                &garbage[..garbage.len().min(40)]
            );
        }
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut bytes = Vec::new();
        encode(&["SET", "k", ""], &mut bytes);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }
}
