//! Numbers as Redis reads and writes them.
//!
//! Integers are strict (no sign but `-`, no leading zero, no space), because a value is an integer
//! only if it would be written the same way. Floats are added in decimal with 17 places, which is
//! what Redis prints of its 80-bit numbers, but the same on every machine; outside of what 128 bits
//! hold the sum is that of 64-bit floats, whose addition IEEE 754 fixes and whose text Rust computes
//! without the processor's help.

/// The longest text of an `i64`.
pub(super) const INTEGER_SIZE_MAX: usize = 20;
/// The longest text that [`format_float`] writes.
pub(super) const FLOAT_SIZE_MAX: usize = 340;
/// Digits after the point.
const PLACES: u32 = 17;
const SCALE: i128 = 10_i128.pow(PLACES);
/// Beyond this the decimal form is left: ten times as much and sums still fit.
const DECIMAL_MAX: i128 = 10_i128.pow(20 + PLACES);

/// Reads an integer as `string2ll` does.
#[must_use]
#[inline]
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() < INTEGER_SIZE_MAX => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
    }
    if negative {
        0_i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// Reads a SCAN cursor as `strtoul` does, without its leniency about signs and spaces.
pub(super) fn parse_cursor(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes an integer at the end of `into` and returns its text.
#[inline]
pub(super) fn format_integer(value: i64, into: &mut [u8; INTEGER_SIZE_MAX]) -> &[u8] {
    let mut at = write_digits(value.unsigned_abs(), into);
    if value < 0 {
        at -= 1;
        into[at] = b'-';
    }
    &into[at..]
}

/// The same without a sign.
pub(super) fn format_unsigned(value: u64, into: &mut [u8; 20]) -> &[u8] {
    let at = write_digits(value, into);
    &into[at..]
}

#[inline]
fn write_digits(mut value: u64, into: &mut [u8; 20]) -> usize {
    let mut at = into.len();
    loop {
        at -= 1;
        into[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return at;
        }
    }
}

/// A number with a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Float {
    /// In units of 10^-17, exact.
    Decimal(i128),
    /// Too large or too small for that.
    Binary(f64),
}

impl Float {
    /// Reads a float; `None` when the text is none, or is not a number.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > 255 {
            return None;
        }
        if let Some(decimal) = parse_decimal(text) {
            return Some(Self::Decimal(decimal));
        }
        let text = std::str::from_utf8(text).ok()?;
        let value: f64 = text.parse().ok()?;
        // Redis takes "inf" as a number, but not digits that are too many for one.
        let too_large = value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
        (!value.is_nan() && !too_large).then_some(Self::Binary(value))
    }

    /// The sum, or `None` when it is no finite number.
    pub(super) fn add(self, other: Self) -> Option<Self> {
        if let (Self::Decimal(a), Self::Decimal(b)) = (self, other) {
            let sum = a + b;
            if sum.abs() <= DECIMAL_MAX {
                return Some(Self::Decimal(sum));
            }
        }
        let sum = self.binary() + other.binary();
        sum.is_finite().then_some(Self::Binary(sum))
    }

    fn binary(self) -> f64 {
        match self {
            Self::Decimal(value) => value as f64 / SCALE as f64,
            Self::Binary(value) => value,
        }
    }

    /// Writes it as Redis does for people: no exponent, no zeroes at the end.
    pub(super) fn format(self, into: &mut [u8; FLOAT_SIZE_MAX]) -> &[u8] {
        use std::io::Write as _;
        let mut cursor = std::io::Cursor::new(&mut into[..]);
        let written = match self {
            Self::Decimal(value) => {
                let sign = if value < 0 { "-" } else { "" };
                let value = value.unsigned_abs();
                let (whole, fraction) = (value / SCALE as u128, value % SCALE as u128);
                write!(cursor, "{sign}{whole}.{fraction:017}")
            }
            Self::Binary(value) => write!(cursor, "{value:.17}"),
        };
        written.expect("309 digits, a sign, a point and 17 places fit");
        let mut size = cursor.position() as usize;
        while into[size - 1] == b'0' {
            size -= 1;
        }
        if into[size - 1] == b'.' {
            size -= 1;
        }
        if &into[..size] == b"-0" {
            into[0] = b'0';
            size = 1;
        }
        &into[..size]
    }
}

/// Reads `[+-]digits[.digits]` with up to 20 digits before the point and 17 after it.
fn parse_decimal(text: &[u8]) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let count = whole.len() + fraction.len();
    if count == 0 || whole.len() > 20 || fraction.len() > PLACES as usize {
        return None;
    }
    let mut value: i128 = 0;
    for digit in whole.iter().chain(fraction) {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i128::from(digit - b'0');
    }
    value *= 10_i128.pow(PLACES - fraction.len() as u32);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_strictly_as_redis_does() {
        for value in [0, 1, -1, 10, i64::MAX, i64::MIN, 1_234_567_890_123] {
            let mut text = [0; INTEGER_SIZE_MAX];
            let text = format_integer(value, &mut text);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(parse_integer(text), Some(value));
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "1e3",
            "--1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn cursors_are_unsigned() {
        assert_eq!(parse_cursor(b"0"), Some(0));
        assert_eq!(parse_cursor(b"18446744073709551615"), Some(u64::MAX));
        for text in [&b""[..], b"-1", b"x", b"18446744073709551616", b"1 "] {
            assert_eq!(parse_cursor(text), None);
        }
    }

    fn sum(a: &str, b: &str) -> String {
        let a = Float::parse(a.as_bytes()).expect("a number");
        let b = Float::parse(b.as_bytes()).expect("a number");
        let mut text = [0; FLOAT_SIZE_MAX];
        let sum = a.add(b).expect("finite");
        String::from_utf8(sum.format(&mut text).to_vec()).expect("ASCII")
    }

    #[test]
    fn floats_are_added_in_decimal_and_written_for_people() {
        assert_eq!(sum("10.50", "0.1"), "10.6");
        assert_eq!(sum("0.1", "0.2"), "0.3");
        assert_eq!(sum("5.0e3", "200"), "5200");
        assert_eq!(sum("3", "-5.5"), "-2.5");
        assert_eq!(sum("1", "-1"), "0");
        assert_eq!(sum("-0.0", "0"), "0");
        assert_eq!(sum("1.23456789", "0"), "1.23456789");
        assert_eq!(sum("100000000000000000000", "1"), "100000000000000000000");
        assert_eq!(sum(".5", "+2."), "2.5");
        assert_eq!(sum("1e300", "1").len(), 301);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", "abc", " 1", "1 ", "nan", "1.2.3", "--1", "1e", ".", "1e400",
        ] {
            assert_eq!(Float::parse(text.as_bytes()), None, "{text}");
        }
        let infinite = Float::parse(b"inf").expect("a number, if not a finite one");
        assert_eq!(infinite.add(Float::Decimal(0)), None);
        let large = Float::parse(b"1.7e308").expect("a number");
        assert_eq!(large.add(large), None);
    }
}
