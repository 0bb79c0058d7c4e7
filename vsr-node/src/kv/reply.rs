//! Writing replies: RESP3 into a buffer of a fixed size.
//!
//! A reply that does not fit is never cut: the writer notes that it overflowed, and whoever asked for
//! it goes back to where it began. Error texts are Redis' own, because clients match on them.

/// A failing command's answer, without the leading `-`.
pub(super) type Text = &'static str;

pub(super) const SYNTAX: Text = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: Text = "ERR value is not an integer or out of range";
pub(super) const NOT_A_FLOAT: Text = "ERR value is not a valid float";
pub(super) const NAN_OR_INFINITY: Text = "ERR increment would produce NaN or Infinity";
pub(super) const WOULD_OVERFLOW: Text = "ERR increment or decrement would overflow";
pub(super) const DECREMENT_OVERFLOW: Text = "ERR decrement would overflow";
pub(super) const NO_SUCH_KEY: Text = "ERR no such key";
pub(super) const OFFSET_RANGE: Text = "ERR offset is out of range";
pub(super) const STRING_SIZE: Text = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
pub(super) const INVALID_CURSOR: Text = "ERR invalid cursor";
pub(super) const SAME_OBJECT: Text = "ERR source and destination objects are the same";
pub(super) const DB_RANGE: Text = "ERR DB index is out of range";
pub(super) const OUT_OF_MEMORY: Text = "OOM command not allowed when used memory > 'maxmemory'.";
pub(super) const NX_INCOMPATIBLE: Text =
    "ERR NX and XX, GT or LT options at the same time are not compatible";
pub(super) const GT_LT_INCOMPATIBLE: Text =
    "ERR GT and LT options at the same time are not compatible";
pub(super) const MALFORMED: Text = "ERR Protocol error: malformed operation";
pub(super) const NOT_A_QUERY: Text = "ERR this command may write and cannot be a query";
pub(super) const REPLY_TOO_LARGE: Text = "ERR reply too large";
pub(super) const TOO_MUCH_WORK: Text =
    "ERR too much work for one step of the cluster: name fewer keys or smaller values";
pub(super) const TOO_MANY_KEYS: Text =
    "ERR KEYS would look at more keys than one step of the cluster may; use SCAN";
pub(super) const PATTERN_TOO_SLOW: Text =
    "ERR the pattern takes more steps than one step of the cluster may";
pub(super) const TRANSACTION_TOO_LARGE: Text = "ERR transaction too large for one reply";

/// The bytes of [`REPLY_TOO_LARGE`] on the wire.
pub(super) const TOO_LARGE_SIZE: usize = REPLY_TOO_LARGE.len() + 3;

/// No reply of a command that returns no value of a key is larger: the largest are INCRBYFLOAT's
/// numbers of 309 digits.
pub(super) const SMALL: usize = 400;

/// How much of a client's own words an error repeats.
const ECHO_MAX: usize = 128;
/// Room that a list keeps free for its head until its length is known.
const LIST_HEAD: usize = 64;

/// Writes one command's reply.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    bytes: &'a mut [u8],
    used: usize,
    limit: usize,
    overflow: bool,
}

impl<'a> Reply<'a> {
    pub(super) const fn new(bytes: &'a mut [u8]) -> Self {
        let limit = bytes.len();
        Self {
            bytes,
            used: 0,
            limit,
            overflow: false,
        }
    }

    pub(super) const fn used(&self) -> usize {
        self.used
    }

    pub(super) const fn room(&self) -> usize {
        self.limit - self.used
    }

    pub(super) const fn overflowed(&self) -> bool {
        self.overflow
    }

    /// Goes back to where `used` bytes were written.
    pub(super) const fn rewind(&mut self, used: usize) {
        self.used = used;
        self.overflow = false;
    }

    /// Keeps the last `reserve` bytes of the buffer free from here on.
    pub(super) fn keep_free(&mut self, reserve: usize) {
        self.limit = self.bytes.len().saturating_sub(reserve).max(self.used);
    }

    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if end > self.limit || self.overflow {
            self.overflow = true;
            return;
        }
        self.bytes[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    pub(super) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    pub(super) fn simple(&mut self, text: &str) {
        self.raw(b"+");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    pub(super) fn error(&mut self, text: Text) {
        self.raw(b"-");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// An error made of our words around the client's.
    pub(super) fn error_about(&mut self, before: &str, word: &[u8], after: &str) {
        self.raw(b"-");
        self.raw(before.as_bytes());
        for byte in &word[..word.len().min(ECHO_MAX)] {
            // A line break would end the error early.
            self.raw(&[if matches!(byte, b'\r' | b'\n') {
                b' '
            } else {
                *byte
            }]);
        }
        self.raw(after.as_bytes());
        self.raw(b"\r\n");
    }

    pub(super) fn null(&mut self) {
        self.raw(b"_\r\n");
    }

    #[inline]
    pub(super) fn integer(&mut self, value: i64) {
        self.headed(b':', value);
    }

    pub(super) fn count(&mut self, value: u64) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(super) fn array(&mut self, size: usize) {
        self.headed(b'*', size as i64);
    }

    #[inline]
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.headed(b'$', bytes.len() as i64);
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    #[inline]
    fn headed(&mut self, kind: u8, value: i64) {
        let mut text = [0; 24];
        let mut digits = [0; super::number::INTEGER_SIZE_MAX];
        let number = super::number::format_integer(value, &mut digits);
        text[0] = kind;
        text[1..=number.len()].copy_from_slice(number);
        text[number.len() + 1] = b'\r';
        text[number.len() + 2] = b'\n';
        self.raw(&text[..number.len() + 3]);
    }

    /// Begins a list whose length is not known yet; returns what [`Self::end_list`] wants.
    pub(super) fn begin_list(&mut self) -> usize {
        let start = self.used;
        self.raw(&[0; LIST_HEAD]);
        start
    }

    /// Ends it: `count` bulk strings were written. With a cursor it is a SCAN reply.
    pub(super) fn end_list(&mut self, start: usize, count: usize, cursor: Option<u64>) {
        if self.overflow {
            return;
        }
        let end = self.used;
        self.used = start;
        if let Some(cursor) = cursor {
            let mut digits = [0; 20];
            self.array(2);
            self.bulk(super::number::format_unsigned(cursor, &mut digits));
        }
        self.array(count);
        assert!(
            self.used <= start + LIST_HEAD,
            "a list's head fits into its room"
        );
        self.bytes.copy_within(start + LIST_HEAD..end, self.used);
        self.used += end - (start + LIST_HEAD);
    }
}
